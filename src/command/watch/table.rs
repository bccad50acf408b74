//! What people see: one row for each column of a data point, with its last value, its age and how
//! often it came. On a terminal the rows are updated in place, elsewhere each sample is a line.

use std::collections::BTreeMap;

use vmkpi::clock::Timestamp;
use vmkpi::message::{Body, Event, Sample, SampleBody, Sealed};

use super::text::{age, fit, number, safe, value};

/// The most rows remembered; what comes beyond is counted and said.
const MAX_ROWS: usize = 2000;
/// The least room for each column of the table, in terminal columns.
const WIDTHS: [usize; 6] = [10, 20, 12, 18, 8, 7];
const TITLES: [&str; 6] = ["VM", "POINT", "COLUMN", "VALUE", "AGE", "COUNT"];

/// VM, point with function, specifier, column.
type Key = (String, String, String, String);

struct Row {
    value: String,
    time: Timestamp,
    count: u64,
}

/// Everything shown so far.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<Key, Row>,
    left_out: u64,
}

/// One column's new value.
struct Update {
    column: String,
    value: String,
    time: Timestamp,
}

impl Table {
    /// Takes what is new.
    pub fn update(&mut self, event: &Event) {
        for update in updates(event) {
            let point = match &event.body {
                Body::Processed(p) => format!("{} {}", event.point, p.function),
                _ => event.point.to_string(),
            };
            let vm = event.vm.as_str().to_owned();
            let key = (
                vm,
                point,
                event.specifier.as_str().to_owned(),
                update.column,
            );
            if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&key) {
                self.left_out += 1;
                continue;
            }
            let row = self.rows.entry(key).or_insert(Row {
                value: String::new(),
                time: update.time,
                count: 0,
            });
            row.value = update.value;
            row.time = update.time;
            row.count += 1;
        }
    }

    /// The table in `width` columns and at most `height` lines.
    pub fn render(&self, now: Timestamp, (width, height): (u16, u16)) -> Vec<String> {
        let (width, height) = (usize::from(width), usize::from(height).max(4));
        let widths = column_widths(width);
        let mut lines = vec![join(&TITLES.map(str::to_owned), &widths)];
        let room = height - 3;
        for ((vm, point, _, column), row) in self.rows.iter().take(room) {
            let seconds = now.as_seconds_f64() - row.time.as_seconds_f64();
            let cells = [
                vm,
                point,
                column,
                &row.value,
                &age(seconds),
                &row.count.to_string(),
            ];
            lines.push(join(&cells.map(String::clone), &widths));
        }
        let more = self.rows.len().saturating_sub(room) as u64 + self.left_out;
        if self.rows.is_empty() {
            lines.push(fit(
                "waiting for the first sample ...",
                width.saturating_sub(1),
            ));
        } else if more > 0 {
            lines.push(fit(
                &format!("... and {more} more"),
                width.saturating_sub(1),
            ));
        }
        lines
    }
}

/// The room a terminal has more than the least goes to point, column and value.
fn column_widths(width: usize) -> [usize; 6] {
    let least: usize = WIDTHS.iter().sum::<usize>() + WIDTHS.len();
    let spare = width.saturating_sub(least);
    let mut widths = WIDTHS;
    for (column, share) in [(0, 5), (1, 3), (2, 4), (3, 5)] {
        widths[column] += (spare / share).min(24);
    }
    // A narrow terminal, or rounding: cut from the left until everything fits.
    let mut over = (widths.iter().sum::<usize>() + widths.len()).saturating_sub(width);
    for column in &mut widths {
        let cut = over.min(column.saturating_sub(4));
        *column -= cut;
        over -= cut;
    }
    widths
}

fn join(cells: &[String; 6], widths: &[usize; 6]) -> String {
    let cells: Vec<String> = cells.iter().zip(widths).map(|(c, w)| fit(c, *w)).collect();
    cells.join(" ").trim_end().to_owned()
}

/// The lines of a message where standard output is no terminal.
pub fn plain_lines(event: &Event) -> Vec<String> {
    let head = |time: Timestamp| {
        format!(
            "{time} {} {} [{}]",
            safe(event.vm.as_str()),
            safe(&event.point.to_string()),
            safe(event.specifier.as_str())
        )
    };
    match &event.body {
        Body::Raw(samples) => samples
            .iter()
            .map(|s| format!("{} {}", head(s.time), pairs(sample_columns(s))))
            .collect(),
        Body::Processed(p) => {
            let columns = p.values.iter().map(|(c, v)| (safe(c), number(*v)));
            vec![format!(
                "{} {} {}",
                head(p.to),
                safe(&p.function),
                pairs(columns.collect())
            )]
        }
        Body::Gap(reason) => vec![format!("{} {}", head(event.time), gap(event, reason))],
        Body::Sealed(body) => {
            let columns = pairs(vec![sealed_column(body)]);
            vec![format!("{} {columns}", head(event.time))]
        }
    }
}

