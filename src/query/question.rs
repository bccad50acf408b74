//! What is asked: rows of one point and span of time, from a place on.

use serde::{Deserialize, Serialize};

use super::{MAX_ROWS, NotHeard, Place, Subject};
use crate::clock::{MAX_MICROS, Timestamp};
use crate::link::HistoryPosition;
use crate::name::DataPoint;
use crate::position::{MAX_SEQ, QueryId};
use crate::sign::{Keyring, Purpose, SigningKey};
use crate::spoken;

/// The largest question that is looked at, in bytes: one with the longest names, escaped, has about half of that.
pub const MAX_QUESTION_BYTES: usize = 8 << 10;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Repeated in each page of the answer.
    pub id: QueryId,
    /// The data point.
    pub point: DataPoint,
    /// The first instant wanted, by the guest's clock; the first row otherwise.
    pub from: Option<Timestamp>,
    /// The first instant not wanted any more; the last row is the end otherwise.
    pub to: Option<Timestamp>,
    /// Where to go on: the `next` of a page.
    pub after: Option<HistoryPosition>,
    /// At most so many rows, from 1 to [`MAX_ROWS`].
    pub limit: u32,
}

#[derive(Serialize, Deserialize)]
struct Data {
    id: QueryId,
    point: DataPoint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<Place>,
    limit: u32,
}

impl Question {
    /// The question as it is published, signed. `issued` is the time in microseconds since 1970, and greater than
    /// that of every earlier question of the Consumer's to this VM.
    pub fn encode(&self, subject: &Subject, issued: u64, key: &SigningKey) -> Vec<u8> {
        let data = Data {
            id: self.id,
            point: self.point.clone(),
            from: self.from,
            to: self.to,
            after: self.after.map(Place),
            limit: self.limit,
        };
        spoken::encode((subject, issued, Purpose::Query), &data, key)
    }

    /// What a message on the topic of `subject` asks, if one of `keys` signed it, and when it was issued. Whether
    /// that is now, [`super::judge`] says.
    ///
    /// # Errors
    /// It does not count, and why.
    pub fn decode(
        bytes: &[u8],
        subject: &Subject,
        keys: &Keyring,
    ) -> Result<(u64, Self), NotHeard> {
        let head = (subject, Purpose::Query);
        let (issued, data): (_, Data) = spoken::decode(bytes, MAX_QUESTION_BYTES, head, keys)?;
        let possible = |after: &Place| after.0.seq <= MAX_SEQ;
        if !(1..=MAX_ROWS).contains(&data.limit) || !data.after.iter().all(possible) {
            return Err(NotHeard::Malformed);
        }
        let question = Self {
            id: data.id,
            point: data.point,
            from: data.from,
            to: data.to,
            after: data.after.map(|after| after.0),
            limit: data.limit,
        };
        Ok((issued, question))
    }

    /// The span of time, `[from, to)`.
    pub fn span(&self) -> (Timestamp, Timestamp) {
        let end = || Timestamp::from_micros(MAX_MICROS);
        (self.from.unwrap_or_default(), self.to.unwrap_or_else(end))
    }
}
