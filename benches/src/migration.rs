//! What recontextualization adds to a live migration: the papers' measurement ("Runtime Virtual Machine
//! Recontextualization for Clouds", section 4.3) on two libvirt hosts and a guest. Migrations with it and without
//! take turns, with the same guest; what the recontextualizer itself takes, by phase, its daemon says on `/metrics`.
#![expect(clippy::print_stdout, reason = "prints its own results")]

mod chart;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use vmkpi_tests::lab::DOMAIN;
use vmkpi_tests::lab::contexts;
use vmkpi_tests::lab::host::End;
use vmkpi_tests::lab::judge::MONITORS;
use vmkpi_tests::lab::pair::{Pair, Planned};
use vmkpi_tests::lab::traveller::Plan as Guest;

use chart::{Bar, Panel};

/// The papers' phases, in order.
const PHASES: [&str; 4] = ["resolve", "detach", "prepare", "attach"];

/// Where the daemon says how long they took.
const SUMS: &str = "vmkpi_recontextualization_phase_seconds_sum";

/// What to measure.
pub struct Plan {
    /// Migrations of each kind.
    pub runs: usize,
    /// Rows a second that the guest stores meanwhile.
    pub rate: u32,
    /// Where to write the chart.
    pub chart: Option<PathBuf>,
}

/// Milliseconds of each run.
#[derive(Default)]
struct Measured {
    with: Vec<f64>,
    without: Vec<f64>,
    phases: [Vec<f64>; PHASES.len()],
    inside: Vec<f64>,
    /// What of it is not spent in calls to libvirt, which wait for the migration's end.
    own: Vec<f64>,
}

/// Mean and standard deviation of what was seen, as in the papers, and the median.
#[derive(Clone, Copy)]
struct Summary {
    mean: f64,
    deviation: f64,
    median: f64,
}

/// Measures, and prints a table.
///
/// # Errors
/// There can be no laboratory here, or a migration fails.
pub fn run(plan: &Plan) -> Result<()> {
    let Some(mut pair) = Pair::start(|folder| guest(folder, plan.rate))? else {
        bail!("two hypervisor hosts cannot be made here, see above");
    };
    let mut measured = Measured::default();
    // The first of each kind warms caches up and is left out.
    for run in 0..=plan.runs {
        let mut one = Measured::default();
        without(&mut pair, &mut one)?;
        with(&mut pair, &mut one)?;
        if run > 0 {
            measured.add(one);
        }
        eprint!("\r{run} of {}", plan.runs);
    }
    eprintln!();
    let (rows, windows) = pair.settle()?;
    print(&measured, plan);
    println!(
        "{rows} rows at {} rows/s and {windows} windows, each once and as without migrations",
        plan.rate
    );
    match &plan.chart {
        Some(file) => Ok(std::fs::write(file, chart(&measured))?),
        None => Ok(()),
    }
}

/// Every host has another context.
fn guest(folder: &Path, rate: u32) -> Result<Planned> {
    let daemons = contexts::offer_caches(folder)?;
    let guest = Guest {
        rate,
        settings: contexts::GUEST.into(),
        monitors: MONITORS.into(),
        ..Guest::default()
    };
    Ok((guest, daemons))
}

/// Both daemons anew, with recontextualization or without.
fn daemons(pair: &mut Pair, offers: bool) -> Result<()> {
    for end in End::BOTH {
        let options = match offers {
            true => contexts::options(pair.folder(), end),
            false => vec![],
        };
        let host = pair.host_mut(end);
        host.end_daemon()?;
        host.set_options(options);
        host.begin_daemon()?;
    }
    Ok(())
}

/// Rows come from where the VM is: all is quiet again.
fn rows_come(pair: &Pair) -> Result<()> {
    let before = pair.collect.count();
    pair.wait(120, "rows at the site", || {
        (pair.collect.count() > before + 100).then_some(())
    })
}

fn without(pair: &mut Pair, measured: &mut Measured) -> Result<()> {
    daemons(pair, false)?;
    let here = &pair.host(pair.at).hypervisor;
    // Empty in any case.
    here.virsh(&[
        "change-media",
        DOMAIN,
        "sda",
        "--eject",
        "--live",
        "--force",
    ])
    .ok();
    rows_come(pair)?;
    measured.without.push(ms(pair.migrate(&[])?));
    Ok(())
}

