//! Readers: what was stored is printed once, what is missing is named.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use vmkpi_tests::chain::{Broker, Chain};
use vmkpi_tests::process::Process;
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::{schema, wait_for};

use super::table::{Desk, runnable, section};

const DESCRIPTOR: &str = r#"vm = "shop"
primary_site = "acme"
[[monitor]]
id = "every-row"
point = "unencrypted/*"
[[monitor]]
id = "means"
point = "unencrypted/shell"
interval = "1s"
delivery = "1s"
format = "processed"
function = "mean"
"#;

/// Each reader, with all that it has started.
struct Readers(Vec<Process>);

impl Readers {
    /// Starts them and waits until the broker has let each subscribe.
    fn start(desk: &Desk, broker: &Broker) -> Result<Self> {
        let mut readers = Self(vec![]);
        for example in runnable("Reading what is published")? {
            let name = format!("reads-{}", example.language);
            readers.0.push(desk.start(&name, &example)?);
        }
        let subscribed = |log: &str| {
            let of_reader = |l: &&str| l.ends_with(" vmkpi/v1/acme/data/#");
            log.lines().filter(of_reader).count()
        };
        wait_for(60, "the readers to subscribe", || {
            (subscribed(&broker.log()) >= readers.0.len()).then_some(())
        })
        .with_context(|| format!("{}\n{}", broker.log(), readers.words()))?;
        Ok(readers)
    }

    fn words(&self) -> String {
        let words = |r: &Process| format!("{}{}", text(r), r.words());
        self.0.iter().map(words).collect::<Vec<_>>().join("\n--\n")
    }

    /// Waits until each has printed a line that is `enough`.
    fn wait_for(&self, what: &str, enough: impl Fn(&str) -> bool) -> Result<()> {
        for reader in &self.0 {
            let printed = || text(reader).lines().any(&enough).then_some(());
            wait_for(60, what, printed).with_context(|| self.words())?;
        }
        Ok(())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for reader in &self.0 {
            if let Some(group) = i32::try_from(reader.pid()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::TERM);
            }
        }
    }
}

fn text(reader: &Process) -> String {
    std::fs::read_to_string(&reader.out).unwrap_or_default()
}

/// The values at a line's end, each number as a fraction: languages write them differently.
fn values(line: &str) -> Option<Value> {
    let values: Value = serde_json::from_str(&line[line.find('{')?..]).ok()?;
    let as_fraction = |value: &Value| value.as_f64().map_or_else(|| value.clone(), Value::from);
    let members = values.as_object()?.iter();
    Some(
        members
            .map(|(name, value)| (name.clone(), as_fraction(value)))
            .collect(),
    )
}

#[test]
fn what_was_stored_is_printed_by_each_reader_and_so_is_what_was_lost() -> Result<()> {
    let guest = ["--retain-rows=5", "--drop-unacknowledged"];
    let mut chain = Chain::start_with(DESCRIPTOR, &guest, &[])?;
    let desk = Desk {
        broker: chain.broker.port(),
        ..Desk::new(chain.folder(), &chain.mount())
    };
    let readers = Readers::start(&desk, &chain.broker)?;
    let stored = section("Storing a KPI")?;
    let shell = stored.iter().find(|example| example.language == "shell");
    desk.succeed(&[shell.context("no shell")?.clone()])?;
    let expected = json!({"current_users": 42.0, "load": 0.7});
    for what in ["every-row 2", "means mean of "] {
        let begin = format!("/vmkpi/acme/shop unencrypted/shell {what}");
        readers.wait_for(&begin, |line| {
            line.starts_with(&begin) && values(line).as_ref() == Some(&expected)
        })?;
    }
    wait_for_mark(&chain, "acked_seq", 1)?;
    chain.without_host(|chain| {
        for n in 2..=20 {
            let row = format!("current_users,load\n{n},0\n");
            std::fs::write(chain.mount().join("unencrypted/shell"), row)?;
        }
        wait_for_mark(chain, "trimmed_seq", 15)
    })?;
    for what in ["rows 2 to 15 are lost: retention_rows", "2"] {
        let begin = format!("/vmkpi/acme/shop unencrypted/shell every-row {what}");
        let last = json!({"current_users": 20.0, "load": 0.0});
        readers.wait_for(&begin, |line| {
            let expected = what != "2" || values(line).as_ref() == Some(&last);
            line.starts_with(&begin) && expected
        })?;
    }
    Ok(())
}

/// Waits until the guest has noted this of the point.
fn wait_for_mark(chain: &Chain, mark: &str, seq: u64) -> Result<()> {
    let sql = format!("SELECT {mark} FROM \".marks\" WHERE name = 'shell'");
    wait_for(30, mark, || {
        let rows = chain.query("unencrypted.db", &sql).ok()?;
        (rows.first()?[0] == seq).then_some(())
    })
}

/// A message that accounts for these rows and has them.
fn raw(after: u64, through: u64) -> Result<Value> {
    let mut event = schema::example(&schema::folder().join("examples/message/valid/raw.json"))?;
    let sample = event["data"]["samples"][0].take();
    let samples = (after + 1..=through).map(|seq| {
        let mut sample = sample.clone();
        (sample["seq"], sample["values"]) = (json!(seq), json!({"n": seq}));
        sample
    });
    event["data"]["samples"] = samples.collect();
    (event["after"], event["through"]) = (json!(after), json!(through));
    Ok(event)
}

