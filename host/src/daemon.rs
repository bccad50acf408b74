//! The daemon: which VMs there are and what each is, from libvirt's domains and the descriptors. An
//! actor runs for every domain with a descriptor in force; here it is started, told of changes, and
//! let go. A level-triggered loop: whatever happened, it compares what should be with what is.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use vmkpi::broker::Broker;
use vmkpi::descriptor::{Descriptor, Spelling};
use vmkpi::link::LinkUrl;

use crate::descriptors::{Descriptors, Files, is_named, read_file};
use crate::libvirt::{Domain, Libvirt, State};
use crate::link::{Address, Endpoint, Limits};
use crate::mqtt::Publisher;
use crate::outbox::{Left, Outbox};
use crate::snapshot::{DescriptorStatus, Scraped, Snapshot};
use crate::state::StateDir;
use crate::vm::{Handle, Reports, Shared, Spec, start};
use crate::{exporter, infra};

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
    /// What the outbox may hold on disk, in bytes.
    pub outbox_bytes: u64,
    /// How often guests are asked for rows; `None` has them pushed.
    pub poll_interval: Option<Duration>,
}

/// Runs until `shutdown` is ready.
///
/// # Errors
/// Something the daemon cannot do without is not there: the state directory, the exporter's address,
/// a descriptor's file. What comes and goes, libvirt and the broker, is waited for.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    if let Some(warning) = config.broker.warning() {
        tracing::warn!("{warning}");
    }
    // Read again for each connection; what is wrong from the start is said at the start.
    let read = config.broker.read();
    read.with_context(|| format!("broker {}", config.broker))?;
    let _state = StateDir::open(&config.state)?;
    let (outbox, left) = Outbox::open(&config.state, config.outbox_bytes)
        .with_context(|| format!("the outbox in {}", config.state.display()))?;
    for path in config.descriptors.values() {
        read_file(path).context("a descriptor given on the command line is refused")?;
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on {}", config.listen))?;
    let libvirt = Libvirt::start(&config.libvirt_uri)?;
    let (publisher, publishing) = Publisher::start(config.broker.clone());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), libvirt = %config.libvirt_uri, broker = %config.broker,
        metrics = %listener.local_addr()?, "vmkpi-host started"
    );
    let mut daemon = Daemon::new(config, libvirt, publisher, outbox);
    for stream in left {
        let uuid = Arc::from(&*stream.0.uuid);
        daemon.left.entry(uuid).or_default().push(stream);
    }
    let exporting = daemon.export(listener);
    daemon.supervise(shutdown).await;
    tracing::info!("vmkpi-host stops");
    exporting.abort();
    drop(daemon);
    if timeout(GOODBYE, publishing).await.is_err() {
        tracing::debug!("the broker was not said goodbye");
    }
    Ok(())
}

struct Daemon {
    guests: BTreeMap<String, LinkUrl>,
    descriptors: Descriptors,
    files: Files,
    libvirt: Libvirt,
    shared: Shared,
    vms: BTreeMap<Arc<str>, Handle>,
    /// VMs that have left and have still something to say.
    leaving: Vec<Handle>,
    /// What an earlier daemon left of VMs' measurements, by UUID, until somebody goes on with it.
    left: BTreeMap<Arc<str>, Vec<Left>>,
    status: Arc<Mutex<DescriptorStatus>>,
    said_unknown: bool,
}

impl Daemon {
    fn new(config: Config, libvirt: Libvirt, publisher: Publisher, outbox: Outbox) -> Self {
        Self {
            guests: config.guests,
            descriptors: Descriptors::new(config.descriptors),
            files: Files::default(),
            shared: Shared {
                sampling: libvirt.sampling.clone(),
                publisher,
                reports: Reports::default(),
                outbox,
                limits: config.limits,
                poll_interval: config.poll_interval,
            },
            libvirt,
            vms: BTreeMap::new(),
            leaving: Vec::new(),
            left: BTreeMap::new(),
            status: Arc::default(),
            said_unknown: false,
        }
    }

    fn export(&self, listener: TcpListener) -> JoinHandle<Infallible> {
        let (domains, sampling) = (self.libvirt.domains.clone(), self.libvirt.sampling.clone());
        let (reports, broker) = (
            self.shared.reports.clone(),
            Arc::clone(&self.shared.publisher.status),
        );
        let status = Arc::clone(&self.status);
        let outbox = Arc::clone(&self.shared.outbox.status);
        let source = move || Snapshot {
            domains: Arc::clone(&domains.borrow()),
            sampling: sampling.borrow().clone(),
            reports: reports.all(),
            descriptors: status
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            broker: Arc::clone(&broker),
            outbox: Arc::clone(&outbox),
            exporter: Scraped::default(),
        };
        tokio::spawn(exporter::serve(listener, Box::new(source)))
    }

