//! Calls from a daemon to a provider, its grants, and credit that is passed on, in memory and in virtual time.
#![allow(clippy::unwrap_used)] // a test may fail by panicking

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Connection, Event, More, Placement, Request, Sent, Settings};
use invoked_proto::error::MisuseError;
use invoked_proto::metadata::{ChannelDeclaration, Extensions, Grant, MAJOR_HEADER, OriginStamp, Ungrant};
use invoked_proto::registry::{Direction, features, limits, tags};
use invoked_proto::testing::{Pair, Token};

fn settings() -> Settings {
    Settings { features: features::CHANNELS | features::PROVIDE, ..Settings::default() }
}

fn grant(number: u64, scopes: &[u8]) -> Grant {
    Grant::new(number, 1, Bytes::copy_from_slice(scopes))
}

fn raw(len: usize) -> Message {
    Body::Raw(Bytes::from(vec![7; len])).into()
}

fn credits(connection: &mut Connection<Token>) -> Vec<(u32, u64)> {
    let events = std::iter::from_fn(|| connection.poll_event());
    let credit = |event| match event {
        Event::CreditCame { channel, bytes, .. } => Some((channel, bytes)),
        _ => None,
    };
    events.filter_map(credit).collect()
}

#[test]
fn a_provider_is_given_a_grant_before_the_call_that_names_it() {
    let mut pair = Pair::open_with(settings(), settings());
    let origin = OriginStamp { uid: 1000, gid: 100, peer: 7, pid: Some(42), grant: 9 };
    let mut extensions = Extensions::none();
    extensions.insert(tags::DEPTH, Bytes::from_static(&[1]));
    extensions.insert(tags::ORIGIN, origin.encode());
    let request =
        Request { command: "text.upper".into(), message: raw(64), extensions, ..Request::default() };
    let stream = pair.daemon.call(request).unwrap();
    assert_eq!(stream, 2, "the daemon's streams are even");
    // Queued after the call, and there before it.
    pair.daemon.grant(&grant(9, b"{}")).unwrap();
    pair.to_client().unwrap();
    let granted = pair.client.poll_event();
    assert!(matches!(&granted, Some(Event::Granted(grant)) if grant.grant == 9), "{granted:?}");
    let Some(Event::Called { call, .. }) = pair.client.poll_event() else { panic!("the call follows") };
    let stamp = OriginStamp::decode(call.extensions.find(tags::ORIGIN).unwrap()).unwrap();
    assert_eq!(stamp, origin);

    pair.client.reply(stream, Vec::new(), raw(3)).unwrap();
    pair.to_daemon().unwrap();
    let replied = pair.daemon.poll_event();
    assert!(matches!(replied, Some(Event::Replied { stream: 2, more: More::Whole, .. })), "{replied:?}");
    pair.daemon.ungrant(9).unwrap();
    pair.to_client().unwrap();
    let ungranted = pair.client.poll_event();
    assert!(matches!(ungranted, Some(Event::Ungranted(Ungrant { grant: 9, .. }))), "{ungranted:?}");
}

#[test]
fn a_grant_fits_its_frame_or_is_not_sent() {
    let mut pair = Pair::open_with(settings(), settings());
    let head = 1 + 1 + 3 + 1; // grant, generation, the length of the scopes, no extensions
    let fits = vec![b' '; limits::MAX_METADATA - head];
    pair.daemon.grant(&grant(1, &fits)).unwrap();
    pair.to_client().unwrap();
    assert!(matches!(pair.client.poll_event(), Some(Event::Granted(_))));
    let too_long = vec![b' '; fits.len() + 1];
    assert!(matches!(pair.daemon.grant(&grant(1, &too_long)), Err(MisuseError::Record(_))));
    // A client has nothing to grant, and without the feature there is nobody to be given one.
    assert_eq!(pair.client.grant(&grant(1, b"{}")), Err(MisuseError::NotOpen));
    let mut plain = Pair::open();
    assert_eq!(plain.daemon.grant(&grant(1, b"{}")), Err(MisuseError::NotOpen));
    assert_eq!(plain.daemon.ungrant(1), Err(MisuseError::NotOpen));
}

