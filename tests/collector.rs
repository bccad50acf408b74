//! `vmkpi collect` in a chain: a Consumer with a key of its own, and its database as the judge.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::chain::{Broker, Chain, query};
use crate::ledger::Writer;
use crate::network::Place;
use crate::process::{Process, program};
use crate::wait_for;

/// The Consumer's name in descriptors.
pub const NAME: &str = "acme-collect";

/// Every stored row at once, acknowledged by the Consumer with this key and by nobody else.
pub fn confirmed_by(key: &Key) -> String {
    format!(
        "vm = \"shop\"\nprimary_site = \"acme\"\n[[confirm]]\nname = \"{NAME}\"\nkey = \"{}\"\n\
         [[monitor]]\nid = \"every-row\"\npoint = \"unencrypted/*\"\n",
        key.public
    )
}

/// An Ed25519 key pair, made by openssl.
pub struct Key {
    /// The private key, PEM.
    pub file: PathBuf,
    /// The public key: the base64 of its 32 bytes.
    pub public: String,
}

impl Key {
    /// Makes one in `folder`.
    ///
    /// # Errors
    /// openssl says no.
    pub fn make(folder: &Path, name: &str) -> Result<Self> {
        let file = folder.join(name);
        let script = "umask 077; openssl genpkey -algorithm ed25519 -out \"$1\" && \
                      openssl pkey -in \"$1\" -pubout -outform DER | tail -c 32 | base64";
        let output = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&file)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let public = String::from_utf8(output.stdout)?.trim().to_owned();
        Ok(Self { file, public })
    }
}

/// What a collect stands in: the guest whose rows it keeps, and what everybody says.
pub trait Around {
    /// Where the guest's state is, in `guest`.
    fn folder(&self) -> &Path;
    /// What the programs said on standard error, for a failed test.
    fn words(&self) -> String;
}

impl Around for Chain {
    fn folder(&self) -> &Path {
        Self::folder(self)
    }

    fn words(&self) -> String {
        Self::words(self)
    }
}

/// Brokers that can be killed between a writer and its collect.
pub trait Mortal: Around {
    /// The collect.
    fn collect(&self) -> &Collector;

    /// Begins to store rows with pauses.
    ///
    /// # Errors
    /// The writer does not start.
    fn write(&self, pause: Duration) -> Result<Writer>;

    /// Kills a broker as kill -9 does, the `n`th time, and starts it as one that has never been there.
    ///
    /// # Errors
    /// It does not start.
    fn forget_broker(&mut self, n: usize) -> Result<()>;

    /// Waits until so many rows more are kept than there are now.
    ///
    /// # Errors
    /// They are not, within `seconds`.
    fn wait_for_more(&self, rows: u64, seconds: u64) -> Result<()> {
        let rows = self.collect().count() + rows;
        wait_for(seconds, &format!("{rows} rows to be kept"), || {
            (self.collect().count() >= rows).then_some(())
        })
        .with_context(|| format!("{}\n{}", self.collect().process.words(), self.words()))
    }

    /// Twenty kills during 100,000 rows; each is kept once.
    ///
    /// # Errors
    /// One is not.
    fn survive_twenty_kills(&mut self) -> Result<()> {
        let mut writer = self.write(Duration::ZERO)?;
        for n in 0..20 {
            self.wait_for_more(4800, 600)?;
            self.forget_broker(n)?;
        }
        while writer.stored()?.len() < 100_000 {
            self.wait_for_more(1000, 600)?;
        }
        writer.stop()?;
        let rows = self.collect().judge(self, &writer, 900)?;
        ensure!(rows >= 100_000, "{rows} rows");
        Ok(())
    }
}

/// A running collect.
pub struct Collector {
    /// The process.
    pub process: Process,
    /// Its database.
    pub db: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    program: PathBuf,
}

