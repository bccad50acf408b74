//! The judge of every fault test. A writer, on another file system, notes each store it attempts and
//! each whose close returned 0; at the end every note has arrived exactly once, and nothing arrived
//! that was never attempted.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::chain::Chain;
use crate::process::Process;

/// Python, because its `os.close` tells of an error that Rust's and a shell's files keep quiet. A
/// store whose close failed may or may not have happened, so each attempt has a number of its own.
const WRITER: &str = r#"
import os, sys, time
ledger, stop, pause, *paths = sys.argv[1:]
with open(ledger, "a", buffering=1) as notes:
    n = 0
    while not os.path.exists(stop):
        n += 1
        notes.write("attempt %d\n" % n)
        try:
            fd = os.open(paths[n % len(paths)], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                os.write(fd, b"n,half\n%d,%d.5\n" % (n, n))
            finally:
                os.close(fd)
            notes.write("stored %d\n" % n)
            time.sleep(float(pause))
        except OSError as error:
            notes.write("failed %d %s\n" % (n, error.strerror))
            time.sleep(0.1)
"#;

/// A program that stores, and notes what became of each store.
pub struct Writer {
    process: Process,
    notes: PathBuf,
    stop: PathBuf,
}

impl Writer {
    /// Begins to store into `files`, one after the other, with pauses. Its notes are in `folder`.
    ///
    /// # Errors
    /// Python does not start.
    pub fn start(folder: &Path, files: &[PathBuf], pause: Duration) -> Result<Self> {
        let (notes, stop) = (folder.join("ledger"), folder.join("stop"));
        let pause = PathBuf::from(pause.as_secs_f64().to_string());
        let mut arguments = vec![Path::new("-c"), Path::new(WRITER), &notes, &stop, &pause];
        arguments.extend(files.iter().map(PathBuf::as_path));
        let python = Path::new("/usr/bin/python3");
        let process = Process::start(folder, "writer", python, arguments)?;
        Ok(Self {
            process,
            notes,
            stop,
        })
    }

    /// Ends the writing and waits until it has ended.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&mut self) -> Result<()> {
        std::fs::write(&self.stop, "")?;
        self.process
            .wait(20)
            .with_context(|| self.process.words())?;
        Ok(())
    }

    /// The numbers of the stores whose close returned 0.
    ///
    /// # Errors
    /// The notes cannot be read.
    pub fn stored(&self) -> Result<HashSet<u64>> {
        self.noted("stored")
    }

    /// The numbers of the stores that were begun.
    ///
    /// # Errors
    /// The notes cannot be read.
    pub fn attempted(&self) -> Result<HashSet<u64>> {
        self.noted("attempt")
    }

    fn noted(&self, word: &str) -> Result<HashSet<u64>> {
        let text = std::fs::read_to_string(&self.notes)?;
        let notes = text.lines().filter_map(|line| line.strip_prefix(word));
        notes.map(|n| Ok(n.trim().parse()?)).collect()
    }
}

/// A writer and its notes.
pub struct Ledger {
    writer: Writer,
    point: String,
    /// Only what this specifier delivers, where several deliver the same rows.
    specifier: Option<String>,
}

impl Ledger {
    /// Begins to store into `unencrypted/NAME`.
    ///
    /// # Errors
    /// Python does not start.
    pub fn start(chain: &Chain, name: &str) -> Result<Self> {
        let file = chain.mount().join("unencrypted").join(name);
        Ok(Self {
            writer: Writer::start(chain.folder(), &[file], Duration::from_millis(4))?,
            point: format!("unencrypted/{name}"),
            specifier: None,
        })
    }

    /// Judges only what one specifier delivers.
    pub fn of_specifier(mut self, id: &str) -> Self {
        self.specifier = Some(id.to_owned());
        self
    }

    /// Ends the writing and waits until everything in the ledger has arrived, then judges.
    ///
    /// # Errors
    /// A store is missing, came twice, came changed, or was never attempted.
    pub fn judge(mut self, chain: &Chain, seconds: u64) -> Result<usize> {
        self.writer.stop()?;
        let stored = self.writer.stored()?;
        ensure!(
            stored.len() > 20,
            "only {} stores; nothing was tested",
            stored.len()
        );
        self.wait_for(&stored, chain, seconds)?;
        // What would come twice comes soon after.
        std::thread::sleep(Duration::from_secs(2));
        let lines = chain.lines()?;
        once(lines.iter().filter(|l| self.is_ours(l)))?;
        let attempted = self.writer.attempted()?;
        ensure!(
            self.arrived(&lines).is_subset(&attempted),
            "something arrived that was never stored"
        );
        Ok(stored.len())
    }

    fn wait_for(&self, stored: &HashSet<u64>, chain: &Chain, seconds: u64) -> Result<()> {
        let done = chain.wait_for_lines(seconds, "the ledger's stores to arrive", |lines| {
            stored.is_subset(&self.arrived(lines))
        });
        let Err(error) = done else {
            return Ok(());
        };
        let arrived = self.arrived(&chain.lines()?);
        let mut missing: Vec<_> = stored.difference(&arrived).collect();
        missing.sort();
        bail!(
            "{} of {} are missing: {missing:?}\n{error:#}",
            missing.len(),
            stored.len()
        );
    }

    fn is_ours(&self, line: &Value) -> bool {
        let of = self.specifier.as_ref();
        let delivered = of.is_none_or(|id| line["specifier"] == **id);
        line["point"] == *self.point && line["seq"].is_u64() && delivered
    }

    fn arrived(&self, lines: &[Value]) -> HashSet<u64> {
        let ours = lines.iter().filter(|l| self.is_ours(l));
        ours.filter_map(|l| l["values"]["n"].as_u64()).collect()
    }
}

/// Each row once, by stream and `_seq` and by what was written, and as it was written.
fn once<'a>(lines: impl Iterator<Item = &'a Value>) -> Result<()> {
    let mut rows = HashSet::new();
    let mut numbers = HashMap::new();
    for line in lines {
        ensure!(
            rows.insert((line["stream"].to_string(), line["seq"].to_string())),
            "twice: {line}"
        );
        let n = line["values"]["n"]
            .as_u64()
            .with_context(|| line.to_string())?;
        if let Some(first) = numbers.insert(n, line) {
            bail!("stored once, came twice: {first} {line}");
        }
        ensure!(
            line["values"]["half"].as_f64() == Some(n as f64 + 0.5),
            "changed: {line}"
        );
    }
    Ok(())
}
