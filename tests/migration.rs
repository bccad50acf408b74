//! A real virtual machine migrates between two real hosts while it stores, and its owner does not notice.

#[path = "migration/endpoint.rs"]
mod endpoint;
#[path = "migration/trouble.rs"]
mod trouble;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::lab::contexts::{self, CACHE_HOOK, CACHE_HOOK_FILE};
use vmkpi_tests::lab::host::End;
use vmkpi_tests::lab::judge::{MONITORS, gaps, median_and_most, rate};
use vmkpi_tests::lab::pair::Pair;
use vmkpi_tests::lab::traveller::Plan;
use vmkpi_tests::process::Process;

/// Each has two hosts and an emulated machine, and measures time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A service that asks the nearest cache again and again, as its configuration says; it notes who answered. Connections
/// through QEMU's user network do not migrate, and nobody tells their ends: hence the timeout.
const SERVICE: &str = r"(while :; do [ ! -e /etc/service.conf ] || . /etc/service.conf
    printf 'GET /who HTTP/1.0\r\n\r\n' | timeout 3 nc $CACHE 8080 | tail -n 1 >>/var/asked
    read -r -t 1 _ <&3; done) 2>/dev/null &";

/// A cache at a host, which tells who it is.
fn cache(pair: &Pair, end: End) -> Result<Process> {
    let place = &pair.host(end).place;
    let files = place.folder().join("cache");
    std::fs::create_dir_all(&files)?;
    std::fs::write(files.join("who"), format!("{}\n", end.name()))?;
    let arguments = format!("httpd -f -p {}:8080 -h {}", end.address(), files.display());
    let arguments: Vec<String> = arguments.split(' ').map(ToOwned::to_owned).collect();
    place.start("cache", Path::new("/bin/busybox"), &arguments)
}

/// Waits until the service asks the cache of the host where the VM is.
fn asks_the_nearest(pair: &Pair) -> Result<()> {
    pair.wait(60, "the service to ask the nearest cache", || {
        let (_, last) = pair.guest.attempt("tail -n 1 /var/asked").ok()?;
        (last.trim() == pair.at.name()).then_some(())
    })
}

/// Migrates so often, with a pause each, while the guest stores and a service in it goes by the context; says what it
/// saw.
fn to_and_fro(times: usize) -> Result<()> {
    let _alone = alone();
    let plan = Plan {
        rate: 100,
        monitors: MONITORS.into(),
        settings: contexts::GUEST.into(),
        files: vec![(CACHE_HOOK_FILE.into(), CACHE_HOOK.into(), 0o755)],
    };
    let Some(mut pair) = Pair::start(|folder| Ok((plan, contexts::offer_caches(folder)?)))? else {
        return Ok(());
    };
    let _caches = [cache(&pair, End::One)?, cache(&pair, End::Two)?];
    pair.told()?;
    pair.guest.run(SERVICE)?;
    asks_the_nearest(&pair)?;
    let arrivals = pair.subscribe("vmkpi/v1/acme/data/shop/every-row/#")?;
    let (begin, first) = (Instant::now(), pair.guest.stored());
    let (mut migrations, mut took) = (Vec::new(), Vec::new());
    for n in 0..times {
        let begin = Instant::now();
        // By virsh, and from one libvirtd to the other.
        took.push(pair.migrate(if n % 2 == 0 { &[] } else { &["--p2p"] })?);
        migrations.push((begin, Instant::now()));
        let before = pair.collect.count();
        pair.wait(60, "rows from the other host", || {
            (pair.collect.count() > before + 200).then_some(())
        })?;
        pair.told().with_context(|| format!("migration {n}"))?;
        asks_the_nearest(&pair)?;
    }
    let outside = (pair.guest.stored() - first) as f64 / begin.elapsed().as_secs_f64();
    let (rows, windows) = pair.settle()?;
    let gaps = gaps(&arrivals.messages(0), &migrations);
    ensure!(
        gaps.iter().all(|gap| *gap < Duration::from_secs(20)),
        "{gaps:?}"
    );
    let ms = |(median, most): (Duration, Duration)| {
        format!("{} ms, at most {} ms", median.as_millis(), most.as_millis())
    };
    eprintln!(
        "{times} live migrations at {:.0} rows/s by the guest's clock, {outside:.0} by ours: {rows} rows and {windows} windows, each once and as without; \
         a migration takes {}; nothing is delivered for {}",
        rate(&pair.collect)?,
        ms(median_and_most(&took)),
        ms(median_and_most(&gaps)),
    );
    Ok(())
}

#[test]
fn a_vm_that_migrates_while_it_stores_loses_nothing() -> Result<()> {
    to_and_fro(4)
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_vm_that_migrates_twenty_times_while_it_stores_loses_nothing() -> Result<()> {
    to_and_fro(20)
}
