//! What may go wrong with a migration: the VM runs, at one place, and nothing is lost.

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::lab::DOMAIN;
use vmkpi_tests::lab::contexts;
use vmkpi_tests::lab::host::End;
use vmkpi_tests::lab::judge::MONITORS;
use vmkpi_tests::lab::pair::Pair;
use vmkpi_tests::lab::traveller::Plan;
use vmkpi_tests::process::Process;

/// A link so slow, in MiB/s, that a migration takes long enough for somebody to interfere.
const SLOW: [&str; 2] = ["--bandwidth", "3"];

/// Rows arrive at the site, from wherever the VM is, and the guest is told the context of that place.
fn goes_on(pair: &Pair, what: &str) -> Result<()> {
    let before = pair.collect.count();
    pair.wait(120, &format!("rows after {what}"), || {
        (pair.collect.count() > before + 50).then_some(())
    })?;
    pair.told().with_context(|| format!("after {what}"))
}

/// A slow migration whose memory is on the way: the process that waits for it.
fn under_way(pair: &Pair, options: &[&str]) -> Result<Process> {
    let migration = pair.begin_migration(&[&SLOW, options].concat())?;
    let source = &pair.host(pair.at).hypervisor;
    pair.wait(60, "the migration to be under way", || {
        let job = source.virsh(&["domjobinfo", DOMAIN]).ok()?;
        let copied = job
            .lines()
            .find_map(|line| line.strip_prefix("Memory processed:"))?;
        let number = copied.split_whitespace().next()?.parse::<f64>().ok()?;
        (number > 2.0 && copied.contains("MiB")).then_some(())
    })?;
    Ok(migration)
}

/// The migration has failed, and the VM is where it was.
fn failed(pair: &mut Pair, mut migration: Process, what: &str) -> Result<()> {
    let at = pair.at;
    let status = migration.wait(120).with_context(|| pair.words())?;
    ensure!(
        !status.success(),
        "the migration succeeded in spite of {what}"
    );
    pair.wait(60, "the VM to run at one place", || {
        pair.runs_at().filter(|runs| *runs == at)
    })?;
    goes_on(pair, what)
}

fn aborted(pair: &mut Pair) -> Result<()> {
    let migration = under_way(pair, &[])?;
    pair.host(pair.at)
        .hypervisor
        .virsh(&["domjobabort", DOMAIN])?;
    failed(pair, migration, "an aborted migration")
}

fn restarted(pair: &mut Pair, of: End, what: &str) -> Result<()> {
    let migration = under_way(pair, &["--p2p"])?;
    pair.host(of).hypervisor.restart_libvirtd()?;
    failed(pair, migration, what)
}

fn killed(pair: &mut Pair, end: End) -> Result<()> {
    let mut migration = under_way(pair, &[])?;
    pair.host_mut(end).kill_daemon()?;
    // As slow as that, the guest changes its memory faster than it is copied.
    let source = &pair.host(pair.at).hypervisor;
    source.virsh(&["migrate-setspeed", DOMAIN, "1000"])?;
    let status = migration.wait(240).with_context(|| pair.words())?;
    ensure!(status.success(), "{}", pair.words());
    pair.find()?;
    pair.host_mut(end).begin_daemon()?;
    goes_on(pair, "a killed daemon")
}

fn back_at_once(pair: &mut Pair) -> Result<()> {
    let at = pair.at;
    pair.migrate(&[])?;
    pair.migrate(&[])?;
    ensure!(pair.find()? == at);
    goes_on(pair, "two migrations in quick succession")
}

/// No host has another one's images: the destination never has the one that the VM comes with.
fn without_the_image(pair: &mut Pair) -> Result<()> {
    let image = pair
        .host(pair.at)
        .image()
        .context("no image in the drive")?;
    let there = pair.host(pair.at.other()).own_file(&image);
    ensure!(!there.exists(), "{} exists", there.display());
    ensure!(pair.host(pair.at).own_file(&image).exists(), "{image}");
    pair.migrate(&[])?;
    goes_on(pair, "a migration without the image")
}

/// The guest has the medium mounted: its tray is locked. The context stays what it was until the guest lets go.
fn held(pair: &mut Pair) -> Result<()> {
    pair.guest
        .run("mkdir -p /mnt && mount -t iso9660 -o ro /dev/sr0 /mnt")?;
    pair.migrate(&[])?;
    let locked = "vmkpi_context_errors_total{reason=\"locked\"} ";
    pair.wait(120, "the daemon to find the drive locked", || {
        let page = pair.host(pair.at).scrape().ok()?;
        let line = page.lines().find_map(|line| line.strip_prefix(locked))?;
        (line != "0").then_some(())
    })?;
    pair.guest.run("umount /mnt")?;
    goes_on(pair, "a guest that held the medium")
}

#[test]
fn a_migration_may_fail_in_any_way_and_nothing_is_lost() -> Result<()> {
    let _alone = super::alone();
    let plan = Plan {
        rate: 30,
        monitors: MONITORS.into(),
        settings: contexts::GUEST.into(),
        ..Plan::default()
    };
    let Some(mut pair) = Pair::start(|folder| Ok((plan, contexts::offer_caches(folder)?)))? else {
        return Ok(());
    };
    pair.told()?;
    without_the_image(&mut pair)?;
    held(&mut pair)?;
    back_at_once(&mut pair)?;
    aborted(&mut pair)?;
    let (here, there) = (pair.at, pair.at.other());
    restarted(&mut pair, here, "a restart of the source's libvirtd")?;
    restarted(&mut pair, there, "a restart of the destination's libvirtd")?;
    killed(&mut pair, here)?;
    killed(&mut pair, here)?;
    pair.migrate(&[])?;
    let (rows, windows) = pair.settle()?;
    eprintln!("{rows} rows and {windows} windows, each once and as without");
    Ok(())
}
