//! The page that `vmkpi collect --listen` serves, in a real browser.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vmkpi_tests::browser::{Browser, Look};
use vmkpi_tests::chain::{Broker, Chain, http_get};
use vmkpi_tests::collector::{Collector, Key, NAME};
use vmkpi_tests::schema::{check_message, example, folder, load};
use vmkpi_tests::scratch::{Scratch, free_address};

#[path = "page/files.rs"]
mod files;
#[path = "page/picture.rs"]
mod picture;

/// A VM whose names a page must not take for anything but text.
const HOSTILE: &str = "<img src=x onerror=document.title='taken'>";

/// Everything at once, and measurements of the machine each half second.
fn descriptor(key: &Key) -> String {
    format!(
        "vm = \"shop\"\nprimary_site = \"acme\"\n[[confirm]]\nname = \"{NAME}\"\nkey = \"{}\"\n\
         [[monitor]]\nid = \"every-row\"\npoint = \"unencrypted/*\"\n\
         [[monitor]]\nid = \"every-blob\"\npoint = \"encrypted/*\"\n\
         [[monitor]]\nid = \"machine\"\npoint = \"infra/*\"\ninterval = \"500ms\"\n",
        key.public
    )
}

struct Site {
    chain: Chain,
    collect: Collector,
    listen: SocketAddr,
    browser: Browser,
    _keys: Scratch,
}

impl Site {
    fn start() -> Result<Self> {
        let keys = Scratch::new()?;
        let key = Key::make(keys.path(), "collect.key")?;
        let chain = Chain::start_with(&descriptor(&key), &[], &["--directory.lease=3"])?;
        let listen = free_address()?;
        let option = format!("--listen={listen}");
        let place = chain.folder();
        let collect = Collector::start(place, &chain.broker, place, &key, &[&option])?;
        let browser = Browser::start(chain.folder(), Look::DESK)?;
        Ok(Self {
            chain,
            collect,
            listen,
            browser,
            _keys: keys,
        })
    }

    fn open(&self, fragment: &str) -> Result<()> {
        self.browser
            .open(&format!("http://{}/{fragment}", self.listen))
    }

    fn store(&self, path: &str, text: &str) -> Result<()> {
        let file = self.chain.mount().join(path);
        std::fs::write(&file, text).with_context(|| file.display().to_string())
    }

    /// Nothing went wrong in the page, and nothing was asked of anybody else.
    fn is_quiet(&self) -> Result<()> {
        let (errors, asked) = self.browser.said()?;
        ensure!(errors.is_empty(), "{errors:#?}");
        ensure!(!asked.is_empty(), "no request was seen");
        let own = format!("http://{}/", self.listen);
        // The browser's own first window asks for its own parts.
        let is_outside = |url: &&String| !url.starts_with(&own) && !url.starts_with("chrome:");
        let others: Vec<_> = asked.iter().filter(is_outside).collect();
        ensure!(others.is_empty(), "{others:?}");
        Ok(())
    }
}

/// Whether there is a row in the table of points that has this text.
fn in_points(text: &str) -> String {
    format!("return document.querySelector('#points').innerText.includes({text:?})")
}

#[test]
fn a_stored_row_shows_in_a_browser_and_so_does_a_producer_that_dies() -> Result<()> {
    if !Browser::is_there()? {
        return Ok(());
    }
    let mut site = Site::start()?;
    site.open("#range=5m")?;
    let browser = &site.browser;
    browser.wait(
        30,
        "the VM",
        "return document.querySelector('#sites a[aria-current=true] .name')?.innerText === 'shop'",
    )?;
    site.store("unencrypted/load", "current_users,state\n47.25,calm\n")?;
    let stored = Instant::now();
    browser.wait(
        30,
        "the row",
        &in_points("current_users 47.25, state “calm”"),
    )?;
    eprintln!("a stored row was on the page after {:?}", stored.elapsed());
    for n in 0..5 {
        site.store(
            "unencrypted/load",
            &format!("current_users,state\n{n}.5,busy\n"),
        )?;
        browser.wait(
            30,
            "the next row",
            &in_points(&format!("current_users {n}.5")),
        )?;
    }
    browser.wait(
        30,
        "a line of it beside one of the machine",
        "return document.querySelector('#plot g.kpi .curve') && document.querySelector('#plot g.infra .curve')",
    )?;
    site.store("encrypted/secret", "hidden\n424242\n")?;
    browser.wait(30, "what is encrypted, counted", "return document.querySelector('#sealed')?.innerText.includes('1 row in this time') && document.querySelector('#sealed code').innerText.includes('vmkpi open --key')")?;
    // The cursor goes by keyboard, and says what it is at.
    browser.run("document.querySelector('#chart').focus()")?;
    browser.keys("\u{e012}\u{e012}")?;
    browser.wait(10, "the cursor's values in words", "return !document.querySelector('#tip').hidden && document.querySelector('#reading').innerText.includes('current_users')")?;
    browser.keys("\u{e00c}")?;
    site.is_quiet()?;
    // Another life of the host daemon is another stream, as another host is.
    site.chain.kill_host()?;
    site.browser.wait(60, "the new residence", "return document.querySelector('#plot line.moved') && document.querySelector('#events').innerText.includes('New residence or restart')")?;
    site.chain.host.kill()?;
    site.browser.wait(60, "the dead Producer", "return document.querySelector('#plot .band.dead') && document.querySelector('#vm-state').innerText.includes('lease expired') && document.querySelector('#sites .mark.dead')")?;
    site.is_quiet()?;
    // What is on the page when collect is away, and that it comes back by itself.
    site.collect.process.kill()?;
    site.browser.wait(30, "the trouble", "return !document.querySelector('#trouble').hidden && document.querySelector('#live').innerText === 'not connected'")?;
    site.collect.begin()?;
    site.browser.wait(30, "the end of the trouble", "return document.querySelector('#trouble').hidden && document.querySelector('#live').innerText === 'live'")?;
    Ok(())
}

