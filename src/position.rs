//! Streams, row keys and positions: how two machines that never share a clock agree on which row
//! is meant (docs/DELIVERY.md, "Rows, streams, positions").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::text::text_serde;

/// Text that is not the hexadecimal form of an identifier.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not {digits} lower-case hexadecimal digits")]
pub struct HexError {
    text: String,
    digits: usize,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident($int:ty), $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $digits, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                let error = || HexError { text: text.chars().take(64).collect(), digits: $digits };
                let plain = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
                if text.len() != $digits || !text.bytes().all(plain) {
                    return Err(error());
                }
                <$int>::from_str_radix(text, 16).map(Self).map_err(|_| error())
            }
        }

        text_serde!($name);
    };
}

hex_id! {
    /// A stream: one uninterrupted history of a store. 128 random bits, minted when the store is
    /// created and whenever it is found to have gone back in time. 32 hexadecimal digits as text.
    StreamId(u128), 32
}
hex_id! {
    /// A row's key: 64 random bits made when the row is stored and kept for ever. Who knows another
    /// key for the same stream and seq has found a second history. 16 hexadecimal digits as text.
    RowKey(u64), 16
}
hex_id! {
    /// A link session: 128 random bits from the host's `hello`, repeated on every line, so that
    /// lines of an earlier session are dropped. 32 hexadecimal digits as text.
    Nonce(u128), 32
}
hex_id! {
    /// A question for history: 128 random bits of who asks, repeated in each page of the answer. 32
    /// hexadecimal digits as text.
    QueryId(u128), 32
}

/// A row's number in its table and stream: 1, 2, 3, ... without a gap; 0 is before the first.
pub type Seq = u64;

/// The highest `_seq`: SQLite's INTEGER ends there.
pub const MAX_SEQ: Seq = i64::MAX as u64;

/// A place in one table of one stream: after the row `seq`, whose key is `key` where it is known.
/// An absent key is never a divergence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// The row's number; 0 is before the first row.
    pub seq: Seq,
    /// The row's key; absent where nobody remembers it, and at 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<RowKey>,
}

impl Position {
    /// Before the first row.
    pub const START: Self = Self { seq: 0, key: None };

    /// After row `seq` with `key`.
    pub fn new(seq: Seq, key: RowKey) -> Self {
        Self {
            seq,
            key: Some(key),
        }
    }

    /// Whether the two are known to belong to different histories.
    pub fn contradicts(&self, other: &Self) -> bool {
        self.seq == other.seq
            && matches!((self.key, other.key), (Some(mine), Some(theirs)) if mine != theirs)
    }
}

/// A position whose row's epoch and time are remembered too, as a guest does for its last
/// acknowledged and its last trimmed row: enough to know which window the row was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    /// The row's number; 0 is before the first row.
    pub seq: Seq,
    /// The row's key; absent at 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<RowKey>,
    /// The row's `_epoch`.
    #[serde(default)]
    pub epoch: u64,
    /// The row's `_timestamp`.
    #[serde(default)]
    pub time: Timestamp,
}

impl Mark {
    /// The position alone.
    pub fn position(&self) -> Position {
        Position {
            seq: self.seq,
            key: self.key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_fixed_width_lower_case_hex() {
        let key = RowKey(0x9f3c);
        assert_eq!(key.to_string(), "0000000000009f3c");
        assert_eq!("0000000000009f3c".parse::<RowKey>().unwrap(), key);
        for bad in [
            "9f3c",
            "0000000000009F3C",
            "+000000000009f3c",
            "000000000000 f3c",
        ] {
            assert!(bad.parse::<RowKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_absent_key_is_never_a_divergence() {
        let (a, b) = (Position::new(7, RowKey(1)), Position::new(7, RowKey(2)));
        assert!(a.contradicts(&b));
        assert!(!a.contradicts(&Position { seq: 7, key: None }));
        assert!(!a.contradicts(&Position::new(8, RowKey(2))));
    }
}
