//! The guest's link follows the context: each host's names its own listener, and after a migration the guest is there.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use vmkpi::clock::Timestamp;
use vmkpi::link::LinkUrl;
use vmkpi_tests::lab::contexts;
use vmkpi_tests::lab::host::End;
use vmkpi_tests::lab::judge::{MONITORS, median_and_most, new_rows};
use vmkpi_tests::lab::pair::{Pair, Planned};
use vmkpi_tests::lab::traveller::Plan;
use vmkpi_tests::pki::Ca;
use vmkpi_tests::process::Process;
use vmkpi_tests::said_since;

/// Where each host lets guests in.
const DOOR: u16 = 9879;

/// Where the guest has its certificate, its key and the CA that it trusts.
const SETTINGS: &str = "[link_tls]\ncert_file = \"/etc/vmkpi/vm.crt\"\nkey_file = \"/etc/vmkpi/vm.key\"\n\
                        ca_file = \"/etc/vmkpi/ca.crt\"\n";

/// How the guest's link goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Over the network, to the endpoint that the context names: another at each host.
    Network,
    /// By the port of virtio-serial, which is the same everywhere: what a migration costs by itself.
    Port,
}

fn plan(folder: &Path, by: By) -> Result<Planned> {
    let ca = Ca::new(folder, "ca")?;
    let vm = ca.vm("vm", "urn:vmkpi:acme:shop")?;
    let mut daemons = contexts::offer_caches(folder)?;
    for (end, options) in End::BOTH.into_iter().zip(&mut daemons) {
        let door = format!("{}:{DOOR}", end.address());
        if by == By::Network {
            contexts::offer(folder, end, "monitoring/endpoint", &format!("tls:{door}\n"))?;
        }
        let shown = ca.server(
            &format!("door-{}", end.name()),
            &format!("IP:{}", end.address()),
        )?;
        options.extend([
            format!("--link.listen-address={door}"),
            "--log-level=info,vmkpi_host::vm=debug".to_owned(),
            format!("--link.tls.cert-file={}", shown.cert.display()),
            format!("--link.tls.key-file={}", shown.key.display()),
            format!("--link.tls.ca-file={}", ca.cert().display()),
        ]);
    }
    let file = |name: &str, from: &Path, mode| -> Result<_> {
        Ok((format!("etc/vmkpi/{name}"), std::fs::read(from)?, mode))
    };
    let plan = Plan {
        rate: 50,
        settings: format!("{}{SETTINGS}", contexts::GUEST),
        files: vec![
            file("vm.crt", &vm.cert, 0o644)?,
            file("vm.key", &vm.key, 0o600)?,
            file("ca.crt", &ca.cert(), 0o644)?,
        ],
        monitors: MONITORS.into(),
    };
    Ok((plan, daemons))
}

/// The lifecycle events of a host, as virsh prints them.
fn follow(pair: &Pair, end: End) -> Result<Process> {
    let uri = pair.host(end).hypervisor.uri();
    let words = [
        "-oL",
        "virsh",
        "--connect",
        &uri,
        "event",
        "--event",
        "lifecycle",
        "--loop",
        "--timestamp",
    ];
    let name = format!("events-{}", end.name());
    Process::start(pair.folder(), &name, Path::new("/usr/bin/stdbuf"), words)
}

/// When the VM was resumed last by a migration.
fn resumed(events: &Process) -> Option<SystemTime> {
    let text = std::fs::read_to_string(&events.out).ok()?;
    let line = text.lines().rev().find(|line| line.contains("Resumed"))?;
    let time = format!("{}Z", line.get(..23)?.replacen(' ', "T", 1));
    let time: Timestamp = time.parse().ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(time.as_micros()).ok()?))
}

/// What a host's daemon says on the way of a guest that has come, in order: the medium is in the drive, the guest has
/// connected and shaken hands, it has answered the greeting.
const STEPS: [&str; 3] = [
    "VM recontextualized",
    "the link is open domain=lab by=\"tls",
    "the guest has answered the greeting",
];

/// The endpoint that the guest's link goes to.
fn goes_to(pair: &Pair) -> Option<String> {
    let (_, said) = pair
        .guest
        .attempt("vmkpi-guest status --state /var/vmkpi | grep -m1 '^link'")
        .ok()?;
    Some(said)
}

fn migrates(times: usize, by: By) -> Result<()> {
    let _alone = super::alone();
    let Some(mut pair) = Pair::start(|folder| plan(folder, by))? else {
        return Ok(());
    };
    let url = |end: End| match by {
        By::Network => format!("tls:{}:{DOOR}", end.address()),
        By::Port => LinkUrl::default().to_string(),
    };
    let events = [follow(&pair, End::One)?, follow(&pair, End::Two)?];
    pair.told()?;
    // It begins on the port of virtio-serial, and goes over.
    pair.wait(60, "the guest to come in", || {
        goes_to(&pair)?.contains(&url(pair.at)).then_some(())
    })?;
    let arrivals = pair.subscribe("vmkpi/v1/acme/data/shop/every-row/#")?;
    let (mut took, mut on_the_way) = (Vec::new(), [const { Vec::new() }; 3]);
    for _ in 0..times {
        pair.migrate(&[])?;
        let before = pair.collect.count();
        pair.wait(120, "rows from the other host", || {
            (pair.collect.count() > before + 100).then_some(())
        })?;
        pair.told()?;
        pair.wait(60, "the guest to come in at the other host", || {
            goes_to(&pair)?.contains(&url(pair.at)).then_some(())
        })?;
        let (now, at) = (SystemTime::now(), std::time::Instant::now());
        let resumed = resumed(&events[pair.at as usize]).context("nothing was resumed")?;
        let since = now.duration_since(resumed)?;
        let rows = new_rows(&arrivals.messages(0));
        let ago = rows.iter().map(|row| at.saturating_duration_since(*row));
        let first = ago
            .filter(|ago| *ago < since)
            .max()
            .context("no row since")?;
        took.push(since - first);
        let log = pair.host(pair.at).log();
        for (all, step) in on_the_way.iter_mut().zip(STEPS) {
            all.extend(said_since(&log, step, resumed));
        }
    }
    let (rows, windows) = pair.settle()?;
    ensure!(took.len() == times);
    let (median, most) = median_and_most(&took);
    eprintln!(
        "{times} migrations from {} to {}, {rows} rows and {windows} windows, each once and as without; \
         from Resumed to the first row from the new host {} ms, at most {} ms",
        url(End::One),
        url(End::Two),
        median.as_millis(),
        most.as_millis()
    );
    for (step, all) in STEPS.iter().zip(&on_the_way) {
        let (median, most) = median_and_most(all);
        let (median, most) = (median.as_millis(), most.as_millis());
        eprintln!(
            "  until \"{step}\" {median} ms, at most {most} ms ({} seen)",
            all.len()
        );
    }
    Ok(())
}

#[test]
fn the_link_goes_from_host_to_host_over_the_network_as_the_vm_does() -> Result<()> {
    migrates(3, By::Network)
}

#[test]
#[ignore = "takes minutes; make soak"]
fn the_link_goes_from_host_to_host_ten_times() -> Result<()> {
    migrates(10, By::Network)
}

#[test]
#[ignore = "takes minutes; make soak"]
fn the_link_stays_at_its_port_ten_times() -> Result<()> {
    migrates(10, By::Port)
}
