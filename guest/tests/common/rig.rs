//! The store alone, in a directory of its own, with the bounds that a test wants.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use tempfile::TempDir;
use vmkpi::link::{Row, TableId};
use vmkpi::name::Area;
use vmkpi::position::{Position, Seq, StreamId};
use vmkpi_guest::config::Limits;
use vmkpi_guest::counters::Counters;
use vmkpi_guest::csv::Columns;
use vmkpi_guest::feed::Feed;
use vmkpi_guest::store::inspect::Reader;
use vmkpi_guest::store::{
    AckOutcome, HostClaim, Inventory, Job, Marks, NameEffect, Opened, Point, RowData, Store,
    StoreError, Stored, row_data,
};

pub struct Rig {
    pub dir: TempDir,
    pub limits: Limits,
    pub store: Store,
    pub counters: Arc<Counters>,
    pub set_aside: usize,
}

fn open(dir: &Path, limits: Limits, counters: &Arc<Counters>) -> (Store, usize) {
    let feed = Arc::new(Feed::new().unwrap());
    let Opened {
        store, set_aside, ..
    } = Store::open(dir, limits, Arc::clone(counters), feed).unwrap();
    (store, set_aside.len())
}

pub fn area_of(file: &str) -> Area {
    match file.starts_with("encrypted/") {
        true => Area::Encrypted,
        false => Area::Unencrypted,
    }
}

impl Rig {
    pub fn new(limits: Limits) -> Self {
        Self::at(TempDir::with_prefix("vmkpi-store-").unwrap(), limits)
    }

    pub fn at(dir: TempDir, limits: Limits) -> Self {
        let counters = Arc::new(Counters::default());
        let (store, set_aside) = open(dir.path(), limits, &counters);
        Self {
            dir,
            limits,
            store,
            counters,
            set_aside,
        }
    }

    pub fn reopen(&mut self) {
        self.reopen_with(self.limits);
    }

    pub fn reopen_with(&mut self, limits: Limits) {
        self.store.close();
        self.limits = limits;
        (self.store, self.set_aside) = open(self.dir.path(), limits, &self.counters);
    }

    pub fn point(file: &str) -> Point {
        let name = file.split_once('/').unwrap().1;
        Point {
            area: area_of(file),
            name: Arc::new(name.parse().unwrap()),
        }
    }

    pub fn put(&self, file: &str, content: impl AsRef<[u8]>) -> Result<Stored, StoreError> {
        let (point, bytes) = (Self::point(file), Arc::new(content.as_ref().to_vec()));
        let row = row_data(point.area, &bytes, self.limits.columns).unwrap();
        self.store.ask(|done| Job::Store {
            point,
            bytes,
            row,
            name: NameEffect::Content,
            withdraw: None,
            done,
        })
    }

    /// Stores a row of these columns, whatever CSV could have made of them.
    pub fn put_columns(&self, file: &str, columns: Columns) -> Result<Stored, StoreError> {
        let (point, row) = (Self::point(file), RowData::Columns(columns));
        self.store.ask(|done| Job::Store {
            point,
            bytes: Arc::default(),
            row,
            name: NameEffect::Content,
            withdraw: None,
            done,
        })
    }

    /// Stores `1`, `2`, ... until there are `count` more rows.
    pub fn fill(&self, file: &str, count: u64) {
        for i in 1..=count {
            self.put(file, format!("v\n{i}\n")).unwrap();
        }
    }

    pub fn remove(&self, file: &str) {
        let point = Self::point(file);
        self.store.ask(|done| Job::Remove { point, done }).unwrap();
    }

    pub fn refuse(&self, file: &str, bytes: &[u8], withdraw: Option<i64>) -> i64 {
        let (point, bytes) = (Self::point(file), Arc::new(bytes.to_vec()));
        let reason = "the test says so".into();
        let job = |done| Job::Refuse {
            point,
            bytes,
            reason,
            withdraw,
            done,
        };
        self.store.ask(job).unwrap()
    }

    pub fn table_in(&self, stream: StreamId, file: &str) -> TableId {
        TableId {
            stream,
            point: file.parse().unwrap(),
        }
    }

    pub fn table(&self, file: &str) -> TableId {
        self.table_in(self.store.stream(), file)
    }

    pub fn rows(&self, table: &TableId) -> Vec<Row> {
        let reader = self.reader(&table.point.to_string());
        let page = reader.page(table, 1, 1000, 64 << 20).unwrap();
        page.map(|page| page.rows).unwrap_or_default()
    }

    pub fn seqs(&self, file: &str) -> Vec<Seq> {
        self.rows(&self.table(file)).iter().map(|r| r.seq).collect()
    }

    pub fn reader(&self, file: &str) -> Reader {
        Reader::open(self.dir.path(), area_of(file)).unwrap()
    }

    pub fn marks(&self, table: &TableId) -> Marks {
        self.reader(&table.point.to_string()).marks(table).unwrap()
    }

    pub fn ack(&self, table: &TableId, position: Position) -> AckOutcome {
        let (table, cursors) = (table.clone(), vec![position]);
        self.store
            .ask(|done| Job::Ack {
                table,
                cursors,
                done,
            })
            .unwrap()
    }

    /// Acknowledges the row `seq`, which is held.
    pub fn ack_row(&self, file: &str, seq: Seq) {
        let table = self.table(file);
        let row = self
            .rows(&table)
            .into_iter()
            .find(|r| r.seq == seq)
            .unwrap();
        let outcome = self.ack(&table, row.position());
        assert!(
            matches!(outcome, AckOutcome::Acked(mark) if mark.seq == seq),
            "{outcome:?}"
        );
    }

    /// A host subscribes.
    pub fn want(&self, file: &str) {
        let (area, names) = (area_of(file), vec![(*Self::point(file).name).clone()]);
        self.store
            .ask(|done| Job::Wanted { area, names, done })
            .unwrap();
    }

    pub fn hello(&self, uuid: &str) -> Inventory {
        let claim = HostClaim {
            uuid: Some(uuid.into()),
            ..HostClaim::default()
        };
        self.store.ask(|done| Job::Hello { claim, done }).unwrap()
    }

    pub fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(&self.counters).load(Ordering::Relaxed)
    }

    pub fn db(&self, area: Area) -> rusqlite::Connection {
        rusqlite::Connection::open(self.dir.path().join(format!("{area}.db"))).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.store.close();
    }
}

pub fn errno<T>(result: Result<T, StoreError>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}
