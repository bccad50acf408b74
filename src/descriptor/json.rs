//! The JSON spelling. serde_json tells no lines, but a raw value is a piece of the text, and its place
//! tells the line.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::DescriptorError;
use super::tree::{MAX_DEPTH, Node, Value, line_of_part};

pub(super) fn read(text: &str) -> Result<Node, DescriptorError> {
    // A mark that other systems put before UTF-8 is no part of it.
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let refuse = |e: serde_json::Error| DescriptorError {
        line: (e.line() > 0).then(|| e.line()),
        key: String::new(),
        message: format!("not JSON: {e}"),
    };
    let raw: &RawValue = serde_json::from_str(body).map_err(refuse)?;
    node(text, raw, 0).map_err(refuse)
}

/// Keys and values in their order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    fields.push((key.into_owned(), value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

fn node(text: &str, raw: &RawValue, depth: usize) -> serde_json::Result<Node> {
    let part = raw.get();
    let value = match part.as_bytes().first() {
        Some(b'"') => Value::Text(serde_json::from_str(part)?),
        Some(b't' | b'f') => Value::Boolean(serde_json::from_str(part)?),
        Some(b'n') => Value::Other("null"),
        Some(b'{' | b'[') if depth > MAX_DEPTH => Value::Other("something nested too deeply"),
        Some(b'{') => {
            let fields: Fields<'_> = serde_json::from_str(part)?;
            let fields = fields.0.into_iter();
            let fields = fields.map(|(key, raw)| Ok((key, node(text, raw, depth + 1)?)));
            Value::Table(fields.collect::<serde_json::Result<_>>()?)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(part)?;
            let items = items.into_iter().map(|raw| node(text, raw, depth + 1));
            Value::List(items.collect::<serde_json::Result<_>>()?)
        }
        _ => Value::Number(part.to_owned()),
    };
    Ok(Node {
        line: line_of_part(text, part),
        value,
    })
}
