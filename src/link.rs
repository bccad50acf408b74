//! The link between guest and host: newline-delimited JSON, one bounded message a line. The host
//! speaks first; the guest repeats the session's nonce on every line. Each end treats the other as
//! hostile: see [`codec`] for the limits.
//!
//! ```text
//! host                                   guest
//!  hello {nonce, uuid, genid, have}  ──>            what the host has read, and of which VM
//!                                    <──  hello     streams and tables, what is acknowledged
//!  subscribe {patterns, from}        ──>            from now on each committed row is pushed
//!                                    <──  rows      contiguous rows of one table
//!                                    <──  mark      nothing earlier will follow (each second)
//!                                    <──  gap       rows that retention took before anyone had them
//!  poll {id, patterns, from, limit}  ──>            what is new since the last time, once
//!                                    <──  rows, mark, gap, and then polled {id, more}
//!  ack {cursors}                     ──>            the lowest cursor is acknowledged
//!  query {id, from, limit}           ──>            rows again, in a bounded page
//!                                    <──  rows      with the query's id
//!  history {id, point, from, to}     ──>            rows of a span of time, in bounded pages
//!                                    <──  history   with the id, and where the next page begins
//!                                    <──  failed    a question that cannot be answered
//!  ping                              ──>            each 10 s; sooner when the guest is silent
//!                                    <──  alive     the answer, with the guest's clock
//!                                    <──  rehello   the guest began a new stream: start over
//! ```
//! docs/LINK.md shows each message.

mod budget;
pub mod codec;
mod history;
pub mod url;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::name::{DataPoint, PointPattern};
use crate::position::{Mark, Nonce, Position, RowKey, Seq, StreamId};
use crate::value::{Base64Bytes, Value};

pub use budget::Budget;
pub use codec::{LineReader, MAX_LINE_BYTES, encode};
pub use history::{HistoryPage, HistoryPosition, HistoryQuery};
pub use url::{HOST_CID, LinkUrl, LinkUrlError};

/// The protocol's version, in both `hello`s. An end that reads another major version says so and
/// does not go on.
pub const VERSION: u32 = 1;

/// The most rows in one `rows` message; [`MAX_LINE_BYTES`] bounds it as well.
pub const MAX_ROWS: usize = 1000;

/// The most patterns of one `subscribe` or `poll`; far above the specifiers of a descriptor.
pub const MAX_PATTERNS: usize = 256;

/// The most cursors of one `ack`: each costs the guest a look into its table.
pub const MAX_CURSORS: usize = 4096;

/// The most rows that one `poll` is answered with.
pub const MAX_POLL_ROWS: usize = 10_000;

/// A host that has said nothing for so long, in milliseconds, is hung up on.
pub const HOST_SILENCE_MS: u64 = 45_000;

/// One table of one stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId {
    /// The stream the rows belong to.
    pub stream: StreamId,
    /// The data point the rows are of.
    pub point: DataPoint,
}

/// What a host has: the highest row of a table that it has ever read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// The table.
    #[serde(flatten)]
    pub table: TableId,
    /// Its highest row read, with its key.
    pub highest: Position,
}

/// Where to send a table from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct From {
    /// The table.
    #[serde(flatten)]
    pub table: TableId,
    /// The first row wanted, 1 or more.
    pub seq: Seq,
}

/// What a host says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum HostMessage {
    /// Opens a session; every later line of either end carries the nonce.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The session's nonce.
        nonce: Nonce,
        /// The VM's UUID as the hypervisor has it; another one than before makes the guest mint.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uuid: Option<String>,
        /// The VM's generation id (libvirt `<genid/>`), likewise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        genid: Option<String>,
        /// The highest row of each table this host has ever read.
        #[serde(default)]
        have: Vec<Have>,
    },
    /// From now on push every row of the tables that match, and marks.
    Subscribe {
        /// The session's nonce.
        nonce: Nonce,
        /// Which points; replaces the patterns of an earlier `subscribe`.
        patterns: Vec<PointPattern>,
        /// Where to begin; a table not named begins after its acknowledged row, or goes on where it
        /// was when it is subscribed already.
        #[serde(default)]
        from: Vec<From>,
    },
    /// Send what is new, once: rows, and marks where all are sent. The alternative to `subscribe`; either
    /// ends the other.
    Poll {
        /// The session's nonce.
        nonce: Nonce,
        /// Repeated in `polled`, which ends the answer.
        id: u64,
        /// Which points, as in `subscribe`.
        patterns: Vec<PointPattern>,
        /// Where to begin, as in `subscribe`: a table not named goes on where the last poll ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        from: Vec<From>,
        /// At most so many rows (bounded by [`MAX_POLL_ROWS`]).
        limit: usize,
    },
    /// A page of rows of a span of time, once.
    History {
        /// The session's nonce.
        nonce: Nonce,
        /// Repeated in the answer.
        id: u64,
        /// What is asked for.
        #[serde(flatten)]
        query: HistoryQuery,
    },
    /// The host is there; the guest answers `alive`. A host that says nothing at all for
    /// [`HOST_SILENCE_MS`] is hung up on.
    Ping {
        /// The session's nonce.
        nonce: Nonce,
    },
    /// A page of rows, once.
    Query {
        /// The session's nonce.
        nonce: Nonce,
        /// Repeated in the answer.
        id: u64,
        /// The table and the first row wanted.
        #[serde(flatten)]
        from: From,
        /// At most so many rows (bounded by [`MAX_ROWS`]).
        limit: usize,
    },
    /// The cursors of a table; the lowest is acknowledged. The guest verifies the key of each.
    Ack {
        /// The session's nonce.
        nonce: Nonce,
        /// The table.
        #[serde(flatten)]
        table: TableId,
        /// One for each (instance, Consumer). Without a key and above what is acknowledged: its
        /// Consumer has not spoken yet, and nothing is acknowledged.
        cursors: Vec<Position>,
    },
}

