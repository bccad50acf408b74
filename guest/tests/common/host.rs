//! A host that reads every row over the link, acknowledges it, and comes back when the link is gone: all
//! that it was ever told, for the judge.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use vmkpi::link::{
    From, GuestMessage, Have, HostMessage, LineReader, Payload, Row, Rows, TableId, VERSION, encode,
};
use vmkpi::position::{Nonce, Position};
use vmkpi::value::Value;

use super::ledger::Arrived;

/// Every row that was told, by table; the index is its `_seq` less one.
pub type Told = BTreeMap<TableId, Vec<Arrived>>;

/// A reading host.
pub struct Collector {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    told: Arc<Mutex<Told>>,
    thread: JoinHandle<()>,
}

impl Collector {
    /// Reads from the guest whose link is at `socket`, however often that guest dies.
    pub fn start(socket: &Path) -> Self {
        let (stop, count, told) = (Arc::default(), Arc::default(), Arc::default());
        let mut session = Session {
            socket: socket.into(),
            stop: Arc::clone(&stop),
            count: Arc::clone(&count),
            told: Arc::clone(&told),
            nonce: Nonce(0),
        };
        let thread = std::thread::spawn(move || session.run());
        Self {
            stop,
            count,
            told,
            thread,
        }
    }

    /// How many rows have arrived.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends, and says what arrived.
    pub fn stop(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

struct Session {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    told: Arc<Mutex<Told>>,
    nonce: Nonce,
}

impl Session {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            // Ends when the guest does; then it is tried again.
            let _ = self.read();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn read(&mut self) -> std::io::Result<()> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        self.nonce.0 += 1;
        let hello = HostMessage::Hello {
            version: VERSION,
            nonce: self.nonce,
            uuid: None,
            genid: None,
            have: self.have(),
        };
        stream.write_all(&encode(&hello))?;
        let (mut reader, mut bytes) = (LineReader::new(), vec![0; 1 << 16]);
        while !self.stop.load(Ordering::Relaxed) {
            while let Some(message) = reader.next_message::<GuestMessage>() {
                let answer = self.hear(message.expect("the guest keeps to the protocol"));
                stream.write_all(&answer)?;
            }
            match stream.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(length) => reader.push(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hear(&self, message: GuestMessage) -> Vec<u8> {
        match message {
            GuestMessage::Hello { .. } => encode(&self.subscription()),
            GuestMessage::Rows(rows) => self.keep(&rows),
            GuestMessage::Mark { .. } => Vec::new(),
            other => panic!("nothing was trimmed unread and nothing went back in time: {other:?}"),
        }
    }

    /// Each row once: what comes again is what it was.
    fn keep(&self, rows: &Rows) -> Vec<u8> {
        let table = rows.table();
        let mut told = self.told.lock().unwrap();
        let known = told.entry(table.clone()).or_default();
        let Some(last) = rows.rows.last().map(Row::position) else {
            return Vec::new();
        };
        for row in &rows.rows {
            let arrived = arrived(row);
            match known.get(row.seq as usize - 1) {
                Some(before) => assert_eq!(*before, arrived, "{table:?}: another row than before"),
                None => {
                    assert_eq!(known.len() as u64 + 1, row.seq, "{table:?}: a hole");
                    known.push(arrived);
                    self.count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        encode(&HostMessage::Ack {
            nonce: self.nonce,
            table,
            cursors: vec![last],
        })
    }

    fn have(&self) -> Vec<Have> {
        let told = self.told.lock().unwrap();
        let last = |rows: &Vec<Arrived>| rows.last().copied();
        let tables = told.iter().filter_map(|(t, rows)| Some((t, last(rows)?)));
        tables
            .map(|(table, row)| Have {
                table: table.clone(),
                highest: Position::new(row.seq, super::ledger::key(row.key)),
            })
            .collect()
    }

    fn subscription(&self) -> HostMessage {
        let told = self.told.lock().unwrap();
        let from = told.iter().map(|(table, rows)| From {
            table: table.clone(),
            seq: rows.len() as u64 + 1,
        });
        HostMessage::Subscribe {
            nonce: self.nonce,
            patterns: vec!["unencrypted/*".parse().unwrap()],
            from: from.collect(),
        }
    }
}

fn arrived(row: &Row) -> Arrived {
    let Payload::Values(values) = &row.payload else {
        panic!("no CSV: {row:?}");
    };
    let [Value::Integer(n), Value::Real(half)] = values[..] else {
        panic!("other columns: {row:?}");
    };
    Arrived {
        seq: row.seq,
        key: row.key.0.cast_signed(),
        epoch: row.epoch.cast_signed(),
        time: row.time.as_micros(),
        n: n.unsigned_abs(),
        half,
    }
}
