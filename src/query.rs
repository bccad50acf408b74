//! History on demand: the query/response of the Grid Monitoring Architecture (GGF GWD-GP-16-3), in which the Consumer
//! begins and is given what there is. A Consumer that the VM's descriptor names asks, signed by its key; the host that
//! has the VM's link asks the guest's store and answers page by page, signed by the site's key, sealed where the
//! point's messages are (docs/QUERY.md).
//!
//! ```text
//! vmkpi/v1/SITE/query/CONSUMER/VM     {"site","consumer","vm","issued","data":{id,point,from?,to?,after?,limit},"signature"}
//! vmkpi/v1/SITE/answer/CONSUMER/VM    {"site","consumer","vm","issued","id","page","data":{...},"signature"}
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | `question` | what is asked |
//! | `answer` | one page of what is answered, or why there is none |
//! | `fresh` | whether a question is asked now, and for the first time |

mod answer;
mod fresh;
mod question;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::link::HistoryPosition;
use crate::message::{Attribute, Published64};
use crate::position::StreamId;

pub use crate::spoken::{NotHeard, Subject};
pub use answer::{Answer, Body, NotAnswer, Page, Reason, Received, Trimmed};
pub use fresh::{Late, MAX_AGE_US, judge};
pub use question::{MAX_QUESTION_BYTES, Question};

/// The most rows of one answer; who wants more asks again from where it ends.
pub const MAX_ROWS: u32 = 10_000;
/// The most pages of one answer.
pub const MAX_PAGES: u32 = 256;
/// A page's size, in bytes; a row that is larger by itself gets a page of its own.
pub const MAX_PAGE_BYTES: usize = crate::message::MAX_MESSAGE_BYTES;
/// An answer ends behind the page that takes it over so many bytes.
pub const MAX_ANSWER_BYTES: usize = 4 << 20;
/// The largest page that is looked at, in bytes: one with the largest sample that is delivered, sealed.
pub const MAX_RECEIVED_BYTES: usize = 3 << 20;
/// The largest row that is answered, as a sample in bytes; a larger one is left out and counted.
pub const MAX_ROW_BYTES: usize = crate::delivery::producer::MAX_SAMPLE_BYTES;

/// A place in a point's history, as it is written: beyond 2^53 a number is a string.
#[derive(Clone, Copy, Debug)]
struct Place(HistoryPosition);

#[derive(Serialize)]
struct PlaceOut {
    stream: StreamId,
    seq: Published64,
}

#[derive(Deserialize)]
struct PlaceIn {
    stream: StreamId,
    seq: Attribute,
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (stream, seq) = (self.0.stream, Published64(self.0.seq));
        PlaceOut { stream, seq }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PlaceIn { stream, seq } = PlaceIn::deserialize(deserializer)?;
        Ok(Self(HistoryPosition { stream, seq: seq.0 }))
    }
}
