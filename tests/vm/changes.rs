//! What an operator does to a running VM's surroundings, while the VM stores all the time: its descriptor
//! changes in the domain's metadata, libvirtd goes away. No row is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use vmkpi_tests::lab::{DOMAIN, Lab};
use vmkpi_tests::prometheus::check;

use super::{PLAIN, cpu_time, highest, kpi, value};

/// A descriptor whose specifier of the rows is called `id`.
fn descriptor(id: &str) -> String {
    format!(
        "<monitoring vm='shop' primary_site='acme'>\
         <monitor id='{id}' point='unencrypted/*'/>\
         <monitor id='infra' point='infra/*' interval_ms='500'/></monitoring>"
    )
}

/// Whether the VM's descriptor is in force (1) or refused (0), or there is none.
fn valid(page: &str) -> Option<f64> {
    value(page, "vmkpi_descriptor_valid", "")
}

/// A number of the daemon itself.
fn own(page: &str, metric: &str) -> Option<f64> {
    let of = |line: &str| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok();
    page.lines().find_map(of)
}

/// The rows of each specifier, by number, each once.
fn by_specifier(lines: &[Value]) -> Result<BTreeMap<String, BTreeSet<u64>>> {
    let mut rows: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for line in lines.iter().filter(|l| l["point"] == PLAIN) {
        let id = line["specifier"]
            .as_str()
            .with_context(|| line.to_string())?;
        // A gap, shown by the watcher, has no number.
        let seq = line["seq"].as_u64().with_context(|| line.to_string())?;
        let new = rows.entry(id.to_owned()).or_default().insert(seq);
        ensure!(new, "twice by {id}: {line}");
    }
    Ok(rows)
}

/// Every row that arrived, by whichever specifier.
fn rows(lines: &[Value]) -> BTreeSet<u64> {
    let lines = lines.iter().filter(|l| l["point"] == PLAIN);
    lines.filter_map(|l| l["seq"].as_u64()).collect()
}

/// Changes the descriptor to and fro until a change was in force before all domains were looked at
/// again: then it was an event that told. Says how long that took.
fn by_an_event(lab: &Lab, id: &str) -> Result<Duration> {
    const LOOKED: &str = "vmkpi_libvirt_reconciled_timestamp_seconds";
    let broken = descriptor(id).replace("unencrypted/*", "nowhere");
    for n in 0..8 {
        let (text, is_valid) = match n % 2 {
            0 => (broken.clone(), 0.0),
            _ => (descriptor(id), 1.0),
        };
        let before = own(&lab.scrape()?, LOOKED);
        lab.describe(Some(&text))?;
        let set = Instant::now();
        let page = lab.wait_for_page("the change", |page| valid(page) == Some(is_valid))?;
        let took = set.elapsed();
        if own(&page, LOOKED) == before {
            lab.describe(Some(&descriptor(id)))?;
            lab.wait_for_page("it in force", |page| valid(page) == Some(1.0))?;
            return Ok(took);
        }
    }
    bail!(
        "no change was seen but when everything was looked at\n{}",
        lab.words()
    );
}