/// A row that was asked for, as a line.
pub fn plain_row(row: &Sample) -> String {
    format!("{} {}", row.time, pairs(sample_columns(row)))
}

/// What a gap says to people.
pub fn gap(event: &Event, reason: &str) -> String {
    let (first, last) = (event.after.seq.saturating_add(1), event.through.seq);
    format!("rows {first} to {last} were lost: {}", safe(reason))
}

fn pairs(columns: Vec<(String, String)>) -> String {
    let pairs: Vec<String> = columns
        .into_iter()
        .map(|(c, v)| format!("{c}={v}"))
        .collect();
    pairs.join(" ")
}

fn sample_columns(sample: &Sample) -> Vec<(String, String)> {
    match &sample.body {
        SampleBody::Values(values) => values.iter().map(|(c, v)| (safe(c), value(v))).collect(),
        SampleBody::Data(bytes) => vec![("data".into(), format!("({} bytes)", bytes.0.len()))],
    }
}

/// What is shown of an envelope.
fn sealed_column(sealed: &Sealed) -> (String, String) {
    let bytes = sealed.envelope.len();
    (
        "sealed".into(),
        format!("({}, {bytes} bytes)", sealed.kind.as_str()),
    )
}

fn updates(event: &Event) -> Vec<Update> {
    let of = |time: Timestamp, columns: Vec<(String, String)>| {
        columns.into_iter().map(move |(column, value)| Update {
            column,
            value,
            time,
        })
    };
    match &event.body {
        Body::Raw(samples) => samples
            .iter()
            .flat_map(|s| of(s.time, sample_columns(s)))
            .collect(),
        Body::Processed(p) => {
            let columns = p
                .values
                .iter()
                .map(|(c, v)| (safe(c), number(*v)))
                .collect();
            of(p.to, columns).collect()
        }
        Body::Gap(_) => vec![],
        Body::Sealed(body) => of(event.time, vec![sealed_column(body)]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;
    use vmkpi::message::Values;
    use vmkpi::position::{Position, RowKey, StreamId};
    use vmkpi::value::Value;

    fn event(vm: &str, column: &str, text: &str) -> Event {
        let values = Values {
            columns: [column.into()].into(),
            row: vec![Value::Text(text.into())],
        };
        let sample = Sample {
            seq: 1,
            key: RowKey(1),
            time: Timestamp::from_micros(0),
            body: SampleBody::Values(values),
        };
        Event {
            site: "acme".parse().unwrap(),
            vm: vm.parse().unwrap(),
            point: "unencrypted/web".parse().unwrap(),
            specifier: "load".parse().unwrap(),
            revision: "00".into(),
            stream: StreamId(1),
            after: Position { seq: 0, key: None },
            through: Position { seq: 1, key: None },
            base: Position::START,
            time: Timestamp::from_micros(0),
            clock_skew_ms: None,
            body: Body::Raw(vec![sample]),
        }
    }

    #[test]
    fn the_table_fits_every_terminal_and_shows_no_control_character() {
        let mut table = Table::default();
        for n in 0..50 {
            table.update(&event(
                &format!("vm{n}"),
                "a\u{1b}[31m漢字",
                "\u{1b}]0;owned\u{7}\r\n",
            ));
        }
        for (width, height) in [(20, 5), (80, 24), (200, 100), (1, 1)] {
            let lines = table.render(Timestamp::from_micros(5_000_000), (width, height));
            assert!(lines.len() < usize::from(height).max(4), "{width}x{height}");
            for line in &lines {
                assert!(!line.contains(char::is_control), "{line:?}");
                assert!(width < 40 || line.width() < usize::from(width), "{line:?}");
            }
        }
    }

    #[test]
    fn a_row_counts_and_shows_the_last_value() {
        let mut table = Table::default();
        for text in ["one", "two", "three"] {
            table.update(&event("shop", "a", text));
        }
        let lines = table.render(Timestamp::from_micros(1_500_000), (100, 24));
        assert!(
            lines[1].contains("three") && lines[1].contains("1.5 s"),
            "{lines:?}"
        );
        assert!(lines[1].ends_with('3'), "{lines:?}");
    }

    #[test]
    fn a_flood_of_names_is_counted_not_kept() {
        let mut table = Table::default();
        for n in 0..MAX_ROWS + 5 {
            table.update(&event("shop", &format!("c{n}"), "x"));
        }
        assert_eq!((table.rows.len(), table.left_out), (MAX_ROWS, 5));
    }
}
