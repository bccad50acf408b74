//! The embedded broker, and `watch` before any broker: both protocol versions on one port, nothing
//! lost while a subscriber is away or slow, and a watcher that outlives its broker.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use vmkpi_tests::chain::{Broker, lines_of, start_watch};
use vmkpi_tests::process::{Process, program, vmkpi};
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::wait_for;

const TOPIC: &str = "vmkpi/v1/acme/data/shop/load/unencrypted/web";

fn embedded(scratch: &Scratch) -> Result<(Process, u16)> {
    let arguments = ["broker", "--listen", "127.0.0.1:0"];
    let broker = Process::start(scratch.path(), "broker", &program("vmkpi")?, arguments)?;
    let port = wait_for(10, "the embedded broker", || {
        let text = std::fs::read_to_string(&broker.out).ok()?;
        let address = text.strip_prefix("listening on mqtt://127.0.0.1:")?;
        address.split(' ').next()?.parse().ok()
    })?;
    Ok((broker, port))
}

/// Publishes each line as a message with QoS 1, and waits until the broker has acknowledged all.
fn publish(port: u16, version: &str, topic: &str, lines: &str) -> Result<()> {
    let port = port.to_string();
    let mut client = Command::new("mosquitto_pub")
        .args(["-V", version, "-p", &port, "-q", "1", "-t", topic, "-l"])
        .stdin(Stdio::piped())
        .spawn()?;
    client
        .stdin
        .take()
        .context("a pipe")?
        .write_all(lines.as_bytes())?;
    ensure!(client.wait()?.success(), "mosquitto_pub failed");
    Ok(())
}

fn numbers(count: usize) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

fn sorted_numbers(text: &str) -> Vec<usize> {
    let mut numbers: Vec<usize> = text.lines().filter_map(|l| l.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn both_versions_share_one_port_and_a_session_survives_its_connection() -> Result<()> {
    let scratch = Scratch::new()?;
    let (_broker, port) = embedded(&scratch)?;
    for (version, other) in [("311", "5"), ("5", "311")] {
        let topic = format!("a/{version}");
        let subscribe = |arguments: &[&str]| {
            let mut client = Command::new("mosquitto_sub");
            client.args([
                "-V",
                version,
                "-p",
                &port.to_string(),
                "-q",
                "1",
                "-t",
                &topic,
            ]);
            client
                .args(["-c", "-i", &topic.replace('/', "-")])
                .args(arguments);
            if version == "5" {
                client.args(["-x", "60"]);
            }
            client.stdin(Stdio::null()).output()
        };
        ensure!(subscribe(&["-E"])?.status.success(), "no session");
        publish(port, other, &topic, &numbers(500))?;
        let output = subscribe(&["-C", "500", "-W", "20"])?;
        let seen = sorted_numbers(&String::from_utf8(output.stdout)?);
        assert_eq!(seen, (1..=500).collect::<Vec<_>>(), "version {version}");
    }
    Ok(())
}

#[test]
fn a_subscriber_that_hangs_misses_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let (_broker, port) = embedded(&scratch)?;
    let text = port.to_string();
    let arguments = [
        "-V", "5", "-p", &text, "-q", "1", "-t", "a", "-C", "20000", "-W", "40",
    ];
    let binary = Path::new("/usr/bin/mosquitto_sub");
    let mut client = Process::start(scratch.path(), "slow", binary, arguments)?;
    std::thread::sleep(Duration::from_millis(500));
    client.signal(Signal::STOP)?;
    publish(port, "311", "a", &numbers(20_000))?;
    client.signal(Signal::CONT)?;
    client.wait(50)?;
    let seen = sorted_numbers(&std::fs::read_to_string(&client.out)?);
    assert_eq!(seen, (1..=20_000).collect::<Vec<_>>());
    Ok(())
}

/// A message with one row.
fn message(seq: u64) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{seq:032x}","source":"/vmkpi/acme/shop","subject":"unencrypted/web","time":"2026-11-20T17:00:00.000000Z","type":"org.vmkpi.raw.v1","datacontenttype":"application/json","stream":"{:032x}","specifier":"load","revision":"00","after":{},"through":{seq},"base":0,"data":{{"samples":[{{"seq":{seq},"key":"{seq:016x}","time":"2026-11-20T17:00:00.000000Z","values":{{"n":{seq}}}}}]}}}}"#,
        7,
        seq - 1
    ) + "\n"
}

