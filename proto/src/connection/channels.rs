//! Channels in both directions: declared by a call, sent on, stopped, ended (SPEC.md, "Channels" and "Flow control").
//!
//! Whoever owns a connection learns of each end once: of a channel that it receives on by
//! [`Event::ChannelEnded`], of one that it sends on by [`Event::ChannelStopped`], unless it ended the channel itself, or
//! answered the call with an error. The loss of the connection ends all without an event.

use foldhash::{HashMap, HashMapExt};

use super::flow::{Window, surcharge};
use super::lanes::put_back;
use super::send::{ChannelKey, Offered, Offering, Pressing};
use super::{Connection, Event, Placement, Role, State};
use crate::body::{Message, held_len};
use crate::decoder::Frame;
use crate::error::{MisuseError, PeerError};
use crate::metadata::{ChannelDeclaration, Credit, End, Item};
use crate::registry::{Direction, ErrorCode, FrameKind, features, flags, limits};
use crate::text::Text;

/// The most text of an end: it is for people, and waits for the slowest of them.
const END_MESSAGE_MAX: usize = 1024;

/// The channels of all streams.
#[derive(Debug)]
pub(super) struct Channels {
    streams: HashMap<u64, Vec<Channel>>,
    open: usize,
}

#[derive(Debug)]
struct Channel {
    index: u32,
    half: Half,
}

#[derive(Debug)]
enum Half {
    /// What waits to be sent is in the send queue.
    Sending,
    Receiving(Receiving),
    Ended,
}

#[derive(Debug)]
struct Receiving {
    window: Window,
    /// Bytes of the item that is on its way still to come.
    remaining: u64,
    /// Nobody wants what comes: it is dropped.
    unwanted: bool,
    /// The owner was told of the end, though END has not come.
    told: bool,
}

/// Which of its sides a stream's opener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opener {
    Us,
    Peer,
}

/// What became of an item.
#[derive(Debug)]
pub enum Sent {
    /// It is queued.
    Queued,
    /// The receiver's credit is used up, or enough waits for the peer already: here it is back.
    /// [`Event::ChannelCredited`] tells when to try again.
    NeedsCredit(Message),
    /// The channel has ended, and nothing more can be sent on it.
    Ended,
}

impl Channels {
    pub(super) fn new() -> Self {
        Channels { streams: HashMap::new(), open: 0 }
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub(super) fn has(&self, stream: u64) -> bool {
        self.streams.contains_key(&stream)
    }

    pub(super) fn clear(&mut self) {
        self.streams.clear();
        self.open = 0;
    }

    fn half(&mut self, (stream, index): ChannelKey) -> Option<&mut Half> {
        let channels = self.streams.get_mut(&stream)?;
        channels.iter_mut().find(|channel| channel.index == index).map(|channel| &mut channel.half)
    }

    fn receiving(&mut self, key: ChannelKey) -> Option<&mut Receiving> {
        match self.half(key)? {
            Half::Receiving(receiving) => Some(receiving),
            Half::Sending | Half::Ended => None,
        }
    }

    fn sending(&self, stream: u64) -> Vec<u32> {
        let all = self.streams.get(&stream).into_iter().flatten();
        all.filter(|channel| matches!(channel.half, Half::Sending)).map(|channel| channel.index).collect()
    }

    /// Notes that a channel has ended.
    fn end(&mut self, key: ChannelKey) {
        if let Some(half) = self.half(key)
            && !matches!(half, Half::Ended)
        {
            *half = Half::Ended;
            self.open -= 1;
        }
    }

    fn are_ended(&self, stream: u64) -> bool {
        let all = self.streams.get(&stream);
        all.is_some_and(|all| all.iter().all(|channel| matches!(channel.half, Half::Ended)))
    }
}

impl<A> Connection<A> {
    /// Sends an item on a channel. Items arrive in order.
    ///
    /// An item goes out as far as the receiver's credit reaches and the rest of it as more comes, so one may be larger
    /// than any window.
    ///
    /// # Errors
    /// [`MisuseError::NotAChannel`] if the stream has no such channel, or it goes the other way; `MessageTooLarge` and
    /// `Record` if the item can not be sent. The channel stays open.
    pub fn send_item(&mut self, stream: u64, channel: u32, message: Message) -> Result<Sent, MisuseError> {
        self.send_item_as(stream, channel, message, Pressing::Queues, &Placement::default())
    }

