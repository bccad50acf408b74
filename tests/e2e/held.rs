//! Self-protection: what the policy holds stays in the guest while the VM is where it may not be delivered, and arrives
//! once afterwards, as if nothing had been.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use vmkpi_tests::away::Away;
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::wait_for;

const PAUSE: Duration = Duration::from_millis(10);

/// Every row, and for one of the points windows of a second that say how many they are of.
const MONITORED: &str = r#"vm = "shop"
primary_site = "acme"
[[monitor]]
id = "every-row"
point = "unencrypted/*"
[[monitor]]
id = "windows"
point = "unencrypted/patients"
interval_ms = 0
delivery_ms = 1000
format = "processed"
function = "count"
"#;

/// The policy of the image.
const POLICY: &str = "[protection]\nlegislations = 'SE,EU'\npoints = 'unencrypted/patients'\n";

/// Of how many rows the windows of the point are, by the stream and rows that each accounts for.
fn counted(away: &Away) -> Result<u64> {
    let (mut seen, mut rows) = (HashSet::new(), 0);
    for line in away.lines()? {
        if line["specifier"] == "windows" && line["function"] == "count" {
            let window = (
                line["stream"].to_string(),
                line["after"].to_string(),
                line["through"].to_string(),
            );
            ensure!(seen.insert(window), "a window twice: {line}");
            rows += line["values"]["n"].as_f64().unwrap_or(0.0) as u64;
        }
    }
    Ok(rows)
}

#[test]
fn what_is_held_arrives_once_when_the_vm_is_back_and_nothing_of_it_before() -> Result<()> {
    let mut away = Away::new(MONITORED)?;
    let (a, b) = (away.host("a", &[])?, away.host("b", &[])?);
    away.offer(None, Some("SE\n"))?;
    away.start_guest(&a.url(), POLICY)?;
    away.send("patients", 0)?;
    let folder = |name: &str| -> Result<_> {
        let folder = away.folder().join(name);
        std::fs::create_dir(&folder)?;
        Ok(folder)
    };
    let mut patients = Writer::start(&folder("p")?, &[away.file("patients")], PAUSE)?;
    let mut others = Writer::start(&folder("o")?, &[away.file("others")], PAUSE)?;
    let rows_of = |away: &Away, point: &str| away.arrived(point).map(|all| all.len());
    let rows = |point: &str| rows_of(&away, point);
    wait_for(20, "rows", || {
        (rows("unencrypted/patients").ok()? > 50).then_some(())
    })?;
    // Away with rows in flight: to another host, and to another law, in one change.
    for (n, (law, host)) in (1u64..).zip([(Some("US"), &b), (Some("SE"), &a), (None, &b)]) {
        away.offer(Some(&host.url()), law)?;
        away.wait_for_endpoint(&host.url())?;
        if law == Some("SE") {
            away.wait_for_link("freedom", |link| link["held"].is_null())?;
            let before = rows("unencrypted/patients")?;
            wait_for(20, "rows again", || {
                (rows("unencrypted/patients").ok()? > before + 50).then_some(())
            })?;
            continue;
        }
        let held = away.wait_for_link("the hold", |link| !link["held"].is_null())?;
        assert_eq!(held["held"]["points"][0], "unencrypted/patients", "{held}");
        // What was with the host may still arrive; when another point has been there and back, no more does.
        away.send("others", 1_000_000 + n)?;
        away.send("others", 2_000_000 + n)?;
        let before = (rows("unencrypted/patients")?, rows("unencrypted/others")?);
        wait_for(20, "the others to go on", || {
            (rows("unencrypted/others").ok()? > before.1 + 100).then_some(())
        })?;
        assert_eq!(
            rows("unencrypted/patients")?,
            before.0,
            "held, and it arrived"
        );
        let status = away.status()?;
        ensure!(
            status["advice"].to_string().contains("held for"),
            "{}",
            status["advice"]
        );
    }
    // A guest that starts where it may not deliver delivers nothing either.
    away.restart_guest()?;
    away.send("others", 3_000_000)?;
    let before = rows_of(&away, "unencrypted/patients")?;
    away.send("others", 3_000_001)?;
    assert_eq!(
        rows_of(&away, "unencrypted/patients")?,
        before,
        "held from the start"
    );
    patients.stop()?;
    others.stop()?;
    away.offer(Some(&a.url()), Some("EU"))?;
    away.judge("unencrypted/patients", patients.stored()?)?;
    away.judge("unencrypted/others", others.stored()?)?;
    // With the kill, a store may have happened whose writer was told otherwise: what came as a row counts.
    let whole = || {
        Some((
            counted(&away).ok()?,
            rows_of(&away, "unencrypted/patients").ok()? as u64,
        ))
    };
    wait_for(30, "every row to be in a window, once", || {
        whole().filter(|(counted, rows)| counted == rows)
    })
    .map_err(|e| e.context(format!("{:?}", whole())))?;
    Ok(())
}