/// A message of a VM with hostile names: rows (after, through].
fn message(after: u64, through: u64) -> Result<Value> {
    let mut event = example(&folder().join("examples/message/valid/raw.json"))?;
    let now = vmkpi::clock::Timestamp::now();
    let at = |seq: u64| {
        vmkpi::clock::Timestamp::from_micros(
            now.as_micros() - 60_000_000 + seq.cast_signed() * 1_000_000,
        )
        .to_string()
    };
    event["source"] = json!(format!("/vmkpi/acme/{}", percent(HOSTILE)));
    event["time"] = json!(at(through));
    for key in ["afterkey", "throughkey", "basekey"] {
        event.as_object_mut().context("an object")?.remove(key);
    }
    event["after"] = json!(after);
    event["through"] = json!(through);
    event["base"] = json!(0);
    let column = "</text><script>document.title='taken'</script>";
    let sample = |seq: u64| {
        json!({ "seq": seq, "key": format!("{seq:016x}"), "time": at(seq),
            "values": { column: 1.5, "note": "<b onmouseover=alert(1)>bold</b>" } })
    };
    event["data"]["samples"] = (after + 1..=through).map(sample).collect();
    Ok(event)
}

fn percent(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn publish(broker: &Broker, event: &Value) -> Result<()> {
    let payload = event.to_string();
    check_message(&load("message.schema.json")?, payload.as_bytes())?;
    let topic = format!("vmkpi/v1/acme/data/{HOSTILE}/web-load/unencrypted/web");
    let port = broker.port().to_string();
    let status = Command::new("mosquitto_pub")
        .args(["-p", &port, "-q", "1", "-t", &topic, "-m", &payload])
        .status()?;
    ensure!(status.success(), "mosquitto_pub: {status}");
    Ok(())
}

#[test]
fn what_is_missing_shows_as_missing_and_what_is_hostile_as_text() -> Result<()> {
    if !Browser::is_there()? {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let broker = Broker::start(scratch.path())?;
    let key = Key::make(scratch.path(), "collect.key")?;
    let listen = free_address()?;
    let option = format!("--listen={listen}");
    let collect = Collector::start(scratch.path(), &broker, scratch.path(), &key, &[&option])?;
    let browser = Browser::start(scratch.path(), Look::DESK)?;
    browser.open(&format!("http://{listen}/#range=5m"))?;
    browser.wait(
        30,
        "an empty page",
        "return !document.querySelector('#none').hidden",
    )?;
    publish(&broker, &message(0, 10)?)?;
    let mut gap = example(&folder().join("examples/message/valid/gap.json"))?;
    let lost = message(10, 14)?;
    for name in ["source", "time", "after", "through", "base"] {
        gap[name] = lost[name].clone();
    }
    for key in ["throughkey", "basekey"] {
        gap.as_object_mut().context("an object")?.remove(key);
    }
    publish(&broker, &gap)?;
    publish(&broker, &message(14, 20)?)?;
    browser
        .wait(
            30,
            "the VM's name, as it is",
            &format!("return document.querySelector('#vm-name').innerText === {HOSTILE:?}"),
        )
        .with_context(|| collect.process.words())?;
    browser.wait(30, "the gap", "return document.querySelector('#plot .band.gap') && document.querySelector('#events').innerText.includes('4 rows, 11 to 14, will never come')")?;
    ensure!(
        browser.run("return document.querySelector('#plot .band.missing')")? == Value::Null,
        "nothing is missing yet"
    );
    publish(&broker, &message(25, 30)?)?;
    browser.wait(30, "the hole", "return document.querySelector('#plot .band.missing') && document.querySelector('#events').innerText.includes('have not come yet')")?;
    browser.wait(
        10,
        "its mark",
        "return document.querySelector('#sites .mark.missing')",
    )?;
    publish(&broker, &message(20, 25)?)?;
    browser.wait(30, "the hole filled", "return !document.querySelector('#plot .band.missing') && document.querySelector('#sites .mark.complete')")?;
    let taken = "return [document.title.includes('taken'), document.querySelectorAll('main img, nav img, main script, main b').length]";
    browser.wait(
        10,
        "the column's name as text",
        "return document.querySelector('svg .caption').textContent.startsWith('</text><script>')",
    )?;
    browser.wait(
        10,
        "the text",
        &in_points("<b onmouseover=alert(1)>bold</b>"),
    )?;
    let found = browser.run(taken)?;
    // The title names the VM, so it has the word; nothing may have set it to the word alone.
    ensure!(
        found[1] == 0 && browser.run("return document.title === 'taken'")? == false,
        "{found}"
    );
    let link = browser.run("return document.querySelector('#sites a').href")?;
    browser.open("about:blank")?;
    browser.open(link.as_str().context("a link")?)?;
    browser.wait(
        30,
        "the same VM by its link",
        &format!("return document.querySelector('#vm-name').innerText === {HOSTILE:?}"),
    )?;
    let (errors, _) = browser.said()?;
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(())
}
