//! One bucket of time: what there was of each column, whatever the number of rows.

use std::collections::BTreeMap;
use std::fmt;

use rusqlite::types::ValueRef;
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};

/// The most columns of a bucket; what comes over it is left out.
const MAX_COLUMNS: usize = 1000;
/// Characters of a text that are shown.
const MAX_TEXT: usize = 80;
/// From so many characters on text may be an integer that no double holds (docs/MESSAGES.md), so it was not written
/// as a number.
const LARGE_INTEGER: usize = 16;

/// A bucket.
#[derive(Debug)]
pub struct Bucket {
    /// When it begins, in microseconds since 1970.
    pub time: i64,
    /// When the latest row is, or the latest window begins.
    pub last: i64,
    /// When the latest window in it ends; none, where it is of rows.
    pub until: Option<i64>,
    /// Rows, windows and rows of sealed messages.
    pub rows: i64,
    /// Those of them that the guest has encrypted.
    pub encrypted: i64,
    /// Those of them in messages that the host has sealed.
    pub sealed: i64,
    numbers: BTreeMap<String, Numbers>,
    texts: BTreeMap<String, String>,
}

/// The numbers of a column.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    least: f64,
    sum: f64,
    greatest: f64,
    count: u64,
}

impl Bucket {
    /// An empty one.
    pub fn new(time: i64) -> Self {
        Self {
            time,
            last: time,
            until: None,
            rows: 0,
            encrypted: 0,
            sealed: 0,
            numbers: BTreeMap::new(),
            texts: BTreeMap::new(),
        }
    }

    /// Takes a row: a JSON object of columns; bytes, which are encrypted; nothing, which is so many rows sealed.
    pub fn add(&mut self, (time, until): (i64, Option<i64>), rows: i64, data: ValueRef<'_>) {
        self.last = self.last.max(time);
        self.until = self.until.max(until);
        self.rows = self.rows.saturating_add(rows);
        match data {
            // The database holds what collect has written: an object.
            ValueRef::Text(text) => {
                let _ = serde_json::Deserializer::from_slice(text).deserialize_map(Columns(self));
            }
            ValueRef::Blob(_) => self.encrypted = self.encrypted.saturating_add(rows),
            _ => self.sealed = self.sealed.saturating_add(rows),
        }
    }

    /// Least, mean and greatest of each column of numbers, as JSON.
    pub fn data(&self) -> String {
        let all = self.numbers.iter().map(|(name, n)| {
            let mean = n.sum / n.count as f64;
            (name.clone(), json!([n.least, mean, n.greatest]))
        });
        Value::Object(all.collect()).to_string()
    }

    /// The latest text of each column of texts, as JSON.
    pub fn text(&self) -> String {
        let all = self.texts.iter();
        let all: Map<_, _> = all.map(|(k, v)| (k.clone(), v.as_str().into())).collect();
        Value::Object(all).to_string()
    }

    fn number(&mut self, column: &str, value: f64) {
        let one = Numbers {
            least: value,
            sum: value,
            greatest: value,
            count: 1,
        };
        let room = self.columns() < MAX_COLUMNS;
        match self.numbers.get_mut(column) {
            Some(n) => {
                n.least = n.least.min(value);
                n.greatest = n.greatest.max(value);
                n.sum += value;
                n.count += 1;
            }
            None if room => {
                self.numbers.insert(column.to_owned(), one);
            }
            None => {}
        }
    }

    fn word(&mut self, column: &str, text: &str) {
        let room = self.columns() < MAX_COLUMNS;
        let text: String = text.chars().take(MAX_TEXT).collect();
        match self.texts.get_mut(column) {
            Some(last) => *last = text,
            None if room => {
                self.texts.insert(column.to_owned(), text);
            }
            None => {}
        }
    }

    fn columns(&self) -> usize {
        self.numbers.len() + self.texts.len()
    }
}

/// Takes each column of a row as it is read: nothing is built of it.
struct Columns<'a>(&'a mut Bucket);

impl<'de> Visitor<'de> for Columns<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(column) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            map.next_value_seed(Cell(self.0, &column))?;
        }
        Ok(())
    }
}

/// Takes one value of a column.
struct Cell<'a>(&'a mut Bucket, &'a str);

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Cell<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.number(self.1, value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.0.number(self.1, value as f64);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.number(self.1, value as f64);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        match text.parse::<i64>() {
            Ok(number) if text.len() >= LARGE_INTEGER => self.0.number(self.1, number as f64),
            _ => self.0.word(self.1, text),
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.number(self.1, f64::from(u8::from(value)));
        Ok(())
    }

    // Columns have no values of these kinds; what is inside is passed over.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
