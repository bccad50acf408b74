//! The whole chain of a test: a real mosquitto, `vmkpi-guest` with a real mount, `vmkpi-host` on
//! libvirt's test driver, and `vmkpi watch` as the primary site's eye.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::Process;
use crate::programs::{HostPlace, start_guest, start_host};
use crate::scratch::{Scratch, free_address};
use crate::wait_for;

pub use crate::programs::start_watch;

/// The domain of libvirt's test driver.
pub const DOMAIN: &str = "test";

/// Every stored row of every file, at once.
pub const EVERY_ROW: &str = r#"vm = "shop"
primary_site = "acme"
[[monitor]]
id = "every-row"
point = "unencrypted/*"
[[monitor]]
id = "every-blob"
point = "encrypted/*"
"#;

/// A real broker that keeps its sessions over a restart.
pub struct Broker {
    folder: PathBuf,
    config: PathBuf,
    address: SocketAddr,
    scheme: &'static str,
    process: Process,
}

impl Broker {
    /// Starts mosquitto in `folder`.
    ///
    /// # Errors
    /// It does not listen.
    pub fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, "mqtt", "allow_anonymous true")
    }

    /// The same, which lets in whom `options` say; `scheme` is what it speaks then.
    ///
    /// # Errors
    /// It does not listen.
    pub fn start_with(folder: &Path, scheme: &'static str, options: &str) -> Result<Self> {
        let address = free_address()?;
        let config = format!(
            "listener {} {}\n{options}\nset_tcp_nodelay true\n\
             log_type error\nlog_type warning\nlog_type notice\nlog_type subscribe\n\
             persistence true\npersistence_location {}/\nmax_queued_messages 1000000\nuser root\n",
            address.port(),
            address.ip(),
            folder.display()
        );
        let file = folder.join("mosquitto.conf");
        std::fs::write(&file, config)?;
        Self::start_as(folder, file, scheme, address)
    }

    /// Starts mosquitto with a configuration that makes it listen at `address`; its log is in `folder`.
    ///
    /// # Errors
    /// It does not listen.
    pub fn start_as(
        folder: &Path,
        config: PathBuf,
        scheme: &'static str,
        address: SocketAddr,
    ) -> Result<Self> {
        let process = Self::run(folder, &config, address)?;
        Ok(Self {
            folder: folder.to_owned(),
            config,
            address,
            scheme,
            process,
        })
    }

    fn run(folder: &Path, config: &Path, address: SocketAddr) -> Result<Process> {
        // Debian installs it where only root's PATH looks.
        let binary = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"]
            .into_iter()
            .map(Path::new)
            .find(|p| p.is_file())
            .context("mosquitto is not installed")?;
        let process = Process::start(folder, "mosquitto", binary, [Path::new("-c"), config])?;
        wait_for(10, "mosquitto to listen", || {
            TcpStream::connect(address).ok()
        })
        .with_context(|| process.words())?;
        Ok(process)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits until a watcher has subscribed, as the broker's log says: what is published from then on
    /// reaches it.
    ///
    /// # Errors
    /// None does.
    pub fn wait_for_watcher(&self) -> Result<()> {
        let log = self.folder.join("mosquitto.err");
        wait_for(20, "the watcher to subscribe", || {
            let text = std::fs::read_to_string(&log).ok()?;
            let subscribes = |l: &str| l.contains(": vmkpi-watch-") && l.contains(" vmkpi/v1/");
            text.lines().any(subscribes).then_some(())
        })
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it in order, as a system does, and starts it again after `pause`.
    ///
    /// # Errors
    /// It does not end or not start.
    pub fn restart_after(&mut self, pause: Duration) -> Result<()> {
        self.process.terminate()?;
        std::thread::sleep(pause);
        self.begin()
    }

    /// Starts it again after it has ended.
    ///
    /// # Errors
    /// It does not start.
    pub fn begin(&mut self) -> Result<()> {
        self.process = Self::run(&self.folder, &self.config, self.address)?;
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.words()
    }
}

/// Broker, guest, host and watcher.
pub struct Chain {
    /// The watcher at the primary site.
    pub watch: Process,
    /// The host daemon.
    pub host: Process,
    /// The guest daemon.
    pub guest: Process,
    /// The broker.
    pub broker: Broker,
    /// Where the exporter listens.
    pub metrics: SocketAddr,
    guest_arguments: Vec<String>,
    host_options: Vec<String>,
    scratch: Scratch,
}

impl Chain {
    /// Starts everything, with `descriptor` (TOML) for the VM.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start(descriptor: &str) -> Result<Self> {
        Self::start_with(descriptor, &[], &[])
    }

    /// The same, with further arguments for the guest and options of the host daemon.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start_with(
        descriptor: &str,
        guest_arguments: &[&str],
        host_options: &[&str],
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let broker = Broker::start(scratch.path())?;
        let watch = start_watch(scratch.path(), &broker)?;
        let further = (guest_arguments, host_options);
        Self::start_at((scratch, broker), watch, descriptor, further)
    }

    /// The same with a broker that runs in the folder, and a watcher of it.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start_at(
        (scratch, broker): (Scratch, Broker),
        watch: Process,
        descriptor: &str,
        (guest_arguments, host_options): (&[&str], &[&str]),
    ) -> Result<Self> {
        let owned = |of: &[&str]| of.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (guest_arguments, host_options) = (owned(guest_arguments), owned(host_options));
        let folder = scratch.path();
        std::fs::create_dir(folder.join("kpi"))?;
        std::fs::write(folder.join("descriptor.toml"), descriptor)?;
        let guest = start_guest(folder, &guest_arguments, &[])?;
        let metrics = free_address()?;
        let host = start_host(&place(folder, &broker, metrics, &host_options))?;
        let chain = Self {
            watch,
            host,
            guest,
            broker,
            metrics,
            guest_arguments,
            host_options,
            scratch,
        };
        chain.wait_until_watched()?;
        Ok(chain)
    }

    /// A first store on a point of its own that arrived: all joints hold, and whatever is stored from
    /// now on is after the watcher's first message of the stream.
    fn wait_until_watched(&self) -> Result<()> {
        let path = self.mount().join("unencrypted/ready");
        let mut stored = std::time::Instant::now();
        std::fs::write(&path, "n\n0\n").context("the first store")?;
        wait_for(30, "the first store to arrive", || {
            if stored.elapsed() > Duration::from_secs(1) {
                stored = std::time::Instant::now();
                std::fs::write(&path, "n\n0\n").ok()?;
            }
            let lines = self.lines().ok()?;
            lines
                .iter()
                .any(|l| l["point"] == "unencrypted/ready")
                .then_some(())
        })
        .with_context(|| self.words())
    }

    /// What the programs said on standard error, for a failed test.
    pub fn words(&self) -> String {
        let parts = [
            ("guest", &self.guest),
            ("host", &self.host),
            ("watch", &self.watch),
        ];
        parts
            .map(|(name, p)| format!("--- {name}\n{}", tail(&p.words())))
            .join("\n")
    }

    /// The mounted partition.
    pub fn mount(&self) -> PathBuf {
        self.folder().join("kpi")
    }

    /// The test's folder.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Kills the guest daemon and starts it again on the same state and over the mount that it left.
    ///
    /// # Errors
    /// The partition does not come back.
    pub fn kill_guest(&mut self) -> Result<()> {
        self.guest.kill()?;
        self.guest = start_guest(self.folder(), &self.guest_arguments, &[])?;
        Ok(())
    }

    /// Kills the host daemon and starts it again on the same state.
    ///
    /// # Errors
    /// It does not start.
    pub fn kill_host(&mut self) -> Result<()> {
        self.without_host(|_| Ok(()))
    }

    /// Kills the host daemon and starts it again on the same state after `work`.
    ///
    /// # Errors
    /// It does not start, or `work` fails.
    pub fn without_host(&mut self, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.host.kill()?;
        work(self)?;
        let place = place(
            self.scratch.path(),
            &self.broker,
            self.metrics,
            &self.host_options,
        );
        self.host = start_host(&place)?;
        Ok(())
    }

    /// Replaces the VM's descriptor.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn describe(&self, descriptor: &str) -> Result<()> {
        let file = self.folder().join("descriptor.toml");
        std::fs::write(file.with_extension("new"), descriptor)?;
        Ok(std::fs::rename(file.with_extension("new"), file)?)
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
    /// They do not, within `seconds`.
    pub fn wait_for_lines(
        &self,
        seconds: u64,
        what: &str,
        enough: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>> {
        wait_for(seconds, what, || {
            self.lines().ok().filter(|lines| enough(lines))
        })
        .with_context(|| self.words())
    }

    /// The value of a metric of the host.
    ///
    /// # Errors
    /// It is not on the page.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let page = self.scrape()?;
        let line = page
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        Ok(line
            .with_context(|| format!("{name} is not on\n{page}"))?
            .parse()?)
    }

    /// The exporter's page.
    ///
    /// # Errors
    /// It does not answer.
    pub fn scrape(&self) -> Result<String> {
        http_get(self.metrics, "/metrics")
    }

    /// Runs a query on a database of the guest, as any other SQLite reader would.
    ///
    /// # Errors
    /// It is refused.
    pub fn query(&self, database: &str, sql: &str) -> Result<Vec<Value>> {
        query(&self.folder().join("guest").join(database), sql)
    }
}

