//! What people see: one row for each column of a data point, with its last value, its age and how
//! often it came. On a terminal the rows are updated in place, elsewhere each sample is a line.

use std::collections::BTreeMap;

use vmkpi::clock::Timestamp;
use vmkpi::message::{Body, Event, Sample, SampleBody, Sealed};

use super::sparkline::{MAX_VALUES, Recent, Style};
use super::text::{age, fit, number, safe, value};

/// The most rows remembered; what comes beyond is counted and said.
const MAX_ROWS: usize = 2000;
/// The least room for each column of the table, in terminal columns.
const WIDTHS: [usize; 7] = [10, 20, 12, 18, 0, 8, 7];
const TITLES: [&str; 7] = ["VM", "POINT", "COLUMN", "VALUE", "RECENT", "AGE", "COUNT"];
/// The same with sparklines: a number needs less room than a text.
const WIDTHS_WITH_SPARKLINES: [usize; 7] = [10, 18, 12, 12, 8, 8, 7];
/// A terminal that is narrower has no sparklines.
const SPARKLINES_FROM: usize = 80;

/// VM, point with function, specifier, column.
type Key = (String, String, String, String);

struct Row {
    value: String,
    time: Timestamp,
    count: u64,
    recent: Recent,
}

/// Everything shown so far.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<Key, Row>,
    left_out: u64,
    style: Style,
}

/// One column's new value.
struct Update {
    column: String,
    value: String,
    /// The value, if it is a number.
    number: Option<f64>,
    time: Timestamp,
}

impl Table {
    /// An empty one, with sparklines in this style.
    pub fn new(style: Style) -> Self {
        Self {
            style,
            ..Self::default()
        }
    }

