//! What the Consumers that a descriptor names say to their Producers: what they have on disk (confirmations), and
//! what they ask for (questions). Whoever may publish to the broker is not trusted: a word counts only with the
//! signature of the key in the descriptor, for this site, Consumer and VM, and everything else is counted by its kind.
//!
//! ```text
//! broker ──> one subscription, to the topics of the VMs that are followed
//!                └──> form, size, pace, signature ──┬──> the VM's actor ──> Producer::on_confirm
//!                                                   └──> asked now, for the first time ──> the VM's actor ──> answer
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | `hearing` | the subscription, and what is let through |
//! | `pace` | how much of it is looked at |
//! | `deaf` | why a word does not count, and how often |
//! | `marks`, `recording` | which questions were heard, over a restart too |

mod deaf;
mod hearing;
mod marks;
mod pace;
mod recording;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use vmkpi::broker::Broker;
use vmkpi::confirm::Confirmed;
use vmkpi::descriptor::Descriptor;
use vmkpi::name::Label;
use vmkpi::query::{Question, Subject};
use vmkpi::sign::{Keyring, VerifyingKey};
use vmkpi::topic::Branch;

pub use deaf::{Deaf, Status};

/// Confirmations that wait for one VM's actor; over it they are dropped, and said again by their Consumer.
const WAITING_CONFIRMATIONS: usize = 64;
/// Questions that wait for one VM's actor; over it they are dropped, and asked again.
const WAITING_QUESTIONS: usize = 8;

/// What a Consumer has said of a VM; its signature has been verified.
#[derive(Clone, Debug)]
pub enum Word {
    /// What it has.
    Confirmed(Confirmation),
    /// What it asks for; asked now, and for the first time.
    Asked(Asked),
    /// They are heard from now on: what they have said before was heard by nobody.
    Listening,
}

/// What a Consumer has on disk.
#[derive(Clone, Debug)]
pub struct Confirmation {
    /// The Consumer.
    pub consumer: Label,
    /// When it said so, by a number of its own that only grows.
    pub issued: u64,
    /// What it has, and what it wants.
    pub confirmed: Vec<Confirmed>,
}

/// A Consumer's question.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asks whom.
    pub subject: Subject,
    /// What.
    pub question: Question,
}

/// Who listens to what a Consumer says of a VM.
#[derive(Clone, Debug)]
struct Listener {
    subject: Subject,
    keys: Keyring,
    confirmations: mpsc::Sender<Confirmation>,
    questions: mpsc::Sender<Asked>,
    hearing: Arc<Hearing>,
}

/// Whether one VM's Consumers are heard.
#[derive(Debug, Default)]
struct Hearing {
    /// Whether it was told so since the subscription was lost.
    told: AtomicBool,
    bell: Notify,
}

/// Listeners by topic, and by a number of their own.
type Listeners = BTreeMap<String, BTreeMap<u64, Arc<Listener>>>;

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

    /// The subscription stands, or does not. Who was told is not told again, as one more topic makes it stand anew.
    fn stands(&self, stands: bool) {
        let register = self.lock();
        for listener in register.1.values().flat_map(BTreeMap::values) {
            let told = listener.hearing.told.swap(stands, Ordering::Relaxed);
            if stands && !told {
                listener.hearing.bell.notify_one();
            }
        }
    }

    fn topics(&self) -> BTreeSet<String> {
        self.lock().1.keys().cloned().collect()
    }

    /// Who listens to a topic; of one topic there are several while a VM comes back, perhaps with another key.
    fn of(&self, topic: &str) -> Vec<Arc<Listener>> {
        let register = self.lock();
        let listeners = register.1.get(topic).into_iter();
        listeners.flat_map(BTreeMap::values).cloned().collect()
    }
}

/// Where VMs are told what their Consumers say; the default hears nobody.
#[derive(Clone, Debug, Default)]
pub struct Consumers {
    register: Arc<Register>,
    /// What was heard.
    pub status: Arc<Status>,
}

