//! A guest that goes from host to host over a network: certificates of a CA, hosts that let guests in by them, and a
//! context that says where to go. The context is a folder, read anew by `vmkpi-guest context apply`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::chain::{Broker, DOMAIN, http_get, lines_of};
use crate::pki::{Ca, Pair};
use crate::process::{Process, program};
use crate::programs::start_watch;
use crate::scratch::{Scratch, free_address};
use crate::wait_for;

/// The VM, as its certificate names it.
pub const VM: &str = "urn:vmkpi:acme:shop";

/// Broker, watcher and guest; hosts are started by the test.
pub struct Away {
    /// The watcher at the primary site.
    pub watch: Process,
    /// The guest daemon, once it is started.
    pub guest: Option<Process>,
    /// The broker.
    pub broker: Broker,
    /// Who signs what is right.
    pub ca: Ca,
    /// What the VM shows.
    pub vm: Pair,
    scratch: Scratch,
}

/// A host daemon that lets guests in.
pub struct Host {
    /// The daemon.
    pub process: Process,
    /// Where guests come in.
    pub door: SocketAddr,
    metrics: SocketAddr,
    folder: PathBuf,
    arguments: Vec<String>,
}

impl Away {
    /// Starts broker and watcher, with `descriptor` (TOML) for the VM.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn new(descriptor: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        for name in ["kpi", "context", "layer", "layer/monitoring"] {
            std::fs::create_dir(folder.join(name))?;
        }
        std::fs::write(folder.join("descriptor.toml"), descriptor)?;
        let ca = Ca::new(folder, "ca")?;
        let vm = ca.vm("vm", VM)?;
        let broker = Broker::start(folder)?;
        let watch = start_watch(folder, &broker)?;
        Ok(Self {
            watch,
            guest: None,
            broker,
            ca,
            vm,
            scratch,
        })
    }

    /// The test's folder.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// A file of the unencrypted partition.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join("kpi/unencrypted").join(name)
    }

    /// Starts a host daemon that shows guests a certificate signed by the right CA.
    ///
    /// # Errors
    /// It does not come up.
    pub fn host(&self, name: &str, further: &[String]) -> Result<Host> {
        let shown = self.ca.server(&format!("{name}-door"), "IP:127.0.0.1")?;
        self.host_that_shows(name, &shown, further)
    }

    /// The same with another certificate.
    ///
    /// # Errors
    /// It does not come up.
    pub fn host_that_shows(&self, name: &str, shown: &Pair, further: &[String]) -> Result<Host> {
        let (door, metrics) = (free_address()?, free_address()?);
        let folder = self.folder().join(name);
        std::fs::create_dir_all(&folder)?;
        let descriptor = self.folder().join("descriptor.toml");
        let mut arguments = vec![
            "run".to_owned(),
            "--libvirt.uri=test:///default".to_owned(),
            format!("--broker={}", self.broker.url()),
            format!("--web.listen-address={metrics}"),
            format!("--state={}", folder.join("state").display()),
            format!("--descriptor={DOMAIN}={}", descriptor.display()),
            format!("--link.listen-address={door}"),
        ];
        arguments.extend(tls(shown, &self.ca.cert()));
        arguments.extend_from_slice(further);
        let mut host = Host {
            process: Process::start(&folder, "host", &program("vmkpi-host")?, &arguments)?,
            door,
            metrics,
            folder,
            arguments,
        };
        host.wait()?;
        Ok(host)
    }

    /// Starts the guest daemon with this link and these lines in its configuration.
    ///
    /// # Errors
    /// The partition does not come.
    pub fn start_guest(&mut self, link: &str, lines: &str) -> Result<()> {
        let folder = self.folder();
        let at = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "mount = '{}'\nstate = '{}'\nlink = '{link}'\nlog_level = 'info'\n\
             [link_tls]\ncert_file = '{}'\nkey_file = '{}'\nca_file = '{}'\n\
             [context]\nmount = '{}'\nhooks = '{}'\n[context.directories]\ninfrastructure = '{}'\n{lines}",
            at("kpi"),
            at("guest"),
            self.vm.cert.display(),
            self.vm.key.display(),
            self.ca.cert().display(),
            at("context"),
            at("no-hooks"),
            at("layer"),
        );
        std::fs::write(folder.join("guest.toml"), config)?;
        self.restart_guest()
    }

    /// Kills the guest daemon if it runs, and starts it as before.
    ///
    /// # Errors
    /// The partition does not come.
    pub fn restart_guest(&mut self) -> Result<()> {
        if let Some(mut guest) = self.guest.take() {
            guest.kill()?;
        }
        let folder = self.folder();
        let config = format!("--config={}", folder.join("guest.toml").display());
        let program = program("vmkpi-guest")?;
        let guest = Process::start(folder, "guest", &program, ["run".to_owned(), config])?;
        // The kernel shows the mount of one that was killed as if it were there.
        let runs = || self.status().is_ok_and(|status| status["running"] == true);
        wait_for(20, "the guest", || runs().then_some(())).with_context(|| guest.words())?;
        self.guest = Some(guest);
        Ok(())
    }

    /// Offers the guest another context: these files, in place of all before.
    ///
    /// # Errors
    /// The guest does not take it.
    pub fn offer(&self, endpoint: Option<&str>, legislation: Option<&str>) -> Result<()> {
        for (file, content) in [
            (vmkpi::context::ENDPOINT_FILE, endpoint),
            (vmkpi::context::LEGISLATION_FILE, legislation),
        ] {
            let path = self.folder().join("layer").join(file);
            match content {
                Some(content) => std::fs::write(&path, content)?,
                None if path.exists() => std::fs::remove_file(&path)?,
                None => {}
            }
        }
        if self.guest.is_none() {
            return Ok(());
        }
        let said = self.guest_says(&["context", "apply"])?;
        ensure!(said.status.success(), "{said:?}\n{}", self.words());
        Ok(())
    }

    fn guest_says(&self, words: &[&str]) -> Result<std::process::Output> {
        Ok(Command::new(program("vmkpi-guest")?)
            .args(words)
            .arg(format!("--state={}", self.folder().join("guest").display()))
            .stdin(Stdio::null())
            .output()?)
    }

    /// What `vmkpi-guest status --format json` says.
    ///
    /// # Errors
    /// It says nothing.
    pub fn status(&self) -> Result<Value> {
        let said = self.guest_says(&["status", "--format=json"])?;
        serde_json::from_slice(&said.stdout).with_context(|| format!("{said:?}"))
    }

    /// Waits until the guest's link is as `is` says.
    ///
    /// # Errors
    /// It never is.
    pub fn wait_for_link(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(60, what, || {
            let link = self.status().ok()?["live"]["link"].take();
            is(&link).then_some(link)
        })
        .with_context(|| format!("{:?}\n{}", self.status(), self.words()))
    }

    /// Waits until the guest has gone over to `endpoint` and been subscribed to there.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for_endpoint(&self, endpoint: &str) -> Result<()> {
        let there = |link: &Value| link["endpoint"] == *endpoint && link["connected"] == true;
        self.wait_for_link(endpoint, there).map(drop)
    }

    /// What the programs said, for a failed test.
    pub fn words(&self) -> String {
        let guest = self.guest.as_ref().map(Process::words);
        format!(
            "--- guest\n{}\n--- watch\n{}",
            crate::chain::tail(&guest.unwrap_or_default()),
            crate::chain::tail(&self.watch.words())
        )
    }

    /// What the watcher has shown of a point so far: each `n`, and how often.
    ///
    /// # Errors
    /// A line is no JSON.
    pub fn arrived(&self, point: &str) -> Result<HashMap<u64, usize>> {
        let mut arrived = HashMap::new();
        for line in self.lines()? {
            let ours = line["point"] == *point && line["seq"].is_u64();
            if let Some(n) = line["values"]["n"].as_u64().filter(|_| ours) {
                *arrived.entry(n).or_default() += 1;
            }
        }
        Ok(arrived)
    }

    /// What the watcher has shown so far.
    ///
    /// # Errors
    /// A line is no JSON.
    pub fn lines(&self) -> Result<Vec<Value>> {
        lines_of(&self.watch.out)
    }

    /// Stores `n` and waits until it has arrived.
    ///
    /// # Errors
    /// It does not arrive.
    pub fn send(&self, name: &str, n: u64) -> Result<()> {
        std::fs::write(self.file(name), format!("n\n{n}\n"))?;
        let point = format!("unencrypted/{name}");
        wait_for(60, "a row to arrive", || {
            self.arrived(&point).ok()?.contains_key(&n).then_some(())
        })
        .with_context(|| self.words())
    }

    /// Waits until every one of `stored` has arrived; then each has once, and nothing was reported lost.
    ///
    /// # Errors
    /// It has not.
    pub fn judge(&self, point: &str, stored: impl IntoIterator<Item = u64>) -> Result<usize> {
        let stored: Vec<u64> = stored.into_iter().collect();
        wait_for(90, "what was stored to arrive", || {
            let arrived = self.arrived(point).ok()?;
            stored.iter().all(|n| arrived.contains_key(n)).then_some(())
        })
        .with_context(|| self.words())?;
        let twice: Vec<_> = self
            .arrived(point)?
            .into_iter()
            .filter(|(_, times)| *times > 1)
            .collect();
        ensure!(twice.is_empty(), "{point} twice: {twice:?}");
        let gaps: Vec<_> = self
            .lines()?
            .into_iter()
            .filter(|l| l["gap"].is_string())
            .collect();
        ensure!(gaps.is_empty(), "lost: {gaps:?}");
        Ok(stored.len())
    }
}

