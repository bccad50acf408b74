//! The real parts of a soak: guests with mounts and writers, host daemons on libvirt's test driver, a broker
//! behind a network that can be cut, a watcher, and the ledger's subscriber.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::descriptors::{self, History};
use super::events::{Event, Part, Trouble};
use crate::chain::{Broker, http_get, query, tail};
use crate::faketime::{self, Clock};
use crate::ledger::Writer;
use crate::mqtt::Subscriber;
use crate::process::Process;
use crate::programs::{HostPlace, begin_watch, start_guest, start_host};
use crate::proxy::{Proxy, Weather};
use crate::scratch::{Scratch, free_address};
use crate::seed::Seed;
use crate::wait_for;

/// The files that each writer stores into.
const FILES: [&str; 3] = ["unencrypted/load", "unencrypted/queue", "encrypted/sealed"];

/// A guest, its writer and its descriptor.
pub struct Guest {
    /// The VM's name.
    pub name: String,
    /// Its descriptors.
    pub history: History,
    /// The daemon.
    pub process: Process,
    /// The writer and its notes.
    pub writer: Writer,
    /// Rows may go before they are acknowledged.
    pub forgets: bool,
    folder: PathBuf,
    options: Vec<String>,
    clock: Option<Clock>,
}

/// A host daemon.
pub struct Host {
    /// The daemon.
    pub process: Process,
    place: Place,
}

/// Where a host daemon begins again.
struct Place {
    folder: PathBuf,
    broker: String,
    options: Option<String>,
    metrics: SocketAddr,
    vms: Vec<(String, PathBuf)>,
    clock: Option<Clock>,
}

/// All of them.
pub struct Fleet {
    /// What the ledger's subscriber gets.
    pub ledger: Subscriber,
    /// When the broker was killed.
    pub kills: Vec<Instant>,
    /// The watchers' folders.
    pub watches: Vec<PathBuf>,
    /// Host daemons.
    pub hosts: Vec<Host>,
    /// Guests.
    pub guests: Vec<Guest>,
    watch: Process,
    network: Proxy,
    broker: Broker,
    scratch: Scratch,
}

fn clock_in(folder: &Path) -> Result<Option<Clock>> {
    Ok(Clock::new(&folder.join("clock")).transpose()?)
}

fn environment(clock: Option<&Clock>) -> Vec<(String, String)> {
    clock.map(Clock::environment).unwrap_or_default()
}