    /// Sends an item on a channel, with some of its parts in segments: of a channel that may leave items out if `lagged` is
    /// given, as [`send_lossy_item`](Self::send_lossy_item) does, else as [`send_item`](Self::send_item).
    ///
    /// # Errors
    /// As these; [`MisuseError::NoLane`] and [`MisuseError::NotPlaced`] for parts that can't go where they were put.
    pub fn send_item_placed(
        &mut self,
        stream: u64,
        channel: u32,
        lagged: Option<u64>,
        message: Message,
        placement: &Placement<A>,
    ) -> Result<Sent, MisuseError> {
        let pressing = lagged.map_or(Pressing::Queues, |lagged| Pressing::Covered { lagged });
        self.send_item_as(stream, channel, message, pressing, placement)
    }

    /// Sends an item on a channel that may leave items out: `lagged` were left out since the last that was queued.
    ///
    /// It is queued only if the receiver's credit covers it, or nothing else of the channel waits; so what the receiver
    /// takes late is decided by whoever has the items, when it takes them.
    ///
    /// # Errors
    /// As [`send_item`](Self::send_item).
    pub fn send_lossy_item(
        &mut self,
        stream: u64,
        channel: u32,
        lagged: u64,
        message: Message,
    ) -> Result<Sent, MisuseError> {
        self.send_item_as(stream, channel, message, Pressing::Covered { lagged }, &Placement::default())
    }

    fn send_item_as(
        &mut self,
        stream: u64,
        channel: u32,
        mut message: Message,
        pressing: Pressing,
        placement: &Placement<A>,
    ) -> Result<Sent, MisuseError> {
        self.check_message(&message)?;
        let key = (stream, channel);
        let has_ended = self.state == State::Closed || !self.channels.has(stream);
        match self.channels.half(key) {
            Some(Half::Sending) => {}
            Some(Half::Ended) => return Ok(Sent::Ended),
            None if has_ended => return Ok(Sent::Ended),
            None | Some(Half::Receiving(_)) => return Err(MisuseError::NotAChannel { stream, channel }),
        }
        let (parts, lent) = self.place(&mut message, placement)?;
        Ok(match self.send.offer(key, Offering { message, parts, lent }, pressing)? {
            Offered::Taken => Sent::Queued,
            Offered::Later(Offering { mut message, parts, lent }) => {
                put_back(&mut message, &parts, lent);
                Sent::NeedsCredit(message)
            }
            Offered::Ended => Sent::Ended,
        })
    }

    /// Ends a channel that we send on, after the items that wait; without a `code` it ends well. False if it had ended. A
    /// text above 1 KiB is cut.
    pub fn end_channel(&mut self, stream: u64, channel: u32, code: Option<ErrorCode>, message: &str) -> bool {
        self.end_lossy_channel(stream, channel, code, message, 0)
    }

    /// The same for a channel of which `lagged` items were left out since the last that was queued.
    pub fn end_lossy_channel(
        &mut self,
        stream: u64,
        channel: u32,
        code: Option<ErrorCode>,
        message: &str,
        lagged: u64,
    ) -> bool {
        let key = (stream, channel);
        if !matches!(self.channels.half(key), Some(Half::Sending)) {
            return false;
        }
        let is_open = self.send.is_open(key);
        if is_open {
            let mut end = end_of(code, message);
            end.extensions.set_lagged(lagged);
            self.send.end_channel(key, &end);
        }
        is_open
    }

