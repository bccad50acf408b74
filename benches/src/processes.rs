//! The subjects: vmkpi-guest and the floor as processes of their own, started, measured in turn and
//! stopped, also when a measurement fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::sqlite::commits_per_second;
use crate::writers::{Plan, Rate, run};

/// How many writers are measured.
pub const WRITERS: [usize; 4] = [1, 4, 16, 64];

/// The rates of one number of writers, a value for each round.
#[derive(Default)]
pub struct Row {
    /// How many writers.
    pub writers: usize,
    /// Whether writers and daemon were kept on one processor.
    pub pinned: bool,
    /// The no-op FUSE file system.
    pub floor: Vec<Rate>,
    /// Files with fsync on the disk of the databases.
    pub fsync: Vec<Rate>,
    /// The FUSE file system that commits each row in its handler.
    pub handler: Vec<Rate>,
    /// Pinned alone: one-row commits a second straight into SQLite.
    pub commits: Vec<f64>,
    /// vmkpi-guest.
    pub guest: Vec<Rate>,
    /// Processor time a store of the floor's daemon, in microseconds.
    pub floor_cpu_us: Vec<f64>,
    /// The same of vmkpi-guest.
    pub guest_cpu_us: Vec<f64>,
}

/// What was measured.
pub struct Measured {
    /// A row for each number of writers.
    pub rows: Vec<Row>,
    /// FUSE requests a store in steady state, at 16 writers.
    pub requests_per_store: f64,
    /// Stores a commit, at 16 writers.
    pub stores_per_commit: f64,
    /// Rows in the databases at the end, less the closes that returned 0.
    pub rows_minus_closes: i64,
    /// The guest's peak resident memory, in bytes.
    pub guest_peak_rss_bytes: u64,
}

/// A mounted daemon; stopped and unmounted when it goes.
struct Daemon {
    child: Child,
    mount: PathBuf,
}

impl Daemon {
    fn start(mut command: Command, mount: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(mount)?;
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut daemon = Self {
            child,
            mount: mount.to_owned(),
        };
        daemon.wait_mounted()?;
        Ok(daemon)
    }

    fn directory(&self) -> PathBuf {
        self.mount.join("unencrypted")
    }

    fn wait_mounted(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.directory().is_dir() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon of {} ended: {status}", self.mount.display());
            }
            if Instant::now() > deadline {
                bail!("{} was not mounted within 30 s", self.mount.display());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Processor time used so far, in seconds (fields 14 and 15 of /proc/PID/stat; 100 ticks a second).
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
        let (user, system) = (ticks(12), ticks(13));
        Ok((user.context("stat")? + system.context("stat")?) / 100.0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
    }
}

/// What is measured, side by side.
struct Subjects {
    floor: Daemon,
    handler: Daemon,
    guest: Daemon,
    fsync_dir: PathBuf,
}

impl Subjects {
    fn start(guest: &Path, home: &Path) -> anyhow::Result<Self> {
        let fsync_dir = home.join("fsync");
        fs::create_dir(&fsync_dir)?;
        Ok(Self {
            floor: start_floor(&home.join("floor"), None)?,
            handler: start_floor(&home.join("handler"), Some(&home.join("rows")))?,
            guest: start_guest(guest, home)?,
            fsync_dir,
        })
    }

    /// Keeps everything on the given processors.
    fn pin(&self, cpus: &CpuSet) -> anyhow::Result<()> {
        for pid in [
            self.floor.pid(),
            self.handler.pid(),
            self.guest.pid(),
            Pid::this(),
        ] {
            pin_threads(pid, cpus)?;
        }
        Ok(())
    }
}

fn start_floor(mount: &Path, commit: Option<&Path>) -> anyhow::Result<Daemon> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("floor").arg("--mount").arg(mount);
    if let Some(dir) = commit {
        command.arg("--commit").arg(dir);
    }
    Daemon::start(command, mount)
}

/// Keeps a process (0: this one) on the given processors.
fn pin(pid: Pid, cpus: &CpuSet) -> anyhow::Result<()> {
    Ok(sched_setaffinity(pid, cpus)?)
}

/// Pins every thread of `pid`: affinity is per thread.
fn pin_threads(pid: Pid, cpus: &CpuSet) -> anyhow::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        if let Some(thread) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) {
            pin(Pid::from_raw(thread), cpus)?;
        }
    }
    Ok(())
}