/// A table in the guest's `hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInfo {
    /// The table.
    #[serde(flatten)]
    pub table: TableId,
    /// The first row still held; `last + 1` when none is.
    pub first: Seq,
    /// The last row ever stored; 0 when none was.
    pub last: Seq,
    /// The last acknowledged row.
    pub acked: Mark,
    /// How many rows were moved into the stream when it was minted.
    #[serde(default)]
    pub moved: u64,
}

/// One row on the link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RowWire")]
pub struct Row {
    /// `_seq`.
    pub seq: Seq,
    /// `_key`.
    pub key: RowKey,
    /// `_epoch`.
    pub epoch: u64,
    /// `_timestamp`.
    pub time: Timestamp,
    /// The values, in the order of the message's columns; of an encrypted point, the bytes.
    #[serde(flatten)]
    pub payload: Payload,
}

impl Row {
    /// The position after this row.
    pub fn position(&self) -> Position {
        Position::new(self.seq, self.key)
    }

    /// The row's position with its epoch and time.
    pub fn mark(&self) -> Mark {
        Mark {
            seq: self.seq,
            key: Some(self.key),
            epoch: self.epoch,
            time: self.time,
        }
    }
}

/// A row as it is read: plain fields, as `flatten` would buffer each of them.
#[derive(Deserialize)]
struct RowWire {
    seq: Seq,
    key: RowKey,
    epoch: u64,
    time: Timestamp,
    #[serde(default)]
    values: Option<Vec<Value>>,
    #[serde(default)]
    data: Option<Base64Bytes>,
}

impl TryFrom<RowWire> for Row {
    type Error = &'static str;

    fn try_from(wire: RowWire) -> Result<Self, Self::Error> {
        let payload = match (wire.values, wire.data) {
            (Some(values), None) => Payload::Values(values),
            (None, Some(data)) => Payload::Data(data),
            _ => return Err("a row has either values or data"),
        };
        Ok(Self {
            seq: wire.seq,
            key: wire.key,
            epoch: wire.epoch,
            time: wire.time,
            payload,
        })
    }
}

/// What a row holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Payload {
    /// Typed values, one for each of the message's columns.
    #[serde(rename = "values")]
    Values(Vec<Value>),
    /// Bytes that vmkpi does not parse.
    #[serde(rename = "data")]
    Data(Base64Bytes),
}

/// A page of contiguous rows of one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// The session's nonce.
    pub nonce: Nonce,
    /// The stream the rows belong to.
    pub stream: StreamId,
    /// The data point the rows are of.
    pub point: DataPoint,
    /// The names of the values, in the order of the table's columns.
    #[serde(default)]
    pub columns: Arc<[Box<str>]>,
    /// The rows, by `_seq` without a hole.
    pub rows: Vec<Row>,
    /// The last acknowledged row.
    pub acked: Mark,
    /// In the answer to a `query`: its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<u64>,
    /// In the answer to a `query`: the last row that retention took; rows through it are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<Mark>,
    /// Beside `trimmed`: why that row went, as in a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed_reason: Option<Box<str>>,
}

/// How full a database of the guest's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseUse {
    /// Bytes of its pages in use.
    pub bytes: u64,
    /// Bytes that it may have: the operator's limit, or what its disk has room for, if that is less.
    pub limit: u64,
}

