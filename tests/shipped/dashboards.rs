//! Dashboards and rules: every query is asked of a real Prometheus that scrapes a real VM's host, a real collect and a real
//! relay, and every alert has its test, its severity and its place in the documentation.

#[path = "dashboards/site.rs"]
mod site;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi_tests::chain::http_get;
use vmkpi_tests::lab::herd::has_taps;
use vmkpi_tests::prometheus::{Prometheus, check};
use vmkpi_tests::wait_for;

use site::Site;

/// The root of the repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const DASHBOARDS: [&str; 2] = ["vmkpi-hosts.json", "vmkpi-kpis.json"];

/// What need not be there while all is well, and when it is.
const ONLY_WHEN: [(&str, &str); 9] = [
    (
        "libvirt_domain_block_stats_error",
        "a disk has paused its VM",
    ),
    ("libvirt_domain_job_", "a VM has a job, such as a migration"),
    (
        "and on (uuid) vmkpi_descriptor_info",
        "a VM has just migrated",
    ),
    (
        "(increase(vmkpi_recontextualizations_total",
        "one has just been done",
    ),
    ("vmkpi_messages_oldest_unacknowledged", "a message waits"),
    ("vmkpi:unacknowledged_age_seconds", "a message waits"),
    (
        "vmkpi_collect_messages_irregular_total",
        "one was irregular",
    ),
    (
        "vmkpi_link_refusals_total",
        "guests may come in from a network",
    ),
    ("vmkpi_context_problem", "a context of a VM is offered"),
];

fn root(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root(path)).with_context(|| path.to_owned())
}

fn dashboard(name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&read(&format!(
        "packaging/grafana/{name}"
    ))?)?)
}

fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().map_or(&[], Vec::as_slice)
}

/// The expressions of a dashboard as Grafana asks them when everything is chosen: of panels, annotations and variables.
fn expressions(dashboard: &Value) -> Vec<String> {
    let targets = list(dashboard, "panels")
        .iter()
        .flat_map(|p| list(p, "targets"));
    let marks = list(&dashboard["annotations"], "list");
    let asked = targets.chain(marks).filter_map(|of| of["expr"].as_str());
    let variables = list(&dashboard["templating"], "list");
    let of_variables = variables.iter().filter_map(|v| v["definition"].as_str());
    let of_variables = of_variables.filter_map(|definition| {
        let inner = definition
            .strip_prefix("label_values(")?
            .strip_suffix(')')?;
        let (series, label) = inner.rsplit_once(", ")?;
        Some(format!("count by ({label}) ({series})"))
    });
    let asked = asked.map(str::to_owned).chain(of_variables);
    let names: Vec<_> = variables
        .iter()
        .filter_map(|v| v["name"].as_str())
        .collect();
    asked
        .map(|expression| substitute(&expression, &names))
        .collect()
}

fn substitute(expression: &str, variables: &[&str]) -> String {
    // There has not been a minute yet.
    let mut text = expression
        .replace("$__rate_interval", "10s")
        .replace("offset 1m", "offset 3s");
    for name in variables {
        text = text.replace(&format!("${name}"), ".+");
    }
    text
}

/// The names of our metrics in an expression, those of recording rules included.
fn names(expression: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let words = expression.split(|c| !part(c));
    let ours = words.filter(|word| {
        ["libvirt_", "vmkpi_", "vmkpi:"]
            .iter()
            .any(|start| word.starts_with(start))
    });
    // A pattern of names is none.
    ours.filter(|word| *word != "vmkpi_")
        .map(str::to_owned)
        .collect()
}

fn is_optional(text: &str) -> bool {
    let no_taps = !has_taps() && text.contains("libvirt_domain_interface_stats_");
    no_taps || ONLY_WHEN.iter().any(|(part, _)| text.contains(part))
}

/// What is pending while all is well: by that threshold, and by that clock.
const EXPECTED: [&str; 3] = ["VmkpiNoRow", "VmkpiCollectNoRow", "VmkpiClockSkew"];

