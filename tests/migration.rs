//! A real virtual machine migrates between two real hosts while it stores, and its owner does not notice.

use anyhow::Result;
use vmkpi_tests::lab::pair::Pair;
use vmkpi_tests::lab::traveller::Plan;

const MONITORS: &str = r#"<vmkpi:monitor id="every-row" point="unencrypted/*"/>
<vmkpi:monitor id="means" point="unencrypted/*" delivery_ms="1000" format="processed" function="mean"/>
<vmkpi:monitor id="infra" point="infra/*" interval_ms="1000"/>"#;

#[test]
fn first() -> Result<()> {
    let plan = Plan {
        rate: 100,
        monitors: MONITORS.into(),
        ..Plan::default()
    };
    let Some(mut pair) = Pair::start(&plan, &Default::default())? else {
        return Ok(());
    };
    eprintln!(
        "{}",
        pair.guest
            .run("ls -la / /sys/block; ip addr; cat /var/guest.log")?
    );
    for _ in 0..4 {
        eprintln!("{:?}", pair.migrate(&[]));
        let n = pair.guest.stored();
        pair.wait(60, "more", || (pair.guest.stored() > n + 200).then_some(()))?;
    }
    eprintln!("{:?}", pair.migrate(&["--p2p"]));
    eprintln!("{}", pair.settle()?);
    eprintln!("{}", pair.words());
    Ok(())
}
