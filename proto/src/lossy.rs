//! Channels that may leave items out: what the extensions of a call, an item and an end say of them (SPEC.md, "Channels
//! that leave items out").
//!
//! It owns the two forms. Which items are left out is for whoever sends them to decide.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::metadata::{Call, ChannelDeclaration, End, Extensions, Item};
use crate::registry::{Direction, Overflow, tags};

/// Bytes of one channel in the extension `overflow`.
const ENTRY: usize = size_of::<u32>() + size_of::<u8>();

impl Call {
    /// What the channel of this index does whose receiver takes less than its sender has; `block` where the call doesn't
    /// say, or says it in another form than SPEC.md gives.
    #[must_use]
    pub fn overflow_of(&self, index: u32) -> Overflow {
        overflow_of(&self.extensions, &self.channels, index)
    }
}

impl Item {
    /// How many items were left out right before this one.
    #[must_use]
    pub fn lagged(&self) -> u64 {
        lagged(&self.extensions)
    }
}

impl End {
    /// How many items were left out since the last one.
    #[must_use]
    pub fn lagged(&self) -> u64 {
        lagged(&self.extensions)
    }
}

impl Extensions {
    /// Says of a call which of its channels may leave items out. Those that block need not be named.
    pub fn set_overflows(&mut self, channels: impl IntoIterator<Item = (u32, Overflow)>) {
        let mut value = BytesMut::new();
        for (index, overflow) in channels {
            value.put_u32_le(index);
            value.put_u8(overflow.as_u8());
        }
        if !value.is_empty() {
            self.insert(tags::OVERFLOW, value.freeze());
        }
    }

    /// Says of an item or an end how many items were left out before it.
    pub fn set_lagged(&mut self, items: u64) {
        if items > 0 {
            self.insert(tags::LAGGED, Bytes::copy_from_slice(&items.to_le_bytes()));
        }
    }
}

/// The same for a call that is not a record yet.
#[must_use]
pub fn overflow_of(extensions: &Extensions, declared: &[ChannelDeclaration], index: u32) -> Overflow {
    let Some(value) = extensions.find(tags::OVERFLOW) else { return Overflow::Block };
    let entries = read(value).filter(|entries| are_sound(entries, declared)).unwrap_or_default();
    let is_down = |channel: &&ChannelDeclaration| channel.direction == Direction::Down;
    let is_meant = declared.iter().filter(is_down).any(|channel| channel.index == index);
    let entry = entries.into_iter().find(|(named, _)| is_meant && *named == index);
    entry.map_or(Overflow::Block, |(_, overflow)| overflow)
}

fn read(value: &Bytes) -> Option<Vec<(u32, Overflow)>> {
    let (entries, rest) = value.as_chunks::<ENTRY>();
    let entry = |mut entry: &[u8]| Some((entry.get_u32_le(), Overflow::from_u8(entry.get_u8())?));
    rest.is_empty().then(|| entries.iter().map(|bytes| entry(bytes)).collect())?
}

/// Whether each entry names another channel that the call declares. Both are few.
fn are_sound(entries: &[(u32, Overflow)], declared: &[ChannelDeclaration]) -> bool {
    let is_declared = |index: u32| declared.iter().any(|channel| channel.index == index);
    // More entries than channels name one twice, or one that isn't there: they are not compared with each other.
    entries.len() <= declared.len()
        && entries.iter().enumerate().all(|(at, (index, _))| {
            is_declared(*index) && entries[..at].iter().all(|(earlier, _)| earlier != index)
        })
}

fn lagged(extensions: &Extensions) -> u64 {
    let value = extensions.find(tags::LAGGED).and_then(|value| value.as_ref().try_into().ok());
    value.map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(value: Option<&[u8]>) -> Call {
        let channel = |index, direction| ChannelDeclaration { index, direction, credit: 1 };
        let channels =
            vec![channel(1, Direction::Down), channel(2, Direction::Up), channel(7, Direction::Down)];
        let mut call = Call { channels, ..Call::default() };
        if let Some(value) = value {
            call.extensions.insert(tags::OVERFLOW, Bytes::copy_from_slice(value));
        }
        call
    }

    fn overflows(call: &Call) -> [Overflow; 3] {
        [1, 2, 7].map(|index| call.overflow_of(index))
    }

    #[test]
    fn channels_have_the_overflow_that_the_call_gives_them() {
        let mut said = call(None);
        assert_eq!(overflows(&said), [Overflow::Block; 3]);
        said.extensions.set_overflows([]);
        assert_eq!(said, call(None), "nothing is said where there is nothing to say");
        said.extensions.set_overflows([(7, Overflow::Latest), (1, Overflow::DropOldest)]);
        assert_eq!(overflows(&said), [Overflow::DropOldest, Overflow::Block, Overflow::Latest]);
        assert_eq!(said.overflow_of(3), Overflow::Block);
        said.extensions.set_overflows([(2, Overflow::Latest)]);
        assert_eq!(overflows(&said), [Overflow::Block; 3], "the called sends nothing on channel 2");
    }

    #[test]
    fn what_is_ill_formed_says_nothing() {
        let ill_formed: [&[u8]; 7] = [
            &[],
            &[1, 0, 0, 0],
            &[1, 0, 0, 0, 3],
            &[1, 0, 0, 0, 2, 7],
            &[1, 0, 0, 0, 2, 1, 0, 0, 0, 2],
            &[1, 0, 0, 0, 2, 3, 0, 0, 0, 2],
            &[1, 0, 0, 0, 2].repeat(4),
        ];
        for value in ill_formed {
            assert_eq!(overflows(&call(Some(value))), [Overflow::Block; 3], "{value:?}");
        }
        assert_eq!(call(Some(&[1, 0, 0, 0, 2])).overflow_of(1), Overflow::Latest);
    }

    #[test]
    fn what_was_left_out_is_said_by_items_and_ends() {
        let (mut item, mut end) = (Item::default(), End::default());
        item.extensions.set_lagged(0);
        assert_eq!((&item, item.lagged()), (&Item::default(), 0));
        item.extensions.set_lagged(u64::MAX);
        end.extensions.set_lagged(3);
        assert_eq!((item.lagged(), end.lagged()), (u64::MAX, 3));
        for value in [&[][..], &[1; 7], &[1; 9]] {
            item.extensions.insert(tags::LAGGED, Bytes::copy_from_slice(value));
            assert_eq!(item.lagged(), 0, "{value:?}");
        }
    }
}
