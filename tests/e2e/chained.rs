//! Through a chain of three sites each row arrives once, whatever is cut or killed on the way, and nothing that
//! crosses a border tells where the VM runs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::collector::Mortal as _;
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::sites::Sites;
use vmkpi_tests::wait_for;

/// Waits until so many more rows are stored than there are now.
fn wait_for_stores(writer: &Writer, rows: usize) -> Result<()> {
    let rows = writer.stored()?.len() + rows;
    wait_for(60, &format!("{rows} stores"), || {
        (writer.stored().ok()?.len() >= rows).then_some(())
    })
}

#[test]
fn a_link_that_is_cut_and_a_relay_that_is_killed_cost_no_row() -> Result<()> {
    let mut sites = Sites::start()?;
    let mut writer = sites.write(Duration::from_millis(4))?;
    sites.wait_for_more(50, 60)?;
    for link in [&sites.first_link, &sites.second_link] {
        let near = match std::ptr::eq(link, &raw const sites.first_link) {
            true => &sites.remote.place,
            false => &sites.intermediary.place,
        };
        link.cut(near)?;
        wait_for_stores(&writer, 200)?;
        let kept = sites.collect.count();
        ensure!(kept < writer.stored()?.len() as u64, "nothing was cut");
        link.mend(near)?;
        sites.wait_for_more(200, 60)?;
    }
    for _ in 0..2 {
        sites.first.kill(&sites.remote.place)?;
        sites.wait_for_more(50, 60)?;
        sites.second.kill(&sites.intermediary.place)?;
        sites.wait_for_more(50, 60)?;
    }
    writer.stop()?;
    sites.collect.judge(&sites, &writer, 120)?;
    alive_is_known(&sites)
}

/// Both relays know that the VM is there, and what they have forwarded.
fn alive_is_known(sites: &Sites) -> Result<()> {
    for (relay, site) in [
        (&sites.first, &sites.remote),
        (&sites.second, &sites.intermediary),
    ] {
        let page = relay.scrape(&site.place)?;
        for line in [
            "vmkpi_relay_connected{way=\"up\"} 1",
            "vmkpi_relay_connected{way=\"down\"} 1",
            "vmkpi_relay_producer_silent{site=\"acme\",vm=\"shop\"} 0",
            "vmkpi_relay_spool_messages 0",
        ] {
            ensure!(page.lines().any(|l| l == line), "{line} is not on\n{page}");
        }
        for branch in ["data", "confirm"] {
            let start = format!("vmkpi_relay_forwarded_total{{branch=\"{branch}\"}} ");
            let count = page.lines().find_map(|l| l.strip_prefix(&start));
            let count: u64 = count.context("no such line")?.parse()?;
            ensure!(count > 0, "no {branch} crossed\n{page}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "takes minutes; make soak"]
fn brokers_of_all_sites_killed_twenty_times_in_100_000_rows_cost_no_row() -> Result<()> {
    Sites::start()?.survive_twenty_kills()
}

/// What would tell where the VM runs: names and addresses of the host and its libvirt, and its keys.
fn secrets(sites: &Sites) -> Result<Vec<String>> {
    let page = sites.scrape_host()?;
    let uuid = page.split("uuid=\"").nth(1).context("a VM's UUID")?;
    let uuid = uuid.split('"').next().unwrap_or_default().to_owned();
    ensure!(uuid.len() == 36, "{uuid:?} is no UUID");
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let link = &sites.first_link;
    let mut secrets = vec![
        sites.remote.place.host_name.clone(),
        uuid.replace('-', ""),
        uuid,
        link.near.clone(),
        "127.0.0.1".to_owned(),
        "test:///default".to_owned(),
        // The host's name at its own broker, and what signs for it.
        "host-17".to_owned(),
        "remote-ca".to_owned(),
        sites.remote.place.folder().display().to_string(),
        machine.trim().to_owned(),
    ];
    for file in ["host-17.crt", "host-17.key"] {
        let pem = std::fs::read_to_string(sites.remote.place.folder().join(file))?;
        let lines = pem.lines().filter(|line| line.len() == 64);
        secrets.extend(lines.map(ToOwned::to_owned));
    }
    secrets.retain(|secret| !secret.is_empty());
    ensure!(secrets.len() > 10, "{secrets:?}");
    Ok(secrets)
}

#[test]
fn nothing_that_crosses_a_border_tells_where_the_vm_runs() -> Result<()> {
    let sites = Sites::start()?;
    let recorder = sites.intermediary.record()?;
    let mut writer = sites.write(Duration::from_millis(10))?;
    sites.wait_for_more(50, 60)?;
    writer.stop()?;
    let stored = sites.collect.judge(&sites, &writer, 60)?;
    // The infrastructure's own measurements come once a minute: the host's end delivers what it has.
    let recorded = || std::fs::read_to_string(&recorder.out).unwrap_or_default();
    wait_for(60, "all of it to be recorded", || {
        let lines = recorded()
            .lines()
            .filter(|l| l.starts_with("vmkpi/v1/acme/data/shop/"))
            .count();
        (lines >= stored.min(20)).then_some(())
    })?;
    let said = recorded();
    ensure!(
        said.contains("hops=[vmkpi-hops:1]"),
        "no relay was there\n{said}"
    );
    ensure!(
        said.contains("type=application/cloudevents+json"),
        "its type is lost\n{said}"
    );
    ensure!(
        said.lines()
            .any(|l| l.starts_with("vmkpi/v1/acme/confirm/acme-collect/shop"))
    );
    // Connections as the next broker sees them: client ids and certificates' subjects.
    let log = sites.intermediary.broker_log();
    let peers = log
        .lines()
        .filter(|l| l.contains("New client connected from"));
    // Where from is a site's address, and a site is no host.
    let peers: Vec<String> = peers
        .map(|l| l.split_once(" as ").map_or(l, |(_, who)| who).to_owned())
        .collect();
    ensure!(
        peers.iter().any(|l| l.contains("u'acme-remote'")),
        "{peers:?}"
    );
    let seen = format!("{said}\n{}", peers.join("\n")).to_lowercase();
    for secret in secrets(&sites)? {
        let found = seen.lines().find(|l| l.contains(&secret.to_lowercase()));
        ensure!(found.is_none(), "{secret:?} crossed: {found:?}");
    }
    Ok(())
}
