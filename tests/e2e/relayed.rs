//! One relay between two brokers: what crosses and what does not, what is on its disk, and its limits.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::{Broker, http_get, query};
use vmkpi_tests::process::{Process, program, vmkpi};
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

/// Two brokers of one network, and a relay between them.
struct Pair {
    from: Broker,
    to: Broker,
    relay: Process,
    metrics: std::net::SocketAddr,
    scratch: Scratch,
    options: Vec<String>,
}

impl Pair {
    fn start(options: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let broker = |name: &str| {
            let folder = scratch.path().join(name);
            std::fs::create_dir(&folder)?;
            Broker::start(&folder)
        };
        let (from, to) = (broker("from")?, broker("to")?);
        let metrics = free_address()?;
        let mut pair = Self {
            relay: Process::start(scratch.path(), "nothing", Path::new("/bin/true"), [""; 0])?,
            metrics,
            options: options.iter().map(ToString::to_string).collect(),
            from,
            to,
            scratch,
        };
        pair.begin()?;
        Ok(pair)
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "relay".to_owned(),
            "--site=acme".to_owned(),
            format!("--from={}", self.from.url()),
            format!("--to={}", self.to.url()),
            format!("--state={}", self.state().display()),
            format!("--listen={}", self.metrics),
        ];
        arguments.extend_from_slice(&self.options);
        arguments
    }

    fn begin(&mut self) -> Result<()> {
        self.relay = Process::start(
            self.scratch.path(),
            "relay",
            &program("vmkpi")?,
            self.arguments(),
        )?;
        self.wait_for("connected{way=\"up\"}", |n| n == 1.0)?;
        self.wait_for("connected{way=\"down\"}", |n| n == 1.0)
    }

    fn number(&self, series: &str) -> Option<f64> {
        let page = http_get(self.metrics, "/metrics").ok()?;
        let start = format!("vmkpi_relay_{series} ");
        page.lines()
            .find_map(|l| l.strip_prefix(&start))?
            .parse()
            .ok()
    }

    fn wait_for(&self, series: &str, enough: impl Fn(f64) -> bool) -> Result<()> {
        wait_for(30, series, || {
            self.number(series).filter(|n| enough(*n)).map(|_| ())
        })
        .with_context(|| self.relay.words())
    }

    fn refused(&self, way: &str, reason: &str) -> Result<()> {
        let series = format!("refused_total{{way=\"{way}\",reason=\"{reason}\"}}");
        self.wait_for(&series, |n| n >= 1.0)
    }

    /// Everything on the broker from now on, as lines: topic, retain, type, user properties, payload.
    fn record(&self, broker: &Broker, name: &str) -> Result<Process> {
        let port = broker.port().to_string();
        let words = [
            "-V",
            "5",
            "-q",
            "1",
            "-p",
            &port,
            "-t",
            "#",
            "--retain-as-published",
        ];
        let format = [
            "-F",
            "%t retain=%r type=%C user=[%P] correlation=%D payload=%p",
        ];
        let recorder = Path::new("/usr/bin/mosquitto_sub");
        let recorder = Process::start(
            self.scratch.path(),
            name,
            recorder,
            words.into_iter().chain(format),
        )?;
        wait_for(20, "the recorder", || {
            publish(broker, &["-t", "ready", "-m", "ready"]).ok()?;
            let recorded = std::fs::read_to_string(&recorder.out).ok()?;
            recorded.contains("ready ").then_some(())
        })?;
        Ok(recorder)
    }
}

fn lines(recorder: &Process) -> Vec<String> {
    let text = std::fs::read_to_string(&recorder.out).unwrap_or_default();
    let lines = text.lines().filter(|l| !l.starts_with("ready "));
    lines.map(ToOwned::to_owned).collect()
}

fn wait_for_line(recorder: &Process, line: &str) -> Result<()> {
    wait_for(20, line, || {
        lines(recorder).iter().any(|l| l == line).then_some(())
    })
    .with_context(|| format!("{:#?}", lines(recorder)))
}

