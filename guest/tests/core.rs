//! The file system and the store without a kernel: against a model, and where two parts meet.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::mpsc::channel;

use nix::errno::Errno;
use proptest::prelude::*;
use vmkpi::link::TableId;
use vmkpi::name::Area;
use vmkpi_guest::config::Limits;
use vmkpi_guest::counters::Counters;
use vmkpi_guest::csv;
use vmkpi_guest::feed::Feed;
use vmkpi_guest::fs::tree::area_ino;
use vmkpi_guest::fs::{Done, OpenMode, Partition};
use vmkpi_guest::store::{Job, Store};

const NAMES: [&str; 4] = ["a", "b", ".s", ".t"];
const WRITE: OpenMode = OpenMode {
    write: true,
    truncate: true,
    exclusive: false,
};
const APPEND: OpenMode = OpenMode {
    write: true,
    truncate: false,
    exclusive: false,
};

struct Rig {
    dir: tempfile::TempDir,
    partition: Partition,
}

fn open(dir: &std::path::Path) -> Partition {
    open_with(dir, Limits::default())
}

fn open_with(dir: &std::path::Path, limits: Limits) -> Partition {
    let feed = Arc::new(Feed::new().unwrap());
    let opened = Store::open(dir, limits, Arc::new(Counters::default()), feed).unwrap();
    Partition::new(opened.store, opened.files, limits)
}

