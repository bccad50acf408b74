//! A chain of three sites, each with a network, a CA and a mosquitto of its own, which lets in who has a certificate:
//! the remote one with the guest and its host, an intermediary, and the primary one with `vmkpi collect`.
//!
//! ```text
//! remote                          intermediary                    primary
//! guest ── host ── mosquitto      mosquitto                       mosquitto ── collect
//!                      └── relay ═══ link ═══┘└── relay ═══ link ═══┘
//! ```

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::chain::{http_get, tail};
use crate::collector::{Around, Collector, Key, Mortal, confirmed_by};
use crate::ledger::Writer;
use crate::network::{Link, Place};
use crate::pki::{Ca, Pair};
use crate::process::{Process, program};
use crate::programs::start_guest;
use crate::scratch::Scratch;
use crate::wait_for;

/// Where each broker listens, in a network of its own.
const PORT: u16 = 8883;
/// Where the host daemon and each relay answer.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9100);
const RELAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9107);

/// A site: its network, its CA and its broker.
pub struct Site {
    /// Where its programs run.
    pub place: Place,
    ca: Ca,
    mosquitto: Process,
}

impl Site {
    fn start(folder: &Path, name: &str) -> Result<Self> {
        let place = Place::new(&folder.join(name), &format!("hypervisor-{name}"))?;
        let folder = place.folder().to_owned();
        let ca = Ca::new(&folder, &format!("{name}-ca"))?;
        // It is known by its addresses on every link of the chain.
        let addresses = (1..=2).flat_map(|n| [format!("IP:10.0.{n}.1"), format!("IP:10.0.{n}.2")]);
        let alt: Vec<String> = addresses.chain(["IP:127.0.0.1".into()]).collect();
        let server = ca.server("broker", &alt.join(","))?;
        let config = format!(
            "listener {PORT}\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
             use_identity_as_username true\nset_tcp_nodelay true\nlog_type all\n\
             persistence false\nmax_queued_messages 1000000\nuser root\n",
            ca.cert().display(),
            server.cert.display(),
            server.key.display()
        );
        std::fs::write(folder.join("mosquitto.conf"), config)?;
        let mosquitto = begin_broker(&place)?;
        Ok(Self {
            place,
            ca,
            mosquitto,
        })
    }

    /// A certificate of this site for a client, as options of a program that begin with `--PREFIX`.
    fn lets_in(&self, name: &str, prefix: &str) -> Result<Vec<String>> {
        let Pair { cert, key } = self.ca.client(name, name)?;
        Ok(vec![
            format!("--{prefix}.ca-file={}", self.ca.cert().display()),
            format!("--{prefix}.cert-file={}", cert.display()),
            format!("--{prefix}.key-file={}", key.display()),
        ])
    }

    /// Kills its broker as kill -9 does and starts it as one that has never been there.
    ///
    /// # Errors
    /// It does not start.
    pub fn forget_broker(&mut self) -> Result<()> {
        self.mosquitto.kill()?;
        self.mosquitto = begin_broker(&self.place)?;
        Ok(())
    }

    /// Everything that its broker has logged.
    pub fn broker_log(&self) -> String {
        self.mosquitto.words()
    }

    /// Begins to write down everything that its broker passes on: topic, flag, properties and payload.
    ///
    /// # Errors
    /// It does not start.
    pub fn record(&self) -> Result<Process> {
        let Pair { cert, key } = self.ca.client("recorder", "recorder")?;
        let words = [
            "-V",
            "5",
            "-q",
            "1",
            "-h",
            "127.0.0.1",
            "-p",
            "8883",
            "-t",
            "#",
            "-F",
            "%t retain=%r type=%C hops=[%P] %p",
            "--cafile",
        ];
        let mut arguments: Vec<String> = words.iter().map(ToString::to_string).collect();
        arguments.push(self.ca.cert().display().to_string());
        arguments.extend(["--cert".into(), cert.display().to_string()]);
        arguments.extend(["--key".into(), key.display().to_string()]);
        let recorder =
            self.place
                .start("recorder", Path::new("/usr/bin/mosquitto_sub"), &arguments)?;
        wait_for(20, "the recorder to subscribe", || {
            let log = self.broker_log();
            log.lines()
                .any(|l| l.starts_with(|c: char| c.is_ascii_digit()) && l.contains("u'recorder'"))
                .then_some(())
        })
        .with_context(|| recorder.words())?;
        Ok(recorder)
    }
}

fn begin_broker(place: &Place) -> Result<Process> {
    let binary = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"];
    let binary = binary.iter().map(Path::new).find(|p| p.is_file());
    let config = place.folder().join("mosquitto.conf").display().to_string();
    let binary = binary.context("mosquitto is not installed")?;
    let process = place.start("mosquitto", binary, &["-c".into(), config])?;
    wait_for(10, "mosquitto to listen", || {
        place
            .inside(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?))
            .ok()
    })
    .with_context(|| process.words())?;
    Ok(process)
}

/// A relay, from its own site's broker to the next one's.
pub struct Relay {
    /// The process.
    pub process: Process,
    state: PathBuf,
    arguments: Vec<String>,
}

impl Relay {
    fn start(here: &Site, there: &Site, address: &str, name: &str) -> Result<Self> {
        let state = here.place.folder().join("relay");
        let mut arguments = vec![
            "relay".to_owned(),
            "--site=acme".to_owned(),
            format!("--from=mqtts://127.0.0.1:{PORT}"),
            format!("--to=mqtts://{address}:{PORT}"),
            format!("--state={}", state.display()),
            format!("--listen={RELAY}"),
        ];
        arguments.extend(here.lets_in(name, "from")?);
        arguments.extend(there.lets_in(name, "to")?);
        Ok(Self {
            process: begin_relay(&here.place, &arguments)?,
            state,
            arguments,
        })
    }