impl Collector {
    /// Starts one that confirms by `key`, with its database in `place`, and waits until it listens.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(
        folder: &Path,
        broker: &Broker,
        place: &Path,
        key: &Key,
        more: &[&str],
    ) -> Result<Self> {
        let program = program("vmkpi")?;
        Self::start_of(&program, (folder, place), broker, key, more)
    }

    /// The same with another version's program.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_of(
        program: &Path,
        (folder, place): (&Path, &Path),
        broker: &Broker,
        key: &Key,
        more: &[&str],
    ) -> Result<Self> {
        let db = place.join("collect.db");
        let more: Vec<_> = more.iter().map(ToString::to_string).collect();
        let arguments = arguments(&broker.url(), &db, key, &more);
        Ok(Self {
            process: begin(program, folder, &arguments)?,
            db,
            arguments,
            folder: folder.to_owned(),
            program: program.to_owned(),
        })
    }

    /// Starts one in a place of a chain of sites.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_in(place: &Place, url: &str, key: &Key, more: &[String]) -> Result<Self> {
        let folder = place.folder().to_owned();
        let db = folder.join("collect.db");
        let arguments = arguments(url, &db, key, more);
        let process = place.start("collect", &program("vmkpi")?, &arguments)?;
        wait_until_it_listens(&process, 0)?;
        Ok(Self {
            process,
            db,
            arguments,
            folder,
            program: program("vmkpi")?,
        })
    }

    /// Starts it again after it has ended.
    ///
    /// # Errors
    /// It does not start.
    pub fn begin(&mut self) -> Result<()> {
        self.process = begin(&self.program, &self.folder, &self.arguments)?;
        Ok(())
    }

    /// Ends it in order, and goes on with another version's program on the same database.
    ///
    /// # Errors
    /// It does not end, or the other one does not start.
    pub fn replace(&mut self, program: &Path) -> Result<()> {
        self.process.terminate()?;
        program.clone_into(&mut self.program);
        self.begin()
    }

    /// Kills it as kill -9 does and starts it again.
    ///
    /// # Errors
    /// It does not start.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.begin()
    }

    /// Asks its database.
    ///
    /// # Errors
    /// It is refused.
    pub fn query(&self, sql: &str) -> Result<Vec<Value>> {
        query(&self.db, sql)
    }

    /// How many rows of the writer's are kept.
    pub fn count(&self) -> u64 {
        let sql = "SELECT count(*) FROM samples WHERE point = 'unencrypted/load'";
        let found = self.query(sql).ok();
        found.and_then(|rows| rows[0][0].as_u64()).unwrap_or(0)
    }

    /// Waits until each store of the stopped writer is kept, and the guest has been acknowledged through the last;
    /// then judges: each is kept once, as it was stored, and nothing else.
    ///
    /// # Errors
    /// One is missing, twice, changed or invented.
    pub fn judge(
        &self,
        chain: &(impl Around + ?Sized),
        writer: &Writer,
        seconds: u64,
    ) -> Result<usize> {
        let stored = writer.stored()?;
        ensure!(
            stored.len() > 20,
            "only {} stores; nothing was tested",
            stored.len()
        );
        let all = wait_for(seconds, "every store to be kept", || {
            let kept = self.kept().ok()?;
            stored
                .is_subset(&kept.iter().map(|row| row.0).collect())
                .then_some(kept)
        });
        let kept = match all {
            Ok(kept) => kept,
            Err(error) => {
                let kept: HashSet<_> = self.kept()?.iter().map(|row| row.0).collect();
                let mut missing: Vec<_> = stored.difference(&kept).collect();
                missing.sort();
                missing.truncate(50);
                let said = self.process.words();
                bail!("{error:#}: {missing:?}\n{said}\n{}", chain.words())
            }
        };
        let attempted = writer.attempted()?;
        let (mut numbers, mut rows) = (HashSet::new(), HashSet::new());
        for (n, half, stream, seq) in kept {
            ensure!(numbers.insert(n), "{n} is kept twice");
            ensure!(rows.insert((stream, seq)), "row {seq} is kept twice");
            ensure!(attempted.contains(&n), "{n} was never stored");
            ensure!(half == n as f64 + 0.5, "{n} came as {half}");
        }
        wait_for(60, "the guest to be acknowledged", || {
            (unacknowledged(chain).ok()? == 0).then_some(())
        })
        .with_context(|| chain.words())?;
        let missing = self.query("SELECT count(*) FROM missing")?;
        ensure!(missing[0][0] == 0, "{missing:?}");
        Ok(stored.len())
    }

    #[allow(clippy::type_complexity, reason = "a row of a table")]
    fn kept(&self) -> Result<Vec<(u64, f64, String, u64)>> {
        let sql = "SELECT data ->> 'n', data ->> 'half', stream, seq FROM samples WHERE point = 'unencrypted/load'";
        let rows = self.query(sql)?;
        rows.iter()
            .map(|row| {
                Ok((
                    row[0].as_u64().with_context(|| row.to_string())?,
                    row[1].as_f64().with_context(|| row.to_string())?,
                    row[2].to_string(),
                    row[3].as_u64().with_context(|| row.to_string())?,
                ))
            })
            .collect()
    }
}

fn arguments(url: &str, db: &Path, key: &Key, more: &[String]) -> Vec<String> {
    let mut arguments = vec![
        "collect".to_owned(),
        format!("--broker={url}"),
        format!("--db={}", db.display()),
        format!("--name={NAME}"),
        format!("--sign-key-file={}", key.file.display()),
    ];
    arguments.extend_from_slice(more);
    arguments
}

fn begin(program: &Path, folder: &Path, arguments: &[String]) -> Result<Process> {
    // What an earlier one said is not this one's.
    let said = folder.join("collect.err");
    let before = std::fs::read_to_string(&said).unwrap_or_default().len();
    let process = Process::start(folder, "collect", program, arguments)?;
    wait_until_it_listens(&process, before)?;
    Ok(process)
}

fn wait_until_it_listens(process: &Process, before: usize) -> Result<()> {
    wait_for(20, "collect to listen", || {
        let text = process.words();
        text.get(before..)?.contains("connected to").then_some(())
    })
    .with_context(|| process.words())
}

/// Rows of the writer's that the guest keeps as nobody has acknowledged them.
///
/// # Errors
/// The guest's database cannot be asked.
pub fn unacknowledged(chain: &(impl Around + ?Sized)) -> Result<u64> {
    let output = Command::new(program("vmkpi-guest")?)
        .args(["status", "--format=json"])
        .arg(format!(
            "--state={}",
            chain.folder().join("guest").display()
        ))
        .stdin(Stdio::null())
        .output()?;
    let status: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let tables = status["points"].as_array().context("points")?;
    let load = tables.iter().find(|t| t["point"] == "unencrypted/load");
    let load = load.with_context(|| status.to_string())?;
    load["unacknowledged"]
        .as_u64()
        .with_context(|| load.to_string())
}
