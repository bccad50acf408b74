//! Who has learnt a daemon's client id, and comes with it: the broker ends the daemon's connection. That costs
//! reconnections and no row, and tells the thief nothing that it may not read.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::admitted::Admitted;
use vmkpi_tests::chain::{Chain, http_get};
use vmkpi_tests::collector::{Collector, Key, NAME, confirmed_by};
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::process::{Process, program};
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

/// Begins with this, is of this user: whose connection it is.
const VICTIMS: [(&str, &str); 3] = [
    ("vmkpi-host-", "hosts"),
    ("vmkpi-", "hosts"),
    ("vmkpi-collect-", NAME),
];
/// How often each is robbed.
const TIMES: usize = 3;

/// The id that connected last of those of a user that begin so, by the broker's log.
fn last_id(log: &str, (begin, user): (&str, &str)) -> Option<String> {
    let of = format!(", u'{user}')");
    let connected = |line: &str| {
        let (_, rest) = line.split_once("New client connected from ")?;
        let (_, rest) = rest.split_once(" as ")?;
        let (id, how) = rest.split_once(' ')?;
        let rest = id.strip_prefix(begin)?;
        let is_id = rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit());
        (how.contains(&of) && is_id).then(|| id.to_owned())
    };
    log.lines().rev().find_map(connected)
}

fn number(address: SocketAddr, series: &str) -> Option<f64> {
    let page = http_get(address, "/metrics").ok()?;
    let line = page.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// What a thief comes with: the id, a session that goes on, and a wish to hear everything.
fn rob(chain: &Chain, site: &Admitted, id: &str) -> Result<Process> {
    let mut arguments = site.options_of_mosquitto("thief", &chain.broker);
    let rest = [
        "-V", "5", "-q", "1", "-c", "-x", "300", "-i", id, "-t", "vmkpi/#", "-F", "%t",
    ];
    arguments.extend(rest.map(String::from));
    let sub = Path::new("/usr/bin/mosquitto_sub");
    Process::start(chain.folder(), "thief", sub, arguments)
}

/// Robs until the broker has ended a connection of the victim's.
fn takes_over(chain: &Chain, site: &Admitted, victim: (&str, &str)) -> Result<()> {
    let id = wait_for(30, "the victim's id", || {
        last_id(&chain.broker.log(), victim)
    })?;
    let ended = format!("Client {id} already connected, closing old connection");
    let before = chain.broker.log().matches(&ended).count();
    let mut thief = rob(chain, site, &id)?;
    wait_for(30, "a takeover", || {
        (chain.broker.log().matches(&ended).count() > before).then_some(())
    })?;
    thief.kill()
}

struct Place {
    chain: Chain,
    site: Admitted,
    collect: Collector,
    listen: SocketAddr,
    _keys: Scratch,
}

fn start() -> Result<Place> {
    let (scratch, keys) = (Scratch::new()?, Scratch::new()?);
    let key = Key::make(keys.path(), "collect.key")?;
    let site = Admitted::new(scratch.path(), &["hosts", NAME, "dashboard", "thief"])?;
    let consumer = format!("--consumer={NAME}");
    // The thief has a certificate, and no rights.
    let options = [
        "--site=acme",
        "--host=hosts",
        "--reader=dashboard",
        &consumer,
    ];
    let broker = site.start(&options)?;
    let mut arguments = ["watch", "--format=json"].map(String::from).to_vec();
    arguments.push(format!("--broker={}", broker.url()));
    arguments.extend(site.options("dashboard"));
    let watch = Process::start(scratch.path(), "watch", &program("vmkpi")?, arguments)?;
    let hosts = site.options("hosts");
    let hosts = hosts.each_ref().map(String::as_str);
    let chain = Chain::start_at((scratch, broker), watch, &confirmed_by(&key), (&[], &hosts))?;
    let listen = free_address()?;
    let mut options = site.options(NAME).to_vec();
    options.push(format!("--listen={listen}"));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let collect = Collector::start(
        chain.folder(),
        &chain.broker,
        chain.folder(),
        &key,
        &options,
    )?;
    Ok(Place {
        chain,
        site,
        collect,
        listen,
        _keys: keys,
    })
}

#[test]
fn a_stolen_client_id_costs_reconnections_and_no_row() -> Result<()> {
    let place = start()?;
    let file = place.chain.mount().join("unencrypted/load");
    let mut writer = Writer::start(place.chain.folder(), &[file], Duration::from_millis(2))?;
    let kept_more = |rows: u64| {
        let rows = place.collect.count() + rows;
        wait_for(60, "more rows to be kept", || {
            (place.collect.count() >= rows).then_some(())
        })
        .with_context(|| place.collect.process.words() + &place.chain.words())
    };
    kept_more(100)?;
    for _ in 0..TIMES {
        for victim in VICTIMS {
            takes_over(&place.chain, &place.site, victim)?;
        }
        kept_more(100)?;
    }
    writer.stop()?;
    place.collect.judge(&place.chain, &writer, 120)?;
    let told = std::fs::read_to_string(place.chain.folder().join("thief.out"))?;
    ensure!(told.is_empty(), "the thief has heard {told}");
    let lost = "broker_errors_total{reason=\"lost\"}";
    for (address, series) in [
        (place.chain.metrics, format!("vmkpi_{lost}")),
        (place.listen, format!("vmkpi_collect_{lost}")),
    ] {
        let counted = number(address, &series);
        ensure!(counted >= Some(TIMES as f64), "{series}: {counted:?}");
    }
    Ok(())
}

/// The publisher's next connection has another id, so that one that is stolen is worth one reconnection.
#[test]
fn a_thief_who_stays_keeps_no_publisher_away() -> Result<()> {
    let place = start()?;
    let victim = ("vmkpi-", "hosts");
    let id = wait_for(30, "the publisher's id", || {
        last_id(&place.chain.broker.log(), victim)
    })?;
    let mut thief = rob(&place.chain, &place.site, &id)?;
    let other = || last_id(&place.chain.broker.log(), victim).filter(|other| *other != id);
    wait_for(30, "a connection with another id", other)?;
    let file = place.chain.mount().join("unencrypted/load");
    let mut writer = Writer::start(place.chain.folder(), &[file], Duration::from_millis(5))?;
    wait_for(60, "rows to be kept", || {
        (place.collect.count() >= 100).then_some(())
    })
    .with_context(|| place.chain.words())?;
    ensure!(thief.runs(), "the thief has gone: {}", thief.words());
    writer.stop()?;
    place.collect.judge(&place.chain, &writer, 60)?;
    Ok(())
}
