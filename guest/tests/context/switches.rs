//! Readers while layers are switched: nothing stale once a switch is told, and never a mix of two versions.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::Duration;

use super::lab::Lab;
use crate::common::until;

/// After each switch everything is looked at once the hook has run: names that were there and are not, names that were not and
/// are, files that became directories and the other way round, contents, sizes and listings.
#[test]
fn two_hundred_checks_after_switches_find_nothing_stale_once_the_hook_has_run() {
    let lab = Lab::new();
    let done = lab.dir().join("done");
    lab.hook(
        "10",
        &format!(
            "cat $VMKPI_CONTEXT/generation > {0}.new && mv {0}.new {0}",
            done.display()
        ),
    );
    lab.service(&[("base", "service"), ("turn/x", "service")]);
    let lab = lab.start(&[]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Others keep the kernel's caches warm, with look-ups in flight at each switch.
        for _ in 0..2 {
            keep_warm(scope, &lab, &stop);
        }
        for version in 0..200_u64 {
            let (text, size) = (version.to_string(), "x".repeat(version as usize));
            let own = format!("only-{version}");
            let turn = if version % 2 == 0 { "turn" } else { "turn/x" };
            lab.infrastructure(&[
                ("version", &text),
                ("size", &size),
                (&own, ""),
                (turn, &text),
            ]);
            let generation = version + 2;
            // The first switch is the second generation.
            lab.guest().hang_up();
            until("the hook", || {
                fs::read_to_string(&done).is_ok_and(|text| text.trim().parse() == Ok(generation))
            });
            check(&lab, version, turn);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn check(lab: &Lab, version: u64, turn: &str) {
    let text = version.to_string();
    assert_eq!(lab.read("version"), text);
    assert_eq!(lab.read("generation"), format!("{}\n", version + 2));
    assert_eq!(fs::metadata(lab.path("size")).unwrap().len(), version);
    assert_eq!(lab.read(turn), text);
    assert!(lab.path(&format!("only-{version}")).exists());
    assert!(
        !lab.path(&format!("only-{}", version + 1)).exists(),
        "and the kernel remembers that"
    );
    if version > 0 {
        assert!(!lab.path(&format!("only-{}", version - 1)).exists());
    }
    let own = format!("only-{version}");
    assert_eq!(
        lab.ls(""),
        [
            "base",
            "generation",
            own.as_str(),
            "size",
            "turn",
            "version"
        ]
    );
}

fn keep_warm<'a>(scope: &'a Scope<'a, '_>, lab: &'a Lab, stop: &'a AtomicBool) {
    let (mount, mut round) = (lab.mount(), 0);
    scope.spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            for name in ["version", "size", "turn", "turn/x", "base", "generation"] {
                let _ = fs::metadata(mount.join(name));
                let _ = fs::read(mount.join(name));
            }
            let _ = fs::metadata(mount.join(format!("only-{}", round % 210)));
            let _ = fs::read_dir(&mount).map(Iterator::count);
            std::thread::yield_now();
        }
    });
}

/// Files whose beginning and end say their version, larger than one request (128 KiB); a directory whose names all do.
#[test]
fn readers_during_a_thousand_switches_never_see_a_mix() {
    const SWITCHES: u64 = 1000;
    let lab = Lab::new();
    publish(&lab, 0);
    let lab = lab.start(&[]);
    let (stop, reads, listings) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Ends the readers however this ends: a failed switch must not leave them running.
        let _end = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| repeat(&stop, &reads, || read_whole(&lab.path("file"))));
        }
        scope.spawn(|| repeat(&stop, &listings, || list_whole(&lab.path("names"))));
        for version in 1..=SWITCHES {
            publish(&lab, version);
            lab.switch();
            assert_eq!(read_whole(&lab.path("file")), Some(version));
        }
    });
    assert_eq!(lab.read("generation"), format!("{}\n", SWITCHES + 1));
    assert!(reads.into_inner() > SWITCHES && listings.into_inner() > 0);
    // The kernel has forgotten all of the old ones.
    until("old layers to be let go", || lab.spools() == 1);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn publish(lab: &Lab, version: u64) {
    let line = format!("{version:08}\n");
    // Sizes differ, too: a length of one version and the content of another would show.
    let lines = 15_000 + usize::try_from(version % 7).unwrap() * 1_000;
    let file = line.repeat(lines);
    let names: Vec<String> = (0..40)
        .map(|n| format!("names/{n:0100}-{version}"))
        .collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    files.push(("file", &file));
    lab.service(&files);
}

fn repeat(stop: &AtomicBool, count: &AtomicU64, mut read: impl FnMut() -> Option<u64>) {
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        // Between two versions a name may be looked up in a directory that has gone; what is found is whole.
        if let Some(version) = read() {
            assert!(version >= last, "{version} after {last}: it went back");
            last = version;
            count.fetch_add(1, Ordering::Relaxed);
        }
        // Others want the processor, too.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads in small pieces, and says the version that every line has.
fn read_whole(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().unwrap().len();
    let (mut text, mut piece) = (Vec::new(), [0; 10_000]);
    loop {
        match file.read(&mut piece).unwrap() {
            0 => break,
            count => text.extend_from_slice(&piece[..count]),
        }
    }
    let first = text.get(..9)?;
    assert!(text.chunks(9).all(|line| line == first), "a mix");
    let version: u64 = std::str::from_utf8(first).unwrap().trim().parse().unwrap();
    let lines = 15_000 + version % 7 * 1_000;
    assert_eq!((text.len() as u64, length), (lines * 9, lines * 9));
    Some(version)
}

/// Lists, and says the version that every name has.
fn list_whole(path: &Path) -> Option<u64> {
    let names: Vec<String> = fs::read_dir(path)
        .ok()?
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let version = |name: &String| name.rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    let first = version(names.first()?);
    assert!(
        names.iter().all(|name| version(name) == first),
        "a mix: {names:?}"
    );
    assert_eq!(names.len(), 40);
    Some(first)
}
