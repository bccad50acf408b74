//! What a site signs and seals, over a real broker: it arrives, its owner alone reads it, and what others make of it
//! is refused and counted by kind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi::message::Event;
use vmkpi::sign::SigningKey;
use vmkpi_tests::chain::{Broker, Chain, lines_of};
use vmkpi_tests::process::{Process, program};
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::wait_for;

/// A folder with the keys of a site, as `vmkpi key new` makes them.
struct Keys(Scratch);

impl Keys {
    fn new() -> Result<Self> {
        let keys = Self(Scratch::new()?);
        for name in ["site", "stranger"] {
            let dir = format!("--dir={}", keys.0.path().join(name).display());
            let made = Command::new(program("vmkpi")?)
                .args(["key", "new", "seal", "sign", &dir])
                .stdout(Stdio::null())
                .status()?;
            ensure!(made.success(), "no keys");
        }
        Ok(keys)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn descriptor(&self) -> String {
        let key = self.file("site/seal.pub.pem");
        format!(
            "vm = 'shop'\nprimary_site = 'acme'\nprimary_key_file = '{}'\n\
             [[monitor]]\nid = 'open'\npoint = 'unencrypted/ready'\n\
             [[monitor]]\nid = 'closed'\npoint = 'unencrypted/web'\nseal = true\n",
            key.display()
        )
    }

    fn chain(&self) -> Result<Chain> {
        let sign = format!(
            "--sign.key-file={}",
            self.file("site/sign.key.pem").display()
        );
        Chain::start_with(&self.descriptor(), &[], &[&sign])
    }
}

/// `vmkpi watch` with keys.
fn watch(chain: &Chain, name: &str, options: &[(&str, &Path)]) -> Result<Process> {
    let mut arguments = vec![
        "watch".to_owned(),
        format!("--broker={}", chain.broker.url()),
        "--format=json".to_owned(),
    ];
    arguments.extend(
        options
            .iter()
            .map(|(o, f)| format!("--{o}={}", f.display())),
    );
    Process::start(chain.folder(), name, &program("vmkpi")?, &arguments)
}

/// Stores a number and waits until every one of these watchers has shown it.
fn store(chain: &Chain, point: &str, number: u64, watchers: &[&Process]) -> Result<()> {
    let file = chain.mount().join(point);
    let shown = |watcher: &&Process| {
        let lines = lines_of(&watcher.out).unwrap_or_default();
        lines
            .iter()
            .any(|l| l["point"] == point && l["values"]["n"] == number)
    };
    let mut stored = std::time::Instant::now();
    std::fs::write(&file, format!("n\n{number}\n"))?;
    let said = || {
        let words: Vec<String> = watchers.iter().map(|w| w.words()).collect();
        format!("{}\n{}", chain.words(), words.join("\n"))
    };
    wait_for(30, &format!("{point} {number}"), || {
        // A watcher shows nothing of before it came.
        if stored.elapsed().as_secs() >= 1 {
            stored = std::time::Instant::now();
            std::fs::write(&file, format!("n\n{number}\n")).ok()?;
        }
        watchers.iter().all(shown).then_some(())
    })
    .with_context(said)
}

/// What passes the broker, a payload a line.
fn capture(chain: &Chain) -> Result<Process> {
    let port = chain.broker.port().to_string();
    let arguments = [
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-q",
        "1",
        "-t",
        "vmkpi/v1/acme/data/#",
    ];
    Process::start(
        chain.folder(),
        "capture",
        Path::new("/usr/bin/mosquitto_sub"),
        arguments,
    )
}

fn publish(broker: &Broker, topic: &str, payload: &str) -> Result<()> {
    let port = broker.port().to_string();
    let sent = Command::new("mosquitto_pub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            payload,
        ])
        .status()?;
    ensure!(sent.success(), "not published");
    Ok(())
}

