//! Whatever others publish, at a `collect` that was told whom to believe: nothing of it is kept, nothing is lost for it,
//! and each kind is counted. Nor of what a broker makes of genuine messages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi::message::Event;
use vmkpi::sign::{Refusal, SigningKey};
use vmkpi_tests::chain::{Broker, Chain, http_get};
use vmkpi_tests::collector::{Collector, Key, confirmed_by};
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::mqtt::{Received, Subscriber};
use vmkpi_tests::process::program;
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

const DATA: &str = "vmkpi/v1/acme/data/#";
/// A signature by nobody: `alg` is `none`.
const NONE: &str = "eyJhbGciOiJub25lIiwia2lkIjoiIiwidHlwIjoidm1rcGktbWVzc2FnZSJ9..";

/// Keys of a site and of a stranger, and a Consumer's.
pub struct Keys {
    scratch: Scratch,
    pub consumer: Key,
}

impl Keys {
    pub fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        for name in ["site", "stranger"] {
            let made = Command::new(program("vmkpi")?)
                .args(["key", "new", "seal", "sign", "--dir"])
                .arg(scratch.path().join(name))
                .stdout(Stdio::null())
                .status()?;
            ensure!(made.success(), "no keys");
        }
        let consumer = Key::make(scratch.path(), "collect.key")?;
        Ok(Self { scratch, consumer })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A chain whose host signs, and seals one point for the stranger.
    fn chain(&self) -> Result<Chain> {
        let sign = format!(
            "--sign.key-file={}",
            self.file("site/sign.key.pem").display()
        );
        let descriptor = format!(
            "primary_key_file = '{}'\n{}[[monitor]]\nid = 'closed'\npoint = 'unencrypted/closed'\nseal = true\n",
            self.file("stranger/seal.pub.pem").display(),
            confirmed_by(&self.consumer)
        );
        Chain::start_with(&descriptor, &[], &[&sign])
    }

    /// A collect that believes the site, and opens with its key.
    fn collect(&self, broker: &Broker, place: &Path, more: &[&str]) -> Result<Collecting> {
        let listen = free_address()?;
        let options = [
            format!("--trust={}", self.file("site/sign.pub.pem").display()),
            format!("--key={}", self.file("site/seal.key.pem").display()),
            format!("--listen={listen}"),
        ];
        let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
        options.extend(more);
        std::fs::create_dir_all(place)?;
        let collector = Collector::start(place, broker, place, &self.consumer, &options)?;
        Ok(Collecting { collector, listen })
    }

    fn stranger(&self) -> Result<SigningKey> {
        let pem = std::fs::read_to_string(self.file("stranger/sign.key.pem"))?;
        Ok(SigningKey::from_pem(&pem)?)
    }
}

pub fn number(address: SocketAddr, series: &str) -> Option<f64> {
    let page = http_get(address, "/metrics").ok()?;
    let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    page.lines().find_map(value)
}

pub struct Collecting {
    collector: Collector,
    listen: SocketAddr,
}

impl Collecting {
    /// A counter, if it is on the page.
    fn number(&self, series: &str) -> Option<f64> {
        number(self.listen, series)
    }

    fn wait_for_number(&self, series: &str, more_than: f64) -> Result<()> {
        wait_for(20, &format!("{series} to be counted"), || {
            self.number(series).filter(|n| *n > more_than).map(|_| ())
        })
        .with_context(|| self.collector.process.words())
    }

    pub fn irregular(what: &str, reason: &str) -> String {
        format!("vmkpi_collect_messages_irregular_total{{what=\"{what}\",reason=\"{reason}\"}}")
    }