#[test]
fn metadata_that_virsh_changes_is_taken_over_at_once_and_no_row_is_lost() -> Result<()> {
    let Some(lab) = Lab::start()? else {
        return Ok(());
    };
    let shown = |lines: &[Value], id: &str| {
        by_specifier(lines).is_ok_and(|rows| rows.get(id).is_some_and(|rows| rows.len() > 5))
    };
    lab.wait_for_lines("rows", |lines| shown(lines, "every-row"))?;
    // Changed.
    lab.describe(Some(&descriptor("second")))?;
    lab.wait_for_lines("rows of the second", |lines| shown(lines, "second"))?;
    // Invalid: the one before stays in force.
    let took = by_an_event(&lab, "second")?;
    ensure!(took < Duration::from_secs(2), "{took:?}");
    lab.describe(Some("<monitoring vm='shop'/>"))?;
    lab.wait_for_page("the refusal", |page| valid(page) == Some(0.0))?;
    let before = highest(&lab.lines()?);
    lab.wait_for_lines("rows by the one before", |lines| {
        highest(lines) > before + 20
    })?;
    // Removed: nobody asks for rows, and the guest keeps them.
    lab.describe(None)?;
    lab.wait_for_page("none in force", |page| valid(page).is_none())?;
    let before = lab.stored();
    lab.wait_for_word("the guest to go on", || {
        (lab.stored() > before + 20).then_some(())
    })?;
    // Set.
    lab.describe(Some(&descriptor("third")))?;
    lab.wait_for_lines("rows of the third", |lines| shown(lines, "third"))?;
    let stored = lab.stop_storing()?;
    let all: BTreeSet<u64> = (1..=stored).collect();
    let lines = lab.wait_for_lines("every row", |lines| rows(lines).is_superset(&all))?;
    ensure!(rows(&lines) == all, "more than was stored");
    let of = by_specifier(&lines)?;
    ensure!(
        of.keys().eq(["every-row", "second", "third"].iter()),
        "{:?}",
        of.keys()
    );
    for (id, rows) in &of {
        let (first, last) = (rows.first().context("none")?, rows.last().context("none")?);
        ensure!(
            rows.iter().copied().eq(*first..=*last),
            "{id} has a hole: {rows:?}"
        );
    }
    Ok(())
}

/// Waits until libvirtd is there and everything as it was; the page says how often it was connected.
fn back(lab: &Lab, connects: f64) -> Result<()> {
    lab.wait_for_word("libvirtd", || lab.hypervisor.virsh(&["version"]).ok())?;
    let begin = Instant::now();
    lab.wait_for_page("everything again", |page| {
        own(page, "libvirt_up") == Some(1.0)
            && cpu_time(page).is_some()
            && own(page, "vmkpi_libvirt_connects_total") > Some(connects)
    })?;
    ensure!(
        begin.elapsed() < Duration::from_secs(30),
        "{:?}",
        begin.elapsed()
    );
    // Events are registered anew as well.
    by_an_event(lab, "again").map(drop)
}

#[test]
fn libvirtd_goes_away_and_is_restarted_and_no_row_is_lost() -> Result<()> {
    let Some(lab) = Lab::start()? else {
        return Ok(());
    };
    lab.describe(Some(&descriptor("again")))?;
    let connects = "vmkpi_libvirt_connects_total";
    let page = lab.wait_for_page("the VM on /metrics", |page| {
        cpu_time(page) > Some(0.0) && kpi(page) > Some(0.0)
    })?;
    // Killed, and away for longer than figures are shown.
    let before = own(&page, connects).context("connects")?;
    lab.hypervisor.hold_libvirtd(true)?;
    lab.hypervisor.kill_libvirtd()?;
    lab.wait_for_page("it is seen", |page| own(page, "libvirt_up") == Some(0.0))?;
    // Each has an age of its own.
    let of_vm = format!("libvirt_domain_info_vstate{{domain=\"{DOMAIN}\"");
    let away = lab.wait_for_page("old figures to go", |page| {
        cpu_time(page).is_none() && !page.contains(&of_vm)
    })?;
    check(&away)?;
    // The rows need no libvirt.
    let now = highest(&lab.lines()?);
    lab.wait_for_lines("rows go on", |lines| highest(lines) > now + 20)?;
    lab.wait_for_page("KPIs move", |page| kpi(page) > kpi(&away))?;
    lab.hypervisor.hold_libvirtd(false)?;
    back(&lab, before)?;
    // Restarted in order.
    let before = own(&lab.scrape()?, connects).context("connects")?;
    lab.hypervisor.restart_libvirtd()?;
    lab.wait_for_page("another connection", |page| {
        own(page, connects) > Some(before)
    })?;
    back(&lab, before)?;
    let stored = lab.stop_storing()?;
    let all: BTreeSet<u64> = (1..=stored).collect();
    let lines = lab.wait_for_lines("every row", |lines| rows(lines).is_superset(&all))?;
    ensure!(rows(&lines) == all, "more than was stored");
    by_specifier(&lines).map(drop)
}