fn publish(broker: &Broker, arguments: &[&str]) -> Result<()> {
    let port = broker.port().to_string();
    let output = Command::new("mosquitto_pub")
        .args(["-V", "5", "-q", "1", "-p", &port])
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

const DATA: &str = "vmkpi/v1/acme/data/shop/load/unencrypted/load";
const LEASE: &str = "vmkpi/v1/acme/directory/producer/shop";

#[test]
fn what_crosses_is_as_it_came_and_goes_one_way() -> Result<()> {
    let pair = Pair::start(&[])?;
    let (up, down) = (
        pair.record(&pair.to, "up")?,
        pair.record(&pair.from, "down")?,
    );
    let properties = [
        "-D",
        "publish",
        "content-type",
        "a/b",
        "-D",
        "publish",
        "user-property",
        "k",
        "v",
        "-D",
        "publish",
        "correlation-data",
        "c",
    ];
    publish(
        &pair.from,
        &[&["-t", DATA, "-m", "one"], &properties[..]].concat(),
    )?;
    wait_for_line(
        &up,
        &format!("{DATA} retain=0 type=a/b user=[k:v vmkpi-hops:1] correlation=c payload=one"),
    )?;
    publish(&pair.from, &["-t", LEASE, "-m", "lease", "-r"])?;
    wait_for_line(
        &up,
        &format!("{LEASE} retain=1 type= user=[vmkpi-hops:1] correlation= payload=lease"),
    )?;
    // It is retained there: who comes later gets it, and not when it was taken back.
    let late = pair.record(&pair.to, "late")?;
    wait_for_line(
        &late,
        &format!("{LEASE} retain=1 type= user=[vmkpi-hops:1] correlation= payload=lease"),
    )?;
    publish(&pair.from, &["-t", LEASE, "-n", "-r"])?;
    wait_for_line(
        &up,
        &format!("{LEASE} retain=1 type= user=[vmkpi-hops:1] correlation= payload="),
    )?;
    let later = pair.record(&pair.to, "later")?;
    ensure!(lines(&later).is_empty(), "{:?}", lines(&later));
    for (branch, retain) in [
        ("confirm/c/shop", false),
        ("query/c/shop", false),
        ("directory/consumer/c", true),
    ] {
        let topic = format!("vmkpi/v1/acme/{branch}");
        let retain_flag = if retain { &["-r"][..] } else { &[] };
        publish(
            &pair.to,
            &[&["-t", &topic, "-m", "word"], retain_flag].concat(),
        )?;
        let flag = u8::from(retain);
        wait_for_line(
            &down,
            &format!("{topic} retain={flag} type= user=[vmkpi-hops:1] correlation= payload=word"),
        )?;
    }
    // Each way is one way: nothing came back.
    let back = |l: &String| l.contains("confirm") && l.contains("vmkpi-hops");
    ensure!(!lines(&up).iter().any(back), "{:?}", lines(&up));
    let words = pair.relay.words();
    ensure!(
        !words.contains("WARN") && !words.contains("ERROR"),
        "{words}"
    );
    Ok(())
}

#[test]
fn what_does_not_cross_is_counted_by_its_kind() -> Result<()> {
    let mut pair = Pair::start(&["--site=acme,b"])?;
    let up = pair.record(&pair.to, "up")?;
    let hops = |n: &'static str| ["-D", "publish", "user-property", "vmkpi-hops", n];
    for (reason, arguments) in [
        ("hops", [&["-t", DATA, "-m", "h"], &hops("8")[..]].concat()),
        (
            "properties",
            [&["-t", DATA, "-m", "p"], &hops("many")[..]].concat(),
        ),
        ("retained", vec!["-t", DATA, "-m", "r", "-r"]),
    ] {
        publish(&pair.from, &arguments)?;
        pair.refused("up", reason)?;
    }
    let large = pair.scratch.path().join("large");
    std::fs::write(&large, vec![b'x'; (3 << 20) + 1])?;
    publish(
        &pair.from,
        &["-t", DATA, "-f", &large.display().to_string()],
    )?;
    pair.refused("up", "too_large")?;
    // A bridge that leads back, as one that was configured by hand.
    publish(&pair.from, &["-t", DATA, "-m", "round"])?;
    wait_for_line(
        &up,
        &format!("{DATA} retain=0 type= user=[vmkpi-hops:1] correlation= payload=round"),
    )?;
    publish(
        &pair.from,
        &[&["-t", DATA, "-m", "round"], &hops("1")[..]].concat(),
    )?;
    pair.refused("up", "loop")?;
    // The session still holds what an earlier life was for.
    pair.relay.terminate()?;
    let other = "vmkpi/v1/b/data/vm/s/unencrypted/x";
    publish(&pair.from, &["-t", other, "-m", "other"])?;
    pair.options.clear();
    pair.begin()?;
    pair.refused("up", "other_site")?;
    ensure!(lines(&up).len() == 1, "{:?}", lines(&up));
    Ok(())
}

#[test]
fn what_waits_is_on_disk_and_a_full_spool_stops_the_taking() -> Result<()> {
    let mut pair = Pair::start(&["--spool.max-bytes=16MiB"])?;
    pair.to.process().kill()?;
    pair.wait_for("connected{way=\"up\"}", |n| n == 0.0)?;
    let block = pair.scratch.path().join("block");
    std::fs::write(&block, vec![b'x'; 1 << 20])?;
    for n in 0..40 {
        let topic = format!("{DATA}{n}");
        publish(
            &pair.from,
            &["-t", &topic, "-f", &block.display().to_string()],
        )?;
    }
    pair.wait_for("spool_full", |n| n == 1.0)?;
    let held = pair.number("spool_bytes").context("bytes")?;
    ensure!(held <= f64::from(16 << 20), "{held} bytes");
    ensure!(
        http_get(pair.metrics, "/-/healthy").is_err(),
        "healthy, though full"
    );
    let words = pair.relay.words();
    ensure!(words.matches("the spool is full").count() == 1, "{words}");
    // What it has taken is on its disk, and the rest at the broker: also for another life.
    pair.relay.kill()?;
    let state = pair.state().display().to_string();
    let said = vmkpi(&["relay", "status", "--state", &state])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("15 messages wait in 15.0 MiB"), "{said}");
    pair.to.begin()?;
    let up = pair.record(&pair.to, "later")?;
    pair.begin()?;
    let arrived = || {
        let topics = lines(&up)
            .into_iter()
            .filter_map(|l| Some(l.split_once(' ')?.0.to_owned()));
        topics.collect::<std::collections::HashSet<_>>()
    };
    wait_for(60, "all of them", || (arrived().len() == 40).then_some(()))
        .with_context(|| format!("{:?}\n{}", arrived(), pair.relay.words()))?;
    pair.wait_for("spool_messages", |n| n == 0.0)?;
    let left = query(&pair.state().join("relay.db"), "SELECT count(*) FROM spool")?;
    ensure!(left[0][0] == 0, "{left:?}");
    Ok(())
}