/// How full the guest's databases are; what could not be found out is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Databases {
    /// That of the unencrypted points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unencrypted: Option<DatabaseUse>,
    /// That of the encrypted points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<DatabaseUse>,
}

/// What a guest says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum GuestMessage {
    /// Answers the host's `hello`.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The host's nonce, repeated.
        nonce: Nonce,
        /// The stream that new rows go to.
        stream: StreamId,
        /// Every table of every stream that is still held; or a part of them.
        tables: Vec<TableInfo>,
        /// Another line with more tables follows; the host acts upon the last.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
    /// Rows of one table.
    Rows(Rows),
    /// No row before `time` in `epoch` will follow the row at `position`.
    Mark {
        /// The session's nonce.
        nonce: Nonce,
        /// The table.
        #[serde(flatten)]
        table: TableId,
        /// The last row stored.
        position: Position,
        /// The epoch the promise is for.
        epoch: u64,
        /// Rows that follow are at or after this time, or in a later epoch.
        time: Timestamp,
        /// The last acknowledged row.
        acked: Mark,
    },
    /// Rows that were dropped before they were acknowledged.
    Gap {
        /// The session's nonce.
        nonce: Nonce,
        /// The table.
        #[serde(flatten)]
        table: TableId,
        /// The row before the first one dropped; its key may be forgotten.
        after: Position,
        /// The last row dropped.
        through: Mark,
        /// Why: `retention_rows`, `retention_bytes`, `retention_age` (docs/MESSAGES.md).
        reason: String,
    },
    /// The end of the answer to a `poll`.
    Polled {
        /// The session's nonce.
        nonce: Nonce,
        /// The poll's id.
        id: u64,
        /// There are more rows: the limit was reached.
        more: bool,
    },
    /// A page of history.
    History(HistoryPage),
    /// A `query` or `history` that cannot be answered.
    Failed {
        /// The session's nonce.
        nonce: Nonce,
        /// Its id.
        id: u64,
        /// Why, for people.
        reason: String,
    },
    /// The answer to a `ping`.
    Alive {
        /// The session's nonce.
        nonce: Nonce,
        /// The guest's clock.
        time: Timestamp,
        /// How full its databases are; a guest need not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        databases: Option<Databases>,
    },
    /// The guest minted a new stream, or cannot go on with this session: the host says `hello` again.
    Rehello {
        /// The session's nonce.
        nonce: Nonce,
        /// Why, for people.
        reason: String,
    },
}

/// A message that can be read from a line.
pub trait Message: Sized {
    /// Reads one line.
    ///
    /// # Errors
    /// The line is no such message.
    fn decode(line: &[u8]) -> Result<Self, serde_json::Error>;
}

impl Message for HostMessage {
    fn decode(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

impl Message for GuestMessage {
    /// Rows are by far the most lines, and an enum tagged from within is read twice: look at the tag
    /// first and read rows directly.
    fn decode(line: &[u8]) -> Result<Self, serde_json::Error> {
        if line.starts_with(br#"{"op":"rows","#) {
            return serde_json::from_slice(line).map(Self::Rows);
        }
        serde_json::from_slice(line)
    }
}

impl Rows {
    /// The table the rows are of.
    pub fn table(&self) -> TableId {
        TableId {
            stream: self.stream,
            point: self.point.clone(),
        }
    }
}

impl TableId {
    /// No fewer bytes than a table takes in a list of a line, with its position: each of its name's may be
    /// escaped.
    pub fn line_bytes(&self) -> usize {
        let DataPoint::Kpi(_, name) = &self.point else {
            return 1024;
        };
        200 + 2 * name.as_str().len()
    }
}

impl HostMessage {
    /// The session the line belongs to.
    pub fn nonce(&self) -> Nonce {
        match self {
            Self::Hello { nonce, .. }
            | Self::Subscribe { nonce, .. }
            | Self::Poll { nonce, .. }
            | Self::History { nonce, .. }
            | Self::Ping { nonce }
            | Self::Query { nonce, .. }
            | Self::Ack { nonce, .. } => *nonce,
        }
    }
}

impl GuestMessage {
    /// The session the line belongs to.
    pub fn nonce(&self) -> Nonce {
        match self {
            Self::Rows(rows) => rows.nonce,
            Self::History(page) => page.nonce,
            Self::Hello { nonce, .. }
            | Self::Polled { nonce, .. }
            | Self::Failed { nonce, .. }
            | Self::Alive { nonce, .. }
            | Self::Mark { nonce, .. }
            | Self::Gap { nonce, .. }
            | Self::Rehello { nonce, .. } => *nonce,
        }
    }
}

#[cfg(test)]
mod tests;