/// Asks until each has a result, and says which have none in the end.
fn without_result(prometheus: &Prometheus, mut asked: Vec<String>) -> Result<Vec<String>> {
    let mut wrong = None;
    let answered = wait_for(90, "results", || {
        asked.retain(|expression| match prometheus.query(expression) {
            Ok(found) => found.is_empty(),
            Err(error) => {
                wrong = Some(error);
                true
            }
        });
        (asked.is_empty() || wrong.is_some()).then_some(())
    });
    match (wrong, answered) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(vec![]),
        (None, Err(_)) => Ok(asked),
    }
}

/// The rules that Prometheus has, of which none fails.
fn rules(prometheus: &Prometheus) -> Result<Vec<Value>> {
    let data = prometheus.get("rules")?;
    let groups = list(&data, "groups").iter();
    let rules: Vec<_> = groups
        .flat_map(|group| list(group, "rules"))
        .cloned()
        .collect();
    ensure!(rules.len() > 40, "{data}");
    for rule in &rules {
        ensure!(rule["health"] != "err", "{rule}");
    }
    Ok(rules)
}

fn promtool(arguments: &[&str], files: &[PathBuf]) -> Result<()> {
    let output = Command::new("promtool")
        .args(arguments)
        .args(files)
        .output()
        .context("promtool is part of the package prometheus")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(
        output.status.success() && !said.contains("FAILED"),
        "{said}"
    );
    Ok(())
}

#[test]
fn every_query_of_dashboards_and_rules_has_data_of_real_programs() -> Result<()> {
    let Some(mut site) = Site::start()? else {
        return Ok(());
    };
    let prometheus = &site.prometheus;
    let mut asked = Vec::new();
    for name in DASHBOARDS {
        asked.extend(expressions(&dashboard(name)?));
    }
    ensure!(asked.len() > 80, "only {} queries", asked.len());
    let (optional, needed): (Vec<_>, Vec<_>) = asked.iter().cloned().partition(|e| is_optional(e));
    let empty = without_result(prometheus, needed)?;
    ensure!(
        empty.is_empty(),
        "no data: {empty:#?}\n{}",
        site.lab.words()
    );
    for expression in &optional {
        prometheus.query(expression)?;
    }
    let rules = rules(prometheus)?;
    let of_rules = rules.iter().filter_map(|rule| rule["query"].as_str());
    let used = of_rules.chain(asked.iter().map(String::as_str));
    every_name_is_known(prometheus, &used.flat_map(names).collect())?;
    only_what_is_expected(prometheus)?;
    for (_, address) in site.metrics {
        let page = http_get(address, "/metrics")?;
        check(&page)?;
    }
    an_alert_for_each_fault(&mut site)
}

/// Each name is one that Prometheus has, or may be absent while all is well.
fn every_name_is_known(prometheus: &Prometheus, used: &BTreeSet<String>) -> Result<()> {
    let documented = read("docs/METRICS.md")?;
    let may_be_absent = |name: &str| {
        let by_name = ONLY_WHEN.iter().any(|(of, _)| *of == name);
        by_name || is_optional(name) && documented.contains(&format!("`{name}`"))
    };
    let needed: BTreeSet<_> = used.iter().filter(|name| !may_be_absent(name)).collect();
    let unknown = || -> Result<Vec<_>> {
        let known = prometheus.names()?;
        let unknown = needed.iter().filter(|name| !known.contains(**name));
        Ok(unknown.copied().cloned().collect())
    };
    // What is recorded follows what is scraped.
    wait_for(30, "every name", || {
        unknown().ok()?.is_empty().then_some(())
    })
    .with_context(|| format!("{:?}", unknown()))
}

/// The threshold makes an alert of its point and of no other, and nothing else stays wrong: on a busy machine an emulated VM
/// may be late for once.
fn only_what_is_expected(prometheus: &Prometheus) -> Result<()> {
    let is_expected = |alert: &Value| {
        let labels = &alert["labels"];
        let known = EXPECTED.iter().any(|name| labels["alertname"] == *name);
        known && (labels["point"].is_null() || labels["point"] == "unencrypted/load")
    };
    wait_for(60, "all to be well", || {
        let alerts = prometheus.alerts().ok()?;
        alerts.iter().all(is_expected).then_some(())
    })
    .with_context(|| format!("{:?}", prometheus.alerts()))?;
    wait_for_alerts(prometheus, &["VmkpiNoRow", "VmkpiCollectNoRow"])
}