    /// Ends a channel that we send on at once: items that wait are dropped, the one on its way too. False if it had ended.
    pub fn cut_channel(&mut self, stream: u64, channel: u32, code: ErrorCode, message: &str) -> bool {
        let key = (stream, channel);
        let is_open = self.send.is_open(key);
        if is_open {
            self.send.cut_channel(key, &end_of(Some(code), message));
        }
        is_open
    }

    /// Asks the sender of a channel for its end. What still comes is dropped; [`Event::ChannelEnded`] follows.
    pub fn stop_channel(&mut self, stream: u64, channel: u32) {
        if let Some(receiving) = self.channels.receiving((stream, channel))
            && !receiving.unwanted
        {
            receiving.unwanted = true;
            // It must not overtake the call, which declares the channel.
            if self.has_begun(stream) {
                self.send.control::<Item>(FrameKind::Stop, stream, channel, None);
            }
        }
    }

    /// A call of ours went out: what its channels had to say may follow.
    pub(super) fn begin_channels(&mut self, stream: u64) {
        for channel in self.channels.streams.get(&stream).into_iter().flatten() {
            if matches!(channel.half, Half::Receiving(Receiving { unwanted: true, .. })) {
                self.send.control::<Item>(FrameKind::Stop, stream, channel.index, None);
            }
            self.send.begin_channel((stream, channel.index));
        }
    }

    /// Gives credit back to the sender of a channel: the `credit` of events of items that are consumed.
    pub fn give_credit(&mut self, stream: u64, channel: u32, bytes: u64) {
        if let Some(receiving) = self.channels.receiving((stream, channel))
            && !receiving.unwanted
            && let Some(said) = receiving.window.give_back(bytes)
        {
            self.say_credit(stream, channel, said);
        }
    }

    /// Gives credit of the connection back to the peer: `bytes` of payload that events brought have left the owner's
    /// queue. Without channels in force it does nothing.
    pub fn release(&mut self, bytes: usize) {
        if bytes > 0
            && self.has_channels()
            && self.state != State::Closed
            && let Some(said) = self.window.give_back(bytes as u64)
        {
            self.say_credit(0, 0, said);
        }
    }

    /// Channels that are open, in both directions.
    #[must_use]
    pub fn open_channels(&self) -> usize {
        self.channels.open()
    }

    /// Whether both sides have channels, and with them credit.
    #[must_use]
    pub fn has_channels(&self) -> bool {
        self.features() & features::CHANNELS != 0
    }

    /// The channels of a stream on which this side sends.
    pub(super) fn sending_channels(&self, stream: u64) -> Vec<u32> {
        self.channels.sending(stream)
    }

    /// What of passed credit is to be said now.
    pub(super) fn pass_to_window(&mut self, key: ChannelKey, bytes: u64) -> Option<u64> {
        let receiving = self.channels.receiving(key).filter(|receiving| !receiving.unwanted)?;
        receiving.window.pass_on(bytes)
    }

    pub(super) fn say_credit(&mut self, stream: u64, channel: u32, bytes: u64) {
        let record = Credit { bytes, ..Credit::default() };
        self.send.control(FrameKind::Credit, stream, channel, Some(&record));
    }

    /// Credit is in force from the first byte on once both prefaces are known.
    pub(super) fn begin_credit(&mut self) {
        if self.has_channels() {
            self.send.enforce_credit();
        }
    }

    /// The windows that WELCOME announces in place of the defaults.
    pub(super) fn take_connection_window(&mut self, bytes: u64) {
        let before = limits::CONNECTION_WINDOW as u64;
        self.send.credit_mut().restart(before, bytes);
        self.window.restart(bytes);
    }

    /// Checks what a call wants to declare.
    pub(super) fn check_channels(&self, channels: &[ChannelDeclaration]) -> Result<(), MisuseError> {
        if channels.is_empty() {
            Ok(())
        } else if self.state == State::Opening {
            Err(MisuseError::TooEarly)
        } else if !self.has_channels() {
            Err(MisuseError::NoChannels)
        } else if self.channels.open + channels.len() > self.remote.open_channels {
            Err(MisuseError::TooManyChannels)
        } else {
            Ok(())
        }
    }

