//! What `vmkpi collect` keeps besides KPIs in the clear: what is sealed, with the key and without it, measurements of
//! infrastructure, and what it missed of a VM whose descriptor does not name it.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi_tests::chain::{Chain, query};
use vmkpi_tests::collector::{Collector, Key, NAME, confirmed_by};
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::process::{Process, program, vmkpi};
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::wait_for;

fn load(chain: &Chain, pause_ms: u64) -> Result<Writer> {
    let file = chain.mount().join("unencrypted/load");
    Writer::start(chain.folder(), &[file], Duration::from_millis(pause_ms))
}

fn wait_for_rows(collect: &Collector, rows: u64) -> Result<()> {
    wait_for(60, &format!("{rows} rows to be kept"), || {
        (collect.count() >= rows).then_some(())
    })
    .with_context(|| collect.process.words())
}

/// A collect without name and keys, which has begun to listen.
fn stranger(chain: &Chain, db: &Path) -> Result<Process> {
    let options = [
        "collect".to_owned(),
        format!("--broker={}", chain.broker.url()),
        format!("--db={}", db.display()),
    ];
    let process = Process::start(chain.folder(), "stranger", &program("vmkpi")?, &options)?;
    wait_for(20, "it to listen", || {
        process.words().contains("connected to").then_some(())
    })
    .with_context(|| process.words())?;
    Ok(process)
}

/// What `vmkpi open` makes of these lines.
fn opened(key: &str, lines: &[u8]) -> Result<Vec<Value>> {
    let mut open = Command::new(program("vmkpi")?)
        .args(["open", "--key", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = open.stdin.take().context("a pipe")?;
    let lines = lines.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&lines));
    let output = open.wait_with_output()?;
    feeder.join().ok().context("it ends")??;
    ensure!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|l| Ok(serde_json::from_str(l)?)).collect()
}

#[test]
fn what_is_sealed_is_kept_in_the_clear_by_who_has_the_key_and_sealed_by_who_has_not() -> Result<()>
{
    let keys = Scratch::new()?;
    let dir = keys.path().join("site").display().to_string();
    ensure!(
        vmkpi(&["key", "new", "seal", "--dir", &dir])?
            .status
            .success()
    );
    let key = Key::make(keys.path(), "collect.key")?;
    let descriptor = format!(
        "primary_key_file = '{dir}/seal.pub.pem'\n{}seal = true\n",
        confirmed_by(&key)
    );
    let chain = Chain::start_with(&with_open_ready(&descriptor), &[], &[])?;
    let private = format!("{dir}/seal.key.pem");
    let option = format!("--key={private}");
    let folder = chain.folder().to_owned();
    let collect = Collector::start(&folder, &chain.broker, &folder, &key, &[&option])?;
    let db = folder.join("sealed.db");
    let other = stranger(&chain, &db)?;
    let mut writer = load(&chain, 5)?;
    wait_for_rows(&collect, 200)?;
    writer.stop()?;
    let stored = collect.judge(&chain, &writer, 60)?;
    let count = |sql: &str| Ok::<_, anyhow::Error>(query(&db, sql)?[0][0].as_u64());
    let clear = "SELECT count(*) FROM samples WHERE point = 'unencrypted/load'";
    ensure!(count(clear)? == Some(0), "kept in the clear without a key");
    let rows = || {
        let sql = "SELECT * FROM sealed_messages WHERE point = 'unencrypted/load'";
        let output = Command::new("sqlite3")
            .arg("-json")
            .arg(&db)
            .arg(sql)
            .output();
        let output = output.ok().filter(|o| o.status.success())?;
        let lines = opened(&private, &output.stdout).ok()?;
        let samples = lines.iter().flat_map(|l| l["data"]["samples"].as_array());
        let numbers = samples.flatten().map(|s| s["values"]["n"].as_u64());
        numbers.collect::<Option<Vec<u64>>>()
    };
    let numbers = wait_for(60, "it to have all of them", || {
        rows().filter(|numbers| numbers.len() >= stored)
    })
    .with_context(|| other.words())?;
    let all: HashSet<u64> = numbers.iter().copied().collect();
    ensure!(all.len() == numbers.len(), "one is kept twice");
    ensure!(writer.stored()?.is_subset(&all), "one is missing");
    Ok(())
}

/// The chain's own first store is not sealed, as its watcher has no key.
fn with_open_ready(descriptor: &str) -> String {
    let open = "[[monitor]]\nid = 'ready'\npoint = 'unencrypted/ready'\n";
    descriptor.replace("unencrypted/*", "unencrypted/load") + open
}

