//! Plain files stand for drives, in folders as the kernel shows them; a virtual machine's real ones are the lab's.

mod faults;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use vmkpi::context::MAX_IMAGE_BYTES;
use vmkpi::iso9660::{DESCRIPTOR_OFFSET, write};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// An image with one file.
fn image(class: &str, content: &str) -> Vec<u8> {
    let class: Class = class.parse().unwrap();
    let files = BTreeMap::from([(
        "monitoring/endpoint".to_owned(),
        content.as_bytes().to_vec(),
    )]);
    write(&class.label(), &files).unwrap()
}

/// The content of the file of a layer.
fn content(layer: &Layer) -> String {
    let file = &layer.files["monitoring/endpoint"];
    let bytes = layer.read(file, 0, 1 << 20).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A machine with drives that are files.
struct Machine {
    folder: tempfile::TempDir,
    events: Receiver<MediaEvent>,
    media: Media,
}

impl Machine {
    fn start(interval: Duration, drives: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for below in ["sys", "dev"] {
            fs::create_dir(folder.path().join(below)).unwrap();
        }
        for (drive, bytes) in drives {
            plug(folder.path(), drive, bytes);
        }
        let config = MediaConfig {
            sys: folder.path().join("sys"),
            dev: folder.path().join("dev"),
            spool: folder.path().join("state/context"),
            poll_interval: interval,
        };
        let (sender, events) = channel();
        let media = Media::start(&config, sender).unwrap();
        assert!(media.settled(PATIENCE));
        Self {
            folder,
            events,
            media,
        }
    }

    /// One that is asked often.
    fn with(drives: &[(&str, &[u8])]) -> Self {
        Self::start(Duration::from_millis(10), drives)
    }

    fn plug(&self, drive: &str, bytes: &[u8]) {
        plug(self.folder.path(), drive, bytes);
    }

    fn unplug(&self, drive: &str) {
        fs::remove_dir_all(self.folder.path().join("sys").join(drive)).unwrap();
    }

    fn node(&self, drive: &str) -> PathBuf {
        self.folder.path().join("dev").join(drive)
    }

    /// Another medium, which the kernel counts.
    fn insert(&self, drive: &str, bytes: &[u8]) {
        let other = self.folder.path().join("other");
        fs::write(&other, bytes).unwrap();
        fs::rename(&other, self.node(drive)).unwrap();
        self.count(drive);
    }

    fn count(&self, drive: &str) {
        let counter = self.folder.path().join("sys").join(drive).join("diskseq");
        let count: u64 = fs::read_to_string(&counter)
            .unwrap()
            .trim_end()
            .parse()
            .unwrap();
        fs::write(counter, format!("{}\n", count + 1)).unwrap();
    }

    /// The next event, which is of this drive.
    fn layer(&self, drive: &str, class: &str) -> Option<Arc<Layer>> {
        let event = self.events.recv_timeout(PATIENCE).unwrap();
        assert_eq!((event.drive.as_str(), event.class.as_str()), (drive, class));
        event.layer
    }

    fn there(&self, drive: &str, class: &str, due: &str) -> Arc<Layer> {
        let layer = self.layer(drive, class).expect("a layer");
        assert_eq!(content(&layer), due);
        layer
    }

    fn gone(&self, drive: &str, class: &str) {
        assert!(self.layer(drive, class).is_none());
    }

    fn status(&self, drive: &str) -> DriveStatus {
        let status = self.media.status();
        status
            .into_iter()
            .find(|status| status.drive == drive)
            .unwrap()
    }

    /// Waits until `status` says so.
    fn wait_for(&self, drive: &str, what: impl Fn(&DriveStatus) -> bool) -> DriveStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(drive);
            if what(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            std::thread::yield_now();
        }
    }

    fn problem(&self, drive: &str, what: &str) -> DriveStatus {
        self.wait_for(drive, |status| {
            status
                .problem
                .as_ref()
                .is_some_and(|said| said.contains(what))
        })
    }

    fn nothing_more(&self) {
        assert!(self.events.try_recv().is_err());
    }
}

