//! Warm reads through the context partition, beside the file system that the files are on and overlayfs over the same two
//! layers, interleaved in one run. Each subject has the same tree: a third of the files is the higher layer's.
#![expect(clippy::print_stdout, reason = "printing is this module's job")]

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

/// Files in the tree, in ten directories, and bytes of each.
const FILES: usize = 300;
const BYTES: usize = 1024;

/// How many files are read between two looks at the clock.
const BATCH: usize = 100;

/// What is measured, and how long.
pub struct Plan {
    /// The vmkpi-guest program.
    pub guest: PathBuf,
    /// Where the files are.
    pub dir: PathBuf,
    /// How often everything is measured.
    pub rounds: usize,
    /// How long each subject is measured in a round.
    pub each: Duration,
    /// Whether programs read the result.
    pub json: bool,
}

/// One of the file systems.
struct Subject {
    name: &'static str,
    files: Vec<PathBuf>,
    rates: Vec<f64>,
}

/// Opens, reads and closes each file, over and over. Files a second.
fn measure(files: &[PathBuf], each: Duration) -> anyhow::Result<f64> {
    let (mut buffer, mut count, start) = ([0; BYTES * 2], 0, Instant::now());
    let mut next = files.iter().cycle();
    while start.elapsed() < each {
        for path in next.by_ref().take(BATCH) {
            let read = File::open(path)?.read(&mut buffer)?;
            ensure!(read == BYTES, "{}: {read} bytes", path.display());
        }
        count += BATCH;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Measures and prints.
///
/// # Errors
/// A mount or a program fails.
pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let home = TempDir::with_prefix_in("vmkpi-bench-", &plan.dir)?;
    let at = |name: &str| home.path().join(name);
    let names = trees(home.path())?;
    let guest = Guest::start(&plan.guest, home.path())?;
    let overlay = Overlay::mount(home.path());
    let mut subjects = vec![("native", at("native")), ("vmkpi", guest.mount.clone())];
    match &overlay {
        Ok(overlay) => subjects.push(("overlayfs", overlay.0.clone())),
        Err(error) => eprintln!("overlayfs is left out: {error:#}"),
    }
    let mut subjects: Vec<Subject> = subjects
        .into_iter()
        .map(|(name, top)| Subject {
            name,
            files: names.iter().map(|file| top.join(file)).collect(),
            rates: Vec::new(),
        })
        .collect();
    for subject in &subjects {
        // Warm: everything was read once.
        measure(&subject.files, Duration::from_millis(200))?;
    }
    for _ in 0..plan.rounds {
        for subject in &mut subjects {
            subject.rates.push(measure(&subject.files, plan.each)?);
        }
    }
    print(&subjects, plan.json);
    Ok(())
}

/// The layers and the same tree as plain files. Returns the paths in it.
fn trees(home: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let names: Vec<PathBuf> = (0..FILES)
        .map(|n| PathBuf::from(format!("d{}/file-{n}", n % 10)))
        .collect();
    for (place, name) in names.iter().enumerate() {
        let high = place % 3 == 0;
        let tops: &[&str] = if high {
            &["infrastructure", "service", "native"]
        } else {
            &["service", "native"]
        };
        for top in tops {
            let path = home.join(top).join(name);
            fs::create_dir_all(path.parent().context("a name has a directory")?)?;
            let letter = if high && *top != "service" {
                b'h'
            } else {
                b'l'
            };
            fs::write(path, [letter; BYTES])?;
        }
    }
    Ok(names)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of the ratios round by round, so that a drift of the machine cancels out.
fn ratio(subject: &Subject, native: &Subject) -> f64 {
    let each = subject.rates.iter().zip(&native.rates);
    median(each.map(|(ours, theirs)| ours / theirs).collect())
}

fn print(subjects: &[Subject], as_json: bool) {
    let native = &subjects[0];
    if as_json {
        let row = |subject: &Subject| {
            let rate = median(subject.rates.clone()).round();
            json!({ "name": subject.name, "files_per_second": rate, "of_native": ratio(subject, native) })
        };
        println!(
            "{}",
            json!({ "subjects": subjects.iter().map(row).collect::<Vec<_>>() })
        );
        return;
    }
    println!(
        "open, read 1 KiB, close; warm, one reader, {} rounds",
        native.rates.len()
    );
    println!("{:<12} {:>14} {:>10}", "", "FILES/S", "OF NATIVE");
    for subject in subjects {
        let rate = median(subject.rates.clone());
        println!(
            "{:<12} {rate:>14.0} {:>10.2}",
            subject.name,
            ratio(subject, native)
        );
    }
}

/// vmkpi-guest with the two layers; stopped and unmounted when it goes.
struct Guest {
    child: Child,
    mount: PathBuf,
    kpi: PathBuf,
}

impl Guest {
    fn start(program: &Path, home: &Path) -> anyhow::Result<Self> {
        let at = |name: &str| home.join(name);
        let layer = |class: &str| format!("{class}={}", at(class).display());
        let (mount, kpi) = (at("context"), at("kpi"));
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("--mount")
            .arg(&kpi)
            .arg("--state")
            .arg(at("state"));
        command
            .arg("--link")
            .arg(format!("unix:{}", at("link").display()));
        command.arg("--context-mount").arg(&mount);
        command.arg("--context-hooks").arg(at("hooks"));
        for class in ["infrastructure", "service"] {
            command.args(["--context-directory", &layer(class)]);
        }
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut guest = Self { child, mount, kpi };
        guest.wait()?;
        Ok(guest)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.mount.join("d0").is_dir() {
            if let Some(status) = self.child.try_wait()? {
                bail!("vmkpi-guest ended: {status}");
            }
            ensure!(
                Instant::now() < deadline,
                "the context was not mounted within 30 s"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        );
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for left in [&self.mount, &self.kpi] {
            let _ = umount2(left, MntFlags::MNT_DETACH);
        }
    }
}

/// The two layers by overlayfs, which takes root.
struct Overlay(PathBuf);

impl Overlay {
    fn mount(home: &Path) -> anyhow::Result<Self> {
        let target = home.join("overlay");
        fs::create_dir(&target)?;
        let at = |name: &str| home.join(name).display().to_string();
        let layers = format!("lowerdir={}:{}", at("infrastructure"), at("service"));
        let flags = MsFlags::MS_RDONLY;
        mount(
            Some("overlay"),
            &target,
            Some("overlay"),
            flags,
            Some(layers.as_str()),
        )
        .context("mount overlay")?;
        Ok(Self(target))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
