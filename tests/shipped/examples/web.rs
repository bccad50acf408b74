//! The web applications: a row a second, and no request ever waits for it.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use vmkpi_tests::chain::{http_get, query};
use vmkpi_tests::process::Process;
use vmkpi_tests::programs::start_guest;
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

use super::table::{Desk, Example, runnable};

/// A running application.
struct App<'a> {
    scratch: &'a Scratch,
    point: String,
    address: SocketAddr,
    process: Process,
    requests: u64,
}

impl<'a> App<'a> {
    fn start(scratch: &'a Scratch, example: &Example) -> Result<Self> {
        let address = free_address()?;
        let desk = Desk {
            web: address.port(),
            ..Desk::new(scratch.path(), &scratch.path().join("kpi"))
        };
        let (_, point) = example
            .command
            .split_once("/kpi/unencrypted/")
            .context("no file")?;
        let point = point.split(' ').next().unwrap_or_default().to_owned();
        let process = desk.start(&point, example)?;
        let app = Self {
            scratch,
            point,
            address,
            process,
            requests: 0,
        };
        let listens = || TcpStream::connect(address).ok();
        wait_for(60, "the application to listen", listens).with_context(|| app.process.words())?;
        Ok(app)
    }

    /// A request that succeeds.
    fn ask(&mut self) -> Result<()> {
        let answer = http_get(self.address, "/")?;
        self.requests += 1;
        ensure!(answer == "hello\n", "{answer}");
        Ok(())
    }

    /// A request by another user, that fails.
    fn ask_as_another_what_is_broken(&mut self) -> Result<()> {
        let url = format!("http://{}/broken", self.address);
        let arguments = [
            "--silent",
            "--output",
            "/dev/null",
            "--interface",
            "127.0.0.2",
        ];
        let output = Command::new("curl")
            .args(arguments)
            .args(["--write-out", "%{http_code}", &url])
            .output()?;
        self.requests += 1;
        ensure!(output.stdout == b"500", "{output:?}");
        Ok(())
    }

    fn query(&self, columns: &str) -> Result<Vec<Value>> {
        let database = self.scratch.path().join("guest/unencrypted.db");
        query(
            &database,
            &format!("SELECT {columns} FROM \"{}\" ORDER BY _seq", self.point),
        )
    }

    /// Waits until a row says these totals.
    fn wait_for_totals(&self, errors: u64) -> Result<()> {
        let last = || self.query("requests_total, errors_total").ok()?.pop();
        wait_for(60, "the totals", || {
            let row = last()?;
            (row[0] == self.requests && row[1] == errors).then_some(())
        })
        .with_context(|| format!("{} {:?} {}", self.requests, last(), self.process.words()))
    }

    /// Waits until it has said `n` times that it stores, or that it does not; it says so again for another reason.
    fn wait_for_word(&self, word: &str, n: usize) -> Result<()> {
        let said = || self.process.words().matches(word).count();
        wait_for(60, word, || (said() >= n).then_some(())).with_context(|| self.process.words())
    }

    fn words(&self) -> (String, String) {
        let path = self
            .scratch
            .path()
            .join("kpi/unencrypted")
            .join(&self.point);
        let of = |word: &str| format!("{}: {word}", path.display());
        (of("not stored: "), of("stored\n"))
    }

    /// What a JVM says of itself.
    fn check_jvm(&self) -> Result<()> {
        let columns = "heap_used_bytes, heap_max_bytes, threads, gc_runs_total, gc_seconds_total";
        let row = self.query(columns)?.pop().context("a row")?;
        let number = |at: usize| row[at].as_f64().unwrap_or(-1.0);
        ensure!(number(0) > 1e6 && number(0) <= number(1), "{row}");
        ensure!(
            number(2) >= 2.0 && number(3) >= 0.0 && number(4) >= 0.0,
            "{row}"
        );
        Ok(())
    }

    /// Rows are a second apart but for the time in which nothing could be stored, and say how it went.
    fn check_rows(&self) -> Result<()> {
        let times = self.query("_timestamp")?;
        let times: Vec<u64> = times.iter().filter_map(|row| row[0].as_u64()).collect();
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (least, most) = (gaps.iter().min().context("a row")?, gaps.iter().max());
        // A clock that is set may take some of it.
        ensure!(*least > 800_000, "{gaps:?}");
        ensure!(
            most.is_some_and(|gap| *gap > 1_900_000),
            "it was never blocked: {gaps:?}"
        );
        let rows = self.query("latency_p50_ms, latency_p99_ms, users")?;
        let latency = |row: &&Value| {
            let (p50, p99) = (row[0].as_f64(), row[1].as_f64());
            p50.is_some_and(|p50| p50 > 0.0) && p50 <= p99
        };
        ensure!(rows.iter().any(|row| latency(&row)), "{rows:?}");
        ensure!(
            rows.iter().any(|row| row[2] == 2),
            "not two users: {rows:?}"
        );
        wait_for(60, "a second without requests", || {
            let last = self.query("latency_p50_ms, latency_p99_ms").ok()?.pop()?;
            (last[0].is_null() && last[1].is_null()).then_some(())
        })
    }
}

#[test]
fn a_web_application_stores_its_numbers_and_answers_whatever_the_partition_does() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut apps = vec![];
    for example in runnable("A web application's own numbers")? {
        apps.push(App::start(&scratch, &example)?);
    }
    // There is no partition yet.
    for app in &mut apps {
        app.wait_for_word(&app.words().0, 1)?;
        app.ask()?;
    }
    let mut guest = start_guest(scratch.path(), &[], &[])?;
    for app in &mut apps {
        app.wait_for_word(&app.words().1, 1)?;
        for _ in 0..20 {
            app.ask()?;
        }
        app.ask_as_another_what_is_broken()?;
        app.wait_for_totals(1)?;
    }
    // It does not answer: who stores to it hangs until it does.
    guest.signal(Signal::STOP)?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        for app in &mut apps {
            app.ask()?;
        }
    }
    guest.signal(Signal::CONT)?;
    for app in &apps {
        app.wait_for_totals(1)?;
        app.check_rows()?;
        if app.point.starts_with("jvm") {
            app.check_jvm()?;
        }
    }
    // It is killed, and comes back.
    guest.kill()?;
    for app in &mut apps {
        app.wait_for_word(&app.words().0, 2)?;
        app.ask()?;
    }
    let _guest = start_guest(scratch.path(), &[], &[])?;
    for app in &apps {
        app.wait_for_word(&app.words().1, 2)?;
        app.wait_for_totals(1)?;
    }
    Ok(())
}