fn plug(folder: &std::path::Path, drive: &str, bytes: &[u8]) {
    fs::write(folder.join("dev").join(drive), bytes).unwrap();
    // Whole before it is seen, as the kernel's are.
    let hidden = folder.join("sys").join("hidden");
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("diskseq"), "1\n").unwrap();
    fs::rename(hidden, folder.join("sys").join(drive)).unwrap();
}

#[test]
fn what_drives_hold_at_the_start_is_there() {
    let (one, two) = (image("infrastructure", "one"), image("service", "two"));
    let machine = Machine::with(&[("sr0", &one), ("sr1", &two), ("sr2", b"")]);
    let mut seen = BTreeMap::new();
    for event in machine.events.try_iter() {
        seen.insert(
            (event.drive, event.class.to_string()),
            content(&event.layer.unwrap()),
        );
    }
    let due = |drive: &str, class: &str, said: &str| {
        ((drive.to_owned(), class.to_owned()), said.to_owned())
    };
    assert_eq!(
        seen,
        BTreeMap::from([
            due("sr0", "infrastructure", "one"),
            due("sr1", "service", "two")
        ])
    );
    assert_eq!(
        machine.status("sr0"),
        DriveStatus {
            drive: "sr0".into(),
            label: Some("VMKPI_INFRASTRUCTURE".into()),
            class: Some("infrastructure".parse().unwrap()),
            problem: None,
            read: 1,
            failed: 0,
        }
    );
    assert_eq!(
        (machine.status("sr2").label, machine.status("sr2").problem),
        (None, None)
    );
}

#[test]
fn a_medium_takes_the_place_of_another_and_both_can_be_read() {
    let machine = Machine::with(&[("sr0", &image("service", "one"))]);
    let old = machine.there("sr0", "service", "one");
    machine.insert("sr0", &image("service", "two"));
    machine.there("sr0", "service", "two");
    machine.insert("sr0", &image("infrastructure", "three"));
    machine.gone("sr0", "service");
    machine.there("sr0", "infrastructure", "three");
    assert_eq!(content(&old), "one");
    machine.nothing_more();
}

#[test]
fn a_medium_that_goes_is_said_to_be_gone() {
    let machine = Machine::with(&[("sr0", &image("service", "one"))]);
    machine.there("sr0", "service", "one");
    machine.insert("sr0", b"");
    machine.gone("sr0", "service");
    assert_eq!(
        machine
            .wait_for("sr0", |status| status.label.is_none())
            .class,
        None
    );
    machine.insert("sr0", &image("service", "one"));
    machine.there("sr0", "service", "one");
}

#[test]
fn drives_come_and_go() {
    let machine = Machine::with(&[]);
    machine.plug("sr3", &image("service", "one"));
    machine.there("sr3", "service", "one");
    machine.unplug("sr3");
    machine.gone("sr3", "service");
    assert!(machine.media.status().is_empty());
    machine.plug("sr3", &image("service", "two"));
    machine.there("sr3", "service", "two");
    machine.nothing_more();
}

#[test]
fn the_same_files_again_are_no_event() {
    let machine = Machine::with(&[("sr0", &image("service", "one"))]);
    machine.there("sr0", "service", "one");
    let mut again = image("service", "one");
    // Another image of the same files.
    again[usize::try_from(DESCRIPTOR_OFFSET).unwrap() + 574] = b'X';
    machine.insert("sr0", &again);
    machine.wait_for("sr0", |status| status.read == 2);
    machine.nothing_more();
}

#[test]
fn a_medium_of_no_class_is_left_alone() {
    let other = write("CONFIG_2", &BTreeMap::new()).unwrap();
    let machine = Machine::with(&[("sr0", &other), ("sr1", &[b'x'; 1 << 20])]);
    machine.nothing_more();
    let status = machine.status("sr0");
    assert_eq!(
        (status.label.as_deref(), status.problem, status.read),
        (Some("CONFIG_2"), None, 0)
    );
    assert_eq!(machine.status("sr1").label, None);
    // It takes the place of a context, which is gone then.
    machine.insert("sr1", &image("service", "one"));
    machine.there("sr1", "service", "one");
    machine.insert("sr1", &other);
    machine.gone("sr1", "service");
}

