//! The durable Consumer: whatever happens to broker, collect and its disk, and whoever else speaks in its name, each
//! row that a guest has stored is kept once, and the guest is acknowledged by its Consumer and by nobody else.

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::Chain;
use vmkpi_tests::collector::{Collector, Key, confirmed_by, unacknowledged};
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::process::vmkpi;
use vmkpi_tests::scratch::Scratch;
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

    fn write(&self, pause_ms: u64) -> Result<Writer> {
        let file = self.chain.mount().join("unencrypted/load");
        let pause = Duration::from_millis(pause_ms);
        Writer::start(self.chain.folder(), &[file], pause)
    }

    /// Waits until so many rows more are kept than there are now.
    fn wait_for_more(&self, rows: u64) -> Result<()> {
        let rows = self.collect.count() + rows;
        wait_for(120, &format!("{rows} rows to be kept"), || {
            (self.collect.count() >= rows).then_some(())
        })
        .with_context(|| format!("{}\n{}", self.collect.process.words(), self.chain.words()))
    }

    /// Kills the broker as kill -9 does and starts it as one that has never been there.
    fn forget_broker(&mut self) -> Result<()> {
        self.chain.broker.process().kill()?;
        let _ = std::fs::remove_file(self.chain.folder().join("mosquitto.db"));
        self.chain.broker.begin()
    }

    /// The value of a metric of the host.
    fn metric(&self, name: &str) -> Result<f64> {
        let page = self.chain.scrape()?;
        let line = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("{name} is not on\n{page}"))?.parse()?)
    }
}

#[test]
fn a_broker_that_is_killed_and_comes_back_empty_costs_no_row() -> Result<()> {
    let mut site = Site::start()?;
    let mut writer = site.write(2)?;
    for _ in 0..4 {
        site.wait_for_more(200)?;
        site.forget_broker()?;
    }
    site.wait_for_more(200)?;
    writer.stop()?;
    site.collect.judge(&site.chain, &writer, 120)?;
    Ok(())
}

#[test]
#[ignore = "takes a quarter of an hour; make soak"]
fn a_broker_that_is_killed_twenty_times_in_100_000_rows_costs_no_row() -> Result<()> {
    let mut site = Site::start()?;
    let mut writer = site.write(0)?;
    for _ in 0..20 {
        site.wait_for_more(5000)?;
        site.forget_broker()?;
    }
    while writer.stored()?.len() < 100_000 {
        site.wait_for_more(1000)?;
    }
    writer.stop()?;
    let rows = site.collect.judge(&site.chain, &writer, 600)?;
    println!("{rows} rows, each once");
    Ok(())
}

#[test]
fn a_collect_that_is_killed_goes_on_where_its_database_is() -> Result<()> {
    let mut site = Site::start()?;
    let mut writer = site.write(2)?;
    for pause_ms in [700, 50, 1300, 10] {
        site.wait_for_more(50)?;
        sleep(Duration::from_millis(pause_ms));
        site.collect.kill()?;
    }
    site.wait_for_more(200)?;
    writer.stop()?;
    site.collect.judge(&site.chain, &writer, 120)?;
    Ok(())
}

/// Stopped for so long that the broker forgets its session, too: it is started empty meanwhile.
#[test]
fn while_collect_is_away_the_guest_keeps_its_rows() -> Result<()> {
    let mut site = Site::start()?;
    let mut writer = site.write(2)?;
    site.wait_for_more(200)?;
    let away = site.collect.process.terminate()?;
    ensure!(away.success(), "{away}");
    let before = site.collect.count();
    let stored = writer.stored()?.len();
    wait_for(60, "the guest to store without a Consumer", || {
        (writer.stored().ok()?.len() > stored + 3000).then_some(())
    })?;
    site.forget_broker()?;
    // The broker has taken everything, and its word does not count.
    let kept_back = unacknowledged(&site.chain)?;
    ensure!(kept_back >= 3000, "only {kept_back} rows are kept");
    ensure!(site.collect.count() == before, "who wrote?");
    site.chain.kill_host()?;
    site.collect.begin()?;
    site.wait_for_more(3000)?;
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

/// A small disk of its own for the database.
struct Disk(Scratch);

impl Disk {
    fn mount(size: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let option = format!("size={size}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &option, "tmpfs"])
            .arg(scratch.path())
            .status()?;
        ensure!(status.success(), "a tmpfs cannot be mounted; these tests run as root");
        Ok(Self(scratch))
    }

    /// A file that takes what is left.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.path().join("ballast");
        let mut file = std::fs::File::create(&path)?;
        // Until there is no room; the last pieces are small.
        for piece in [1 << 16, 1 << 12] {
            while std::io::Write::write_all(&mut file, &vec![1; piece]).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        vmkpi_tests::scratch::unmount(self.0.path());
    }
}

#[test]
fn a_full_disk_stops_confirmations_and_costs_no_row() -> Result<()> {
    let disk = Disk::mount("64m")?;
    let site = Site::start_in(Some(disk.0.path().to_owned()), &[])?;
    let mut writer = site.write(2)?;
    site.wait_for_more(200)?;
    let ballast = disk.fill()?;
    wait_for(60, "collect to say so", || {
        let said = site.collect.process.words();
        said.contains("nothing is confirmed until it can").then_some(())
    })
    .with_context(|| site.collect.process.words())?;
    let (full, stored) = (site.collect.count(), writer.stored()?.len());
    wait_for(60, "the guest to store all the same", || {
        (writer.stored().ok()?.len() > stored + 1000).then_some(())
    })?;
    ensure!(site.collect.count() == full, "a full disk took rows");
    ensure!(unacknowledged(&site.chain)? >= 1000, "acknowledged though nobody keeps it");
    std::fs::remove_file(ballast)?;
    wait_for(60, "collect to recover", || {
        let said = site.collect.process.words();
        said.contains("messages are kept again").then_some(())
    })?;
    site.wait_for_more(1000)?;
    writer.stop()?;
    site.collect.judge(&site.chain, &writer, 120)?;
    Ok(())
}
