//! Events as vectors write them.

use bytes::Bytes;
use invoked_proto::connection::{Event, LaneSet, More};
use invoked_proto::registry::flags;
use invoked_proto::testing::AnyRecord;
use serde_json::{Value, json};

use super::Bulk;
use crate::mirror::fields;

const FLAGS: &[(u16, &str)] = &[
    (flags::CONT, "CONT"),
    (flags::MORE, "MORE"),
    (flags::END, "END"),
    (flags::ONEWAY, "ONEWAY"),
    (flags::IDEMPOTENT, "IDEMPOTENT"),
    (flags::SENSITIVE, "SENSITIVE"),
];

/// The names of set flags; panics on one that has no name.
pub(crate) fn flag_names(mut set: u16) -> Vec<String> {
    let mut names = Vec::new();
    for (bit, name) in FLAGS {
        if set & bit != 0 {
            names.push((*name).to_owned());
            set &= !bit;
        }
    }
    (0..16).filter(|bit| set & (1 << bit) != 0).for_each(|bit| names.push(format!("bit {bit}")));
    names
}

/// The flags with these names.
pub(crate) fn flag_bits(names: &[String]) -> u16 {
    let bit = |name: &String| {
        let known = FLAGS.iter().find(|(_, known)| known == name).map(|(bit, _)| *bit);
        known
            .or_else(|| name.strip_prefix("bit ").and_then(|bit| bit.parse::<u16>().ok()).map(|bit| 1 << bit))
            .unwrap_or_else(|| panic!("no flag is called {name}"))
    };
    names.iter().map(bit).fold(0, |all, bit| all | bit)
}

fn numbers(lanes: LaneSet) -> Vec<u8> {
    lanes.iter().map(|lane| lane.as_u8()).collect()
}

fn bytes(payload: Bytes) -> Value {
    serde_json::to_value(Bulk(payload)).expect("bytes are plain data")
}

fn more(more: More) -> &'static str {
    match more {
        More::Whole => "whole",
        More::Follows => "follows",
    }
}

/// One event.
pub(crate) fn event<A>(event: Event<A>) -> Value {
    match event {
        Event::Greeted(hello) => json!({"event": "Greeted", "hello": fields(&AnyRecord::from(hello))}),
        Event::Welcomed(welcome) => {
            json!({"event": "Welcomed", "welcome": fields(&AnyRecord::from(welcome))})
        }
        Event::Refused { code, reason } => json!({"event": "Refused", "code": code.name(), "reason": reason}),
        Event::Called { stream, flags, call, payload, more: rest, fds } => json!({
            "event": "Called",
            "stream": stream,
            "flags": flag_names(flags),
            "call": fields(&AnyRecord::from(call)),
            "payload": bytes(payload),
            "more": more(rest),
            "fds": fds.len(),
        }),
        Event::Continued { stream, payload, more: rest } => {
            json!({"event": "Continued", "stream": stream, "payload": bytes(payload), "more": more(rest)})
        }
        Event::Replied { stream, reply, payload, more: rest, fds } => json!({
            "event": "Replied",
            "stream": stream,
            "reply": fields(&AnyRecord::from(reply)),
            "payload": bytes(payload),
            "more": more(rest),
            "fds": fds.len(),
        }),
        Event::Failed { stream, code, failure, payload, more: rest, fds } => json!({
            "event": "Failed",
            "stream": stream,
            "code": code.name(),
            "failure": fields(&AnyRecord::from(failure)),
            "payload": bytes(payload),
            "more": more(rest),
            "fds": fds.len(),
        }),
        Event::Cancelled { stream } => json!({"event": "Cancelled", "stream": stream}),
        Event::ItemCame { stream, channel, item, payload, more: rest, credit, fds } => json!({
            "event": "ItemCame",
            "stream": stream,
            "channel": channel,
            "item": fields(&AnyRecord::from(item)),
            "payload": bytes(payload),
            "more": more(rest),
            "credit": credit,
            "fds": fds.len(),
        }),
        Event::ItemContinued { stream, channel, payload, more: rest, credit } => json!({
            "event": "ItemContinued",
            "stream": stream,
            "channel": channel,
            "payload": bytes(payload),
            "more": more(rest),
            "credit": credit,
        }),
        Event::ChannelEnded { stream, channel, code, message, lagged } => {
            let mut told = json!({
                "event": "ChannelEnded",
                "stream": stream,
                "channel": channel,
                "code": code.map(invoked_proto::registry::ErrorCode::name),
                "message": message.as_str(),
            });
            if lagged > 0 {
                told["lagged"] = lagged.into();
            }
            told
        }
        Event::ChannelStopped { stream, channel } => {
            json!({"event": "ChannelStopped", "stream": stream, "channel": channel})
        }
        Event::ChannelCredited { stream, channel } => {
            json!({"event": "ChannelCredited", "stream": stream, "channel": channel})
        }
        Event::SegmentCame { segment, .. } => {
            json!({"event": "SegmentCame", "segment": fields(&AnyRecord::from(segment))})
        }
        Event::SegmentGone { segment, generation } => {
            json!({"event": "SegmentGone", "segment": segment, "generation": generation})
        }
        Event::LanesAsked(lanes) => json!({"event": "LanesAsked", "lanes": numbers(lanes)}),
        Event::LanesTold(lanes) => json!({"event": "LanesTold", "lanes": numbers(lanes)}),
        Event::WentAway { code, notice } => json!({
            "event": "WentAway",
            "code": code.map(invoked_proto::registry::ErrorCode::name),
            "notice": fields(&AnyRecord::from(notice)),
        }),
        Event::Ponged { nonce } => json!({"event": "Ponged", "nonce": nonce}),
        other => panic!("no description of {other:?}", other = std::mem::discriminant(&other)),
    }
}
