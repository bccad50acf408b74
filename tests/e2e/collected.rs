//! The durable Consumer: whatever happens to broker, collect and its disk, and whoever else speaks in its name, each
//! row that a guest has stored is kept once, and the guest is acknowledged by its Consumer and by nobody else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vmkpi::confirm::{Confirmed, Subject, encode};
use vmkpi::position::{Position, RowKey, StreamId};
use vmkpi::sign::SigningKey;
use vmkpi_tests::chain::{Chain, http_get};
use vmkpi_tests::collector::{Around, Collector, Key, Mortal, NAME, confirmed_by, unacknowledged};
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::mqtt::Subscriber;
use vmkpi_tests::process::vmkpi;
use vmkpi_tests::scratch::{Disk, Scratch, free_address};
use vmkpi_tests::wait_for;

/// A chain whose guest is acknowledged by a collect that is started beside it.
struct Site {
    chain: Chain,
    collect: Collector,
    key: Key,
    _keys: Scratch,
}

impl Site {
    fn start() -> Result<Self> {
        Self::start_in(None, &[])
    }

    fn start_in(place: Option<PathBuf>, more: &[&str]) -> Result<Self> {
        let keys = Scratch::new()?;
        let key = Key::make(keys.path(), "collect.key")?;
        let chain = Chain::start(&confirmed_by(&key))?;
        let place = place.unwrap_or_else(|| chain.folder().to_owned());
        let collect = Collector::start(chain.folder(), &chain.broker, &place, &key, more)?;
        Ok(Self {
            chain,
            collect,
            key,
            _keys: keys,
        })
    }
}

impl Around for Site {
    fn folder(&self) -> &Path {
        self.chain.folder()
    }

    fn words(&self) -> String {
        self.chain.words()
    }
}

impl Mortal for Site {
    fn collect(&self) -> &Collector {
        &self.collect
    }

    fn write(&self, pause: Duration) -> Result<Writer> {
        let file = self.chain.mount().join("unencrypted/load");
        Writer::start(self.chain.folder(), &[file], pause)
    }

    fn forget_broker(&mut self, _: usize) -> Result<()> {
        self.chain.broker.process().kill()?;
        let _ = std::fs::remove_file(self.chain.folder().join("mosquitto.db"));
        self.chain.broker.begin()
    }
}

