//! Texts that people, applications and other programs write.

use std::path::Path;

use vmkpi::descriptor::{Descriptor, MAX_MONITORS, Spelling};
use vmkpi::link::{HOST_CID, LinkUrl};
use vmkpi::message::Event;
use vmkpi::name::{DataPoint, KpiName, MAX_NAME_BYTES, PointPattern, topic_level};
use vmkpi::value::Value;

use crate::{csv, domain_xml};

const MAX_COLUMNS: usize = 100;

/// One store: what is taken is taken again, as the same, when it is written as plain CSV.
pub fn csv(data: &[u8]) {
    let columns = match csv::parse(data, MAX_COLUMNS) {
        Ok(columns) => columns,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(columns.labels.len(), columns.values.len());
    assert!((1..=MAX_COLUMNS).contains(&columns.labels.len()));
    let mut folded: Vec<_> = columns
        .labels
        .iter()
        .map(|l| l.to_ascii_lowercase())
        .collect();
    folded.sort_unstable();
    folded.dedup();
    assert_eq!(folded.len(), columns.labels.len(), "labels are distinct");
    let text: usize = columns.values.iter().map(text_len).sum();
    assert!(text <= data.len());
    let header: Vec<_> = columns.labels.iter().map(|l| quoted(l)).collect();
    let record: Vec<_> = columns.values.iter().map(written).collect();
    let plain = format!("{}\n{}\n", header.join(","), record.join(","));
    assert_eq!(csv::parse(plain.as_bytes(), MAX_COLUMNS), Ok(columns));
}

fn text_len(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        _ => 0,
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn written(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".into(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:e}"),
        Value::Text(text) => quoted(text),
    }
}

/// Names, points, patterns and addresses: what is taken is legal everywhere it goes, and is written as it was.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (text, other) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(name) = text.parse::<KpiName>() {
        assert_eq!(name.as_str(), text);
        assert!((1..=MAX_NAME_BYTES).contains(&text.len()));
        assert!(!text.contains(|c: char| c.is_control() || c == '/'));
        let level = topic_level(text);
        assert!(!level.contains(|c: char| matches!(c, '+' | '#' | '/') || c.is_control()));
    }
    if let Ok(point) = text.parse::<DataPoint>() {
        assert_eq!(point.to_string(), text);
        let own: PointPattern = text.parse().expect("each point is a pattern");
        assert!(own.matches(&point));
        if let Ok(pattern) = other.parse::<PointPattern>() {
            matching(&pattern, &point);
        }
    }
    if let Ok(url) = text.parse::<LinkUrl>() {
        assert_eq!(url.to_string().parse::<LinkUrl>().ok().as_ref(), Some(&url));
        if url.allowed_in_context() {
            let local = |name: &str| name.contains(['/', '\0']) || !name.starts_with("org.vmkpi.");
            match url {
                LinkUrl::VirtioSerial(name) => assert!(!local(&name)),
                LinkUrl::Vsock { cid, .. } => assert_eq!(cid, HOST_CID),
                LinkUrl::Tls { host, port } => {
                    assert!(
                        port > 0 && !host.is_empty() && !host.contains(['/', '@', '\0', '\n', ' '])
                    );
                }
                LinkUrl::Unix(path) => panic!("{} in a context", path.display()),
            }
        }
    }
}

/// Compared with the plainest way to say it.
fn matching(pattern: &PointPattern, point: &DataPoint) {
    fn plainly(pattern: &[u8], name: &[u8], budget: &mut u32) -> Option<bool> {
        *budget = budget.checked_sub(1)?;
        Some(match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) => plainly(rest, name, budget)?,
            (Some((b'*', rest)), Some((_, later))) => {
                plainly(rest, name, budget)? || plainly(pattern, later, budget)?
            }
            (Some((a, rest)), Some((b, later))) => a == b && plainly(rest, later, budget)?,
            _ => false,
        })
    }
    if let DataPoint::Kpi(area, name) = point {
        let text = pattern.to_string();
        let due = match text.strip_prefix(&format!("{area}/")) {
            Some(glob) => plainly(glob.as_bytes(), name.as_str().as_bytes(), &mut 10_000),
            None => Some(false),
        };
        assert!(
            due.is_none_or(|due| due == pattern.matches(point)),
            "{text} {point}"
        );
    }
}

/// A VM descriptor in any spelling: valid, or refused with reasons that fit on a screen.
pub fn descriptor(data: &[u8]) {
    let Some((spelling, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let spelling = match spelling % 3 {
        0 => Spelling::Toml,
        1 => Spelling::Json,
        _ => Spelling::Xml,
    };
    let no_file = |_: &Path| Err(std::io::Error::other("no file is read here"));
    match Descriptor::parse(text, spelling, &no_file) {
        Ok(descriptor) => {
            assert!((1..=MAX_MONITORS).contains(&descriptor.monitors.len()));
            assert_eq!(descriptor.revision().len(), 16);
            for monitor in &descriptor.monitors {
                assert!(monitor.interval_ms == 0 || monitor.delivery_ms % monitor.interval_ms == 0);
            }
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|error| !error.to_string().is_empty()));
        }
    }
}

/// libvirt's XML of a domain.
pub fn domain_xml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(found) = domain_xml::read(text, "org.vmkpi.kpi.0") {
        assert!(found.genid.is_none_or(|id| !id.trim().is_empty()));
        assert!(found.interfaces.len() <= text.len());
    }
}

/// A published message: what is taken is written and read as the same.
pub fn event(data: &[u8]) {
    let Ok(event) = Event::decode(data) else {
        return;
    };
    let again =
        Event::decode(&event.encode()).expect("what was read is written so that it is read");
    assert_eq!(again, event);
}
