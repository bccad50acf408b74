//! Drives that lie, fail and hang.

use std::cell::RefCell;
use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel, sync_channel};

use vmkpi::iso9660::ReadAt;

use super::super::board::Outcome;
use super::super::source::Source;
use super::super::worker::{Watch, Worker};
use super::*;

/// A drive whose medium is changed at a certain read.
struct Changing {
    first: Vec<u8>,
    then: Vec<u8>,
    /// Reads until then.
    left: RefCell<usize>,
    /// Whether the kernel counts it.
    counted: bool,
}

struct Medium<'a>(&'a Changing);

impl ReadAt for Medium<'_> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        // In small pieces, so that a swap may come at any of them.
        for (number, part) in buffer.chunks_mut(512).enumerate() {
            self.0
                .bytes()
                .read_exact_at(part, offset + 512 * number as u64)?;
        }
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        unreachable!("a drive has no size of which it would know")
    }
}

impl Changing {
    fn bytes(&self) -> &[u8] {
        let mut left = self.left.borrow_mut();
        match left.checked_sub(1) {
            None => &self.then,
            Some(fewer) => {
                *left = fewer;
                &self.first
            }
        }
    }
}

impl<'a> Source for &'a Changing {
    type Medium = Medium<'a>;

    fn open(&self) -> io::Result<Option<Medium<'a>>> {
        Ok(Some(Medium(self)))
    }

    fn changes(&self) -> Option<u64> {
        self.counted.then(|| u64::from(*self.left.borrow() == 0))
    }
}

fn spool() -> (tempfile::TempDir, Spool) {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    (folder, spool)
}

/// An image with two files that are the same.
fn two(content: &str) -> Vec<u8> {
    let content = content.repeat(1000).into_bytes();
    let files = [
        ("monitoring/endpoint".to_owned(), content.clone()),
        ("z".to_owned(), content),
    ];
    write("VMKPI_SERVICE", &BTreeMap::from(files)).unwrap()
}

#[test]
fn whenever_a_medium_is_changed_what_is_taken_is_one_of_both() {
    let (_folder, spool) = spool();
    let reads = 3 * two("one").len() / 512;
    let (mut layers, mut again) = (0, 0);
    for counted in [false, true] {
        for left in 0..reads {
            let drive = Changing {
                first: two("one"),
                then: two("two"),
                left: RefCell::new(left),
                counted,
            };
            let mut watch = Watch::default();
            let mut outcome = watch.look(&&drive, &spool);
            if let Outcome::Again { problem, .. } = &outcome {
                assert!(problem.contains("changed while it was read"), "{problem}");
                again += 1;
                outcome = watch.look(&&drive, &spool);
            }
            let Outcome::Layer { taken, .. } = outcome else {
                panic!("no layer in the end, after {left}");
            };
            let texts = ["monitoring/endpoint", "z"].map(|path| taken.layer.files[path].digest);
            assert_eq!(texts[0], texts[1], "a mix, after {left}");
            layers += 1;
        }
    }
    assert!(layers == 2 * reads && again > 20, "{layers} {again}");
}

/// A drive that does as it is told, for each time that it is opened.
struct Told(Mutex<Receiver<io::Result<Option<Vec<u8>>>>>);

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0[..].read_exact_at(buffer, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0[..].bytes()
    }
}

impl Source for Told {
    type Medium = Bytes;

    /// Hangs until it is told what to do.
    fn open(&self) -> io::Result<Option<Bytes>> {
        let told = self.0.lock().unwrap().recv();
        told.unwrap_or(Ok(None)).map(|medium| medium.map(Bytes))
    }

    fn changes(&self) -> Option<u64> {
        None
    }
}

type Orders = Sender<io::Result<Option<Vec<u8>>>>;

fn told() -> (Orders, Told) {
    let (orders, told) = channel();
    (orders, Told(Mutex::new(told)))
}

/// Twice, as a whole look takes it: to look and copy, and to look again.
fn give(orders: &Orders, bytes: &[u8]) {
    for _ in 0..2 {
        orders.send(Ok(Some(bytes.to_vec()))).unwrap();
    }
}

#[test]
fn what_was_handed_over_counts_on_while_a_drive_cannot_be_read() {
    let (_folder, spool) = spool();
    let (sender, events) = channel();
    let (board, (orders, drive)) = (Board::new(sender), told());
    let (number, mut watch) = (board.add("sr0"), Watch::default());
    let mut look = || {
        assert!(board.end("sr0", number, watch.look(&drive, &spool)));
        board.status().remove(0)
    };
    give(&orders, &image("service", "one"));
    assert!(look().class.is_some());
    let broken = || Err(io::Error::from_raw_os_error(5));
    orders.send(broken()).unwrap();
    let status = look();
    assert!(status.class.is_some() && status.label.is_some());
    assert!(status.problem.unwrap().contains("Input/output error"));
    // It fails when the next medium has been copied.
    orders.send(Ok(Some(image("service", "two")))).unwrap();
    orders.send(broken()).unwrap();
    assert_eq!(look().failed, 2);
    give(&orders, &image("service", "two"));
    assert_eq!(look().problem, None);
    orders.send(Ok(None)).unwrap();
    assert_eq!(look().class, None);
    let layers: Vec<_> = events
        .try_iter()
        .map(|event| event.layer.map(|layer| content(&layer)))
        .collect();
    assert_eq!(
        layers,
        [Some("one".to_owned()), Some("two".to_owned()), None]
    );
}

#[test]
fn a_disk_without_room_is_said() {
    let (folder, spool) = spool();
    let (orders, drive) = told();
    drop(folder);
    give(&orders, &image("service", "one"));
    match Watch::default().look(&drive, &spool) {
        Outcome::Again { label, problem } => {
            assert_eq!(label.as_deref(), Some("VMKPI_SERVICE"));
            assert!(problem.starts_with("cannot copy it to"), "{problem}");
        }
        _ => panic!("there is nowhere to put it"),
    }
}

#[test]
fn a_drive_that_hangs_holds_up_no_other_and_says_nothing_once_it_is_gone() {
    let (_folder, spool) = spool();
    let (sender, events) = channel();
    let board = Arc::new(Board::new(sender));
    let employ = |drive: &str| {
        let ((orders, source), (poke, pokes)) = (told(), sync_channel(1));
        let worker = Worker {
            drive: drive.to_owned(),
            number: board.add(drive),
            source,
            spool: spool.clone(),
            board: Arc::clone(&board),
        };
        (orders, poke, std::thread::spawn(move || worker.run(&pokes)))
    };
    let (hanging, _poke, thread) = employ("sr0");
    let (well, _other_poke, _) = employ("sr1");
    board.scanned();
    give(&well, &image("service", "one"));
    let event = events.recv_timeout(PATIENCE).unwrap();
    assert_eq!(event.drive, "sr1");
    assert!(!board.settled(Duration::ZERO), "one has not answered");
    board.remove("sr0");
    assert!(board.settled(Duration::ZERO), "it is nobody's any more");
    give(&hanging, &image("service", "late"));
    thread.join().unwrap();
    assert!(events.try_recv().is_err());
}
