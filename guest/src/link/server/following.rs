//! The context's word, followed: where the link goes, and what is not delivered from here.

use std::sync::atomic::Ordering;
use std::time::Instant;

use vmkpi::clock::Timestamp;
use vmkpi::link::LinkUrl;

use super::Server;
use crate::link::course::course;
use crate::link::prospect::{Greeted, Prospect, Turn};
use crate::link::{Held, Wanted};

/// The most of a context's word that is shown.
const SHOWN_CHARS: usize = 100;

impl Server {
    /// Goes by what the context says now. What is held is settled first: nothing of it must reach where the
    /// context leads.
    pub(super) fn follow(&mut self) {
        let guidance = self.guide.get();
        self.hold(self.policy.objection(guidance.legislation.as_deref()));
        let said = guidance.endpoint.as_deref();
        match course(said, &self.configured) {
            Ok(url) if url == self.url => self.stay(said.is_some()),
            Ok(url) => self.try_endpoint(url),
            Err(why) => {
                let said = said.unwrap_or_default().trim();
                let shown: String = said.chars().take(SHOWN_CHARS).collect();
                self.drop_prospect();
                self.complain(&shown.escape_default().to_string(), &why);
            }
        }
    }

    /// The endpoint in force is the right one.
    fn stay(&mut self, of_context: bool) {
        self.drop_prospect();
        self.note(|state| {
            state.wanted = None;
            state.of_context = of_context;
        });
    }

    fn drop_prospect(&mut self) {
        if let Some(prospect) = self.prospect.take() {
            prospect.close();
        }
    }

    fn try_endpoint(&mut self, url: LinkUrl) {
        if self.prospect.as_ref().is_some_and(|p| p.url == url) {
            return;
        }
        tracing::info!(from = %self.url, to = %url, "another endpoint is tried, beside the one in force");
        self.drop_prospect();
        self.note(|state| {
            state.wanted = Some(Wanted {
                endpoint: url.to_string(),
                since: Timestamp::now(),
                problem: None,
            });
        });
        self.prospect = Some(Prospect::new(url, self.files.clone()));
    }

    /// Goes on with the endpoint that is tried.
    pub(super) fn try_prospect(&mut self) {
        let Some(mut prospect) = self.prospect.take() else {
            return;
        };
        match prospect.turn(Instant::now()) {
            Turn::Greeted(greeted) => self.go_over(prospect.url, *greeted),
            Turn::Failed(why) => {
                let endpoint = prospect.url.to_string();
                self.prospect = Some(prospect);
                self.complain(&endpoint, &why);
            }
            Turn::Waiting => self.prospect = Some(prospect),
        }
    }

    /// A host has greeted at another endpoint: from now on it is the one. What was on its way by the old one and is
    /// not acknowledged goes by the new one again.
    fn go_over(&mut self, url: LinkUrl, greeted: Greeted) {
        let Greeted {
            transport,
            mut connection,
            hello,
        } = greeted;
        tracing::info!(from = %self.url, to = %url, "the link goes over to another endpoint");
        self.hang_up();
        std::mem::replace(&mut self.transport, transport).close();
        self.transport.proven();
        self.url = url;
        self.counters
            .endpoint_changes
            .fetch_add(1, Ordering::Relaxed);
        // The host may have said more after its greeting.
        connection.unheard = true;
        self.session.hear(hello, &mut connection.out);
        self.connect(connection);
        let (endpoint, of_context) = (self.url.to_string(), self.guide.get().endpoint.is_some());
        self.note(|state| {
            state.endpoint = endpoint;
            state.of_context = of_context;
            state.wanted = None;
            state.last_message = Some(Timestamp::now());
        });
    }

    /// An endpoint cannot be used, and the one in force stays. Said when the reason is another than before.
    fn complain(&mut self, endpoint: &str, why: &str) {
        self.counters
            .endpoint_failures
            .fetch_add(1, Ordering::Relaxed);
        let mut new = false;
        self.note(|state| {
            let before = state.wanted.take().filter(|w| w.endpoint == endpoint);
            new = before.as_ref().and_then(|w| w.problem.as_deref()) != Some(why);
            state.wanted = Some(Wanted {
                endpoint: endpoint.to_owned(),
                since: before.map_or_else(Timestamp::now, |w| w.since),
                problem: Some(why.to_owned()),
            });
        });
        if new {
            tracing::warn!(endpoint, in_force = %self.url, why, "the endpoint that the link should have cannot be used; the one in force stays");
        }
    }

    /// Holds what the policy says, for `reason`, or does not any more.
    fn hold(&mut self, reason: Option<String>) {
        let before = self.session.holds();
        if let Some(connection) = &mut self.connection {
            if reason.is_some() && !before {
                // Rows that are held from now on may be among what was not sent.
                connection.forget_unsent();
            }
            let policy = reason.is_some().then(|| self.policy.clone());
            self.session.hold(policy, &mut connection.out);
        } else {
            let policy = reason.is_some().then(|| self.policy.clone());
            self.session.hold(policy, &mut Vec::new());
        }
        match (&reason, before) {
            (Some(reason), false) => {
                tracing::warn!(reason, "points are held: nothing of them is delivered");
            }
            (None, true) => tracing::info!("what was held is delivered"),
            _ => {}
        }
        let points = self.policy.points.iter().map(ToString::to_string);
        let held = reason.map(|reason| Held {
            points: points.collect(),
            since: Timestamp::now(),
            reason,
        });
        self.note(|state| {
            let since = state.held.as_ref().map(|held| held.since);
            state.held = held.map(|held| Held {
                since: since.unwrap_or(held.since),
                ..held
            });
        });
    }
}