fn with(pair: &mut Pair, measured: &mut Measured) -> Result<()> {
    daemons(pair, true)?;
    pair.told()?;
    rows_come(pair)?;
    let before = pair.host(pair.at.other()).scrape()?;
    measured.with.push(ms(pair.migrate(&[])?));
    pair.told()?;
    let after = pair.host(pair.at).scrape()?;
    let mut inside = 0.0;
    for (phase, seen) in PHASES.iter().zip(&mut measured.phases) {
        let took = (sum(&after, phase)? - sum(&before, phase).unwrap_or(0.0)) * 1000.0;
        seen.push(took);
        inside += took;
    }
    measured.inside.push(inside);
    let log = std::fs::read_to_string(pair.host(pair.at).log())?;
    let waited = in_libvirt(&log).context("the daemon does not say how long libvirt took")?;
    measured.own.push(inside - waited);
    Ok(())
}

fn sum(page: &str, phase: &str) -> Result<f64> {
    let series = format!("{SUMS}{{phase=\"{phase}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&series));
    Ok(value
        .with_context(|| format!("{series} is not on the page"))?
        .parse()?)
}

/// How long the calls to libvirt took in the last recontextualization, as the daemon's log says.
fn in_libvirt(log: &str) -> Option<f64> {
    let mut lines = log
        .lines()
        .filter(|line| line.contains("VM recontextualized"));
    let said = lines.next_back()?.split(" libvirt=").nth(1)?;
    let said = said.split_whitespace().next()?;
    let units = [("ns", 1e-6), ("µs", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let read = |(unit, ms)| Some(said.strip_suffix(unit)?.parse::<f64>().ok()? * ms);
    units.into_iter().find_map(read)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

impl Measured {
    fn add(&mut self, one: Self) {
        self.with.extend(one.with);
        self.without.extend(one.without);
        self.inside.extend(one.inside);
        self.own.extend(one.own);
        for (all, of) in self.phases.iter_mut().zip(one.phases) {
            all.extend(of);
        }
    }
}

impl Summary {
    fn of(values: &[f64]) -> Self {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares = values
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>();
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            mean,
            deviation: (squares / count).sqrt(),
            median: sorted.get(sorted.len() / 2).copied().unwrap_or_default(),
        }
    }
}

/// How much more the one takes than the other, in %.
fn more(one: f64, other: f64) -> f64 {
    (one / other - 1.0) * 100.0
}

fn print(measured: &Measured, plan: &Plan) {
    let (with, without) = (Summary::of(&measured.with), Summary::of(&measured.without));
    let (inside, own) = (Summary::of(&measured.inside), Summary::of(&measured.own));
    println!(
        "| {} runs of each, in turn; ms | mean | standard deviation | median |\n| --- | --- | --- | --- |",
        plan.runs
    );
    let row = |name: &str, of: Summary| {
        println!(
            "| {name} | {:.1} | {:.1} | {:.1} |",
            of.mean, of.deviation, of.median
        );
    };
    row("migration with recontextualization", with);
    row("migration without", without);
    row("inside the recontextualizer", inside);
    for (phase, seen) in PHASES.iter().zip(&measured.phases) {
        row(&format!("of it: {phase}"), Summary::of(seen));
    }
    row("of it: not in calls to libvirt", own);
    println!(
        "\nOverhead: {:.1} % of the mean, {:.1} % of the median. Inside the recontextualizer: {:.2} % of a migration, of it not in calls to \
         libvirt {:.2} % (medians).",
        more(with.mean, without.mean),
        more(with.median, without.median),
        inside.median / with.median * 100.0,
        own.median / with.median * 100.0
    );
}

fn chart(measured: &Measured) -> String {
    let bar = |label: &str, values: &[f64]| {
        let of = Summary::of(values);
        Bar {
            label: label.to_owned(),
            value: of.mean,
            error: of.deviation,
        }
    };
    let migrations = Panel {
        title: "A live migration, ms".into(),
        bars: vec![
            bar("with recontextualization", &measured.with),
            bar("without", &measured.without),
            bar("in the recontextualizer", &measured.inside),
        ],
    };
    let phases = PHASES
        .iter()
        .zip(&measured.phases)
        .map(|(phase, seen)| bar(phase, seen));
    let phases = Panel {
        title: "In the recontextualizer, by phase, ms".into(),
        bars: phases.collect(),
    };
    chart::draw(&[migrations, phases])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_recontextualization_counts_in_any_unit() {
        let log = "INFO VM recontextualized attach=1ms libvirt=90.5ms\nINFO else libvirt=1s\n";
        assert_eq!(in_libvirt(log), Some(90.5));
        assert_eq!(in_libvirt("VM recontextualized libvirt=527µs"), Some(0.527));
        assert_eq!(in_libvirt("VM recontextualized libvirt=2s"), Some(2000.0));
        assert_eq!(in_libvirt("nothing"), None);
    }
}
