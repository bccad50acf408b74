//! A real Prometheus that scrapes real programs each second, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::chain::{http_get, tail};
use crate::process::Process;
use crate::scratch::free_address;
use crate::wait_for;

/// Debian's.
const PROGRAM: &str = "/usr/bin/prometheus";

/// A running Prometheus.
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one that scrapes `targets`, by job, and evaluates `rules` each second.
    ///
    /// # Errors
    /// It does not start, or refuses the rules.
    pub fn start(folder: &Path, targets: &[(&str, SocketAddr)], rules: &[PathBuf]) -> Result<Self> {
        let mut config = String::from(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files:\n",
        );
        for rules in rules {
            writeln!(config, "  - {}", rules.display())?;
        }
        config.push_str("scrape_configs:\n");
        let mut jobs: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (job, address) in targets {
            jobs.entry(job).or_default().push(format!("'{address}'"));
        }
        for (job, addresses) in jobs {
            let addresses = addresses.join(", ");
            writeln!(config, "  - job_name: {job}")?;
            writeln!(config, "    static_configs: [{{targets: [{addresses}]}}]")?;
        }
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config)?;
        let address = free_address()?;
        let arguments = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", folder.join("tsdb").display()),
            format!("--web.listen-address={address}"),
            "--log.level=warn".to_owned(),
        ];
        let process = Process::start(folder, "prometheus", Path::new(PROGRAM), arguments)?;
        let prometheus = Self { process, address };
        wait_for(30, "Prometheus to be ready", || {
            http_get(address, "/-/ready").ok()
        })
        .with_context(|| prometheus.words())?;
        Ok(prometheus)
    }

    /// The answer's data to a path below `/api/v1/`.
    ///
    /// # Errors
    /// There is none: the question is wrong, or Prometheus away.
    pub fn get(&self, path: &str) -> Result<Value> {
        let text = http_get(self.address, &format!("/api/v1/{path}"))?;
        let mut answer: Value = serde_json::from_str(&text)?;
        Ok(answer["data"].take())
    }

    /// What an expression results in now.
    ///
    /// # Errors
    /// It is wrong.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let path = format!("query?query={}", percent(expression));
        let data = self.get(&path).context(expression.to_owned())?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// The names of all metrics that it has.
    ///
    /// # Errors
    /// It does not answer.
    pub fn names(&self) -> Result<BTreeSet<String>> {
        let data = self.get("label/__name__/values")?;
        Ok(serde_json::from_value(data)?)
    }

    /// The alerts that are pending or fire now.
    ///
    /// # Errors
    /// It does not answer.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        let data = self.get("alerts")?;
        Ok(data["alerts"].as_array().context("alerts")?.clone())
    }

    /// What it said, for a failed test.
    pub fn words(&self) -> String {
        tail(&self.process.words())
    }
}

/// Asks promtool whether anything is wrong with a page of metrics.
///
/// # Errors
/// Something is, or promtool is not installed.
pub fn check(page: &str) -> Result<()> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool is part of the package prometheus")?;
    let mut input = promtool.stdin.take().context("a pipe")?;
    input.write_all(page.as_bytes())?;
    drop(input);
    let output = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.is_empty(), "{said}\n{page}");
    Ok(())
}

/// Text as it stands in a query of a URL.
fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte.into()),
            // Writing to a string cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}
