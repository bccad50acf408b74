//! Two hosts between which a real virtual machine migrates while it runs, and the site its measurements belong to.
//!
//! ```text
//! one 10.99.0.1                    two 10.99.0.2                  acme 10.99.0.254
//! libvirtd, QEMU ═══ migration ══> libvirtd, QEMU                 mosquitto ── collect
//! vmkpi-host ──────────────┐       vmkpi-host ────────────────────────┘
//!                          └─────────────── one network ──────────────┘
//! ```
//! Each is a place with a network and a name of its own. Disks, kernel and image lie in a folder that both hosts see.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::host::{End, Host};
use super::judge::{is_last_window_kept, judge};
use super::traveller::{Plan, Traveller};
use super::{DOMAIN, PATIENCE, kernel_or_skip};
use crate::chain::tail;
use crate::collector::{Collector, Key, NAME};
use crate::mqtt::Subscriber;
use crate::network::{Place, join_all};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::wait_for;

/// Where the broker listens, at the site.
pub const BROKER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 254)), 1883);

/// The guest, and further options of each host's daemon.
pub type Planned = (Plan, [Vec<String>; 2]);

/// The hosts, the site and the guest.
pub struct Pair {
    /// `vmkpi collect` at the site.
    pub collect: Collector,
    /// The guest.
    pub guest: Traveller,
    /// Where it is.
    pub at: End,
    hosts: [Host; 2],
    broker: Process,
    site: Place,
    // Last: the folder goes when nobody is in it any more.
    scratch: Scratch,
}

