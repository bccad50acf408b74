//! Where dashboards and rules get their data from in the tests: real programs, and a real Prometheus.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use vmkpi_tests::chain::{Broker, http_get};
use vmkpi_tests::lab::Lab;
use vmkpi_tests::process::{Process, program};
use vmkpi_tests::programs::{HostPlace, start_host};
use vmkpi_tests::prometheus::Prometheus;
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

use super::root;

/// A VM with its host, a host that offers contexts, a collect, a relay to another broker, and a Prometheus of all.
pub struct Site {
    /// It scrapes them all.
    pub prometheus: Prometheus,
    /// The VM, its host and their broker.
    pub lab: Lab,
    /// The broker that the relay forwards to.
    pub next: Broker,
    /// Who is scraped, by job.
    pub metrics: [(&'static str, SocketAddr); 4],
    _running: Vec<Process>,
    _scratch: [Scratch; 2],
}

impl Site {
    /// Starts everything. `None`: this machine has not what it takes, which was said.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start() -> Result<Option<Self>> {
        let Some(lab) = Lab::start()? else {
            return Ok(None);
        };
        let scratch = [Scratch::new()?, Scratch::new()?];
        let next = Broker::start(scratch[1].path())?;
        let folder = scratch[0].path();
        let [host, collect, relay] = [free_address()?, free_address()?, free_address()?];
        let running = vec![
            offering_host(folder, &lab, host)?,
            site_program(
                folder,
                "collect",
                &collecting(folder, &lab, collect),
                collect,
            )?,
            site_program(
                folder,
                "relay",
                &relaying(folder, &lab, &next, relay),
                relay,
            )?,
        ];
        let metrics = [
            ("vmkpi-host", lab.metrics),
            ("vmkpi-host", host),
            ("vmkpi-collect", collect),
            ("vmkpi-relay", relay),
        ];
        let thresholds = folder.join("thresholds.yml");
        std::fs::write(&thresholds, THRESHOLD)?;
        let rules = [root("packaging/prometheus/vmkpi.rules.yml"), thresholds];
        let prometheus = Prometheus::start(folder, &metrics, &rules)?;
        Ok(Some(Self {
            prometheus,
            lab,
            next,
            metrics,
            _running: running,
            _scratch: scratch,
        }))
    }
}

/// A threshold of the KPI's own, as an operator writes it, that each row is older than. How much older depends on the
/// emulated guest's clock, which falls behind on a busy machine.
const THRESHOLD: &str = "groups: [{name: ours, rules: [{record: 'vmkpi:row_age_threshold_seconds', \
    expr: vector(-3600), labels: {site: acme, vm: shop, point: unencrypted/load}}]}]\n";

/// A host that offers contexts: on libvirt's test driver there is nobody to take them.
fn offering_host(folder: &Path, lab: &Lab, metrics: SocketAddr) -> Result<Process> {
    let contexts = folder.join("contexts");
    std::fs::create_dir(&contexts)?;
    start_host(&HostPlace {
        folder,
        libvirt: "test:///default".to_owned(),
        broker: lab.broker_url(),
        metrics,
        vms: vec![],
        options: &[format!("--context.directory={}", contexts.display())],
        environment: &[],
    })
}

fn collecting(folder: &Path, lab: &Lab, listen: SocketAddr) -> Vec<String> {
    vec![
        format!("--broker={}", lab.broker_url()),
        format!("--db={}", folder.join("kpi.db").display()),
        format!("--listen={listen}"),
    ]
}

fn relaying(folder: &Path, lab: &Lab, next: &Broker, listen: SocketAddr) -> Vec<String> {
    vec![
        "--site=acme".to_owned(),
        format!("--from={}", lab.broker_url()),
        format!("--to={}", next.url()),
        format!("--state={}", folder.join("relay").display()),
        format!("--listen={listen}"),
    ]
}

/// One of the command's daemons, that answers.
fn site_program(
    folder: &Path,
    name: &str,
    options: &[String],
    listen: SocketAddr,
) -> Result<Process> {
    let arguments = [&[name.to_owned()], options].concat();
    let process = Process::start(folder, name, &program("vmkpi")?, arguments)?;
    wait_for(30, name, || http_get(listen, "/metrics").ok()).with_context(|| process.words())?;
    Ok(process)
}