fn wait_for_alerts(prometheus: &Prometheus, names: &[&str]) -> Result<()> {
    let is_there = |alerts: &[Value], name: &str| {
        let mut alerts = alerts.iter();
        alerts.any(|alert| alert["labels"]["alertname"] == name)
    };
    wait_for(60, &format!("{names:?}"), || {
        let alerts = prometheus.alerts().ok()?;
        let all = names.iter().all(|name| is_there(&alerts, name));
        all.then_some(())
    })
    .with_context(|| format!("{:?}", prometheus.alerts()))
}

/// Faults of the real programs show as alerts, at least as pending ones: they last for too short a time to fire.
fn an_alert_for_each_fault(site: &mut Site) -> Result<()> {
    let prometheus = &site.prometheus;
    site.next.process().kill()?;
    wait_for_alerts(prometheus, &["VmkpiRelayDisconnected"])?;
    site.lab.host.kill()?;
    wait_for_alerts(prometheus, &["VmkpiTargetDown"])
}

#[test]
fn rules_are_valid_and_each_alert_fires_when_it_should_and_only_then() -> Result<()> {
    let folder = root("packaging/prometheus");
    let of = |name: &str| folder.join(name);
    promtool(
        &["check", "rules"],
        &[of("vmkpi.rules.yml"), of("vmkpi.thresholds.yml")],
    )?;
    promtool(&["test", "rules"], &[of("vmkpi.test.yml")])?;
    let (rules, tests) = (
        read("packaging/prometheus/vmkpi.rules.yml")?,
        read("packaging/prometheus/vmkpi.test.yml")?,
    );
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- alert: "))
        .collect();
    ensure!(alerts.len() >= 40, "{alerts:?}");
    let table = read("docs/DASHBOARDS.md")?;
    for alert in &alerts {
        let fires = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"");
        ensure!(tests.contains(&fires), "{alert} has no test");
        let anchor = format!("docs/TROUBLESHOOTING.md#{}\n", alert.to_lowercase());
        ensure!(rules.contains(&anchor), "{alert} has no runbook");
        ensure!(
            table.contains(&format!("| `{alert}` |")),
            "{alert} is not in docs/DASHBOARDS.md"
        );
    }
    for key in [
        "severity: ",
        "summary: >-",
        "description: >-",
        "runbook_url: ",
    ] {
        ensure!(
            rules.matches(key).count() == alerts.len(),
            "an alert has no {key}"
        );
    }
    Ok(())
}

#[test]
fn dashboards_are_whole() -> Result<()> {
    for name in DASHBOARDS {
        let dashboard = dashboard(name)?;
        ensure!(dashboard["schemaVersion"] == 39, "{name}");
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in list(&dashboard, "panels") {
            let title = panel["title"].as_str().context("a title")?;
            ensure!(
                ids.insert(panel["id"].as_u64()),
                "{name}: {title}: its id is there twice"
            );
            let at = |key: &str| panel["gridPos"][key].as_u64().context("gridPos");
            for x in at("x")?..at("x")? + at("w")? {
                for y in at("y")?..at("y")? + at("h")? {
                    ensure!(x < 24 && taken.insert((x, y)), "{name}: {title} overlaps");
                }
            }
            if panel["type"] != "row" {
                whole(panel).with_context(|| format!("{name}: {title}"))?;
            }
        }
        for expression in expressions(&dashboard) {
            let left = expression.replace("\"$1\"", "");
            ensure!(
                !left.contains('$'),
                "{name}: an unknown variable in {expression}"
            );
        }
    }
    Ok(())
}

/// A panel says what it shows, in which unit, and asks the data source that is chosen.
fn whole(panel: &Value) -> Result<()> {
    ensure!(
        panel["description"].as_str().is_some_and(|d| d.len() > 20),
        "no description"
    );
    ensure!(
        panel["fieldConfig"]["defaults"]["unit"].is_string(),
        "no unit"
    );
    let targets = list(panel, "targets");
    ensure!(!targets.is_empty(), "no query");
    let mut refs = BTreeSet::new();
    for of in targets.iter().chain([panel]) {
        ensure!(
            of["datasource"]["uid"] == "${datasource}",
            "another data source"
        );
    }
    ensure!(
        targets.iter().all(|t| refs.insert(t["refId"].as_str())),
        "a refId is there twice"
    );
    Ok(())
}
