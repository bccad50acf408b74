//! Typed values on their way from CSV text through SQLite to JSON. A value keeps its meaning: what
//! would not survive the round trip stays text.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Integers beyond this magnitude are strings in published JSON: a reader whose numbers are IEEE 754
/// doubles would round them (RFC 8259, section 6).
pub const MAX_SAFE_INTEGER: i64 = 1 << 53;

/// One value of a KPI or of an infrastructure measurement.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: an empty CSV field, or a column that the row did not have.
    Null,
    /// A whole number of 64 bits.
    Integer(i64),
    /// A finite IEEE 754 double.
    Real(f64),
    /// Any other text, as written.
    Text(Box<str>),
}

impl Value {
    /// The value that the CSV field `text` stands for.
    ///
    /// `42` is an integer and `4.2`, `.5`, `1e3` are reals; an empty field is NULL. What would not
    /// survive the round trip stays text: leading zeros or a plus sign, integers beyond 64 bits,
    /// reals that are not finite or have more than 17 significant digits (a double holds no more).
    ///
    /// ```
    /// use vmkpi::value::Value;
    /// assert_eq!(Value::from_csv("42"), Value::Integer(42));
    /// assert_eq!(Value::from_csv("4.2"), Value::Real(4.2));
    /// assert_eq!(Value::from_csv(""), Value::Null);
    /// assert_eq!(Value::from_csv("007"), Value::Text("007".into()));
    /// ```
    pub fn from_csv(text: &str) -> Self {
        if text.is_empty() {
            return Self::Null;
        }
        match Numeral::of(text) {
            Some(Numeral::Integer) if text != "-0" => text
                .parse()
                .map_or_else(|_| Self::Text(text.into()), Self::Integer),
            Some(Numeral::Real { digits, zero }) if digits <= 17 => match text.parse::<f64>() {
                Ok(real) if real.is_finite() && (real != 0.0 || zero) => Self::Real(real),
                _ => Self::Text(text.into()),
            },
            _ => Self::Text(text.into()),
        }
    }

    /// The value as a number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Integer(i) => Some(*i as f64),
            Self::Real(r) if r.is_finite() => Some(*r),
            _ => None,
        }
    }

    /// Bytes the value takes in memory, for budgets.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Text(text) => text.len(),
                _ => 0,
            }
    }
}

/// The shape of a decimal numeral.
enum Numeral {
    Integer,
    Real { digits: usize, zero: bool },
}

impl Numeral {
    /// `-?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][+-]?[0-9]+)?` with a digit before the exponent.
    fn of(text: &str) -> Option<Self> {
        let body = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = match body.find(['e', 'E']) {
            Some(at) => (&body[..at], Some(&body[at + 1..])),
            None => (body, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let whole_ok = match whole {
            "" => fraction.is_some(),
            _ => all_digits(whole) && (whole == "0" || !whole.starts_with('0')),
        };
        let exponent_ok =
            exponent.is_none_or(|e| all_digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
        if !whole_ok || !fraction.is_none_or(all_digits) || !exponent_ok {
            return None;
        }
        if fraction.is_none() && exponent.is_none() {
            return Some(Self::Integer);
        }
        let all: String = [whole, fraction.unwrap_or("")].concat();
        let significant = all.trim_start_matches('0').trim_end_matches('0');
        Some(Self::Real {
            digits: significant.len(),
            zero: significant.is_empty(),
        })
    }
}

/// The link's form: lossless between two vmkpi ends. Integers are JSON integers of 64 bits, reals
/// always have a fraction or an exponent.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Integer(i) => serializer.serialize_i64(*i),
            Self::Real(r) => serializer.serialize_f64(*r),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl Visitor<'_> for ValueVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null, a number or a string")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
                Ok(Value::Integer(v))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
                i64::try_from(v)
                    .map(Value::Integer)
                    .map_err(|_| E::custom("an integer beyond 64 bits"))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
                Ok(Value::Real(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Value, E> {
                Ok(Value::Text(v.into()))
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// A value in its published form: as in the link, but integers beyond ±2^53 are strings.
pub struct Published<'a>(pub &'a Value);

impl Serialize for Published<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Integer(i) if i.unsigned_abs() > MAX_SAFE_INTEGER.unsigned_abs() => {
                serializer.collect_str(i)
            }
            other => other.serialize(serializer),
        }
    }
}

/// Bytes as a base64 string (RFC 4648, section 4, with padding): the form binary data has in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Base64Bytes(pub Vec<u8>);

impl Serialize for Base64Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        BASE64
            .decode(text.as_bytes())
            .map(Self)
            .map_err(|_| de::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(s: &str) -> Value {
        Value::Text(s.into())
    }

    #[test]
    fn numbers_keep_their_meaning_and_the_rest_stays_text() {
        assert_eq!(Value::from_csv("42"), Value::Integer(42));
        assert_eq!(Value::from_csv("-1"), Value::Integer(-1));
        assert_eq!(
            Value::from_csv("9223372036854775807"),
            Value::Integer(i64::MAX)
        );
        assert_eq!(Value::from_csv("4.2"), Value::Real(4.2));
        assert_eq!(Value::from_csv("4.20"), Value::Real(4.2));
        assert_eq!(Value::from_csv(".5"), Value::Real(0.5));
        assert_eq!(Value::from_csv("0.0"), Value::Real(0.0));
        assert_eq!(Value::from_csv("1e3"), Value::Real(1000.0));
        assert_eq!(Value::from_csv("0.10000000000000001"), Value::Real(0.1));
        assert_eq!(Value::from_csv(""), Value::Null);
        for kept in [
            "007",
            "+5",
            "-0",
            "1e400",
            "1e-400",
            "18446744073709551616",
            "NaN",
            "inf",
            " 42",
            "5.",
            ".",
            "-",
            "1e",
            "0x10",
            "1_000",
            "=cmd()",
            "3.14159265358979323846",
            "--1",
        ] {
            assert_eq!(Value::from_csv(kept), text(kept), "{kept:?}");
        }
    }

    #[test]
    fn published_integers_beyond_two_to_the_53_are_strings() {
        let json = |v: &Value| serde_json::to_string(&Published(v)).unwrap();
        assert_eq!(json(&Value::Integer(1 << 53)), "9007199254740992");
        assert_eq!(json(&Value::Integer((1 << 53) + 1)), "\"9007199254740993\"");
        assert_eq!(json(&Value::Integer(i64::MIN)), "\"-9223372036854775808\"");
        assert_eq!(json(&Value::Real(4.0)), "4.0");
    }

    proptest! {
        #[test]
        fn every_integer_and_every_finite_double_survives(i: i64, r: f64) {
            prop_assert_eq!(Value::from_csv(&i.to_string()), Value::Integer(i));
            if r.is_finite() {
                prop_assert_eq!(Value::from_csv(&format!("{r:?}")), Value::Real(r));
            }
        }

        #[test]
        fn the_link_form_is_lossless(v in prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_filter("finite", |r| r.is_finite()).prop_map(Value::Real),
            ".*".prop_map(|s| Value::Text(s.into())),
        ]) {
            let json = serde_json::to_string(&v).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), v);
        }
    }
}
