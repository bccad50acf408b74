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

/// Keys of W3C WebDriver.
const LEFT: &str = "\u{e012}";
const ESCAPE: &str = "\u{e00c}";

impl Site {
    /// What is stored is seen, and each row after it.
    fn see_rows(&self) -> Result<()> {
        let browser = &self.browser;
        browser.reads(30, "#sites a[aria-current=true]", "shop")?;
        self.store("unencrypted/load", "current_users,state\n47.25,calm\n")?;
        let stored = Instant::now();
        browser.reads(60, "#points", "current_users 47.25, state “calm”")?;
        eprintln!("a stored row was seen after {:?}", stored.elapsed());
        for n in 0..5 {
            let row = format!("current_users,state\n{n}.5,busy\n");
            self.store("unencrypted/load", &row)?;
            browser.reads(60, "#points", &format!("current_users {n}.5"))?;
        }
        browser.shows(30, "#plot g.kpi .curve")?;
        browser.shows(30, "#plot g.infra .curve")?;
        self.store("encrypted/secret", "hidden\n424242\n")?;
        browser.reads(60, "#sealed", "1 row in this time")?;
        browser.reads(10, "#sealed code", "vmkpi open --key")
    }

    /// The cursor goes by keyboard, and says what it is at.
    fn go_by_keyboard(&self) -> Result<()> {
        let browser = &self.browser;
        browser.run("document.querySelector('#chart').focus()")?;
        browser.keys(&LEFT.repeat(2))?;
        browser.shows(10, "#tip:not([hidden])")?;
        browser.reads(10, "#reading", "current_users")?;
        browser.keys(ESCAPE)?;
        browser.shows(10, "#tip[hidden]")?;
        browser.keys(" ")?;
        browser.reads(10, "#live", "paused")?;
        browser.keys(" ")?;
        browser.reads(10, "#live", "live")
    }
}

#[test]
fn a_stored_row_shows_in_a_browser_and_so_does_a_producer_that_dies() -> Result<()> {
    if !Browser::is_there()? {
        return Ok(());
    }
    let mut site = Site::start()?;
    site.open("#range=5m")?;
    site.see_rows()?;
    site.go_by_keyboard()?;
    site.is_quiet()?;
    // Another life of the host daemon is another stream, as another host is.
    site.chain.kill_host()?;
    site.browser.shows(60, "#plot line.moved")?;
    let browser = &site.browser;
    browser.reads(10, "#events", "New residence or restart")?;
    site.chain.host.kill()?;
    browser.reads(60, "#vm-state", "lease expired")?;
    browser.shows(10, "#sites .mark.dead")?;
    browser.shows(10, "#plot .band.dead")?;
    site.is_quiet()?;
    // It says that collect is away, and goes on by itself when it is back.
    site.collect.process.kill()?;
    browser.shows(30, "#trouble:not([hidden])")?;
    browser.reads(10, "#live", "not connected")?;
    site.collect.begin()?;
    browser.shows(30, "#trouble[hidden]")?;
    browser.reads(10, "#live", "live")
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

/// The same VM's word that rows (after, through] are lost.
fn gap(after: u64, through: u64) -> Result<Value> {
    let mut gap = example(&folder().join("examples/message/valid/gap.json"))?;
    let lost = message(after, through)?;
    for name in ["source", "time", "after", "through", "base"] {
        gap[name] = lost[name].clone();
    }
    for key in ["throughkey", "basekey"] {
        gap.as_object_mut().context("an object")?.remove(key);
    }
    Ok(gap)
}

/// A collect that nobody delivers to but this test.
struct Alone {
    browser: Browser,
    collect: Collector,
    broker: Broker,
    listen: SocketAddr,
    _scratch: Scratch,
}

impl Alone {
    fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let broker = Broker::start(scratch.path())?;
        let key = Key::make(scratch.path(), "collect.key")?;
        let listen = free_address()?;
        let option = format!("--listen={listen}");
        let place = scratch.path();
        let collect = Collector::start(place, &broker, place, &key, &[&option])?;
        let browser = Browser::start(scratch.path(), Look::DESK)?;
        Ok(Self {
            browser,
            collect,
            broker,
            listen,
            _scratch: scratch,
        })
    }

    fn publish(&self, event: &Value) -> Result<()> {
        publish(&self.broker, event)
    }
}

#[test]
fn what_is_missing_shows_as_missing_and_what_is_lost_as_a_gap() -> Result<()> {
    if !Browser::is_there()? {
        return Ok(());
    }
    let alone = Alone::start()?;
    let browser = &alone.browser;
    browser.open(&format!("http://{}/#range=5m", alone.listen))?;
    browser.shows(30, "#none:not([hidden])")?;
    alone.publish(&message(0, 10)?)?;
    alone.publish(&gap(10, 14)?)?;
    alone.publish(&message(14, 20)?)?;
    let shown = browser.shows(30, "#plot .band.gap");
    shown.with_context(|| alone.collect.process.words())?;
    browser.reads(10, "#events", "4 rows, 11 to 14, will never come")?;
    browser.shows(10, "#sites .mark.complete")?;
    browser.lacks(10, "#plot .band.missing")?;
    alone.publish(&message(25, 30)?)?;
    browser.shows(30, "#plot .band.missing")?;
    browser.reads(10, "#events", "have not come yet")?;
    browser.shows(10, "#sites .mark.missing")?;
    alone.publish(&message(20, 25)?)?;
    browser.lacks(30, "#plot .band.missing")?;
    browser.shows(10, "#sites .mark.complete")
}

#[test]
fn hostile_names_and_values_are_text_and_links_to_them_hold() -> Result<()> {
    if !Browser::is_there()? {
        return Ok(());
    }
    let alone = Alone::start()?;
    let browser = &alone.browser;
    browser.open(&format!("http://{}/#range=5m", alone.listen))?;
    alone.publish(&message(0, 10)?)?;
    browser.reads(30, "#vm-name", HOSTILE)?;
    browser.reads(10, "#sites .name", HOSTILE)?;
    browser.reads(10, "#points", "<b onmouseover=alert(1)>bold</b>")?;
    let caption = "return document.querySelector('#plot .caption').textContent";
    let caption = browser.run(caption)?;
    let begins = caption
        .as_str()
        .is_some_and(|text| text.starts_with("</text><script>"));
    ensure!(begins, "{caption}");
    browser.lacks(
        1,
        "main img, nav img, body script, main b, [onerror], [onmouseover]",
    )?;
    let title = browser.run("return document.title")?;
    ensure!(title == format!("{HOSTILE} – vmkpi"), "{title}");
    let link = browser.run("return document.querySelector('#sites a').href")?;
    browser.open("about:blank")?;
    browser.open(link.as_str().context("a link")?)?;
    browser.reads(30, "#vm-name", HOSTILE)?;
    let (errors, _) = browser.said()?;
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(())
}