#[test]
fn a_broker_that_is_killed_and_comes_back_empty_costs_no_row() -> Result<()> {
    let mut site = Site::start()?;
    let mut writer = site.write(Duration::from_millis(2))?;
    for n in 0..4 {
        site.wait_for_more(200, 120)?;
        site.forget_broker(n)?;
    }
    site.wait_for_more(200, 120)?;
    writer.stop()?;
    site.collect.judge(&site.chain, &writer, 120)?;
    Ok(())
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_broker_that_is_killed_twenty_times_in_100_000_rows_costs_no_row() -> Result<()> {
    Site::start()?.survive_twenty_kills()
}

#[test]
fn a_collect_that_is_killed_goes_on_where_its_database_is() -> Result<()> {
    let mut site = Site::start()?;
    let mut writer = site.write(Duration::from_millis(2))?;
    for pause_ms in [700, 50, 1300, 10] {
        site.wait_for_more(50, 120)?;
        sleep(Duration::from_millis(pause_ms));
        site.collect.kill()?;
    }
    site.wait_for_more(200, 120)?;
    writer.stop()?;
    site.collect.judge(&site.chain, &writer, 120)?;
    Ok(())
}

/// Stopped for so long that the broker forgets its session, too: it is started empty meanwhile.
#[test]
fn while_collect_is_away_the_guest_keeps_its_rows() -> Result<()> {
    let mut site = Site::start()?;
    let mut writer = site.write(Duration::from_millis(2))?;
    site.wait_for_more(200, 120)?;
    let away = site.collect.process.terminate()?;
    ensure!(away.success(), "{away}");
    let before = site.collect.count();
    let stored = writer.stored()?.len();
    wait_for(60, "the guest to store without a Consumer", || {
        (writer.stored().ok()?.len() > stored + 3000).then_some(())
    })?;
    site.forget_broker(0)?;
    // The broker has taken everything, and its word does not count.
    let kept_back = unacknowledged(&site.chain)?;
    ensure!(kept_back >= 3000, "only {kept_back} rows are kept");
    ensure!(site.collect.count() == before, "who wrote?");
    site.chain.kill_host()?;
    site.collect.begin()?;
    site.wait_for_more(3000, 120)?;
    writer.stop()?;
    site.collect.judge(&site.chain, &writer, 120)?;
    Ok(())
}

#[test]
fn two_collects_do_not_share_a_database() -> Result<()> {
    let site = Site::start()?;
    let db = site.collect.db.display().to_string();
    let url = site.chain.broker.url();
    let second = vmkpi(&["collect", "--broker", &url, "--db", &db])?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(second.status.code() == Some(1), "{}", second.status);
    ensure!(said.contains("another vmkpi collect uses it"), "{said}");
    Ok(())
}

#[test]
fn a_full_disk_stops_confirmations_and_costs_no_row() -> Result<()> {
    let disk = Disk::mount("64m")?;
    let site = Site::start_in(Some(disk.path().to_owned()), &[])?;
    let mut writer = site.write(Duration::from_millis(2))?;
    site.wait_for_more(200, 120)?;
    let ballast = disk.fill()?;
    wait_for(60, "collect to say so", || {
        let said = site.collect.process.words();
        said.contains("nothing is confirmed until it can")
            .then_some(())
    })
    .with_context(|| site.collect.process.words())?;
    let (full, stored) = (site.collect.count(), writer.stored()?.len());
    wait_for(60, "the guest to store all the same", || {
        (writer.stored().ok()?.len() > stored + 1000).then_some(())
    })?;
    ensure!(site.collect.count() == full, "a full disk took rows");
    ensure!(
        unacknowledged(&site.chain)? >= 1000,
        "acknowledged though nobody keeps it"
    );
    std::fs::remove_file(ballast)?;
    wait_for(60, "collect to recover", || {
        let said = site.collect.process.words();
        said.contains("messages are kept again").then_some(())
    })?;
    site.wait_for_more(1000, 120)?;
    writer.stop()?;
    site.collect.judge(&site.chain, &writer, 120)?;
    Ok(())
}

const TOPIC: &str = "vmkpi/v1/acme/confirm/acme-collect/shop";

impl Site {
    fn publish(&self, payload: &str) -> Result<()> {
        let file = self.chain.folder().join("payload");
        std::fs::write(&file, payload)?;
        let port = self.chain.broker.port().to_string();
        let status = Command::new("mosquitto_pub")
            .args(["-p", &port, "-q", "1", "-t", TOPIC, "-f"])
            .arg(&file)
            .status()?;
        ensure!(status.success(), "mosquitto_pub: {status}");
        Ok(())
    }

    /// Publishes so many messages that are no confirmations, as fast as it can.
    fn flood(&self, count: usize) -> Result<()> {
        let file = self.chain.folder().join("flood");
        std::fs::write(&file, "no confirmation\n".repeat(count))?;
        let port = self.chain.broker.port().to_string();
        let status = Command::new("mosquitto_pub")
            .args(["-p", &port, "-q", "1", "-t", TOPIC, "-l"])
            .stdin(std::fs::File::open(&file)?)
            .status()?;
        ensure!(status.success(), "mosquitto_pub: {status}");
        Ok(())
    }

    fn refused(&self, reason: &str) -> Result<f64> {
        self.chain.metric(&format!(
            "vmkpi_confirmations_refused_total{{reason=\"{reason}\"}}"
        ))
    }

    fn wait_for_refused(&self, reason: &str, more_than: f64) -> Result<()> {
        wait_for(20, &format!("{reason} to be counted"), || {
            (self.refused(reason).ok()? > more_than).then_some(())
        })
    }
}

/// The Consumer's own word, about what nobody delivers.
fn of_no_specifier(key: &Key) -> Result<String> {
    let subject = Subject {
        site: "acme".parse()?,
        consumer: NAME.parse()?,
        vm: "shop".parse()?,
    };
    let confirmed = Confirmed {
        stream: StreamId(1),
        point: "unencrypted/load".parse()?,
        specifier: "none".parse()?,
        through: Position::new(1_000_000, RowKey(1)),
        want_from: None,
    };
    let key = SigningKey::from_pem(&std::fs::read_to_string(&key.file)?)?;
    Ok(String::from_utf8(encode(
        &subject,
        1,
        vec![confirmed],
        &key,
    ))?)
}

/// What stands behind `"seq":` first, larger.
fn raised(confirmation: &str) -> Result<String> {
    let (before, rest) = confirmation.split_once("\"seq\":").context("a position")?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .context("its end")?;
    let seq: u64 = rest[..digits].parse()?;
    Ok(format!("{before}\"seq\":{}{}", seq + 100, &rest[digits..]))
}

#[test]
fn forged_altered_replayed_and_reordered_confirmations_acknowledge_nothing() -> Result<()> {
    let mut site = Site::start()?;
    let heard = Subscriber::start(site.chain.broker.address(), "vmkpi/v1/+/confirm/#")?;
    let mut writer = site.write(Duration::from_millis(2))?;
    site.wait_for_more(500, 120)?;
    wait_for(20, "confirmations of the load", || {
        (heard.messages(0).len() > 5).then_some(())
    })?;
    site.collect.process.kill()?;
    let acknowledged = || unacknowledged(&site.chain);
    let genuine: Vec<String> = heard
        .messages(0)
        .into_iter()
        .map(|m| String::from_utf8(m.payload))
        .collect::<Result<_, _>>()?;
    let last = genuine.last().context("a confirmation")?;
    let unsigned = last
        .split(",\"signature\"")
        .next()
        .unwrap_or_default()
        .to_owned()
        + "}";
    let none = "eyJhbGciOiJub25lIiwia2lkIjoiIiwidHlwIjoidm1rcGktY29uZmlybWF0aW9uIn0..";
    let body = unsigned.strip_suffix('}').context("an object")?;
    let no_algorithm = format!("{body},\"signature\":\"{none}\"}}");
    for (reason, payload) in [
        ("malformed", "no confirmation".to_owned()),
        ("unsigned", unsigned.clone()),
        ("wrong_algorithm", no_algorithm),
        ("bad_signature", raised(last)?),
        (
            "bad_signature",
            last.replace("\"issued\":1", "\"issued\":2"),
        ),
        (
            "another_topic",
            last.replace("\"vm\":\"shop\"", "\"vm\":\"other\""),
        ),
        ("stale", last.clone()),
        ("stale", genuine[genuine.len() / 2].clone()),
        ("stale", genuine[0].clone()),
        (
            "malformed_signature",
            format!("{body},\"signature\":\"x\"}}"),
        ),
        ("unknown", of_no_specifier(&site.key)?),
    ] {
        let before = site.refused(reason)?;
        site.publish(&payload)?;
        site.wait_for_refused(reason, before)
            .with_context(|| payload.clone())?;
    }
    site.flood(2000)?;
    site.wait_for_refused("too_many", 100.0)?;
    // A whole collect in the same name, with a key of its own: it keeps everything, and its word is nobody's.
    let stranger = Key::make(site.chain.folder(), "stranger.key")?;
    let place = site.chain.folder().join("stranger");
    std::fs::create_dir(&place)?;
    let mut other = Collector::start(
        site.chain.folder(),
        &site.chain.broker,
        &place,
        &stranger,
        &[],
    )?;
    site.wait_for_refused("unknown_key", 5.0)?;
    other.process.terminate()?;
    let (kept, stored) = (acknowledged()?, writer.stored()?.len());
    wait_for(30, "stores that nobody acknowledges", || {
        (writer.stored().ok()?.len() > stored + 300).then_some(())
    })?;
    ensure!(acknowledged()? >= kept + 300, "somebody acknowledged");
    site.collect.begin()?;
    site.wait_for_more(300, 120)?;
    writer.stop()?;
    site.collect.judge(&site.chain, &writer, 120)?;
    ensure!(
        site.chain.metric("vmkpi_confirmations_total")? > 1.0,
        "nothing was confirmed"
    );
    Ok(())
}

#[test]
fn what_is_kept_is_answered_over_http_and_a_silent_producer_shows() -> Result<()> {
    let listen = free_address()?;
    let option = format!("--listen={listen}");
    let mut site = Site::start_in(None, &[&option])?;
    let mut writer = site.write(Duration::from_millis(2))?;
    site.wait_for_more(100, 120)?;
    writer.stop()?;
    let stored = site.collect.judge(&site.chain, &writer, 60)?;
    let (mut numbers, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/samples?vm=shop&point=unencrypted/load&limit=40{after}");
        let page: serde_json::Value = serde_json::from_str(&http_get(listen, &path)?)?;
        let rows = page["rows"].as_array().context("rows")?;
        numbers.extend(rows.iter().filter_map(|row| row["data"]["n"].as_u64()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let all: std::collections::HashSet<u64> = numbers.iter().copied().collect();
    ensure!(
        all.len() == numbers.len() && writer.stored()?.is_subset(&all),
        "{} of {stored}",
        all.len()
    );
    let csv = http_get(listen, "/api/v1/vms?format=csv")?;
    ensure!(csv.contains("acme,shop,"), "{csv}");
    let page = http_get(listen, "/metrics")?;
    for line in [
        "vmkpi_collect_broker_connected 1",
        "vmkpi_collect_database_failing 0",
        "vmkpi_collect_producer_silent{site=\"acme\",vm=\"shop\"} 0",
    ] {
        ensure!(page.lines().any(|l| l == line), "{line} is not on\n{page}");
    }
    // The database as it would be an hour later, of a host that is in no Directory.
    site.collect.process.terminate()?;
    let db = site.collect.db.display().to_string();
    let script = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1])\n\
                  c.execute('UPDATE instance SET heard = heard - 3600000000')\n\
                  c.execute('DELETE FROM lease')\nc.commit()";
    let status = Command::new("python3").args(["-c", script, &db]).status()?;
    ensure!(status.success(), "{status}");
    let said = vmkpi(&["collect", "status", "--db", &db])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        said.contains("silent: its Producer is dead or cut off"),
        "{said}"
    );
    Ok(())
}
