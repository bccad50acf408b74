//! Keys that are replaced while everything runs: each row arrives once, signed and sealed by the old key or the new
//! one, and nothing is started again.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use vmkpi::key_file::{opening_key, verifying_key};
use vmkpi::message::{Body, Received};
use vmkpi::open::OpeningKeys;
use vmkpi::sign::Keyring;
use vmkpi_tests::chain::Chain;
use vmkpi_tests::collector::{Collector, Key, NAME};
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::mqtt::Subscriber;
use vmkpi_tests::process::program;
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::wait_for;

/// Folders of keys as `vmkpi key new` makes them, and the one that the programs are told of.
struct Site {
    keys: Scratch,
    chain: Chain,
    collect: Collector,
}

impl Site {
    fn start() -> Result<Self> {
        let keys = Scratch::new()?;
        for name in ["1", "2"] {
            make(&keys.path().join(name))?;
        }
        let place = |name: &str| keys.path().join(name);
        std::fs::create_dir(place("trusted"))?;
        std::fs::copy(place("1/sign.key.pem"), place("sign.key.pem"))?;
        std::fs::copy(place("1/seal.pub.pem"), place("seal.pub.pem"))?;
        trust(&keys, "1")?;
        let key = Key::make(keys.path(), "collect.key")?;
        let descriptor = format!(
            "vm = 'shop'\nprimary_site = 'acme'\nprimary_key_file = '{}'\n\
             [[confirm]]\nname = '{NAME}'\nkey = '{}'\n\
             [[monitor]]\nid = 'ready'\npoint = 'unencrypted/ready'\n\
             [[monitor]]\nid = 'every-row'\npoint = 'unencrypted/load'\nseal = true\n",
            place("seal.pub.pem").display(),
            key.public
        );
        let sign = format!("--sign.key-file={}", place("sign.key.pem").display());
        let chain = Chain::start_with(&descriptor, &[], &[&sign])?;
        let trusted = place("trusted").display().to_string();
        let options = [format!("--trust={trusted}"), format!("--key={trusted}")];
        let options = options.each_ref().map(String::as_str);
        let folder = chain.folder().to_owned();
        let collect = Collector::start(&folder, &chain.broker, &folder, &key, &options)?;
        Ok(Self {
            keys,
            chain,
            collect,
        })
    }

    fn place(&self, name: &str) -> PathBuf {
        self.keys.path().join(name)
    }

    /// Puts a key in the place of the one that a program reads, as `mv` does.
    fn replace(&self, with: &str, file: &str) -> Result<()> {
        std::fs::copy(self.place(with), self.place("new"))?;
        Ok(std::fs::rename(self.place("new"), self.place(file))?)
    }

    /// Waits until so many rows more are kept than there are now.
    fn wait_for_more(&self, rows: u64) -> Result<()> {
        let rows = self.collect.count() + rows;
        wait_for(120, &format!("{rows} rows to be kept"), || {
            (self.collect.count() >= rows).then_some(())
        })
        .with_context(|| format!("{}\n{}", self.collect.process.words(), self.chain.words()))
    }

    fn wait_for_words(&self, words: &str, times: usize) -> Result<()> {
        wait_for(60, words, || {
            (self.collect.process.words().matches(words).count() >= times).then_some(())
        })
        .with_context(|| self.collect.process.words())
    }
}

fn make(folder: &Path) -> Result<()> {
    let dir = format!("--dir={}", folder.display());
    let made = Command::new(program("vmkpi")?)
        .args(["key", "new", "seal", "sign", &dir])
        .stdout(Stdio::null())
        .status()?;
    ensure!(made.success(), "no keys");
    Ok(())
}

/// From now on this folder's keys are believed and open.
fn trust(keys: &Scratch, name: &str) -> Result<()> {
    let from = keys.path().join(name);
    let to = keys.path().join("trusted");
    for file in ["sign.pub.pem", "seal.key.pem"] {
        // Whole, or not there.
        std::fs::copy(from.join(file), keys.path().join("whole"))?;
        std::fs::rename(keys.path().join("whole"), to.join(format!("{name}.{file}")))?;
    }
    Ok(())
}

/// Whether this message is signed by the key of this folder, and whether its envelope is for it.
fn by_and_for(folder: &Path, message: &[u8]) -> Result<[bool; 2]> {
    let ring = Keyring::from_iter([verifying_key(&folder.join("sign.pub.pem"))?]);
    let keys = OpeningKeys::from_iter([opening_key(&folder.join("seal.key.pem"))?]);
    let received = Received::decode(message)?;
    let signed = received.verify(&ring).is_ok();
    let sealed = matches!(received.event.body, Body::Sealed(_));
    Ok([signed, sealed && received.event.open(&keys).is_ok()])
}

/// The steps of docs/KEYS.md, "Replacing a key", under load.
#[test]
fn keys_are_replaced_while_everything_runs_and_each_row_comes_once() -> Result<()> {
    let site = Site::start()?;
    let heard = Subscriber::start(
        site.chain.broker.address(),
        "vmkpi/v1/+/data/shop/every-row/#",
    )?;
    let file = site.chain.mount().join("unencrypted/load");
    let mut writer = Writer::start(site.chain.folder(), &[file], Duration::from_millis(20))?;
    site.wait_for_more(50)?;
    // A key that everybody may read changes nothing, and is said once.
    let opens = site.place("trusted/1.seal.key.pem");
    std::fs::set_permissions(&opens, Permissions::from_mode(0o644))?;
    site.wait_for_words("those before stay in force", 1)?;
    site.wait_for_more(50)?;
    std::fs::set_permissions(&opens, Permissions::from_mode(0o600))?;
    // Consumers believe and open both, before anybody uses the new ones.
    trust(&site.keys, "2")?;
    site.wait_for_words("keys have changed", 1)?;
    site.replace("2/sign.key.pem", "sign.key.pem")?;
    site.chain.host.signal(Signal::HUP)?;
    wait_for(30, "the host to sign with it", || {
        let said = site.chain.host.words();
        said.contains("signed with another key").then_some(())
    })
    .with_context(|| site.chain.words())?;
    site.replace("2/seal.pub.pem", "seal.pub.pem")?;
    wait_for(60, "the new keys in signature and envelope", || {
        let messages = heard.messages(0);
        let last = by_and_for(&site.place("2"), &messages.last()?.payload);
        (last.ok()? == [true, true]).then_some(())
    })
    .with_context(|| site.chain.words())?;
    let first = by_and_for(&site.place("1"), &heard.messages(0)[0].payload)?;
    ensure!(first == [true, true], "{first:?}");
    site.wait_for_more(50)?;
    writer.stop()?;
    site.collect.judge(&site.chain, &writer, 120)?;
    // The old ones are taken back: what they have signed counts no more, and collect says so.
    std::fs::remove_file(site.place("trusted/1.sign.pub.pem"))?;
    site.wait_for_words("keys have changed", 2)?;
    let said = site.collect.process.words();
    ensure!(!said.contains("ignored"), "{said}");
    let sealed = site.collect.query("SELECT count(*) FROM sealed")?;
    ensure!(sealed[0][0] == 0, "{sealed:?} messages are kept sealed");
    ensure!(
        site.chain
            .host
            .words()
            .matches("vmkpi-host started")
            .count()
            == 1
    );
    Ok(())
}
