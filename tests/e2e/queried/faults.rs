//! Hosts that are killed, guests that hang, and two hosts that hear the same question.

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use vmkpi_tests::asking::{POINT, Site};
use vmkpi_tests::chain::{DOMAIN, lines_of};
use vmkpi_tests::process::Process;
use vmkpi_tests::programs::{HostPlace, start_host};
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

use super::numbers;

const ROWS: u64 = 6000;

/// Asks for everything, and stops the guest when some of it has come and some has not.
fn interrupted(site: &Site, timeout: &str) -> Result<Process> {
    for attempt in 0..20 {
        let name = format!("asker-{attempt}");
        let mut asker = site.begin(&name, POINT, &[timeout])?;
        let shown = || lines_of(&asker.out).map_or(0, |lines| lines.len());
        wait_for(60, "the answer to begin", || (shown() > 0).then_some(()))
            .with_context(|| format!("{}\n{}", asker.words(), site.chain.words()))?;
        site.chain.guest.signal(Signal::STOP)?;
        // What was on its way comes; then nothing does.
        let mut before = 0;
        wait_for(60, "the answer to stand still", || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            let now = shown();
            (std::mem::replace(&mut before, now) == now).then_some(())
        })?;
        if shown() < ROWS as usize && asker.runs() {
            return Ok(asker);
        }
        site.chain.guest.signal(Signal::CONT)?;
        asker.wait(60)?;
    }
    anyhow::bail!("the answer was always too fast")
}

#[test]
fn a_host_that_is_killed_in_the_middle_of_an_answer_costs_no_row() -> Result<()> {
    let mut site = Site::start(&[])?;
    site.store(POINT, 1..=ROWS)?;
    let mut asker = interrupted(&site, "--timeout=120")?;
    site.chain.kill_host()?;
    site.chain.guest.signal(Signal::CONT)?;
    let status = asker.wait(120).with_context(|| site.chain.words())?;
    ensure!(status.success(), "{}", asker.words());
    let shown = lines_of(&asker.out)?;
    ensure!(
        numbers(&shown) == (1..=ROWS).collect::<Vec<_>>(),
        "{}",
        shown.len()
    );
    Ok(())
}

#[test]
fn a_host_that_does_not_come_back_and_a_guest_that_hangs_are_told() -> Result<()> {
    let mut site = Site::start(&[])?;
    site.store(POINT, 1..=ROWS)?;
    let mut asker = interrupted(&site, "--timeout=25")?;
    let status = asker.wait(60)?;
    ensure!(status.code() == Some(1), "{status}");
    let said = asker.words();
    ensure!(said.contains("what was shown is not all"), "{said}");
    let hangs = ["does not answer its host", "cannot be reached by its host"];
    ensure!(hangs.iter().any(|text| said.contains(text)), "{said}");
    site.chain.guest.signal(Signal::CONT)?;
    wait_for(60, "the guest to answer again", || {
        (site.rows(POINT, &["--limit=1"]).ok()?.len() == 1).then_some(())
    })?;
    let mut asker = interrupted(&site, "--timeout=4")?;
    site.chain.host.kill()?;
    let status = asker.wait(60)?;
    let said = asker.words();
    ensure!(status.code() == Some(1), "{status}");
    ensure!(said.contains("what was shown is not all"), "{said}");
    ensure!(said.contains("no host follows a VM of that name"), "{said}");
    site.chain.guest.signal(Signal::CONT)
}

/// As while a VM migrates: both follow it, and one of them has its link.
#[test]
fn of_two_hosts_that_hear_it_the_one_with_the_link_answers() -> Result<()> {
    let site = Site::start(&[])?;
    site.store(POINT, 1..=ROWS)?;
    let other = Scratch::new()?;
    let descriptor = other.path().join("descriptor.toml");
    std::fs::write(&descriptor, site.keys.descriptor(&site.keys.consumer))?;
    let sign = site.keys.file("site/sign.key.pem");
    let options = [format!("--sign.key-file={}", sign.display())];
    let metrics = free_address()?;
    let place = HostPlace {
        folder: other.path(),
        libvirt: "test:///default".to_owned(),
        broker: site.chain.broker.url(),
        metrics,
        vms: vec![(DOMAIN.to_owned(), other.path().to_owned())],
        options: &options,
        environment: &[],
    };
    let _second = start_host(&place)?;
    let asked = |reason: &str| -> Option<f64> {
        let page = vmkpi_tests::chain::http_get(metrics, "/metrics").ok()?;
        let line = page
            .lines()
            .find_map(|l| l.strip_prefix(reason)?.strip_prefix(' '));
        line?.parse().ok()
    };
    wait_for(30, "the second host to listen", || {
        (asked("vmkpi_confirmations_connected")? > 0.0).then_some(())
    })?;
    for _ in 0..3 {
        let rows = site.rows(POINT, &[])?;
        ensure!(
            numbers(&rows) == (1..=ROWS).collect::<Vec<_>>(),
            "{}",
            rows.len()
        );
    }
    ensure!(
        asked("vmkpi_queries_total").context("a page")? >= 1.0,
        "it heard nothing"
    );
    ensure!(
        asked("vmkpi_query_rows_total") == Some(0.0),
        "it has no guest"
    );
    Ok(())
}
