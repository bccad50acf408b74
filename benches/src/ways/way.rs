//! The ways, each with its processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use vmkpi_tests::chain::{Broker, DOMAIN};
use vmkpi_tests::mqtt::Subscriber;
use vmkpi_tests::process::Process;
use vmkpi_tests::programs::{HostPlace, start_guest, start_host};
use vmkpi_tests::scratch::free_address;
use vmkpi_tests::wait_for;

use super::seen::{Eye, Reader, Scraper, answers, of_collectd, of_json, of_vmkpi};
use super::write::Writer;

/// Between two scrapes: a tenth of Prometheus' usual 15 s.
pub const SCRAPE_EVERY: Duration = Duration::from_millis(1500);

/// Every store, at once, and nothing else.
const DESCRIPTOR: &str =
    "vm = 'shop'\nprimary_site = 'acme'\n[[monitor]]\nid = 'load'\npoint = 'unencrypted/load'\n";

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours: guest, host and broker.
    Vmkpi,
    /// mosquitto_pub for each value.
    Publish,
    /// One mosquitto_pub that reads lines.
    Pipe,
    /// A line of CSV, which collectd follows and publishes.
    Collectd,
    /// A file that is replaced, node_exporter and a scraper.
    Rename,
    /// A file that is written anew in place.
    Rewrite,
    /// Pushgateway and a scraper.
    Push,
}

impl Kind {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 7] = [
        Self::Vmkpi,
        Self::Publish,
        Self::Pipe,
        Self::Collectd,
        Self::Rename,
        Self::Rewrite,
        Self::Push,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmkpi => "vmkpi",
            Self::Publish => "mosquitto_pub a value",
            Self::Pipe => "one mosquitto_pub -l",
            Self::Collectd => "collectd tail_csv, mqtt",
            Self::Rename => "textfile, renamed",
            Self::Rewrite => "textfile, in place",
            Self::Push => "Pushgateway",
        }
    }
}

/// A way that is there.
pub struct Way {
    /// How values go in.
    pub writer: Writer,
    /// How they are seen.
    pub eye: Eye,
    /// The broker, where there is one.
    pub broker: Option<Broker>,
    /// What works between.
    pub processes: Vec<Process>,
    again: Again,
}

/// Starts what works between; again, too, on what it has left.
type Again = Box<dyn Fn() -> Result<Vec<Process>>>;

impl Way {
    /// Starts everything, with its files in `folder`.
    pub fn start(kind: Kind, folder: &Path) -> Result<Self> {
        match kind {
            Kind::Vmkpi => vmkpi(folder),
            Kind::Publish => {
                let (broker, eye) = subscribed(folder, "app/#", of_json)?;
                Ok(Self {
                    writer: Writer::Publish(broker.address()),
                    eye,
                    broker: Some(broker),
                    processes: Vec::new(),
                    again: Box::new(|| Ok(Vec::new())),
                })
            }
            Kind::Pipe => {
                let (broker, eye) = subscribed(folder, "app/#", of_json)?;
                Ok(Self {
                    writer: Writer::pipe(broker.address())?,
                    eye,
                    broker: Some(broker),
                    processes: Vec::new(),
                    again: Box::new(|| Ok(Vec::new())),
                })
            }
            Kind::Collectd => collectd(folder),
            Kind::Rename | Kind::Rewrite => textfile(folder, kind),
            Kind::Push => gateway(folder),
        }
    }

    /// Kills whatever works between, as a power cut does, and starts it again.
    pub fn crash(&mut self) -> Result<()> {
        for process in &mut self.processes {
            process.kill()?;
        }
        if let (Writer::Pipe(_), Some(broker)) = (&self.writer, &self.broker) {
            self.writer = Writer::pipe(broker.address())?;
        }
        self.processes = (self.again)()?;
        Ok(())
    }

    /// The processes that work, by their ids.
    pub fn pids(&self) -> Vec<i32> {
        let own = self.processes.iter().map(Process::pid);
        let all = own.chain(self.writer.pid());
        all.filter_map(|pid| i32::try_from(pid).ok()).collect()
    }
}

fn subscribed(folder: &Path, filter: &str, read: Reader) -> Result<(Broker, Eye)> {
    let broker = Broker::start(folder)?;
    let subscriber = Subscriber::start(broker.address(), filter)?;
    Ok((broker, Eye::Messages(subscriber, read)))
}

