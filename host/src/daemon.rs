//! The daemon: which VMs there are and what each is, from libvirt's domains and the descriptors. An
//! actor runs for every domain with a descriptor in force; here it is started, told of changes, and
//! let go. A level-triggered loop: whatever happened, it compares what should be with what is. It waits for nobody:
//! files are read by others, so that it answers, ends and feeds the watchdog while a file system hangs.

mod desk;
mod endpoint;
mod files;
mod uptime;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use vmkpi::broker::Broker;
use vmkpi::descriptor::{Descriptor, Spelling};
use vmkpi::key_file::FileError;
use vmkpi::link::LinkUrl;
use vmkpi::sign::SigningKey;
use vmkpi::tls::{MutualFiles, mutual};

use crate::consumers::Consumers;
use crate::context::Recontextualizer;
use crate::descriptors::{Descriptors, named, read_file};
use crate::libvirt::{Domain, Domains, Ended, Libvirt};
use crate::link::{self, Door, Limits};
use crate::outbox::{Left, Outbox};
use crate::reload::Changes;
use crate::snapshot::{DescriptorStatus, Scraped, Snapshot};
use crate::state::{StateDir, StateError};
use crate::status::Facts;
use crate::vm::{Handle, Reports, Shared, Spec, start};
use crate::{context, exporter, infra};
use vmkpi::broker::publisher::Publisher;

pub use desk::{Desk, Order};
use endpoint::endpoint;
use files::Looking;
use uptime::Uptime;

/// How often the files of descriptors are looked at, and actors are looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the publisher may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// What to run with.
#[derive(Clone, Debug)]
pub struct Config {
    /// libvirt's connection URI.
    pub libvirt_uri: String,
    /// The broker.
    pub broker: Broker,
    /// Where the exporter listens.
    pub listen: SocketAddr,
    /// The state directory.
    pub state: PathBuf,
    /// Links that are not the one of the live XML, by domain name or UUID.
    pub guests: BTreeMap<String, LinkUrl>,
    /// Files of descriptors, by domain name or UUID.
    pub descriptors: BTreeMap<String, PathBuf>,
    /// What a guest may do.
    pub limits: Limits,
    /// Where guests come in from a network, if they do.
    pub door: Option<DoorConfig>,
    /// What the outbox may hold on disk, in bytes.
    pub outbox_bytes: u64,
    /// How often guests are asked for rows; `None` has them pushed.
    pub poll_interval: Option<Duration>,
    /// The site's key, which every message is signed with; `None` signs none.
    pub signer: Option<Arc<SigningKey>>,
    /// How long a VM's entry in the Directory lasts, in seconds.
    pub lease_seconds: u64,
    /// What VMs are told, if they are.
    pub context: Option<context::Config>,
}

/// Where guests come in from a network, and what they are shown.
#[derive(Clone, Debug)]
pub struct DoorConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Certificate, key and the CAs of guests.
    pub files: MutualFiles,
}

impl DoorConfig {
    /// What guests are accepted with: the files are read.
    ///
    /// # Errors
    /// One of them is not what it should be.
    pub fn tls(&self, door: &Door) -> Result<Arc<ServerConfig>, FileError> {
        mutual::server(&self.files, aws_lc_rs::default_provider(), door.admits())
    }
}

/// Runs until `shutdown` is ready, with nobody who runs it.
///
/// # Errors
/// Those of [`serve`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    serve(config, Desk::empty(), shutdown).await
}

