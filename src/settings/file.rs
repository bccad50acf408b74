//! The configuration file: TOML, every key known, every problem with its line.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::nearest::nearest;
use super::problem::Problems;
use super::{Catalogue, Kind, Setting};

/// A value with its place.
pub type Value<'a> = Spanned<DeValue<'a>>;

/// A file that is read, and what is wrong with it.
pub struct Notes<'a> {
    /// The program, for advice.
    program: &'a str,
    /// The file, as errors name it.
    name: &'a str,
    text: &'a str,
    /// What is wrong so far.
    pub problems: Problems,
}

impl<'a> Notes<'a> {
    pub(super) fn new(program: &'a str, name: &'a str, text: &'a str) -> Self {
        Self {
            program,
            name,
            text,
            problems: Problems::default(),
        }
    }

    /// Notes a key that nobody knows, with the one that was meant.
    pub fn unknown<'k>(&mut self, at: usize, key: &str, known: impl Iterator<Item = &'k str>) {
        let message = match nearest(key, known) {
            Some(near) => format!("unknown key; did you mean {near}?"),
            None => format!(
                "unknown key; `{} run --print-config` shows all there are",
                self.program
            ),
        };
        self.problem(at, key, message);
    }

    /// Notes what is wrong at a byte of the text.
    pub fn problem(&mut self, at: usize, key: &str, message: impl Into<String>) {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.problems
            .add(format!("{}:{line}", self.name), key, message);
    }
}

/// Reads a file's text into settings.
pub(super) struct Reader<'r, 'a, S: 'static> {
    pub(super) catalogue: &'r Catalogue<S>,
    pub(super) notes: Notes<'a>,
    pub(super) settings: &'r mut S,
}

impl<'a, S: Default> Reader<'_, 'a, S> {
    /// Reads the text; what is wrong is in the notes then.
    pub(super) fn read(&mut self) {
        match DeTable::parse(self.notes.text) {
            Ok(table) => self.table("", table.get_ref()),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                self.notes.problem(at, "", error.message().trim());
            }
        }
    }

    fn table(&mut self, section: &str, table: &DeTable<'a>) {
        for (key, value) in in_order(table) {
            let full = match section {
                "" => key.get_ref().to_string(),
                section => format!("{section}.{}", key.get_ref()),
            };
            self.entry(&full, key, value);
        }
    }

    fn entry(&mut self, key: &str, name: &Spanned<DeString<'a>>, value: &Value<'a>) {
        let at = name.span().start;
        if let Some(tables) = self.catalogue.tables.iter().find(|t| t.key == key) {
            return (tables.read)(&mut self.notes, value, self.settings);
        }
        let settings = self.catalogue.settings;
        if let Some(setting) = settings.iter().find(|setting| setting.key == key) {
            return match setting.kind {
                Kind::Map => self.map(setting, value),
                _ => self.set(setting, value),
            };
        }
        let section = settings.iter().any(|setting| setting.section().0 == key);
        match value.get_ref() {
            DeValue::Table(table) if section => self.table(key, table),
            _ if section => {
                let message = format!("it is a section: write [{key}]");
                self.notes.problem(at, key, message);
            }
            _ => {
                let known = settings.iter().map(|setting| setting.key);
                let tables = self.catalogue.tables.iter().map(|tables| tables.key);
                self.notes.unknown(at, key, known.chain(tables));
            }
        }
    }

    fn set(&mut self, setting: &Setting<S>, value: &Value<'a>) {
        let done = text_of(setting.kind, value.get_ref())
            .ok_or_else(|| format!("it must be {}", setting.kind.describe()))
            .and_then(|text| setting.set(self.settings, &text));
        if let Err(message) = done {
            self.notes.problem(value.span().start, setting.key, message);
        }
    }

    fn map(&mut self, setting: &Setting<S>, value: &Value<'a>) {
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("it is a section: write [{}]", setting.key);
            let at = value.span().start;
            return self.notes.problem(at, setting.key, message);
        };
        for (name, value) in in_order(table) {
            let name: &str = name.get_ref();
            let done = match value.get_ref() {
                DeValue::String(_) if name.contains('=') => {
                    Err("no name here has a \"=\": write the UUID".to_owned())
                }
                DeValue::String(text) => setting.set(self.settings, &format!("{name}={text}")),
                DeValue::Table(_) => Err("a name with dots stands in quotes".to_owned()),
                _ => Err("it must be a string".to_owned()),
            };
            if let Err(message) = done {
                let key = format!("{}.{name}", setting.key);
                self.notes.problem(value.span().start, &key, message);
            }
        }
    }
}

/// The entries in the order of the file, not of the alphabet.
fn in_order<'t, 'a>(table: &'t DeTable<'a>) -> Vec<(&'t Spanned<DeString<'a>>, &'t Value<'a>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The value as text, if it is of that kind.
pub fn text_of(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    match (kind, value) {
        (Kind::Text | Kind::Mode | Kind::Account, DeValue::String(text)) => Some(text.to_string()),
        (Kind::Integer | Kind::Account, DeValue::Integer(integer)) => {
            // TOML writes numbers with underscores and in other bases, too.
            let plain = u64::from_str_radix(integer.as_str(), integer.radix());
            plain.ok().map(|n| n.to_string())
        }
        // A decimal 660 would be another mode than the one that is meant.
        (Kind::Mode, DeValue::Integer(integer)) if integer.radix() == 8 => {
            Some(integer.as_str().into())
        }
        (Kind::Boolean, DeValue::Boolean(value)) => Some(value.to_string()),
        _ => None,
    }
}
