//! A page of an answer: rows as JSON or CSV, with times, bytes and nested JSON as their columns' names say.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rusqlite::Row;
use rusqlite::types::ValueRef;
use vmkpi::clock::Timestamp;

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One object: `rows`, and `next` if there are more.
    #[default]
    Json,
    /// RFC 4180, with a header line.
    Csv,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The rows.
    pub body: String,
    /// What `after` of the next page is, if there are more rows.
    pub next: Option<String>,
}

/// A page that grows.
pub struct Page {
    format: Format,
    /// What is written so far.
    pub body: String,
    /// How many rows.
    pub rows: u64,
}

impl Page {
    /// One without rows; `names` are its columns.
    pub fn new(format: Format, names: &[String]) -> Self {
        let body = match format {
            Format::Json => "{\"rows\":[".to_owned(),
            Format::Csv => names.join(",") + "\r\n",
        };
        Self {
            format,
            body,
            rows: 0,
        }
    }

    /// Adds a row; what follows its columns is not shown.
    ///
    /// # Errors
    /// SQLite says so.
    pub fn add(&mut self, names: &[String], row: &Row<'_>) -> rusqlite::Result<()> {
        let values = (0..names.len()).map(|at| row.get_ref(at));
        self.add_values(names, &values.collect::<rusqlite::Result<Vec<_>>>()?);
        Ok(())
    }

    /// Adds a row of these values.
    pub fn add_values(&mut self, names: &[String], values: &[ValueRef<'_>]) {
        let separator = if self.rows > 0 { ",\n" } else { "\n" };
        self.rows += 1;
        if self.format == Format::Json {
            self.body.push_str(separator);
        }
        for (at, (name, value)) in names.iter().zip(values).enumerate() {
            let value = *value;
            match self.format {
                Format::Json => {
                    self.body.push(if at == 0 { '{' } else { ',' });
                    self.body.push_str(&json(name, value));
                }
                Format::Csv => {
                    if at > 0 {
                        self.body.push(',');
                    }
                    self.body.push_str(&cell(name, value));
                }
            }
        }
        self.body.push_str(match self.format {
            Format::Json => "}",
            Format::Csv => "\r\n",
        });
    }

    /// The answer; `next` if there are more rows.
    pub fn end(mut self, next: Option<String>) -> Answer {
        if self.format == Format::Json {
            let text = serde_json::Value::from(next.clone());
            self.body.push_str(&format!("\n],\"next\":{text}}}\n"));
        }
        Answer {
            body: self.body,
            next,
        }
    }
}

/// Columns that are times.
fn is_time(name: &str) -> bool {
    matches!(
        name,
        "time"
            | "heard"
            | "window_from"
            | "window_to"
            | "lease_expires"
            | "since"
            | "until"
            | "first"
            | "last"
    )
}

/// Columns that hold JSON.
fn is_json(name: &str) -> bool {
    matches!(name, "data" | "count" | "kpi" | "infra" | "text")
}

fn json(name: &str, value: ValueRef<'_>) -> String {
    let text = match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(time) if is_time(name) => format!("\"{}\"", Timestamp::from_micros(time)),
        ValueRef::Integer(flag) if matches!(name, "partial" | "forked" | "silent") => {
            (flag != 0).to_string()
        }
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => serde_json::Value::from(number).to_string(),
        ValueRef::Text(text) if is_json(name) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Text(text) => serde_json::Value::from(String::from_utf8_lossy(text)).to_string(),
        ValueRef::Blob(bytes) => {
            return format!("\"{name}_base64\":\"{}\"", BASE64_STANDARD.encode(bytes));
        }
    };
    format!("\"{name}\":{text}")
}

fn cell(name: &str, value: ValueRef<'_>) -> String {
    let text = match value {
        ValueRef::Null => return String::new(),
        ValueRef::Integer(time) if is_time(name) => Timestamp::from_micros(time).to_string(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => BASE64_STANDARD.encode(bytes),
    };
    match text.contains(['"', ',', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}
