//! How a file's bytes follow from its last row. A program writes its KPI in one form again and again,
//! with other values in it: as long as the row gives the very same bytes back, a store writes the row
//! and nothing else. The form is the bytes with a placeholder for each value.

use vmkpi::value::Value;

use super::RowData;

/// Begins a placeholder. No CSV that is stored has a NUL in it, and of other content nothing is looked at.
const PLACE: u8 = 0;

/// The value as Rust writes it: for a double the shortest digits that read back as the same double.
const NATURAL: u8 = b'v';

/// `FIXED + n`: a double with `n` digits after the point, as `printf("%.2f")` writes.
const FIXED: u8 = b'0';

/// A row's bytes as they are.
const BYTES: u8 = b'b';

/// Digits after the point that a placeholder can ask for; a double holds no more.
const MAX_DECIMALS: usize = 17;

/// A file's bytes without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form(Box<[u8]>);

impl Form {
    /// The form of `bytes`, of which `row` was read; none where the row does not give them back (quoted
    /// fields, `1.50` in one place and `1.5` in another).
    pub fn of(bytes: &[u8], row: &RowData) -> Option<Self> {
        let form = match row {
            RowData::Bytes => Self(Box::new([PLACE, BYTES])),
            RowData::Columns(columns) => Self::of_record(bytes, &columns.values)?,
        };
        form.gives(bytes, row).then_some(form)
    }

    /// A form as it was stored.
    pub fn stored(form: Vec<u8>) -> Self {
        Self(form.into())
    }

    /// The form as it is stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn of_record(bytes: &[u8], values: &[Value]) -> Option<Self> {
        let end = bytes.trim_ascii_end().len();
        let start = bytes[..end].iter().rposition(|b| *b == b'\n');
        let start = start.map_or(0, |newline| newline + 1);
        let fields = bytes[start..end].split(|b| *b == b',');
        let mut form = bytes[..start].to_vec();
        for (place, (field, value)) in fields.zip(values).enumerate() {
            if place > 0 {
                form.push(b',');
            }
            form.extend([PLACE, kind_of(field, value)]);
        }
        form.extend(&bytes[end..]);
        Some(Self(form.into()))
    }

    /// Whether the form, with the values of `row` in it, is `bytes`.
    pub fn gives(&self, bytes: &[u8], row: &RowData) -> bool {
        match row {
            RowData::Bytes => self.is_all(),
            RowData::Columns(columns) => {
                let mut rest = bytes;
                self.walk(&columns.values, |piece| match rest.strip_prefix(piece) {
                    Some(after) => {
                        rest = after;
                        true
                    }
                    None => false,
                }) && rest.is_empty()
            }
        }
    }

    /// Whether the bytes are those of a row that vmkpi does not parse.
    pub fn is_all(&self) -> bool {
        *self.0 == [PLACE, BYTES]
    }

    /// The bytes, with these values in their places.
    pub fn fill(&self, values: &[Value]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() + 8 * values.len());
        self.walk(values, |piece| {
            bytes.extend_from_slice(piece);
            true
        });
        bytes
    }

    /// The bytes with a digit in each place: what the labels are read from.
    pub fn sample(&self) -> Vec<u8> {
        let places = self.0.iter().filter(|b| **b == PLACE).count();
        self.fill(&vec![Value::Integer(0); places])
    }

    /// Hands the pieces of the bytes to `take`, in order, until it refuses one; says whether it took
    /// all, and there was a value for each place.
    fn walk(&self, values: &[Value], mut take: impl FnMut(&[u8]) -> bool) -> bool {
        let mut pieces = self.0.split(|b| *b == PLACE);
        if !pieces.next().is_none_or(&mut take) {
            return false;
        }
        let mut values = values.iter();
        for piece in pieces {
            let (Some((kind, literal)), Some(value)) = (piece.split_first(), values.next()) else {
                return false;
            };
            if !write_value(*kind, value, &mut take) || !take(literal) {
                return false;
            }
        }
        values.next().is_none()
    }
}

/// How `field` is written, if its value can be written so.
fn kind_of(field: &[u8], value: &Value) -> u8 {
    if write_value(NATURAL, value, |text| text == field) {
        return NATURAL;
    }
    let point = field.iter().position(|b| *b == b'.');
    let decimals = point.map_or(0, |at| field.len() - at - 1);
    // Only ASCII digits are written: the sum stays a byte.
    FIXED + u8::try_from(decimals.min(MAX_DECIMALS)).unwrap_or(0)
}

