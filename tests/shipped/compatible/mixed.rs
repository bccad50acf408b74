//! Guest, host and site of two versions, in every combination, replaced one by one while an application stores.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::asking::Keys;
use vmkpi_tests::chain::{Broker, DOMAIN, lines_of};
use vmkpi_tests::collector::{Around, Collector, NAME};
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::process::Process;
use vmkpi_tests::programs::{HostPlace, start_guest_of, start_host_of};
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

use super::versions::{Programs, earlier};

/// Which program is replaced.
#[derive(Clone, Copy, Debug)]
enum Part {
    Guest,
    Host,
    Site,
}

/// A Gray code: from all of one version to all of the other and back through each of the eight combinations.
const ORDER: [Part; 8] = [
    Part::Host,
    Part::Guest,
    Part::Host,
    Part::Site,
    Part::Host,
    Part::Guest,
    Part::Host,
    Part::Site,
];

/// How many rows more are kept before the next program is replaced.
const ROWS: u64 = 100;

/// Everything of a VM's rows signed and sealed, acknowledged by a named Consumer alone.
struct Mixed {
    guest: Process,
    host: Process,
    collect: Collector,
    watchers: Vec<Process>,
    broker: Broker,
    keys: Keys,
    metrics: std::net::SocketAddr,
    options: Vec<String>,
    /// Whose program each part is: 0 is the earlier version.
    of: [usize; 3],
    programs: [Programs; 2],
    scratch: Scratch,
}

impl Around for Mixed {
    fn folder(&self) -> &Path {
        self.scratch.path()
    }

    fn words(&self) -> String {
        let parts = [
            ("guest", &self.guest),
            ("host", &self.host),
            ("collect", &self.collect.process),
        ];
        let parts = parts.map(|(name, p)| format!("--- {name}\n{}", p.words()));
        format!("versions {:?}\n{}", self.of, parts.join("\n"))
    }
}

fn descriptor(keys: &Keys) -> String {
    format!(
        "vm = 'shop'\nprimary_site = 'acme'\nprimary_key_file = '{}'\n\
         [[confirm]]\nname = '{NAME}'\nkey = '{}'\n\
         [[monitor]]\nid = 'load'\npoint = 'unencrypted/*'\nseal = true\n\
         [[monitor]]\nid = 'mean'\npoint = 'unencrypted/*'\ninterval_ms = 1000\nfunction = 'mean'\n\
         [[monitor]]\nid = 'infra'\npoint = 'infra/*'\ninterval_ms = 1000\n",
        keys.file("site/seal.pub.pem").display(),
        keys.consumer.public
    )
}

/// What a reader of the site is told of its keys.
fn reads(keys: &Keys) -> [String; 2] {
    let site = keys.file("site");
    [
        format!("--trust={}", site.display()),
        format!("--key={}", site.display()),
    ]
}

fn watch(folder: &Path, broker: &Broker, keys: &Keys, of: &Programs) -> Result<Process> {
    let mut arguments = vec![
        "watch".to_owned(),
        format!("--broker={}", broker.url()),
        "--format=json".to_owned(),
        "--show-gaps".to_owned(),
    ];
    arguments.extend(reads(keys));
    let name = format!("watch-{}", of.name);
    Process::start(folder, &name, &of.path("vmkpi"), arguments)
}

impl Mixed {
    fn start(programs: [Programs; 2]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        let keys = Keys::new()?;
        let broker = Broker::start(folder)?;
        std::fs::create_dir(folder.join("kpi"))?;
        std::fs::write(folder.join("descriptor.toml"), descriptor(&keys))?;
        let watchers = programs.iter().map(|of| watch(folder, &broker, &keys, of));
        let watchers = watchers.collect::<Result<_>>()?;
        let [trust, key] = reads(&keys);
        let more = [trust.as_str(), key.as_str()];
        let site = programs[0].path("vmkpi");
        let places = (folder, folder);
        let collect = Collector::start_of(&site, places, &broker, &keys.consumer, &more)?;
        let guest = start_guest_of(&programs[0].path("vmkpi-guest"), folder, &[], &[])?;
        let sign = keys.file("site/sign.key.pem");
        let options = vec![format!("--sign.key-file={}", sign.display())];
        let metrics = free_address()?;
        let place = place(folder, &broker, metrics, &options);
        let host = start_host_of(&programs[0].path("vmkpi-host"), &place)?;
        Ok(Self {
            guest,
            host,
            collect,
            watchers,
            broker,
            keys,
            metrics,
            options,
            of: [0; 3],
            programs,
            scratch,
        })
    }

