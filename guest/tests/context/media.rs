//! Media as layers, with plain files in the place of drives: what is shown, what the program itself goes by, and what a
//! restart finds. Real drives are a virtual machine's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use vmkpi::context::Class;
use vmkpi::iso9660;
use vmkpi_guest::config::AllowOther;
use vmkpi_guest::context::guidance::{Guidance, Guide};
use vmkpi_guest::context::{Context, ContextConfig};

use crate::common::until;

/// A machine with two drives, and the partition while it is mounted.
struct Machine {
    dir: TempDir,
    guide: Arc<Guide>,
    context: Option<Context>,
}

impl Machine {
    fn new() -> Self {
        let dir = TempDir::with_prefix("vmkpi-media-").unwrap();
        for drive in ["sr0", "sr1"] {
            let folder = dir.path().join("sys").join(drive);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("diskseq"), "1\n").unwrap();
            fs::create_dir_all(dir.path().join("dev")).unwrap();
            fs::write(dir.path().join("dev").join(drive), "").unwrap();
        }
        Self {
            dir,
            guide: Arc::new(Guide::new().unwrap()),
            context: None,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, linger: Duration) -> ContextConfig {
        ContextConfig {
            mount: self.at("mnt"),
            classes: ["infrastructure", "service"]
                .map(|c| c.parse().unwrap())
                .into(),
            directories: BTreeMap::new(),
            hooks: self.at("hooks"),
            hook_timeout: Duration::from_secs(60),
            linger,
            poll_interval: Duration::from_millis(10),
            sys: self.at("sys"),
            dev: self.at("dev"),
        }
    }

    fn start(&mut self, linger: Duration) {
        let (config, guide) = (self.config(linger), Arc::clone(&self.guide));
        let context = Context::start(&config, &self.at("state"), AllowOther::Auto, guide);
        self.context = Some(context.unwrap());
    }

    fn stop(&mut self) {
        let context = self.context.take().unwrap();
        context.stop();
        // Its session unmounts by the path, perhaps what is mounted there next.
        until("the session's end", || !context.status().mounted);
        self.guide = Arc::new(Guide::new().unwrap());
    }

    fn context(&self) -> &Context {
        self.context.as_ref().unwrap()
    }

    /// Another medium; none, an empty tray.
    fn insert(&self, drive: &str, class: &str, files: &[(&str, &str)]) {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), text.as_bytes().to_vec());
        let files = files.iter().map(owned).collect();
        let class: Class = class.parse().unwrap();
        self.put(drive, &iso9660::write(&class.label(), &files).unwrap());
    }

    fn put(&self, drive: &str, bytes: &[u8]) {
        let new = self.at("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.at("dev").join(drive)).unwrap();
        let counter = self.at("sys").join(drive).join("diskseq");
        let count: u64 = fs::read_to_string(&counter)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        fs::write(counter, format!("{}\n", count + 1)).unwrap();
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.at("mnt").join(path)).ok()
    }

    fn waits_for(&self, generation: u64) {
        let text = format!("{generation}\n");
        until("the generation", || {
            self.read("generation") == Some(text.clone())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            context.stop();
        }
        let mount: &Path = &self.at("mnt");
        let _ = Command::new("umount")
            .arg("-l")
            .arg(mount)
            .stderr(Stdio::null())
            .status();
    }
}

fn guidance(endpoint: Option<&str>, legislation: Option<&str>) -> Guidance {
    Guidance {
        endpoint: endpoint.map(str::to_owned),
        legislation: legislation.map(str::to_owned),
    }
}

#[test]
fn a_medium_is_shown_from_the_start_and_the_program_goes_by_it() {
    let mut machine = Machine::new();
    machine.insert(
        "sr0",
        "infrastructure",
        &[("monitoring/endpoint", "tls:a:1\n"), ("site", "A")],
    );
    machine.insert(
        "sr1",
        "service",
        &[
            ("monitoring/endpoint", "mine"),
            ("legislation", "EU"),
            ("own", "s"),
        ],
    );
    machine.start(Duration::from_secs(600));
    // Both at once: there is no moment with one of them alone.
    machine.waits_for(1);
    assert_eq!(machine.guide.get(), guidance(Some("tls:a:1\n"), Some("EU")));
    assert!(machine.guide.heard() && !machine.guide.heard());
    let old = fs::File::open(machine.at("mnt/site")).unwrap();

    // Another site: the same drive, without a moment between.
    machine.insert(
        "sr0",
        "infrastructure",
        &[("monitoring/endpoint", "tls:b:1\n"), ("site", "B")],
    );
    machine.waits_for(2);
    assert_eq!(machine.guide.get(), guidance(Some("tls:b:1\n"), Some("EU")));
    assert_eq!(machine.read("site").unwrap(), "B");
    assert_eq!(std::io::read_to_string(old).unwrap(), "A");

    // The same content again is no change.
    machine.insert(
        "sr0",
        "infrastructure",
        &[("monitoring/endpoint", "tls:b:1\n"), ("site", "B")],
    );
    machine.insert("sr1", "service", &[("own", "t")]);
    machine.waits_for(3);
    assert_eq!(machine.read("own").unwrap(), "t");
    assert_eq!(machine.context().status().layers.len(), 2);
}

#[test]
fn a_medium_that_is_ejected_lingers_and_a_foreign_class_is_said() {
    let mut machine = Machine::new();
    machine.insert("sr0", "infrastructure", &[("site", "A")]);
    machine.insert("sr1", "weather", &[("site", "rain")]);
    machine.start(Duration::from_millis(300));
    machine.waits_for(1);
    assert_eq!(machine.read("site").unwrap(), "A");
    let problems = machine.context().status().problems.join("\n");
    assert!(
        problems.contains("weather") && problems.contains("context.classes"),
        "{problems}"
    );
    machine.put("sr0", b"");
    machine.waits_for(2);
    assert_eq!(machine.read("site"), None);
    assert!(machine.context().status().layers.is_empty());
    machine.put("sr1", b"");
    until("the problem to be over", || {
        machine.context().status().problems.is_empty()
    });
}

#[test]
fn a_restart_waits_for_the_media_of_before_and_then_counts_what_is_missing() {
    let mut machine = Machine::new();
    fs::create_dir(machine.at("hooks")).unwrap();
    machine.insert("sr0", "infrastructure", &[("site", "A")]);
    machine.start(Duration::from_millis(300));
    machine.waits_for(1);
    until("the hooks", || machine.context().status().hooks.told == 1);
    machine.stop();
    // It comes back in another drive, after the start: nothing has changed.
    machine.put("sr0", b"");
    machine.start(Duration::from_secs(600));
    assert!(machine.context().status().starting);
    machine.insert("sr1", "infrastructure", &[("site", "A")]);
    until("the medium", || !machine.context().status().starting);
    assert_eq!(
        (
            machine.read("generation").unwrap(),
            machine.read("site").unwrap()
        ),
        ("1\n".into(), "A".into())
    );
    assert_eq!(machine.context().status().hooks.runs, 0);
    machine.stop();
    // It does not come back.
    machine.put("sr1", b"");
    machine.start(Duration::from_millis(300));
    machine.waits_for(2);
    assert_eq!(machine.read("site"), None);
    until("the hooks", || machine.context().status().hooks.runs == 1);
}
