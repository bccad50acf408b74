//! What the outbox keeps of a stream beside its rows, as text.

use serde::{Deserialize, Serialize};
use vmkpi::delivery::head::{Stamp, TableHead};
use vmkpi::descriptor::{Descriptor, Spelling};
use vmkpi::position::Mark;

/// What is kept of a table's head.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeadRecord {
    last: Mark,
    acked: Mark,
    trimmed: Mark,
    /// Why the last row that went did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl HeadRecord {
    pub fn of(head: &TableHead, reason: Option<&str>) -> Self {
        Self {
            last: Mark {
                seq: head.last,
                key: None,
                epoch: head.epoch,
                time: head.time,
            },
            acked: head.acked,
            trimmed: head.trimmed,
            reason: reason.map(Into::into),
        }
    }

    /// The head, when the program starts again, and why its last row that went did.
    pub fn head(self) -> (TableHead, Option<String>) {
        let last = Stamp {
            seq: self.last.seq,
            time: self.last.time,
            epoch: self.last.epoch,
        };
        let head = TableHead::restored(last, self.acked, self.trimmed, 0);
        (head, self.reason)
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("keys are text")
}

/// The descriptor as JSON that can be read again, for the case that its VM is gone by then. The revision
/// stays the same.
pub(super) fn spelled(descriptor: &Descriptor) -> String {
    descriptor.write(Spelling::Json)
}
