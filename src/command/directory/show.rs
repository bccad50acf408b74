//! An entry as a line of JSON, or as rows of a table: one for each thing that can be subscribed to.

use serde_json::{Value, json};
use vmkpi::clock::Timestamp;
use vmkpi::descriptor::Format as Form;
use vmkpi::directory::{ConsumerEntry, Entry, Lease, ProducerEntry, Side, Specifier};

use super::super::Format;
use super::super::print::Console;
use super::super::watch::text::{age, fit, safe};
use super::Look;
use super::reader::named;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is there.
    Found,
    /// It says something else.
    Changed,
    /// Its lease has expired.
    Expired,
    /// It was taken back.
    Left,
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Changed => "changed",
            Self::Expired => "expired",
            Self::Left => "left",
        }
    }
}

/// Shows all that was found of a side.
///
/// # Errors
/// Nobody reads it.
pub fn all(
    side: Side,
    found: &[&Lease],
    look: &Look,
    now: Timestamp,
    console: &mut Console,
) -> std::io::Result<()> {
    if look.format == Format::Table && !found.is_empty() {
        let head = match side {
            Side::Producer => row(["SITE", "VM", "LEASE", "SPECIFIER", "FORM", "SUBSCRIBE TO"]),
            Side::Consumer => row(["SITE", "CONSUMER", "LEASE", "ROLE", "KEY", "TAKES"]),
        };
        console.line(&head)?;
    }
    for lease in found {
        match look.format {
            Format::Json => console.line(&object(Event::Found, lease, look).to_string())?,
            Format::Table => {
                for line in rows(lease, look, now) {
                    console.line(&line)?;
                }
            }
        }
    }
    Ok(())
}

/// Shows what became of an entry, if it is one that is looked for.
///
/// # Errors
/// Nobody reads it.
pub fn change(
    event: Event,
    lease: &Lease,
    look: &Look,
    now: Timestamp,
    console: &mut Console,
) -> std::io::Result<()> {
    if !look.sides.contains(&lease.subject.side) || !look.query.matches(lease) {
        return Ok(());
    }
    if look.format == Format::Json {
        return console.line(&object(event, lease, look).to_string());
    }
    let side = lease.subject.side.as_str();
    console.line(&format!("{now} {side} {} {}", named(lease), event.as_str()))?;
    if matches!(event, Event::Found | Event::Changed) {
        for line in rows(lease, look, now) {
            console.line(&line)?;
        }
    }
    Ok(())
}

fn object(event: Event, lease: &Lease, look: &Look) -> Value {
    let said = match &lease.entry {
        Entry::Producer(entry) => producer(lease, entry, look),
        Entry::Consumer(entry) => serde_json::to_value(entry).unwrap_or_default(),
    };
    let (side, name) = match lease.subject.side {
        Side::Producer => ("producer", "vm"),
        Side::Consumer => ("consumer", "consumer"),
    };
    let mut object = json!({
        "event": event.as_str(),
        "side": side,
        "site": lease.subject.site,
        name: lease.subject.name,
        "issued": lease.term.issued,
        "expires_at": lease.term.expires_at,
        "signer": lease.signer,
    });
    if let (Value::Object(object), Value::Object(said)) = (&mut object, said) {
        object.extend(said);
    }
    object
}

/// What the entry says, with the filter of each specifier, and of those alone that deliver what is asked for.
fn producer(lease: &Lease, entry: &ProducerEntry, look: &Look) -> Value {
    let mut said = serde_json::to_value(entry).unwrap_or_default();
    let mut specifiers = Vec::new();
    if let Value::Array(all) = said["specifiers"].take() {
        for (mut shown, specifier) in all.into_iter().zip(&entry.specifiers) {
            if let Some(filter) = specifier.filter(&lease.subject, look.query.point.as_ref()) {
                shown["filter"] = filter.into();
                specifiers.push(shown);
            }
        }
    }
    said["specifiers"] = specifiers.into();
    said
}

fn rows(lease: &Lease, look: &Look, now: Timestamp) -> Vec<String> {
    let left = lease.term.expires_at.as_seconds_f64() - now.as_seconds_f64();
    let (site, name) = (lease.subject.site.as_str(), lease.subject.name.as_str());
    let left = age(left.max(0.0));
    let line = |cells: [&str; 3]| row([site, name, &left, cells[0], cells[1], cells[2]]);
    match &lease.entry {
        Entry::Consumer(entry) => vec![line([entry.role.as_str(), entry.key.kid(), &takes(entry)])],
        Entry::Producer(entry) => {
            let asked = look.query.point.as_ref();
            let specifiers = entry.specifiers.iter();
            let lines = specifiers.filter_map(|specifier| {
                let filter = specifier.filter(&lease.subject, asked)?;
                Some(line([specifier.id.as_str(), &form(specifier), &filter]))
            });
            lines.collect()
        }
    }
}

/// How a specifier delivers, for people: `mean of 1s each 10s, sealed`.
fn form(specifier: &Specifier) -> String {
    let time = |ms: u64| match ms {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    };
    let samples = match specifier.interval_ms {
        0 => "every row".to_owned(),
        ms => format!("each {}", time(ms)),
    };
    let mut text = match specifier.format {
        Form::Raw => samples,
        Form::Processed(function) => format!("{} of {samples}", function.as_str()),
    };
    if specifier.delivery_ms > 0 {
        text.push_str(&format!(" in {}", time(specifier.delivery_ms)));
    }
    if specifier.seal {
        text.push_str(", sealed");
    }
    text
}

fn takes(entry: &ConsumerEntry) -> String {
    if entry.takes.is_empty() {
        return "everything".into();
    }
    let takes = entry.takes.iter().map(|take| {
        let vm = take.vm.as_ref().map_or("*", |vm| vm.as_str());
        let points = take.point.as_ref().map(ToString::to_string);
        format!("{vm}: {}", points.as_deref().unwrap_or("*"))
    });
    takes.collect::<Vec<_>>().join(", ")
}

fn row([site, name, lease, a, b, last]: [&str; 6]) -> String {
    let cells = [
        fit(site, 12),
        fit(name, 20),
        fit(lease, 8),
        fit(a, 16),
        fit(b, 26),
        safe(last),
    ];
    cells.join("  ")
}
