//! Notes questions on disk before anybody acts on them, all that wait at once. A task of its own: a disk that hangs
//! holds up questions, and no confirmation.

use std::path::Path;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use vmkpi::clock::Timestamp;
use vmkpi::topic::Branch;

use super::marks::{Marks, Record};
use super::{Asked, Deaf, Listener, Status};

/// Questions that wait for the disk; over it they are dropped, and asked again.
const WAITING: usize = 64;

/// A question that counts, and who is to hear it.
#[derive(Debug)]
struct Item {
    topic: String,
    issued: u64,
    asked: Asked,
    listener: Arc<Listener>,
}

/// Judges questions by when they were issued, and hands them on when that is on disk.
#[derive(Debug)]
pub(super) struct Recorder {
    marks: Mutex<Marks>,
    items: mpsc::Sender<Item>,
}

/// Now, in microseconds since 1970.
fn now_us() -> u64 {
    Timestamp::now().as_micros().unsigned_abs()
}

impl Recorder {
    /// With what an earlier daemon left in the directory `state`.
    pub(super) fn start(state: &Path, status: &Arc<Status>) -> Self {
        let (record, marks) = Record::open(state, now_us());
        let (items, waiting) = mpsc::channel(WAITING);
        tokio::spawn(record_all(record, waiting, Arc::clone(status)));
        Self {
            marks: Mutex::new(marks),
            items,
        }
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a question that `issued` and its signature vouch for.
    ///
    /// # Errors
    /// It does not count, and why.
    pub(super) fn take(
        &self,
        topic: &str,
        issued: u64,
        asked: Asked,
        listener: &Arc<Listener>,
    ) -> Result<(), Deaf> {
        self.marks().hear(topic, issued, now_us())?;
        let item = Item {
            topic: topic.to_owned(),
            issued,
            asked,
            listener: Arc::clone(listener),
        };
        self.items.try_send(item).map_err(|_| Deaf::TooMany)
    }
}

/// Until nobody hears any more.
async fn record_all(mut record: Record, mut waiting: mpsc::Receiver<Item>, status: Arc<Status>) {
    let mut items = Vec::new();
    let mut failing = false;
    while waiting.recv_many(&mut items, WAITING).await > 0 {
        let lacking = items.iter().filter(|i| record.lacks(&i.topic, i.issued));
        let lacking: Vec<_> = lacking.map(|i| (i.topic.clone(), i.issued)).collect();
        let mut saved = Ok(());
        if !lacking.is_empty() {
            let written = spawn_blocking(move || {
                let before = record.clone();
                for (topic, issued) in &lacking {
                    record.reserve(topic, *issued);
                }
                match record.save(now_us()) {
                    Ok(()) => (record, Ok(())),
                    Err(error) => (before, Err(error)),
                }
            });
            let Ok((after, result)) = written.await else {
                return;
            };
            (record, saved) = (after, result);
        }
        if let Err(error) = &saved
            && !std::mem::replace(&mut failing, true)
        {
            tracing::error!(%error, "which questions were heard cannot be noted on disk; those that are not noted are refused");
        }
        failing &= saved.is_err();
        for item in items.drain(..) {
            if let Err(reason) = hand_over(item, &record) {
                status.refuse(Branch::Query, reason);
            }
        }
    }
}

fn hand_over(item: Item, record: &Record) -> Result<(), Deaf> {
    if record.lacks(&item.topic, item.issued) {
        return Err(Deaf::Unrecorded);
    }
    let sent = item.listener.questions.try_send(item.asked);
    sent.map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Deaf::TooMany,
        // Its keys were dropped meanwhile.
        mpsc::error::TrySendError::Closed(_) => Deaf::Unknown,
    })
}