/// The last captured message about a point that has samples, or is sealed.
fn captured(capture: &Process, point: &str) -> Result<(Value, String)> {
    wait_for(20, "a message to be captured", || {
        let text = std::fs::read_to_string(&capture.out).ok()?;
        let found = text.lines().rev().find_map(|line| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["subject"] == point && value["after"] != value["through"])
                .then(|| (value, line.to_owned()))
        })?;
        Some(found)
    })
}

#[test]
fn what_is_sealed_and_signed_arrives_and_its_owner_alone_reads_it() -> Result<()> {
    let keys = Keys::new()?;
    let chain = keys.chain()?;
    let capture = capture(&chain)?;
    let (trust, key) = (
        keys.file("site/sign.pub.pem"),
        keys.file("site/seal.key.pem"),
    );
    let owner = watch(&chain, "owner", &[("trust", &trust), ("key", &key)])?;
    // As many keys as there are while one is replaced.
    let folders = [
        ("trust", keys.file("site")),
        ("key", keys.file("stranger")),
        ("key", keys.file("site")),
    ];
    let folders = folders
        .each_ref()
        .map(|(option, file)| (*option, file.as_path()));
    let rotating = watch(&chain, "rotating", &folders)?;
    store(
        &chain,
        "unencrypted/ready",
        4242,
        &[&owner, &rotating, &chain.watch],
    )?;
    store(&chain, "unencrypted/web", 777_001, &[&owner, &rotating])?;
    let (message, text) = captured(&capture, "unencrypted/web")?;
    assert_eq!(message["datacontenttype"], "application/jose");
    assert!(
        message["data"].is_string() && !text.contains("777001"),
        "{text}"
    );
    assert!(!text.contains("\"samples\""), "{text}");
    let blind = lines_of(&chain.watch.out)?;
    let seen: Vec<&Value> = blind
        .iter()
        .filter(|l| l["point"] == "unencrypted/web")
        .collect();
    assert!(
        !seen.is_empty() && seen.iter().all(|l| l["sealed"] == "raw"),
        "{seen:?}"
    );
    // The page is of the last second's report: one that knows of the sealed row.
    let page = wait_for(20, "a sealed message to be counted", || {
        let page = chain.scrape().ok()?;
        let sealed = page
            .lines()
            .find(|l| l.starts_with("vmkpi_messages_sealed_total{"))?;
        (!sealed.ends_with(" 0")).then_some(page)
    })?;
    assert!(page.contains("point=\"unencrypted/ready\""), "{page}");
    assert!(
        !page.contains("unencrypted/web"),
        "what is sealed is not on the page"
    );
    // By hand, with what a plain MQTT client gets.
    let file = chain.folder().join("message");
    std::fs::write(&file, format!("{text}\n"))?;
    let opened = Command::new(program("vmkpi")?)
        .arg("open")
        .arg(format!("--key={}", key.display()))
        .stdin(std::fs::File::open(&file)?)
        .output()?;
    let opened = String::from_utf8(opened.stdout)?;
    assert!(opened.contains("777001"), "{opened}");
    Ok(())
}

/// The message by a key of the stranger's.
fn by_a_stranger(keys: &Keys, text: &str) -> Result<String> {
    let pem = std::fs::read_to_string(keys.file("stranger/sign.key.pem"))?;
    let key = SigningKey::from_pem(&pem)?;
    let event = Event::decode(text.as_bytes())?;
    Ok(String::from_utf8(event.encode_signed(&key))?)
}

