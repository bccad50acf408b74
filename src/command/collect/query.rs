//! Questions to the database: which rows of which view, in what order, a bounded page at a time. Pure but for the
//! connection it is given.

use std::time::{Duration, Instant};

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, params_from_iter};
use vmkpi::clock::Timestamp;

use super::page::{Answer, Format, Page};

/// Rows in a page unless the question says otherwise, and the most.
pub const LIMIT: (u64, u64) = (1000, 10_000);
/// A page ends early when it is so large, in bytes.
pub const MAX_PAGE_BYTES: usize = 8 << 20;
/// A question that takes longer is given up.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Steps of SQLite's machine between two looks at the time.
const LOOK_STEPS: i32 = 10_000;

/// What can be asked for.
#[derive(Debug)]
pub struct View {
    /// Its name in the URL.
    pub name: &'static str,
    /// What is selected, and from what.
    select: &'static str,
    from: &'static str,
    /// The columns that a question may name.
    filters: &'static [&'static str],
    /// The columns that `from` and `to` are compared with.
    time: Option<[&'static str; 2]>,
    /// The order, which is unique: the next page begins behind the last row's.
    order: &'static [&'static str],
}

/// Everything that can be asked for.
pub const VIEWS: [View; 10] = [
    View {
        name: "sites",
        select: "site, count(*) AS vms, max(heard) AS heard, sum(missing) AS missing",
        from: "vms GROUP BY site",
        filters: &[],
        time: None,
        order: &[],
    },
    View {
        name: "vms",
        select: "site, vm, points, instances, heard, missing, lease, lease_expires, \
                 heard < (julianday('now') - 2440587.5) * 86400000000.0 - 180000000 AS silent",
        from: "vms",
        filters: &["site", "vm"],
        time: None,
        order: &["site", "vm"],
    },
    View {
        name: "points",
        select: "vm.site, vm.name AS vm, point, specifier, count(*) AS streams, max(heard) AS heard",
        from: "series JOIN vm ON vm.id = series.vm JOIN instance ON instance.series = series.id",
        filters: &["site", "vm", "point", "specifier"],
        time: None,
        order: &["series.id"],
    },
    View {
        name: "samples",
        select: "site, vm, point, specifier, stream, seq, printf('%016x', key) AS key, time, data",
        from: "samples",
        filters: &["site", "vm", "point", "specifier", "stream"],
        time: Some(["time"; 2]),
        order: &["time", "id"],
    },
    View {
        name: "results",
        select: "site, vm, point, specifier, stream, function, window_from, window_to, data, count, after, \
                 through, partial, forked, clock_skew_ms",
        from: "results",
        filters: &["site", "vm", "point", "specifier", "stream"],
        time: Some(["window_from"; 2]),
        order: &["window_from", "id"],
    },
    View {
        name: "joined",
        select: "site, vm, window_from, window_to, kpi_point, kpi_specifier, kpi_function, kpi, infra_point, \
                 infra_specifier, infra_function, infra, clock_skew_ms",
        from: "joined",
        filters: &[
            "site",
            "vm",
            "kpi_point",
            "kpi_specifier",
            "infra_point",
            "infra_specifier",
        ],
        time: Some(["window_from"; 2]),
        order: &["window_from", "kpi_id", "infra_id"],
    },
    View {
        name: "gaps",
        select: "site, vm, point, specifier, stream, after, through, reason, since, time",
        from: "gaps",
        filters: &["site", "vm", "point", "specifier", "stream"],
        time: Some(["time"; 2]),
        order: &["time", "id"],
    },
    View {
        name: "missing",
        select: "site, vm, point, specifier, stream, after, through, since, heard",
        from: "missing",
        filters: &["site", "vm", "point", "specifier", "stream"],
        time: None,
        order: &["site", "vm", "point", "specifier", "stream"],
    },
    View {
        name: "streams",
        select: "site, vm, point, specifier, stream, revision, first, last, heard, through",
        from: "streams",
        filters: &["site", "vm", "point", "specifier", "stream"],
        time: Some(["last", "first"]),
        order: &["site", "vm", "point", "specifier", "stream"],
    },
    View {
        name: "sealed",
        select: "site, vm, point, specifier, stream, after, through, kind, time, envelope",
        from: "sealed_messages",
        filters: &["site", "vm", "point", "specifier", "stream"],
        time: Some(["time"; 2]),
        order: &["time", "id"],
    },
];

