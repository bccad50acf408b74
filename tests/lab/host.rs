//! One of two hosts: its place, its libvirtd and its `vmkpi-host`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::hypervisor::Hypervisor;
use super::pair::BROKER;
use super::{DOMAIN, PATIENCE};
use crate::chain::{http_get, tail};
use crate::network::Place;
use crate::process::{Process, program};
use crate::wait_for;

/// The port of each host daemon's `/metrics`.
pub const METRICS: u16 = 9878;

/// Where each host daemon keeps its state: the same path on both hosts, and not the same folder.
const STATE: &str = "/var/lib/libvirt/vmkpi-host";

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first.
    One,
    /// The second.
    Two,
}

impl End {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::One, Self::Two];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Two => "two",
        }
    }

    /// Its address.
    pub fn address(self) -> IpAddr {
        Ipv4Addr::new(10, 99, 0, self as u8 + 1).into()
    }

    /// Where the libvirtd of the other host finds it.
    pub fn tcp_uri(self) -> String {
        format!("qemu+tcp://{}/system", self.address())
    }
}

/// A host: its place, its libvirtd, its daemon.
pub struct Host {
    /// libvirtd.
    pub hypervisor: Hypervisor,
    /// `vmkpi-host`, if it runs.
    pub daemon: Option<Process>,
    /// Its network.
    pub place: Place,
    end: End,
    options: Vec<String>,
}

impl Host {
    /// Starts libvirtd in a place, and `vmkpi-host` with these further options.
    ///
    /// # Errors
    /// One of them does not come up.
    pub fn start(place: Place, end: End, options: Vec<String>) -> Result<Self> {
        let mut host = Self {
            hypervisor: Hypervisor::start_in(&place, end.address())?,
            daemon: None,
            place,
            end,
            options,
        };
        host.begin_daemon()?;
        Ok(host)
    }

    /// Starts the host daemon.
    ///
    /// # Errors
    /// It does not come up.
    pub fn begin_daemon(&mut self) -> Result<()> {
        let folder = self.place.folder();
        let metrics = SocketAddr::new(self.end.address(), METRICS);
        let mut arguments = vec![
            "run".to_owned(),
            format!("--broker=mqtt://{BROKER}"),
            format!("--web.listen-address={metrics}"),
            format!("--state={STATE}"),
        ];
        arguments.extend_from_slice(&self.options);
        let binary = program("vmkpi-host")?.canonicalize()?;
        let daemon = self
            .hypervisor
            .start_inside(folder, "host", &binary, &arguments)?;
        wait_for(PATIENCE, "the exporter", || self.scrape().ok())
            .with_context(|| daemon.words())?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Ends the host daemon in order.
    ///
    /// # Errors
    /// It does not end.
    pub fn end_daemon(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(mut daemon) => daemon.terminate().map(drop),
            None => Ok(()),
        }
    }

    /// Sets what the host daemon is told from its next start on.
    pub fn set_options(&mut self, options: Vec<String>) {
        self.options = options;
    }

    /// Kills the host daemon as kill -9 does.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.daemon
            .take()
            .map_or(Ok(()), |mut daemon| daemon.kill())
    }

    /// The page of its exporter.
    ///
    /// # Errors
    /// It does not answer.
    pub fn scrape(&self) -> Result<String> {
        let metrics = SocketAddr::new(self.end.address(), METRICS);
        self.place.inside(|| http_get(metrics, "/metrics"))
    }

    /// Where it keeps a file that its programs know by another path: everything of libvirt's is its own.
    pub fn own_file(&self, path: &str) -> PathBuf {
        self.place
            .folder()
            .join("hypervisor")
            .join(path.trim_start_matches('/'))
    }

    /// The image in the guest's drive, as this host knows it; `None`: there is none.
    pub fn image(&self) -> Option<String> {
        let xml = self.hypervisor.virsh(&["dumpxml", DOMAIN]).ok()?;
        let path = xml
            .split('\'')
            .find(|text| text.starts_with('/') && text.ends_with(".iso"));
        path.map(ToOwned::to_owned)
    }

    /// The file of what its daemon says.
    pub fn log(&self) -> PathBuf {
        self.place.folder().join("host.err")
    }

    /// What its programs said, for a failed test.
    pub fn words(&self) -> String {
        let daemon = std::fs::read_to_string(self.log());
        let libvirtd = tail(&self.hypervisor.words());
        let daemon = tail(&daemon.unwrap_or_default());
        let name = self.end.name();
        format!("--- vmkpi-host, {name}\n{daemon}\n--- libvirtd, {name}\n{libvirtd}")
    }
}