fn waited(start: impl FnOnce(Done)) -> Result<(), Errno> {
    let (tell, told) = channel();
    start(Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap()
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let partition = open(dir.path());
        Self { dir, partition }
    }

    fn reopen(&mut self) {
        self.partition.store().close();
        self.partition = open(self.dir.path());
    }

    fn parent() -> u64 {
        area_ino(Area::Unencrypted)
    }

    fn put(&self, name: &str, bytes: &[u8], mode: OpenMode) -> Result<(), Errno> {
        let (_, fh) = self
            .partition
            .create(Self::parent(), OsStr::new(name), mode)?;
        let offset = mode.truncate.then_some(0);
        let written = self.partition.write(fh, offset, bytes);
        let saved = waited(|done| self.partition.save(fh, done));
        self.partition.release(fh);
        written.and(saved)
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, Errno> {
        let ino = self.partition.lookup(Self::parent(), OsStr::new(name))?.ino;
        let fh = self.partition.open(ino, OpenMode::default())?;
        let bytes = self.partition.read(fh, 0, 1 << 20, <[u8]>::to_vec);
        self.partition.release(fh);
        bytes
    }

    fn rows(&self, name: &str) -> u64 {
        let tables = self
            .partition
            .store()
            .ask(|done| Job::Tables { done })
            .unwrap()
            .tables;
        let point = format!("unencrypted/{name}");
        tables
            .iter()
            .find(|t| t.table.point.to_string() == point)
            .map_or(0, |t| t.last)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, &'static str),
    Append(usize, &'static str),
    Unlink(usize),
    Rename(usize, usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let text = || {
        prop::sample::select(vec![
            "1\n",
            "x,y\n1,2\n",
            "y,x\n1.50,\n",
            "\"q\"\n\"1\"",
            "\"half",
            "2",
            "a\n1\n2\n",
        ])
    };
    prop_oneof![
        4 => (name(), text()).prop_map(|(n, t)| Step::Put(n, t)),
        2 => (name(), text()).prop_map(|(n, t)| Step::Append(n, t)),
        1 => name().prop_map(Step::Unlink),
        2 => (name(), name()).prop_map(|(a, b)| Step::Rename(a, b)),
        1 => Just(Step::Reopen),
    ]
}

/// What the partition should be: the bytes of each file and the rows of each table.
#[derive(Default)]
struct Model {
    files: BTreeMap<usize, Vec<u8>>,
    rows: BTreeMap<usize, u64>,
}

impl Model {
    fn is_scratch(name: usize) -> bool {
        NAMES[name].starts_with('.')
    }

    /// Stores the bytes under the name.
    fn store(&mut self, name: usize, bytes: Vec<u8>) -> Result<(), Errno> {
        if !Self::is_scratch(name) {
            csv::parse(&bytes, 1000).map_err(|_| Errno::EINVAL)?;
            *self.rows.entry(name).or_default() += 1;
        }
        self.files.insert(name, bytes);
        Ok(())
    }

    fn put(&mut self, name: usize, bytes: Vec<u8>) -> Result<(), Errno> {
        // A file that was made and never stored is there, with nothing in it.
        self.files.entry(name).or_default();
        self.store(name, bytes)
    }

    fn rename(&mut self, from: usize, to: usize) -> Result<(), Errno> {
        let bytes = self.files.get(&from).cloned().ok_or(Errno::ENOENT)?;
        if from == to {
            return Ok(());
        }
        if bytes.is_empty() {
            // Nothing to store: the bytes of the last store of that name stay.
            if Self::is_scratch(to) {
                self.files.insert(to, Vec::new());
            }
            self.files.entry(to).or_default();
        } else {
            self.store(to, bytes)?;
        }
        self.files.remove(&from);
        Ok(())
    }

    /// What is in memory alone goes.
    fn reopen(&mut self) {
        self.files
            .retain(|name, bytes| !Self::is_scratch(*name) && !bytes.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(steps in prop::collection::vec(step(), 1..30)) {
        let (mut rig, mut model) = (Rig::new(), Model::default());
        for step in steps {
            match step.clone() {
                Step::Put(name, text) => {
                    let expected = model.put(name, text.into());
                    prop_assert_eq!(rig.put(NAMES[name], text.as_bytes(), WRITE), expected, "{:?}", step);
                }
                Step::Append(name, text) => {
                    let mut bytes = model.files.get(&name).cloned().unwrap_or_default();
                    bytes.extend_from_slice(text.as_bytes());
                    let expected = model.put(name, bytes);
                    prop_assert_eq!(rig.put(NAMES[name], text.as_bytes(), APPEND), expected, "{:?}", step);
                }
                Step::Unlink(name) => {
                    let expected = model.files.remove(&name).map(|_| ()).ok_or(Errno::ENOENT);
                    let done = waited(|done| rig.partition.unlink(Rig::parent(), OsStr::new(NAMES[name]), done));
                    prop_assert_eq!(done, expected, "{:?}", step);
                }
                Step::Rename(from, to) => {
                    let expected = model.rename(from, to);
                    let (parent, names) = (Rig::parent(), (OsStr::new(NAMES[from]), OsStr::new(NAMES[to])));
                    let done = waited(|done| {
                        rig.partition.rename((parent, names.0), (parent, names.1), false, done);
                    });
                    prop_assert_eq!(done, expected, "{:?}", step);
                }
                Step::Reopen => {
                    model.reopen();
                    rig.reopen();
                }
            }
            for (i, name) in NAMES.iter().enumerate() {
                prop_assert_eq!(rig.get(name).ok(), model.files.get(&i).cloned(), "{} after {:?}", name, step);
                let rows = model.rows.get(&i).copied().unwrap_or(0);
                prop_assert_eq!(rig.rows(name), rows, "rows of {} after {:?}", name, step);
            }
            let (files, handles, buffered) = rig.partition.usage();
            let scratch: usize =
                model.files.iter().filter(|(n, _)| Model::is_scratch(**n)).map(|(_, b)| b.len()).sum();
            prop_assert_eq!((files, handles, buffered), (model.files.len(), 0, scratch));
        }
        rig.partition.store().close();
    }
}

#[test]
fn a_mark_sent_without_a_row_is_not_contradicted_after_a_restart() {
    let mut rig = Rig::new();
    rig.put("a", b"1\n", WRITE).unwrap();
    rig.reopen();
    let mark = |rig: &Rig| {
        let stream = rig.partition.store().stream();
        let tables = vec![TableId {
            stream,
            point: "unencrypted/a".parse().unwrap(),
        }];
        let marks = rig
            .partition
            .store()
            .ask(|done| Job::Marks { tables, done })
            .unwrap();
        (marks[0].epoch, marks[0].position)
    };
    let first = mark(&rig);
    rig.reopen();
    let second = mark(&rig);
    assert!(
        second.0 > first.0,
        "rows now are of a later epoch than that mark's"
    );
    assert_eq!(second.1, first.1);
    rig.partition.store().close();
}

#[test]
fn databases_of_two_histories_begin_a_new_stream_together() {
    let mut rig = Rig::new();
    rig.put("a", b"1\n", WRITE).unwrap();
    let before = rig.partition.store().stream();
    rig.reopen();
    assert_eq!(rig.partition.store().stream(), before);
    rig.partition.store().close();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(rig.dir.path().join(format!("encrypted.db{suffix}")));
    }
    rig.reopen();
    assert_ne!(rig.partition.store().stream(), before);
    assert_eq!((rig.rows("a"), rig.get("a").unwrap()), (1, b"1\n".to_vec()));
    rig.partition.store().close();
}

#[test]
fn over_the_limit_the_bytes_of_removed_files_are_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        buffered_bytes: 10,
        ..Limits::default()
    };
    let partition = open_with(dir.path(), limits);
    let rig = Rig { dir, partition };
    let read = |fh| rig.partition.read(fh, 0, 100, <[u8]>::to_vec);
    let (mut open, parent) = (Vec::new(), Rig::parent());
    for (name, bytes) in [("a", b"12345678"), ("b", b"abcdefgh")] {
        rig.put(name, bytes, WRITE).unwrap();
        let ino = rig.partition.lookup(parent, OsStr::new(name)).unwrap().ino;
        open.push(rig.partition.open(ino, APPEND).unwrap());
    }
    for name in ["a", "b"] {
        waited(|done| rig.partition.unlink(parent, OsStr::new(name), done)).unwrap();
    }
    assert_eq!(read(open[0]), Ok(b"12345678".to_vec()));
    assert_eq!(read(open[1]), Err(Errno::ESTALE));
    assert_eq!(rig.partition.write(open[1], None, b"1"), Err(Errno::ESTALE));
    assert_eq!(
        rig.partition.write(open[0], None, b"9"),
        Err(Errno::ENOSPC),
        "its bytes and a draft of them"
    );
    assert_eq!(rig.partition.usage().2, 8);
    rig.partition.release(open[0]);
    rig.partition.release(open[1]);
    assert_eq!(rig.partition.usage(), (0, 0, 0));
    rig.partition.store().close();
}

#[test]
fn after_the_end_every_writer_is_told() {
    let rig = Rig::new();
    rig.partition.store().close();
    assert_eq!(rig.put("a", b"1\n", WRITE), Err(Errno::EIO));
}
