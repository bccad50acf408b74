//! The laboratory: a private libvirtd, a real virtual machine in it with a stock kernel and the
//! guest's programs, and on the host's side broker, watcher and `vmkpi-host`. Nothing of it is
//! shared with what libvirt has on this machine, and nothing of it is left.
//!
//! ```text
//! namespaces of its own                                          outside
//! QEMU (software emulation) ── libvirtd <── virsh ───────────── the test
//!   kernel, busybox, vmkpi-guest                                   │
//!   org.vmkpi.kpi.0 ══ socket ══> vmkpi-host ── mosquitto ── vmkpi watch
//! ```
//! The VM says what to monitor in its metadata, and nobody tells the host where its link is: both
//! sides find `org.vmkpi.kpi.0` by themselves, as they do by default.

pub mod contexts;
pub mod herd;
pub mod host;
pub mod hypervisor;
mod initramfs;
pub mod judge;
mod kernel;
pub mod migration;
pub mod offered;
pub mod pair;
pub mod traveller;

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use vmkpi::descriptor::METADATA_NAMESPACE;

use crate::chain::{Broker, http_get, lines_of, start_watch, tail};
use crate::process::{Process, program};
use crate::scratch::{Scratch, free_address};
use crate::wait_for;
use hypervisor::Hypervisor;
use kernel::{Kernel, run};

/// The domain's name.
pub const DOMAIN: &str = "lab";

/// How long anything may take that needs the VM, in seconds: emulated, on a busy machine.
pub const PATIENCE: u64 = 120;

/// Bytes of the disk that the guest's store lies on.
const STORE_BYTES: u64 = 64 << 20;

const XML: &str = include_str!("lab/domain.xml");

