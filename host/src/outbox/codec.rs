//! How a batch of rows is written down: compact, as a host keeps millions. The points and columns are in
//! the stream's record once (a [`Shape`]); a row names its shape.
//!
//! ```text
//! row = shape varint, seq varint, key 8 bytes, epoch varint, time 8 bytes, a value for each column
//! value = 0 | 1 zigzag varint | 2 double 8 bytes | 3 length varint, UTF-8
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmkpi::clock::Timestamp;
use vmkpi::link::{Payload, Row};
use vmkpi::name::DataPoint;
use vmkpi::position::RowKey;
use vmkpi::value::Value;

/// A point and its columns.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// The point.
    pub point: DataPoint,
    /// The names of its values.
    pub columns: Arc<[Box<str>]>,
}

/// A row and the number of its shape.
pub type ShapedRow = (usize, Row);

/// The rows of one moment, written down.
pub fn encode(rows: &[ShapedRow]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() * 96);
    for (shape, row) in rows {
        varint(&mut out, *shape as u64);
        varint(&mut out, row.seq);
        out.extend(row.key.0.to_le_bytes());
        varint(&mut out, row.epoch);
        out.extend(row.time.as_micros().to_le_bytes());
        if let Payload::Values(values) = &row.payload {
            values.iter().for_each(|v| put_value(&mut out, v));
        }
    }
    out
}

/// The rows of a batch; `None` if it is not one of these shapes.
pub fn decode(mut bytes: &[u8], shapes: &[Shape]) -> Option<Vec<ShapedRow>> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let at = usize::try_from(take_varint(&mut bytes)?).ok()?;
        let shape = shapes.get(at)?;
        let seq = take_varint(&mut bytes)?;
        let key = RowKey(u64::from_le_bytes(take(&mut bytes)?));
        let epoch = take_varint(&mut bytes)?;
        let time = Timestamp::from_micros(i64::from_le_bytes(take(&mut bytes)?));
        let values = shape.columns.iter().map(|_| take_value(&mut bytes));
        let payload = Payload::Values(values.collect::<Option<_>>()?);
        rows.push((
            at,
            Row {
                seq,
                key,
                epoch,
                time,
                payload,
            },
        ));
    }
    Some(rows)
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Integer(i) => {
            out.push(1);
            varint(out, ((i << 1) ^ (i >> 63)).cast_unsigned());
        }
        Value::Real(r) => {
            out.push(2);
            out.extend(r.to_le_bytes());
        }
        Value::Text(text) => {
            out.push(3);
            varint(out, text.len() as u64);
            out.extend(text.as_bytes());
        }
    }
}

fn take_value(bytes: &mut &[u8]) -> Option<Value> {
    let [tag] = take(bytes)?;
    Some(match tag {
        0 => Value::Null,
        1 => {
            let n = take_varint(bytes)?;
            Value::Integer((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
        }
        2 => Value::Real(f64::from_le_bytes(take(bytes)?)),
        3 => {
            let len = usize::try_from(take_varint(bytes)?).ok()?;
            let (text, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            Value::Text(std::str::from_utf8(text).ok()?.into())
        }
        _ => return None,
    })
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take(bytes)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_was_cut_is_not() {
        let columns: Arc<[Box<str>]> = ["a", "b", "c", "d"].map(Box::from).into();
        let shapes = ["infra/cpu", "infra/block/vda"].map(|point| Shape {
            point: point.parse().unwrap(),
            columns: Arc::clone(&columns),
        });
        let numbers = [0, 1, -1, i64::MAX, i64::MIN, 300];
        let rows: Vec<ShapedRow> = numbers
            .iter()
            .zip(1..)
            .map(|(n, seq)| {
                let text = Value::Text("vda é".into());
                let values = vec![Value::Integer(*n), Value::Real(0.1), Value::Null, text];
                let row = Row {
                    seq: seq * 1000,
                    key: RowKey(u64::MAX - seq),
                    epoch: seq,
                    time: Timestamp::from_micros(1_795_194_000_000_001),
                    payload: Payload::Values(values),
                };
                (usize::from(seq % 2 == 0), row)
            })
            .collect();
        let bytes = encode(&rows);
        assert_eq!(decode(&bytes, &shapes), Some(rows));
        assert!(bytes.len() < 50 * numbers.len(), "{} bytes", bytes.len());
        assert_eq!(decode(&bytes[..bytes.len() - 1], &shapes), None);
        assert_eq!(decode(&bytes, &shapes[..1]), None, "of an unknown shape");
        assert_eq!(decode(&[0xff; 40], &shapes), None);
    }
}
