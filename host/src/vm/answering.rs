//! Answers to Consumers' questions: pages of rows from the guest, sealed where the point's messages are, signed by the
//! site, published one at a time. Each answer is a task of its own beside the VM's actor: one page of it is on its way
//! at any time, so live rows wait for no answer, and a guest that hangs costs its asker's patience alone.
//!
//! ```text
//! question ──> a page of the guest's ──> pages of the answer ──> publisher ──> acknowledged ──┐
//!                  ^                                                                          │
//!                  └──────────── while there is more, and room in the answer ─────────────────┘
//! ```

mod answer;
mod pages;

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use vmkpi::broker::publisher::Publisher;
use vmkpi::descriptor::Descriptor;
use vmkpi::name::DataPoint;
use vmkpi::query::Reason;
use vmkpi::sign::SigningKey;
use vmkpi::topic::Branch;

use self::answer::Answerer;
use super::{Shared, Spec};
use crate::consumers::{Asked, Consumers, Deaf};
use crate::link::HistoryClient;

/// Answers under way for one VM; over it who asks is told that too many do.
const MAX_UNDER_WAY: usize = 2;
/// Those of all VMs.
const MAX_OF_ALL: usize = 16;
/// Answers for one VM with those that only say so; over it a question is dropped.
const MAX_TASKS: usize = 16;

/// The answers of all VMs that may be under way.
static OF_ALL: Semaphore = Semaphore::const_new(MAX_OF_ALL);

/// What answers are made with.
#[derive(Clone, Debug)]
struct Means {
    history: HistoryClient,
    follow: watch::Receiver<Spec>,
    publisher: Publisher,
    signer: watch::Receiver<Option<Arc<SigningKey>>>,
    consumers: Consumers,
}

/// The answers of one VM that are under way.
#[derive(Debug)]
pub(super) struct Answering {
    means: Means,
    under_way: JoinSet<()>,
    refusing: JoinSet<()>,
}

impl Answering {
    /// None yet.
    pub(super) fn new(
        history: HistoryClient,
        follow: watch::Receiver<Spec>,
        shared: &Shared,
    ) -> Self {
        Self {
            means: Means {
                history,
                follow,
                publisher: shared.publisher.clone(),
                signer: shared.signer.clone(),
                consumers: shared.consumers.clone(),
            },
            under_way: JoinSet::new(),
            refusing: JoinSet::new(),
        }
    }

    /// Begins to answer by the descriptor that is in force.
    pub(super) fn begin(&mut self, asked: Asked, descriptor: &Descriptor) {
        self.tick();
        let status = &self.means.consumers.status;
        if self.under_way.len() + self.refusing.len() >= MAX_TASKS {
            return status.refuse(Branch::Query, Deaf::TooMany);
        }
        status.questions.ask();
        let point = &asked.question.point;
        tracing::debug!(consumer = %asked.subject.consumer, %point, "asked for history");
        let seal_to = seal_to(descriptor, point).map(str::to_owned);
        let refusal = match point {
            DataPoint::Infra(..) => Some(Reason::NotKept),
            DataPoint::Kpi(..) => None,
        };
        let permit = OF_ALL.try_acquire().ok();
        let permit = permit.filter(|_| self.under_way.len() < MAX_UNDER_WAY);
        let answerer = Answerer::new(self.means.clone(), asked, seal_to);
        match (refusal, permit) {
            (Some(reason), _) => self.refusing.spawn(answerer.refuse(reason)),
            (None, None) => self.refusing.spawn(answerer.refuse(Reason::Busy)),
            (None, Some(permit)) => self.under_way.spawn(async move {
                let _permit = permit;
                answerer.run().await;
            }),
        };
    }

    /// Ends every answer where it is; who asked asks again.
    pub(super) fn stop(&mut self) {
        self.under_way.abort_all();
        self.refusing.abort_all();
    }

    /// Lets go of what has ended. Call it each second.
    pub(super) fn tick(&mut self) {
        while self.under_way.try_join_next().is_some() {}
        while self.refusing.try_join_next().is_some() {}
    }
}

/// The key that answers about `point` are sealed to: where a specifier of it is sealed, and where none is about it
/// and the owner has a key. What is encrypted is the owner's already.
fn seal_to<'a>(descriptor: &'a Descriptor, point: &DataPoint) -> Option<&'a str> {
    if point.is_encrypted() {
        return None;
    }
    let mut monitors = descriptor.monitors_of(point).peekable();
    let sealed = monitors.peek().is_none() || monitors.any(|monitor| monitor.seal);
    descriptor.primary_key.as_deref().filter(|_| sealed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::descriptor::Spelling;

    #[test]
    fn an_answer_is_sealed_where_messages_are_and_where_nobody_said_anything_of_the_point() {
        let key = include_str!("../../../schemas/vectors/seal.pub.pem");
        let with = format!("primary_key = '''{key}'''\n");
        let open = "[[monitor]]\nid = 'open'\npoint = 'unencrypted/open'\n";
        let both = "[[monitor]]\nid = 'a'\npoint = 'unencrypted/both'\n\
                    [[monitor]]\nid = 'b'\npoint = 'unencrypted/bot*'\nseal = true\n";
        let blob = "[[monitor]]\nid = 'blob'\npoint = 'encrypted/blob'\n";
        let sealed = |key: &str, monitors: &str, point: &str| {
            let text = format!("vm = 'v'\nprimary_site = 's'\n{key}{monitors}");
            let no_file = |_: &std::path::Path| Err(std::io::Error::other("none"));
            let descriptor = Descriptor::parse(&text, Spelling::Toml, &no_file).unwrap();
            seal_to(&descriptor, &point.parse().unwrap()).is_some()
        };
        let all = format!("{open}{both}{blob}");
        for (key, point, expected) in [
            (&*with, "unencrypted/open", false),
            (&*with, "unencrypted/both", true),
            (&*with, "unencrypted/other", true),
            (&*with, "encrypted/blob", false),
            (&*with, "encrypted/other", false),
            ("", "unencrypted/other", false),
        ] {
            let monitors = if key.is_empty() { open } else { &*all };
            assert_eq!(sealed(key, monitors, point), expected, "{point}");
        }
    }
}
