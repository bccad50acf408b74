//! History on demand, through a real broker, host and guest: what was stored before anybody watched comes on demand,
//! each row once and in order, to those whom the descriptor names, and to nobody else.

#[path = "queried/faults.rs"]
mod faults;
#[path = "queried/strangers.rs"]
mod strangers;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi_tests::asking::{POINT, Site};
use vmkpi_tests::collector::Collector;
use vmkpi_tests::mqtt::Subscriber;
use vmkpi_tests::wait_for;

/// The numbers that were stored, as the rows have them.
fn numbers(rows: &[Value]) -> Vec<u64> {
    let numbers = rows.iter().map(|row| row["values"]["n"].as_u64());
    numbers.map(|n| n.unwrap_or(u64::MAX)).collect()
}

#[test]
fn thousands_of_rows_of_before_anybody_watched_come_once_and_in_order() -> Result<()> {
    const ROWS: u64 = 11_000;
    let mut site = Site::start(&[])?;
    ensure!(site.chain.watch.terminate()?.success(), "the watcher");
    site.store(POINT, 1..=ROWS)?;
    let rows = site.rows(POINT, &[])?;
    // More than one answer holds, so it was asked twice at least.
    ensure!(
        numbers(&rows) == (1..=ROWS).collect::<Vec<_>>(),
        "{}",
        rows.len()
    );
    ensure!(
        site.chain.metric("vmkpi_queries_total")? >= 2.0,
        "one question"
    );
    ensure!(
        site.chain.metric("vmkpi_query_rows_total")? >= ROWS as f64,
        "rows"
    );
    let seqs: Vec<_> = rows.iter().map(|row| row["seq"].as_u64()).collect();
    ensure!(seqs.is_sorted(), "by number");
    // A span of it, the end excluded.
    let time = |n: usize| rows[n]["time"].as_str().unwrap_or_default().to_owned();
    let (from, to) = (time(99), time(5099));
    let within = |row: &&Value| {
        let time = row["time"].as_str().unwrap_or_default();
        from.as_str() <= time && time < to.as_str()
    };
    let due: Vec<Value> = rows.iter().filter(within).cloned().collect();
    ensure!(due.len() > 4900, "{}", due.len());
    let (from_option, to_option) = (format!("--from={from}"), format!("--to={to}"));
    let found = site.rows(POINT, &[&from_option, &to_option])?;
    ensure!(found == due, "{} and {}", found.len(), due.len());
    let found = site.rows(POINT, &[&from_option, "--limit=7"])?;
    ensure!(found == due[..7], "{found:?}");
    ensure!(
        site.rows(POINT, &["--from=-1s", "--to=-0s", "--limit=1"])?
            .len()
            <= 1
    );
    Ok(())
}

#[test]
fn a_sealed_points_history_is_its_owners_alone() -> Result<()> {
    let site = Site::start(&[])?;
    let all = Subscriber::start(site.chain.broker.address(), "vmkpi/v1/#")?;
    let secrets = 777_001..=777_003;
    // One that a specifier seals, and one that no specifier is about.
    for point in ["unencrypted/closed", "unencrypted/unwatched"] {
        site.store(point, secrets.clone())?;
    }
    let blob = site.chain.mount().join("encrypted/blob");
    std::fs::write(&blob, "its owner's alone")?;
    let key = |folder: &str| format!("--key={}", site.keys.file(folder).display());
    for point in ["unencrypted/closed", "unencrypted/unwatched"] {
        let rows = site.rows(point, &[&key("site")])?;
        ensure!(
            numbers(&rows) == secrets.clone().collect::<Vec<_>>(),
            "{rows:?}"
        );
        site.fails(point, &[], "--key")?;
        site.fails(point, &[&key("other")], "--key")?;
    }
    let rows = site.rows("encrypted/blob", &[])?;
    ensure!(
        rows[0]["data_base64"] == "aXRzIG93bmVyJ3MgYWxvbmU=",
        "{rows:?}"
    );
    let messages = all.messages(0);
    let texts = messages.iter().map(|m| String::from_utf8_lossy(&m.payload));
    let texts: Vec<String> = texts.map(std::borrow::Cow::into_owned).collect();
    let answers = texts.iter().filter(|t| t.contains("\"page\":"));
    ensure!(
        answers.count() >= 7,
        "the subscriber of everything saw the answers"
    );
    ensure!(
        !texts.iter().any(|t| t.contains("77700")),
        "a secret was seen"
    );
    Ok(())
}

#[test]
fn each_question_that_has_no_answer_is_told_why() -> Result<()> {
    let site = Site::start(&[])?;
    site.fails(
        "unencrypted/nothing",
        &[],
        "holds nothing of unencrypted/nothing",
    )?;
    site.fails("infra/cpu", &[], "is not kept")?;
    let trust = format!("--trust={}", site.keys.file("other").display());
    let distrusting = site.ask("unencrypted/ready", &[&trust, "--timeout=20"])?;
    ensure!(distrusting.status.success(), "one of the keys is believed");
    let usage = site.ask(POINT, &["--from=-1h", "--to=-2h"])?;
    ensure!(usage.status.code() == Some(2), "{}", usage.status);
    let usage = site.ask(POINT, &["--from=yesterday"])?;
    ensure!(usage.status.code() == Some(2), "{}", usage.status);
    Ok(())
}

/// The descriptor's `[[confirm]]` names who may ask, and whose word lets rows go: the same.
#[test]
fn what_retention_has_taken_is_told() -> Result<()> {
    let site = Site::start(&["--retain-rows=100"])?;
    let chain = &site.chain;
    let key = &site.keys.consumer;
    let _collect = Collector::start(chain.folder(), &chain.broker, chain.folder(), key, &[])?;
    site.store(POINT, 1..=2000)?;
    let told = wait_for(60, "retention", || {
        let output = site.ask(POINT, &[]).ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.contains("trimmed by the guest's retention")
            .then_some((output, said))
    });
    let (output, said) = told.with_context(|| chain.words())?;
    ensure!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout)?;
    let first: Value = serde_json::from_str(text.lines().next().context("a row")?)?;
    let through = first["seq"].as_u64().context("a number")? - 1;
    ensure!(
        said.contains(&format!("rows through {through},")),
        "{said} {first}"
    );
    // Of a span that retention has not touched nothing is told.
    let time = first["time"].as_str().context("a time")?;
    let output = site.ask(POINT, &[&format!("--from={time}")])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