/// What has to be installed, and in which Debian package it is.
const NEEDED: [(&str, &str); 12] = [
    ("/usr/sbin/libvirtd", "libvirt-daemon-system"),
    ("/usr/bin/virsh", "libvirt-clients"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/cpio", "cpio"),
    ("/usr/sbin/depmod", "kmod"),
    ("/usr/bin/apt-get", "apt"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("/usr/bin/strip", "binutils"),
    ("/usr/sbin/mosquitto", "mosquitto"),
    ("/usr/bin/promtool", "prometheus"),
];

/// A running laboratory.
pub struct Lab {
    /// The host daemon.
    pub host: Process,
    /// Where the exporter listens.
    pub metrics: SocketAddr,
    /// libvirtd.
    pub hypervisor: Hypervisor,
    watch: Process,
    broker: Broker,
    // Last, as parts are dropped in this order: the folder goes when nobody is in it any more.
    scratch: Scratch,
}

impl Lab {
    /// Starts everything; the VM has booted and stores KPIs. `None`: this machine has not what it
    /// takes, which was said.
    ///
    /// # Errors
    /// A part does not come up; or something is missing in continuous integration, where nothing
    /// is skipped.
    pub fn start() -> Result<Option<Self>> {
        let Some(kernel) = kernel_or_skip()? else {
            return Ok(None);
        };
        let scratch = Scratch::new()?;
        let hypervisor = Hypervisor::start(scratch.path())?;
        let broker = Broker::start(scratch.path())?;
        let watch = start_watch(scratch.path(), &broker)?;
        let metrics = free_address()?;
        let host = start_host(scratch.path(), &hypervisor, &broker, metrics)?;
        let lab = Self {
            host,
            metrics,
            watch,
            broker,
            hypervisor,
            scratch,
        };
        lab.build(&kernel)?;
        Ok(Some(lab))
    }

    /// Makes the VM, its disks and what it boots, and starts it.
    fn build(&self, kernel: &Kernel) -> Result<()> {
        let folder = self.scratch.path();
        let file = |name: &str| folder.join(name).display().to_string();
        initramfs::build(folder, kernel, &initramfs::PLAIN)?;
        std::fs::write(folder.join("disk"), vec![b'\n'; 1 << 20])?;
        std::fs::File::create(folder.join("store"))?.set_len(STORE_BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", &file("store")]))?;
        let xml = XML
            .replace("@NAME@", DOMAIN)
            .replace("@UUID@", &uuid()?)
            .replace("@KERNEL@", &kernel.image.display().to_string())
            .replace("@INITRAMFS@", &file(initramfs::FILE))
            .replace("@DISK@", &file("disk"))
            .replace("@STORE@", &file("store"))
            .replace("@INTERFACE@", herd::interface())
            .replace("@CONSOLE@", &file("console"));
        std::fs::write(folder.join("domain.xml"), xml)?;
        self.boot()
    }

    fn boot(&self) -> Result<()> {
        let xml = self.scratch.path().join("domain.xml");
        self.hypervisor
            .virsh(&["create", &xml.display().to_string()])?;
        wait_for(PATIENCE, "the VM to boot", || self.said("ready"))
            .map(drop)
            .with_context(|| self.words())
    }

    /// Cuts the VM's power: its QEMU is killed, and whatever the guest had in its memory alone is
    /// gone. Says how many rows it had stored by its own account, and boots it again.
    ///
    /// # Errors
    /// It does not end, or does not boot.
    pub fn cut_power(&self) -> Result<u64> {
        self.signal_vm(Signal::KILL)?;
        wait_for(PATIENCE, "the VM to be gone", || {
            let running = self.hypervisor.virsh(&["list", "--name"]).ok()?;
            (!running.contains(DOMAIN)).then_some(())
        })?;
        let stored = self.stored();
        let console = self.scratch.path().join("console");
        std::fs::rename(&console, console.with_extension("before"))?;
        self.boot()?;
        Ok(stored)
    }

    /// What the guest said last after `word` on its console.
    pub fn said(&self, word: &str) -> Option<String> {
        said(&self.console(), word)
    }

    fn console(&self) -> String {
        console(self.scratch.path())
    }

    /// How many rows the guest has stored at least, as far as it has said.
    pub fn stored(&self) -> u64 {
        self.said("at ").and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// Waits until the guest has said something.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for_word<T>(&self, what: &str, said: impl FnMut() -> Option<T>) -> Result<T> {
        wait_for(PATIENCE, what, said).with_context(|| self.words())
    }

    /// Has the guest stop storing, and returns how many rows it has stored.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop_storing(&self) -> Result<u64> {
        let mut disk = std::fs::File::options()
            .write(true)
            .open(self.scratch.path().join("disk"))?;
        disk.write_all(b"stop")?;
        let n = self.wait_for_word("the guest to stop storing", || self.said("wrote "))?;
        Ok(n.parse()?)
    }

    /// Kills the host daemon, waits until the guest has stored more, and starts it again.
    ///
    /// # Errors
    /// The guest does not go on, or the host does not start.
    pub fn kill_host(&mut self) -> Result<()> {
        self.host.kill()?;
        let before = self.stored();
        wait_for(PATIENCE, "the guest to go on without a host", || {
            (self.stored() >= before + 10).then_some(())
        })
        .with_context(|| self.words())?;
        let folder = self.scratch.path();
        self.host = start_host(folder, &self.hypervisor, &self.broker, self.metrics)?;
        Ok(())
    }

    /// Stops the VM's processors and everything else of its QEMU, or lets it go on.
    ///
    /// # Errors
    /// It is not there.
    pub fn signal_vm(&self, signal: Signal) -> Result<()> {
        let pid = self.hypervisor.qemu(DOMAIN).context("no QEMU")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Gives the VM another descriptor (`<monitoring>`), or none, as an operator does.
    ///
    /// # Errors
    /// libvirt refuses.
    pub fn describe(&self, element: Option<&str>) -> Result<()> {
        let change = match element {
            Some(element) => vec!["--key", "vmkpi", "--set", element],
            None => vec!["--remove"],
        };
        let of = ["metadata", DOMAIN, "--live", "--uri", METADATA_NAMESPACE];
        self.hypervisor.virsh(&[&of, &change[..]].concat())?;
        Ok(())
    }

    /// Pulls the VM's plug.
    ///
    /// # Errors
    /// libvirt refuses.
    pub fn destroy(&self) -> Result<()> {
        self.hypervisor.virsh(&["destroy", DOMAIN])?;
        Ok(())
    }

    /// What the watcher has shown so far.
    ///
    /// # Errors
    /// A line is no JSON.
    pub fn lines(&self) -> Result<Vec<Value>> {
        lines_of(&self.watch.out)
    }

    /// Waits until the watcher's lines satisfy `enough`.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_for_lines(
        &self,
        what: &str,
        enough: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>> {
        wait_for(PATIENCE, what, || {
            self.lines().ok().filter(|lines| enough(lines))
        })
        .with_context(|| self.words())
    }

    /// The broker's URL.
    pub fn broker_url(&self) -> String {
        self.broker.url()
    }

    /// The exporter's page.
    ///
    /// # Errors
    /// It does not answer.
    pub fn scrape(&self) -> Result<String> {
        http_get(self.metrics, "/metrics").with_context(|| self.words())
    }

    /// Waits until the exporter's page satisfies `enough`.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for_page(&self, what: &str, enough: impl Fn(&str) -> bool) -> Result<String> {
        wait_for(PATIENCE, what, || {
            self.scrape().ok().filter(|page| enough(page))
        })
        .with_context(|| format!("{}\n{}", self.words(), self.scrape().unwrap_or_default()))
    }

    /// What everybody said, for a failed test.
    pub fn words(&self) -> String {
        let parts = [
            ("the VM's console", self.console()),
            ("host", self.host.words()),
            ("watch", self.watch.words()),
            ("libvirtd", self.hypervisor.words()),
        ];
        let parts = parts.map(|(name, words)| format!("--- {name}\n{}", tail(&words)));
        parts.join("\n")
    }
}

/// The kernel. `None`: this machine has not what it takes, which was said.
///
/// # Errors
/// Likewise, in continuous integration, where nothing is skipped.
fn kernel_or_skip() -> Result<Option<Kernel>> {
    match prepare() {
        Ok(kernel) => Ok(Some(kernel)),
        Err(reason) if std::env::var_os("CI").is_some_and(|ci| ci == "true") => {
            Err(reason.context("no laboratory"))
        }
        Err(reason) => {
            // Past libtest, which hides what a test that passes says.
            writeln!(std::io::stderr(), "skipped, no laboratory: {reason:#}")?;
            Ok(None)
        }
    }
}

/// The kernel, if this machine has all the rest; or why there can be no laboratory.
fn prepare() -> Result<Kernel> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the VM is made for x86-64");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("a libvirtd of its own needs root");
    }
    let missing = NEEDED.iter().filter(|(file, _)| !Path::new(file).exists());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        bail!("install {}", packages.join(" "));
    }
    kernel::fetch().context("the VM's kernel")
}

