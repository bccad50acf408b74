//! What is published and exported: by the schema, to old clients, processed, changed at run time.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi_tests::chain::{Chain, EVERY_ROW};
use vmkpi_tests::process::Process;
use vmkpi_tests::schema::{check_message, load};
use vmkpi_tests::wait_for;

const WINDOWS: &str = r#"
[[monitor]]
id = "min"
point = "unencrypted/load"
delivery = "1s"
function = "min"
[[monitor]]
id = "max"
point = "unencrypted/load"
delivery = "1s"
function = "max"
[[monitor]]
id = "mean"
point = "unencrypted/load"
delivery = "1s"
function = "mean"
[[monitor]]
id = "median"
point = "unencrypted/load"
delivery = "1s"
function = "median"
[[monitor]]
id = "infra"
point = "infra/*"
interval = "500ms"
"#;

/// Stores a number every 20 ms for `seconds`.
fn write_numbers(chain: &Chain, seconds: f64) -> Result<()> {
    let file = chain.mount().join("unencrypted/load");
    for n in 0..(seconds * 50.0) as i64 {
        std::fs::write(&file, format!("n\n{}\n", (n * 37) % 101))?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn compute(function: &str, numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let (len, sum) = (numbers.len(), numbers.iter().sum::<f64>());
    match function {
        "min" => numbers[0],
        "max" => numbers[len - 1],
        "mean" => sum / len as f64,
        _ => f64::midpoint(numbers[(len - 1) / 2], numbers[len / 2]),
    }
}

/// Every window holds what the raw samples of its time say, whose times are the guest's.
#[test]
fn windows_are_what_their_samples_say() -> Result<()> {
    let chain = Chain::start(&format!("{EVERY_ROW}{WINDOWS}"))?;
    write_numbers(&chain, 4.5)?;
    let functions = ["min", "max", "mean", "median"];
    let lines = chain.wait_for_lines(30, "three windows of each function", |lines| {
        functions
            .iter()
            .all(|f| lines.iter().filter(|l| l["function"] == *f).count() >= 3)
    })?;
    let samples: Vec<(&str, f64)> = lines
        .iter()
        .filter(|l| l["specifier"] == "every-row" && l["point"] == "unencrypted/load")
        .filter_map(|l| Some((l["time"].as_str()?, l["values"]["n"].as_f64()?)))
        .collect();
    for line in lines.iter().filter(|l| l.get("function").is_some()) {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let (from, to) = (text("from"), text("to"));
        // Both are RFC 3339 in UTC with six decimals, so their order is that of the text.
        let mut numbers: Vec<f64> = samples
            .iter()
            .filter(|(time, _)| *time >= &*from && *time < &*to)
            .map(|(_, n)| *n)
            .collect();
        assert_eq!(
            line["count"]["n"].as_u64(),
            Some(numbers.len() as u64),
            "{line}"
        );
        let expected = compute(&text("function"), &mut numbers);
        let value = line["values"]["n"].as_f64().context("a value")?;
        assert!((value - expected).abs() < 1e-9, "{expected}: {line}");
    }
    Ok(())
}

#[test]
fn infrastructure_measurements_arrive() -> Result<()> {
    let chain = Chain::start(&format!("{EVERY_ROW}{WINDOWS}"))?;
    let infra = |l: &Value| l["point"].as_str().is_some_and(|p| p.starts_with("infra/"));
    let lines = chain.wait_for_lines(20, "infrastructure samples", |lines| {
        lines.iter().filter(|l| infra(l)).count() >= 2
    })?;
    let line = lines.iter().find(|l| infra(l)).context("one")?;
    ensure!(line["vm"] == "shop" && line["seq"].is_u64(), "{line}");
    ensure!(
        line["values"].as_object().is_some_and(|v| !v.is_empty()),
        "{line}"
    );
    Ok(())
}

#[test]
fn a_plain_mqtt_3_1_1_client_reads_messages_that_are_as_the_schema_says() -> Result<()> {
    let chain = Chain::start(&format!("{EVERY_ROW}{WINDOWS}"))?;
    let port = chain.broker.port().to_string();
    let arguments = [
        "-V",
        "311",
        "-p",
        &port,
        "-q",
        "1",
        "-t",
        "vmkpi/v1/acme/data/#",
        "-F",
        "%p",
    ];
    let binary = Path::new("/usr/bin/mosquitto_sub");
    let client = Process::start(chain.folder(), "client", binary, arguments)?;
    std::thread::sleep(Duration::from_millis(300));
    write_numbers(&chain, 2.5)?;
    std::fs::write(chain.mount().join("encrypted/blob"), [0, 1, 2])?;
    let read = || std::fs::read_to_string(&client.out).unwrap_or_default();
    wait_for(20, "messages of every kind", || {
        let text = read();
        let kinds = [
            "org.vmkpi.raw.v1",
            "org.vmkpi.processed.v1",
            "data_base64",
            "infra/",
        ];
        kinds.iter().all(|k| text.contains(k)).then_some(())
    })
    .with_context(|| chain.words())?;
    let schema = load("message.schema.json")?;
    let text = read();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for payload in whole.lines() {
        check_message(&schema, payload.as_bytes())?;
    }
    Ok(())
}

#[test]
fn metrics_are_as_prometheus_wants_them() -> Result<()> {
    let chain = Chain::start(EVERY_ROW)?;
    std::fs::write(
        chain.mount().join("unencrypted/load"),
        "current_users\n42\n",
    )?;
    let page = wait_for(20, "the KPI on /metrics", || {
        let page = chain.scrape().ok()?;
        let line = page.lines().find(|l| {
            l.starts_with("vmkpi_kpi_value{") && l.contains("column=\"current_users\"")
        })?;
        line.ends_with(" 42").then_some(page)
    })
    .with_context(|| chain.words())?;
    ensure!(page.contains("libvirt_domain_"), "{page}");
    ensure!(page.contains("domain=\"test\""), "{page}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool
        .stdin
        .take()
        .context("a pipe")?
        .write_all(page.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.is_empty(), "{said}\n{page}");
    Ok(())
}

#[test]
fn a_descriptor_that_changes_at_run_time_loses_no_row() -> Result<()> {
    let chain = Chain::start(EVERY_ROW)?;
    write_numbers(&chain, 1.0)?;
    chain.describe(&format!("{EVERY_ROW}{WINDOWS}"))?;
    let seen = |lines: &[Value]| lines.iter().any(|l| l["specifier"] == "max");
    let mut changed = false;
    for _ in 0..20 {
        write_numbers(&chain, 1.0)?;
        changed = seen(&chain.lines()?);
        if changed {
            break;
        }
    }
    ensure!(
        changed,
        "the new specifier delivers nothing\n{}",
        chain.words()
    );
    let rows = chain.query("unencrypted.db", "SELECT max(_seq) FROM load")?;
    let last = rows[0][0].as_u64().context("a row")?;
    let seqs = |lines: &[Value]| -> Vec<u64> {
        let of = |l: &&Value| l["specifier"] == "every-row" && l["point"] == "unencrypted/load";
        lines
            .iter()
            .filter(of)
            .filter_map(|l| l["seq"].as_u64())
            .collect()
    };
    let lines = chain.wait_for_lines(20, "every row", |lines| seqs(lines).contains(&last))?;
    let expected: Vec<u64> = (1..=last).collect();
    assert_eq!(seqs(&lines), expected);
    Ok(())
}

/// What is wrong changes nothing: the host says so and goes on as before.
#[test]
fn a_descriptor_that_becomes_wrong_at_run_time_is_refused() -> Result<()> {
    let mut chain = Chain::start(EVERY_ROW)?;
    chain.describe("vm = \"shop\"\nprimary_site = \"acme\"\n[[monitor]]\npoint = \"x\"\n")?;
    for _ in 0..6 {
        write_numbers(&chain, 1.0)?;
    }
    ensure!(chain.host.runs(), "{}", chain.words());
    let rows = chain.query("unencrypted.db", "SELECT max(_seq) FROM load")?;
    let last = rows[0][0].clone();
    chain.wait_for_lines(20, "rows under the old descriptor", |lines| {
        lines
            .iter()
            .any(|l| l["point"] == "unencrypted/load" && l["seq"] == last)
    })?;
    ensure!(
        chain.host.words().contains("point"),
        "the host says nothing of it: {}",
        chain.words()
    );
    Ok(())
}