    /// Rows before this message, or of it, never came.
    pub fn interrupt(&mut self, event: &Event) {
        let (vm, specifier) = (event.vm.as_str(), event.specifier.as_str());
        let point = event.point.to_string();
        let of_point = |shown: &str| {
            let function = shown.strip_prefix(&point);
            function.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        for (key, row) in &mut self.rows {
            if key.0 == vm && of_point(&key.1) && key.2 == specifier {
                row.recent.interrupt();
            }
        }
    }

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
                recent: Recent::default(),
            });
            row.value = update.value;
            row.recent.push(update.number);
            row.time = update.time;
            row.count += 1;
        }
    }

    /// The table in `width` columns and at most `height` lines.
    pub fn render(&self, now: Timestamp, (width, height): (u16, u16)) -> Vec<String> {
        let (width, height) = (usize::from(width), usize::from(height).max(4));
        let widths = column_widths(width, self.style);
        let mut lines = vec![join(&TITLES.map(str::to_owned), &widths)];
        let room = height - 3;
        for ((vm, point, _, column), row) in self.rows.iter().take(room) {
            let seconds = now.as_seconds_f64() - row.time.as_seconds_f64();
            let cells = [
                vm,
                point,
                column,
                &row.value,
                &row.recent.draw(widths[4], self.style),
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

/// The room a terminal has more than the least goes to VM, point, column, value and sparkline.
fn column_widths(width: usize, style: Style) -> [usize; 7] {
    let has_sparklines = style != Style::None && width >= SPARKLINES_FROM;
    let mut widths = match has_sparklines {
        true => WIDTHS_WITH_SPARKLINES,
        false => WIDTHS,
    };
    let gaps = widths.iter().filter(|width| **width > 0).count();
    let spare = width.saturating_sub(widths.iter().sum::<usize>() + gaps);
    for (column, share) in [(0, 6), (1, 4), (2, 5), (3, 5)] {
        widths[column] += (spare / share).min(24);
    }
    if has_sparklines {
        widths[4] = (widths[4] + spare / 6).min(MAX_VALUES);
    }
    // A narrow terminal, or rounding: cut from the left until everything fits.
    let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
    for column in &mut widths {
        let cut = over.min(column.saturating_sub(4));
        *column -= cut;
        over -= cut;
    }
    widths
}

/// A line; a column without room is left out.
fn join(cells: &[String; 7], widths: &[usize; 7]) -> String {
    let shown = cells.iter().zip(widths).filter(|(_, width)| **width > 0);
    let cells: Vec<String> = shown.map(|(cell, width)| fit(cell, *width)).collect();
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
    let of = |time, (column, value), number| Update {
        column,
        value,
        number,
        time,
    };
    match &event.body {
        Body::Raw(samples) => samples
            .iter()
            .flat_map(|s| {
                let columns = sample_columns(s).into_iter().zip(sample_numbers(s));
                columns.map(|(column, number)| of(s.time, column, number))
            })
            .collect(),
        Body::Processed(p) => {
            let values = p.values.iter();
            let update = values.map(|(c, v)| of(p.to, (safe(c), number(*v)), Some(*v)));
            update.collect()
        }
        Body::Gap(_) => vec![],
        Body::Sealed(body) => vec![of(event.time, sealed_column(body), None)],
    }
}

/// Beside [`sample_columns`]: the values that are numbers.
fn sample_numbers(sample: &Sample) -> Vec<Option<f64>> {
    match &sample.body {
        SampleBody::Values(values) => values.iter().map(|(_, v)| v.as_f64()).collect(),
        SampleBody::Data(_) => vec![None],
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
        let mut table = Table::new(Style::Blocks);
        for n in 0..50 {
            let column = "a\u{1b}[31m漢字";
            table.update(&event(&format!("vm{n}"), column, "\u{1b}]0;owned\u{7}\r\n"));
            (0..40).for_each(|n| table.update(&numbers(column, Value::Integer(n), "load")));
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

    /// A message of one number of the point.
    fn numbers(column: &str, value: Value, specifier: &str) -> Event {
        let mut event = event("shop", column, "");
        event.specifier = specifier.parse().unwrap();
        if let Body::Raw(samples) = &mut event.body {
            samples[0].body = SampleBody::Values(Values {
                columns: [column.into()].into(),
                row: vec![value],
            });
        }
        event
    }

    fn filled(style: Style) -> Table {
        let mut table = Table::new(style);
        for n in [3, 1, 4, 1, 5, 9, 2, 6] {
            table.update(&numbers("users", Value::Integer(n), "load"));
            if n == 9 {
                table.interrupt(&numbers("users", Value::Null, "load"));
                table.interrupt(&numbers("users", Value::Null, "another"));
            }
        }
        table.update(&numbers("temperature", Value::Real(21.5), "load"));
        table.update(&numbers("temperature", Value::Null, "load"));
        table.update(&numbers("word", Value::Text("on".into()), "load"));
        table
    }

    #[test]
    fn the_table_with_sparklines_is_the_golden_one() {
        let now = Timestamp::from_micros(1_500_000);
        assert_eq!(
            filled(Style::Blocks).render(now, (100, 24)),
            [
                "VM            POINT                  COLUMN          VALUE           RECENT      AGE      COUNT",
                "shop          unencrypted/web        temperature     -               ▄           1.5 s    2",
                "shop          unencrypted/web        users           6               ▃▁▄▁▅█ ▂▆   1.5 s    8",
                "shop          unencrypted/web        word            on                          1.5 s    1",
            ]
        );
        assert_eq!(
            filled(Style::Ascii).render(now, (80, 24))[2],
            "shop     unencrypted/web    users        6            .=.+@ :* 1.5 s    8",
            "in fewer columns, the last of them"
        );
    }

    #[test]
    fn without_sparklines_or_room_for_them_there_is_no_column() {
        let now = Timestamp::from_micros(1_500_000);
        for (style, width) in [(Style::None, 100), (Style::Blocks, 79)] {
            let lines = filled(style).render(now, (width, 24));
            assert!(lines[0].contains("VALUE"), "{lines:?}");
            assert!(!lines[0].contains("RECENT"), "{lines:?}");
            assert!(!lines.concat().contains(['▁', '█']), "{lines:?}");
        }
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