fn vmkpi(folder: &Path) -> Result<Way> {
    let (broker, eye) = subscribed(folder, "vmkpi/v1/acme/data/#", of_vmkpi)?;
    std::fs::create_dir(folder.join("kpi"))?;
    std::fs::write(folder.join("descriptor.toml"), DESCRIPTOR)?;
    let (place, url, metrics) = (folder.to_owned(), broker.url(), free_address()?);
    let again = move || {
        let guest = start_guest(&place, &[], &[])?;
        let host = start_host(&HostPlace {
            folder: &place,
            libvirt: "test:///default".to_owned(),
            broker: url.clone(),
            metrics,
            vms: vec![(DOMAIN.to_owned(), place.clone())],
            options: &[],
            environment: &[],
        })?;
        Ok(vec![guest, host])
    };
    Ok(Way {
        writer: Writer::Store(folder.join("kpi/unencrypted/load")),
        eye,
        broker: Some(broker),
        processes: again()?,
        again: Box::new(again),
    })
}

fn collectd(folder: &Path) -> Result<Way> {
    let (broker, eye) = subscribed(folder, "collectd/#", of_collectd)?;
    let (place, port) = (folder.display(), broker.port());
    let csv = folder.join("load.csv");
    std::fs::write(&csv, "")?;
    let config = format!(
        r#"Hostname "host"
FQDNLookup false
BaseDir "{place}"
PIDFile "{place}/collectd.pid"
TypesDB "/usr/share/collectd/types.db"
Interval 1
LoadPlugin logfile
LoadPlugin tail_csv
LoadPlugin mqtt
<Plugin logfile>
  File "{place}/collectd.log"
</Plugin>
<Plugin tail_csv>
  <Metric "n">
    Type "gauge"
    Instance "n"
    ValueFrom 1
  </Metric>
  <File "{csv}">
    Plugin "load"
    Collect "n"
    Interval 1
    TimeFrom 0
  </File>
</Plugin>
<Plugin mqtt>
  <Publish "site">
    Host "127.0.0.1"
    Port "{port}"
    QoS 1
    Prefix "collectd"
    StoreRates false
  </Publish>
</Plugin>
"#,
        csv = csv.display()
    );
    let file = folder.join("collectd.conf");
    std::fs::write(&file, config)?;
    let place = folder.to_owned();
    let again = move || {
        let program = Path::new("/usr/sbin/collectd");
        let arguments = ["-f", "-C", &file.display().to_string()];
        Ok(vec![Process::start(
            &place, "collectd", program, arguments,
        )?])
    };
    Ok(Way {
        writer: Writer::Line(csv),
        eye,
        broker: Some(broker),
        processes: again()?,
        again: Box::new(again),
    })
}

fn textfile(folder: &Path, kind: Kind) -> Result<Way> {
    let directory = folder.join("textfile");
    std::fs::create_dir(&directory)?;
    let arguments = [
        "--collector.disable-defaults".to_owned(),
        "--collector.textfile".to_owned(),
        format!("--collector.textfile.directory={}", directory.display()),
    ];
    let file = directory.join("app.prom");
    let writer = match kind {
        Kind::Rename => Writer::Rename(file),
        _ => Writer::Rewrite(file),
    };
    scraped(folder, "prometheus-node-exporter", &arguments, |_| writer)
}

fn gateway(folder: &Path) -> Result<Way> {
    // Debian's keeps what was pushed in a file of the system's otherwise.
    let kept = folder.join("pushgateway.data");
    let arguments = [format!("--persistence.file={}", kept.display())];
    scraped(folder, "prometheus-pushgateway", &arguments, Writer::Push)
}

/// A program of Prometheus' family, and a scraper of it.
fn scraped(
    folder: &Path,
    name: &str,
    arguments: &[String],
    writer: impl FnOnce(SocketAddr) -> Writer,
) -> Result<Way> {
    let address = free_address()?;
    let program = PathBuf::from("/usr/bin").join(name);
    let listen = format!("--web.listen-address={address}");
    let arguments: Vec<String> = arguments.iter().chain([&listen]).cloned().collect();
    let (place, name) = (folder.to_owned(), name.to_owned());
    let again = move || {
        let process = Process::start(&place, &name, &program, &arguments)?;
        wait_for(30, &name, || answers(address).ok()).with_context(|| process.words())?;
        Ok(vec![process])
    };
    Ok(Way {
        writer: writer(address),
        eye: Eye::Pages(Scraper::start(address, SCRAPE_EVERY)),
        broker: None,
        processes: again()?,
        again: Box::new(again),
    })
}
