//! Whether a registry contradicts itself. Says the first contradiction by table and name.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::model::{Registry, Unit};

/// Metadata tags and frame kinds from here on are ignorable.
const IGNORABLE_FRAME: u8 = 0x80;
/// The largest value that `usize` holds on every platform that is built for.
const MAX_USIZE: u64 = u32::MAX as u64;

/// A contradiction in the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// Two entries of one table have the same name or number.
    #[error("[[{table}]] {second} repeats {what} of {first}")]
    Duplicate {
        /// The table.
        table: &'static str,
        /// `name`, `value`, `bit` or `id`.
        what: &'static str,
        /// The name of the earlier entry.
        first: String,
        /// The name of the later entry.
        second: String,
    },
    /// An entry stands after one with a larger number.
    #[error("[[{table}]] {name} is out of order: numbers must ascend")]
    Order {
        /// The table.
        table: &'static str,
        /// The name of the entry.
        name: String,
    },
    /// An entry is wrong by itself.
    #[error("[[{table}]] {name}: {why}")]
    Entry {
        /// The table.
        table: &'static str,
        /// The name of the entry.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// Checks what the types of [`super::model`] can't say.
///
/// Names and numbers are unique in each table and numbers ascend; names have the case of their table; every entry has
/// a doc; an ignorable frame has no record, since who skips it can't read it; bits fit their set; a limit's name says
/// `_ms` exactly if its unit does, and other limits fit a 32-bit `usize`.
///
/// # Errors
///
/// The first [`Invalid`] met.
pub fn validate(registry: &Registry) -> Result<(), Invalid> {
    for (table, entries) in [
        ("codec", &registry.codec),
        ("direction", &registry.direction),
        ("overflow", &registry.overflow),
        ("delivery", &registry.delivery),
        ("lane", &registry.lane),
    ] {
        names(table, Case::Snake, entries.iter().map(|e| (&*e.name, &*e.doc)))?;
        ascending(table, entries.iter().map(|e| (&*e.name, e.value)))?;
    }
    frames(registry)?;
    bits("flag", 16, &registry.flag)?;
    bits("feature", 64, &registry.feature)?;
    names("tag", Case::Snake, registry.tag.iter().map(|e| (&*e.name, &*e.doc)))?;
    ascending("tag", registry.tag.iter().map(|e| (&*e.name, e.value)))?;
    names("error", Case::Snake, registry.error.iter().map(|e| (&*e.name, &*e.doc)))?;
    ascending("error", registry.error.iter().map(|e| (&*e.name, e.value)))?;
    for error in &registry.error {
        if error.exit == 0 {
            return Err(entry("error", &error.name, "exit code 0 says success"));
        }
    }
    limits(registry)?;
    names("quota", Case::Snake, registry.quota.iter().map(|e| (&*e.name, &*e.doc)))
}

fn frames(registry: &Registry) -> Result<(), Invalid> {
    names("frame", Case::Upper, registry.frame.iter().map(|e| (&*e.name, &*e.doc)))?;
    ascending("frame", registry.frame.iter().map(|e| (&*e.name, e.value)))?;
    for frame in &registry.frame {
        if frame.value == 0 {
            return Err(entry("frame", &frame.name, "kind 0 is what zeroed memory says"));
        }
        if frame.value >= IGNORABLE_FRAME && frame.record.is_some() {
            return Err(entry(
                "frame",
                &frame.name,
                "an ignorable frame has no record: it is skipped unread",
            ));
        }
    }
    Ok(())
}

fn limits(registry: &Registry) -> Result<(), Invalid> {
    names("limit", Case::Snake, registry.limit.iter().map(|e| (&*e.name, &*e.doc)))?;
    let ids = registry.limit.iter().filter_map(|e| e.id.map(|id| (&*e.name, id)));
    ascending("limit", ids)?;
    for limit in &registry.limit {
        if limit.name.ends_with("_ms") != (limit.unit == Unit::Ms) {
            return Err(entry("limit", &limit.name, "the name ends in _ms exactly if the unit is ms"));
        }
        if limit.unit != Unit::Ms && limit.value > MAX_USIZE {
            return Err(entry("limit", &limit.name, "does not fit a 32-bit usize"));
        }
    }
    Ok(())
}

fn bits(table: &'static str, width: u8, entries: &[super::model::Bit]) -> Result<(), Invalid> {
    names(table, Case::Upper, entries.iter().map(|e| (&*e.name, &*e.doc)))?;
    ascending(table, entries.iter().map(|e| (&*e.name, e.bit)))?;
    match entries.iter().find(|e| e.bit >= width) {
        Some(bit) => Err(entry(table, &bit.name, "the bit is outside its set")),
        None => Ok(()),
    }
}

#[derive(Clone, Copy)]
enum Case {
    Snake,
    Upper,
}

fn names<'a>(
    table: &'static str,
    case: Case,
    entries: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), Invalid> {
    let mut seen = BTreeMap::new();
    for (name, doc) in entries {
        let fits = |c: char| match case {
            Case::Snake => c.is_ascii_lowercase() || c == '_',
            Case::Upper => c.is_ascii_uppercase() || c == '_',
        };
        if name.is_empty() || name.starts_with('_') || !name.chars().all(fits) {
            return Err(entry(table, name, "the name has the wrong case for its table"));
        }
        if doc.is_empty() || !doc.ends_with(['.', ')']) || doc.contains('\n') {
            return Err(entry(table, name, "doc must be one line that ends in a full stop"));
        }
        if doc.contains('|') {
            return Err(entry(table, name, "doc must not hold `|`, which ends a table's cell"));
        }
        unique(table, "the name", &mut seen, name, name)?;
    }
    Ok(())
}

fn ascending<'a, N: Ord + Copy>(
    table: &'static str,
    entries: impl Iterator<Item = (&'a str, N)>,
) -> Result<(), Invalid> {
    let mut seen = BTreeMap::new();
    let mut last = None;
    for (name, number) in entries {
        unique(table, "the number", &mut seen, number, name)?;
        if last.is_some_and(|last| last > number) {
            return Err(Invalid::Order { table, name: name.to_owned() });
        }
        last = Some(number);
    }
    Ok(())
}

fn unique<K: Ord>(
    table: &'static str,
    what: &'static str,
    seen: &mut BTreeMap<K, String>,
    key: K,
    name: impl Display,
) -> Result<(), Invalid> {
    let second = name.to_string();
    match seen.insert(key, second.clone()) {
        Some(first) => Err(Invalid::Duplicate { table, what, first, second }),
        None => Ok(()),
    }
}

fn entry(table: &'static str, name: &str, why: &'static str) -> Invalid {
    Invalid::Entry { table, name: name.to_owned(), why }
}