    /// Publishes what has to be refused, and waits until each has been counted for its reason, and for no other.
    fn count(&self, broker: &Broker, what: &str, forged: &[Forgery]) -> Result<()> {
        let mut expected = BTreeMap::new();
        for (reason, ..) in forged {
            let series = Self::irregular(what, reason);
            let before = self.number(&series).context("the counter")?;
            *expected.entry(series).or_insert(before) += 1.0;
        }
        for (_, topic, payload) in forged {
            publish(broker, topic, payload.as_bytes())?;
        }
        for (series, count) in expected {
            self.wait_for_number(&series, count - 0.5)?;
            ensure!(
                self.number(&series) == Some(count),
                "{series} is over {count}"
            );
        }
        Ok(())
    }

    /// Numbers that are kept of the load, in the order of their rows.
    fn kept(&self) -> Result<Vec<u64>> {
        let sql = "SELECT data ->> 'n' FROM samples WHERE point = 'unencrypted/load' ORDER BY seq";
        let rows = self.collector.query(sql)?;
        let number = |row: &Value| row[0].as_u64().with_context(|| row.to_string());
        rows.iter().map(number).collect()
    }
}

fn publish(broker: &Broker, topic: &str, payload: &[u8]) -> Result<()> {
    let folder = Scratch::new()?;
    let file = folder.path().join("payload");
    std::fs::write(&file, payload)?;
    let port = broker.port().to_string();
    let sent = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-f"])
        .arg(&file)
        .status()?;
    ensure!(sent.success(), "not published");
    Ok(())
}

/// Messages of the load with samples, in the order in which they were published.
fn of_the_load(heard: &Subscriber) -> Vec<Received> {
    let mut messages = heard.messages(0);
    messages.retain(|m| {
        m.topic.ends_with("/unencrypted/load")
            && String::from_utf8_lossy(&m.payload).contains("\"seq\":")
    });
    messages
}