fn write_value(kind: u8, value: &Value, take: impl FnOnce(&[u8]) -> bool) -> bool {
    use std::io::Write as _;
    // Doubles are written in full below 1e16 and above 1e-5, with an exponent beyond: 32 bytes hold both.
    let mut buffer = [0; 32];
    let mut room = &mut buffer[..];
    let written = match (value, kind) {
        (Value::Null, _) => return take(b""),
        (Value::Text(text), _) => return take(text.as_bytes()),
        (Value::Integer(integer), _) => write!(room, "{integer}"),
        (Value::Real(real), NATURAL) => write!(room, "{real:?}"),
        (Value::Real(real), kind) => {
            let decimals = usize::from(kind.saturating_sub(FIXED)).min(MAX_DECIMALS);
            write!(room, "{real:.decimals$}")
        }
    };
    let left = room.len();
    written.is_ok() && take(&buffer[..buffer.len() - left])
}

#[cfg(test)]
mod tests {
    use super::super::row_data;
    use super::*;
    use proptest::prelude::*;
    use vmkpi::name::Area;

    fn row(text: &str) -> RowData {
        row_data(Area::Unencrypted, text.as_bytes(), 100).unwrap()
    }

    fn labels(row: &RowData) -> &[Box<str>] {
        match row {
            RowData::Columns(columns) => &columns.labels,
            RowData::Bytes => &[],
        }
    }

    fn values(row: &RowData) -> &[Value] {
        match row {
            RowData::Columns(columns) => &columns.values,
            RowData::Bytes => &[],
        }
    }

    #[test]
    fn a_form_holds_for_other_values_of_the_same_shape() {
        for (first, second) in [
            ("42\n", "43\n"),
            ("users,load\n42,0.75\n", "users,load\n-1,1e300\n"),
            ("a,b\r\n1.50,x y\r\n", "a,b\r\n0.05,\r\n"),
            ("a\n007", "a\n8"),
            ("\"a\"\n1\n", "\"a\"\n2\n"),
            ("\n\na,b\n1,2\n\n", "\n\na,b\n3,4\n\n"),
        ] {
            let form = Form::of(first.as_bytes(), &row(first)).expect(first);
            assert!(form.gives(second.as_bytes(), &row(second)), "{second:?}");
            assert_eq!(form.fill(values(&row(second))), second.as_bytes());
            let sample = String::from_utf8(form.sample()).unwrap();
            assert_eq!(labels(&row(&sample)), labels(&row(first)));
        }
    }

    #[test]
    fn other_bytes_are_noticed() {
        let form = Form::of(b"a,b\n1,2\n", &row("a,b\n1,2\n")).unwrap();
        for other in [
            "a,b\n1,2",
            "b,a\n1,2\n",
            "a,b\r\n1,2\r\n",
            "a\n1\n",
            "1,2\n",
            "a,b,c\n1,2,3\n",
        ] {
            assert!(!form.gives(other.as_bytes(), &row(other)), "{other:?}");
        }
        let fixed = Form::of(b"1.50", &row("1.50")).unwrap();
        assert!(!fixed.gives(b"1.5", &row("1.5")));
    }

    #[test]
    fn what_the_row_does_not_give_back_has_no_form() {
        for text in ["a\n\"1\"\n", "\u{feff}1\n", "1e3\n"] {
            assert_eq!(Form::of(text.as_bytes(), &row(text)), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_form_gives_the_bytes_it_was_made_of(
            header in any::<bool>(), crlf in any::<bool>(), end in any::<bool>(),
            fields in prop::collection::vec(
                prop_oneof!["-?[0-9]{1,20}", "-?[0-9]{1,5}\\.[0-9]{1,18}", "[0-9]e-?[0-9]{1,3}", "[a-z. \"]{0,6}", ""], 1..5)
        ) {
            let newline = if crlf { "\r\n" } else { "\n" };
            let mut text = String::new();
            if header {
                let labels: Vec<String> = (0..fields.len()).map(|i| format!("l{i}")).collect();
                text = labels.join(",") + newline;
            }
            text += &fields.join(",");
            if end { text += newline; }
            if let Ok(row) = row_data(Area::Unencrypted, text.as_bytes(), 100)
                && let Some(form) = Form::of(text.as_bytes(), &row) {
                prop_assert_eq!(form.fill(values(&row)), text.as_bytes());
                prop_assert!(form.gives(text.as_bytes(), &row));
            }
        }
    }
}
