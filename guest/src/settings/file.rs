//! The configuration file: TOML, every key known, every problem with its line.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::nearest::nearest;
use super::problem::Problems;
use super::{Kind, SETTINGS, Setting, Settings, poll};

/// The longest file that is read, in bytes.
pub(super) const MAX_FILE_BYTES: usize = 256 << 10;

/// A value with its place.
type Value<'a> = Spanned<DeValue<'a>>;

/// What is read, and what is wrong with it.
pub(super) struct Reader<'a> {
    /// The file, as errors name it.
    name: &'a str,
    text: &'a str,
    pub(super) problems: Problems,
}

impl<'a> Reader<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        Self {
            name,
            text,
            problems: Problems::default(),
        }
    }

    /// Reads the text into `settings`; what is wrong is in `problems` then.
    pub(super) fn read(&mut self, settings: &mut Settings) {
        match DeTable::parse(self.text) {
            Ok(table) => self.table("", table.get_ref(), settings),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                self.problem(at, "", error.message().trim());
            }
        }
    }

    fn table(&mut self, section: &str, table: &DeTable<'a>, settings: &mut Settings) {
        // In the order of the file, not of the alphabet.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let full = match section {
                "" => key.get_ref().to_string(),
                section => format!("{section}.{}", key.get_ref()),
            };
            self.entry(&full, key, value, settings);
        }
    }

    fn entry(
        &mut self,
        key: &str,
        name: &Spanned<DeString<'a>>,
        value: &Value<'a>,
        settings: &mut Settings,
    ) {
        let at = name.span().start;
        if key == "poll" {
            return poll::read_all(self, value, settings);
        }
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
            return self.set(setting, value, settings);
        }
        let section = SETTINGS.iter().any(|setting| setting.section().0 == key);
        match value.get_ref() {
            DeValue::Table(table) if section => self.table(key, table, settings),
            _ if section => self.problem(at, key, format!("it is a section: write [{key}]")),
            _ => {
                let known = SETTINGS.iter().map(|setting| setting.key);
                self.unknown(at, key, known.chain(["poll"]));
            }
        }
    }

    fn set(&mut self, setting: &Setting, value: &Value<'a>, settings: &mut Settings) {
        let done = text_of(setting.kind, value.get_ref())
            .ok_or_else(|| format!("it must be {}", setting.kind.describe()))
            .and_then(|text| setting.set(settings, &text));
        if let Err(message) = done {
            self.problem(value.span().start, setting.key, message);
        }
    }

    /// Notes a key that nobody knows, with the one that was meant.
    pub(super) fn unknown<'k>(
        &mut self,
        at: usize,
        key: &str,
        known: impl Iterator<Item = &'k str>,
    ) {
        let message = match nearest(key, known) {
            Some(near) => format!("unknown key; did you mean {near}?"),
            None => "unknown key; `vmkpi-guest run --print-config` shows all there are".into(),
        };
        self.problem(at, key, message);
    }

    /// Notes what is wrong at a byte of the text.
    pub(super) fn problem(&mut self, at: usize, key: &str, message: impl Into<String>) {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.problems
            .add(format!("{}:{line}", self.name), key, message);
    }
}

/// The value as text, if it is of that kind.
pub(super) fn text_of(kind: Kind, value: &DeValue<'_>) -> Option<String> {
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
