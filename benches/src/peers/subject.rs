//! The exporters, each with what it takes to start it and to read its page.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use vmkpi_tests::chain::http_get;
use vmkpi_tests::process::{Process, program};
use vmkpi_tests::scratch::free_address;
use vmkpi_tests::wait_for;

/// collectd's own default. vmkpi-host asks each 5 s, the other exporter when it is asked.
const COLLECTD_INTERVAL_S: u64 = 10;

/// What collectd's virt plugin can say of a QEMU without agents and control groups.
const COLLECTD_EXTRA: &str = "cpu_util disk disk_err domain_state job_stats_background memory vcpu \
    vcpupin disk_physical disk_allocation disk_capacity";

/// An exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Vmkpi,
    /// Debian's prometheus-libvirt-exporter.
    LibvirtExporter,
    /// collectd with virt and write_prometheus.
    Collectd,
}

impl Kind {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 3] = [Self::Vmkpi, Self::LibvirtExporter, Self::Collectd];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmkpi => "vmkpi-host",
            Self::LibvirtExporter => "prometheus-libvirt-exporter",
            Self::Collectd => "collectd virt",
        }
    }

    /// The CPU time of a VM: everybody has it of every VM that is shown at all.
    fn cpu_time(self) -> &'static str {
        match self {
            Self::Vmkpi | Self::LibvirtExporter => {
                "libvirt_domain_info_cpu_time_seconds_total{domain=\""
            }
            Self::Collectd => "collectd_virt_virt_cpu_total_total{virt=\"",
        }
    }
}

/// A running exporter.
pub struct Subject {
    /// Which.
    pub kind: Kind,
    /// Its process.
    pub process: Process,
    address: SocketAddr,
}

/// A page, and when it was asked for.
pub struct Page {
    kind: Kind,
    text: String,
    /// How long the answer took.
    pub took: Duration,
    asked: SystemTime,
}

impl Subject {
    /// Starts it on `uri`, with its files in `folder`, and waits until it answers.
    pub fn start(kind: Kind, folder: &Path, uri: &str) -> Result<Self> {
        let address = free_address()?;
        let (binary, arguments) = match kind {
            Kind::Vmkpi => (program("vmkpi-host")?, vmkpi(folder, uri, address)?),
            Kind::LibvirtExporter => (
                PathBuf::from("/usr/bin/prometheus-libvirt-exporter"),
                vec![
                    format!("--libvirt.uri={uri}"),
                    format!("--web.listen-address={address}"),
                ],
            ),
            Kind::Collectd => ("/usr/sbin/collectd".into(), collectd(folder, uri, address)?),
        };
        let process = Process::start(folder, kind.name(), &binary, arguments)?;
        let subject = Self {
            kind,
            process,
            address,
        };
        wait_for(30, "an answer", || {
            std::net::TcpStream::connect(address).ok()
        })
        .with_context(|| subject.process.words())?;
        Ok(subject)
    }

    /// Asks for its page, for at most 10 s, as Prometheus does by default.
    pub fn scrape(&self) -> Result<Page> {
        let (asked, begin) = (SystemTime::now(), Instant::now());
        let text = http_get(self.address, "/metrics")?;
        Ok(Page {
            kind: self.kind,
            text,
            took: begin.elapsed(),
            asked,
        })
    }
}

fn vmkpi(folder: &Path, uri: &str, address: SocketAddr) -> Result<Vec<String>> {
    // No VM has a descriptor, so nothing is published: nobody need listen there.
    let broker = free_address()?;
    Ok(vec![
        "run".into(),
        format!("--libvirt.uri={uri}"),
        format!("--broker=mqtt://{broker}"),
        format!("--web.listen-address={address}"),
        format!("--state={}", folder.join("host").display()),
    ])
}

fn collectd(folder: &Path, uri: &str, address: SocketAddr) -> Result<Vec<String>> {
    let (place, port) = (folder.display(), address.port());
    let config = format!(
        r#"Hostname "host"
FQDNLookup false
BaseDir "{place}"
PIDFile "{place}/collectd.pid"
TypesDB "/usr/share/collectd/types.db"
Interval {COLLECTD_INTERVAL_S}
LoadPlugin logfile
LoadPlugin virt
LoadPlugin write_prometheus
<Plugin logfile>
  File "{place}/collectd.log"
</Plugin>
<Plugin virt>
  Connection "{uri}"
  HostnameFormat hostname
  PluginInstanceFormat name
  ExtraStats "{COLLECTD_EXTRA}"
</Plugin>
<Plugin write_prometheus>
  Port "{port}"
</Plugin>
"#
    );
    let file = folder.join("collectd.conf");
    std::fs::write(&file, config)?;
    Ok(vec!["-f".into(), "-C".into(), file.display().to_string()])
}

impl Page {
    /// Its series of VMs and of libvirt; not what an exporter says of its own memory and the like.
    pub fn series(&self) -> usize {
        let lines = self.text.lines();
        let ours = ["libvirt_", "vmkpi_", "collectd_virt_"];
        lines
            .filter(|line| ours.iter().any(|of| line.starts_with(of)))
            .count()
    }

    /// The VMs that it has a CPU time of, and when that was measured.
    pub fn vms(&self) -> BTreeMap<String, SystemTime> {
        let begin = self.kind.cpu_time();
        let lines = self.text.lines();
        let times = self.times();
        lines
            .filter_map(|line| {
                let name = line.strip_prefix(begin)?.split_once('"')?.0.to_owned();
                let time = match self.kind {
                    Kind::Vmkpi => *times.get(&name)?,
                    // It asks libvirt when it is asked.
                    Kind::LibvirtExporter => self.asked,
                    Kind::Collectd => {
                        let ms = line.rsplit_once(' ')?.1.parse().ok()?;
                        UNIX_EPOCH + Duration::from_millis(ms)
                    }
                };
                Some((name, time))
            })
            .collect()
    }

    /// When vmkpi-host got the figures of each VM.
    fn times(&self) -> BTreeMap<String, SystemTime> {
        let begin = "vmkpi_domain_stats_timestamp_seconds{domain=\"";
        let lines = self.text.lines();
        lines
            .filter_map(|line| {
                let name = line.strip_prefix(begin)?.split_once('"')?.0;
                let seconds = line.rsplit_once(' ')?.1.parse().ok()?;
                let time = UNIX_EPOCH + Duration::try_from_secs_f64(seconds).ok()?;
                Some((name.to_owned(), time))
            })
            .collect()
    }
}
