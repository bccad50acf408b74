//! A soak: real guests, hosts and a broker, and whatever may go wrong, at random and all at once. In the end
//! everything is let run, and the ledger must hold: every confirmed store arrived once, every message says
//! what the rows say, the guests are acknowledged to their last row, and what the programs use is flat.
//!
//! What a run is made of comes from a seed, which is printed; what it meets is the machine's, so that the
//! same seed hurts the same parts in the same order, and not at the same row.

pub mod descriptors;
pub mod events;
pub mod fleet;
pub mod footprint;
pub mod judge;
pub mod oracle;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::chain::lines_of;
use crate::seed::Seed;
use crate::wait_for;
use events::{Part, Scene, Trouble};
use fleet::Fleet;
use footprint::{Growth, Series};
use judge::{Figures, Judge, Vm};
use oracle::Row;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Where its events come from.
    pub seed: u64,
    /// How long things go wrong.
    pub lasts: Duration,
    /// The longest of one of them.
    pub longest: Duration,
    /// The longest pause between two.
    pub pause: Duration,
    /// Host daemons.
    pub hosts: usize,
    /// Guests of each.
    pub guests: usize,
    /// Between two stores of a guest.
    pub store_pause: Duration,
    /// Whether the broker may be killed.
    pub broker_kills: bool,
    /// What the first host may use more in the end than before.
    pub growth: Growth,
}

/// How long everything may take to arrive when nothing goes wrong any more.
const SETTLE_SECONDS: u64 = 120;
/// The last stores have numbers of their own.
const LAST_STORES: u64 = 1_000_000_000;
/// How often what the programs use is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs a soak, and says what happened.
///
/// # Errors
/// The ledger does not hold, or a program grew.
pub fn run(soak: &Soak) -> Result<String> {
    let mut seed = Seed(soak.seed);
    let mut fleet = Fleet::start(soak.hosts, soak.guests, soak.store_pause, &mut seed)?;
    let mut said = trouble(soak, &mut fleet, &mut seed).with_context(|| fleet.words())?;
    let vms = settle(&mut fleet).with_context(|| format!("{said}\n{}", fleet.words()))?;
    let messages = fleet.ledger.messages(0);
    let figures = Judge::new(&vms, &fleet.kills)
        .judge(&messages)
        .with_context(|| said.clone())?;
    ensure!(figures.computed > 100, "{figures:?}: nothing was tested");
    said += &format!("{figures:?}\n");
    said += &check_watches(&fleet, &vms, &figures)?;
    said += &check_outbox(&fleet)?;
    Ok(said)
}

