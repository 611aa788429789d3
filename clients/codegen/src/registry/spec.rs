//! The tables of `proto/SPEC.md`, between their markers. Everything outside them is left as it is.

use super::Error;
use super::model::{Bit, From, Named, Registry, Stream};

const END: &str = "<!-- /generated -->";

/// The text of SPEC.md with each table replaced by what the registry says.
pub(super) fn fill(text: &str, registry: &Registry) -> Result<String, Error> {
    let mut text = text.to_owned();
    for (name, table) in tables(registry) {
        let marker = format!("<!-- generated: {name} -->");
        let start = text.find(&marker).ok_or(Error::Marker(name))? + marker.len();
        let length = text[start..].find(END).ok_or(Error::Marker(name))?;
        // An end that belongs to the next table would swallow what stands between.
        if text[start..start + length].contains("<!-- generated: ") {
            return Err(Error::Marker(name));
        }
        text.replace_range(start..start + length, &format!("\n{table}"));
    }
    Ok(text)
}

fn tables(registry: &Registry) -> Vec<(&'static str, String)> {
    vec![
        ("wire", wire(registry)),
        ("frames", frames(registry)),
        ("flags", bits(&registry.flag)),
        ("features", bits(&registry.feature)),
        ("codecs", named(&registry.codec)),
        ("directions", named(&registry.direction)),
        ("overflows", named(&registry.overflow)),
        ("deliveries", named(&registry.delivery)),
        ("lanes", named(&registry.lane)),
        ("tags", tags(registry)),
        ("errors", errors(registry)),
        ("limits", limits(registry)),
        ("quotas", quotas(registry)),
    ]
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

fn wire(registry: &Registry) -> String {
    let wire = &registry.wire;
    let magic: Vec<_> = wire.magic.iter().map(|byte| format!("{byte:02x}")).collect();
    let rows = [
        ("wire version", wire.version.to_string()),
        ("magic", format!("`{}`", magic.join(" "))),
        ("preface", format!("{} bytes", wire.preface_len)),
        ("frame header", format!("{} bytes", wire.header_len)),
    ];
    table(&["What", "Value"], rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]))
}

fn frames(registry: &Registry) -> String {
    table(
        &["Kind", "Name", "Stream", "Record", "Meaning"],
        registry.frame.iter().map(|frame| {
            let stream = match frame.stream {
                Stream::Zero => "0",
                Stream::Opens => "opens",
                Stream::Open => "open",
                Stream::Any => "any",
            };
            let record = frame.record.as_ref().map_or("—".to_owned(), |record| format!("`{record}`"));
            vec![
                format!("`0x{:02x}`", frame.value),
                frame.name.clone(),
                stream.to_owned(),
                record,
                frame.doc.clone(),
            ]
        }),
    )
}

fn bits(bits: &[Bit]) -> String {
    table(
        &["Bit", "Name", "Meaning"],
        bits.iter().map(|bit| vec![bit.bit.to_string(), bit.name.clone(), bit.doc.clone()]),
    )
}

fn named(entries: &[Named]) -> String {
    table(
        &["Value", "Name", "Meaning"],
        entries.iter().map(|e| vec![e.value.to_string(), format!("`{}`", e.name), e.doc.clone()]),
    )
}

fn tags(registry: &Registry) -> String {
    table(
        &["Tag", "Name", "Written by", "Unknown", "Meaning"],
        registry.tag.iter().map(|tag| {
            let from = match tag.from {
                From::Caller => "caller",
                From::Daemon => "daemon only",
                From::Any => "any",
            };
            let unknown = if tag.value < 0x8000 { "refuses the frame" } else { "skipped" };
            vec![
                format!("`0x{:04x}`", tag.value),
                format!("`{}`", tag.name),
                from.to_owned(),
                unknown.to_owned(),
                tag.doc.clone(),
            ]
        }),
    )
}

fn errors(registry: &Registry) -> String {
    table(
        &["Code", "Name", "Retryable", "Exit", "Meaning"],
        registry.error.iter().map(|error| {
            vec![
                error.value.to_string(),
                format!("`{}`", error.name),
                if error.retryable { "yes" } else { "no" }.to_owned(),
                error.exit.to_string(),
                error.doc.clone(),
            ]
        }),
    )
}

fn limits(registry: &Registry) -> String {
    table(
        &["Name", "Default", "Unit", "Id in WELCOME", "Meaning"],
        registry.limit.iter().map(|limit| {
            vec![
                format!("`{}`", limit.name),
                limit.value.to_string(),
                limit.unit.name().to_owned(),
                limit.id.map_or("—".to_owned(), |id| id.to_string()),
                limit.doc.clone(),
            ]
        }),
    )
}

fn quotas(registry: &Registry) -> String {
    table(
        &["Name", "Default", "Meaning"],
        registry.quota.iter().map(|q| vec![format!("`{}`", q.name), q.value.to_string(), q.doc.clone()]),
    )
}
