//! The door: where guests come in from a network. Who a guest is, its certificate says and nothing else; who is not a
//! VM of this host, with a descriptor in force, does not come in. What strangers can cost is bounded: so many of them
//! shake hands at a time, each for so long, and when there are more the oldest goes, so that who is quick gets in.
//!
//! ```text
//! accept ──> shaking hands ──> who is it? ──> the mailbox of its VM ──> the VM's actor
//!               │ late, crowded out, no TLS, no certificate, a VM that is not here: refused and counted
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::{CertificateError, Error, ServerConfig, ServerConnection};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};
use vmkpi::tls::mutual::Admits;
use vmkpi::tls::{VmName, explain};

use super::stream::TlsStream;

/// Guests that shake hands at a time; over it, the oldest goes.
const MAX_HANDSHAKES: usize = 256;
/// How long shaking hands may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a reason why guests are refused is told.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Waiting after a connection could not be accepted: out of descriptors, say.
const RECOVER: Duration = Duration::from_millis(100);
/// What was sent and is not acknowledged for so long was sent to nobody: a guest that has vanished is noticed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// The same where nothing is sent: the first probe, and the time between probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Why a guest does not come in: the `reason` of `vmkpi_link_refusals_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It did not shake hands in time.
    Late,
    /// Newer ones came while too many were shaking hands.
    Crowded,
    /// What it sends is no TLS 1.3, or it hung up in the middle.
    Handshake,
    /// It showed no certificate, or one that does not count.
    Certificate,
    /// Its certificate is of no VM of this host.
    UnknownVm,
    /// It could not be accepted at all.
    Accept,
}

impl Refusal {
    /// Every reason, in the order of the exporter.
    pub const ALL: [Self; 6] = [
        Self::Late,
        Self::Crowded,
        Self::Handshake,
        Self::Certificate,
        Self::UnknownVm,
        Self::Accept,
    ];

    /// Its name in the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Crowded => "crowded",
            Self::Handshake => "handshake",
            Self::Certificate => "certificate",
            Self::UnknownVm => "unknown_vm",
            Self::Accept => "accept",
        }
    }

    fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
        match inner {
            Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
                Self::UnknownVm
            }
            Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
                Self::Certificate
            }
            _ => Self::Handshake,
        }
    }
}

/// A guest that has come in and was not taken up yet; the newest counts.
#[derive(Debug, Default)]
struct Mailbox {
    arrived: Mutex<Option<Box<TlsStream>>>,
    bell: Notify,
}