#[test]
fn the_one_reserved_header_of_a_call_is_carried_and_no_other() {
    let mut pair = Pair::open_with(settings(), settings());
    let with = |key: &str| Request {
        command: "text.upper".into(),
        headers: vec![(key.into(), "1".into())],
        ..Request::default()
    };
    pair.client.call(with(MAJOR_HEADER)).unwrap();
    pair.to_daemon().unwrap();
    let Some(Event::Called { stream, call, .. }) = pair.daemon.poll_event() else { panic!("a call") };
    assert_eq!(call.headers[0].0.as_str(), MAJOR_HEADER);
    assert!(matches!(pair.client.call(with(":minor")), Err(MisuseError::Record(_))));
    let of_reply = vec![(MAJOR_HEADER.into(), "1".into())];
    assert!(matches!(pair.daemon.reply(stream, of_reply, raw(0)), Err(MisuseError::Record(_))));
}

#[test]
fn a_result_carries_the_extensions_it_is_given() {
    let mut pair = Pair::open();
    let stream = pair.client.call(Request { command: "a.b".into(), ..Request::default() }).unwrap();
    pair.to_daemon().unwrap();
    let mut extensions = Extensions::none();
    extensions.insert(tags::DETAILS, Bytes::from_static(b"{}"));
    pair.daemon.reply_extended(stream, Vec::new(), extensions.clone(), raw(1), Placement::default()).unwrap();
    pair.to_client().unwrap();
    let Some(Event::Replied { reply, .. }) = pair.client.poll_event() else { panic!("a reply") };
    assert_eq!(reply.extensions, extensions);
}

#[test]
fn credit_for_a_relayed_channel_is_told_and_passed_on() {
    let mut caller = Pair::open_with(settings(), settings());
    let mut provider = Pair::open_with(settings(), settings());
    let down = ChannelDeclaration { index: 1, direction: Direction::Down, credit: 1000 };
    let request = Request { command: "a.b".into(), channels: vec![down], ..Request::default() };
    let stream = caller.client.call(request.clone()).unwrap();
    caller.to_daemon().unwrap();
    let routed = provider.daemon.call(request).unwrap();
    provider.to_client().unwrap();
    assert!(matches!(provider.client.poll_event(), Some(Event::Called { .. })));

    // The provider uses up what the final receiver promised, and the daemon gives none of its own.
    assert!(matches!(provider.client.send_item(routed, 1, raw(1000)), Ok(Sent::Queued)));
    assert!(matches!(provider.client.send_item(routed, 1, raw(1)), Ok(Sent::NeedsCredit(_))));
    provider.to_daemon().unwrap();
    let Some(Event::ItemCame { credit, .. }) = provider.daemon.poll_event() else { panic!("an item") };
    assert_eq!(credit, 1000);
    caller.daemon.send_item(stream, 1, raw(1000)).unwrap();
    caller.to_client().unwrap();
    caller.client.give_credit(stream, 1, 1000);
    caller.to_daemon().unwrap();
    // What came before the daemon asked for it is told as well, and once.
    assert_eq!(credits(&mut caller.daemon), []);
    caller.daemon.relay_channels(stream);
    assert_eq!(credits(&mut caller.daemon), [(1, 1000)]);
    assert!(!provider.client.has_events());
    provider.daemon.pass_credit(routed, 1, 1000);
    provider.to_client().unwrap();
    let credited = std::iter::from_fn(|| provider.client.poll_event());
    assert_eq!(credited.filter(|event| matches!(event, Event::ChannelCredited { .. })).count(), 1);
    assert!(matches!(provider.client.send_item(routed, 1, raw(1000)), Ok(Sent::Queued)));
    provider.to_daemon().unwrap();
}

#[test]
fn a_channel_to_a_provider_starts_with_the_window_that_the_daemon_announced() {
    // What the provider would choose is of no concern: the caller was told the daemon's.
    let small = Settings { channel_window: 1000, ..settings() };
    let mut pair = Pair::open_with(settings(), small);
    let up = ChannelDeclaration { index: 1, direction: Direction::Up, credit: 0 };
    let stream = pair
        .daemon
        .call(Request { command: "a.b".into(), channels: vec![up], ..Request::default() })
        .unwrap();
    pair.to_client().unwrap();
    assert!(matches!(pair.daemon.send_item(stream, 1, raw(1000)), Ok(Sent::Queued)));
    assert!(matches!(pair.daemon.send_item(stream, 1, raw(1)), Ok(Sent::NeedsCredit(_))));
    pair.to_client().unwrap();
    pair.daemon.relay_channels(stream);
    pair.client.give_credit(stream, 1, 1000);
    pair.to_daemon().unwrap();
    assert_eq!(credits(&mut pair.daemon), [(1, 1000)]);
}