/// The value of a host's metric, whatever its labels.
fn metric(chain: &Chain, name: &str) -> Option<f64> {
    let page = chain.scrape().ok()?;
    let mut lines = page.lines().filter(|l| l.starts_with(name));
    lines.next()?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn measurements_stay_in_the_hosts_outbox_until_collect_has_confirmed_them() -> Result<()> {
    let keys = Scratch::new()?;
    let key = Key::make(keys.path(), "collect.key")?;
    let infra = "[[monitor]]\nid = 'infra'\npoint = 'infra/*'\ninterval_ms = 200\n";
    let mut chain = Chain::start(&(confirmed_by(&key) + infra))?;
    let batches = |chain: &Chain| metric(chain, "vmkpi_outbox_batches{").unwrap_or(0.0);
    let published = |chain: &Chain| {
        let lines = chain.lines().unwrap_or_default();
        let of = |l: &&Value| l["point"].as_str().is_some_and(|p| p.starts_with("infra/"));
        lines.iter().filter(of).count()
    };
    // The broker has taken them, and its word does not count, before and after the host is killed.
    for _ in 0..2 {
        let before = batches(&chain);
        wait_for(60, "batches that nobody confirms", || {
            (batches(&chain) >= before + 20.0 && published(&chain) > 20).then_some(())
        })
        .with_context(|| chain.words())?;
        chain.kill_host()?;
        wait_for(60, "what is on disk to be counted again", || {
            (batches(&chain) >= before + 20.0).then_some(())
        })
        .with_context(|| chain.words())?;
    }
    let kept_back = batches(&chain);
    ensure!(kept_back >= 40.0, "{kept_back} batches are there");
    let folder = chain.folder().to_owned();
    let mut collect = Collector::start(&folder, &chain.broker, &folder, &key, &[])?;
    wait_for(90, "the outbox to be let go of", || {
        (batches(&chain) < 10.0).then_some(())
    })
    .with_context(|| format!("{}\n{}", collect.process.words(), chain.words()))?;
    // Stopped, nothing goes any more.
    collect.process.terminate()?;
    let less = batches(&chain);
    wait_for(60, "batches that nobody confirms", || {
        (batches(&chain) >= less + 10.0).then_some(())
    })?;
    let streams = collect.query(
        "SELECT stream, point, count(*), max(seq), count(DISTINCT seq) FROM samples \
         WHERE point LIKE 'infra/%' GROUP BY stream, point",
    )?;
    ensure!(streams.len() >= 3, "{streams:?}");
    for stream in &streams {
        let [count, last, distinct] = [2, 3, 4].map(|at| stream[at].as_u64());
        ensure!(count == last && count == distinct, "each once: {stream}");
    }
    let gaps = collect.query("SELECT * FROM gaps")?;
    ensure!(gaps.is_empty(), "{gaps:?}");
    Ok(())
}

/// A collect that asks, and that no descriptor names.
#[test]
#[ignore = "takes minutes; make soak"]
fn what_a_collect_missed_of_a_vm_that_does_not_name_it_becomes_a_gap_and_all_else_is_kept()
-> Result<()> {
    let keys = Scratch::new()?;
    let key = Key::make(keys.path(), "collect.key")?;
    let chain = Chain::start(vmkpi_tests::chain::EVERY_ROW)?;
    let folder = chain.folder().to_owned();
    let mut writer = load(&chain, 200)?;
    let mut collect = Collector::start(&folder, &chain.broker, &folder, &key, &[])?;
    let numbers = |collect: &Collector| -> Option<Vec<u64>> {
        let sql = "SELECT data ->> 'n' FROM samples WHERE point = 'unencrypted/load' ORDER BY id";
        let rows = collect.query(sql).ok()?;
        rows.iter().map(|row| row[0].as_u64()).collect()
    };
    // It begins where the guest is acknowledged, a little before what comes: that is a hole, too.
    let begun = |collect: &Collector, more: usize| {
        let before = collect.count() as usize;
        wait_for(300, "rows behind the hole to be kept", || {
            numbers(collect).filter(|n| n.len() > before + more)
        })
        .with_context(|| collect.process.words())
    };
    begun(&collect, 20)?;
    collect.process.terminate()?;
    let (last, stored) = (numbers(&collect).context("rows")?, writer.stored()?.len());
    wait_for(60, "rows that it misses", || {
        (writer.stored().ok()?.len() > stored + 50).then_some(())
    })?;
    collect.begin()?;
    let resumed = *writer.stored()?.iter().max().context("stores")?;
    let kept = begun(&collect, 20)?;
    writer.stop()?;
    let gaps = collect.query(
        "SELECT reason, through - after FROM gaps WHERE point = 'unencrypted/load' ORDER BY id",
    )?;
    let last_gap = gaps.last().context("a gap")?;
    ensure!(last_gap[0] == "not_sent", "{NAME}: {gaps:?}");
    ensure!(last_gap[1].as_u64() >= Some(50), "{gaps:?}");
    // What came while it asked was held, and is there.
    let behind: Vec<u64> = kept
        .iter()
        .copied()
        .filter(|n| n > last.last().unwrap_or(&0))
        .collect();
    ensure!(
        behind[0] <= resumed + 20,
        "{} came, after {resumed}",
        behind[0]
    );
    let whole = behind.windows(2).all(|pair| pair[1] == pair[0] + 1);
    ensure!(whole, "a hole in {behind:?}");
    Ok(())
}