#[test]
fn a_watcher_outlives_its_broker_and_is_back_before_a_producer() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut broker = Broker::start(scratch.path())?;
    let mut watch = start_watch(scratch.path(), &broker)?;
    publish(broker.port(), "5", TOPIC, &message(1))?;
    for seq in 2..5 {
        broker.restart_after(Duration::from_millis(1500))?;
        std::thread::sleep(Duration::from_secs(1));
        publish(broker.port(), "5", TOPIC, &message(seq))?;
    }
    let seqs = || -> Option<Vec<u64>> {
        Some(
            lines_of(&watch.out)
                .ok()?
                .iter()
                .filter_map(|l| l["seq"].as_u64())
                .collect(),
        )
    };
    wait_for(10, "all four rows", || {
        seqs().filter(|s| s[..] == [1, 2, 3, 4])
    })?;
    ensure!(watch.terminate()?.success(), "{}", watch.words());
    Ok(())
}

#[test]
fn hostile_messages_are_said_once_and_shown_never() -> Result<()> {
    let scratch = Scratch::new()?;
    let broker = Broker::start(scratch.path())?;
    let mut watch = start_watch(scratch.path(), &broker)?;
    let port = broker.port();
    let good = message(1);
    let deep = "[".repeat(100_000);
    for bad in [
        "\u{1b}[2J",
        "{}",
        &deep,
        &good.replace("\"through\":1", "\"through\":-1"),
        &good.replace("raw.v1", "raw.v9"),
        "null",
    ] {
        publish(port, "5", TOPIC, &(bad.trim_end().to_owned() + "\n"))?;
    }
    publish(port, "5", &TOPIC.replace("shop", "other"), &good)?;
    publish(port, "5", TOPIC, &good)?;
    let lines = wait_for(10, "the good one", || {
        lines_of(&watch.out).ok().filter(|lines| !lines.is_empty())
    })?;
    ensure!(watch.terminate()?.success(), "{}", watch.words());
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (lines[0]["vm"].as_str(), lines[0]["seq"].as_u64()),
        (Some("shop"), Some(1))
    );
    let words = watch.words();
    assert_eq!(words.matches("none of ours on").count(), 1, "{words}");
    assert!(
        words.contains("another origin") && !words.contains('\u{1b}'),
        "{words}"
    );
    assert!(words.contains("6 times"), "{words}");
    Ok(())
}

/// A way to `port` on which nothing gets through for `delay`.
fn slow_way(port: u16, delay: Duration) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || -> Result<()> {
        for client in listener.incoming() {
            let mut client = client?;
            std::thread::spawn(move || -> Result<()> {
                std::thread::sleep(delay);
                let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
                let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                std::io::copy(&mut client, &mut server)?;
                Ok(())
            });
        }
        Ok(())
    });
    Ok(address.port())
}

/// The table is drawn anew more often than such a broker answers.
#[test]
fn a_broker_far_away_is_reached() -> Result<()> {
    let scratch = Scratch::new()?;
    let broker = Broker::start(scratch.path())?;
    let port = broker.port();
    let url = format!(
        "mqtt://127.0.0.1:{}",
        slow_way(port, Duration::from_millis(900))?
    );
    let arguments = [
        "watch", "--broker", &url, "--format", "json", "--count", "1",
    ];
    let mut watch = Process::start(scratch.path(), "watch", &program("vmkpi")?, arguments)?;
    broker.wait_for_watcher()?;
    publish(port, "5", TOPIC, &message(1))?;
    ensure!(watch.wait(10)?.success(), "{}", watch.words());
    assert_eq!(watch.words(), "");
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() -> Result<()> {
    let scratch = Scratch::new()?;
    let broker = Broker::start(scratch.path())?;
    let port = broker.port();
    let vmkpi_path = program("vmkpi")?;
    let script = format!(
        "{} watch --broker mqtt://127.0.0.1:{port} --format json | head -n 1; echo ${{PIPESTATUS[0]}}",
        vmkpi_path.display()
    );
    let mut shell = Process::start(
        scratch.path(),
        "shell",
        Path::new("/bin/bash"),
        ["-c", &script],
    )?;
    broker.wait_for_watcher()?;
    for seq in 1..=3 {
        publish(port, "5", TOPIC, &message(seq))?;
        std::thread::sleep(Duration::from_millis(200));
    }
    shell.wait(10)?;
    let out = std::fs::read_to_string(&shell.out)?;
    assert!(out.ends_with("\n0\n"), "{out}{}", shell.words());
    ensure!(vmkpi(&["--help"])?.status.success(), "help");
    Ok(())
}
