//! Names for calls: a slot, and a generation that changes each time the slot is used again.

/// Names a call while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CallId {
    slot: u32,
    generation: u32,
}

impl CallId {
    /// Not after any other.
    pub(super) const FIRST: CallId = CallId { slot: 0, generation: 0 };

    /// Not before any other.
    pub(super) const LAST: CallId = CallId { slot: u32::MAX, generation: u32::MAX };
}

/// Values by slot. A name that has ended finds nothing, also after its slot is used again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Slots { slots: Vec::new(), free: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Slots there are, those without a value included.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The name of what is in a slot.
    pub(super) fn at(&self, slot: usize) -> Option<CallId> {
        let Slot { generation, value } = self.slots.get(slot)?;
        value.as_ref()?;
        Some(CallId { slot: u32::try_from(slot).ok()?, generation: *generation })
    }

    pub(super) fn insert(&mut self, value: T) -> CallId {
        self.len += 1;
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.value = Some(value);
            return CallId { slot, generation: entry.generation };
        }
        let slot = u32::try_from(self.slots.len()).expect("quotas keep calls far below 2^32");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        CallId { slot, generation: 0 }
    }

    pub(super) fn find(&self, id: CallId) -> Option<&T> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.value.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn find_mut(&mut self, id: CallId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.value.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, id: CallId) -> Option<T> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.len -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_name_finds_nothing_though_its_slot_is_used_again() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_ne!(first, second);
        assert_eq!(slots.find(first), None);
        assert_eq!(slots.find_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!((slots.find(second), slots.len()), (Some(&'b'), 1));
    }
}