/// Runs until `shutdown` is ready, does what it is told at its desk, and says there how it is.
///
/// # Errors
/// Something the daemon cannot do without is not there: the state directory, the exporter's address,
/// a descriptor's file. What comes and goes, libvirt and the broker, is waited for.
pub async fn serve(
    config: Config,
    desk: Desk,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    if let Some(warning) = config.broker.warning() {
        tracing::warn!("{warning}");
    }
    // Read again for each connection; what is wrong from the start is said at the start.
    let read = config.broker.read();
    read.with_context(|| format!("broker {}", config.broker))?;
    let _state = open_state(&config)?;
    let (outbox, left) = Outbox::open(&config.state, config.outbox_bytes)
        .with_context(|| format!("the outbox in {}", config.state.display()))?;
    for path in config.descriptors.values() {
        read_file(path).context("a descriptor given in the configuration is refused")?;
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on {}", config.listen))?;
    let door = Door::default();
    let entrance = open_door(config.door.as_ref(), &door).await?;
    let libvirt = Libvirt::start(&config.libvirt_uri)?;
    let (publisher, publishing) = Publisher::start(config.broker.clone());
    let (consumers, hearing) = Consumers::start(config.broker.clone(), &config.state);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), libvirt = %config.libvirt_uri, broker = %config.broker,
        metrics = %listener.local_addr()?, "vmkpi-host started"
    );
    let uptime = Uptime::new(&config, listener.local_addr()?);
    let state = config.state.clone();
    let offered = config.context.as_ref();
    let context = offered.map(|context| Recontextualizer::start(&config.libvirt_uri, context));
    let context = context.transpose().context("context.directory")?;
    let doors = (door, entrance);
    let mut daemon = Daemon::new(
        config,
        libvirt,
        (publisher, consumers),
        outbox,
        uptime,
        doors,
    );
    daemon.context = context;
    for stream in left {
        let uuid = Arc::from(&*stream.0.uuid);
        daemon.left.entry(uuid).or_default().push(stream);
    }
    let (asks, asked) = mpsc::channel(1);
    let source = daemon.source();
    let asker = daemon.context.as_ref().map(Recontextualizer::asker);
    let telling = desk::tell(&state, asks, Arc::clone(&source), asker);
    let exporting = tokio::spawn(exporter::serve(listener, Box::new(move || source())));
    desk.notifier.ready("waiting for libvirt");
    daemon.supervise(desk, asked, shutdown).await;
    tracing::info!("vmkpi-host stops");
    exporting.abort();
    hearing.abort();
    if let Some(telling) = telling {
        telling.abort();
    }
    drop(daemon);
    if timeout(GOODBYE, publishing).await.is_err() {
        tracing::debug!("the broker was not said goodbye");
    }
    Ok(())
}

/// What a door that is open needs.
#[derive(Debug)]
struct Entrance {
    config: DoorConfig,
    tls: watch::Sender<Arc<ServerConfig>>,
    task: JoinHandle<()>,
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn open_door(config: Option<&DoorConfig>, door: &Door) -> anyhow::Result<Option<Entrance>> {
    let Some(config) = config else {
        return Ok(None);
    };
    let (tls, with) = watch::channel(config.tls(door).context("[link.tls]")?);
    let listening = link::listen(config.listen, with, door.clone()).await;
    let task = listening.with_context(|| format!("listening for guests on {}", config.listen))?;
    tracing::info!(address = ?door.address(), "guests may come in over the network");
    Ok(Some(Entrance {
        config: config.clone(),
        tls,
        task,
    }))
}

/// The state directory, which QEMU's user may pass through where images are in it.
fn open_state(config: &Config) -> Result<StateDir, StateError> {
    let images = config.context.as_ref().map(|context| &context.images);
    let inside = images.is_some_and(|images| images.starts_with(&config.state));
    StateDir::open(&config.state, inside)
}

struct Daemon {
    guests: BTreeMap<String, LinkUrl>,
    descriptors: Descriptors,
    looking: Looking,
    libvirt: Libvirt,
    shared: Shared,
    vms: BTreeMap<Arc<str>, Handle>,
    /// VMs that have left and have still something to say.
    leaving: Vec<Handle>,
    /// What an earlier daemon left of VMs' measurements, by UUID, until somebody goes on with it.
    left: BTreeMap<Arc<str>, Vec<Left>>,
    status: Arc<Mutex<DescriptorStatus>>,
    said_unknown: bool,
    uptime: Uptime,
    entrance: Option<Entrance>,
    /// What VMs are told, if they are.
    context: Option<Recontextualizer>,
    /// What every VM signs with.
    signer: watch::Sender<Option<Arc<SigningKey>>>,
}

impl Daemon {
    fn new(
        config: Config,
        libvirt: Libvirt,
        (publisher, consumers): (Publisher, Consumers),
        outbox: Outbox,
        uptime: Uptime,
        (door, entrance): (Door, Option<Entrance>),
    ) -> Self {
        let (signer, signs) = watch::channel(config.signer);
        Self {
            guests: config.guests,
            descriptors: Descriptors::new(config.descriptors),
            looking: Looking::default(),
            shared: Shared {
                sampling: libvirt.sampling.clone(),
                publisher,
                consumers,
                reports: Reports::default(),
                outbox,
                limits: config.limits,
                door,
                poll_interval: config.poll_interval,
                signer: signs,
                lease_seconds: config.lease_seconds,
            },
            libvirt,
            vms: BTreeMap::new(),
            leaving: Vec::new(),
            left: BTreeMap::new(),
            status: Arc::default(),
            said_unknown: false,
            uptime,
            entrance,
            context: None,
            signer,
        }
    }