/// A question.
#[derive(Debug)]
pub struct Question {
    view: &'static View,
    filters: Vec<(&'static str, String)>,
    from: Option<i64>,
    to: Option<i64>,
    after: Option<Vec<Value>>,
    limit: u64,
    /// How the answer is written.
    pub format: Format,
}

/// From now on what the connection is asked is given up after a while
/// ([`rusqlite::ErrorCode::OperationInterrupted`]).
///
/// # Errors
/// SQLite says so.
pub fn limit_time(connection: &mut Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + MAX_TIME;
    connection.progress_handler(LOOK_STEPS, Some(move || Instant::now() > deadline))
}

impl Question {
    /// Reads a path below `/api/v1/` and the query of a URL.
    ///
    /// # Errors
    /// `None`: there is no such view. Text: what is wrong with the query.
    pub fn parse(name: &str, query: &str) -> Result<Self, Option<String>> {
        let view = VIEWS.iter().find(|view| view.name == name).ok_or(None)?;
        let mut question = Self {
            view,
            filters: Vec::new(),
            from: None,
            to: None,
            after: None,
            limit: LIMIT.0,
            format: Format::Json,
        };
        for pair in parameters(query) {
            let (key, value) = pair.map_err(Some)?;
            question.set(key, value).map_err(Some)?;
        }
        Ok(question)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{key}: {what}"));
        match key {
            "from" | "to" if self.view.time.is_some() => {
                let time = instant(key, &value)?;
                match key {
                    "from" => self.from = Some(time),
                    _ => self.to = Some(time),
                }
            }
            "limit" => self.limit = limit(&value)?,
            "after" if !self.view.order.is_empty() => match place(&value) {
                Some(place) if place.len() == self.view.order.len() => self.after = Some(place),
                _ => return wrong("not the next of an earlier page"),
            },
            "format" => self.format = format(&value)?,
            _ => match self.view.filters.iter().find(|known| **known == key) {
                Some(known) => self.filters.push((known, value)),
                None => {
                    return wrong(&format!("unknown; there are {}", self.view.parameters()));
                }
            },
        }
        Ok(())
    }

    fn sql(&self) -> (String, Vec<Value>) {
        let (mut terms, mut values) = (Vec::new(), Vec::new());
        for (name, value) in &self.filters {
            let column = match *name {
                "vm" if self.view.name == "points" => "vm.name",
                name => name,
            };
            terms.push(format!("{column} = ?"));
            values.push(Value::Text(value.clone()));
        }
        let [from, to] = self.view.time.unwrap_or_default();
        for (column, compare, bound) in [(from, ">=", self.from), (to, "<", self.to)] {
            if let Some(bound) = bound {
                terms.push(format!("{column} {compare} ?"));
                values.push(Value::Integer(bound));
            }
        }
        let order = self.view.order.join(", ");
        if let Some(after) = &self.after {
            let marks = vec!["?"; after.len()].join(", ");
            terms.push(format!("({order}) > ({marks})"));
            values.extend(after.iter().cloned());
        }
        let mut keys = self
            .view
            .order
            .iter()
            .map(|key| format!(", {key}"))
            .collect::<String>();
        let group = if self.view.name == "points" {
            " GROUP BY series.id"
        } else {
            ""
        };
        if self.view.name == "sites" {
            keys.clear();
        }
        let filter = match terms.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", terms.join(" AND ")),
        };
        let order = match order.is_empty() {
            true => String::new(),
            false => format!(" ORDER BY {order}"),
        };
        // One more than asked for tells whether there is another page.
        let limit = self.limit + 1;
        let (select, from) = (self.view.select, self.view.from);
        let sql = format!("SELECT {select}{keys} FROM {from}{filter}{group}{order} LIMIT {limit}");
        (sql, values)
    }

