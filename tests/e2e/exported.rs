//! What a guest can and cannot bring onto the host's page of metrics.

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::{Chain, EVERY_ROW};
use vmkpi_tests::wait_for;

/// The number of the first series that begins so.
fn number(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn values(page: &str) -> usize {
    let is_value = |l: &&str| l.starts_with("vmkpi_kpi_value{");
    page.lines().filter(is_value).count()
}

#[test]
fn what_is_encrypted_never_appears_and_what_is_too_much_is_counted() -> Result<()> {
    let chain = Chain::start(EVERY_ROW)?;
    let names: Vec<_> = (0..600).map(|n| format!("c{n}")).collect();
    let row = format!("{}\n{}\n", names.join(","), vec!["1"; 600].join(","));
    for file in ["unencrypted/wide", "unencrypted/wider"] {
        std::fs::write(chain.mount().join(file), &row)?;
    }
    // Numbers, which an unencrypted file would show.
    std::fs::write(chain.mount().join("encrypted/secret"), "hidden\n424242\n")?;
    chain.wait_for_lines(20, "the encrypted row to be published", |lines| {
        lines.iter().any(|l| l["point"] == "encrypted/secret")
    })?;
    let page = wait_for(20, "the columns left out", || {
        let page = chain.scrape().ok()?;
        (number(&page, "vmkpi_kpi_series_dropped{")? == 201.0).then_some(page)
    })
    .with_context(|| chain.words())?;
    assert_eq!(values(&page), 1000, "of 1201");
    for word in ["secret", "424242", "hidden", "point=\"encrypted"] {
        ensure!(!page.contains(word), "{word}");
    }
    Ok(())
}

#[test]
fn rows_of_a_guest_that_is_gone_leave_the_page_and_come_back_with_it() -> Result<()> {
    let mut chain = Chain::start(EVERY_ROW)?;
    let shown = |chain: &Chain| values(&chain.scrape().unwrap_or_default());
    wait_for(20, "a KPI", || (shown(&chain) > 0).then_some(()))?;
    chain.guest.kill()?;
    wait_for(10, "the link to be down", || {
        let page = chain.scrape().ok()?;
        (number(&page, "vmkpi_link_up{")? == 0.0).then_some(())
    })?;
    ensure!(shown(&chain) > 0, "its newest row still counts for a while");
    let page = wait_for(30, "its rows to go", || {
        let page = chain.scrape().ok()?;
        (values(&page) == 0).then_some(page)
    })?;
    ensure!(
        !page.contains("vmkpi_kpi_last_row_timestamp_seconds{"),
        "nor their times"
    );
    ensure!(
        page.contains("vmkpi_rows_received_total{"),
        "what was counted stays"
    );
    chain.kill_guest()?;
    std::fs::write(chain.mount().join("unencrypted/ready"), "n\n1\n")?;
    wait_for(30, "a KPI again", || (shown(&chain) > 0).then_some(()))?;
    Ok(())
}