    async fn supervise(&mut self, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut domains = self.libvirt.domains.clone();
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Ok(()) = domains.changed() => {}
                _ = look.tick() => self.read_files().await,
            }
            self.reconcile();
        }
    }

    async fn read_files(&mut self) {
        let paths = self.descriptors.paths();
        if paths.is_empty() {
            return;
        }
        let mut files = std::mem::take(&mut self.files);
        let look = move || {
            let read = files.look(paths);
            (files, read)
        };
        if let Ok((files, read)) = tokio::task::spawn_blocking(look).await {
            self.files = files;
            self.descriptors.take_files(read);
        }
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
            self.let_go(&uuid);
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
        self.note_status(&domains.by_uuid);
    }

    fn follow(&mut self, domain: &Arc<Domain>, descriptor: &Arc<Descriptor>) {
        let spec = Spec {
            link: endpoint(domain, self.given(domain)),
            domain: Arc::clone(domain),
            descriptor: Arc::clone(descriptor),
            leaving: false,
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
            };
            self.leaving.push(start(spec, self.shared.clone(), streams));
        }
    }

    fn let_go(&mut self, uuid: &Arc<str>) {
        let Some(handle) = self.vms.remove(uuid) else {
            return;
        };
        tracing::info!(domain = %handle.spec.borrow().domain.name, %uuid, "VM let go");
        handle.spec.send_modify(|spec| spec.leaving = true);
        self.shared.reports.remove(uuid);
        self.leaving.push(handle);
    }

    /// The link that the operator gave the domain.
    fn given(&self, domain: &Domain) -> Option<&LinkUrl> {
        let mut guests = self.guests.iter();
        let given = guests.find(|(name, _)| is_named(domain, name));
        given.map(|(_, url)| url)
    }

    fn say_unknown(&mut self, domains: &BTreeMap<Arc<str>, Arc<Domain>>) {
        if std::mem::replace(&mut self.said_unknown, true) {
            return;
        }
        let guests = self.guests.keys().map(String::as_str);
        let known = |name: &str| domains.values().any(|d| is_named(d, name));
        let unknown = self.descriptors.unknown(domains);
        for name in unknown.chain(guests.filter(|name| !known(name))) {
            tracing::warn!(
                domain = name,
                "named on the command line, and libvirt has no such domain yet"
            );
        }
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

/// Where the domain's link is: where the operator said, or in its live XML. A vsock link is the domain's only
/// while libvirt says that the context id is: one that was let go may be another VM's.
fn endpoint(domain: &Domain, given: Option<&LinkUrl>) -> Option<Endpoint> {
    if domain.state == State::Off {
        return None;
    }
    let (address, joining) = match given {
        Some(LinkUrl::Unix(path)) => (Address::Unix(path.clone()), false),
        Some(&LinkUrl::Vsock { cid, port }) if domain.cid == Some(cid) => {
            (Address::Vsock { cid, port }, false)
        }
        Some(LinkUrl::Vsock { .. }) => return None,
        Some(LinkUrl::VirtioSerial(_)) | None => (Address::Unix(domain.channel.clone()?), true),
    };
    Some(Endpoint { address, joining })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vsock_link_is_followed_only_while_libvirt_says_that_the_domain_has_the_cid() {
        let url = "vsock:7:9001".parse().unwrap();
        let mut domain = Domain {
            state: State::Running,
            channel: Some("/port".into()),
            ..Domain::default()
        };
        assert_eq!(endpoint(&domain, Some(&url)), None, "it has none");
        domain.cid = Some(8);
        assert_eq!(endpoint(&domain, Some(&url)), None, "it is another's");
        domain.cid = Some(7);
        let found = endpoint(&domain, Some(&url)).unwrap();
        let due = Address::Vsock { cid: 7, port: 9001 };
        assert_eq!((found.address, found.joining), (due, false));
        domain.state = State::Off;
        assert_eq!(endpoint(&domain, Some(&url)), None, "it is off");
        domain.state = State::Running;
        let channel = endpoint(&domain, None).unwrap();
        assert_eq!(channel.address, Address::Unix("/port".into()));
        assert!(channel.joining);
    }
}
