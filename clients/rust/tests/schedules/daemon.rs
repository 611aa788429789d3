//! A daemon in a thread of the schedule: it answers each call with its body, in any order, and sends on channels.

use std::time::Instant;

use bytes::Bytes;
use invoked_proto::body::{Assembly, Body, Message};
use invoked_proto::connection::{Connection, Event, More, Sent, Settings};
use invoked_proto::metadata::{Failure, Welcome};
use invoked_proto::registry::{Delivery, Direction, ErrorCode, LIMITS, features};
use invoked_proto::testing::output;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use crate::socket::Far;

/// Items that it sends on each channel.
pub(crate) const ITEMS: usize = 3;

/// Calls that have come when `a.last` is answered.
const LAST_WAITS_FOR: usize = 4;

/// What a daemon saw.
#[derive(Debug, Default)]
pub(crate) struct Saw {
    pub(crate) calls: usize,
    pub(crate) cancels: usize,
    pub(crate) stops: usize,
    /// Lengths of items that came.
    pub(crate) items: Vec<usize>,
    /// Ends of channels on which the client sends.
    pub(crate) ends: Vec<Option<ErrorCode>>,
}

struct Daemon {
    far: Far,
    connection: Connection<()>,
    growing: Vec<(u64, Assembly)>,
    answers: Vec<(u64, Message)>,
    /// The call of `a.last`, which is answered once others have come.
    last: Option<u64>,
    /// Channels on which it sends, and how many items it still has.
    sends: Vec<(u64, u32, usize)>,
    saw: Saw,
}

/// Serves until the client is gone, or it has answered `lives` calls. At most `slots` may be open.
pub(crate) fn serve(far: Far, slots: u64, lives: usize) -> Saw {
    let settings = Settings { features: features::CHANNELS, ..Settings::default() };
    let mut daemon = Daemon {
        far,
        connection: Connection::daemon(settings, Instant::now()),
        growing: Vec::new(),
        answers: Vec::new(),
        last: None,
        sends: Vec::new(),
        saw: Saw::default(),
    };
    let mut answered = 0;
    while answered < lives
        && let Some(bytes) = daemon.far.read()
    {
        let is_idle = bytes.is_empty();
        daemon.connection.handle_input(Instant::now(), bytes, []).unwrap();
        while let Some(event) = daemon.connection.poll_event() {
            daemon.connection.release(event.payload_len());
            daemon.handle(event, slots);
        }
        // Some answers are late, and not in the order of their calls.
        if !daemon.answers.is_empty() && thread_rng().gen_range(0..2) == 0 {
            let at = thread_rng().gen_range(0..daemon.answers.len());
            if daemon.last != Some(daemon.answers[at].0) || daemon.saw.calls >= LAST_WAITS_FOR {
                let (stream, message) = daemon.answers.swap_remove(at);
                daemon.connection.reply(stream, Vec::new(), message).unwrap();
                answered += 1;
            }
        }
        daemon.send();
        let out = output(&mut daemon.connection);
        daemon.far.write(&out);
        if is_idle && out.is_empty() {
            thread::yield_now();
        }
    }
    daemon.far.close();
    daemon.saw
}

impl Daemon {
    fn handle(&mut self, event: Event<()>, slots: u64) {
        match event {
            Event::Greeted(_) => {
                let id = LIMITS.iter().find(|limit| limit.name == "open_calls").unwrap().id.unwrap();
                let welcome = Welcome { limits: vec![(id, slots)], ..Welcome::default() };
                self.connection.welcome(&welcome).unwrap();
            }
            Event::Called { stream, call, payload, more, .. } => {
                self.saw.calls += 1;
                if call.command.as_str() == "a.last" {
                    self.last = Some(stream);
                }
                let down = call.channels.iter().filter(|channel| channel.direction == Direction::Down);
                self.sends.extend(down.map(|channel| (stream, channel.index, ITEMS)));
                self.growing.push((stream, Assembly::begin(call.parts, payload).unwrap()));
                self.advance(stream, more);
            }
            Event::Continued { stream, payload, more } => {
                let growing = self.growing.iter_mut().find(|(of, _)| *of == stream);
                growing.unwrap().1.push(&payload).unwrap();
                self.advance(stream, more);
            }
            Event::Cancelled { stream } => {
                self.saw.cancels += 1;
                self.answers.retain(|(of, _)| *of != stream);
                self.growing.retain(|(of, _)| *of != stream);
                self.sends.retain(|(of, ..)| *of != stream);
                let failure = Failure::framework(ErrorCode::Cancelled, "", Delivery::Delivered);
                self.connection.fail_call(stream, ErrorCode::Cancelled, failure, Message::default()).unwrap();
            }
            Event::ChannelStopped { stream, channel } => {
                self.saw.stops += 1;
                self.sends.retain(|(of, index, _)| (*of, *index) != (stream, channel));
            }
            Event::ItemCame { stream, channel, payload, more, credit, .. } => {
                assert_eq!(more, More::Whole, "small items");
                self.saw.items.push(payload.len());
                self.connection.give_credit(stream, channel, credit);
            }
            Event::ChannelEnded { code, .. } => self.saw.ends.push(code),
            Event::ChannelCredited { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn advance(&mut self, stream: u64, more: More) {
        if more == More::Whole {
            let at = self.growing.iter().position(|(of, _)| *of == stream).unwrap();
            self.answers.push((stream, self.growing.swap_remove(at).1.finish().unwrap()));
        }
    }

    /// An item on each channel, or its end.
    fn send(&mut self) {
        let connection = &mut self.connection;
        self.sends.retain_mut(|(stream, channel, left)| {
            if *left == 0 {
                connection.end_channel(*stream, *channel, None, "");
                return false;
            }
            let item = Message::from(Body::Raw(Bytes::from(vec![7; *left])));
            match connection.send_item(*stream, *channel, item).unwrap() {
                Sent::Queued => *left -= 1,
                Sent::NeedsCredit(_) => {}
                Sent::Ended => return false,
            }
            true
        });
    }
}
