//! Channels of calls that the daemon makes, both ways.

use invoked::ipc::{Body, Channel, ChannelReader, ErrorCode, RecvError};
use invoked::{Builder, command, generate_handler};
use invoked_proto::body::{Assembly, Message};
use invoked_proto::connection::{Event, Sent};
use invoked_proto::metadata::ChannelDeclaration;
use invoked_proto::registry::Direction;
use serde_json::json;

use crate::script::{Answer, CALLER, Place, Script};

#[command]
fn count_down(from: u32, on_number: Channel<u32>) -> invoked::Result<()> {
    (0..=from).rev().try_for_each(|number| on_number.send(number))
}

#[command]
fn add_up(mut numbers: ChannelReader<u64>) -> Result<u64, RecvError> {
    numbers.try_fold(0, |sum, number| Ok(sum + number?))
}

#[command]
fn flood(on_item: Channel<String>) -> String {
    let item = "x".repeat(10_000);
    loop {
        if let Err(error) = on_item.send(item.clone()) {
            return error.to_string();
        }
    }
}

fn serve(place: &Place) -> (invoked::provider::Provider, Script) {
    let commands = generate_handler![count_down, add_up, flood];
    place.serve(Builder::new("text").invoke_handler(commands))
}

fn channel(direction: Direction, credit: u64) -> Vec<ChannelDeclaration> {
    vec![ChannelDeclaration { index: 1, direction, credit }]
}

#[test]
fn items_of_a_command_come_in_order_and_its_channel_ends() {
    let place = Place::new();
    let (_provider, mut daemon) = serve(&place);
    daemon.grant("text.count_down");
    let args = Body::Json(json!({ "from": 1000, "onNumber": "__CHANNEL__:1" }).to_string().into());
    let stream = daemon.start("text.count_down", args, CALLER, channel(Direction::Down, 2048));
    let (mut items, mut ended, mut answered) = (Vec::new(), false, false);
    while !(ended && answered) {
        match daemon.next().expect("more") {
            Event::ItemCame { channel, item, payload, credit, .. } => {
                let message = Assembly::begin(item.parts, payload).unwrap().finish().unwrap();
                items.push(serde_json::from_slice::<u32>(message.body.bytes()).unwrap());
                daemon.connection.give_credit(stream, channel, credit);
            }
            Event::ChannelEnded { code: None, .. } => ended = true,
            Event::Replied { .. } => answered = true,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(items, (0..=1000).rev().collect::<Vec<_>>());
}

#[test]
fn items_of_the_caller_reach_the_command() {
    let place = Place::new();
    let (_provider, mut daemon) = serve(&place);
    daemon.grant("text.add_up");
    let args = Body::Json(json!({ "numbers": "__CHANNEL__:1" }).to_string().into());
    let stream = daemon.start("text.add_up", args, CALLER, channel(Direction::Up, 0));
    for number in 1..=3000_u64 {
        let mut message = Message::from(Body::Json(number.to_string().into()));
        loop {
            match daemon.connection.send_item(stream, 1, message).unwrap() {
                Sent::Queued => break,
                Sent::NeedsCredit(back) => message = back,
                Sent::Ended => panic!("the channel has ended"),
            }
            // Until the command has read some.
            assert!(matches!(daemon.next(), Some(Event::ChannelCredited { .. })));
        }
    }
    daemon.connection.end_channel(stream, 1, None, "");
    assert_eq!(daemon.answer(stream).json(), json!(3000 * 3001 / 2));
}

#[test]
fn a_receiver_that_stops_ends_the_channel_and_one_that_fails_the_call() {
    let place = Place::new();
    let (_provider, mut daemon) = serve(&place);
    daemon.grant("text.flood");
    let args = || Body::Json(json!({ "onItem": "__CHANNEL__:1" }).to_string().into());
    let stream = daemon.start("text.flood", args(), CALLER, channel(Direction::Down, 50_000));
    while !matches!(daemon.next(), Some(Event::ItemCame { .. })) {}
    daemon.connection.stop_channel(stream, 1);
    let Answer::Result(_) = daemon.answer(stream) else { panic!("the command said why it stopped") };
    let second = daemon.start("text.flood", args(), CALLER, channel(Direction::Down, 50_000));
    while !matches!(daemon.next(), Some(Event::ItemCame { stream, .. }) if stream == second) {}
    daemon.connection.cancel(second);
    assert_eq!(daemon.answer(second).error().0, ErrorCode::Cancelled);
}