/// Lets things go wrong, and mends them.
fn trouble(soak: &Soak, fleet: &mut Fleet, seed: &mut Seed) -> Result<String> {
    let scene = Scene {
        hosts: soak.hosts,
        guests: soak.hosts * soak.guests,
        clocks: fleet.has_clocks(),
        broker_kills: soak.broker_kills,
        longest: soak.longest,
    };
    let begun = Instant::now();
    let (mut due, mut looked): (Vec<(Instant, Part)>, _) = (Vec::new(), begun);
    let (mut next, mut counts) = (begun, BTreeMap::new());
    let mut series = [Series::default(), Series::default()];
    while begun.elapsed() < soak.lasts {
        while let Some(at) = due.iter().position(|(when, _)| *when <= Instant::now()) {
            fleet.mend(due.remove(at).1)?;
        }
        if Instant::now() >= next {
            let event = events::draw(seed, &scene);
            if due.iter().all(|(_, part)| *part != event.part) {
                eprintln!("{:8.3} {event:?}", begun.elapsed().as_secs_f64());
                *counts.entry(word(event.trouble)).or_insert(0) += 1;
                if fleet.hurt(&event, seed)? {
                    due.push((Instant::now() + event.lasts, event.part));
                }
            }
            let pause = u64::try_from(soak.pause.as_millis())?;
            next = Instant::now() + Duration::from_millis(1 + seed.below(pause));
        }
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            for (series, pid) in series.iter_mut().zip(fleet.steady()) {
                series.add(begun.elapsed(), footprint::look(pid)?);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for (_, part) in due {
        fleet.mend(part)?;
    }
    let mut said = format!("seed {}, {counts:?}\n", soak.seed);
    for (series, what) in series.iter().zip(["host", "guest"]) {
        said += &format!("{}\n", series.judge(what, soak.growth)?);
    }
    Ok(said)
}

fn word(trouble: Trouble) -> String {
    match trouble {
        Trouble::Clock(_) => "Clock".into(),
        other => format!("{other:?}"),
    }
}

/// Nothing goes wrong any more: waits until everything has been acknowledged, and reads what was stored.
fn settle(fleet: &mut Fleet) -> Result<BTreeMap<String, Vm>> {
    fleet.right_clocks()?;
    let mut vms = BTreeMap::new();
    for guest in &mut fleet.guests {
        guest.writer.stop()?;
        let last = guest.store_last(LAST_STORES)?;
        let (mut stored, mut attempted) = (guest.writer.stored()?, guest.writer.attempted()?);
        stored.extend(&last);
        attempted.extend(last);
        let vm = Vm {
            history: std::mem::take(&mut guest.history),
            forgets: guest.forgets,
            stored,
            attempted,
            ..Vm::default()
        };
        vms.insert(guest.name.clone(), vm);
    }
    for guest in &fleet.guests {
        let vm = vms.get_mut(&guest.name).context("no such VM")?;
        wait_for(SETTLE_SECONDS, "all to be acknowledged", || {
            marks(guest, vm).ok().filter(Vec::is_empty)
        })
        .with_context(|| format!("{}: {:?}", guest.name, marks(guest, vm)))?;
        read_rows(guest, vm)?;
    }
    Ok(vms)
}

/// Notes each table's last row; the tables that are not acknowledged to there.
fn marks(guest: &fleet::Guest, vm: &mut Vm) -> Result<Vec<String>> {
    let mut open = Vec::new();
    for directory in ["unencrypted", "encrypted"] {
        let database = format!("{directory}.db");
        let sql = "SELECT name, acked_seq, trimmed_seq FROM \".marks\"";
        for mark in guest.query(&database, sql)? {
            let name = mark[0].as_str().context("name")?;
            let [acked, trimmed] = [1, 2].map(|n| mark[n].as_u64().unwrap_or(0));
            let sql = format!("SELECT max(_seq) FROM \"{name}\"");
            let last = guest.query(&database, &sql)?;
            let last = last[0][0].as_u64().unwrap_or(trimmed);
            if acked != last {
                open.push(format!("{directory}/{name}: {acked} of {last}"));
            }
            vm.last.insert(format!("{directory}/{name}"), last);
        }
    }
    if vm.last.is_empty() {
        open.push("no table".into());
    }
    Ok(open)
}

fn read_rows(guest: &fleet::Guest, vm: &mut Vm) -> Result<()> {
    let points = vm.last.keys().cloned().collect::<Vec<_>>();
    for point in points {
        let Some(name) = point.strip_prefix("unencrypted/") else {
            continue;
        };
        let sql = format!("SELECT _seq, _epoch, _timestamp, n FROM \"{name}\"");
        let rows = guest.query("unencrypted.db", &sql)?.into_iter();
        let rows = rows.map(|row| {
            let number = |n: usize| row[n].as_u64().context("a row");
            let row = Row {
                seq: number(0)?,
                epoch: number(1)?,
                micros: number(2)?,
                n: number(3)?,
            };
            Ok((row.seq, row))
        });
        vm.tables
            .insert(point.clone(), rows.collect::<Result<_>>()?);
    }
    Ok(())
}

/// What each watcher has shown: no row twice, and nothing missing of what was always there.
fn check_watches(fleet: &Fleet, vms: &BTreeMap<String, Vm>, figures: &Figures) -> Result<String> {
    let mut shown = 0;
    for folder in &fleet.watches {
        let mut rows = std::collections::HashSet::new();
        for line in lines_of(&folder.join("watch.out"))? {
            let specifier = line["specifier"].as_str().context("specifier")?;
            let always = specifier != descriptors::FLIP && fleet.kills.is_empty();
            ensure!(
                !(always && line["missing"].is_object()),
                "{}: {line}",
                folder.display()
            );
            let Some(seq) = line["seq"].as_u64() else {
                continue;
            };
            let name = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let row = (["vm", "point", "specifier", "stream"].map(name), seq);
            ensure!(rows.insert(row), "{} twice: {line}", folder.display());
            shown += 1;
        }
    }
    ensure!(shown > 0 && vms.len() == fleet.guests.len(), "{figures:?}");
    Ok(format!(
        "{} watchers showed {shown} rows\n",
        fleet.watches.len()
    ))
}

/// The outbox is what the last seconds left.
fn check_outbox(fleet: &Fleet) -> Result<String> {
    let mut said = String::new();
    for host in &fleet.hosts {
        let drained = || -> Option<String> {
            let page = host.scrape().ok()?;
            let sum = |name: &str| -> f64 {
                let lines = page.lines().filter(|l| l.starts_with(name));
                lines
                    .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
                    .sum()
            };
            let batches = sum("vmkpi_outbox_batches{");
            (batches < 40.0).then(|| {
                format!(
                    "outbox: {batches} batches, {} bytes\n",
                    sum("vmkpi_outbox_bytes")
                )
            })
        };
        said += &wait_for(SETTLE_SECONDS, "the outbox to be drained", drained)?;
    }
    Ok(said)
}
