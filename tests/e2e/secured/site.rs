//! A site with a broker that does not let in everybody, and a host daemon that is to be let in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::{Broker, http_get};
use vmkpi_tests::pki::{Ca, Pair};
use vmkpi_tests::process::{Process, program};
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

pub const HERE: &str = "IP:127.0.0.1";
pub const ACL: &str = "user host-17\ntopic write vmkpi/v1/acme/data/#\n\
                   topic write vmkpi/v1/acme/directory/producer/#\n\
                   user dashboard\ntopic read vmkpi/v1/acme/#\n";
const DESCRIPTOR: &str = "vm = \"shop\"\nprimary_site = \"acme\"\n\
                          [[monitor]]\nid = \"cpu\"\npoint = \"infra/cpu\"\ninterval = \"500ms\"\n";

/// A CA, and a broker's and two clients' certificates.
pub struct Site {
    scratch: Scratch,
    pub ca: Ca,
    pub server: Pair,
    pub host: Pair,
    pub watch: Pair,
}

impl Site {
    pub fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let ca = Ca::new(scratch.path(), "ca")?;
        Ok(Self {
            server: ca.server("broker", HERE)?,
            host: ca.client("host", "host-17")?,
            watch: ca.client("watch", "dashboard")?,
            ca,
            scratch,
        })
    }

    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The options of a listener with TLS.
    pub fn tls(&self) -> String {
        format!(
            "certfile {}\nkeyfile {}\n",
            self.server.cert.display(),
            self.server.key.display()
        )
    }

    /// A broker that knows its clients by their certificates.
    pub fn broker_of_certificates(&self, rules: &str) -> Result<Broker> {
        let acl = self.file("acl");
        std::fs::write(&acl, rules)?;
        let options = format!(
            "{}cafile {}\nrequire_certificate true\nuse_identity_as_username true\nacl_file {}",
            self.tls(),
            self.ca.cert().display(),
            acl.display()
        );
        Broker::start_with(self.folder(), "mqtts", &options)
    }

    /// A broker with TLS that knows the user `host` by a password.
    pub fn broker_of_passwords(&self, password: &str) -> Result<Broker> {
        self.set_password(password)?;
        let file = self.file("passwords");
        let options = format!(
            "{}allow_anonymous false\npassword_file {}",
            self.tls(),
            file.display()
        );
        Broker::start_with(self.folder(), "mqtts", &options)
    }

    pub fn set_password(&self, password: &str) -> Result<()> {
        let made = Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(self.file("passwords"))
            .args(["host", password])
            .output()?;
        ensure!(made.status.success(), "{made:?}");
        Ok(())
    }

    /// Writes a file that not everybody may read.
    pub fn secret(&self, name: &str, text: &str) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.file(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }
}

pub fn trusts(ca: &Ca) -> Vec<String> {
    vec![format!("--broker.ca-file={}", ca.cert().display())]
}

pub fn shows(pair: &Pair) -> Vec<String> {
    vec![
        format!("--broker.cert-file={}", pair.cert.display()),
        format!("--broker.key-file={}", pair.key.display()),
    ]
}

/// A host daemon on libvirt's test driver, which publishes a sample each half second.
pub struct Host {
    pub process: Process,
    pub metrics: SocketAddr,
}

impl Host {
    pub fn start(folder: &Path, url: &str, options: &[Vec<String>]) -> Result<Self> {
        let metrics = free_address()?;
        let descriptor = folder.join("descriptor.toml");
        std::fs::write(&descriptor, DESCRIPTOR)?;
        let mut arguments = vec![
            "run".to_owned(),
            "--libvirt.uri=test:///default".to_owned(),
            format!("--broker={url}"),
            format!("--web.listen-address={metrics}"),
            format!("--state={}", folder.join("state").display()),
            format!("--descriptor=test={}", descriptor.display()),
        ];
        arguments.extend(options.concat());
        let process = Process::start(folder, "host", &program("vmkpi-host")?, arguments)?;
        Ok(Self { process, metrics })
    }

    /// A number of the exporter; nothing while it does not answer.
    pub fn number(&self, series: &str) -> Option<f64> {
        let page = http_get(self.metrics, "/metrics").ok()?;
        let line = page.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn wait_for(&self, what: &str, series: &str, enough: impl Fn(f64) -> bool) -> Result<()> {
        wait_for(30, what, || {
            self.number(series).filter(|n| enough(*n)).map(|_| ())
        })
        .with_context(|| self.process.words())
    }

    pub fn wait_until_connected(&self) -> Result<()> {
        self.wait_for("the broker", "vmkpi_broker_connected ", |n| n == 1.0)
    }

    /// Waits until it has failed twice for `reason`, then ends it; what it said.
    pub fn fails(mut self, reason: &str) -> Result<String> {
        let series = format!("vmkpi_broker_errors_total{{reason=\"{reason}\"}}");
        self.wait_for("two failures", &series, |n| n >= 2.0)?;
        self.process.terminate()?;
        Ok(std::fs::read_to_string(&self.process.err)?)
    }
}