    /// Ends a part and starts the other version's program in its place, on what it has left.
    fn replace(&mut self, part: Part) -> Result<()> {
        self.of[part as usize] ^= 1;
        let of = &self.programs[self.of[part as usize]];
        let folder = self.scratch.path();
        match part {
            Part::Guest => {
                self.guest.terminate()?;
                self.guest = start_guest_of(&of.path("vmkpi-guest"), folder, &[], &[])?;
            }
            Part::Host => {
                self.host.terminate()?;
                let place = place(folder, &self.broker, self.metrics, &self.options);
                self.host = start_host_of(&of.path("vmkpi-host"), &place)?;
            }
            Part::Site => self.collect.replace(&of.path("vmkpi"))?,
        }
        Ok(())
    }

    /// Whether the earlier site would find a database of a newer format, after `known`.
    fn refuses(&self, part: Part, known: u64) -> Result<bool> {
        let back = matches!(part, Part::Site) && self.of[Part::Site as usize] == 1;
        let format = self.collect.query("PRAGMA user_version")?;
        Ok(back && format[0][0].as_u64() > Some(known))
    }

    fn wait_for_rows(&self) -> Result<()> {
        let rows = self.collect.count() + ROWS;
        wait_for(60, &format!("{rows} rows to be kept"), || {
            (self.collect.count() >= rows).then_some(())
        })
        .with_context(|| self.words())
    }

    /// A question of the site's to the guest, by way of the host, is answered: the site's version asks.
    fn ask(&self) -> Result<()> {
        let of = &self.programs[self.of[Part::Site as usize]];
        let output = Command::new(of.path("vmkpi"))
            .args(["query", "--site=acme", "--vm=shop", "--format=json"])
            .args(["--point=unencrypted/load", "--limit=10"])
            .arg(format!("--broker={}", self.broker.url()))
            .arg(format!("--name={NAME}"))
            .arg(format!(
                "--sign-key-file={}",
                self.keys.consumer.file.display()
            ))
            .args(reads(&self.keys))
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "query: {said}\n{}", self.words());
        let rows = output.stdout.iter().filter(|b| **b == b'\n').count();
        ensure!(rows >= 10, "{rows} rows: {said}\n{}", self.words());
        Ok(())
    }

    fn file(&self) -> PathBuf {
        self.scratch.path().join("kpi/unencrypted/load")
    }
}

fn place<'a>(
    folder: &'a Path,
    broker: &Broker,
    metrics: std::net::SocketAddr,
    options: &'a [String],
) -> HostPlace<'a> {
    HostPlace {
        folder,
        libvirt: "test:///default".to_owned(),
        broker: broker.url(),
        metrics,
        vms: vec![(DOMAIN.to_owned(), folder.to_owned())],
        options,
        environment: &[],
    }
}

/// What a watcher of either version has seen of the stores: each once, and none that it could not open or verify.
fn judge(mixed: &Mixed, writer: &Writer) -> Result<()> {
    let stored = writer.stored()?;
    for watcher in &mixed.watchers {
        let lines = lines_of(&watcher.out)?;
        let mut seen: Vec<u64> = lines
            .iter()
            .filter(|l| l["specifier"] == "load" && l["point"] == "unencrypted/load")
            .filter_map(|l| l["values"]["n"].as_u64())
            .collect();
        let shown = seen.len();
        seen.sort_unstable();
        seen.dedup();
        ensure!(shown == seen.len(), "a row was shown twice");
        let missing = stored.iter().filter(|n| seen.binary_search(n).is_err());
        // A watcher begins with the first message that it sees.
        let missing: Vec<_> = missing.filter(|n| **n > ROWS).collect();
        ensure!(missing.is_empty(), "{missing:?}\n{}", watcher.words());
        for of in ["mean", "infra"] {
            ensure!(
                lines.iter().any(|l| l["specifier"] == of),
                "nothing of {of}"
            );
        }
        ensure!(!watcher.words().contains("ignored"), "{}", watcher.words());
    }
    Ok(())
}

#[test]
fn each_program_may_be_replaced_first_forwards_and_backwards_and_no_row_is_lost_or_twice()
-> Result<()> {
    for before in earlier()? {
        let name = before.programs.name.clone();
        let mut mixed = Mixed::start([before.programs, Programs::now()?])?;
        let pause = Duration::from_millis(4);
        let mut writer = Writer::start(mixed.folder(), &[mixed.file()], pause)?;
        mixed.wait_for_rows().context(name.clone())?;
        for part in ORDER {
            if mixed.refuses(part, before.formats["collect"])? {
                // As downgrade.rs shows. It is the last step, back to where it began.
                continue;
            }
            mixed.replace(part)?;
            let told = || format!("{name}: {part:?} replaced, {:?}", mixed.of);
            mixed.wait_for_rows().with_context(told)?;
            mixed.ask().with_context(told)?;
        }
        writer.stop()?;
        mixed.collect.judge(&mixed, &writer, 60)?;
        judge(&mixed, &writer)?;
    }
    Ok(())
}
