//! A real virtual machine: the programs on a stock kernel with its FUSE and its virtio-serial port, below
//! a real libvirtd. Both ends find the link by themselves and the VM is described by its metadata.

#[path = "vm/changes.rs"]
mod changes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use vmkpi::value::Base64Bytes;
use vmkpi_tests::lab::{DOMAIN, Lab};
use vmkpi_tests::process::vmkpi;
use vmkpi_tests::prometheus::check;
use vmkpi_tests::wait_for;

const PLAIN: &str = "unencrypted/load";
const OPAQUE: &str = "encrypted/load";

/// The samples of `point`, by `_seq`; each once.
fn samples<'a>(lines: &'a [Value], point: &str) -> Result<BTreeMap<u64, &'a Value>> {
    let mut samples = BTreeMap::new();
    for line in lines.iter().filter(|l| l["point"] == *point) {
        ensure!(line["site"] == "acme" && line["vm"] == "shop", "{line}");
        // A gap, shown by the watcher, has none.
        let seq = line["seq"].as_u64().with_context(|| line.to_string())?;
        ensure!(samples.insert(seq, line).is_none(), "twice: {line}");
    }
    Ok(samples)
}

/// Everything that the guest stored arrived once, as it was stored, in one stream for each point.
fn judge(lines: &[Value], stored: u64) -> Result<()> {
    for point in [PLAIN, OPAQUE] {
        let samples = samples(lines, point)?;
        let seqs: Vec<u64> = samples.keys().copied().collect();
        ensure!(
            seqs == (1..=stored).collect::<Vec<_>>(),
            "{point}: {seqs:?}, stored {stored}"
        );
        for (n, line) in samples {
            let bytes = [&[1, 255], format!("{n:>30000}").as_bytes()].concat();
            let (key, expected) = match point {
                PLAIN => (
                    "values",
                    json!({"n": n, "half": n as f64 + 0.5, "word": format!("w{n}")}),
                ),
                _ => ("data_base64", serde_json::to_value(Base64Bytes(bytes))?),
            };
            ensure!(line[key] == expected, "{point} {n}: not as it was stored");
        }
    }
    Ok(())
}

fn highest(lines: &[Value]) -> u64 {
    let plain = lines.iter().filter(|l| l["point"] == PLAIN);
    plain.filter_map(|l| l["seq"].as_u64()).max().unwrap_or(0)
}

/// Whether a column of the point has had two values.
fn moves(lines: &[Value], point: &str, column: &str) -> bool {
    let lines = lines.iter().filter(|l| l["point"] == *point);
    let mut values = lines.filter_map(|l| l["values"][column].as_f64());
    let first = values.next();
    first.is_some_and(|first| values.any(|value| value > first))
}

#[test]
fn every_row_of_a_real_vm_arrives_once_though_its_host_is_killed() -> Result<()> {
    let Some(mut lab) = Lab::start()? else {
        return Ok(());
    };
    for _ in 0..5 {
        let before = highest(&lab.lines()?);
        lab.wait_for_lines("more rows", |lines| highest(lines) > before + 5)?;
        lab.kill_host()?;
    }
    let stored = lab.stop_storing()?;
    ensure!(stored > 50, "only {stored} stores; nothing was tested");
    let all = |lines: &[Value], point| {
        samples(lines, point).is_ok_and(|samples| samples.len() as u64 >= stored)
    };
    lab.wait_for_lines("every row", |lines| all(lines, PLAIN) && all(lines, OPAQUE))?;
    // What would come twice comes soon after; infrastructure goes on, so it shows that time passes.
    let beats = |lines: &[Value]| lines.iter().filter(|l| l["point"] == "infra/cpu").count();
    let now = beats(&lab.lines()?);
    let lines = lab.wait_for_lines("more measurements", |lines| beats(lines) > now + 5)?;
    judge(&lines, stored).with_context(|| lab.words())?;
    ensure!(lab.host.runs(), "{}", lab.words());
    Ok(())
}