impl Fleet {
    /// Starts everything, with `guests` on each of `hosts`.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start(hosts: usize, guests: usize, pause: Duration, seed: &mut Seed) -> Result<Self> {
        let scratch = Scratch::new()?;
        let broker = Broker::start(scratch.path())?;
        let network = Proxy::start(broker.address())?;
        let ledger = Subscriber::start(broker.address(), "vmkpi/v1/+/data/#")?;
        let (watch, watched) = start_watch(scratch.path(), 0, &network)?;
        let mut fleet = Self {
            ledger,
            kills: Vec::new(),
            watches: vec![watched],
            hosts: Vec::new(),
            guests: Vec::new(),
            watch,
            network,
            broker,
            scratch,
        };
        for host in 0..hosts {
            let names: Vec<_> = (0..guests)
                .map(|n| format!("vm{}", host * guests + n))
                .collect();
            for name in &names {
                // The last one of each host forgets.
                let forgets = guests > 1 && Some(name) == names.last();
                let guest = Guest::start(fleet.scratch.path(), name, forgets, pause, seed)?;
                fleet.guests.push(guest);
            }
            let polls = host > 0 && seed.coin();
            let host = Host::start(&fleet, host, &names, polls)?;
            fleet.hosts.push(host);
        }
        Ok(fleet)
    }

    /// Begins a trouble. `true`: it must be mended.
    ///
    /// # Errors
    /// A part does not do as it should.
    pub fn hurt(&mut self, event: &Event, seed: &mut Seed) -> Result<bool> {
        match (event.part, event.trouble) {
            (Part::Network, Trouble::Silence) => self.network.set(Weather::Silent),
            (Part::Network, Trouble::Blackout) => self.network.set(Weather::Blackout),
            (Part::Network, _) => self.network.set(Weather::Cut),
            (Part::Watch, _) => {
                self.watch.kill()?;
                let number = self.watches.len();
                let (watch, folder) = start_watch(self.scratch.path(), number, &self.network)?;
                self.watch = watch;
                self.watches.push(folder);
                return Ok(false);
            }
            (Part::Guest(n), Trouble::Describe) => {
                self.guests[n].describe(seed)?;
                return Ok(false);
            }
            (part, Trouble::Clock(offset)) => {
                self.clock(part).context("no clock")?.set(offset)?;
                return Ok(false);
            }
            (part, Trouble::Freeze) => self.process(part)?.signal(Signal::STOP)?,
            (part, Trouble::Kill) => {
                let process = self.process(part)?;
                process.kill()?;
                faketime::forget(process.pid());
                if part == Part::Broker {
                    self.kills.push(Instant::now());
                }
            }
            (part, _) => {
                let process = self.process(part)?;
                let status = process.terminate()?;
                ensure!(status.success(), "{part:?} ended with {status}");
            }
        }
        Ok(true)
    }

    /// Ends the trouble of a part.
    ///
    /// # Errors
    /// It does not come back.
    pub fn mend(&mut self, part: Part) -> Result<()> {
        if part == Part::Network {
            self.network.clear_up();
            return Ok(());
        }
        let process = self.process(part)?;
        if process.runs() {
            return process.signal(Signal::CONT);
        }
        match part {
            Part::Host(n) => self.hosts[n].begin(),
            Part::Guest(n) => self.guests[n].begin(),
            _ => self.broker.begin(),
        }
    }

    fn process(&mut self, part: Part) -> Result<&mut Process> {
        Ok(match part {
            Part::Host(n) => &mut self.hosts[n].process,
            Part::Guest(n) => &mut self.guests[n].process,
            Part::Broker => self.broker.process(),
            Part::Watch => &mut self.watch,
            Part::Network => bail!("the network is no program"),
        })
    }

    fn clock(&self, part: Part) -> Option<&Clock> {
        match part {
            Part::Host(n) => self.hosts[n].place.clock.as_ref(),
            Part::Guest(n) => self.guests[n].clock.as_ref(),
            _ => None,
        }
    }

    /// Whether clocks can be set.
    pub fn has_clocks(&self) -> bool {
        self.guests.iter().all(|guest| guest.clock.is_some())
    }

    /// The first host and the first guest, which nobody kills.
    pub fn steady(&self) -> [u32; 2] {
        [self.hosts[0].process.pid(), self.guests[0].process.pid()]
    }

    /// Every clock is right again.
    ///
    /// # Errors
    /// One cannot be set.
    pub fn right_clocks(&self) -> Result<()> {
        let hosts = self.hosts.iter().map(|h| &h.place.clock);
        for clock in hosts.chain(self.guests.iter().map(|g| &g.clock)).flatten() {
            clock.set("+0")?;
        }
        Ok(())
    }

    /// What every program said last.
    pub fn words(&self) -> String {
        let mut words = String::new();
        for host in &self.hosts {
            let _ = writeln!(words, "--- host\n{}", tail(&host.process.words()));
        }
        for guest in &self.guests {
            let (name, said) = (&guest.name, tail(&guest.process.words()));
            let _ = writeln!(words, "--- {name}\n{said}");
        }
        words
    }
}

fn start_watch(folder: &Path, number: usize, network: &Proxy) -> Result<(Process, PathBuf)> {
    let folder = folder.join(format!("watch{number}"));
    std::fs::create_dir(&folder)?;
    let watch = begin_watch(&folder, &format!("mqtt://{}", network.address()))?;
    Ok((watch, folder))
}

