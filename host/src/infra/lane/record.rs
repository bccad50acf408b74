//! What the outbox keeps of a stream beside its rows, as text.

use serde::{Deserialize, Serialize};
use vmkpi::delivery::head::{Stamp, TableHead};
use vmkpi::descriptor::{Descriptor, Format};
use vmkpi::position::Mark;

/// What is kept of a table's head.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeadRecord {
    last: Mark,
    acked: Mark,
    trimmed: Mark,
}

impl HeadRecord {
    pub fn of(head: &TableHead) -> Self {
        Self {
            last: Mark {
                seq: head.last,
                key: None,
                epoch: head.epoch,
                time: head.time,
            },
            acked: head.acked,
            trimmed: head.trimmed,
        }
    }

    /// The head, when the program starts again.
    pub fn head(&self) -> TableHead {
        let last = Stamp {
            seq: self.last.seq,
            time: self.last.time,
            epoch: self.last.epoch,
        };
        TableHead::restored(last, self.acked, self.trimmed, 0)
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("keys are text")
}

/// The descriptor as JSON that can be read again, for the case that its VM is gone by then.
pub(super) fn spelled(descriptor: &Descriptor) -> String {
    let monitors = descriptor.monitors.iter().map(|m| {
        let mut monitor = serde_json::json!({
            "id": m.id, "point": m.point, "interval_ms": m.interval_ms, "delivery_ms": m.delivery_ms,
        });
        if let Format::Processed(function) = m.format {
            monitor["format"] = "processed".into();
            monitor["function"] = function.as_str().into();
        }
        monitor
    });
    let mut text = serde_json::json!({
        "vm": descriptor.vm, "primary_site": descriptor.primary_site,
        "monitor": monitors.collect::<Vec<_>>(),
    });
    for (key, value) in [
        (
            "service",
            descriptor.service.as_ref().map(ToString::to_string),
        ),
        ("primary_key", descriptor.primary_key.clone()),
    ] {
        if let Some(value) = value {
            text[key] = value.into();
        }
    }
    text.to_string()
}