/// What the guest said last after `word`, of its console's text.
fn said(text: &str, word: &str) -> Option<String> {
    // The last line may be half written.
    let whole = &text[..text.rfind('\n')?];
    let own = |line: &str| {
        Some(
            line.trim()
                .strip_prefix("lab: ")?
                .strip_prefix(word)?
                .to_owned(),
        )
    };
    whole.lines().rev().find_map(own)
}

/// The text of the console in `folder`.
fn console(folder: &Path) -> String {
    let bytes = std::fs::read(folder.join("console")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A random UUID.
fn uuid() -> Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.trim().to_owned())
}

/// Whether a libvirtd of its own and all of `needed` are there; if not, it is said.
///
/// # Errors
/// They are not, in continuous integration, where nothing is skipped.
fn require(needed: &[(&str, &str)]) -> Result<bool> {
    let mut missing: Vec<&str> = needed
        .iter()
        .filter(|(file, _)| !Path::new(file).exists())
        .map(|(_, package)| *package)
        .collect();
    if !rustix::process::geteuid().is_root() {
        missing.push("(and be root)");
    }
    if missing.is_empty() {
        return Ok(true);
    }
    let missing = missing.join(" ");
    if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
        bail!("no hypervisor: install {missing}");
    }
    writeln!(
        std::io::stderr(),
        "skipped, no hypervisor: install {missing}"
    )?;
    Ok(false)
}

/// Starts the host daemon where libvirt's files are, as on a hypervisor host. Neither a link nor a
/// descriptor is given to it.
fn start_host(
    folder: &Path,
    hypervisor: &Hypervisor,
    broker: &Broker,
    metrics: SocketAddr,
) -> Result<Process> {
    let binary = program("vmkpi-host")?.canonicalize()?;
    let arguments = [
        "run".to_owned(),
        format!("--libvirt.uri={}", hypervisor.uri()),
        format!("--broker={}", broker.url()),
        format!("--web.listen-address={metrics}"),
        format!("--state={}", folder.join("host").display()),
    ];
    let host = hypervisor.start_inside(folder, "host", &binary, &arguments)?;
    wait_for(PATIENCE, "the exporter", || {
        TcpStream::connect(metrics).ok()
    })
    .with_context(|| host.words())?;
    Ok(host)
}
