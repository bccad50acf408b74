//! The Consumer's rule: what to do with a message. A Consumer keeps a cursor for each (VM, stream,
//! point, specifier) and accepts a message only where it connects (docs/DELIVERY.md, "Coverage").

use crate::message::{Body, Event};
use crate::position::Position;

/// What a message is to a Consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It connects: keep it, move the cursor to its `through`, confirm.
    Accept,
    /// All of it is known: answer with the current confirmation.
    Repetition,
    /// Something before it is missing, or it straddles the cursor: say `want_from` the cursor.
    Missing,
    /// It belongs to another history of the stream: answer with the own position.
    OtherHistory,
}

/// Where a named Consumer without a cursor begins: at the guest's acknowledged row. One that was
/// restored from an older backup takes the beginning, in a stream its database does not know.
pub fn first_cursor(event: &Event, restored: bool) -> Position {
    if restored {
        Position::START
    } else {
        event.base
    }
}

/// What `event` is to a Consumer whose cursor is `cursor`.
pub fn judge(cursor: Position, event: &Event) -> Verdict {
    if event.through.seq <= cursor.seq {
        return Verdict::Repetition;
    }
    let window = match &event.body {
        Body::Processed(p) => Some(Position {
            seq: p.rows_after,
            key: p.rows_after_key,
        }),
        _ => None,
    };
    let connects = [Some(event.after), window]
        .into_iter()
        .flatten()
        .find(|p| p.seq == cursor.seq);
    match connects {
        None => Verdict::Missing,
        Some(position) if position.contradicts(&cursor) => Verdict::OtherHistory,
        Some(_) => Verdict::Accept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::position::{RowKey, StreamId};

    fn event(after: u64, through: u64) -> Event {
        Event {
            site: "s".parse().unwrap(),
            vm: "v".parse().unwrap(),
            point: "unencrypted/a".parse().unwrap(),
            specifier: "m".parse().unwrap(),
            revision: "r".into(),
            stream: StreamId(1),
            after: Position::new(after, RowKey(after)),
            through: Position::new(through, RowKey(through)),
            base: Position::new(2, RowKey(2)),
            time: Timestamp::default(),
            clock_skew_ms: None,
            body: Body::Raw(Vec::new()),
        }
    }

    #[test]
    fn a_message_is_accepted_only_where_it_connects() {
        let cursor = Position::new(5, RowKey(5));
        assert_eq!(judge(cursor, &event(5, 7)), Verdict::Accept);
        assert_eq!(judge(cursor, &event(3, 5)), Verdict::Repetition);
        assert_eq!(judge(cursor, &event(5, 5)), Verdict::Repetition);
        assert_eq!(judge(cursor, &event(6, 7)), Verdict::Missing);
        assert_eq!(judge(cursor, &event(4, 7)), Verdict::Missing, "straddles");
        let forked = Position::new(5, RowKey(99));
        assert_eq!(judge(forked, &event(5, 7)), Verdict::OtherHistory);
        let keyless = Position { seq: 5, key: None };
        assert_eq!(judge(keyless, &event(5, 7)), Verdict::Accept);
    }

    #[test]
    fn a_consumer_begins_at_the_base_and_a_restored_one_at_the_beginning() {
        assert_eq!(first_cursor(&event(5, 7), false).seq, 2);
        assert_eq!(first_cursor(&event(5, 7), true), Position::START);
    }
}
