//! The judge of every fault test. Writers note, outside the partition, what became of each store; at the
//! end each store whose close returned 0 is one row, and no row was never tried.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::close;

/// What one writer remembers: for each store that it began, in order, the errno or none. Its numbers are
/// 1, 2, 3, ...
pub type Notes = Vec<Option<i32>>;

/// Threads that store numbered rows, each under a name of its own, until they are told to stop. Where the
/// partition is gone they wait until it is back, as an application does.
pub struct Writers {
    stop: Arc<AtomicBool>,
    noted: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Notes>>,
}

/// The name that writer `number` stores under.
pub fn name(number: usize) -> String {
    format!("w{number:02}")
}

impl Writers {
    /// Starts `count` writers into `mount`/unencrypted; each ends by itself after `quota` notes.
    pub fn start(mount: &Path, count: usize, quota: usize) -> Self {
        let (stop, noted) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let threads = (0..count)
            .map(|number| {
                let path = mount.join("unencrypted").join(name(number));
                let (stop, noted) = (Arc::clone(&stop), Arc::clone(&noted));
                std::thread::spawn(move || write(&path, &stop, &noted, quota))
            })
            .collect();
        Self {
            stop,
            noted,
            threads,
        }
    }

    /// How many stores have returned 0 so far.
    pub fn noted(&self) -> u64 {
        self.noted.load(Ordering::Relaxed)
    }

    /// Whether every writer has come to its end.
    pub fn done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the end of their quotas and returns their notes.
    pub fn join(self) -> Vec<Notes> {
        let joined = self.threads.into_iter().map(JoinHandle::join);
        joined.map(Result::unwrap).collect()
    }

    /// Stops them and returns their notes.
    pub fn stop(self) -> Vec<Notes> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }
}

fn write(path: &PathBuf, stop: &AtomicBool, noted: &AtomicU64, quota: usize) -> Notes {
    let mut notes = Notes::new();
    let mut left = quota;
    while left > 0 && !stop.load(Ordering::Relaxed) {
        let Ok(file) = std::fs::File::create(path) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let done = finish(file, notes.len() as u64 + 1);
        if done.is_ok() {
            noted.fetch_add(1, Ordering::Relaxed);
            left -= 1;
        }
        notes.push(done.err().map(|error| error.raw_os_error().unwrap()));
    }
    notes
}

fn finish(mut file: std::fs::File, n: u64) -> std::io::Result<()> {
    use std::io::Write as _;
    file.write_all(content(n).as_bytes())?;
    close(file)
}

/// The file's bytes of store `n`.
pub fn content(n: u64) -> String {
    format!("n,half\n{n},{n}.5\n")
}

/// A row as it has arrived, in a database or at a host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrived {
    pub seq: u64,
    pub key: i64,
    pub epoch: i64,
    pub time: i64,
    pub n: u64,
    pub half: f64,
}

/// The key of a row in a database, as it is on the link.
pub fn key(sql: i64) -> vmkpi::position::RowKey {
    vmkpi::position::RowKey(sql.cast_unsigned())
}

/// The rows of `table` in the database at `path`, by `_seq`.
pub fn rows_in(path: &Path, table: &str) -> Vec<Arrived> {
    let db = rusqlite::Connection::open(path).unwrap();
    let exists = "SELECT count(*) FROM sqlite_schema WHERE name = ?1";
    let exists: i64 = db.query_row(exists, [table], |row| row.get(0)).unwrap();
    if exists == 0 {
        return Vec::new();
    }
    let sql = format!("SELECT _seq, _key, _epoch, _timestamp, n, half FROM {table} ORDER BY _seq");
    let mut statement = db.prepare(&sql).unwrap();
    let rows = statement.query_map([], |row| {
        Ok(Arrived {
            seq: row.get::<_, i64>(0)?.unsigned_abs(),
            key: row.get(1)?,
            epoch: row.get(2)?,
            time: row.get(3)?,
            n: row.get::<_, i64>(4)?.unsigned_abs(),
            half: row.get(5)?,
        })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// What a judgement has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    /// Stores whose close returned 0: each is a row.
    pub noted: usize,
    /// Stores whose close failed.
    pub failed: usize,
    /// Those of them that are a row all the same: they were on disk when the program died.
    pub in_flight: usize,
}

impl std::ops::AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.noted += other.noted;
        self.failed += other.failed;
        self.in_flight += other.in_flight;
    }
}

/// Judges one writer's rows, all that its table ever had, against its notes. `kills`: how often the program died, and so how
/// many stores may have been kept without having been confirmed.
pub fn judge(table: &str, rows: &[Arrived], notes: &Notes, kills: usize) -> Verdict {
    let mut keys = HashSet::new();
    let mut before: Option<&Arrived> = None;
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row.seq, at as u64 + 1, "{table}: a hole before {row:?}");
        assert!(keys.insert(row.key), "{table}: a key twice: {row:?}");
        assert_eq!(row.half, row.n as f64 + 0.5, "{table}: changed: {row:?}");
        assert!(
            (1..=notes.len() as u64).contains(&row.n),
            "{table}: never stored: {row:?}"
        );
        if let Some(before) = before {
            assert!(before.n < row.n, "{table}: twice: {before:?} {row:?}");
            assert!(
                (before.epoch, before.time) <= (row.epoch, row.time),
                "{table}: back in time: {before:?} {row:?}"
            );
        }
        before = Some(row);
    }
    let stored: HashSet<u64> = rows.iter().map(|row| row.n).collect();
    let numbered = || (1..).zip(notes);
    let missing: Vec<u64> = numbered()
        .filter(|(n, failed)| failed.is_none() && !stored.contains(n))
        .map(|(n, _)| n)
        .collect();
    assert!(
        missing.is_empty(),
        "{table}: close returned 0, and no row: {missing:?}"
    );
    let noted = numbered().filter(|(_, failed)| failed.is_none()).count();
    let in_flight = rows.len() - noted;
    assert!(
        in_flight <= kills,
        "{table}: {in_flight} unconfirmed rows, {kills} kills"
    );
    Verdict {
        noted,
        failed: notes.len() - noted,
        in_flight,
    }
}

/// Judges every writer's table in the database at `path`.
pub fn judge_database(path: &Path, notes: &[Notes], kills: usize) -> Verdict {
    let mut verdict = Verdict::default();
    for (number, notes) in notes.iter().enumerate() {
        let table = name(number);
        verdict += judge(&table, &rows_in(path, &table), notes, kills);
    }
    verdict
}

/// Each file reads as the last row of its table.
pub fn judge_files(mount: &Path, database: &Path, writers: usize) {
    for table in (0..writers).map(name) {
        let rows = rows_in(database, &table);
        let read = std::fs::read_to_string(mount.join("unencrypted").join(&table)).ok();
        assert_eq!(read, rows.last().map(|row| content(row.n)), "{table}");
    }
}