/// Options of a host daemon.
fn tls(shown: &Pair, ca: &Path) -> [String; 3] {
    [
        format!("--link.tls.cert-file={}", shown.cert.display()),
        format!("--link.tls.key-file={}", shown.key.display()),
        format!("--link.tls.ca-file={}", ca.display()),
    ]
}

impl Host {
    /// Where a guest finds it.
    pub fn url(&self) -> String {
        format!("tls:{}", self.door)
    }

    fn wait(&mut self) -> Result<()> {
        wait_for(20, "the host's door and its VM", || {
            let page = http_get(self.metrics, "/metrics").ok()?;
            page.contains("vmkpi_link_up{").then_some(())
        })
        .with_context(|| self.process.words())
    }

    /// Kills it, and starts it as before.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        let program = program("vmkpi-host")?;
        self.process = Process::start(&self.folder, "host", &program, &self.arguments)?;
        self.wait()
    }

    /// How many guests were refused for `reason`.
    ///
    /// # Errors
    /// The metric is not there.
    pub fn refused(&self, reason: &str) -> Result<u64> {
        let page = http_get(self.metrics, "/metrics")?;
        let start = format!("vmkpi_link_refusals_total{{reason=\"{reason}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        Ok(line.with_context(|| page.clone())?.parse()?)
    }

    /// What `vmkpi-host status --format json` says of the VM's link.
    ///
    /// # Errors
    /// It says nothing.
    pub fn link(&self) -> Result<Value> {
        let said = Command::new(program("vmkpi-host")?)
            .args(["status", "--format=json"])
            .arg(format!("--state={}", self.folder.join("state").display()))
            .stdin(Stdio::null())
            .output()?;
        let mut status: Value = serde_json::from_slice(&said.stdout)?;
        Ok(status["vms"][0]["link"].take())
    }
}