#[test]
fn a_refused_image_gives_no_layer_and_takes_the_last_one_along() {
    let machine = Machine::with(&[("sr0", &image("service", "one"))]);
    machine.there("sr0", "service", "one");
    let mut bad = image("service", "two");
    let px = bad
        .windows(4)
        .rposition(|window| window == b"PX\x24\x01")
        .unwrap()
        + 4;
    bad[px..px + 8].copy_from_slice(&[0xff, 0xa1, 0, 0, 0, 0, 0xa1, 0xff]);
    machine.insert("sr0", &bad);
    machine.gone("sr0", "service");
    let status = machine.problem("sr0", "\"monitoring/endpoint\" is a symbolic link");
    assert_eq!(
        (status.label.as_deref(), status.class, status.failed),
        (Some("VMKPI_SERVICE"), None, 1)
    );
    machine.insert("sr0", &image("service", "three"));
    machine.there("sr0", "service", "three");
    machine.wait_for("sr0", |status| status.problem.is_none());
}

#[test]
fn a_large_volume_is_refused_and_a_large_drive_is_not() {
    let machine = Machine::with(&[("sr0", b""), ("sr1", b"")]);
    let five = |drive: &str, bytes: &[u8]| {
        machine.insert(drive, bytes);
        let file = File::options()
            .write(true)
            .open(machine.node(drive))
            .unwrap();
        file.set_len(5 << 30).unwrap();
        machine.count(drive);
        file
    };
    let mut bytes = image("service", "one");
    let at = usize::try_from(DESCRIPTOR_OFFSET).unwrap() + 80;
    bytes[at..at + 4].copy_from_slice(&(5_u32 << 19).to_le_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&(5_u32 << 19).to_be_bytes());
    five("sr0", &bytes);
    machine.problem(
        "sr0",
        &format!("5368709120 bytes: a context has at most {MAX_IMAGE_BYTES}"),
    );
    five("sr1", &image("service", "two"));
    machine.there("sr1", "service", "two");
    machine.nothing_more();
}

#[test]
fn a_truncated_image_is_tried_again() {
    let whole = image("service", "one");
    let machine = Machine::with(&[("sr0", &whole[..whole.len() - 1])]);
    machine.problem("sr0", "truncated");
    machine.nothing_more();
    let file = File::options()
        .write(true)
        .open(machine.node("sr0"))
        .unwrap();
    // The kernel learns the size of a medium late: it counts nothing.
    file.write_all_at(&whole, 0).unwrap();
    machine.there("sr0", "service", "one");
    machine.wait_for("sr0", |status| status.problem.is_none());
}

#[test]
fn who_expects_a_change_hurries() {
    let machine = Machine::start(Duration::from_secs(3600), &[]);
    machine.media.hurry();
    machine.plug("sr0", &image("service", "one"));
    machine.there("sr0", "service", "one");
    // Within the hurry, too: another file in its place, of which the kernel knows nothing.
    fs::write(machine.node("sr0"), image("service", "two")).unwrap();
    machine.media.hurry();
    machine.there("sr0", "service", "two");
}

#[test]
fn nothing_is_left_of_spools() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["medium-1-2", "other"] {
        fs::write(folder.path().join(name), b"x").unwrap();
    }
    Spool::open(folder.path()).unwrap();
    let left = || {
        let names = fs::read_dir(folder.path()).unwrap().flatten();
        names.map(|entry| entry.file_name()).collect::<Vec<_>>()
    };
    assert_eq!(left(), ["other"]);
    let machine = Machine::with(&[("sr0", &image("service", "one"))]);
    let layer = machine.there("sr0", "service", "one");
    let spool = machine.folder.path().join("state/context");
    assert_eq!(fs::read_dir(spool).unwrap().count(), 0);
    drop(machine);
    assert_eq!(content(&layer), "one", "it stays when all else is gone");
}