#[test]
fn forged_altered_moved_and_replayed_messages_show_nothing_and_are_counted_by_kind() -> Result<()> {
    let keys = Keys::new()?;
    let chain = keys.chain()?;
    let capture = capture(&chain)?;
    let trust = keys.file("site/sign.pub.pem");
    let mut owner = watch(&chain, "owner", &[("trust", &trust)])?;
    store(&chain, "unencrypted/ready", 1, &[&owner])?;
    store(&chain, "unencrypted/ready", 4242, &[&owner])?;
    let (message, text) = captured(&capture, "unencrypted/ready")?;
    let topic = "vmkpi/v1/acme/data/shop/open/unencrypted/ready";
    let signature = message["signature"].as_str().context("signed")?;
    let through = message["through"].as_u64().context("a number")?;
    let further = |by: u64| {
        text.replacen(
            &format!("\"through\":{through}"),
            &format!("\"through\":{}", through + by),
            1,
        )
    };
    let unsigned = text.replacen(&format!("\"signature\":\"{signature}\","), "", 1);
    let other_vm = text.replacen("/vmkpi/acme/shop\"", "/vmkpi/acme/other\"", 1);
    for (topic, payload) in [
        (topic, text.as_str()),
        (topic, &text),
        (topic, &further(1)),
        (topic, &further(1000)),
        (topic, &text.replacen("\"n\":", "\"m\":", 1)),
        (topic, &unsigned),
        (topic, &by_a_stranger(&keys, &further(500))?),
        ("vmkpi/v1/acme/data/other/open/unencrypted/ready", &other_vm),
        ("vmkpi/v1/acme/data/other/open/unencrypted/ready", &text),
    ] {
        publish(&chain.broker, topic, payload)?;
    }
    // Of the minute that may end meanwhile there are results, too, which have no number.
    let samples = || -> Result<Vec<Value>> {
        let lines = lines_of(&owner.out)?.into_iter();
        Ok(lines.filter(|l| l.get("function").is_none()).collect())
    };
    let shown = samples()?.len();
    // What came before it has been judged.
    store(&chain, "unencrypted/ready", 4243, &[&owner])?;
    let lines = samples()?;
    let stored = |l: &Value| l["values"]["n"] == 4242 || l["values"]["n"] == 4243;
    assert!(lines[shown..].iter().all(stored), "{lines:?}");
    let rows: std::collections::HashSet<String> =
        lines.iter().map(|l| l["seq"].to_string()).collect();
    assert_eq!(rows.len(), lines.len(), "each row once: {lines:?}");
    assert!(lines.iter().all(|l| l["vm"] == "shop"), "{lines:?}");
    ensure!(owner.terminate()?.success());
    let words = owner.words();
    for expected in [
        "ignored 4 times: bad_signature",
        "ignored unsigned",
        "ignored unknown_key",
        "ignored a message that claims another origin than its topic",
    ] {
        assert!(words.contains(expected), "{expected}: {words}");
    }
    assert!(
        !words.contains("missing"),
        "nothing forged moved a cursor: {words}"
    );
    Ok(())
}

#[test]
fn whoever_watches_a_broker_elsewhere_says_whom_to_believe() -> Result<()> {
    let keys = Keys::new()?;
    let run = |options: &[String]| -> Result<(Option<i32>, String)> {
        let seen = Command::new(program("vmkpi")?)
            .args(["watch", "--broker=mqtt://192.0.2.1", "--seconds=0.2"])
            .args(options)
            .output()?;
        Ok((seen.status.code(), String::from_utf8(seen.stderr)?))
    };
    let (code, said) = run(&[])?;
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("--trust") && said.contains("--insecure"),
        "{said}"
    );
    let trust = format!("--trust={}", keys.file("site").display());
    for right in [vec![trust.clone()], vec!["--insecure".to_owned()]] {
        let (code, said) = run(&right)?;
        assert_ne!(code, Some(2), "{said}");
    }
    let empty = Scratch::new()?;
    let private = keys.file("site/sign.key.pem");
    for (wrong, words) in [
        (
            format!("--trust={}", empty.path().display()),
            "no file in it ends with .pub.pem",
        ),
        (
            format!("--trust={}", private.display()),
            "not an Ed25519 public key",
        ),
        ("--trust=/nonexistent".to_owned(), "/nonexistent"),
    ] {
        let (code, said) = run(&[wrong])?;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
    let (code, said) = run(&[trust, format!("--key={}", private.display())])?;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("not an RSA private key"), "{said}");
    Ok(())
}
