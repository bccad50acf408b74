//! CSV as the partition takes it: one or two records (RFC 4180, with a byte order mark, CRLF or LF).
//! Two records: the first names the columns. One: they are `column1`, `column2`, ... What the
//! reader would have to guess at is refused, so that nothing is stored with a meaning its writer did
//! not give it.

use std::cell::RefCell;
use std::collections::HashSet;

use vmkpi::name::MAX_NAME_BYTES;
use vmkpi::value::Value;

/// One store's columns: their labels and the values, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    /// The column names, distinct when ASCII case is folded.
    pub labels: Vec<Box<str>>,
    /// The values, one for each label.
    pub values: Vec<Value>,
}

/// Why bytes are not one store's CSV.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// Not UTF-8.
    #[error("byte {0} is not UTF-8")]
    Encoding(usize),
    /// A NUL character.
    #[error("byte {0} is NUL")]
    Nul(usize),
    /// Nothing but line ends.
    #[error("there is no record in it")]
    Empty,
    /// More than a header and one record.
    #[error("there are more than two records: write a header and one record, or one record")]
    TooManyRecords,
    /// A quote that is never closed.
    #[error("the quote at byte {0} is never closed")]
    UnclosedQuote(usize),
    /// A quote inside an unquoted field, or text after a closing quote.
    #[error("the quote at byte {0} neither begins nor ends its field")]
    StrayQuote(usize),
    /// A carriage return without a newline.
    #[error("the carriage return at byte {0} has no newline after it")]
    BareReturn(usize),
    /// A record that has not as many fields as the header.
    #[error("the header has {labels} fields and the record {values}")]
    Ragged {
        /// Fields of the header.
        labels: usize,
        /// Fields of the record.
        values: usize,
    },
    /// Two labels that are equal when ASCII case is folded.
    #[error("the label {0:?} is there twice")]
    Duplicate(String),
    /// A label with a leading underscore: those are vmkpi's own.
    #[error("the label {0:?} begins with an underscore, which vmkpi keeps for itself")]
    Underscore(String),
    /// A label over [`MAX_NAME_BYTES`] or with a control character.
    #[error("the label {0:?} is longer than {MAX_NAME_BYTES} bytes or has a control character")]
    Label(String),
    /// More columns than the limit.
    #[error("there are {columns} columns; at most {limit} are allowed")]
    TooManyColumns {
        /// Columns found.
        columns: usize,
        /// Columns allowed.
        limit: usize,
    },
}