impl Guest {
    fn start(
        scratch: &Path,
        name: &str,
        forgets: bool,
        pause: Duration,
        seed: &mut Seed,
    ) -> Result<Self> {
        let folder = scratch.join(name);
        std::fs::create_dir_all(folder.join("kpi"))?;
        let bounds: &[&str] = match forgets {
            true => &["--retain-rows=200", "--drop-unacknowledged"],
            false => &[],
        };
        let options: Vec<_> = bounds.iter().map(ToString::to_string).collect();
        let clock = clock_in(&folder)?;
        let process = start_guest(&folder, &options, &environment(clock.as_ref()))?;
        let files = FILES.map(|file| folder.join("kpi").join(file));
        let mut guest = Self {
            name: name.to_owned(),
            history: History::default(),
            process,
            writer: Writer::start(&folder, &files, pause)?,
            forgets,
            folder,
            options,
            clock,
        };
        guest.describe(seed)?;
        Ok(guest)
    }

    fn begin(&mut self) -> Result<()> {
        let environment = environment(self.clock.as_ref());
        self.process = start_guest(&self.folder, &self.options, &environment)?;
        Ok(())
    }

    fn describe(&mut self, seed: &mut Seed) -> Result<()> {
        let text = descriptors::draw(&self.name, seed);
        self.history.add(&text)?;
        let file = self.folder.join("descriptor.toml");
        std::fs::write(file.with_extension("new"), text)?;
        Ok(std::fs::rename(file.with_extension("new"), file)?)
    }

    /// One more store into each file, with the numbers from `first` on: it closes the last windows.
    ///
    /// # Errors
    /// The partition does not take it.
    pub fn store_last(&self, first: u64) -> Result<HashSet<u64>> {
        let mut stored = HashSet::new();
        for (n, file) in (first..).zip(FILES) {
            let path = self.folder.join("kpi").join(file);
            let text = format!("n,half\n{n},{n}.5\n");
            wait_for(20, "a last store", || std::fs::write(&path, &text).ok())?;
            stored.insert(n);
        }
        Ok(stored)
    }

    /// Runs a query on one of its databases.
    ///
    /// # Errors
    /// It is refused.
    pub fn query(&self, database: &str, sql: &str) -> Result<Vec<serde_json::Value>> {
        query(&self.folder.join("guest").join(database), sql)
    }
}

impl Host {
    fn start(fleet: &Fleet, number: usize, vms: &[String], polls: bool) -> Result<Self> {
        let folder = fleet.scratch.path().join(format!("host{number}"));
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("node.xml"), node(number, vms))?;
        let broker = format!("mqtt://{}", fleet.network.address());
        let vms = vms
            .iter()
            .map(|vm| (vm.clone(), fleet.scratch.path().join(vm)));
        let place = Place {
            metrics: free_address()?,
            options: polls.then(|| "--link.poll-interval=1".to_owned()),
            vms: vms.collect(),
            clock: clock_in(&folder)?,
            broker,
            folder,
        };
        let process = place.begin()?;
        Ok(Self { process, place })
    }

    fn begin(&mut self) -> Result<()> {
        self.process = self.place.begin()?;
        Ok(())
    }

    /// The exporter's page.
    ///
    /// # Errors
    /// It does not answer.
    pub fn scrape(&self) -> Result<String> {
        http_get(self.place.metrics, "/metrics")
    }
}

impl Place {
    fn begin(&self) -> Result<Process> {
        let place = HostPlace {
            folder: &self.folder,
            libvirt: format!("test://{}", self.folder.join("node.xml").display()),
            broker: self.broker.clone(),
            metrics: self.metrics,
            vms: self.vms.clone(),
            options: self.options.as_slice(),
            environment: &environment(self.clock.as_ref()),
        };
        start_host(&place)
    }
}

/// A node of libvirt's test driver: a file of domains, each with an identity that outlives the driver.
fn node(host: usize, vms: &[String]) -> String {
    let mut xml = "<node>\n".to_owned();
    for (n, vm) in vms.iter().enumerate() {
        let _ = writeln!(
            xml,
            "<domain type='test'><name>{vm}</name><uuid>6a1b0e0a-5c1d-4b7e-8f00-{host:06x}{n:06x}</uuid>\
             <memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>"
        );
    }
    xml + "</node>\n"
}