/// Without a Consumer that confirms, the broker's word lets a guest forget: the relay's word to the broker must hold.
#[test]
fn a_relay_that_is_killed_again_and_again_loses_nothing_that_a_broker_took() -> Result<()> {
    let mut pair = Pair::start(&[])?;
    let up = pair.record(&pair.to, "up")?;
    let port = pair.from.port().to_string();
    let script =
        "for n in $(seq 1 2000); do echo $n; done | mosquitto_pub -V 5 -q 1 -p \"$0\" -t \"$1\" -l";
    let sh = Path::new("/bin/sh");
    let mut publisher = Process::start(
        pair.scratch.path(),
        "publisher",
        sh,
        ["-c", script, &port, DATA],
    )?;
    for _ in 0..4 {
        pair.relay.kill()?;
        pair.begin()?;
    }
    ensure!(publisher.wait(60)?.success(), "{}", publisher.words());
    let payloads = || {
        let payloads = lines(&up)
            .into_iter()
            .filter_map(|l| l.rsplit_once('=')?.1.parse::<u32>().ok());
        payloads.collect::<Vec<_>>()
    };
    wait_for(60, "all of them", || {
        let all: std::collections::HashSet<_> = payloads().into_iter().collect();
        (all.len() == 2000).then_some(())
    })
    .with_context(|| pair.relay.words())?;
    // Some come twice, and each first comes in order.
    let mut highest = 0;
    for n in payloads() {
        ensure!(n <= highest + 1, "{n} came before {}", highest + 1);
        highest = highest.max(n);
    }
    Ok(())
}

#[test]
fn two_relays_do_not_share_a_spool_and_one_does_not_lead_back() -> Result<()> {
    let pair = Pair::start(&[])?;
    let run = |arguments: &[String]| -> Result<Output> {
        Ok(Command::new(program("vmkpi")?)
            .args(arguments)
            .stdin(Stdio::null())
            .output()?)
    };
    let second = run(&pair.arguments())?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(second.status.code() == Some(1), "{said}");
    ensure!(said.contains("another vmkpi relay uses it"), "{said}");
    let port = pair.from.port();
    for to in [pair.from.url(), format!("mqtt://localhost:{port}")] {
        let mut arguments = pair.arguments();
        arguments[3] = format!("--to={to}");
        arguments[4] = format!("--state={}", pair.scratch.path().join("other").display());
        let back = run(&arguments)?;
        let said = String::from_utf8_lossy(&back.stderr).into_owned();
        ensure!(
            back.status.code() == Some(2) && said.contains("the same broker"),
            "{said}"
        );
    }
    for wrong in [
        &["relay", "--site=acme"][..],
        &[
            "relay",
            "--site=a/b",
            "--from=mqtt://a",
            "--to=mqtt://b",
            "--state=/nonexistent/x",
        ],
        &[
            "relay",
            "--site=a",
            "--from=mqtt://a",
            "--to=mqtt://b",
            "--state=/nonexistent/x",
        ],
        &[
            "relay",
            "--site=a",
            "--from=mqtt://a",
            "--to=mqtt://b",
            "--state=x",
            "--from.ca-file=/etc/passwd",
        ],
        &[
            "relay",
            "--site=a",
            "--from=mqtt://a",
            "--to=mqtt://b",
            "--state=x",
            "--spool.max-bytes=1MiB",
        ],
    ] {
        let output = vmkpi(wrong)?;
        ensure!(output.status.code() == Some(2), "{wrong:?}: {output:?}");
    }
    Ok(())
}
