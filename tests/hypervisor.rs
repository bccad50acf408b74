//! Statistics of real QEMUs below a real libvirtd, some of which do not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use vmkpi_tests::lab::PATIENCE;
use vmkpi_tests::lab::herd::{Herd, age, has_taps, series};
use vmkpi_tests::lab::migration::{MIGRANT, SECONDS, Source};
use vmkpi_tests::process::Process;
use vmkpi_tests::wait_for;

const VMS: [&str; 6] = ["vm0", "vm1", "vm2", "vm3", "vm4", "vm5"];
const TAKEN: &str = "vmkpi_domain_stats_timestamp_seconds";
const APART: &str = "vmkpi_domain_unresponsive";
const CPU: &str = "libvirt_domain_info_cpu_time_seconds_total";
const STATE: &str = "libvirt_domain_info_vstate";
/// What is asked for, and what must hold: figures are at most two intervals old.
const INTERVAL_MS: u64 = 2000;
const OLDEST: Duration = Duration::from_millis(2 * INTERVAL_MS);

fn all_there(page: &str) -> bool {
    VMS.iter()
        .all(|vm| series(page, CPU, vm).is_some() && series(page, STATE, vm) == Some(1.0))
}

/// The greatest age of anybody's figures but `without`'s, over `time`.
fn oldest_over(herd: &Herd, time: Duration, without: &str) -> Result<Duration> {
    let (begin, mut oldest) = (Instant::now(), Duration::ZERO);
    while begin.elapsed() < time {
        let page = herd.scrape()?;
        for vm in VMS.iter().filter(|vm| **vm != without) {
            let age = age(&page, TAKEN, vm).with_context(|| format!("no figures of {vm}"))?;
            oldest = oldest.max(age);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(oldest)
}

#[test]
fn a_vm_whose_qemu_is_stopped_costs_only_its_own_figures() -> Result<()> {
    let Some(herd) = Herd::start(VMS.len(), INTERVAL_MS)? else {
        return Ok(());
    };
    herd.wait_for_page("figures of all", all_there)?;
    herd.signal("vm2", Signal::STOP)?;
    let stopped = oldest_over(&herd, Duration::from_secs(25), "vm2")?;
    ensure!(stopped <= OLDEST, "{stopped:?} old\n{}", herd.words());
    let page = herd.scrape()?;
    ensure!(series(&page, APART, "vm2") == Some(1.0), "not set apart");
    ensure!(
        series(&page, CPU, "vm2").is_none(),
        "a stale number is shown as new"
    );
    ensure!(
        series(&page, STATE, "vm2") == Some(1.0),
        "libvirt knows its state itself"
    );
    let stuck = page
        .lines()
        .find_map(|l| l.strip_prefix("vmkpi_libvirt_stats_calls_stuck "));
    let stuck: usize = stuck.context("how many calls hang")?.parse()?;
    ensure!((1..=2).contains(&stuck), "{stuck} calls hang");
    // What libvirt knows itself goes on being measured, too.
    let state = |l: &Value| l["vm"] == "vm2" && l["point"] == "infra/state";
    let count = |lines: &[Value]| lines.iter().filter(|l| state(l)).count();
    let before = count(&herd.lines()?);
    herd.wait_for_lines("its state", |lines| count(lines) > before + 1)?;

    herd.signal("vm2", Signal::CONT)?;
    let went_on = Instant::now();
    herd.wait_for_page("it is asked with the others again", |page| {
        series(page, APART, "vm2") == Some(0.0) && all_there(page)
    })?;
    ensure!(
        went_on.elapsed() < Duration::from_secs(20),
        "{:?}",
        went_on.elapsed()
    );
    let oldest = oldest_over(&herd, Duration::from_secs(6), "")?;
    ensure!(oldest <= OLDEST, "{oldest:?} old");
    Ok(())
}

#[test]
fn after_libvirtd_was_restarted_everything_is_followed_again() -> Result<()> {
    let Some(herd) = Herd::start(VMS.len(), INTERVAL_MS)? else {
        return Ok(());
    };
    herd.wait_for_page("figures of all", all_there)?;
    herd.hypervisor.kill_libvirtd()?;
    herd.wait_for_page("it is seen", |page| page.contains("\nlibvirt_up 0\n"))?;
    wait_for(PATIENCE, "libvirtd to be back", || {
        herd.hypervisor.virsh(&["version"]).ok()
    })?;
    let back = Instant::now();
    herd.wait_for_page("figures of all", |page| {
        let fresh = |vm: &&str| age(page, TAKEN, vm).is_some_and(|age| age <= OLDEST);
        page.contains("\nlibvirt_up 1\n") && VMS.iter().all(fresh)
    })?;
    ensure!(
        back.elapsed() < Duration::from_secs(30),
        "{:?}",
        back.elapsed()
    );
    // Events come again: a change is seen long before the next time everything is looked at.
    for _ in 0..3 {
        let paused = Instant::now();
        herd.hypervisor.virsh(&["suspend", "vm1"])?;
        herd.wait_for_page("it is paused", |page| {
            series(page, STATE, "vm1") == Some(3.0)
        })?;
        ensure!(
            paused.elapsed() < Duration::from_secs(8),
            "{:?}",
            paused.elapsed()
        );
        herd.hypervisor.virsh(&["resume", "vm1"])?;
    }
    Ok(())
}

/// libvirt's word for what happens at the destination: until the VM has arrived, its job is taken.
#[test]
fn a_vm_locked_by_a_migration_costs_only_its_own_figures() -> Result<()> {
    let Some(herd) = Herd::start(VMS.len(), INTERVAL_MS)? else {
        return Ok(());
    };
    let source = Source::start(herd.folder())?;
    herd.wait_for_page("figures of all", all_there)?;
    let mut migration = source.migrate_to(&herd.hypervisor.uri())?;
    herd.wait_for_page("the VM that arrives", |page| {
        series(page, APART, MIGRANT) == Some(1.0)
    })?;
    // Whoever asks as the neighbours do is held up.
    let (virsh, uri) = (Path::new("/usr/bin/virsh"), herd.hypervisor.uri());
    let ask = ["--connect", &uri, "domstats", "--balloon", MIGRANT];
    let mut held_up = Process::start(herd.folder(), "ask", virsh, ask)?;
    let while_locked = Duration::from_secs(SECONDS / 2);
    let oldest = oldest_over(&herd, while_locked, MIGRANT)?;
    let page = herd.scrape()?;
    ensure!(
        migration.runs() && held_up.runs(),
        "nothing was locked: {}{}",
        migration.words(),
        held_up.words()
    );
    ensure!(oldest <= OLDEST, "{oldest:?} old\n{}", herd.words());
    ensure!(
        series(&page, STATE, MIGRANT).is_some() && series(&page, CPU, MIGRANT).is_none(),
        "what libvirt knows itself, and no more"
    );
    ensure!(migration.wait(PATIENCE)?.success(), "{}", migration.words());
    held_up.wait(PATIENCE)?;
    let arrived = Instant::now();
    herd.wait_for_page("its figures", |page| {
        series(page, APART, MIGRANT) == Some(0.0) && series(page, CPU, MIGRANT).is_some()
    })?;
    ensure!(
        arrived.elapsed() < Duration::from_secs(30),
        "{:?}",
        arrived.elapsed()
    );
    let oldest = oldest_over(&herd, 2 * OLDEST, "")?;
    ensure!(oldest <= OLDEST, "{oldest:?} old");
    Ok(())
}

#[test]
fn the_disk_error_that_pauses_a_vm_is_shown_while_it_does() -> Result<()> {
    const ERROR: &str = "libvirt_domain_block_stats_error";
    let Some(herd) = Herd::start(2, INTERVAL_MS)? else {
        return Ok(());
    };
    herd.wait_for_page("figures of both", |page| {
        ["vm0", "vm1"]
            .iter()
            .all(|vm| series(page, CPU, vm).is_some())
    })?;
    ensure!(!herd.scrape()?.contains(ERROR), "an error of nobody's");
    let pid = herd.hypervisor.qemu("vm0").context("no QEMU")?;
    let reads = "pread64,preadv,preadv2";
    let arguments = [
        "-f".to_owned(),
        format!("--attach={}", pid.as_raw_nonzero()),
        format!("--trace={reads}"),
        format!("--inject={reads}:error=EIO"),
    ];
    let strace = Process::start(
        herd.folder(),
        "strace",
        Path::new("/usr/bin/strace"),
        arguments,
    )?;
    wait_for(PATIENCE, "strace to attach", || {
        strace.words().contains("attached").then_some(())
    })?;
    // The BIOS reads the disk again, and the disk's error policy is to stop.
    herd.hypervisor.virsh(&["reset", "vm0"])?;
    let page = herd.wait_for_page("the error", |page| series(page, ERROR, "vm0").is_some())?;
    ensure!(
        series(&page, ERROR, "vm0") == Some(1.0) && series(&page, ERROR, "vm1").is_none(),
        "{page}"
    );
    ensure!(series(&page, CPU, "vm0").is_some(), "paused is not hung");
    drop(strace);
    herd.hypervisor.virsh(&["resume", "vm0"])?;
    herd.wait_for_page("the error to go", |page| {
        !page.contains(ERROR) && series(page, STATE, "vm0") == Some(1.0)
    })?;
    Ok(())
}

/// What two neighbours show of such VMs, by their own pages.
const NEIGHBOURS: [&str; 2] = [
    include_str!("../host/tests/neighbours/prometheus-libvirt-exporter-0.2.0.txt"),
    include_str!("../host/tests/neighbours/collectd-virt-5.12.txt"),
];

/// The metrics that stand for a neighbour's series, by the table in the documentation.
fn counterparts(name: &str) -> Result<Vec<String>> {
    let docs = include_str!("../docs/METRICS.md");
    let row = |line: &&str| line.starts_with("| `") && line.contains(&format!("`{name}`"));
    let Some(row) = docs.lines().find(row) else {
        return Ok(vec![name.to_owned()]);
    };
    let (_, ours) = row.trim_matches('|').split_once(" | ").context(row)?;
    let quoted = ours.split('`').skip(1).step_by(2);
    Ok(quoted
        .filter(|t| t.contains('_'))
        .map(str::to_owned)
        .collect())
}

#[test]
fn what_the_neighbours_show_of_a_real_vm_has_a_counterpart_on_the_page() -> Result<()> {
    let Some(herd) = Herd::start(1, INTERVAL_MS)? else {
        return Ok(());
    };
    let page = herd.wait_for_page("figures", |page| {
        series(page, CPU, "vm0").is_some() && series(page, STATE, "vm0").is_some()
    })?;
    let mut checked = 0;
    for text in NEIGHBOURS {
        // The rest is of guests with drivers, failing disks and the like.
        let (seen, _) = text.split_once("# Of a guest").unwrap_or((text, ""));
        let (plain, interface) = seen.split_once("# Of a VM with").context("two parts")?;
        let names = plain
            .lines()
            .chain(interface.lines().skip(1).filter(|_| has_taps()));
        for name in names.filter(|line| !line.starts_with('#')) {
            for metric in counterparts(name)? {
                let on_page = page.lines().any(|l| {
                    let rest = l.strip_prefix(&metric);
                    rest.is_some_and(|r| r.starts_with(" ") || r.starts_with("{domain=\"vm0\""))
                });
                ensure!(on_page, "{name}: {metric} is missing\n{page}");
                checked += 1;
            }
        }
    }
    ensure!(checked > 25, "only {checked}");
    Ok(())
}

/// Rows of each stream and point, in the order they were shown: (stream, point) to numbers.
fn by_stream(lines: &[Value]) -> BTreeMap<(String, String), Vec<u64>> {
    let mut streams: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for line in lines {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        if let Some(seq) = line["seq"].as_u64().filter(|_| line["vm"] == "vm0") {
            streams
                .entry((text("stream"), text("point")))
                .or_default()
                .push(seq);
        }
    }
    streams
}

#[test]
fn measurements_survive_a_host_that_is_killed_while_the_broker_is_away() -> Result<()> {
    let Some(mut herd) = Herd::start(1, 500)? else {
        return Ok(());
    };
    let shown = |lines: &[Value]| by_stream(lines).values().any(|seqs| seqs.len() > 3);
    let before = by_stream(&herd.wait_for_lines("measurements", shown)?);
    let streams = |all: &BTreeMap<(String, String), Vec<u64>>| {
        all.keys()
            .map(|(stream, _)| stream.clone())
            .collect::<BTreeSet<_>>()
    };
    ensure!(streams(&before).len() == 1, "{before:?}");
    herd.broker.process().signal(Signal::STOP)?;
    // Twice: what the first daemon left, the second has to leave to the third.
    for least in [20.0, 40.0] {
        herd.wait_for_page("measurements on disk", |page| {
            series(page, "vmkpi_outbox_batches", "vm0").is_some_and(|kept| kept > least)
        })?;
        herd.kill_host()?;
        herd.start_host()?;
    }
    // The VM leaves: nobody but the outbox knows what was measured.
    herd.wait_for_page("measurements of the third", |page| {
        series(page, "vmkpi_outbox_streams", "vm0") == Some(3.0)
            && series(page, "vmkpi_outbox_batches", "vm0").is_some_and(|kept| kept > 60.0)
    })?;
    herd.hypervisor.virsh(&["destroy", "vm0"])?;
    herd.kill_host()?;
    let kept = kept_in(&herd.folder().join("host/outbox.db"))?;
    ensure!(kept.len() == 3, "{kept:?}");
    herd.start_host()?;
    herd.broker.process().signal(Signal::CONT)?;
    wait_for(PATIENCE, "everything to be delivered", || {
        kept_in(&herd.folder().join("host/outbox.db"))
            .ok()
            .filter(BTreeMap::is_empty)
    })
    .with_context(|| herd.words())?;
    let all = by_stream(&herd.lines()?);
    ensure!(
        streams(&all) == kept.keys().cloned().collect(),
        "{:?}",
        streams(&all)
    );
    for ((stream, point), seqs) in &all {
        let whole = (1..=seqs.len() as u64).collect::<Vec<_>>();
        ensure!(*seqs == whole, "{stream} {point}: {seqs:?}");
        ensure!(seqs.len() > 3, "{stream} {point}: {seqs:?}");
    }
    // A batch is of infra/state or of infra/cpu, among others.
    let shown = |point: &str| {
        all.iter()
            .filter(|((_, p), _)| p == point)
            .map(|(_, s)| s.len())
            .sum::<usize>()
    };
    let (batches, shown) = (
        kept.values().sum::<u64>(),
        shown("infra/state") + shown("infra/cpu"),
    );
    ensure!(
        shown as u64 >= batches,
        "{batches} batches kept, {shown} shown"
    );
    Ok(())
}

/// The streams in an outbox and how many batches each has.
fn kept_in(database: &Path) -> Result<BTreeMap<String, u64>> {
    let script = "import json,sqlite3,sys\n\
        c=sqlite3.connect('file:'+sys.argv[1]+'?mode=ro',uri=True)\n\
        q='SELECT stream, (SELECT count(*) FROM batch WHERE lane = id) FROM stream'\n\
        print(json.dumps(dict(c.execute(q))))";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(database)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}