    /// Whether the peer may open so many more.
    pub(super) fn has_room_for_channels(&self, more: usize) -> bool {
        self.channels.open + more <= self.settings.open_channels
    }

    /// Opens the channels that a call declares.
    pub(super) fn open_channels_of(&mut self, stream: u64, declared: &[ChannelDeclaration], opener: Opener) {
        if declared.is_empty() {
            return;
        }
        let mut channels = Vec::with_capacity(declared.len());
        for declaration in declared {
            let key = (stream, declaration.index);
            let half = match (declaration.direction, opener) {
                (Direction::Down, Opener::Us) => Half::receiving(declaration.credit),
                (Direction::Up, Opener::Peer) => Half::receiving(self.window_of_daemon()),
                (Direction::Down, Opener::Peer) => {
                    self.send.open_channel(key, declaration.credit, true);
                    Half::Sending
                }
                (Direction::Up, Opener::Us) => {
                    self.send.open_channel(key, self.window_of_daemon(), false);
                    Half::Sending
                }
            };
            channels.push(Channel { index: declaration.index, half });
        }
        self.channels.open += channels.len();
        self.channels.streams.insert(stream, channels);
    }

    /// The credit with which a channel to the called starts, whichever side that is: what the daemon announced.
    fn window_of_daemon(&self) -> u64 {
        match self.role {
            Role::Daemon => self.settings.channel_window,
            Role::Client => self.remote.channel_window,
        }
    }

    /// Drops the channels of a stream without a word.
    pub(super) fn drop_channels(&mut self, stream: u64) {
        for channel in self.channels.streams.remove(&stream).unwrap_or_default() {
            self.send.drop_channel((stream, channel.index));
            self.channels.open -= usize::from(!matches!(channel.half, Half::Ended));
        }
    }

    /// An error has ended a call of ours, and its channels with it.
    pub(super) fn fail_channels(&mut self, stream: u64, code: ErrorCode, message: &Text) {
        let Some(channels) = self.channels.streams.get(&stream) else { return };
        for Channel { index: channel, half } in channels {
            let channel = *channel;
            match half {
                Half::Receiving(Receiving { told: false, .. }) => {
                    let (code, message) = (Some(code), message.clone());
                    self.events.push_back(Event::ChannelEnded { stream, channel, code, message, lagged: 0 });
                }
                Half::Sending if self.send.is_open((stream, channel)) => {
                    self.events.push_back(Event::ChannelStopped { stream, channel });
                }
                Half::Receiving(_) | Half::Sending | Half::Ended => {}
            }
        }
        self.drop_channels(stream);
    }

    /// Asks for the end of every channel of a call of ours that has ended: we want none of its items, and send none.
    pub(super) fn stop_channels(&mut self, stream: u64) -> bool {
        let mut asked = false;
        let channels = self.channels.streams.get(&stream).into_iter().flatten();
        let all: Vec<u32> = channels.map(|channel| channel.index).collect();
        for channel in all {
            let receives = self.channels.receiving((stream, channel)).is_some_and(|half| !half.unwanted);
            if receives {
                self.stop_channel(stream, channel);
            }
            asked |= receives || self.cut_channel(stream, channel, ErrorCode::Cancelled, "");
        }
        asked
    }

    /// The caller wants none of the items that we send.
    pub(super) fn handle_stop_of_all(&mut self, stream: u64) {
        for channel in self.channels.sending(stream) {
            self.stopped(stream, channel);
        }
    }

    /// Forgets a stream whose call and channels have ended.
    pub(super) fn settle_stream(&mut self, stream: u64) {
        if !self.is_call_open(stream) && self.channels.are_ended(stream) {
            self.channels.streams.remove(&stream);
        }
    }

    /// Notes what the last transmit brought to an end, and whom it made room for.
    pub(super) fn settle_channels(&mut self) {
        if self.channels.is_empty() {
            return;
        }
        let closed: Vec<ChannelKey> = self.send.drain_closed().collect();
        for key in closed {
            self.channels.end(key);
            self.settle_stream(key.0);
        }
        self.tell_resumed();
    }

