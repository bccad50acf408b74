//! `[[poll]]` in the configuration file.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use vmkpi::name::{DataPoint, NameError};
use vmkpi::settings::units::{duration, parse_duration};
use vmkpi::settings::{Kind, Notes, Value, quote, text_of};

use super::{Settings, accounts};
use crate::poller::{DEFAULT_TIMEOUT, MAX_INTERVAL, MAX_POLLS, MIN_INTERVAL, Poll};
use crate::store::Point;

/// The keys of a `[[poll]]`, with an example and their help.
pub(super) const KEYS: [(&str, &str, &str); 5] = [
    ("point", "\"unencrypted/queue\"", "The file to store to"),
    (
        "command",
        "[\"/usr/local/bin/queue-kpis\", \"--csv\"]",
        "The program and its arguments; no shell; prints CSV as it would be written to the file",
    ),
    ("interval", "\"10s\"", "How often it is run, 100ms to 1d"),
    (
        "timeout",
        "\"5s\"",
        "When it is killed, with its process group; otherwise the interval, at most 10s",
    ),
    (
        "user",
        "\"nobody\"",
        "Who runs it, by name or number; otherwise who runs the program",
    ),
];

/// The most arguments of a command, and the most bytes of each.
const MAX_ARGUMENTS: usize = 256;
const MAX_ARGUMENT_BYTES: usize = 4096;

/// Reads the array of tables.
pub(super) fn read_all<'a>(notes: &mut Notes<'a>, value: &Value<'a>, settings: &mut Settings) {
    let at = value.span().start;
    let DeValue::Array(tables) = value.get_ref() else {
        return notes.problem(at, "poll", "it is a list of tables: write [[poll]]");
    };
    if tables.len() > MAX_POLLS {
        let message = format!("{} commands; at most {MAX_POLLS} are run", tables.len());
        return notes.problem(at, "poll", message);
    }
    let mut points = HashSet::new();
    for (place, table) in (1..).zip(tables.iter()) {
        let key = format!("poll[{place}]");
        let at = table.span().start;
        let DeValue::Table(table) = table.get_ref() else {
            notes.problem(at, &key, "it is a table: write [[poll]]");
            continue;
        };
        let mut one = One {
            notes: &mut *notes,
            at,
            key: &key,
            table,
        };
        if let Some(poll) = one.read() {
            if !points.insert(poll.point.clone()) {
                let message = format!("{} is another command's point already", poll.point);
                notes.problem(at, &format!("{key}.point"), message);
            }
            settings.polls.push(poll);
        }
    }
}

/// Writes the polls at the end of the annotated file.
pub(super) fn write_all(settings: &Settings, text: &mut String) {
    text.push_str(
        "\n# A command whose output is stored, for applications that cannot write themselves. As many as there are.\n",
    );
    // Writing to a String cannot fail.
    if settings.polls.is_empty() {
        text.push_str("# [[poll]]\n");
        for (key, value, help) in KEYS {
            let _ = writeln!(text, "# # {help}.\n# {key} = {value}");
        }
    }
    for poll in &settings.polls {
        let _ = writeln!(text, "[[poll]]");
        let _ = writeln!(text, "point = {}", quote(&poll.point.to_string()));
        let words: Vec<String> = poll.command.iter().map(|word| quote(word)).collect();
        let _ = writeln!(text, "command = [{}]", words.join(", "));
        let _ = writeln!(text, "interval = {}", quote(&duration(poll.interval)));
        let _ = writeln!(text, "timeout = {}", quote(&duration(poll.timeout)));
        if let Some(user) = &poll.user {
            let _ = writeln!(text, "user = {}", quote(user));
        }
    }
}

/// Its keys and what each is, for the reference.
pub(super) fn reference() -> Vec<(&'static str, &'static str)> {
    KEYS.iter().map(|(key, _, help)| (*key, *help)).collect()
}

/// One table on its way to a [`Poll`].
struct One<'r, 'a> {
    notes: &'r mut Notes<'a>,
    at: usize,
    key: &'r str,
    table: &'r DeTable<'a>,
}

impl One<'_, '_> {
    fn read(&mut self) -> Option<Poll> {
        let before = self.notes.problems.0.len();
        for (name, _) in self.table {
            let name_text: &str = name.get_ref();
            if !KEYS.iter().any(|(key, ..)| *key == name_text) {
                let key = format!("{}.{name_text}", self.key);
                let known = KEYS.iter().map(|(key, ..)| *key);
                self.notes.unknown(name.span().start, &key, known);
            }
        }
        let point = self.value("point", true, |text| point(&text));
        let command = self.command();
        let interval = self.value("interval", true, |text| period(&text));
        let timeout = self.value("timeout", false, |text| period(&text));
        let user = self.value("user", false, |text| accounts::name(&text));
        let interval = interval?;
        let poll = Poll {
            point: point?,
            command: command?,
            interval,
            timeout: timeout.unwrap_or(interval.min(DEFAULT_TIMEOUT)),
            user,
        };
        (self.notes.problems.0.len() == before).then_some(poll)
    }

    fn value<T>(
        &mut self,
        name: &str,
        needed: bool,
        read: impl FnOnce(String) -> Result<T, String>,
    ) -> Option<T> {
        let key = format!("{}.{name}", self.key);
        let Some(value) = self.table.get(name) else {
            if needed {
                self.notes
                    .problem(self.at, &key, "missing; it must be given");
            }
            return None;
        };
        let kind = if name == "user" {
            Kind::Account
        } else {
            Kind::Text
        };
        let read = text_of(kind, value.get_ref())
            .ok_or_else(|| format!("it must be {}", kind.describe()))
            .and_then(read);
        read.map_err(|message| self.notes.problem(value.span().start, &key, message))
            .ok()
    }

    fn command(&mut self) -> Option<Vec<String>> {
        let key = format!("{}.command", self.key);
        let Some(value) = self.table.get("command") else {
            self.notes
                .problem(self.at, &key, "missing; it must be given");
            return None;
        };
        let words = match value.get_ref() {
            DeValue::Array(words) => words.iter().map(|w| word(w.get_ref())).collect(),
            _ => None,
        };
        let words: Option<Vec<String>> = words.filter(|words: &Vec<String>| {
            !words.is_empty() && words.len() <= MAX_ARGUMENTS && !words[0].is_empty()
        });
        if words.is_none() {
            let message = format!(
                "it must be a list of strings, the program first, such as [\"/bin/cat\", \"/proc/loadavg\"]; \
                 at most {MAX_ARGUMENTS} of at most {MAX_ARGUMENT_BYTES} bytes"
            );
            self.notes.problem(value.span().start, &key, message);
        }
        words
    }
}

fn word(value: &DeValue<'_>) -> Option<String> {
    let text = value.as_str()?;
    (text.len() <= MAX_ARGUMENT_BYTES && !text.contains('\0')).then(|| text.to_owned())
}

fn point(text: &str) -> Result<Point, String> {
    match text.parse().map_err(|e: NameError| e.to_string())? {
        DataPoint::Kpi(area, name) => Ok(Point {
            area,
            name: name.into(),
        }),
        other => Err(format!(
            "{other} is the hypervisor's: write unencrypted/NAME or encrypted/NAME"
        )),
    }
}

fn period(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    match (MIN_INTERVAL..=MAX_INTERVAL).contains(&duration) {
        true => Ok(duration),
        false => Err(format!("{text:?} is not between 100ms and 1d")),
    }
}