/// Measures everything.
pub fn measure(guest: &Path, dir: &Path, plan: &Plan) -> anyhow::Result<Measured> {
    let home = TempDir::with_prefix_in("vmkpi-bench-", dir)?;
    let subjects = Subjects::start(guest, home.path())?;

    let mut rows: Vec<Row> = WRITERS
        .map(|writers| Row {
            writers,
            ..Row::default()
        })
        .into();
    rows.insert(
        0,
        Row {
            writers: 1,
            pinned: true,
            ..Row::default()
        },
    );
    let mut warmed = 0;
    for writers in [1, 64] {
        warmed += stored(
            run(&subjects.guest.directory(), writers, plan.each / 4, false)?,
            writers,
        );
        run(&subjects.floor.directory(), writers, plan.each / 4, false)?;
        run(&subjects.handler.directory(), writers, plan.each / 4, false)?;
    }
    let mut steady = None;
    for _ in 0..plan.rounds {
        for row in &mut rows {
            let before = status(guest, home.path())?;
            measure_row(row, &subjects, plan)?;
            if row.writers == 16 {
                steady = Some((before, status(guest, home.path())?));
            }
        }
    }
    let (before, after) = steady.context("nothing was measured")?;
    let closes: u64 = rows.iter().map(closes).sum::<u64>() + warmed;
    let end = status(guest, home.path())?;
    let stores = number(&after, "stores") - number(&before, "stores");
    Ok(Measured {
        requests_per_store: (requests(&after) - requests(&before)) / stores,
        stores_per_commit: stores / (number(&after, "commits") - number(&before, "commits")),
        rows_minus_closes: number(&end, "stores") as i64 - closes.cast_signed(),
        guest_peak_rss_bytes: number(&end, "memory_peak_bytes") as u64,
        rows,
    })
}

/// Closes of one run: what was timed, and the first store of each writer.
fn stored(rate: Rate, writers: usize) -> u64 {
    rate.stores + writers as u64
}

fn closes(row: &Row) -> u64 {
    row.guest.iter().map(|r| stored(*r, row.writers)).sum()
}

fn start_guest(guest: &Path, home: &Path) -> anyhow::Result<Daemon> {
    let mount = home.join("kpi");
    let mut command = Command::new(guest);
    command.arg("run").arg("--mount").arg(&mount);
    command.arg("--state").arg(home.join("state"));
    command
        .arg("--link")
        .arg(format!("unix:{}", home.join("link.sock").display()));
    Daemon::start(command, &mount)
}

fn measure_row(row: &mut Row, subjects: &Subjects, plan: &Plan) -> anyhow::Result<()> {
    let all = sched_getaffinity(Pid::from_raw(0))?;
    if row.pinned {
        let mut one = CpuSet::new();
        let first = (0..CpuSet::count()).find(|c| all.is_set(*c).unwrap_or(false));
        one.set(first.unwrap_or(0))?;
        subjects.pin(&one)?;
    }
    let measured = measure_all(row, subjects, plan);
    subjects.pin(&all)?;
    measured
}

fn measure_all(row: &mut Row, subjects: &Subjects, plan: &Plan) -> anyhow::Result<()> {
    let (rate, cpu) = timed(&subjects.floor, row.writers, plan)?;
    row.floor.push(rate);
    row.floor_cpu_us.push(cpu);
    let (rate, cpu) = timed(&subjects.guest, row.writers, plan)?;
    row.guest.push(rate);
    row.guest_cpu_us.push(cpu);
    row.fsync
        .push(run(&subjects.fsync_dir, row.writers, plan.each, true)?);
    row.handler
        .push(timed(&subjects.handler, row.writers, plan)?.0);
    if row.pinned {
        let dir = subjects.fsync_dir.with_file_name("commits");
        row.commits.push(commits_per_second(&dir, plan.each)?);
    }
    Ok(())
}

fn timed(daemon: &Daemon, writers: usize, plan: &Plan) -> anyhow::Result<(Rate, f64)> {
    let before = daemon.cpu_seconds()?;
    let rate = run(&daemon.directory(), writers, plan.each, false)?;
    let used = daemon.cpu_seconds()? - before;
    Ok((rate, used * 1e6 / stored(rate, writers) as f64))
}

/// What `vmkpi-guest status` says of the running daemon.
fn status(guest: &Path, home: &Path) -> anyhow::Result<Value> {
    let output = Command::new(guest)
        .args(["status", "--format", "json", "--state"])
        .arg(home.join("state"))
        .output()?;
    if !output.status.success() {
        bail!("status: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn number(status: &Value, key: &str) -> f64 {
    status["live"][key].as_f64().unwrap_or(f64::NAN)
}

/// Requests that an application waits for or causes; forgets are the kernel's housekeeping.
fn requests(status: &Value) -> f64 {
    let Some(counts) = status["live"]["requests"].as_object() else {
        return f64::NAN;
    };
    counts
        .iter()
        .filter(|(name, _)| *name != "FORGET")
        .filter_map(|(_, count)| count.as_f64())
        .sum()
}
