//! Random programs, on the specification (`spec.rs`) and on the real thing: without a kernel many of them, on a
//! mount some. Every answer is compared, then what a remount leaves, then every row in SQLite.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test program: a panic is a failed test"
)]

#[path = "../common/mod.rs"]
mod common;
mod core;
mod mount;
mod ops;
mod spec;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ops::{AREAS, Answer, Flags, LIMIT, NAMES, Op, Out, Path, SLOTS, UNENCRYPTED};
use proptest::prelude::*;
use spec::Spec;

/// Something that does what the specification says.
trait Driver {
    fn step(&mut self, op: &Op) -> Answer;
    /// Every descriptor is closed before.
    fn remount(&mut self);
    /// Where the databases are.
    fn state(&self) -> std::path::PathBuf;
    /// Bytes it holds in memory, if it tells.
    fn in_memory(&self) -> Option<usize>;
}

fn text() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "1\n",
        "x,y\n1,2\n",
        "\"half",
        "\"\n",
        "2",
        "a\n1\n2\n",
        "",
        "0123456789012345678901234567890123456789\n",
    ])
}

fn flags() -> impl Strategy<Value = Flags> {
    let access = prop::sample::select(vec![
        (true, false),
        (false, true),
        (false, true),
        (true, true),
    ]);
    let often = || prop::bool::weighted(0.7);
    let seldom = || prop::bool::weighted(0.2);
    (access, often(), seldom(), any::<bool>(), seldom()).prop_map(
        |((read, write), create, exclusive, truncate, append)| Flags {
            read,
            write,
            create,
            exclusive,
            truncate,
            append,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    let path = || (0..AREAS.len(), 0..NAMES.len());
    // Mostly in one directory and on few names, so that calls meet.
    let path = move || prop_oneof![3 => (Just(0usize), 0..NAMES.len()), 1 => path(), 2 => (Just(1usize), Just(0usize))];
    let mode = || prop::sample::select(vec![0o600u16, 0o644, 0o444]);
    let size = || 0..LIMIT + 4;
    prop_oneof![
        6 => (slot(), path(), flags()).prop_map(|(s, p, f)| Op::Open(s, p, f)),
        1 => (slot(), slot()).prop_map(|(a, b)| Op::Dup(a, b)),
        4 => slot().prop_map(Op::Close),
        2 => slot().prop_map(Op::Fsync),
        6 => (slot(), text()).prop_map(|(s, t)| Op::Write(s, t)),
        2 => (slot(), size(), text()).prop_map(|(s, o, t)| Op::Pwrite(s, o, t)),
        2 => (slot(), 1..20usize).prop_map(|(s, n)| Op::Read(s, n)),
        3 => (slot(), 0..20usize, 1..80usize).prop_map(|(s, o, n)| Op::Pread(s, o, n)),
        1 => slot().prop_map(Op::SeekEnd),
        2 => (slot(), size()).prop_map(|(s, n)| Op::Ftruncate(s, n)),
        2 => slot().prop_map(Op::Fstat),
        1 => (slot(), mode()).prop_map(|(s, m)| Op::Fchmod(s, m)),
        2 => path().prop_map(Op::Stat),
        1 => (path(), mode()).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => (path(), size()).prop_map(|(p, n)| Op::Truncate(p, n)),
        2 => path().prop_map(Op::Unlink),
        4 => (path(), path()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (0..AREAS.len()).prop_map(Op::List),
    ]
}

/// Calls, shown one a line when they fail.
struct Program(Vec<Op>);

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|op| write!(f, "\n    {op:?}"))
    }
}

fn program(length: std::ops::Range<usize>) -> impl Strategy<Value = Program> {
    prop::collection::vec(op(), length).prop_map(Program)
}

