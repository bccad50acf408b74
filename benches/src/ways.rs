//! `vmkpi-bench ways`: a value's way out of an application, by vmkpi and by what a user would otherwise do: a file
//! for node_exporter's textfile collector, a push to Pushgateway, a line for collectd's `tail_csv` and `mqtt`,
//! mosquitto_pub. Each is started, measured and stopped in turn, in each round: values written and seen, the time
//! between, processor time, and what becomes of values while the broker is away.
#![expect(clippy::print_stdout, reason = "prints its own results")]

mod measure;
mod seen;
mod way;
mod write;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use vmkpi_tests::scratch::Scratch;

use measure::{Run, away, steady};
use way::{Kind, Way};

/// Values a second. What is scraped is scraped each [`way::SCRAPE_EVERY`], a tenth of Prometheus' usual 15 s: so
/// these stand for one and ten values a second there.
const RATES: [u32; 2] = [10, 100];

/// What has to be installed, and in which Debian package it is.
const NEEDED: [(&str, &str); 6] = [
    (
        "/usr/bin/prometheus-node-exporter",
        "prometheus-node-exporter",
    ),
    ("/usr/bin/prometheus-pushgateway", "prometheus-pushgateway"),
    ("/usr/sbin/collectd", "collectd-core"),
    ("/usr/sbin/mosquitto", "mosquitto"),
    ("/usr/bin/mosquitto_pub", "mosquitto-clients"),
    ("/usr/bin/curl", "curl"),
];

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Each measures every way once.
    pub rounds: usize,
    /// How long values are written at each rate.
    pub each: Duration,
    /// How long the broker is away.
    pub away: Duration,
}

/// Everything that was measured of one way.
#[derive(Default)]
struct Measured {
    steady: [Vec<Run>; RATES.len()],
    away: Vec<Run>,
    crashed: Vec<Run>,
}

/// Measures everything and prints three tables.
///
/// # Errors
/// Something is not installed, or a part does not come up.
pub fn run(plan: &Plan) -> Result<()> {
    let missing = NEEDED.iter().filter(|(file, _)| !Path::new(file).exists());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        bail!(
            "run `tools/setup.sh peers`, or install {}",
            packages.join(" ")
        );
    }
    let mut all: Vec<Measured> = Kind::ALL.iter().map(|_| Measured::default()).collect();
    for _ in 0..plan.rounds {
        for (kind, measured) in Kind::ALL.into_iter().zip(&mut all) {
            round(kind, measured, plan).with_context(|| kind.name())?;
        }
    }
    print(&all);
    Ok(())
}

fn round(kind: Kind, measured: &mut Measured, plan: &Plan) -> Result<()> {
    for (rate, runs) in RATES.into_iter().zip(&mut measured.steady) {
        let scratch = Scratch::new()?;
        let mut way = Way::start(kind, scratch.path())?;
        runs.push(steady(&mut way, rate, plan.each)?);
    }
    let scratch = Scratch::new()?;
    let mut way = Way::start(kind, scratch.path())?;
    measured
        .away
        .push(away(&mut way, RATES[0], plan.away, false)?);
    let scratch = Scratch::new()?;
    let mut way = Way::start(kind, scratch.path())?;
    measured
        .crashed
        .push(away(&mut way, RATES[0], plan.away, true)?);
    Ok(())
}

fn print(all: &[Measured]) {
    let head =
        "| way | values/s | written | arrived | torn | p50 ms | p99 ms | CPU us a value | MB |";
    println!("{head}\n|{}", " --- |".repeat(9));
    for (at, rate) in RATES.into_iter().enumerate() {
        for (kind, measured) in Kind::ALL.into_iter().zip(all) {
            print_steady(kind, rate, &Run::sum(&measured.steady[at]));
        }
    }
    type Of = fn(&Measured) -> &[Run];
    let tables: [(&str, Of); 2] = [
        ("the broker away", |m| &m.away),
        (
            "the broker away, and what works between killed meanwhile",
            |m| &m.crashed,
        ),
    ];
    for (title, of) in tables {
        let columns = "written | the writer was told no | arrived | lost though told yes | twice | all there after s";
        println!("\n| {title} | {columns} |\n|{}", " --- |".repeat(7));
        for (kind, measured) in Kind::ALL.into_iter().zip(all) {
            print_away(kind, &Run::sum(of(measured)));
        }
    }
}

fn print_steady(kind: Kind, rate: u32, run: &Run) {
    let (p50, p99) = run.latency_ms();
    println!(
        "| {} | {rate} | {} | {} | {} | {p50:.1} | {p99:.1} | {:.0} | {:.0} |",
        kind.name(),
        run.written,
        run.arrived,
        run.torn,
        run.cpu_us(),
        run.rss_mb,
    );
}

fn print_away(kind: Kind, run: &Run) {
    println!(
        "| {} | {} | {} | {} | {} | {} | {:.1} |",
        kind.name(),
        run.written,
        run.refused,
        run.arrived,
        run.lost,
        run.twice,
        run.settled_s,
    );
}