#[test]
fn a_vm_whose_power_fails_wakes_up_with_every_row_that_it_had_confirmed() -> Result<()> {
    let Some(lab) = Lab::start()? else {
        return Ok(());
    };
    for rows in [31, 17] {
        let before = lab.stored();
        lab.wait_for_word("the guest to store more", || {
            (lab.stored() > before + rows).then_some(())
        })?;
        let confirmed = lab.cut_power()?;
        let woke = lab.wait_for_word("what the guest finds", || lab.said("woke at "))?;
        let woke: u64 = woke.parse()?;
        // At most the one that was under way is more.
        ensure!(
            (confirmed..=confirmed + 1).contains(&woke),
            "confirmed {confirmed}, found {woke}\n{}",
            lab.words()
        );
    }
    let before = lab.stored();
    lab.wait_for_word("the guest to go on", || {
        (lab.stored() > before + 10).then_some(())
    })?;
    let stored = lab.stop_storing()?;
    let all = |lines: &[Value], point| {
        samples(lines, point).is_ok_and(|samples| samples.len() as u64 >= stored)
    };
    let lines = lab.wait_for_lines("every row", |lines| all(lines, PLAIN) && all(lines, OPAQUE))?;
    judge(&lines, stored).with_context(|| lab.words())
}

#[test]
fn the_hypervisor_s_view_of_a_real_vm_is_measured_and_moves() -> Result<()> {
    let Some(lab) = Lab::start()? else {
        return Ok(());
    };
    let columns = [
        ("infra/cpu", "cpu_time_seconds_total"),
        ("infra/vcpu/0", "vcpu_time_seconds_total"),
        ("infra/block/vda", "block_read_requests_total"),
    ];
    lab.wait_for_lines("processor and disk to move", |lines| {
        columns
            .iter()
            .all(|(point, column)| moves(lines, point, column))
    })?;
    // From the balloon driver in the guest, so its module and libvirt's polling both work.
    let memory = |lines: &[Value]| {
        let columns = [
            "memory_rss_bytes",
            "memory_available_bytes",
            "memory_unused_bytes",
        ];
        let mut lines = lines.iter().filter(|l| l["point"] == "infra/memory");
        lines.any(|l| {
            columns
                .iter()
                .all(|c| l["values"][c].as_u64() > Some(1 << 20))
        })
    };
    lab.wait_for_lines("the guest's memory", memory)?;
    Ok(())
}

/// The value of the VM's series of `metric`.
fn value(page: &str, metric: &str, label: &str) -> Option<f64> {
    let start = format!("{metric}{{domain=\"{DOMAIN}\"");
    let line = page
        .lines()
        .find(|l| l.starts_with(&start) && l.contains(label))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn cpu_time(page: &str) -> Option<f64> {
    value(page, "libvirt_domain_info_cpu_time_seconds_total", "")
}

fn kpi(page: &str) -> Option<f64> {
    value(
        page,
        "vmkpi_kpi_value",
        "point=\"unencrypted/load\",column=\"n\"",
    )
}

#[test]
fn a_real_vm_on_metrics_may_hang_recovers_and_leaves() -> Result<()> {
    let Some(mut lab) = Lab::start()? else {
        return Ok(());
    };
    let page = lab.wait_for_page("the VM on /metrics", |page| {
        cpu_time(page) > Some(0.0) && kpi(page) > Some(0.0)
    })?;
    check(&page)?;
    let found = |lab: &Lab| -> Option<usize> {
        let broker = format!("--broker={}", lab.broker_url());
        let output = vmkpi(&["directory", &broker, "--producers", "--format=json"]).ok()?;
        let lines = String::from_utf8(output.stdout).ok()?;
        output.status.success().then_some(lines.lines().count())
    };
    wait_for(30, "the VM in the Directory", || {
        (found(&lab)? == 1).then_some(())
    })?;
    lab.signal_vm(Signal::STOP)?;
    let stopped = Instant::now();
    // Not a wait but the fault itself: this long the VM answers nothing, and the page all the while.
    while stopped.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        lab.scrape()?;
        ensure!(
            asked.elapsed() < Duration::from_secs(2),
            "a scrape took {:?}",
            asked.elapsed()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let hung = lab.scrape()?;
    lab.signal_vm(Signal::CONT)?;
    lab.wait_for_page("figures that move again", |page| {
        cpu_time(page) > cpu_time(&hung) && kpi(page) > kpi(&hung)
    })?;
    lab.destroy()?;
    // Taken back: the lease would last most of a minute yet.
    wait_for(20, "the VM to leave the Directory", || {
        (found(&lab)? == 0).then_some(())
    })?;
    let of_vm = format!("domain=\"{DOMAIN}\"");
    let page = lab.wait_for_page("the VM's series to leave", |page| !page.contains(&of_vm))?;
    check(&page)?;
    ensure!(
        page.contains("\nlibvirt_up 1\n") && lab.host.runs(),
        "{}",
        lab.words()
    );
    Ok(())
}
