//! A clean Debian 12 root, booted by systemd in namespaces of its own (systemd-nspawn), with a network of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::process::Process;
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::wait_for;

use super::built::target;
use super::{PATIENCE, require};

/// What is in the root beside Debian's essential packages: an init, a broker, what the packages depend on, and what
/// images for clouds have.
const INCLUDED: &str = "systemd,systemd-sysv,dbus,fuse3,procps,libvirt0,mosquitto,man-db,bash-completion,cloud-init,curl";

const TOOLS: &[(&str, &str)] = &[
    ("/usr/bin/systemd-nspawn", "systemd-container"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/bin/curl", "curl"),
    ("/dev/fuse", "(and load the kernel's module fuse)"),
];

/// Where what is to be installed is seen in the machine.
pub const PACKAGES_IN_MACHINE: &str = "/packages";

/// A running machine; it is off when this is dropped.
pub struct Machine {
    process: Process,
    /// Its init, as this machine counts processes.
    leader: u32,
    groups: Vec<PathBuf>,
    scratch: Scratch,
}

impl Machine {
    /// Boots a clean root, in which `packages` is seen; none where that cannot be.
    ///
    /// # Errors
    /// It does not come up.
    pub fn boot(name: &str, packages: &Path) -> Result<Option<Self>> {
        Self::boot_with(name, packages, |_| Ok(()))
    }

    /// The same of a root that has been prepared before.
    ///
    /// # Errors
    /// It does not come up, or cannot be prepared.
    pub fn boot_with(
        name: &str,
        packages: &Path,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Option<Self>> {
        if !require(TOOLS, true)? {
            return Ok(None);
        }
        let scratch = Scratch::new()?;
        let root = scratch.path().join("root");
        std::fs::create_dir(&root)?;
        unpack(&root)?;
        prepare(&root)?;
        let name = format!("vmkpi-{name}-{}", std::process::id());
        let groups = own_groups(&name)?;
        let packages = format!("--bind-ro={}:{PACKAGES_IN_MACHINE}", packages.display());
        let arguments = begin(&groups, &root, &name, &packages);
        let process = Process::start(scratch.path(), "machine", Path::new("/bin/sh"), arguments)?;
        let leader = wait_for(PATIENCE, "the machine's init", || leader(process.pid()));
        let leader = leader.with_context(|| process.words())?;
        let machine = Self {
            process,
            leader,
            groups,
            scratch,
        };
        let is_up = || machine.run(["systemctl", "is-system-running"]).ok();
        wait_for(PATIENCE, "the machine to be up", is_up).with_context(|| machine.troubles())?;
        Ok(Some(machine))
    }

    /// What a command in it says on standard output; on standard error too where it fails.
    ///
    /// # Errors
    /// It fails.
    pub fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Result<String> {
        let mut enter = self.enter(&["-m", "-u", "-i", "-n", "-p", "-C"]);
        enter.args([
            "env",
            "-i",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        enter
            .arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin")
            .args(command);
        told(enter)
    }

    /// The same of a shell's script; the first command that fails ends it.
    ///
    /// # Errors
    /// It fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run(["sh", "-euc", script])
    }

    /// What is at an address of its network.
    ///
    /// # Errors
    /// Nobody answers there.
    pub fn fetch(&self, url: &str) -> Result<String> {
        let mut enter = self.enter(&["-n"]);
        enter.args(["curl", "--silent", "--show-error", "--fail", url]);
        told(enter)
    }

    /// Its file system, as it is without what is mounted in it.
    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    /// Writes a file in it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        let file = self.root().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().context("a folder")?)?;
        std::fs::write(&file, content).context(path.to_owned())
    }

    /// Whether systemd says that a unit is in this state.
    pub fn is(&self, state: &str, unit: &str) -> bool {
        let is = format!("is-{state}");
        self.run(["systemctl", "--quiet", &is, unit]).is_ok()
    }

    /// What its init says of what is not well.
    fn troubles(&self) -> String {
        let asked = "systemctl --no-pager --failed; systemctl --no-pager list-jobs; journalctl --no-pager -n 30";
        self.sh(asked).unwrap_or_else(|_| self.process.words())
    }

    fn enter(&self, namespaces: &[&str]) -> Command {
        let mut enter = Command::new("nsenter");
        enter
            .arg("-t")
            .arg(self.leader.to_string())
            .args(namespaces);
        enter
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // An orderly shutdown of what runs in it.
        let _ = self.process.terminate();
        let _ = self.process.kill();
        self.groups.iter().for_each(|group| remove_group(group));
    }
}

/// With those that the machine's init has made in it; a group holds no files to remove.
fn remove_group(group: &Path) {
    let inner = std::fs::read_dir(group).into_iter().flatten().flatten();
    let inner = inner.map(|entry| entry.path());
    inner
        .filter(|path| path.is_dir())
        .for_each(|path| remove_group(&path));
    let _ = std::fs::remove_dir(group);
}

fn told(mut command: Command) -> Result<String> {
    let output = command.output()?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {out}{words}");
    Ok(out)
}

/// The command that becomes the machine.
fn begin(groups: &[PathBuf], root: &Path, name: &str, packages: &str) -> Vec<String> {
    let mut script = String::new();
    for group in groups {
        let line = format!("echo $$ >'{}/cgroup.procs' && ", group.display());
        script.push_str(&line);
    }
    script.push_str("exec systemd-nspawn \"$@\"");
    let mut arguments = vec!["-c".to_owned(), script, "sh".to_owned()];
    let fixed = [
        "--quiet",
        "--boot",
        "--register=no",
        "--console=read-only",
        "--private-network",
        "--bind=/dev/fuse",
        packages,
    ];
    arguments.extend(fixed.map(str::to_owned));
    if !groups.is_empty() {
        arguments.push("--keep-unit".into());
    }
    arguments.push(format!("--machine={name}"));
    arguments.push(format!("--directory={}", root.display()));
    arguments
}

/// Where no systemd runs that would give the machine control groups of its own, these do: otherwise two machines at
/// once would be one.
fn own_groups(name: &str) -> Result<Vec<PathBuf>> {
    if Path::new("/run/systemd/system").is_dir() {
        return Ok(vec![]);
    }
    let hierarchies = [
        "/sys/fs/cgroup/systemd",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup",
    ];
    let there = |folder: &&&str| Path::new(folder).join("cgroup.procs").is_file();
    let groups = hierarchies
        .iter()
        .filter(there)
        .map(|folder| Path::new(folder).join(name));
    let groups: Vec<PathBuf> = groups.collect();
    for group in &groups {
        std::fs::create_dir(group).with_context(|| group.display().to_string())?;
    }
    Ok(groups)
}

/// The child that is process 1 of a namespace of its own.
fn leader(of: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
    let is_init = |child: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{child}/status"));
        let status = status.unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let named = status.starts_with("Name:\tsystemd\n");
        named && ids.is_some_and(|ids| ids.split_whitespace().skip(1).eq(["1"]))
    };
    let children = children.split_whitespace().filter_map(|c| c.parse().ok());
    children.into_iter().find(is_init)
}

/// Fills `root` from the image, which is made if there is none.
fn unpack(root: &Path) -> Result<()> {
    static MAKING: Mutex<()> = Mutex::new(());
    let image = target().join("debian12.tar");
    let note = target().join("debian12.included");
    {
        let _making = MAKING.lock();
        let made = std::fs::read_to_string(&note).unwrap_or_default();
        if made != INCLUDED || !image.is_file() {
            make(&image)?;
            std::fs::write(&note, INCLUDED)?;
        }
    }
    let status = Command::new("tar")
        .args(["--extract", "--numeric-owner", "--xattrs"])
        .args([OsStr::new("--file"), image.as_os_str()])
        .args([OsStr::new("--directory"), root.as_os_str()])
        .status()?;
    ensure!(status.success(), "{} cannot be unpacked", image.display());
    // Debian's installer writes it, and no package does.
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    Ok(())
}

fn make(image: &Path) -> Result<()> {
    let log = image.with_extension("log");
    let mut make = Command::new("mmdebstrap");
    make.args([
        "--variant=minbase",
        "--format=tar",
        "--dpkgopt=force-unsafe-io",
    ])
    .arg(format!("--include={INCLUDED}"))
    .arg("bookworm")
    .arg(image)
    .arg("http://deb.debian.org/debian")
    .stdout(File::create(&log)?)
    .stderr(File::options().append(true).open(&log)?);
    // Thousands of small files, each synced: in memory, where there is such a place.
    if Path::new("/dev/shm").is_dir() {
        make.env("TMPDIR", "/dev/shm");
    }
    let status = make.status()?;
    let words = || std::fs::read_to_string(&log).unwrap_or_default();
    ensure!(status.success(), "mmdebstrap: {}", words());
    Ok(())
}