/// The host daemon of a chain: one VM, on the test driver's own domain.
fn place<'a>(
    folder: &'a Path,
    broker: &Broker,
    metrics: SocketAddr,
    options: &'a [String],
) -> HostPlace<'a> {
    HostPlace {
        folder,
        libvirt: "test:///default".to_owned(),
        broker: broker.url(),
        metrics,
        vms: vec![(DOMAIN.to_owned(), folder.to_owned())],
        options,
        environment: &[],
    }
}

/// Runs a query on a database of a guest, as any other SQLite reader would.
///
/// # Errors
/// It is refused.
pub fn query(database: &Path, sql: &str) -> Result<Vec<Value>> {
    let script = "import json,sqlite3,sys\n\
        c=sqlite3.connect('file:'+sys.argv[1]+'?mode=ro',uri=True)\n\
        print(json.dumps([list(r) for r in c.execute(sys.argv[2])]))";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(database)
        .arg(sql)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        bail!("{sql}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The last lines of a text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// The JSON objects in a file of lines; a last line that is still being written is left out.
///
/// # Errors
/// A line is no JSON.
pub fn lines_of(file: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(file)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

/// A page over HTTP/1.1.
///
/// # Errors
/// No answer, or another status than 200.
pub fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // Version 1.0: one answer, whole, then the connection ends.
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: text/plain\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("{path}: {status}");
    }
    Ok(body.to_owned())
}