    fn tell_resumed(&mut self) {
        let events = &mut self.events;
        self.send.drain_resumed(|(stream, channel)| {
            events.push_back(Event::ChannelCredited { stream, channel });
        });
    }

    /// Takes payload of the connection's window.
    pub(super) fn count_payload(&mut self, kind: FrameKind, payload: usize) -> Result<(), PeerError> {
        let counts = matches!(kind, FrameKind::Call | FrameKind::Data | FrameKind::Result | FrameKind::Error);
        if counts && payload > 0 && self.has_channels() {
            self.window.take(payload as u64, 0)?;
        }
        Ok(())
    }

    /// For a frame of a channel: true if it comes late, and is dropped. Else the channel is there, open or ended.
    fn is_late(&mut self, (stream, channel): ChannelKey) -> Result<bool, PeerError> {
        if self.channels.half((stream, channel)).is_some() {
            return Ok(false);
        }
        // Where the call is answered and nothing of its channels is left, an error has ended them.
        let late = !self.channels.has(stream) && !self.is_call_open(stream);
        if late && self.is_known(stream) {
            Ok(true)
        } else if self.is_known(stream) {
            Err(PeerError::UnknownChannel { stream, channel })
        } else {
            Err(PeerError::UnknownStream(stream))
        }
    }

    /// A DATA frame of a channel.
    pub(super) fn handle_item(&mut self, frame: Frame<A>) -> Result<(), PeerError> {
        let key @ (stream, channel) = (frame.header.stream, frame.header.arg);
        if frame.header.has(flags::END) {
            return self.handle_end(key, &frame);
        }
        let continues = frame.header.has(flags::CONT);
        let item: Option<Item> = if continues { None } else { Some(self.record(FrameKind::Data, &frame)?) };
        if self.is_late(key)? {
            return self.drop_item(item.as_ref(), &frame);
        }
        let total = match &item {
            Some(item) => self.check_item(item, &frame)?,
            None => 0,
        };
        let max = self.settings.max_message;
        let Some(receiving) = self.channels.receiving(key) else {
            return Err(PeerError::Unexpected(FrameKind::Data));
        };
        let payload = frame.payload.len() as u64;
        let surcharge = if continues { 0 } else { surcharge(total) };
        receiving.advance(payload, total, continues, frame.header.has(flags::MORE))?;
        receiving.window.take(payload, surcharge)?;
        let held = item.as_ref().map_or(Some(total), |item| held_len(&item.parts));
        let held = held.ok_or(PeerError::MessageLength)?;
        if held > max && !receiving.unwanted {
            self.release_item(item.as_ref());
            return self.refuse_item(key, held, max);
        }
        if receiving.unwanted {
            self.release_item(item.as_ref());
            return Ok(());
        }
        let more = super::calls::more(receiving.remaining);
        // An item that does not fit the window is credited as it comes, so that it can't block itself.
        let is_larger = receiving.remaining > receiving.window.left();
        let credit = if is_larger { 0 } else { payload + surcharge };
        let said = if is_larger { receiving.window.give_back(payload + surcharge) } else { None };
        let Frame { payload, fds, .. } = frame;
        self.delivered += payload.len();
        self.events.push_back(match item {
            Some(item) => Event::ItemCame { stream, channel, item, payload, more, credit, fds },
            None => Event::ItemContinued { stream, channel, payload, more, credit },
        });
        if let Some(said) = said {
            self.say_credit(stream, channel, said);
        }
        Ok(())
    }

    /// An item is above our limit: the channel has ended for its owner, and is stopped.
    fn refuse_item(
        &mut self,
        key @ (stream, channel): ChannelKey,
        total: u64,
        max: u64,
    ) -> Result<(), PeerError> {
        self.stop_channel(stream, channel);
        if let Some(receiving) = self.channels.receiving(key) {
            receiving.told = true;
        }
        let message = Text::from(format!("item of {total} bytes is above the limit of {max}"));
        let code = Some(ErrorCode::TooLarge);
        self.events.push_back(Event::ChannelEnded { stream, channel, code, message, lagged: 0 });
        Ok(())
    }

