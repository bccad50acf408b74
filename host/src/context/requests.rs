//! Operators who have asked for a recontextualization and wait to hear what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use vmkpi::context::Class;

use super::status::{Phase, Times};
use super::work::{Deed, Report, Trouble};

/// The most who wait.
const MAX_WAITING: usize = 64;

/// What an operator wants.
#[derive(Debug)]
pub struct Ask {
    /// The domain, by name or UUID.
    pub vm: String,
    /// Which class; all without.
    pub class: Option<Class>,
    /// What templates are told has happened.
    pub event: Option<String>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The domain's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub domain: Option<String>,
    /// Its UUID.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uuid: Option<String>,
    /// Why nothing was done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// What was done, by class.
    #[serde(default)]
    pub classes: BTreeMap<Class, OfClass>,
}

/// What became of a class. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OfClass {
    /// `changed`, `unchanged`, `spared`, `removed` or `failed`.
    pub outcome: String,
    /// What is in the drive.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// The drive.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drive: Option<String>,
    /// Why it failed; it is tried again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// How long finding out what the VM is and has took.
    pub resolve_ms: f64,
    /// How long taking the drive away took, where it was.
    pub detach_ms: f64,
    /// How long making the image took.
    pub prepare_ms: f64,
    /// How long putting it in took.
    pub attach_ms: f64,
    /// How much of all this libvirt's calls took.
    pub libvirt_ms: f64,
}

impl Answer {
    /// Nothing was done.
    pub fn problem(problem: impl Into<String>) -> Self {
        Self {
            problem: Some(problem.into()),
            ..Self::default()
        }
    }

    /// Whether all is as was wanted.
    pub fn is_good(&self) -> bool {
        self.problem.is_none() && self.classes.values().all(|class| class.problem.is_none())
    }
}

impl OfClass {
    fn of(report: &Report, times: &Times) -> Self {
        let ms = |phase: Phase| millis(times.phases[phase as usize]);
        let outcome = match report.result {
            Ok(Deed::Changed) => "changed",
            Ok(Deed::Unchanged) => "unchanged",
            Ok(Deed::Removed) => "removed",
            Ok(Deed::Spared | Deed::Prepared | Deed::There(_)) => "spared",
            Err(_) => "failed",
        };
        Self {
            outcome: outcome.into(),
            digest: report.digest.clone(),
            drive: report.drive.clone(),
            problem: report.result.as_ref().err().map(Trouble::to_string),
            resolve_ms: ms(Phase::Resolve),
            detach_ms: ms(Phase::Detach),
            prepare_ms: ms(Phase::Prepare),
            attach_ms: ms(Phase::Attach),
            libvirt_ms: millis(times.libvirt),
        }
    }
}

/// To a microsecond.
fn millis(took: std::time::Duration) -> f64 {
    took.as_micros() as f64 / 1000.0
}

#[derive(Debug)]
struct Waiting {
    uuid: Arc<str>,
    desire: u64,
    left: BTreeSet<Class>,
    answer: Answer,
    reply: oneshot::Sender<Answer>,
}

/// Everybody who waits.
#[derive(Debug, Default)]
pub(super) struct Requests(Vec<Waiting>);

impl Requests {
    /// Somebody waits until the desire is met for these classes, or fails once.
    pub fn wait(
        &mut self,
        (uuid, name): (&Arc<str>, &str),
        desire: u64,
        classes: BTreeSet<Class>,
        reply: oneshot::Sender<Answer>,
    ) {
        // Who has hung up does not wait.
        self.0.retain(|waiting| !waiting.reply.is_closed());
        if self.0.len() >= MAX_WAITING {
            let _ = reply.send(Answer::problem("too many ask at once; ask again"));
            return;
        }
        self.0.push(Waiting {
            uuid: Arc::clone(uuid),
            desire,
            left: classes,
            answer: Answer {
                domain: Some(name.to_owned()),
                uuid: Some(uuid.to_string()),
                ..Answer::default()
            },
            reply,
        });
    }

    /// An operation has ended: who waited for it is told.
    pub fn finished(&mut self, class: &Class, report: &Report, times: &Times) {
        for waiting in self.0.iter_mut().filter(|waiting| {
            waiting.uuid == report.uuid && waiting.desire <= report.operation.desire
        }) {
            if waiting.left.remove(class) {
                let of = OfClass::of(report, times);
                waiting.answer.classes.insert(class.clone(), of);
            }
        }
        self.answer(|waiting| waiting.left.is_empty());
    }

    /// The VM is not here any more.
    pub fn gone(&mut self, uuid: &str) {
        for waiting in self.0.iter_mut().filter(|waiting| *waiting.uuid == *uuid) {
            waiting.answer.problem = Some("the VM does not run here any more".into());
        }
        self.answer(|waiting| waiting.answer.problem.is_some());
    }

    fn answer(&mut self, ready: impl Fn(&Waiting) -> bool) {
        for waiting in self.0.extract_if(.., |waiting| ready(waiting)) {
            // Who has hung up is not told.
            let _ = waiting.reply.send(waiting.answer);
        }
    }
}
