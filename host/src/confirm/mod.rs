//! Confirmations: what the Consumers that a descriptor names say of what they have on disk. Whoever may
//! publish to the broker is not trusted: a word counts only with the signature of the key in the
//! descriptor, for this site, Consumer and VM, and everything else is counted by its kind.
//!
//! ```text
//! broker ──> one subscription, to the topics of the VMs that are followed
//!                └──> form, size, pace, signature ──> the VM's actor ──> Producer::on_confirm
//! ```

mod hearing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use vmkpi::broker::Broker;
use vmkpi::confirm::{Confirmed, NotConfirmed, Subject};
use vmkpi::delivery::producer::Heard;
use vmkpi::descriptor::Descriptor;
use vmkpi::name::Label;
use vmkpi::sign::{Keyring, Refusal, VerifyingKey};

/// Words that wait for one VM's actor; over it they are dropped, and said again by their Consumer.
const WAITING_WORDS: usize = 64;

/// What a Consumer has said of a VM; its signature has been verified.
#[derive(Clone, Debug)]
pub struct Word {
    /// The Consumer.
    pub consumer: Label,
    /// When it said so, by a number of its own that only grows.
    pub issued: u64,
    /// What it has, and what it wants.
    pub confirmed: Vec<Confirmed>,
}

/// Why a confirmation does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deaf {
    /// It is none by its form, or too long.
    Malformed,
    /// It speaks of another site, Consumer or VM than its topic.
    AnotherTopic,
    /// It was retained: nobody says now what it says.
    Retained,
    /// Its signature does not count.
    Signature(Refusal),
    /// It is no newer than what was heard before: sent again, or overtaken.
    Stale,
    /// It is about a stream, point or specifier that is not followed here.
    Unknown,
    /// More came than one Consumer says of one VM.
    TooMany,
}

impl Deaf {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::AnotherTopic,
        Self::Retained,
        Self::Signature(Refusal::Unsigned),
        Self::Signature(Refusal::Malformed),
        Self::Signature(Refusal::Algorithm),
        Self::Signature(Refusal::UnknownKey),
        Self::Signature(Refusal::Signature),
        Self::Stale,
        Self::Unknown,
        Self::TooMany,
    ];

    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::AnotherTopic => "another_topic",
            Self::Retained => "retained",
            Self::Signature(refusal) => refusal.as_str(),
            Self::Stale => "stale",
            Self::Unknown => "unknown",
            Self::TooMany => "too_many",
        }
    }
}

impl From<NotConfirmed> for Deaf {
    fn from(reason: NotConfirmed) -> Self {
        match reason {
            NotConfirmed::Malformed => Self::Malformed,
            NotConfirmed::Elsewhere => Self::AnotherTopic,
            NotConfirmed::Refused(refusal) => Self::Signature(refusal),
        }
    }
}

/// What was heard, for the exporter.
#[derive(Debug, Default)]
pub struct Status {
    connected: AtomicBool,
    taken: AtomicU64,
    refused: [AtomicU64; Deaf::ALL.len()],
}

impl Status {
    /// Whether confirmations can be heard.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Confirmations of an instance that counted.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Confirmations that did not.
    pub fn refused(&self, reason: Deaf) -> u64 {
        let at = Deaf::ALL.iter().position(|known| *known == reason);
        at.map_or(0, |at| self.refused[at].load(Relaxed))
    }

    /// Counts what did not count.
    pub fn refuse(&self, reason: Deaf) {
        if let Some(at) = Deaf::ALL.iter().position(|known| *known == reason) {
            self.refused[at].fetch_add(1, Relaxed);
        }
    }

    /// Counts what a producer made of a confirmation.
    pub fn count(&self, heard: Heard) {
        match heard {
            Heard::Taken => {
                self.taken.fetch_add(1, Relaxed);
            }
            Heard::Stale => self.refuse(Deaf::Stale),
            Heard::Unknown => self.refuse(Deaf::Unknown),
        }
    }
}

/// Who listens to a topic.
#[derive(Clone, Debug)]
struct Listener {
    subject: Subject,
    keys: Keyring,
    to: mpsc::Sender<Word>,
}

/// Listeners by topic, and by a number of their own.
type Listeners = BTreeMap<String, BTreeMap<u64, Listener>>;

#[derive(Debug, Default)]
struct Register {
    listeners: Mutex<(u64, Listeners)>,
    changed: Notify,
}

impl Register {
    fn lock(&self) -> MutexGuard<'_, (u64, Listeners)> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn topics(&self) -> BTreeSet<String> {
        self.lock().1.keys().cloned().collect()
    }
}

/// Where VMs are told what their Consumers say; the default hears nobody.
#[derive(Clone, Debug, Default)]
pub struct Confirmations {
    register: Arc<Register>,
    /// What was heard.
    pub status: Arc<Status>,
}

impl Confirmations {
    /// Begins to listen at `broker`, whenever somebody wants to hear.
    pub fn start(broker: Broker) -> (Self, JoinHandle<()>) {
        let (register, status) = (Arc::<Register>::default(), Arc::<Status>::default());
        let task = hearing::run(broker, Arc::clone(&register), Arc::clone(&status));
        (Self { register, status }, tokio::spawn(task))
    }

    /// Hears what the Consumers of `descriptor` say, until the ear is dropped.
    pub fn listen(&self, descriptor: &Descriptor) -> Ear {
        let (to, words) = mpsc::channel(WAITING_WORDS);
        let mut register = self.register.lock();
        register.0 += 1;
        let number = register.0;
        for confirm in &descriptor.confirm {
            // The descriptor was checked: its key is one.
            let Ok(key) = VerifyingKey::from_bytes(confirm.key) else {
                continue;
            };
            let subject = Subject {
                site: descriptor.primary_site.clone(),
                consumer: confirm.name.clone(),
                vm: descriptor.vm.clone(),
            };
            let topic = subject.topic();
            let listener = Listener {
                subject,
                keys: [key].into_iter().collect(),
                to: to.clone(),
            };
            let listeners = register.1.entry(topic).or_default();
            listeners.insert(number, listener);
        }
        drop(register);
        self.register.changed.notify_one();
        Ear {
            register: Arc::clone(&self.register),
            number,
            words,
            _open: to,
        }
    }
}

/// What one VM hears.
#[derive(Debug)]
pub struct Ear {
    register: Arc<Register>,
    number: u64,
    words: mpsc::Receiver<Word>,
    /// So that waiting for a word that nobody will say is waiting, and no end.
    _open: mpsc::Sender<Word>,
}

impl Ear {
    /// The next word. Cancel-safe.
    pub async fn hear(&mut self) -> Word {
        match self.words.recv().await {
            Some(word) => word,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut register = self.register.lock();
        register.1.retain(|_, listeners| {
            listeners.remove(&self.number);
            !listeners.is_empty()
        });
        drop(register);
        self.register.changed.notify_one();
    }
}
