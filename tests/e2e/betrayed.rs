//! A broker that is hostile itself, in ways in which no real one is.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::http_get;
use vmkpi_tests::collector::confirmed_by;
use vmkpi_tests::hostile::{Hostile, Malice};
use vmkpi_tests::process::{Process, program};
use vmkpi_tests::programs::{HostPlace, start_host};
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

use super::forged::{Collecting, Keys, number};

/// A host and a collect at a broker that is no broker.
struct Betrayed {
    host: Process,
    metrics: SocketAddr,
    collect: Process,
    listen: SocketAddr,
}

impl Betrayed {
    fn start(folder: &Path, keys: &Keys, broker: &Hostile) -> Result<Self> {
        let url = format!("mqtt://{}", broker.address);
        let descriptor = format!(
            "{}[[monitor]]\nid = 'cpu'\npoint = 'infra/cpu'\ninterval = '200ms'\n",
            confirmed_by(&keys.consumer)
        );
        std::fs::write(folder.join("descriptor.toml"), descriptor)?;
        let metrics = free_address()?;
        let host = start_host(&HostPlace {
            folder,
            libvirt: "test:///default".to_owned(),
            broker: url.clone(),
            metrics,
            vms: vec![("test".to_owned(), folder.to_owned())],
            options: &[],
            environment: &[],
        })?;
        let listen = free_address()?;
        let db = folder.join("kept.db");
        let arguments = [
            "collect".to_owned(),
            format!("--broker={url}"),
            format!("--db={}", db.display()),
            format!("--listen={listen}"),
        ];
        let collect = Process::start(folder, "collect", &program("vmkpi")?, arguments)?;
        Ok(Self {
            host,
            metrics,
            collect,
            listen,
        })
    }

    /// Waits until the host has counted one thing so often, and collect another.
    fn wait_for(&self, times: f64, of_host: &str, of_collect: &str) -> Result<()> {
        for (address, series) in [(self.metrics, of_host), (self.listen, of_collect)] {
            let enough = || number(address, series).filter(|n| *n >= times).map(|_| ());
            wait_for(60, series, enough)
                .with_context(|| self.host.words() + &self.collect.words())?;
        }
        Ok(())
    }
}

/// What was retained is of another time: nobody says it now.
#[test]
fn what_a_broker_calls_retained_is_neither_kept_nor_does_it_confirm() -> Result<()> {
    let (keys, scratch) = (Keys::new()?, Scratch::new()?);
    let confirmation = "vmkpi/v1/acme/confirm/acme-collect/shop".to_owned();
    let data = "vmkpi/v1/acme/data/shop/load/infra/cpu".to_owned();
    let said = vec![(confirmation, b"x".to_vec()), (data, vec![b' '; 300])];
    let broker = Hostile::start(Malice::Retained(said))?;
    let betrayed = Betrayed::start(scratch.path(), &keys, &broker)?;
    betrayed.wait_for(
        1.0,
        "vmkpi_confirmations_refused_total{reason=\"retained\"}",
        &Collecting::irregular("ignored", "retained"),
    )
}

/// A broker that says so is believed: it is counted as what it is, nobody comes twice with a stolen id, and no message
/// is given up for it.
#[test]
fn a_client_id_that_is_taken_over_is_counted_and_never_used_again() -> Result<()> {
    let (keys, scratch) = (Keys::new()?, Scratch::new()?);
    let broker = Hostile::start(Malice::TakenOver)?;
    let betrayed = Betrayed::start(scratch.path(), &keys, &broker)?;
    // More often than a message is tried that ends connections.
    betrayed.wait_for(
        8.0,
        "vmkpi_broker_errors_total{reason=\"taken_over\"}",
        "vmkpi_collect_broker_errors_total{reason=\"taken_over\"}",
    )?;
    let mut ids = broker.ids();
    let came = ids.len();
    ids.sort();
    ids.dedup();
    ensure!(
        came > 16 && ids.len() == came,
        "{came}, of them different {ids:?}"
    );
    let page = http_get(betrayed.metrics, "/metrics")?;
    let refused = "vmkpi_broker_messages_refused_total{";
    let mut refusals = page.lines().filter(|l| l.starts_with(refused)).peekable();
    ensure!(
        refusals.peek().is_some() && refusals.all(|l| l.ends_with(" 0")),
        "{page}"
    );
    for words in [betrayed.host.words(), betrayed.collect.words()] {
        ensure!(
            words.contains("somebody else has come with our client id"),
            "{words}"
        );
    }
    Ok(())
}