    /// Asks the database.
    ///
    /// # Errors
    /// SQLite says so.
    pub fn ask(&self, connection: &Connection) -> rusqlite::Result<Answer> {
        let (sql, values) = self.sql();
        let mut statement = connection.prepare(&sql)?;
        let all = statement.column_count();
        let shown = all - self.view.order.len();
        let names = statement.column_names().take(shown);
        let names: Vec<String> = names.map(ToString::to_string).collect();
        let mut page = Page::new(self.format, &names);
        let mut rows = statement.query(params_from_iter(values))?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            if page.rows == self.limit || page.body.len() > MAX_PAGE_BYTES {
                return Ok(page.end(last));
            }
            page.add(&names, row)?;
            let keys = (shown..all).map(|at| Ok(key_text(row.get_ref(at)?)));
            last = Some(keys.collect::<rusqlite::Result<Vec<_>>>()?.join(","));
        }
        Ok(page.end(None))
    }
}

impl View {
    /// What a question may say, for people.
    pub fn parameters(&self) -> String {
        let mut all = self.filters.to_vec();
        if self.time.is_some() {
            all.extend(["from", "to"]);
        }
        all.push("limit");
        if !self.order.is_empty() {
            all.push("after");
        }
        all.push("format");
        all.join(", ")
    }
}

/// A row's place in the order, as text: numbers as they are, text in hexadecimal digits.
fn key_text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Text(text) => {
            let digits: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x{digits}")
        }
        _ => String::new(),
    }
}

fn place(text: &str) -> Option<Vec<Value>> {
    let part = |part: &str| match part.strip_prefix('x') {
        Some(digits) => Some(Value::Text(unhex(digits)?)),
        None => part.parse().ok().map(Value::Integer),
    };
    text.split(',').map(part).collect()
}

fn unhex(digits: &str) -> Option<String> {
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// The parameters of a URL's query, each with its value or what is wrong with it.
pub fn parameters(query: &str) -> impl Iterator<Item = Result<(&str, String), String>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value).ok_or_else(|| format!("{key}: not percent-encoded UTF-8"))?;
        Ok((key, value))
    })
}

/// A time, in microseconds since 1970.
///
/// # Errors
/// It is none, and how one is written.
pub fn instant(key: &str, text: &str) -> Result<i64, String> {
    let time = text.parse::<Timestamp>();
    time.map(Timestamp::as_micros)
        .map_err(|_| format!("{key}: a time as 2026-11-20T17:00:00Z is needed"))
}

/// How many rows.
///
/// # Errors
/// It is no such number, or too large.
pub fn limit(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(limit) if (1..=LIMIT.1).contains(&limit) => Ok(limit),
        _ => Err(format!("limit: a number from 1 to {} is needed", LIMIT.1)),
    }
}

/// How rows are written.
///
/// # Errors
/// There is no such format.
pub fn format(text: &str) -> Result<Format, String> {
    match text {
        "json" => Ok(Format::Json),
        "csv" => Ok(Format::Csv),
        _ => Err("format: json or csv is needed".into()),
    }
}