/// What a broker and hosts may bring: repetitions, holes, overlaps, large numbers, what is no message, and every
/// example of the schema.
fn messages() -> Result<Vec<String>> {
    let mut lines = vec![];
    for (after, through) in [
        (0, 1),
        (1, 2),
        (1, 2),
        (0, 1),
        (1, 3),
        (3, 3),
        (4, 5),
        (3, 4),
    ] {
        lines.push(raw(after, through)?.to_string());
    }
    lines.push("no message".to_owned());
    lines.push("[1]".to_owned());
    lines.push("{\"specversion\":\"1.0\",\"after\":{},\"through\":1}".to_owned());
    let mut forged = raw(0, 1)?;
    (forged["stream"], forged["data"]) = (json!("ee"), json!(7));
    lines.push(forged.to_string());
    let folder = schema::folder().join("examples/message/valid");
    let mut files: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for (n, file) in files.iter().enumerate() {
        let mut event = schema::example(&file.path())?;
        event["stream"] = json!(format!("{:032x}", n + 1));
        // Sent again, it shows nothing again.
        lines.extend([event.to_string(), event.to_string()]);
    }
    let mut large = raw(0, 1)?;
    large["stream"] = json!(format!("{:032x}", 0xff));
    (large["after"], large["through"]) = (json!("4000000000"), json!("4000000001"));
    large["data"]["samples"][0]["seq"] = json!(4_000_000_001_u64);
    lines.push(large.to_string());
    lines.push(raw(5, 6)?.to_string());
    Ok(lines)
}

/// What each reader has to print of them, without source, subject, specifier and time.
const PRINTED: [&str; 15] = [
    r#"{"n":1.0}"#,
    r#"{"n":2.0}"#,
    r#"{"n":3.0}"#,
    "rows 4 to 4 did not come",
    r#"{"n":5.0}"#,
    // The examples of the schema, by name.
    "\"/w==\"",
    r#"{"current_users":42.0,"load":0.5,"note":null,"zip":"00742","big":"9223372036854775807"}"#,
    "rows 17 to 17 are lost: retention_age",
    r#"{"device":"vda","read_bytes_total":1000000.0}"#,
    r#"mean of 2026-11-20T17:00:00.000000Z to 2026-11-20T17:00:10.000000Z, in part: {"current_users":41.5}"#,
    r#"mean of 2026-11-20T17:00:00.000000Z to 2026-11-20T17:00:10.000000Z: {"current_users":41.5}"#,
    r#"{"current_users":42.0,"load":0.5,"note":null,"zip":"00742","big":"9223372036854775807"}"#,
    "sealed rows 17 to 17: vmkpi open --key has them",
    r#"{"n":1.0}"#,
    r#"{"n":6.0}"#,
];

/// A printed line as in [`PRINTED`].
fn said(line: &str) -> String {
    let rest = line.splitn(4, ' ').nth(3).unwrap_or_default();
    let rest = rest
        .strip_prefix("2026-11-20T17:00:00.000001Z ")
        .unwrap_or(rest);
    match (rest.find('{'), values(rest)) {
        (Some(at), Some(values)) => format!("{}{values}", &rest[..at]),
        _ => rest.to_owned(),
    }
}

#[test]
fn each_reader_prints_each_row_once_and_names_what_did_not_come() -> Result<()> {
    let scratch = Scratch::new()?;
    let broker = Broker::start(scratch.path())?;
    let desk = Desk {
        broker: broker.port(),
        ..Desk::new(scratch.path(), scratch.path())
    };
    let readers = Readers::start(&desk, &broker)?;
    publish(broker.port(), &messages()?)?;
    readers.wait_for("the last row", |line| said(line) == PRINTED[14])?;
    for reader in &readers.0 {
        let printed: Vec<_> = text(reader).lines().map(said).collect();
        ensure!(printed == PRINTED, "{printed:#?}\n{}", reader.words());
    }
    Ok(())
}

/// Publishes messages, in order.
fn publish(port: u16, messages: &[String]) -> Result<()> {
    let mut client = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-q", "1", "-l", "-t"])
        .args(["vmkpi/v1/acme/data/shop/web-load/unencrypted/web", "-p"])
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .spawn()?;
    let mut lines = client.stdin.take().context("a pipe")?;
    lines.write_all((messages.join("\n") + "\n").as_bytes())?;
    drop(lines);
    ensure!(client.wait()?.success(), "mosquitto_pub");
    Ok(())
}

#[test]
fn a_broker_that_is_not_there_is_told_by_each_reader() -> Result<()> {
    let scratch = Scratch::new()?;
    let desk = Desk {
        broker: vmkpi_tests::scratch::free_address()?.port(),
        ..Desk::new(scratch.path(), scratch.path())
    };
    for example in runnable("Reading what is published")? {
        let reader = Readers(vec![desk.start(&example.language, &example)?]);
        wait_for(60, &format!("{} to say so", example.language), || {
            let said = reader.0[0].words().to_lowercase();
            (said.contains("refused")).then_some(())
        })?;
    }
    Ok(())
}
