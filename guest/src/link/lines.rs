//! Lines for the host, each within the limit of the link.

use vmkpi::link::{
    GuestMessage, HistoryPage, HistoryPosition, MAX_LINE_BYTES, Rows, TableId, encode,
};
use vmkpi::position::{Mark, Nonce, Position};

use crate::store::Found;
use crate::store::inspect::Page;

/// A message of rows.
pub fn rows_message(nonce: Nonce, table: &TableId, page: Page, acked: Mark) -> Rows {
    Rows {
        nonce,
        stream: table.stream,
        point: table.point.clone(),
        columns: page.columns,
        rows: page.rows,
        acked,
        query: None,
        trimmed: None,
        trimmed_reason: None,
    }
}

/// Adds a page of rows, in two lines if it is too long for one. A single row that is (text that JSON
/// writes six times as long) becomes a gap that says so.
pub fn add_fitting(out: &mut Vec<u8>, mut message: Rows) {
    let line = encode(&GuestMessage::Rows(message.clone()));
    if line.len() < MAX_LINE_BYTES || message.rows.is_empty() {
        out.extend(line);
        return;
    }
    if let [row] = &message.rows[..] {
        let (after, through) = (
            Position {
                seq: row.seq - 1,
                key: None,
            },
            row.mark(),
        );
        tracing::error!(point = %message.point, seq = row.seq, "a row is too long for the link");
        out.extend(encode(&GuestMessage::Gap {
            nonce: message.nonce,
            table: message.table(),
            after,
            through,
            reason: "row_too_long".into(),
        }));
        return;
    }
    let later = message.rows.split_off(message.rows.len() / 2);
    let rest = Rows {
        rows: later,
        ..message.clone()
    };
    add_fitting(out, message);
    add_fitting(out, rest);
}

/// Adds a page of history; what does not fit into one line is the next page's.
pub fn add_history(out: &mut Vec<u8>, mut message: HistoryPage) {
    loop {
        let line = encode(&GuestMessage::History(message.clone()));
        if line.len() < MAX_LINE_BYTES || message.rows.is_empty() {
            out.extend(line);
            return;
        }
        let keep = message.rows.len() / 2;
        let seq = match keep {
            // A row that is too long for the link by itself: there is no page that could hold it.
            0 => message.rows[0].seq,
            keep => message.rows[keep - 1].seq,
        };
        message.rows.truncate(keep);
        message.next = Some(HistoryPosition {
            stream: message.stream,
            seq,
        });
    }
}

/// What was found, as a message.
pub fn history_message(
    nonce: Nonce,
    id: u64,
    point: vmkpi::name::DataPoint,
    found: Found,
) -> HistoryPage {
    HistoryPage {
        nonce,
        id,
        point,
        stream: found.stream,
        columns: found.page.columns,
        rows: found.page.rows,
        next: found.next,
        trimmed: found.trimmed,
        unknown: found.unknown,
    }
}