impl Mailbox {
    fn put(&self, stream: Box<TlsStream>) {
        let before = self.lock().replace(stream);
        self.bell.notify_one();
        drop(before);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Box<TlsStream>>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which VMs are expected, and who was refused. Clones are the same door.
#[derive(Clone, Debug, Default)]
pub struct Door(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    expected: Mutex<BTreeMap<VmName, Arc<Mailbox>>>,
    refused: [AtomicU64; Refusal::ALL.len()],
    said: Mutex<[Option<Instant>; Refusal::ALL.len()]>,
    /// Where guests come in, once somebody listens.
    listens: Mutex<Option<SocketAddr>>,
}

impl Door {
    /// A guest of this name may come in, and goes to whoever holds what is returned.
    pub fn expect(&self, name: VmName) -> Expected {
        let mailbox = Arc::<Mailbox>::default();
        self.expected().insert(name.clone(), Arc::clone(&mailbox));
        Expected {
            door: self.clone(),
            name,
            mailbox,
        }
    }

    /// Who is let in, for the handshake.
    pub fn admits(&self) -> Admits {
        let door = self.clone();
        Arc::new(move |name| door.expected().contains_key(name))
    }

    /// Where guests come in, if they can.
    pub fn address(&self) -> Option<SocketAddr> {
        let listens = self.0.listens.lock();
        *listens.unwrap_or_else(PoisonError::into_inner)
    }

    /// How many were refused for each reason so far, in the order of [`Refusal::ALL`].
    pub fn refused(&self) -> [u64; Refusal::ALL.len()] {
        std::array::from_fn(|at| self.0.refused[at].load(Ordering::Relaxed))
    }

    fn expected(&self) -> std::sync::MutexGuard<'_, BTreeMap<VmName, Arc<Mailbox>>> {
        self.0
            .expected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a refusal; says it if that reason was not said for a while.
    fn refuse(&self, refusal: Refusal, peer: Option<SocketAddr>, why: &str) {
        let at = refusal as usize;
        let count = self.0.refused[at].fetch_add(1, Ordering::Relaxed) + 1;
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said[at].is_some_and(|then| then.elapsed() < SAY_EVERY) {
            return;
        }
        said[at] = Some(Instant::now());
        let peer = peer.map(|peer| peer.to_string());
        tracing::warn!(
            peer,
            reason = refusal.as_str(),
            count,
            "a guest does not come in over the network: {why}"
        );
    }

    /// Hands a guest to its VM.
    fn hand_over(&self, stream: TlsStream) {
        let peer = Some(stream.peer);
        let name = stream.certificate().and_then(VmName::of_certificate);
        let mailbox = name.as_ref().and_then(|n| self.expected().get(n).cloned());
        match mailbox {
            Some(mailbox) => mailbox.put(Box::new(stream)),
            // It was there when the handshake began.
            None => self.refuse(Refusal::UnknownVm, peer, "its VM has just left"),
        }
    }
}

/// A VM whose guest may come in, as long as this is held.
#[derive(Debug)]
pub struct Expected {
    door: Door,
    name: VmName,
    mailbox: Arc<Mailbox>,
}

impl Expected {
    /// Who is expected.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// The guest's newest connection. May be dropped at any point.
    pub async fn arrival(&self) -> Box<TlsStream> {
        loop {
            let arrived = self.mailbox.lock().take();
            if let Some(stream) = arrived {
                return stream;
            }
            self.mailbox.bell.notified().await;
        }
    }

    /// It is taken up in the next turn, unless a newer one has come.
    pub fn put_back(&self, stream: Box<TlsStream>) {
        self.mailbox.lock().get_or_insert(stream);
        self.mailbox.bell.notify_one();
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut expected = self.door.expected();
        let mine = expected.get(&self.name);
        if mine.is_some_and(|mailbox| Arc::ptr_eq(mailbox, &self.mailbox)) {
            expected.remove(&self.name);
        }
    }
}

/// Listens for guests, with what `config` says when each of them comes.
///
/// # Errors
/// The address cannot be listened on.
pub async fn listen(
    address: SocketAddr,
    config: watch::Receiver<Arc<ServerConfig>>,
    door: Door,
) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await?;
    let listens = Some(listener.local_addr()?);
    *door
        .0
        .listens
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = listens;
    Ok(tokio::spawn(serve(listener, config, door)))
}

async fn serve(listener: TcpListener, config: watch::Receiver<Arc<ServerConfig>>, door: Door) {
    let mut shaking: VecDeque<Shaking> = VecDeque::new();
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                door.refuse(Refusal::Accept, None, &error.to_string());
                sleep(RECOVER).await;
                continue;
            }
        };
        shaking.retain(|one| !one.0.is_finished());
        if shaking.len() >= MAX_HANDSHAKES {
            shaking.pop_front();
            let why = "too many shake hands, and the oldest has to go";
            door.refuse(Refusal::Crowded, Some(peer), why);
        }
        let (config, door) = (Arc::clone(&config.borrow()), door.clone());
        let task = tokio::spawn(async move { shake(socket, peer, config, &door).await });
        shaking.push_back(Shaking(task.abort_handle()));
    }
}

/// A guest that shakes hands; it ends with this.
struct Shaking(AbortHandle);

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn shake(socket: TcpStream, peer: SocketAddr, config: Arc<ServerConfig>, door: &Door) {
    let shaken = async {
        prepare(&socket)?;
        let tls = ServerConnection::new(config).map_err(io::Error::other)?;
        TlsStream::accept(socket, peer, tls).await
    };
    match timeout(PATIENCE, shaken).await {
        Ok(Ok(stream)) => door.hand_over(stream),
        Ok(Err(error)) => door.refuse(Refusal::of(&error), Some(peer), &explain(&error)),
        Err(_) => door.refuse(Refusal::Late, Some(peer), "it does not shake hands in time"),
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE.0)
        .with_interval(KEEPALIVE.1);
    socket.set_tcp_keepalive(&probes)
}
