//! What a person sees: on a terminal, windows of KPIs and of infrastructure stand side by side.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vmkpi_tests::chain::Broker;
use vmkpi_tests::process::{Process, program};
use vmkpi_tests::schema::{check_message, example, folder, load};
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::wait_for;

/// A result as the schema's examples have it, of another point.
fn result(point: &str, specifier: &str, column: &str) -> Result<Value> {
    let mut event = example(&folder().join("examples/message/valid/processed.json"))?;
    event["subject"] = point.into();
    event["specifier"] = specifier.into();
    event["data"]["values"] = json!({ column: 41.5 });
    event["data"]["count"] = json!({ column: 10 });
    Ok(event)
}

fn publish(broker: &Broker, event: &Value) -> Result<()> {
    let payload = event.to_string();
    check_message(&load("message.schema.json")?, payload.as_bytes())?;
    let point = event["subject"].as_str().context("a subject")?;
    let specifier = event["specifier"].as_str().context("a specifier")?;
    let topic = format!("vmkpi/v1/acme/data/shop a/{specifier}/{point}");
    let port = broker.port().to_string();
    let arguments = ["-p", &port, "-q", "1", "-t", &topic, "-m", &payload];
    let status = Command::new("mosquitto_pub").args(arguments).status()?;
    ensure!(status.success(), "mosquitto_pub: {status}");
    Ok(())
}

#[test]
fn a_terminal_shows_windows_of_one_time_side_by_side_with_the_clock_skew() -> Result<()> {
    let scratch = Scratch::new()?;
    let broker = Broker::start(scratch.path())?;
    let watch = format!(
        "stty cols 120 rows 40; exec {} watch --broker {}",
        program("vmkpi")?.display(),
        broker.url()
    );
    // A pseudo-terminal: without one, watch writes lines.
    let terminal = ["-q", "-e", "-f", "-c", &watch, "/dev/null"];
    let watch = Process::start(
        scratch.path(),
        "terminal",
        Path::new("/usr/bin/script"),
        terminal,
    )?;
    broker.wait_for_watcher()?;
    let mut kpi = result("unencrypted/web", "load", "current_users")?;
    kpi["clockskewms"] = json!(-12);
    publish(&broker, &kpi)?;
    let cpu = result("infra/cpu", "infra", "cpu_time_seconds_per_second")?;
    publish(&broker, &cpu)?;
    let screen = wait_for(30, "both sides on the screen", || {
        let text = std::fs::read_to_string(&watch.out).ok()?;
        text.contains("| infra/cpu mean").then_some(text)
    })
    .with_context(|| std::fs::read_to_string(&watch.out).unwrap_or_default())?;
    let head = "shop a  17:00:00 to 17:00:10 UTC (10 s), clock skew -12 ms";
    ensure!(screen.contains(head), "{screen}");
    let line = screen.lines().rfind(|l| l.contains("| infra/cpu mean"));
    let line = line.context("a line of both")?;
    ensure!(
        line.contains("unencrypted/web mean current_users"),
        "{line}"
    );
    ensure!(line.matches("41.5").count() == 2, "{line}");
    Ok(())
}
