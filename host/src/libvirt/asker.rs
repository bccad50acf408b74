//! A thread that asks libvirt for statistics over a connection of its own. A call that does not return
//! cannot be taken back: its thread is left alone until it returns, and then asks again. It says when its
//! connection stands: a libvirt that takes long to connect says nothing of a VM.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use vmkpi::clock::Timestamp;

use super::extra::{self, Extra};
use super::figures::{Figures, Group, Param};
use super::stats::{self, Kind};
use super::{LibvirtError, RECONNECT_EVERY, Taken, connect, is_gone};
use crate::metrics::Metric;

/// How often libvirt is asked whether there is a job on a domain; while there is one, each time.
const JOB_EVERY: Duration = Duration::from_secs(5);

/// How often libvirt is asked where a domain's processors run.
const PLACE_EVERY: Duration = Duration::from_secs(10);

/// virDomainState: its processors are stopped, by somebody or for an error.
const PAUSED: u64 = 3;

/// Which call.
pub(super) type CallId = u64;

/// What to ask.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// Which call it is.
    pub call: CallId,
    /// Which figures.
    pub kind: Kind,
    /// Of which domains, by UUID.
    pub vms: Vec<Arc<str>>,
}

/// Figures by UUID; `None` of a domain that libvirt had not all figures of, as somebody else held its
/// job.
pub(super) type Answers = Vec<(Arc<str>, Option<Taken>)>;

/// What an asker says.
#[derive(Debug)]
pub(super) enum Said {
    /// It is connected, and may be asked.
    Ready(usize),
    /// This became of a call. Who has asked in vain is ready again when it says so.
    Reply(Box<Reply>),
}

/// What became of a call.
#[derive(Debug)]
pub(super) struct Reply {
    /// Which call it was.
    pub call: CallId,
    /// Which figures.
    pub kind: Kind,
    /// The answer.
    pub result: Result<Answers, LibvirtError>,
}

/// The thread's end of the bargain.
#[derive(Debug)]
pub(super) struct Asker {
    orders: SyncSender<Order>,
}

impl Asker {
    /// Starts a thread that connects to `uri`. `say` takes what it has to say, and whether anybody still listens
    /// comes back.
    pub fn start(
        id: usize,
        uri: &str,
        say: impl Fn(Said) -> bool + Send + 'static,
    ) -> Result<Self, LibvirtError> {
        let (orders, to_do) = sync_channel(1);
        let uri = uri.to_owned();
        std::thread::Builder::new()
            .name(format!("libvirt-ask-{id}"))
            .spawn(move || while work(id, &uri, &to_do, &say) {})?;
        Ok(Self { orders })
    }

    /// Asks; only who is ready may be asked. Whether the thread is there.
    pub fn ask(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }
}

/// A connection and what was looked up on it.
struct Session {
    connection: Connect,
    driver: Driver,
    host_cpus: usize,
    domains: HashMap<Arc<str>, Known>,
}

struct Known {
    domain: Domain,
    asked_job: Option<Instant>,
    asked_place: Option<Instant>,
    extra: Extra,
}

