//! The spelling of libvirt metadata: keys are attributes of `<vmkpi:monitoring>` and of its
//! `<vmkpi:monitor>` children; the key is the text of `<vmkpi:primary_key>`.
//!
//! ```xml
//! <vmkpi:monitoring xmlns:vmkpi="https://vmkpi.org/xmlns/monitoring/v1"
//!                   vm="shop-frontend-1" service="shop" primary_site="acme">
//!   <vmkpi:monitor id="web-load" point="unencrypted/web" interval_ms="1000"
//!                  delivery_ms="10000" format="processed" function="mean"/>
//! </vmkpi:monitoring>
//! ```

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{DescriptorError, Wire, WireMonitor};

/// The XML namespace of the element, by which libvirt finds it.
pub const METADATA_NAMESPACE: &str = "https://vmkpi.org/xmlns/monitoring/v1";

/// Where the reader is: which elements are open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    Monitoring,
    Monitor,
    Key,
    Done,
}

pub(super) fn read(text: &str) -> Result<Wire, DescriptorError> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let (mut wire, mut place, mut key_text) = (Wire::default(), Place::Outside, String::new());
    loop {
        let event = reader.read_event();
        let line = 1 + text[..clamp(text, reader.buffer_position())]
            .matches('\n')
            .count();
        let fail = |key: &str, message: String| DescriptorError {
            line: Some(line),
            key: key.into(),
            message,
        };
        match event.map_err(|e| fail("", format!("not well-formed XML: {e}")))? {
            Event::Start(e) => {
                place = open(&e, place, &mut wire).map_err(|(k, m)| fail(&k, m))?;
            }
            Event::End(_) => {
                if place == Place::Key {
                    wire.primary_key = Some(std::mem::take(&mut key_text));
                }
                place = match place {
                    Place::Monitor | Place::Key => Place::Monitoring,
                    _ => Place::Done,
                };
            }
            Event::Text(t) if place == Place::Key => {
                key_text.push_str(&t);
            }
            Event::Text(t) if t.trim_ascii().is_empty() => {}
            Event::Comment(_) | Event::Decl(_) => {}
            Event::Eof if place == Place::Done => return Ok(wire),
            Event::Eof => return Err(fail("", "no whole <vmkpi:monitoring> element".into())),
            _ => {
                return Err(fail(
                    "",
                    "only elements and attributes are expected here".into(),
                ));
            }
        }
    }
}

/// The reader's position on a character boundary of the text.
fn clamp(text: &str, position: u64) -> usize {
    let mut at = usize::try_from(position)
        .unwrap_or(usize::MAX)
        .min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn open(
    element: &BytesStart<'_>,
    place: Place,
    wire: &mut Wire,
) -> Result<Place, (String, String)> {
    let name = element.local_name().as_ref().to_owned();
    match (place, name.as_str()) {
        (Place::Outside, "monitoring") => {
            for (key, value) in attributes(element)? {
                let slot = match key.as_str() {
                    "vm" => &mut wire.vm,
                    "service" => &mut wire.service,
                    "primary_site" => &mut wire.primary_site,
                    _ => return Err(unknown(&key, "vm, service, primary_site")),
                };
                *slot = Some(value);
            }
            Ok(Place::Monitoring)
        }
        (Place::Monitoring, "monitor") => {
            let monitor = monitor(element, wire.monitor.len() + 1)?;
            wire.monitor.push(monitor);
            Ok(Place::Monitor)
        }
        (Place::Monitoring, "primary_key") => Ok(Place::Key),
        _ => Err((
            name,
            "unexpected element; <vmkpi:monitoring> holds <vmkpi:monitor> and \
             <vmkpi:primary_key>"
                .into(),
        )),
    }
}

fn monitor(element: &BytesStart<'_>, place: usize) -> Result<WireMonitor, (String, String)> {
    let mut monitor = WireMonitor::default();
    for (key, value) in attributes(element)? {
        let path = format!("monitor[{place}].{key}");
        let number = || {
            let message = format!("{value:?} is no whole number of milliseconds");
            value.parse().map(Some).map_err(|_| (path.clone(), message))
        };
        match key.as_str() {
            "id" => monitor.id = Some(value),
            "point" => monitor.point = Some(value),
            "interval_ms" => monitor.interval_ms = number()?,
            "interval" => monitor.interval = Some(value),
            "delivery_ms" => monitor.delivery_ms = number()?,
            "delivery" => monitor.delivery = Some(value),
            "format" => monitor.format = Some(value),
            "function" => monitor.function = Some(value),
            "when" => monitor.when = Some(serde::de::IgnoredAny),
            "seal" => monitor.seal = Some(serde::de::IgnoredAny),
            _ => {
                let known =
                    "id, point, interval_ms, interval, delivery_ms, delivery, format, function";
                return Err(unknown(&path, known));
            }
        }
    }
    Ok(monitor)
}

fn unknown(key: &str, known: &str) -> (String, String) {
    (key.into(), format!("unknown attribute; there are {known}"))
}

/// The attributes without namespace declarations, unescaped.
fn attributes(element: &BytesStart<'_>) -> Result<Vec<(String, String)>, (String, String)> {
    let mut found = Vec::new();
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|e| (String::new(), e.to_string()))?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let key = attribute.key.local_name().as_ref().to_owned();
        let value = quick_xml::escape::unescape(&attribute.value)
            .map_err(|e| (key.clone(), e.to_string()))?
            .into_owned();
        found.push((key, value));
    }
    Ok(found)
}