/// Reads one store's CSV.
///
/// # Errors
/// See [`CsvError`].
pub fn parse(bytes: &[u8], max_columns: usize) -> Result<Columns, CsvError> {
    let text = std::str::from_utf8(bytes).map_err(|e| CsvError::Encoding(e.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    well_formed(text.as_bytes())?;
    let (first, second) = records(text)?;
    if first.len() > max_columns {
        return Err(CsvError::TooManyColumns {
            columns: first.len(),
            limit: max_columns,
        });
    }
    let Some(record) = second else {
        return Ok(Columns {
            labels: (0..first.len()).map(standard_label).collect(),
            values: first.fields().map(Value::from_csv).collect(),
        });
    };
    if first.len() != record.len() {
        return Err(CsvError::Ragged {
            labels: first.len(),
            values: record.len(),
        });
    }
    Ok(Columns {
        labels: labels(&first)?,
        values: record.fields().map(Value::from_csv).collect(),
    })
}

/// A record's fields, without their quotes, one after the other.
struct Record {
    text: String,
    ends: Vec<usize>,
}

impl Record {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn fields(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(from, to)| &self.text[from..*to])
    }
}

thread_local! {
    /// Making a reader builds its state machine, which costs more than reading one store with it.
    static READER: RefCell<csv_core::Reader> = RefCell::new(csv_core::Reader::new());
}

/// The one or two records in `text`.
fn records(text: &str) -> Result<(Record, Option<Record>), CsvError> {
    READER.with_borrow_mut(|reader| {
        reader.reset();
        let mut rest = text.as_bytes();
        let first = next_record(reader, &mut rest).ok_or(CsvError::Empty)?;
        let second = next_record(reader, &mut rest);
        if second.is_some() && next_record(reader, &mut rest).is_some() {
            return Err(CsvError::TooManyRecords);
        }
        Ok((first, second))
    })
}

/// The next record; none at the end.
fn next_record(reader: &mut csv_core::Reader, input: &mut &[u8]) -> Option<Record> {
    use csv_core::ReadRecordResult::{
        End, InputEmpty, OutputEndsFull, OutputFull, Record as Whole,
    };
    // What is read is never longer than what it is read from.
    let (mut text, mut ends) = (vec![0; input.len()], vec![0; 16]);
    let (mut text_len, mut ends_len) = (0, 0);
    loop {
        let (result, read, written, ended) =
            reader.read_record(input, &mut text[text_len..], &mut ends[ends_len..]);
        *input = &input[read..];
        text_len += written;
        ends_len += ended;
        match result {
            // Called again with nothing, it ends the record.
            InputEmpty => {}
            OutputFull => text.resize(2 * text.len() + 16, 0),
            OutputEndsFull => ends.resize(2 * ends.len(), 0),
            End => return None,
            Whole => break,
        }
    }
    text.truncate(text_len);
    ends.truncate(ends_len);
    let text = String::from_utf8(text).ok()?;
    Some(Record { text, ends })
}

/// The name of the column at `place`, counted from 0, when the file gives none.
fn standard_label(place: usize) -> Box<str> {
    format!("column{}", place + 1).into()
}

fn labels(header: &Record) -> Result<Vec<Box<str>>, CsvError> {
    let mut seen = HashSet::with_capacity(header.len());
    let mut labels = Vec::with_capacity(header.len());
    for (place, text) in header.fields().enumerate() {
        let label = match text.trim() {
            "" => standard_label(place),
            _ => text.into(),
        };
        if label.starts_with('_') {
            return Err(CsvError::Underscore(label.into()));
        }
        if label.len() > MAX_NAME_BYTES || label.chars().any(char::is_control) {
            return Err(CsvError::Label(label.chars().take(64).collect()));
        }
        // As SQLite folds column names: ASCII alone.
        if !seen.insert(label.to_ascii_lowercase()) {
            return Err(CsvError::Duplicate(label.into()));
        }
        labels.push(label);
    }
    Ok(labels)
}

/// The csv reader is lenient: it takes an unclosed quote through the end, a quote in the middle of a
/// field as text, and a lone carriage return as a line end. A half-written file looks like that.
fn well_formed(text: &[u8]) -> Result<(), CsvError> {
    if !text.iter().any(|b| matches!(b, b'"' | b'\r' | 0)) {
        return Ok(());
    }
    enum At {
        FieldStart,
        Plain,
        Quoted(usize),
        QuoteEnd(usize),
    }
    let mut at = At::FieldStart;
    for (i, byte) in text.iter().enumerate() {
        at = match (at, byte) {
            (_, 0) => return Err(CsvError::Nul(i)),
            (At::FieldStart | At::QuoteEnd(_) | At::Plain, b',' | b'\n') => At::FieldStart,
            (At::FieldStart | At::QuoteEnd(_) | At::Plain, b'\r') => {
                if text.get(i + 1) != Some(&b'\n') {
                    return Err(CsvError::BareReturn(i));
                }
                At::FieldStart
            }
            (At::FieldStart, b'"') => At::Quoted(i),
            (At::Plain, b'"') => return Err(CsvError::StrayQuote(i)),
            (At::FieldStart | At::Plain, _) => At::Plain,
            (At::Quoted(from), b'"') => At::QuoteEnd(from),
            (At::Quoted(from), _) => At::Quoted(from),
            (At::QuoteEnd(from), b'"') => At::Quoted(from),
            (At::QuoteEnd(_), _) => return Err(CsvError::StrayQuote(i - 1)),
        };
    }
    match at {
        At::Quoted(from) => Err(CsvError::UnclosedQuote(from)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<(Vec<String>, Vec<Value>), CsvError> {
        parse(text.as_bytes(), 1000)
            .map(|c| (c.labels.iter().map(ToString::to_string).collect(), c.values))
    }

    fn ok(text: &str, labels: &[&str], values: &[Value]) {
        let (l, v) = read(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert_eq!(l, labels, "{text:?}");
        assert_eq!(v, values, "{text:?}");
    }

    fn t(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn one_record_has_standard_names_and_two_bring_their_own() {
        use Value::{Integer, Null, Real};
        ok("42\n", &["column1"], &[Integer(42)]);
        ok("42", &["column1"], &[Integer(42)]);
        ok("a,b", &["column1", "column2"], &[t("a"), t("b")]);
        ok(
            "users,load\n42,4.5\n",
            &["users", "load"],
            &[Integer(42), Real(4.5)],
        );
        ok("\u{feff}users\r\n7\r\n", &["users"], &[Integer(7)]);
        ok("a,b\n,x\n", &["a", "b"], &[Null, t("x")]);
        ok(
            "\"a,1\",\"b\"\"q\"\n\"x\ny\",=cmd()\n",
            &["a,1", "b\"q"],
            &[t("x\ny"), t("=cmd()")],
        );
        ok(
            "007,1e400,18446744073709551616\n",
            &["column1", "column2", "column3"],
            &[t("007"), t("1e400"), t("18446744073709551616")],
        );
    }

    #[test]
    fn a_blank_label_takes_the_standard_name_of_its_place() {
        ok(
            "a,,c\n1,2,3\n",
            &["a", "column2", "c"],
            &[Value::Integer(1), Value::Integer(2), Value::Integer(3)],
        );
        ok(
            "a, ,c\n1,2,3\n",
            &["a", "column2", "c"],
            &[Value::Integer(1), Value::Integer(2), Value::Integer(3)],
        );
        assert_eq!(
            read("column2,\n1,2\n").unwrap_err(),
            CsvError::Duplicate("column2".into())
        );
    }

    #[test]
    fn what_would_have_to_be_guessed_is_refused() {
        for (text, error) in [
            ("", CsvError::Empty),
            ("\n\r\n", CsvError::Empty),
            ("\u{feff}", CsvError::Empty),
            ("a\n1\n2\n", CsvError::TooManyRecords),
            (
                "a,b\n1\n",
                CsvError::Ragged {
                    labels: 2,
                    values: 1,
                },
            ),
            (
                "a\n1,2\n",
                CsvError::Ragged {
                    labels: 1,
                    values: 2,
                },
            ),
            ("a,A\n1,2\n", CsvError::Duplicate("A".into())),
            ("_seq\n1\n", CsvError::Underscore("_seq".into())),
            ("a,\"b\n1,2\n", CsvError::UnclosedQuote(2)),
            ("a\n5\" disk\n", CsvError::StrayQuote(3)),
            ("a\n\"x\"y\n", CsvError::StrayQuote(4)),
            ("a\r1\r", CsvError::BareReturn(1)),
            ("a\0b", CsvError::Nul(1)),
            ("\"a\nb\"\n1\n", CsvError::Label("a\nb".into())),
        ] {
            assert_eq!(read(text).unwrap_err(), error, "{text:?}");
        }
        assert_eq!(parse(b"a\xff", 9).unwrap_err(), CsvError::Encoding(1));
        assert_eq!(
            parse(b"1,2,3", 2).unwrap_err(),
            CsvError::TooManyColumns {
                columns: 3,
                limit: 2
            }
        );
        assert!(read(&format!("{}\n1\n", "x".repeat(201))).is_err());
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_it_answers(bytes in prop::collection::vec(prop_oneof![
            Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()], 0..64)) {
            if let Ok(c) = parse(&bytes, 8) {
                prop_assert_eq!(c.labels.len(), c.values.len());
                prop_assert!(!c.labels.is_empty());
            }
        }

        #[test]
        fn what_a_csv_writer_writes_is_read_back(values in prop::collection::vec("[^\0\r\n]{0,12}", 1..6)) {
            prop_assume!(values != [""]);
            let mut out = csv::WriterBuilder::new().from_writer(Vec::new());
            let labels: Vec<String> = (0..values.len()).map(|i| format!("l{i}")).collect();
            out.write_record(&labels).unwrap();
            out.write_record(&values).unwrap();
            let read = parse(&out.into_inner().unwrap(), 100).unwrap();
            prop_assert_eq!(read.values, values.iter().map(|v| Value::from_csv(v)).collect::<Vec<_>>());
        }
    }
}
