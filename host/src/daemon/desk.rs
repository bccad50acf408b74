//! Who runs the daemon: the orders it takes, and what it says of itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use vmkpi::clock::Timestamp;
use vmkpi::context::Class;
use vmkpi::notify::Notifier;

use super::Daemon;
use super::endpoint::endpoint;
use crate::context::{Answer, Ask, Asker};
use crate::exporter;
use crate::libvirt::{Domain, State};
use crate::reload::Changes;
use crate::status::{Control, Facts, RECONTEXTUALIZE_TIMEOUT, Request, VmFacts, gather};

/// How long the daemon may take to say how it is.
const FACTS_TIMEOUT: Duration = Duration::from_secs(5);

/// What a running daemon is told to do.
#[derive(Debug)]
pub enum Order {
    /// Take over changed settings, and say when that is done.
    Reload(Box<Changes>, oneshot::Sender<()>),
}

/// Where the daemon and who runs it meet.
#[derive(Debug)]
pub struct Desk {
    /// What it is told to do.
    pub orders: mpsc::Receiver<Order>,
    /// The service manager.
    pub notifier: Arc<Notifier>,
    /// What the manager was told last.
    said: String,
    pub(super) heart: Heart,
}

/// What feeds the manager's watchdog.
#[derive(Debug)]
pub(super) struct Heart {
    notifier: Arc<Notifier>,
    beaten: Instant,
}

impl Heart {
    /// Beats when it is time; never returns where nobody watches. May be dropped at any point.
    pub(super) async fn beat(&mut self) {
        let Some(every) = self.notifier.watchdog() else {
            return std::future::pending().await;
        };
        sleep_until(self.beaten + every).await;
        self.beaten = Instant::now();
        self.notifier.alive();
    }
}

impl Desk {
    /// A desk for a daemon that has not begun.
    pub fn new(orders: mpsc::Receiver<Order>, notifier: Arc<Notifier>) -> Self {
        Self {
            orders,
            heart: Heart {
                notifier: Arc::clone(&notifier),
                beaten: Instant::now(),
            },
            notifier,
            said: String::new(),
        }
    }

    /// Nobody sits there.
    pub fn empty() -> Self {
        Self::new(mpsc::channel(1).1, Arc::default())
    }

    /// Tells the manager how the daemon is, when that has changed.
    pub(super) fn say(&mut self, status: String) {
        if status != self.said {
            self.notifier.status(&status);
            self.said = status;
        }
    }

    /// Somebody else has told the manager something: it is told anew.
    pub(super) fn forget(&mut self) {
        self.said.clear();
    }
}

/// Tells how everything is through a socket in the state directory. Without it the daemon runs all the same.
pub(super) fn tell(
    state: &Path,
    asks: mpsc::Sender<oneshot::Sender<Facts>>,
    source: Arc<exporter::Source>,
    asker: Option<Asker>,
) -> Option<JoinHandle<()>> {
    let control = match Control::bind(state) {
        Ok(control) => control,
        Err(error) => {
            tracing::warn!(state = %state.display(), %error, "`vmkpi-host status` cannot ask this daemon: its socket cannot be made");
            return None;
        }
    };
    let make = move |request| {
        let (asks, source, asker) = (asks.clone(), Arc::clone(&source), asker.clone());
        async move {
            match request {
                Request::Status => how_it_is(asks, source).await,
                Request::Recontextualize { vm, class, event } => {
                    let answer = recontextualize(asker, vm, class, event).await;
                    serde_json::to_vec(&answer).ok()
                }
            }
        }
    };
    Some(tokio::spawn(control.serve(make)))
}

async fn how_it_is(
    asks: mpsc::Sender<oneshot::Sender<Facts>>,
    source: Arc<exporter::Source>,
) -> Option<Vec<u8>> {
    let (ask, answer) = oneshot::channel();
    let facts = async { asks.send(ask).await.ok().and(answer.await.ok()) };
    let facts = timeout(FACTS_TIMEOUT, facts).await.ok()??;
    // A thousand VMs take a while to write down; the daemon goes on meanwhile.
    let json = move || {
        let status = gather(&facts, &source(), Timestamp::now());
        serde_json::to_vec(&status).ok()
    };
    tokio::task::spawn_blocking(json).await.ok()?
}

async fn recontextualize(
    asker: Option<Asker>,
    vm: String,
    class: Option<Class>,
    event: Option<String>,
) -> Answer {
    let Some(asker) = asker else {
        return Answer::problem(
            "this daemon offers no context: name the folder in context.directory, and restart it",
        );
    };
    let (reply, answer) = oneshot::channel();
    let ask = Ask {
        vm,
        class,
        event,
        reply,
    };
    if !asker.ask(ask) {
        return Answer::problem("the recontextualizer has too much to do; ask again");
    }
    match timeout(RECONTEXTUALIZE_TIMEOUT, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Answer::problem("the recontextualizer has ended; look at the log"),
        Err(_) => Answer::problem(
            "it is not done yet, and goes on: see what the VM and libvirtd do (virsh domjobinfo)",
        ),
    }
}

impl Daemon {
    /// What the daemon alone knows, for `status`.
    pub(super) fn facts(&self) -> Facts {
        let domains = Arc::clone(&self.libvirt.domains.borrow());
        let described = domains.by_uuid.values();
        let unknown = match domains.connected {
            true => self.unknown(&domains.by_uuid),
            false => BTreeSet::new(),
        };
        Facts {
            outbox_bytes: self.shared.outbox.max_bytes(),
            unknown: unknown.into_iter().collect(),
            vms: described
                .filter_map(|domain| self.facts_of(domain))
                .collect(),
            ..self.uptime.facts()
        }
    }

    fn facts_of(&self, domain: &Arc<Domain>) -> Option<VmFacts> {
        self.descriptors.is_valid(&domain.uuid)?;
        let file = self.descriptors.file_of(domain);
        let source = match (file, &domain.metadata) {
            (Some(file), Some(_)) => format!("{} and metadata", file.display()),
            (Some(file), None) => file.display().to_string(),
            (None, _) => "metadata".to_owned(),
        };
        let link = endpoint(domain, self.given(domain));
        Some(VmFacts {
            domain: Arc::clone(domain),
            descriptor: self.descriptors.in_force(&domain.uuid).cloned(),
            source,
            refusal: self
                .descriptors
                .refusal(&domain.uuid)
                .map(ToString::to_string),
            address: match (link, self.shared.door.address()) {
                (Some(link), _) => Some(link.address.to_string()),
                // Off, it has none.
                (None, Some(address)) if domain.state != State::Off => {
                    Some(format!("tls at {address}"))
                }
                _ => None,
            },
        })
    }
}