impl Known {
    fn new(domain: Domain) -> Self {
        Self {
            domain,
            asked_job: None,
            asked_place: None,
            extra: Extra::default(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Qemu,
    /// libvirt's own for tests: no statistics but the state.
    Test,
    Other,
}

/// Connects, and does what is ordered until a call fails: whatever was wrong, a new connection knows nothing
/// of it. Whether to go on.
fn work(id: usize, uri: &str, to_do: &Receiver<Order>, say: &dyn Fn(Said) -> bool) -> bool {
    let Ok(mut session) = Session::open(uri) else {
        // The follower says that libvirt does not answer; once is enough.
        std::thread::sleep(RECONNECT_EVERY);
        return !matches!(to_do.try_recv(), Err(TryRecvError::Disconnected));
    };
    while say(Said::Ready(id)) {
        let Ok(order) = to_do.recv() else {
            return false;
        };
        let result = session.ask(&order);
        let failed = result.is_err();
        let heard = say(Said::Reply(Box::new(Reply {
            call: order.call,
            kind: order.kind,
            result,
        })));
        if !heard || failed {
            return heard;
        }
    }
    false
}

impl Session {
    fn open(uri: &str) -> Result<Self, LibvirtError> {
        let connection = connect(uri)?;
        let driver = match &*connection.driver_type()?.to_ascii_lowercase() {
            "qemu" => Driver::Qemu,
            "test" => Driver::Test,
            _ => Driver::Other,
        };
        let host_cpus = extra::host_cpus(&connection)?;
        Ok(Self {
            connection,
            driver,
            host_cpus,
            domains: HashMap::new(),
        })
    }

    fn ask(&mut self, order: &Order) -> Result<Answers, LibvirtError> {
        self.look_up(&order.vms)?;
        let asked = Instant::now();
        let known = order.vms.iter().filter_map(|uuid| self.domains.get(uuid));
        let domains: Vec<&Domain> = known.map(|known| &known.domain).collect();
        let found = stats::collect(&domains, order.kind)?;
        let mut answers = Vec::with_capacity(found.len());
        for (uuid, mut figures) in found {
            let whole = order.kind == Kind::Quick || self.is_whole(&uuid, &figures);
            if order.kind == Kind::Detailed {
                if whole {
                    self.add_rest(&uuid, &mut figures);
                }
                figures.remove(Group::State);
            }
            figures.finish();
            let taken = whole.then(|| Taken {
                time: Timestamp::now(),
                at: Instant::now(),
                asked,
                figures: Arc::new(figures),
            });
            answers.push((uuid, taken));
        }
        Ok(answers)
    }

    fn look_up(&mut self, vms: &[Arc<str>]) -> Result<(), Error> {
        // What is not asked for any more is let go when it has become much.
        if self.domains.len() > 4 * vms.len().max(64) {
            self.domains.clear();
        }
        for uuid in vms {
            if self.domains.contains_key(uuid) {
                continue;
            }
            match self.connection.lookup_domain_by_uuid_string(uuid) {
                Ok(domain) => {
                    self.domains.insert(Arc::clone(uuid), Known::new(domain));
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether libvirt had the domain's job: without it, it says what it knows itself, and neither the
    /// memory of the process nor what its disks do.
    fn is_whole(&self, uuid: &str, figures: &Figures) -> bool {
        let active = || {
            let domain = self.domains.get(uuid).map(|known| &known.domain);
            domain.is_some_and(|d| d.is_active().unwrap_or(false))
        };
        self.driver != Driver::Qemu || had_job(figures) || !active()
    }

    /// What the bulk statistics do not say.
    fn add_rest(&mut self, uuid: &str, figures: &mut Figures) {
        let Some(known) = self.domains.get_mut(uuid) else {
            return;
        };
        if self.driver == Driver::Test {
            add_info(&known.domain, figures);
        } else if had_job(figures) {
            known.add_job(uuid, figures);
            known.find_disk_errors(uuid, figures);
        }
        known.find_places(uuid, figures, self.host_cpus);
        figures.extra = known.extra.clone();
    }
}

impl Known {
    fn add_job(&mut self, uuid: &str, figures: &mut Figures) {
        if self.asked_job.is_some_and(|t| t.elapsed() < JOB_EVERY) {
            return;
        }
        self.asked_job = Some(Instant::now());
        if let Err(error) = stats::add_job(&self.domain, figures) {
            tracing::debug!(uuid, %error, "no word of the domain's job");
        }
        if figures.has(Metric::JobType) {
            self.asked_job = None;
        }
    }

    /// A hypervisor remembers an error for which it paused the domain, and until it goes on; so nobody else
    /// is asked.
    fn find_disk_errors(&mut self, uuid: &str, figures: &Figures) {
        let paused = figures.raw(Metric::DomainState) == Some(PAUSED);
        let errors = if paused {
            extra::disk_errors(&self.domain)
        } else {
            Ok(Vec::new())
        };
        let errors = errors.unwrap_or_else(|error| {
            tracing::debug!(uuid, %error, "no word of the domain's disk errors");
            Vec::new()
        });
        if *self.extra.disk_errors != *errors {
            self.extra.disk_errors = errors.into();
        }
    }

    fn find_places(&mut self, uuid: &str, figures: &Figures, host_cpus: usize) {
        if self.asked_place.is_some_and(|t| t.elapsed() < PLACE_EVERY) {
            return;
        }
        self.asked_place = Some(Instant::now());
        let vcpus = figures.raw(Metric::Vcpus).unwrap_or(0);
        let count = usize::try_from(vcpus).unwrap_or(usize::MAX);
        let places = extra::vcpus(&self.domain, count, host_cpus).unwrap_or_else(|error| {
            // A domain that is off has no processors that run.
            tracing::debug!(uuid, %error, "no word of where the domain's processors run");
            Vec::new()
        });
        self.extra.vcpus = places.into();
    }
}

fn had_job(figures: &Figures) -> bool {
    figures.has(Metric::MemoryRss) || figures.has(Metric::BlockReadRequests)
}

/// The test driver's bulk statistics know only the state (libvirt 9); its virDomainGetInfo knows
/// more. Only there: of a domain that hangs the call would not return.
fn add_info(domain: &Domain, figures: &mut Figures) {
    let Ok(info) = domain.info() else { return };
    figures.set("cpu.time", Param::Number(info.cpu_time));
    figures.set("vcpu.current", Param::Number(info.nr_virt_cpu.into()));
    figures.set("balloon.current", Param::Number(info.memory));
    figures.set("balloon.maximum", Param::Number(info.max_mem));
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn who_asks_is_ready_once_connected_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node.xml");
        let (tell, told) = std::sync::mpsc::channel();
        let uri = format!("test://{}", node.display());
        let asker = Asker::start(7, &uri, move |said| tell.send(said).is_ok()).unwrap();
        let early = told.recv_timeout(Duration::from_millis(300));
        assert!(early.is_err(), "there is nothing to connect to: {early:?}");
        std::fs::write(&node, "<node/>").unwrap();
        let said = told.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(said, Said::Ready(7)), "{said:?}");
        let order = Order {
            call: 1,
            kind: Kind::Quick,
            vms: Vec::new(),
        };
        assert!(asker.ask(order));
        let said = told.recv_timeout(DEADLINE).unwrap();
        assert!(
            matches!(&said, Said::Reply(reply) if reply.call == 1),
            "{said:?}"
        );
    }
}