    /// Kills it as kill -9 does and starts it again.
    ///
    /// # Errors
    /// It does not start.
    pub fn kill(&mut self, place: &Place) -> Result<()> {
        self.process.kill()?;
        self.process = begin_relay(place, &self.arguments)?;
        Ok(())
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its page of metrics.
    ///
    /// # Errors
    /// It does not answer.
    pub fn scrape(&self, place: &Place) -> Result<String> {
        place.inside(|| http_get(RELAY, "/metrics"))
    }
}

fn begin_relay(place: &Place, arguments: &[String]) -> Result<Process> {
    let process = place.start("relay", &program("vmkpi")?, arguments)?;
    wait_for(20, "the relay to answer", || {
        place.inside(|| Ok(TcpStream::connect(RELAY)?)).ok()
    })
    .with_context(|| process.words())?;
    Ok(process)
}

/// The chain.
pub struct Sites {
    /// The durable Consumer.
    pub collect: Collector,
    /// From the remote site to the intermediary.
    pub first: Relay,
    /// From the intermediary to the primary site.
    pub second: Relay,
    /// The host daemon.
    pub host: Process,
    guest: Process,
    /// Where the VM runs.
    pub remote: Site,
    /// In between.
    pub intermediary: Site,
    /// Where the data belongs.
    pub primary: Site,
    /// Between the remote site and the intermediary.
    pub first_link: Link,
    /// Between the intermediary and the primary site.
    pub second_link: Link,
    scratch: Scratch,
}

impl Sites {
    /// Starts everything, and waits until a first row is kept at the primary site.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        let site = |name| Site::start(folder, name);
        let (remote, intermediary, primary) = (site("remote")?, site("between")?, site("primary")?);
        let first_link = Link::join(&remote.place, &intermediary.place, 1)?;
        let second_link = Link::join(&intermediary.place, &primary.place, 2)?;
        let key = Key::make(primary.place.folder(), "collect.key")?;
        std::fs::write(folder.join("descriptor.toml"), confirmed_by(&key))?;
        std::fs::create_dir(folder.join("kpi"))?;
        let guest = start_guest(folder, &[], &[])?;
        let host = start_host(&remote, folder)?;
        let url = format!("mqtts://127.0.0.1:{PORT}");
        let lets_in = primary.lets_in("acme-collect", "broker")?;
        let collect = Collector::start_in(&primary.place, &url, &key, &lets_in)?;
        let first = Relay::start(&remote, &intermediary, &first_link.far, "acme-remote")?;
        let second = Relay::start(&intermediary, &primary, &second_link.far, "acme-between")?;
        let sites = Self {
            collect,
            first,
            second,
            host,
            guest,
            remote,
            intermediary,
            primary,
            first_link,
            second_link,
            scratch,
        };
        std::fs::write(sites.folder().join("kpi/unencrypted/ready"), "n\n0\n")?;
        wait_for(60, "the first row at the primary site", || {
            let sql = "SELECT count(*) FROM samples WHERE point = 'unencrypted/ready'";
            let found = sites.collect.query(sql).ok()?;
            (found[0][0] != 0).then_some(())
        })
        .with_context(|| sites.words())?;
        Ok(sites)
    }

    /// The host's page of metrics.
    ///
    /// # Errors
    /// It does not answer.
    pub fn scrape_host(&self) -> Result<String> {
        self.remote.place.inside(|| http_get(METRICS, "/metrics"))
    }
}

impl Around for Sites {
    fn folder(&self) -> &Path {
        self.scratch.path()
    }

    fn words(&self) -> String {
        let parts = [
            ("guest", &self.guest),
            ("host", &self.host),
            ("the first relay", &self.first.process),
            ("the second relay", &self.second.process),
            ("collect", &self.collect.process),
        ];
        parts
            .map(|(name, p)| format!("--- {name}\n{}", tail(&p.words())))
            .join("\n")
    }
}

impl Mortal for Sites {
    fn collect(&self) -> &Collector {
        &self.collect
    }

    fn write(&self, pause: Duration) -> Result<Writer> {
        let file = self.folder().join("kpi/unencrypted/load");
        Writer::start(self.folder(), &[file], pause)
    }

    /// That of each site in its turn.
    fn forget_broker(&mut self, n: usize) -> Result<()> {
        let sites = [&mut self.remote, &mut self.intermediary, &mut self.primary];
        sites[n % 3].forget_broker()
    }
}

fn start_host(site: &Site, folder: &Path) -> Result<Process> {
    let mut arguments = vec![
        "run".to_owned(),
        "--libvirt.uri=test:///default".to_owned(),
        format!("--broker=mqtts://127.0.0.1:{PORT}"),
        format!("--web.listen-address={METRICS}"),
        format!("--state={}", site.place.folder().join("host").display()),
        format!("--guest=test=unix:{}", folder.join("link").display()),
        format!(
            "--descriptor=test={}",
            folder.join("descriptor.toml").display()
        ),
    ];
    arguments.extend(site.lets_in("host-17", "broker")?);
    let host = site
        .place
        .start("host", &program("vmkpi-host")?, &arguments)?;
    wait_for(20, "the host's broker", || {
        host.words().contains("broker connected").then_some(())
    })
    .with_context(|| host.words())?;
    Ok(host)
}