    fn handle_end(&mut self, key @ (stream, channel): ChannelKey, frame: &Frame<A>) -> Result<(), PeerError> {
        let end: End = self.record(FrameKind::Data, frame)?;
        if self.is_late(key)? {
            return Ok(());
        }
        let Some(receiving) = self.channels.receiving(key) else {
            return Err(PeerError::Unexpected(FrameKind::Data));
        };
        if end.code.is_none() && receiving.remaining > 0 {
            // A channel that ends well has no half items.
            return Err(PeerError::MessageLength);
        }
        let told = receiving.told;
        self.channels.end(key);
        self.settle_stream(stream);
        if !told {
            let code = end.code.map(|code| ErrorCode::from_u32(code).unwrap_or(ErrorCode::Unknown));
            let message = Text::from(super::calls::cut(&end.message, END_MESSAGE_MAX));
            let lagged = end.lagged();
            self.events.push_back(Event::ChannelEnded { stream, channel, code, message, lagged });
        }
        Ok(())
    }

    pub(super) fn handle_stop(&mut self, key @ (stream, channel): ChannelKey) -> Result<(), PeerError> {
        if self.is_late(key)? {
            return Ok(());
        }
        match self.channels.half(key) {
            Some(Half::Receiving(_)) => return Err(PeerError::Unexpected(FrameKind::Stop)),
            Some(Half::Sending) => self.stopped(stream, channel),
            Some(Half::Ended) | None => {}
        }
        Ok(())
    }

    fn stopped(&mut self, stream: u64, channel: u32) {
        if self.send.is_open((stream, channel)) {
            self.events.push_back(Event::ChannelStopped { stream, channel });
        }
        // Also where our own end is queued already: the items before it are not wanted any more.
        self.send.cut_channel((stream, channel), &end_of(Some(ErrorCode::Cancelled), ""));
    }

    pub(super) fn handle_credit(&mut self, frame: &Frame<A>) -> Result<(), PeerError> {
        let credit: Credit = self.record(FrameKind::Credit, frame)?;
        let key = (frame.header.stream, frame.header.arg);
        if key.0 == 0 {
            if key.1 != 0 {
                return Err(PeerError::UnknownChannel { stream: 0, channel: key.1 });
            }
            self.send.credit_mut().add(credit.bytes)?;
        } else if !self.is_late(key)? {
            if matches!(self.channels.half(key), Some(Half::Receiving(_))) {
                return Err(PeerError::Unexpected(FrameKind::Credit));
            }
            if let Some(bytes) = self.send.credit_channel(key, credit.bytes)? {
                self.events.push_back(Event::CreditCame { stream: key.0, channel: key.1, bytes });
            }
        }
        self.tell_resumed();
        Ok(())
    }
}

fn end_of(code: Option<ErrorCode>, message: &str) -> End {
    let message = Text::from(super::calls::cut(message, END_MESSAGE_MAX));
    End { code: code.map(ErrorCode::as_u32), message, ..End::default() }
}

impl Half {
    fn receiving(window: u64) -> Self {
        let window = Window::new(window);
        Half::Receiving(Receiving { window, remaining: 0, unwanted: false, told: false })
    }
}

impl Receiving {
    /// Holds a frame of an item against what was announced.
    fn advance(&mut self, payload: u64, total: u64, continues: bool, more: bool) -> Result<(), PeerError> {
        if !continues {
            if self.remaining > 0 {
                return Err(PeerError::MessageLength);
            }
            self.remaining = total - payload;
            return Ok(());
        }
        // An empty continuation would be a frame that costs the sender nothing and us a wake-up.
        let left = self.remaining.checked_sub(payload).filter(|_| payload > 0);
        self.remaining = left.ok_or(PeerError::MessageLength)?;
        if more == (self.remaining > 0) { Ok(()) } else { Err(PeerError::MessageLength) }
    }
}