/// Why it has to be refused, its topic, and what it is.
type Forgery = (&'static str, String, String);

/// What somebody may make of a message.
fn forgeries(keys: &Keys, genuine: &Received) -> Result<Vec<Forgery>> {
    let text = String::from_utf8(genuine.payload.clone())?;
    let value: Value = serde_json::from_str(&text)?;
    let signature = value["signature"].as_str().context("it is signed")?;
    let through = &value["through"];
    let further = value["through"].as_u64().context("a number")? + 1000;
    let signed = |by: &str| text.replacen(signature, by, 1);
    let altered = |from: String, to: String| -> Result<String> {
        ensure!(text.contains(&from), "{from} is not in {text}");
        Ok(text.replacen(&from, &to, 1))
    };
    let unsigned = altered(format!("\"signature\":\"{signature}\","), String::new())?;
    let event = Event::decode(text.as_bytes())?;
    let strange = String::from_utf8(event.encode_signed(&keys.stranger()?))?;
    let here = genuine.topic.clone();
    let there = here.replacen("/shop/", "/other/", 1);
    let elsewhere = altered("/vmkpi/acme/shop\"".into(), "/vmkpi/acme/other\"".into())?;
    let specifier = altered("\"every-row\"".into(), "\"other\"".into())?;
    let other_specifier = here.replacen("/every-row/", "/other/", 1);
    let extended = altered(
        format!("\"through\":{through}"),
        format!("\"through\":{further}"),
    )?;
    let bad = "bad_signature";
    Ok(vec![
        ("malformed", here.clone(), "no message".into()),
        ("malformed", here.clone(), text[..text.len() / 2].to_owned()),
        ("unsigned", here.clone(), unsigned),
        ("malformed_signature", here.clone(), signed("x")),
        ("wrong_algorithm", here.clone(), signed(NONE)),
        ("unknown_key", here.clone(), strange),
        (bad, here.clone(), extended),
        (
            bad,
            here.clone(),
            altered("\"n\":".into(), "\"m\":".into())?,
        ),
        // Moved as a whole, and moved with what it says of its origin.
        ("another_topic", there.clone(), text.clone()),
        ("another_topic", other_specifier.clone(), text.clone()),
        (bad, there, elsewhere),
        (bad, other_specifier, specifier),
    ])
}

#[test]
fn nothing_forged_altered_moved_or_replayed_is_kept_and_each_kind_is_counted() -> Result<()> {
    let keys = Keys::new()?;
    let chain = keys.chain()?;
    let heard = Subscriber::start(chain.broker.address(), DATA)?;
    let collecting = keys.collect(&chain.broker, &chain.folder().join("owner"), &[])?;
    // Every counter is there before anything has happened.
    let refusals = Refusal::ALL.map(Refusal::as_str);
    let others = ["retained", "malformed", "another_topic"];
    for (what, reasons) in [
        ("ignored", [&others[..], &refusals[..]].concat()),
        ("unverified", refusals.to_vec()),
    ] {
        for reason in reasons {
            let series = Collecting::irregular(what, reason);
            wait_for(20, &series, || {
                collecting.number(&series).filter(|n| *n == 0.0)
            })?;
        }
    }
    let file = chain.mount().join("unencrypted/load");
    let mut writer = Writer::start(chain.folder(), &[file], Duration::from_millis(5))?;
    wait_for(60, "rows to be kept", || {
        (collecting.collector.count() > 100).then_some(())
    })
    .with_context(|| chain.words())?;
    std::fs::write(chain.mount().join("unencrypted/closed"), "n\n1\n")?;
    collecting.wait_for_number(&Collecting::irregular("sealed", "not_opened"), 0.0)?;
    let messages = of_the_load(&heard);
    let last = messages.last().context("a message")?;
    let mut forged = forgeries(&keys, &messages[0])?;
    forged.extend(forgeries(&keys, last)?);
    collecting.count(&chain.broker, "ignored", &forged)?;
    // Sent again, the newest first.
    let repeated = "vmkpi_collect_messages_total{became=\"repeated\"}";
    let before = collecting.number(repeated).context("the counter")?;
    for genuine in messages.iter().rev().take(20) {
        publish(&chain.broker, &genuine.topic, &genuine.payload)?;
    }
    collecting.wait_for_number(repeated, before + 19.5)?;
    writer.stop()?;
    collecting.collector.judge(&chain, &writer, 120)?;
    let vms = collecting
        .collector
        .query("SELECT DISTINCT vm, specifier FROM samples ORDER BY 1, 2")?;
    ensure!(
        vms.iter()
            .all(|row| row[0] == "shop" && row[1] == "every-row"),
        "{vms:?}"
    );
    Ok(())
}

/// What is taken without being believed is counted by why it is not.
#[test]
fn whoever_insists_on_being_insecure_sees_how_much_of_it_nobody_vouches_for() -> Result<()> {
    let keys = Keys::new()?;
    let chain = keys.chain()?;
    let heard = Subscriber::start(chain.broker.address(), DATA)?;
    let place = chain.folder().join("careless");
    let collecting = keys.collect(&chain.broker, &place, &["--insecure"])?;
    std::fs::write(chain.mount().join("unencrypted/load"), "n,half\n1,1.5\n")?;
    let genuine = wait_for(30, "a message", || of_the_load(&heard).into_iter().next())?;
    let mut forged = forgeries(&keys, &genuine)?;
    let refusals = Refusal::ALL.map(Refusal::as_str);
    forged.retain(|(reason, ..)| refusals.contains(reason));
    let kinds: BTreeSet<_> = forged.iter().map(|(reason, ..)| reason).collect();
    ensure!(kinds.len() == refusals.len(), "only {kinds:?}");
    collecting.count(&chain.broker, "unverified", &forged)
}

/// Through which row each confirmation goes.
fn confirmed(said: &Subscriber) -> Result<Vec<u64>> {
    let mut through = Vec::new();
    for message in said.messages(0) {
        let value: Value = serde_json::from_slice(&message.payload)?;
        let all = value["data"]["confirmations"]
            .as_array()
            .context("an array")?;
        let of_load = all.iter().filter(|c| c["point"] == "unencrypted/load");
        through.extend(of_load.filter_map(|c| c["through"]["seq"].as_u64()));
    }
    Ok(through)
}

/// The broker, or whoever owns it, delivers genuine messages in the wrong order, several times, and some not at all.
#[test]
fn a_broker_that_reorders_repeats_and_drops_makes_collect_keep_and_confirm_nothing_wrong()
-> Result<()> {
    let keys = Keys::new()?;
    let chain = keys.chain()?;
    let heard = Subscriber::start(chain.broker.address(), DATA)?;
    let load = chain.mount().join("unencrypted/load");
    // Nobody confirms there: no message may begin behind another.
    for n in 1..=30_u64 {
        std::fs::write(&load, format!("n,half\n{n},{n}.5\n"))?;
        wait_for(30, "its message", || {
            let last = format!("\"n\":{n},");
            let messages = of_the_load(&heard);
            let has = |m: &Received| String::from_utf8_lossy(&m.payload).contains(&last);
            messages.iter().any(has).then_some(())
        })
        .with_context(|| chain.words())?;
    }
    let mut genuine: HashMap<u64, Received> = HashMap::new();
    for message in of_the_load(&heard) {
        let event: Value = serde_json::from_slice(&message.payload)?;
        ensure!(event["base"] == 0, "somebody has confirmed: {event}");
        genuine.insert(event["after"].as_u64().context("a number")?, message);
    }
    let mut genuine: Vec<_> = genuine.into_iter().collect();
    genuine.sort_by_key(|(after, _)| *after);
    let place = chain.folder().join("elsewhere");
    std::fs::create_dir(&place)?;
    let hostile = Broker::start(&place)?;
    let said = Subscriber::start(hostile.address(), "vmkpi/v1/acme/confirm/#")?;
    let collecting = keys.collect(&hostile, &place, &[])?;
    let play = |(_, message): &(u64, Received)| publish(&hostile, &message.topic, &message.payload);
    let missing = "vmkpi_collect_messages_total{became=\"missing\"}";
    // Backwards, and the first and the eleventh never: nothing of it connects.
    let (first, hole) = (genuine[0].0, genuine[10].0);
    let without = |gone: &[u64]| -> Vec<_> {
        genuine
            .iter()
            .filter(|(after, _)| !gone.contains(after))
            .collect()
    };
    let backwards = without(&[first, hole]);
    for message in backwards.iter().rev() {
        play(message)?;
    }
    collecting.wait_for_number(missing, backwards.len() as f64 - 0.5)?;
    ensure!(collecting.kept()?.is_empty(), "{:?}", collecting.kept()?);
    ensure!(
        confirmed(&said)?.iter().all(|through| *through == 0),
        "{:?}",
        confirmed(&said)?
    );
    // Forwards without the eleventh, each twice: what comes before it, and no more.
    for message in without(&[hole]) {
        play(message)?;
        play(message)?;
    }
    wait_for(20, "what connects to be confirmed", || {
        confirmed(&said).ok()?.contains(&hole).then_some(())
    })?;
    let behind = genuine.iter().filter(|(after, _)| *after > hole).count();
    let more = backwards.len() + 2 * behind;
    collecting.wait_for_number(missing, more as f64 - 0.5)?;
    let before: Vec<u64> = (1..=hole).collect();
    ensure!(collecting.kept()? == before, "{:?}", collecting.kept()?);
    let beyond = confirmed(&said)?.into_iter().filter(|t| *t > hole).count();
    ensure!(beyond == 0, "{:?}", confirmed(&said)?);
    // In the end all of it, in order.
    for message in &genuine {
        play(message)?;
    }
    let all: Vec<u64> = (1..=30).collect();
    wait_for(20, "every row", || {
        (collecting.kept().ok()? == all).then_some(())
    })?;
    Ok(())
}