/// The rows of a name: in `encrypted/` what they hold, elsewhere only how many they are.
fn rows(driver: &impl Driver, (area, name): Path) -> Vec<Vec<u8>> {
    let db =
        rusqlite::Connection::open(driver.state().join(format!("{}.db", AREAS[area]))).unwrap();
    let column = if area == UNENCRYPTED { "x''" } else { "data" };
    // SQLite would find the table of a name's twin, too.
    let exact = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    let there: i64 = db
        .query_row(exact, [NAMES[name]], |row| row.get(0))
        .unwrap();
    if there == 0 {
        return Vec::new();
    }
    let sql = format!("SELECT {column} FROM \"{}\" ORDER BY _seq", NAMES[name]);
    let mut statement = db.prepare(&sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn compare(mut driver: impl Driver, Program(ops): Program) -> Result<(), TestCaseError> {
    let mut spec = Spec::default();
    let ends = (0..SLOTS).map(Op::Close);
    for op in ops.into_iter().chain(ends) {
        let Some(expected) = spec.step(&op) else {
            continue;
        };
        prop_assert_eq!(driver.step(&op), expected, "{:?}", op);
        if let Some(held) = driver.in_memory() {
            prop_assert_eq!(held, spec.in_memory(), "in memory after {:?}", op);
        }
    }
    driver.remount();
    spec.remount();
    let contents = spec.contents();
    for path in (0..AREAS.len()).flat_map(|area| (0..NAMES.len()).map(move |name| (area, name))) {
        let Some((bytes, mode)) = contents.get(&path) else {
            prop_assert_eq!(driver.step(&Op::Stat(path)), Err(nix::errno::Errno::ENOENT));
            let expected = spec.rows.get(&path).map_or(0, Vec::len);
            prop_assert_eq!(rows(&driver, path).len(), expected, "rows of {:?}", path);
            continue;
        };
        let (size, mode) = (bytes.len() as u64, *mode);
        prop_assert_eq!(
            driver.step(&Op::Stat(path)),
            Ok(Out::Stat {
                size,
                mode,
                links: 1
            }),
            "{:?}",
            path
        );
        let reader = Flags {
            read: true,
            write: false,
            create: false,
            exclusive: false,
            truncate: false,
            append: false,
        };
        prop_assert_eq!(driver.step(&Op::Open(0, path, reader)), Ok(Out::Done));
        prop_assert_eq!(
            driver.step(&Op::Read(0, LIMIT + 1)),
            Ok(Out::Bytes(bytes.clone())),
            "{:?}",
            path
        );
        prop_assert_eq!(driver.step(&Op::Close(0)), Ok(Out::Done));
        let found = rows(&driver, path);
        let expected = &spec.rows[&path];
        prop_assert_eq!(found.len(), expected.len(), "rows of {:?}", path);
        if path.0 != UNENCRYPTED {
            prop_assert_eq!(&found, expected, "rows of {:?}", path);
        }
    }
    Ok(())
}

/// One in so many of the usual number of cases, which PROPTEST_CASES sets.
fn config(one_in: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases.div_ceil(one_in),
        max_shrink_iters: 4096 / one_in,
        failure_persistence: None,
        ..usual
    }
}

proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn without_a_kernel_it_does_what_the_specification_says(program in program(1..60)) {
        compare(core::Core::new(), program)?;
    }
}

proptest! {
    #![proptest_config(config(10))]

    #[test]
    fn on_a_mount_it_does_what_the_specification_says(program in program(40..120)) {
        let _alone = alone();
        compare(mount::Mount::new(), program)?;
    }
}

/// A guest that another test starts has this one's descriptors until it is another program, and their close is a
/// store: so one mount at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Programs that random ones have found wrong, in short.
#[test]
fn on_a_mount_what_was_wrong_once_is_right() {
    let opened = |read, truncate| Flags {
        read,
        write: true,
        create: true,
        exclusive: false,
        truncate,
        append: false,
    };
    let (rows, secret, scratch) = ((0, 0), (1, 0), (0, 3));
    let programs = [
        // A draft's size, told to the kernel, outlived the handle.
        vec![
            Op::Open(1, secret, opened(false, false)),
            Op::Write(1, "x,y\n1,2\n"),
            Op::Close(1),
            Op::Open(3, secret, opened(true, true)),
            Op::Fchmod(3, 0o600),
            Op::Close(3),
            Op::Stat(secret),
        ],
        // A cut that failed changed which draft's size is shown.
        vec![
            Op::Open(0, secret, opened(false, false)),
            Op::Open(2, secret, opened(false, false)),
            Op::Write(0, "\"half"),
            Op::Write(2, "1\n"),
            Op::Stat(secret),
            Op::Ftruncate(0, LIMIT + 1),
            Op::Stat(secret),
        ],
        // A cut by name that failed let a size be forgotten that the kernel kept.
        vec![
            Op::Open(3, rows, opened(false, false)),
            Op::Ftruncate(3, 1),
            Op::Truncate(rows, 1),
            Op::Close(3),
            Op::Stat(rows),
        ],
        // The draft of another handle shows when a scratch file's goes.
        vec![
            Op::Open(0, scratch, opened(false, false)),
            Op::Open(2, scratch, opened(false, true)),
            Op::Ftruncate(0, 2),
            Op::Fstat(2),
            Op::Close(0),
            Op::Fstat(2),
        ],
        // What was too long for a scratch file came back as nothing to store.
        vec![
            Op::Open(1, scratch, opened(false, false)),
            Op::Pwrite(1, LIMIT - 1, "1\n"),
            Op::Fsync(1),
            Op::Rename(scratch, rows),
            Op::Close(1),
        ],
    ];
    for program in programs {
        let _alone = alone();
        compare(mount::Mount::new(), Program(program)).unwrap();
    }
}
