//! What a spelling is read into, whichever it is: keys and values with their lines, so that every error
//! can say where it is.

use super::{DescriptorError, Spelling, json, toml, xml};

/// Values nested deeper than this are not looked into: a descriptor has no use for them.
pub(super) const MAX_DEPTH: usize = 4;

/// A value and the line it is on, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// A number, in its own digits.
    Number(String),
    Boolean(bool),
    /// Keys with their values; a key may be there twice.
    Table(Vec<(String, Node)>),
    List(Vec<Node>),
    /// Anything else: what it is.
    Other(&'static str),
}

impl Value {
    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Number(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Table(_) => "a table",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
        }
    }
}

impl Node {
    fn field(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Table(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, n)| n),
            _ => None,
        }
    }

    /// The line of `key`, as in `monitor[2].function`; of an absent one the line of its table, and none
    /// where that is the whole text.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        let (mut at, mut line) = (self, None);
        for part in key.split('.') {
            let (name, index) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
                Some((name, index)) => (name, index.parse::<usize>().ok()),
                None => (part, None),
            };
            let Some(node) = at.field(name) else { break };
            at = match (&node.value, index) {
                (Value::List(items), Some(index)) => items.get(index.wrapping_sub(1))?,
                _ => node,
            };
            line = Some(at.line);
        }
        line
    }
}

/// Reads a text: what could be read of it, with what else is wrong; or nothing could.
pub(super) fn read(
    text: &str,
    spelling: Spelling,
) -> Result<(Node, Vec<DescriptorError>), Vec<DescriptorError>> {
    match spelling {
        Spelling::Toml => toml::read(text).map(|node| (node, Vec::new())),
        Spelling::Json => json::read(text)
            .map(|node| (node, Vec::new()))
            .map_err(|error| vec![error]),
        Spelling::Xml => xml::read(text, xml::Document::Metadata),
        Spelling::Ovf => xml::read(text, xml::Document::Envelope),
    }
}

/// The line that the byte at `offset` is on.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|b| **b == b'\n').count()
}

/// The line of `part`, a piece of `text` itself; 1 where it is none.
pub(super) fn line_of_part(text: &str, part: &str) -> usize {
    let offset = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    if offset <= text.len() {
        line_at(text, offset)
    } else {
        1
    }
}
