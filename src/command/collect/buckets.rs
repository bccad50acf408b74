//! `/api/v1/buckets`: what was kept of one data point, thinned to what a picture can show: for each column the least,
//! the mean and the greatest of each bucket of time. A day of ten rows a second is read once and answered in some
//! hundred rows.

use std::time::{Duration, Instant};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};
use vmkpi::settings::units::parse_duration;

use super::page::{Answer, Format, Page};
use super::query::{LIMIT, MAX_PAGE_BYTES, format, instant, limit, parameters};
use bucket::Bucket;

mod bucket;

/// A page ends after so long; the next one goes on from there.
const MAX_PAGE_TIME: Duration = Duration::from_secs(2);
/// What one may say, for people.
pub const PARAMETERS: &str = "site, vm, point, specifier, from, to, step, limit, after, format";
const NAMES: [&str; 8] = [
    "time",
    "last",
    "until",
    "rows",
    "encrypted",
    "sealed",
    "data",
    "text",
];

/// Rows, windows (at their beginning) and sealed messages of a series by time. Each comes by an index, so they are
/// merged and nothing is sorted.
const SQL: &str = "\
    SELECT time, NULL, 1, data FROM sample WHERE series = ?1 AND time >= ?2 AND time < ?3 UNION ALL \
    SELECT window_from, window_to, 1, data FROM result WHERE series = ?1 AND window_from >= ?2 AND window_from < ?3 \
    UNION ALL SELECT time, NULL, through - after, NULL FROM sealed WHERE series = ?1 AND time >= ?2 AND time < ?3 \
    ORDER BY 1";

/// A question: what of one series between two times, in buckets of `step` that begin at multiples of it since 1970.
#[derive(Debug, Default)]
pub struct Buckets {
    names: [String; 4],
    /// From when to when, in microseconds since 1970.
    from: i64,
    to: i64,
    /// Microseconds.
    step: i64,
    /// The last bucket of the page before.
    after: Option<i64>,
    limit: u64,
    /// How the answer is written.
    pub format: Format,
}

impl Buckets {
    /// Reads the query of a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut question = Self {
            limit: LIMIT.0,
            ..Self::default()
        };
        let mut given = Vec::new();
        for pair in parameters(query) {
            let (key, value) = pair?;
            question.set(key, &value)?;
            given.push(key);
        }
        let needed = ["site", "vm", "point", "specifier", "from", "to", "step"];
        match needed.into_iter().find(|key| !given.contains(key)) {
            Some(key) => Err(format!("{key} is needed, of {PARAMETERS}")),
            None => Ok(question),
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "site" => value.clone_into(&mut self.names[0]),
            "vm" => value.clone_into(&mut self.names[1]),
            "point" => value.clone_into(&mut self.names[2]),
            "specifier" => value.clone_into(&mut self.names[3]),
            "from" => self.from = instant(key, value)?,
            "to" => self.to = instant(key, value)?,
            "step" => self.step = step(value)?,
            "limit" => self.limit = limit(value)?,
            "format" => self.format = format(value)?,
            "after" => match value.parse() {
                Ok(after) => self.after = Some(after),
                Err(_) => return Err("after: not the next of an earlier page".into()),
            },
            _ => return Err(format!("{key}: unknown; there are {PARAMETERS}")),
        }
        Ok(())
    }

    /// Asks the database.
    ///
    /// # Errors
    /// SQLite says so.
    pub fn ask(&self, connection: &Connection) -> rusqlite::Result<Answer> {
        let mut writer = Writer::new(self);
        let [site, vm, point, specifier] = &self.names;
        let sql = "SELECT series.id FROM series JOIN vm ON vm.id = series.vm \
                   WHERE site = ? AND name = ? AND point = ? AND specifier = ?";
        let names = params![site, vm, point, specifier];
        let series: Option<i64> = connection
            .query_row(sql, names, |row| row.get(0))
            .optional()?;
        let Some(series) = series else {
            return Ok(writer.page.end(None));
        };
        let resumed = |after: i64| after.saturating_add(self.step);
        let from = self.from.max(self.after.map_or(i64::MIN, resumed));
        let mut statement = connection.prepare(SQL)?;
        let mut rows = statement.query(params![series, from, self.to])?;
        let mut bucket: Option<Bucket> = None;
        while let Some(row) = rows.next()? {
            let time = row.get(0)?;
            let begin = floor(time, self.step);
            if let Some(whole) = bucket.take_if(|bucket| bucket.time != begin)
                && !writer.add(&whole)
            {
                return Ok(writer.page.end(Some(whole.time.to_string())));
            }
            let bucket = bucket.get_or_insert_with(|| Bucket::new(begin));
            bucket.add((time, row.get(1)?), row.get(2)?, row.get_ref(3)?);
        }
        bucket.iter().for_each(|last| {
            writer.add(last);
        });
        Ok(writer.page.end(None))
    }
}

/// A page of buckets that grows until it is full.
struct Writer {
    page: Page,
    names: Vec<String>,
    limit: u64,
    begin: Instant,
}

impl Writer {
    fn new(question: &Buckets) -> Self {
        let names: Vec<_> = NAMES.map(String::from).into();
        Self {
            page: Page::new(question.format, &names),
            names,
            limit: question.limit,
            begin: Instant::now(),
        }
    }

    /// Writes one; whether there is room for another.
    fn add(&mut self, bucket: &Bucket) -> bool {
        let (data, text) = (bucket.data(), bucket.text());
        let values = [
            ValueRef::Integer(bucket.time),
            ValueRef::Integer(bucket.last),
            bucket.until.map_or(ValueRef::Null, ValueRef::Integer),
            ValueRef::Integer(bucket.rows),
            ValueRef::Integer(bucket.encrypted),
            ValueRef::Integer(bucket.sealed),
            ValueRef::Text(data.as_bytes()),
            ValueRef::Text(text.as_bytes()),
        ];
        self.page.add_values(&self.names, &values);
        self.page.rows < self.limit
            && self.page.body.len() < MAX_PAGE_BYTES
            && self.begin.elapsed() < MAX_PAGE_TIME
    }
}

/// A step in microseconds.
fn step(text: &str) -> Result<i64, String> {
    let step = parse_duration(text).map_err(|why| format!("step: {why}"))?;
    i64::try_from(step.as_micros()).map_err(|_| "step: too long".into())
}

/// When the bucket of a time begins.
fn floor(time: i64, step: i64) -> i64 {
    time.saturating_sub(time.rem_euclid(step))
}

#[cfg(test)]
mod tests;
