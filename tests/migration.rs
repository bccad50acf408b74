//! A real virtual machine migrates between two real hosts while it stores, and its owner does not notice.

#[path = "migration/trouble.rs"]
mod trouble;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vmkpi_tests::lab::judge::{MONITORS, gaps, median_and_most};
use vmkpi_tests::lab::pair::Pair;
use vmkpi_tests::lab::traveller::Plan;

/// Migrates so often, with a pause each, while the guest stores; says what it saw.
fn to_and_fro(times: usize) -> Result<()> {
    let plan = Plan {
        rate: 100,
        monitors: MONITORS.into(),
        ..Plan::default()
    };
    let Some(mut pair) = Pair::start(&plan, &Default::default())? else {
        return Ok(());
    };
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
    }
    let rate = (pair.guest.stored() - first) as f64 / begin.elapsed().as_secs_f64();
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
        "{times} live migrations at {rate:.0} rows/s: {rows} rows and {windows} windows, each once and as without; \
         a migration takes {}; nothing is delivered for {}",
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