/// A value of a URL's query (WHATWG URL, application/x-www-form-urlencoded).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &tail[2..];
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::database::Database;

    fn ask(connection: &Connection, name: &str, query: &str) -> Answer {
        Question::parse(name, query)
            .unwrap()
            .ask(connection)
            .unwrap()
    }

    #[test]
    fn every_view_answers_in_pages_that_connect() {
        let dir = tempfile::tempdir().unwrap();
        let database =
            Database::open(&dir.path().join("kpi.db"), &crate::command::collect::SCHEMA).unwrap();
        let connection = &database.connection;
        connection
            .execute_batch(
                r#"INSERT INTO vm VALUES (1, 'acme', 'a "b"');
                INSERT INTO series VALUES (1, 1, 'unencrypted/web', 's'), (2, 1, 'infra/cpu', 'i');
                INSERT INTO instance VALUES (1, 1, '00', 'r', 9, NULL, 12, 0, 5, 1000000, 2000000),
                    (2, 2, '00', 'r', 9, NULL, 9, 0, 5, NULL, NULL);
                INSERT INTO sample VALUES (1, 1, 1, 1, 11, 1000000, '{"n":1}'), (2, 1, 1, 2, -1, 1000000, x'00ff'),
                    (3, 1, 1, 3, 13, 2000000, '{"n":3,"t":"x,y"}');
                INSERT INTO result VALUES (1, 1, 1, 0, 3, 0, 'mean', 0, 10, '{"n":2}', '{"n":2}', 0, 0, NULL),
                    (2, 2, 2, 0, 3, 0, 'mean', 0, 10, '{"c":2}', '{"c":2}', 1, 0, NULL);
                INSERT INTO gap VALUES (1, 1, 1, 3, 5, 'retention_age', 7, NULL);"#,
            )
            .unwrap();
        for view in &VIEWS {
            let body = ask(connection, view.name, "").body;
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            let rows = json["rows"].as_array().unwrap().len();
            assert!(rows > 0 || view.name == "sealed", "{}: {body}", view.name);
            let csv = ask(connection, view.name, "format=csv&limit=10").body;
            assert_eq!(csv.lines().count(), rows + 1, "{csv}");
        }
        let mut after = String::new();
        let mut seqs = Vec::new();
        loop {
            let query = format!("vm=a+%22b%22&point=unencrypted/web&limit=1{after}");
            let answer = ask(connection, "samples", &query);
            let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            seqs.push(json["rows"][0]["seq"].as_u64().unwrap());
            let Some(next) = answer.next else { break };
            after = format!("&after={next}");
        }
        assert_eq!(seqs, [1, 2, 3]);
        let bytes = ask(connection, "samples", "").body;
        assert!(bytes.contains(r#""key":"ffffffffffffffff""#), "{bytes}");
        assert!(bytes.contains(r#""data_base64":"AP8=""#), "{bytes}");
        let part = "from=1970-01-01T00:00:01.5Z&to=1970-01-01T00:00:02.5Z&format=csv";
        let csv = ask(connection, "samples", part).body;
        assert!(csv.contains(r#","{""n"":3,""t"":""x,y""}""#), "{csv}");
        let missing = ask(connection, "missing", "limit=1").body;
        assert!(
            missing.contains(r#""after":9,"through":12,"since":"1970-01-01T00:00:02"#),
            "{missing}"
        );
        let streams = |query| {
            ask(connection, "streams", query)
                .body
                .matches("stream")
                .count()
        };
        assert_eq!(
            streams("from=1970-01-01T00:00:02Z&to=1970-01-01T00:00:03Z"),
            1
        );
        assert_eq!(streams("from=1970-01-01T00:00:03Z"), 0);
        let vms = ask(connection, "vms", "").body;
        assert!(vms.contains(r#""silent":true"#), "{vms}");
    }

    #[test]
    fn who_is_silent_is_so_everywhere() {
        let after = format!("- {}000000 AS silent", super::super::status::SILENT_AFTER_S);
        assert!(VIEWS[1].select.contains(&after), "{after}");
    }

    #[test]
    fn what_is_no_question_is_refused_and_says_what_is() {
        assert!(matches!(Question::parse("secrets", ""), Err(None)));
        for (view, query, hint) in [
            ("samples", "limit=0", "1 to 10000"),
            ("samples", "limit=99999", "1 to 10000"),
            ("samples", "from=yesterday", "2026-11-20"),
            ("samples", "after=1", "earlier page"),
            ("samples", "after=x4,x", "earlier page"),
            ("samples", "where=1", "there are site, vm"),
            ("vms", "from=2026-11-20T17:00:00Z", "there are site, vm"),
            ("samples", "vm=%ff", "UTF-8"),
            ("samples", "format=xml", "json or csv"),
        ] {
            let error = Question::parse(view, query).unwrap_err().unwrap();
            assert!(error.contains(hint), "{query}: {error}");
        }
    }
}