    /// What is known now, for whoever asks.
    fn source(&self) -> Arc<exporter::Source> {
        let (domains, sampling) = (self.libvirt.domains.clone(), self.libvirt.sampling.clone());
        let (reports, broker) = (
            self.shared.reports.clone(),
            Arc::clone(&self.shared.publisher.status),
        );
        let status = Arc::clone(&self.status);
        let outbox = Arc::clone(&self.shared.outbox.status);
        let consumers = Arc::clone(&self.shared.consumers.status);
        let door = self.shared.door.clone();
        let context = self
            .context
            .as_ref()
            .map(|context| Arc::clone(&context.status));
        Arc::new(move || Snapshot {
            domains: Arc::clone(&domains.borrow()),
            sampling: sampling.borrow().clone(),
            reports: reports.all(),
            descriptors: status
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            broker: Arc::clone(&broker),
            consumers: Arc::clone(&consumers),
            door: door.clone(),
            outbox: Arc::clone(&outbox),
            context: context.as_ref().map(|status| status.seen()),
            exporter: Scraped::default(),
        })
    }

    async fn supervise(
        &mut self,
        mut desk: Desk,
        mut asked: mpsc::Receiver<oneshot::Sender<Facts>>,
        shutdown: impl Future<Output = ()>,
    ) {
        tokio::pin!(shutdown);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut domains = self.libvirt.domains.clone();
        // Before any domain is looked at: whether a file and metadata differ shows only with both.
        self.looking.begin(self.descriptors.paths());
        let read = self.looking.done().await;
        self.descriptors.take_files(read);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                () = desk.heart.beat() => continue,
                Ok(()) = domains.changed() => {}
                _ = look.tick() => self.looking.begin(self.descriptors.paths()),
                read = self.looking.done() => self.descriptors.take_files(read),
                Some(ask) = asked.recv() => {
                    // Who has hung up meanwhile is not told.
                    let _ = ask.send(self.facts());
                    continue;
                }
                Some(order) = desk.orders.recv() => self.obey(order, &mut desk),
            }
            self.reconcile();
            desk.say(self.summary());
        }
        desk.notifier.stopping();
    }

    fn obey(&mut self, order: Order, desk: &mut Desk) {
        let Order::Reload(changes, done) = order;
        let Changes {
            guests,
            descriptors,
            read,
            outbox_bytes,
            tuning,
            signer,
            link_files,
        } = *changes;
        if let Some(context) = &self.context {
            context.tune(tuning);
        }
        self.guests = guests;
        self.descriptors.set_files(descriptors, read);
        self.shared.outbox.set_max_bytes(outbox_bytes);
        self.sign_with(signer);
        self.show_guests(link_files);
        self.said_unknown = false;
        self.reconcile();
        desk.forget();
        let _ = done.send(());
    }

    /// Messages made from now on are signed with this key. What is under way keeps its signature.
    fn sign_with(&self, signer: Option<Arc<SigningKey>>) {
        let kid = |key: &Option<Arc<SigningKey>>| key.as_ref().map(|key| key.kid().to_owned());
        let new = kid(&signer);
        if new == kid(&self.signer.borrow()) {
            return;
        }
        match &new {
            Some(kid) => tracing::info!(kid, "messages are signed with another key from now on"),
            None => tracing::warn!("messages are not signed from now on"),
        }
        self.signer.send_replace(signer);
    }

    /// Guests that come in from now on are shown what the files hold now, and verified by it.
    fn show_guests(&mut self, files: Option<MutualFiles>) {
        let (Some(entrance), Some(files)) = (&mut self.entrance, files) else {
            return;
        };
        entrance.config.files = files;
        match entrance.config.tls(&self.shared.door) {
            Ok(tls) => drop(entrance.tls.send_replace(tls)),
            Err(error) => {
                tracing::error!(%error, "guests are shown what they were shown before");
            }
        }
    }

    /// How the daemon is, in a line.
    fn summary(&self) -> String {
        let up = |on| if on { "connected" } else { "not connected" };
        format!(
            "{} VMs followed; libvirt {}, broker {}",
            self.vms.len(),
            up(self.libvirt.domains.borrow().connected),
            up(self.shared.publisher.status.is_connected())
        )
    }

    /// Makes what is what should be.
    fn reconcile(&mut self) {
        let domains = Arc::clone(&self.libvirt.domains.borrow());
        let in_force = self.descriptors.resolve(&domains.by_uuid);
        if domains.connected {
            self.say_unknown(&domains.by_uuid);
        }
        let gone = self.vms.keys().filter(|uuid| !in_force.contains_key(*uuid));
        for uuid in gone.cloned().collect::<Vec<_>>() {
            self.let_go(&uuid, &domains);
        }
        for (uuid, descriptor) in &in_force {
            if let Some(domain) = domains.by_uuid.get(uuid) {
                self.follow(domain, descriptor);
            }
        }
        self.leaving.retain(|handle| !handle.task.is_finished());
        if domains.connected {
            self.deliver_left();
        }
        let paces = in_force.iter();
        let paces = paces.filter_map(|(uuid, d)| Some((Arc::clone(uuid), infra::pace(d)?)));
        self.libvirt.pace.set(paces.collect());
        if let Some(context) = &mut self.context {
            let by_name = self.descriptors.of_files();
            context.know(context::Known { in_force, by_name });
        }
        self.note_status(&domains.by_uuid);
        self.uptime.look(&domains, &self.shared.publisher.status);
    }

    fn follow(&mut self, domain: &Arc<Domain>, descriptor: &Arc<Descriptor>) {
        let spec = Spec {
            link: endpoint(domain, self.given(domain)),
            domain: Arc::clone(domain),
            descriptor: Arc::clone(descriptor),
            leaving: false,
            ended: None,
        };
        match self.vms.get(&domain.uuid) {
            Some(handle) if !handle.task.is_finished() => {
                handle.spec.send_if_modified(|now| {
                    let changed = now.domain != spec.domain
                        || now.descriptor != spec.descriptor
                        || now.link != spec.link;
                    if changed {
                        *now = spec;
                    }
                    changed
                });
                return;
            }
            Some(_) => {
                tracing::error!(domain = %domain.name, "the VM's actor failed; started again");
            }
            None => {
                let link = spec.link.as_ref().map(|l| l.address.to_string());
                tracing::info!(domain = %domain.name, uuid = %domain.uuid, vm = %descriptor.vm, link, "VM followed");
            }
        }
        let left = self.left.remove(&domain.uuid).unwrap_or_default();
        let handle = start(spec, self.shared.clone(), left);
        self.vms.insert(Arc::clone(&domain.uuid), handle);
    }

    /// Delivers what is left of VMs that are not here any more, as their descriptors said then.
    fn deliver_left(&mut self) {
        for (uuid, streams) in std::mem::take(&mut self.left) {
            let Some((record, _)) = streams.last() else {
                continue;
            };
            let no_files = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
            let descriptor = match Descriptor::parse(&record.descriptor, Spelling::Json, &no_files)
            {
                Ok(descriptor) => descriptor,
                Err(errors) => {
                    let error = errors.first().map(ToString::to_string);
                    tracing::error!(domain = %record.name, %uuid, error, "the outbox holds measurements of a VM that is gone, and its descriptor cannot be read; they stay there");
                    continue;
                }
            };
            tracing::info!(domain = %record.name, %uuid, vm = %descriptor.vm, "delivering what is left of a VM that is gone");
            let domain = Domain {
                name: Arc::from(&*record.name),
                uuid,
                ..Domain::default()
            };
            let spec = Spec {
                domain: Arc::new(domain),
                descriptor: Arc::new(descriptor),
                link: None,
                leaving: true,
                ended: None,
            };
            self.leaving.push(start(spec, self.shared.clone(), streams));
        }
    }

    fn let_go(&mut self, uuid: &Arc<str>, domains: &Domains) {
        let Some(handle) = self.vms.remove(uuid) else {
            return;
        };
        tracing::info!(domain = %handle.spec.borrow().domain.name, %uuid, "VM let go");
        // Still there, and without a descriptor: it delivers no more.
        let ended = match domains.by_uuid.contains_key(uuid) {
            true => Some(Ended::Stopped),
            false => domains.ended.get(uuid).copied(),
        };
        handle
            .spec
            .send_modify(|spec| (spec.leaving, spec.ended) = (true, ended));
        self.shared.reports.remove(uuid);
        self.leaving.push(handle);
    }

    /// The link that the operator gave the domain.
    fn given(&self, domain: &Domain) -> Option<&LinkUrl> {
        named(&self.guests, domain)
    }

    fn say_unknown(&mut self, domains: &BTreeMap<Arc<str>, Arc<Domain>>) {
        if std::mem::replace(&mut self.said_unknown, true) {
            return;
        }
        for name in self.unknown(domains) {
            tracing::warn!(
                domain = name,
                "named in the configuration, and libvirt has no such domain yet"
            );
        }
    }

    /// Names in the configuration that no domain has.
    fn unknown(&self, domains: &BTreeMap<Arc<str>, Arc<Domain>>) -> BTreeSet<String> {
        let known: BTreeSet<&str> = domains
            .values()
            .flat_map(|d| [&*d.name, &*d.uuid])
            .collect();
        let names = self.descriptors.names().chain(self.guests.keys());
        let unknown = names.filter(|name| !known.contains(name.as_str()));
        unknown.cloned().collect()
    }

    fn note_status(&self, domains: &BTreeMap<Arc<str>, Arc<Domain>>) {
        let valid = domains.keys().filter_map(|uuid| {
            let valid = self.descriptors.is_valid(uuid)?;
            Some((Arc::clone(uuid), valid))
        });
        let status = DescriptorStatus {
            errors: self.descriptors.errors(),
            valid: valid.collect(),
        };
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}