impl Consumers {
    /// Begins to listen at `broker`, whenever somebody wants to hear. Which questions were heard is kept in the
    /// directory `state`.
    pub fn start(broker: Broker, state: &Path) -> (Self, JoinHandle<()>) {
        let (register, status) = (Arc::<Register>::default(), Arc::<Status>::default());
        let recorder = recording::Recorder::start(state, &status);
        let room = hearing::Room {
            register: Arc::clone(&register),
            status: Arc::clone(&status),
            recorder,
        };
        (Self { register, status }, tokio::spawn(room.run(broker)))
    }

    /// Hears what the Consumers of `descriptor` say, until the ear is dropped.
    pub fn listen(&self, descriptor: &Descriptor) -> Ear {
        let (confirm, confirmations) = mpsc::channel(WAITING_CONFIRMATIONS);
        let (ask, questions) = mpsc::channel(WAITING_QUESTIONS);
        let hearing = Arc::<Hearing>::default();
        let mut register = self.register.lock();
        register.0 += 1;
        let number = register.0;
        for named in &descriptor.confirm {
            // The descriptor was checked: its key is one.
            let Ok(key) = VerifyingKey::from_bytes(named.key) else {
                continue;
            };
            let listener = Arc::new(Listener {
                subject: Subject {
                    site: descriptor.primary_site.clone(),
                    consumer: named.name.clone(),
                    vm: descriptor.vm.clone(),
                },
                keys: [key].into_iter().collect(),
                confirmations: confirm.clone(),
                questions: ask.clone(),
                hearing: Arc::clone(&hearing),
            });
            for branch in [Branch::Confirm, Branch::Query] {
                let listeners = register.1.entry(listener.subject.topic(branch));
                let listeners = listeners.or_default();
                listeners.insert(number, Arc::clone(&listener));
            }
        }
        drop(register);
        self.register.changed.notify_one();
        Ear {
            register: Arc::clone(&self.register),
            number,
            confirmations,
            questions,
            hearing,
            _open: (confirm, ask),
        }
    }
}

/// What one VM hears.
#[derive(Debug)]
pub struct Ear {
    register: Arc<Register>,
    number: u64,
    confirmations: mpsc::Receiver<Confirmation>,
    questions: mpsc::Receiver<Asked>,
    hearing: Arc<Hearing>,
    /// So that waiting for a word that nobody will say is waiting, and no end.
    _open: (mpsc::Sender<Confirmation>, mpsc::Sender<Asked>),
}

impl Ear {
    /// The next word, confirmations first. Cancel-safe.
    pub async fn hear(&mut self) -> Word {
        tokio::select! {
            biased;
            Some(confirmation) = self.confirmations.recv() => Word::Confirmed(confirmation),
            Some(asked) = self.questions.recv() => Word::Asked(asked),
            () = self.hearing.bell.notified() => Word::Listening,
            else => std::future::pending().await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::descriptor::Spelling;

    /// The next word, if there is one now.
    async fn word(ear: &mut Ear) -> Option<Word> {
        tokio::select! {
            biased;
            word = ear.hear() => Some(word),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn a_vm_is_told_once_that_its_consumers_are_heard_until_they_are_not() {
        let key = "4SIVE7tKqZEcczb/sRD8OGtfoyeN3ASDwoQLazV1ui8=";
        let text = format!(
            "vm='v'\nprimary_site='s'\n[[confirm]]\nname='ops'\nkey='{key}'\n[[monitor]]\npoint='infra/cpu'\n"
        );
        let no_files = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let descriptor = Descriptor::parse(&text, Spelling::Toml, &no_files).unwrap();
        let consumers = Consumers::default();
        let mut ear = consumers.listen(&descriptor);
        assert!(word(&mut ear).await.is_none());
        for _ in 0..2 {
            consumers.register.stands(true);
            assert!(matches!(word(&mut ear).await, Some(Word::Listening)));
            // Another VM's topic was wanted, and granted.
            consumers.register.stands(true);
            assert!(word(&mut ear).await.is_none());
            consumers.register.stands(false);
        }
    }
}
