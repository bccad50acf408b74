use super::*;
use crate::command::database::Database;
use crate::command::relay::spool::{SCHEMA, file};

struct Bench {
    keeper: Keeper,
    said: mpsc::UnboundedReceiver<Said>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn start(max_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&file(dir.path()), &SCHEMA).unwrap();
        let (to, said) = mpsc::unbounded_channel();
        let keeper =
            Keeper::start(database.connection, max_bytes, Reserve::new(dir.path()), to).unwrap();
        Self {
            keeper,
            said,
            _dir: dir,
        }
    }

    fn keep(&self, bytes: usize) {
        let message = Message {
            topic: "t".into(),
            payload: vec![0; bytes].into(),
            retain: false,
            properties: "{}".into(),
        };
        self.keeper.order(Order::Keep(Some(message), None));
    }

    /// The next thing that is said, told apart.
    fn next(&mut self) -> (&'static str, usize) {
        match self.said.blocking_recv().unwrap() {
            Said::Kept(kept, _) => ("kept", kept.len()),
            Said::Part(part) => ("part", part.rows.len()),
            Said::Full => ("full", 0),
            Said::Room => ("room", 0),
            Said::Failing(_) => ("failing", 0),
            Said::Recovered => ("recovered", 0),
        }
    }
}

#[test]
fn at_the_limit_nothing_is_kept_and_nothing_lost_until_something_has_arrived() {
    let mut bench = Bench::start(10_000);
    bench.keep(9000);
    assert_eq!(bench.next(), ("kept", 1));
    bench.keep(3000);
    bench.keep(3000);
    assert_eq!(bench.next(), ("full", 0));
    bench.keeper.order(Order::Remove(1));
    assert_eq!(bench.next(), ("kept", 2));
    assert_eq!(bench.next(), ("room", 0));
    let held = (&bench.keeper.status.rows, &bench.keeper.status.filled);
    assert_eq!((held.0.load(Relaxed), held.1.load(Relaxed)), (2, 1));
    bench.keeper.end();
}

#[test]
fn what_does_not_cross_is_acknowledged_in_its_turn() {
    let mut bench = Bench::start(10_000);
    bench.keep(9000);
    assert_eq!(bench.next(), ("kept", 1));
    bench.keep(9000);
    bench.keeper.order(Order::Keep(None, None));
    assert_eq!(bench.next(), ("full", 0));
    bench.keeper.order(Order::Read(Reading {
        rows: 10,
        bytes: 10,
        ..Reading::default()
    }));
    assert_eq!(bench.next(), ("part", 1), "nothing was said of the two");
    bench.keeper.order(Order::Remove(1));
    assert_eq!(bench.next(), ("kept", 2));
    bench.keeper.end();
}
