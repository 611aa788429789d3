//! What a capability says of quotas and lanes.
//!
//! Owns their names and bounds; they are enforced elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use invoked_proto::registry::{LIMITS, Lane, QUOTAS};

use super::document::{Node, NodeValue};
use super::reader::TreeReader;
use super::source::Findings;

/// What a capability may set, by the names of `proto/registry.toml`, and by what it is bounded: by the value in force of
/// the daemon of the same name, or of what all share.
const NAMES: [(&str, &str); 11] = [
    ("calls_per_uid", "calls_per_uid"),
    ("connections_per_uid", "connections"),
    ("max_message", "max_message"),
    ("memory_file_bytes_per_uid", "memory_file_bytes"),
    ("open_calls", "open_calls"),
    ("open_channels", "open_channels"),
    ("reassembly_bytes_per_uid", "reassembly_bytes"),
    ("received_fds_per_uid", "received_fds"),
    ("reply_bytes_per_uid", "reply_bytes"),
    ("segment_bytes_per_uid", "segment_bytes"),
    ("unconfirmed_fds_per_uid", "unconfirmed_fds"),
];

/// What capabilities let a peer hold at once, where they say something other than the daemon's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerLimits(BTreeMap<&'static str, u64>);

impl PeerLimits {
    /// The limit of this name of `proto/registry.toml`; `None` where no capability of the peer sets it, and the daemon's
    /// own holds.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// What is set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(name, value)| (*name, *value))
    }

    /// Adds what another capability sets. As grants never narrow one another, the larger counts.
    pub(crate) fn add(&mut self, other: &PeerLimits) {
        for (name, value) in other.iter() {
            let own = self.0.entry(name).or_insert(value);
            *own = value.max(*own);
        }
    }
}

/// The largest values that capabilities may set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ceilings(BTreeMap<String, u64>);

impl Ceilings {
    /// Says what is in force under a name of `proto/registry.toml`.
    pub(crate) fn set(&mut self, name: &str, value: u64) {
        self.0.insert(name.to_owned(), value);
    }

    fn of(&self, name: &str) -> u64 {
        let limit = || LIMITS.iter().find(|limit| limit.name == name).map(|limit| limit.value);
        let quota = || QUOTAS.iter().find(|quota| quota.name == name).map(|quota| quota.value);
        self.0.get(name).copied().or_else(limit).or_else(quota).unwrap_or(0)
    }
}

/// Reads `limits = { open_calls = 16 }`.
pub(crate) fn read_limits(
    reader: TreeReader<'_>,
    node: &Node,
    ceilings: &Ceilings,
    findings: &mut Findings,
) -> PeerLimits {
    let known = NAMES.map(|(name, _)| name);
    let mut limits = PeerLimits::default();
    let Some(table) = reader.table(node, "\"limits\"", &known, findings) else { return limits };
    for entry in table.0 {
        let Some((name, bound)) = NAMES.into_iter().find(|(name, _)| *name == entry.key) else { continue };
        let ceiling = ceilings.of(bound);
        let value = match &entry.node.value {
            NodeValue::Number(number) => number.as_u64(),
            _ => None,
        };
        let at = reader.at(&entry.node.span);
        match value {
            Some(value) if value > ceiling => {
                let whose = if name == bound { String::new() } else { format!(", which is \"{bound}\"") };
                findings.error(at.error(format!("\"{name}\" is at most {ceiling} in this daemon{whose}")));
            }
            Some(value) if value > 0 => {
                limits.0.insert(name, value);
            }
            _ => findings.error(at.error(format!("\"{name}\" is a whole number from 1 to {ceiling}"))),
        }
    }
    limits
}

const LANES: [(&str, Lane); 4] =
    [("inline", Lane::Inline), ("pool", Lane::Pool), ("sealed", Lane::Sealed), ("file", Lane::File)];

/// The names that `limits` may have.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().map(|(name, _)| name)
}

/// The names that `lanes` may have.
pub(crate) fn lanes() -> impl Iterator<Item = &'static str> {
    LANES.into_iter().map(|(name, _)| name)
}

/// Lanes that a peer may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerLanes(
    /// By number: `Lane` has no order.
    BTreeSet<u8>,
);

impl PeerLanes {
    /// Whether bodies may take this lane. The frames themselves are always one.
    #[must_use]
    pub fn allows(&self, lane: Lane) -> bool {
        lane == Lane::Inline || self.0.contains(&(lane as u8))
    }

    /// Adds what another capability allows.
    pub(crate) fn add(&mut self, other: &PeerLanes) {
        self.0.extend(&other.0);
    }
}

/// Reads `lanes = ["sealed", "file"]`.
pub(crate) fn read_lanes(reader: TreeReader<'_>, node: &Node, findings: &mut Findings) -> PeerLanes {
    let mut lanes = PeerLanes::default();
    for (name, location) in reader.strings(Some(node), "\"lanes\"", findings) {
        match LANES.iter().find(|(known, _)| *known == name) {
            Some((_, lane)) => {
                lanes.0.insert(*lane as u8);
            }
            None => {
                let error = location.error(format!("unknown lane \"{name}\""));
                findings.error(match super::source::nearest(name, LANES.map(|(known, _)| known)) {
                    Some(near) => error.with_help(format!("did you mean \"{near}\"?")),
                    None => error.with_help("the lanes are \"inline\", \"pool\", \"sealed\" and \"file\""),
                });
            }
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use invoked_proto::registry::{LIMITS, QUOTAS};

    use super::NAMES;

    #[test]
    fn every_name_and_bound_stands_in_the_registry() {
        let known =
            |name: &str| LIMITS.iter().any(|l| l.name == name) || QUOTAS.iter().any(|q| q.name == name);
        for (name, bound) in NAMES {
            assert!(known(name) && known(bound), "{name} {bound}");
        }
    }
}
