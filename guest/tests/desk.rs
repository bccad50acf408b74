//! Who commits what waits, and when: turns of the thread that serves the kernel, without a kernel.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use vmkpi::link::TableId;
use vmkpi::name::Area;
use vmkpi::position::{Position, RowKey};
use vmkpi_guest::config::Limits;
use vmkpi_guest::counters::Counters;
use vmkpi_guest::feed::Feed;
use vmkpi_guest::store::{AckOutcome, Job, NameEffect, Point, Store, StoreError, Stored, row_data};

const DEADLINE: Duration = Duration::from_secs(60);

struct Rig {
    dir: tempfile::TempDir,
    store: Store,
    counters: Arc<Counters>,
}

type Told = Receiver<Result<Stored, StoreError>>;

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let counters = Arc::new(Counters::default());
        let feed = Arc::new(Feed::new().unwrap());
        let opened = Store::open(dir.path(), Limits::default(), Arc::clone(&counters), feed);
        Self {
            store: opened.unwrap().store,
            dir,
            counters,
        }
    }

    /// Submits a row of `name`.
    fn submit(&self, name: &str) -> Told {
        let (tell, told) = channel();
        self.store.submit(Job::Store {
            point: Point {
                area: Area::Unencrypted,
                name: Arc::new(name.parse().unwrap()),
            },
            bytes: Arc::new(b"1\n".to_vec()),
            row: row_data(Area::Unencrypted, b"1\n", 10).unwrap(),
            name: NameEffect::Content,
            withdraw: None,
            done: Box::new(move |result| tell.send(result).unwrap()),
        });
        told
    }

    fn commits(&self) -> u64 {
        self.counters
            .commits
            .load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.store.close();
    }
}

#[test]
fn a_turn_with_nothing_after_it_ends_when_its_rows_are_on_disk() {
    let rig = Rig::new();
    rig.store.begin_turn();
    let told = rig.submit("a");
    assert!(told.try_recv().is_err(), "not before the end of the turn");
    rig.store.end_turn(|| false);
    assert_eq!(told.try_recv().unwrap().unwrap().seq, 1);
}

#[test]
fn turns_that_follow_each_other_share_a_commit() {
    let rig = Rig::new();
    let told: Vec<_> = (0..5)
        .map(|n| {
            rig.store.begin_turn();
            let told = rig.submit(&format!("a{n}"));
            rig.store.end_turn(|| n < 4);
            told
        })
        .collect();
    for told in told {
        assert!(told.recv_timeout(DEADLINE).unwrap().is_ok());
    }
    // One, unless this thread stood still for so long that the other thought it forgotten.
    assert!(rig.commits() < 5, "{} commits", rig.commits());
}

#[test]
fn what_was_put_off_is_committed_though_no_turn_comes() {
    let rig = Rig::new();
    for name in ["a", "b", "c"] {
        rig.store.begin_turn();
        let told = rig.submit(name);
        rig.store.end_turn(|| true);
        assert!(told.recv_timeout(DEADLINE).unwrap().is_ok());
    }
}

#[test]
fn what_others_bring_waits_for_no_turn() {
    let rig = Rig::new();
    let told = rig.submit("a");
    assert!(told.recv_timeout(DEADLINE).unwrap().is_ok());
}

#[test]
fn a_locked_database_holds_up_its_writers_and_no_turn() {
    let rig = Rig::new();
    let other = rusqlite::Connection::open(rig.dir.path().join("unencrypted.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    rig.store.begin_turn();
    let told = rig.submit("a");
    rig.store.end_turn(|| false);
    assert!(told.try_recv().is_err(), "the turn has ended all the same");
    other.execute_batch("ROLLBACK").unwrap();
    // Within the time that a writer waits for a lock, or not at all.
    match told.recv_timeout(DEADLINE).unwrap() {
        Ok(stored) => assert_eq!(stored.seq, 1),
        Err(error) => assert!(matches!(error, StoreError::Busy(_)), "{error}"),
    }
}

#[test]
fn a_new_stream_is_begun_by_the_stores_own_thread() {
    let rig = Rig::new();
    let stored = rig.submit("a").recv_timeout(DEADLINE).unwrap().unwrap();
    let table = TableId {
        stream: rig.store.stream(),
        point: "unencrypted/a".parse().unwrap(),
    };
    let (tell, told) = channel();
    rig.store.begin_turn();
    rig.store.submit(Job::Ack {
        table,
        cursors: vec![Position::new(stored.seq + 1, RowKey(1))],
        done: Box::new(move |outcome| {
            let thread = std::thread::current().name().map(str::to_owned);
            tell.send((thread, outcome)).unwrap();
        }),
    });
    rig.store.end_turn(|| false);
    let (thread, outcome) = told.recv_timeout(DEADLINE).unwrap();
    assert!(matches!(outcome, Ok(AckOutcome::Minted(_))), "{outcome:?}");
    assert_eq!(thread.as_deref(), Some("store"));
}

#[test]
fn a_store_that_was_closed_within_a_turn_tells_everyone() {
    let rig = Rig::new();
    rig.store.begin_turn();
    let before = rig.submit("a");
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| rig.store.close());
        rig.store.end_turn(|| true);
        closing.join().unwrap();
    });
    assert!(before.recv_timeout(DEADLINE).is_ok());
    let after = rig.submit("b").recv_timeout(DEADLINE).unwrap();
    assert!(matches!(after, Err(StoreError::Closed)));
}