impl Pair {
    /// Starts everything as planned, by what lies in the folder that everybody sees; the guest has booted on the first
    /// host and stores. `None`: this machine has not what it takes, which was said.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start(plan: impl FnOnce(&Path) -> Result<Planned>) -> Result<Option<Self>> {
        let Some(kernel) = kernel_or_skip()? else {
            return Ok(None);
        };
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        let (mut plan, [one_is_told, two_is_told]) = plan(folder)?;
        let place = |name: &str, host_name: &str| Place::new(&folder.join(name), host_name);
        let site = place("site", "acme")?;
        let one = place(End::One.name(), "hypervisor-one")?;
        let two = place(End::Two.name(), "hypervisor-two")?;
        join_all(&site, &[&one, &two])?;
        let broker = start_broker(&site)?;
        let key = Key::make(site.folder(), "collect.key")?;
        let confirm = format!("<vmkpi:confirm name=\"{NAME}\" key=\"{}\"/>", key.public);
        plan.monitors.insert_str(0, &confirm);
        let insecure = ["--insecure".to_owned()];
        let pair = Self {
            collect: Collector::start_in(&site, &format!("mqtt://{BROKER}"), &key, &insecure)?,
            guest: Traveller::build(folder, &kernel, &plan)?,
            at: End::One,
            hosts: [
                Host::start(one, End::One, one_is_told)?,
                Host::start(two, End::Two, two_is_told)?,
            ],
            broker,
            site,
            scratch,
        };
        pair.boot()?;
        Ok(Some(pair))
    }

    fn boot(&self) -> Result<()> {
        let xml = self.guest.xml().display().to_string();
        self.host(self.at).hypervisor.virsh(&["create", &xml])?;
        self.wait(PATIENCE, "the VM to boot", || self.guest.said("ready"))?;
        self.wait(PATIENCE, "the first rows at the site", || {
            (self.collect.count() > 0).then_some(())
        })
    }

    /// A host.
    pub fn host(&self, end: End) -> &Host {
        &self.hosts[end as usize]
    }

    /// A host, to change it.
    pub fn host_mut(&mut self, end: End) -> &mut Host {
        &mut self.hosts[end as usize]
    }

    /// The place of the site.
    pub fn site(&self) -> &Place {
        &self.site
    }

    /// The folder that everybody sees.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Subscribes at the site's broker to whatever is published of the VM.
    ///
    /// # Errors
    /// The broker does not grant it.
    pub fn subscribe(&self, filter: &str) -> Result<Subscriber> {
        self.site.inside(|| Subscriber::start(BROKER, filter))
    }

    /// The command that migrates the VM to the host where it is not, live.
    fn migration(&self, options: &[&str]) -> Command {
        let mut virsh = Command::new("virsh");
        let (from, to) = (&self.host(self.at).hypervisor, self.at.other());
        virsh.args([
            "--quiet",
            "--connect",
            &from.uri(),
            "migrate",
            "--live",
            "--unsafe",
        ]);
        virsh.args(options).arg(DOMAIN);
        match options.contains(&"--p2p") {
            true => virsh.arg(to.tcp_uri()),
            false => virsh.arg(self.host(to).hypervisor.uri()),
        };
        virsh.stdin(Stdio::null());
        virsh
    }

    /// Migrates the VM to the host where it is not, live, and says how long that took.
    ///
    /// # Errors
    /// It fails; then the VM is where it was.
    pub fn migrate(&mut self, options: &[&str]) -> Result<Duration> {
        let begin = Instant::now();
        let output = self.migration(options).output()?;
        let took = begin.elapsed();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success(),
            "migration failed: {}\n{}",
            said.trim(),
            self.words()
        );
        self.at = self.at.other();
        Ok(took)
    }

    /// Begins to migrate; the VM is counted as being where it was.
    ///
    /// # Errors
    /// virsh does not start.
    pub fn begin_migration(&self, options: &[&str]) -> Result<Process> {
        let virsh = self.migration(options);
        let arguments: Vec<_> = virsh.get_args().map(ToOwned::to_owned).collect();
        Process::start(
            self.folder(),
            "migrate",
            Path::new("/usr/bin/virsh"),
            arguments,
        )
    }

    /// Where the VM runs; `None`: nowhere, or at both hosts, or who knows.
    pub fn runs_at(&self) -> Option<End> {
        let runs = |end: &End| {
            let state = self.host(*end).hypervisor.virsh(&["domstate", DOMAIN]);
            state.is_ok_and(|state| state.trim() == "running")
        };
        match End::BOTH.map(|end| runs(&end)) {
            [true, false] => Some(End::One),
            [false, true] => Some(End::Two),
            _ => None,
        }
    }

    /// Looks where the VM runs.
    ///
    /// # Errors
    /// Not at one host.
    pub fn find(&mut self) -> Result<End> {
        let at = self.runs_at();
        self.at =
            at.with_context(|| format!("the VM does not run at one host\n{}", self.words()))?;
        Ok(self.at)
    }

    /// Waits for something, and else says what everybody said.
    ///
    /// # Errors
    /// It does not come.
    pub fn wait<T>(&self, seconds: u64, what: &str, ready: impl FnMut() -> Option<T>) -> Result<T> {
        wait_for(seconds, what, ready).with_context(|| self.words())
    }

    /// Has the guest store no more, waits until everything that it stored is kept at the site, and judges it; how many
    /// rows, and how many windows.
    ///
    /// # Errors
    /// Something does not arrive, or not as it would from a VM that never migrated.
    pub fn settle(&self) -> Result<(u64, usize)> {
        let stored = self.guest.stop_storing()?;
        self.wait(PATIENCE, "every row at the site", || {
            (self.collect.count() >= stored).then_some(())
        })?;
        self.wait(PATIENCE, "the last window at the site", || {
            is_last_window_kept(&self.collect).then_some(())
        })?;
        let windows = judge(&self.collect, stored).with_context(|| self.words())?;
        Ok((stored, windows))
    }

    /// Waits until the guest shows what the host where it is tells it: the context is right.
    ///
    /// # Errors
    /// It is not.
    pub fn told(&self) -> Result<()> {
        let address = self.at.address().to_string();
        let what = format!("the context of {}", self.at.name());
        self.wait(PATIENCE, &what, || {
            let said = self.guest.attempt("cat /context/cache/address").ok()?;
            (said.1.trim() == address).then_some(())
        })
    }

    /// What everybody said, for a failed test.
    pub fn words(&self) -> String {
        let console = tail(&self.guest.console());
        let hosts = End::BOTH.map(|end| self.host(end).words()).join("\n");
        let broker = tail(&self.broker.words());
        let collect = tail(&self.collect.process.words());
        format!("--- console\n{console}\n{hosts}\n--- mosquitto\n{broker}\n--- collect\n{collect}")
    }
}

fn start_broker(site: &Place) -> Result<Process> {
    let file: PathBuf = site.folder().join("mosquitto.conf");
    let config = format!(
        "listener {} {}\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 1000000\nuser root\n",
        BROKER.port(),
        BROKER.ip()
    );
    std::fs::write(&file, config)?;
    let arguments = ["-c".to_owned(), file.display().to_string()];
    let broker = site.start("mosquitto", Path::new("/usr/sbin/mosquitto"), &arguments)?;
    let listens = || {
        site.inside(|| Ok(std::net::TcpStream::connect(BROKER)?))
            .ok()
    };
    wait_for(10, "mosquitto to listen", listens).with_context(|| broker.words())?;
    Ok(broker)
}
