//! The Directory Service over a real broker: who delivers and who takes is found from both sides, the dead are told
//! from the living, and what strangers say of either changes nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi::clock::Timestamp;
use vmkpi::directory::{Entry, ProducerEntry, Side, Subject, Term, encode};
use vmkpi::key_file::signing_key;
use vmkpi::sign::SigningKey;
use vmkpi_tests::chain::{Broker, Chain, http_get, lines_of};
use vmkpi_tests::collector::{Collector, Key, confirmed_by};
use vmkpi_tests::process::{Process, program, vmkpi};
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

const TOPIC: &str = "vmkpi/v1/acme/directory/producer/shop";
/// The UUID of the test driver's domain.
const UUID: &str = "6695eb01-f6a4-8304-79aa-97f2502e193f";

/// The keys of a site, its Consumer and a stranger.
struct Keys {
    folder: Scratch,
    collect: Key,
}

impl Keys {
    fn new() -> Result<Self> {
        let folder = Scratch::new()?;
        for name in ["site", "stranger"] {
            let dir = format!("--dir={}", folder.path().join(name).display());
            let made = vmkpi(&["key", "new", "sign", &dir])?;
            ensure!(made.status.success(), "no keys");
        }
        let collect = Key::make(folder.path(), "collect.key")?;
        Ok(Self { folder, collect })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn chain(&self, lease: &str) -> Result<Chain> {
        let key = self.file("site/sign.key.pem");
        let sign = format!("--sign.key-file={}", key.display());
        let lease = format!("--directory.lease={lease}");
        Chain::start_with(&confirmed_by(&self.collect), &[], &[&sign, &lease])
    }

    fn signer(&self, of: &str) -> Result<SigningKey> {
        Ok(signing_key(&self.file(of).join("sign.key.pem"))?)
    }

    /// The arguments of a `vmkpi` that believes the site.
    fn arguments(&self, command: &str, broker: &Broker, more: &[&str]) -> Vec<String> {
        let mut arguments = vec![
            command.to_owned(),
            format!("--broker={}", broker.url()),
            format!("--trust={}", self.file("site/sign.pub.pem").display()),
            "--format=json".to_owned(),
        ];
        arguments.extend(more.iter().map(ToString::to_string));
        arguments
    }

    /// What `vmkpi directory` finds, and what it says.
    fn find(&self, broker: &Broker, more: &[&str]) -> Result<(Vec<Value>, String)> {
        let arguments = self.arguments("directory", broker, more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let Output {
            status,
            stdout,
            stderr,
        } = vmkpi(&arguments)?;
        let said = String::from_utf8(stderr)?;
        ensure!(status.success(), "{arguments:?}: {said}");
        let lines = String::from_utf8(stdout)?;
        let found = lines.lines().map(serde_json::from_str);
        Ok((found.collect::<Result<_, _>>()?, said))
    }

    /// Waits until what is found is so.
    fn wait(
        &self,
        chain: &Chain,
        more: &[&str],
        what: &str,
        enough: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>> {
        wait_for(60, what, || {
            let (found, _) = self.find(&chain.broker, more).ok()?;
            enough(&found).then_some(found)
        })
        .with_context(|| format!("{:?}\n{}", self.find(&chain.broker, more), chain.words()))
    }
}

fn publish(broker: &Broker, options: &[&str], topic: &str, payload: &[u8]) -> Result<()> {
    let mut client = Command::new("/usr/bin/mosquitto_pub")
        .args(["-p", &broker.port().to_string(), "-q", "1", "-t", topic])
        .args(options)
        .arg(if payload.is_empty() { "-n" } else { "-s" })
        .stdin(Stdio::piped())
        .spawn()?;
    client.stdin.take().context("a pipe")?.write_all(payload)?;
    ensure!(client.wait()?.success(), "mosquitto_pub");
    Ok(())
}

/// What the broker retains on a topic.
fn retained(broker: &Broker, topic: &str) -> Result<Vec<u8>> {
    let port = broker.port().to_string();
    let output = Command::new("/usr/bin/mosquitto_sub")
        .args(["-p", &port, "-t", topic, "-C", "1", "-N", "-W", "2"])
        .args(["--retained-only"])
        .stdin(Stdio::null())
        .output()?;
    Ok(output.stdout)
}

fn said(process: &Process, words: &str) -> Result<()> {
    wait_for(60, words, || process.words().contains(words).then_some(()))
        .with_context(|| process.words())
}

/// Everything that crosses the broker, from before any of our programs says a word of it.
fn eavesdrop(chain: &Chain) -> Result<Process> {
    let port = chain.broker.port().to_string();
    let arguments = ["-p", &port, "-q", "1", "-t", "vmkpi/v1/#", "-F", "%t %p"];
    let binary = Path::new("/usr/bin/mosquitto_sub");
    Process::start(chain.folder(), "ear", binary, arguments)
}

/// Nothing says where the VM is.
fn names_no_host(heard: &str, folder: &Path) {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let plain = UUID.replace('-', "");
    let folder = folder.display().to_string();
    let mut words = vec![
        UUID,
        &plain,
        "127.0.0.1",
        "test:///",
        &folder,
        "\"domain\"",
        "\"uuid\"",
    ];
    // A shorter one may well be in a signature.
    words.extend((name.len() > 5).then_some(name));
    for word in words {
        assert!(!heard.contains(word), "{word}");
    }
}

#[test]
fn both_sides_are_found_and_a_host_that_is_killed_is_an_expired_lease() -> Result<()> {
    let keys = Keys::new()?;
    let mut chain = keys.chain("3")?;
    let ear = eavesdrop(&chain)?;
    let web = free_address()?;
    let listen = format!("--listen={web}");
    let trust = format!("--trust={}", keys.file("site/sign.pub.pem").display());
    let place = chain.folder().to_owned();
    let more = [listen.as_str(), trust.as_str()];
    let mut collect = Collector::start(&place, &chain.broker, &place, &keys.collect, &more)?;
    let found = keys.wait(&chain, &[], "both sides", |found| {
        found.len() == 2 && found[0]["points"].to_string().contains("unencrypted/ready")
    })?;
    assert_eq!(
        (&found[0]["side"], &found[0]["vm"]),
        (&"producer".into(), &"shop".into())
    );
    assert_eq!(found[0]["signer"], keys.signer("site")?.kid());
    let filter = "vmkpi/v1/acme/data/shop/every-row/unencrypted/#";
    assert_eq!(found[0]["specifiers"][0]["filter"], filter);
    assert_eq!(
        (&found[1]["consumer"], &found[1]["role"]),
        (&"acme-collect".into(), &"collect".into())
    );
    assert_eq!(found[1]["key"], keys.collect.public.as_str());
    for (more, count) in [
        (
            &["--vm=shop", "--point=unencrypted/web", "--producers"][..],
            1,
        ),
        (&["--consumers"], 1),
        (&["--vm=other", "--producers"], 0),
        (&["--point=encrypted/*", "--producers"], 0),
        (&["--site=other"], 0),
    ] {
        let (found, said) = keys.find(&chain.broker, more)?;
        assert_eq!(found.len(), count, "{more:?}");
        assert_eq!(said.contains("nobody is found"), count == 0, "{said}");
    }
    let arguments = keys.arguments("watch", &chain.broker, &[]);
    let watch = Process::start(chain.folder(), "second", &program("vmkpi")?, &arguments)?;
    let database = collect.db.display().to_string();
    let status = || -> Result<Value> {
        let output = vmkpi(&["collect", "status", "--format=json", "--db", &database])?;
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let lease = |is: &str| {
        wait_for(30, &format!("a lease that is {is}"), || {
            let vms = &status().ok()?["vms"];
            (vms[0]["lease"] == is).then_some(())
        })
    };
    lease("live")?;
    chain.without_host(|chain| {
        keys.wait(chain, &["--producers"], "nobody", <[Value]>::is_empty)?;
        lease("expired")?;
        said(&watch, "acme/shop: its lease expired")?;
        let vms = http_get(web, "/api/v1/vms")?;
        ensure!(vms.contains("\"lease\":\"expired\""), "{vms}");
        wait_for(30, "the metric", || {
            let page = http_get(web, "/metrics").ok()?;
            let silent = "vmkpi_collect_producer_silent{site=\"acme\",vm=\"shop\"} 0";
            let expired = "vmkpi_collect_producer_lease_expired{site=\"acme\",vm=\"shop\"} 1";
            (page.contains(expired) && page.contains(silent)).then_some(())
        })
    })?;
    keys.wait(&chain, &["--producers"], "it again", |found| {
        found.len() == 1
    })?;
    lease("live")?;
    // Its leases last a minute: gone at once is taken back.
    ensure!(collect.process.terminate()?.success(), "collect");
    assert!(keys.find(&chain.broker, &["--consumers"])?.0.is_empty());
    assert!(
        retained(
            &chain.broker,
            "vmkpi/v1/acme/directory/consumer/acme-collect"
        )?
        .is_empty()
    );
    let heard = std::fs::read_to_string(&ear.out)?;
    for branch in [
        "data/shop",
        "directory/producer/shop",
        "directory/consumer/acme-collect",
        "confirm/acme-collect",
    ] {
        assert!(
            heard.contains(&format!("vmkpi/v1/acme/{branch}")),
            "{branch}"
        );
    }
    names_no_host(&heard, chain.folder());
    Ok(())
}

/// A lease of a VM that is not there.
fn ghost(name: &str, key: Option<&SigningKey>) -> Result<(String, Vec<u8>)> {
    let subject = Subject {
        side: Side::Producer,
        site: "acme".parse()?,
        name: name.parse()?,
    };
    let entry = ProducerEntry {
        service: None,
        revision: "00ff00ff00ff00ff".into(),
        specifiers: vec![],
        points: vec![],
        more_points: 0,
        confirm: vec![],
    };
    let term = Term::lasting(Timestamp::now(), 600.0);
    let payload = encode(&subject, term, &Entry::Producer(entry), key);
    Ok((subject.topic(), payload))
}

#[test]
fn what_strangers_say_in_the_directory_is_refused_and_counted_by_kind() -> Result<()> {
    let keys = Keys::new()?;
    let chain = keys.chain("60")?;
    let found = |found: &[Value]| found.iter().any(|f| f["vm"] == "shop");
    keys.wait(&chain, &[], "the VM", found)?;
    let arguments = keys.arguments("directory", &chain.broker, &["--follow"]);
    let mut follower = Process::start(chain.folder(), "follower", &program("vmkpi")?, &arguments)?;
    let events = |follower: &Process| lines_of(&follower.out).unwrap_or_default();
    wait_for(30, "the VM", || found(&events(&follower)).then_some(()))?;
    let old = retained(&chain.broker, TOPIC)?;
    let real = String::from_utf8(old.clone())?;
    // A point that appears changes what the lease says, so that there is a newer one.
    std::fs::write(chain.mount().join("unencrypted/appears"), "n\n1\n")?;
    wait_for(30, "the change", || {
        let changed =
            |e: &Value| e["event"] == "changed" && e["points"].to_string().contains("appears");
        events(&follower).iter().any(changed).then_some(())
    })
    .with_context(|| chain.words())?;
    let broker = &chain.broker;
    publish(broker, &[], TOPIC, &old)?;
    let newer = String::from_utf8(retained(broker, TOPIC)?)?;
    publish(
        broker,
        &[],
        TOPIC,
        newer.replace("every-row", "other-row").as_bytes(),
    )?;
    publish(broker, &[], TOPIC, b"")?;
    publish(
        broker,
        &[],
        "vmkpi/v1/acme/directory/producer/moved",
        real.as_bytes(),
    )?;
    publish(broker, &[], TOPIC, b"no lease")?;
    let stranger = keys.signer("stranger")?;
    let (topic, payload) = ghost("ghost", Some(&stranger))?;
    publish(broker, &["-r"], &topic, &payload)?;
    let (topic, payload) = ghost("shop", None)?;
    publish(broker, &[], &topic, &payload)?;
    // What comes after all of it, by who may: the end of the test.
    let (topic, payload) = ghost("last", Some(&keys.signer("site")?))?;
    publish(broker, &[], &topic, &payload)?;
    wait_for(30, "the last", || {
        events(&follower)
            .iter()
            .any(|e| e["vm"] == "last")
            .then_some(())
    })?;
    ensure!(follower.terminate()?.success(), "the follower");
    let words = follower.words();
    for count in [
        "1 replayed",
        "1 bad_signature",
        "2 unsigned",
        "1 another_topic",
        "1 malformed",
        "1 unknown_key",
    ] {
        assert!(
            words.contains(&format!("refused: {count}")),
            "{count}: {words}"
        );
    }
    let events = events(&follower);
    assert!(
        events
            .iter()
            .all(|e| e["event"] != "left" && e["vm"] != "ghost"),
        "{events:?}"
    );
    // Who comes later finds what is true, and is told of the ghost.
    let (found, said) = keys.find(broker, &["--producers"])?;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(said.contains("refused: 1 unknown_key"), "{said}");
    Ok(())
}

#[test]
fn what_is_looked_up_is_subscribed_to_when_it_appears_and_nothing_else_is() -> Result<()> {
    let keys = Keys::new()?;
    let chain = keys.chain("60")?;
    let more = ["--lookup", "--vm=later", "--point=unencrypted/load"];
    let arguments = keys.arguments("watch", &chain.broker, &more);
    let watch = Process::start(chain.folder(), "lookup", &program("vmkpi")?, &arguments)?;
    let log = chain.folder().join("mosquitto.err");
    let subscribed = |to: &str| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let mut lines = text.lines();
        lines
            .find(|l| l.contains(": vmkpi-watch-") && l.ends_with(to))
            .map(ToOwned::to_owned)
    };
    let own = wait_for(20, "it to look", || {
        subscribed("vmkpi/v1/+/directory/producer/later")
    })?;
    // The same VM by another name: the one is taken back, the other appears.
    chain.describe(&confirmed_by(&keys.collect).replace("\"shop\"", "\"later\""))?;
    let exact = "vmkpi/v1/acme/data/later/every-row/unencrypted/load";
    let granted = wait_for(30, "it to subscribe", || subscribed(exact))
        .with_context(|| format!("{}\n{}", watch.words(), chain.words()))?;
    let client = |line: &str| {
        line.split(": ")
            .nth(1)
            .unwrap_or_default()
            .split(' ')
            .next()
            .map(ToOwned::to_owned)
    };
    assert_eq!(client(&own), client(&granted));
    std::fs::write(chain.mount().join("unencrypted/other"), "n\n1\n")?;
    std::fs::write(chain.mount().join("unencrypted/load"), "n\n42\n")?;
    let lines = wait_for(30, "the row", || {
        lines_of(&watch.out).ok().filter(|lines| !lines.is_empty())
    })
    .with_context(|| format!("{}\n{}", watch.words(), chain.words()))?;
    assert_eq!(
        (&lines[0]["point"], &lines[0]["values"]["n"]),
        (&"unencrypted/load".into(), &42.into())
    );
    let found = keys.wait(&chain, &["--producers"], "one name", |f| f.len() == 1)?;
    assert_eq!(found[0]["vm"], "later");
    assert!(retained(&chain.broker, TOPIC)?.is_empty());
    let text = std::fs::read_to_string(&log)?;
    let name = client(&own).context("a client")?;
    let all = text
        .lines()
        .filter(|l| l.contains(&name) && l.contains("vmkpi/v1/"));
    let data: Vec<_> = all
        .filter(|l| l.contains("/data/") && !l.ends_with(exact))
        .collect();
    // What it asked for before it looked anything up is not there either.
    assert!(data.is_empty(), "{data:?}");
    Ok(())
}
