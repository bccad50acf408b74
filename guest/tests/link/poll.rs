//! Polling: the alternative to being pushed.

use std::time::Duration;

use super::common::{self, Guest};
use super::host::{Host, table};
use vmkpi::link::{From, GuestMessage, HostMessage, Rows};

/// What a poll was answered with, in order, and whether there is more.
fn poll(host: &mut Host, id: u64, from: Vec<From>, limit: usize) -> (Vec<GuestMessage>, bool) {
    let message = HostMessage::Poll {
        nonce: host.nonce,
        id,
        patterns: vec!["unencrypted/*".parse().unwrap()],
        from,
        limit,
    };
    host.say(&message);
    let mut answer = Vec::new();
    let more = host.expect(|message| match message {
        GuestMessage::Polled { id: of, more, .. } => {
            assert_eq!(of, id);
            Some(more)
        }
        other => {
            answer.push(other);
            None
        }
    });
    (answer, more)
}

fn rows(answer: &[GuestMessage]) -> Vec<u64> {
    let pages = answer.iter().filter_map(|message| match message {
        GuestMessage::Rows(Rows { rows, .. }) => Some(rows),
        _ => None,
    });
    pages.flatten().map(|row| row.seq).collect()
}

fn gaps(answer: &[GuestMessage]) -> Vec<u64> {
    let gaps = answer.iter().filter_map(|message| match message {
        GuestMessage::Gap { through, .. } => Some(through.seq),
        _ => None,
    });
    gaps.collect()
}

fn marks(answer: &[GuestMessage]) -> Vec<u64> {
    let marks = answer.iter().filter_map(|message| match message {
        GuestMessage::Mark { position, .. } => Some(position.seq),
        _ => None,
    });
    marks.collect()
}

#[test]
fn each_poll_is_answered_with_what_is_new_since_the_last_and_a_mark() {
    let guest = Guest::start();
    let store = |value: i32| {
        guest
            .write("unencrypted/w", format!("v\n{value}\n"))
            .unwrap();
    };
    (1..=3).for_each(store);
    let mut host = Host::connect(&guest, 1);
    let (stream, _) = host.hello(vec![]);
    let (answer, more) = poll(&mut host, 1, vec![], 1000);
    assert_eq!(
        (rows(&answer), marks(&answer), more),
        (vec![1, 2, 3], vec![3], false)
    );
    let (answer, more) = poll(&mut host, 2, vec![], 1000);
    assert_eq!(
        (rows(&answer), marks(&answer), more),
        (vec![], vec![3], false)
    );
    store(4);
    assert!(
        host.next(Duration::from_millis(1500)).is_none(),
        "nothing comes unasked, neither rows nor marks"
    );
    let (answer, _) = poll(&mut host, 3, vec![], 1000);
    assert_eq!((rows(&answer), marks(&answer)), (vec![4], vec![4]));
    let w = table(stream, "unencrypted/w");
    let (answer, _) = poll(&mut host, 4, vec![From { table: w, seq: 2 }], 1000);
    assert_eq!(rows(&answer), [2, 3, 4], "from where the host says");
    guest.write("unencrypted/new", "1\n").unwrap();
    let (answer, _) = poll(&mut host, 5, vec![], 1000);
    assert_eq!(rows(&answer), [1], "a table that was made meanwhile");
    assert_eq!(marks(&answer).len(), 2);
    host.subscribe(&["unencrypted/*"], vec![]);
    store(5);
    assert_eq!(
        host.rows().rows[0].seq,
        5,
        "subscribing ends polling, and goes on there"
    );
}

#[test]
fn a_poll_has_a_limit_and_says_that_there_is_more_and_marks_only_what_was_sent_whole() {
    let guest = Guest::start();
    for value in 1..=25 {
        guest
            .write("unencrypted/w", format!("v\n{value}\n"))
            .unwrap();
    }
    let mut host = Host::connect(&guest, 1);
    host.hello(vec![]);
    let mut got = Vec::new();
    for (id, due) in [(1, 10), (2, 10), (3, 5)] {
        let (answer, more) = poll(&mut host, id, vec![], 10);
        assert_eq!(rows(&answer).len(), due);
        assert_eq!(more, id < 3);
        assert_eq!(marks(&answer).is_empty(), more);
        got.extend(rows(&answer));
    }
    assert_eq!(got, (1..=25).collect::<Vec<_>>());
}

#[test]
fn a_poll_tells_rows_that_were_lost_as_a_gap_and_then_those_that_are_left() {
    let guest = Guest::start_with(&["--retain-rows", "4", "--drop-unacknowledged"]);
    for value in 1..=10 {
        guest
            .write("unencrypted/w", format!("v\n{value}\n"))
            .unwrap();
    }
    common::until("rows to go", || {
        guest.query::<i64>("SELECT min(_seq) FROM w") == 7
    });
    let mut host = Host::connect(&guest, 1);
    host.hello(vec![]);
    let (answer, more) = poll(&mut host, 1, vec![], 3);
    assert_eq!((gaps(&answer), rows(&answer)), (vec![6], vec![7, 8, 9]));
    assert!(more && marks(&answer).is_empty());
    let (answer, more) = poll(&mut host, 2, vec![], 3);
    assert_eq!((gaps(&answer), rows(&answer)), (vec![], vec![10]));
    assert_eq!((marks(&answer), more), (vec![10], false));
    let lost = guest.status()["points"][0]["lost"].clone();
    assert_eq!(lost, 6);
}
