//! The VM's entry in the Directory: what it lists, and its messages among the others.

use std::collections::BTreeSet;

use bytes::Bytes;
use vmkpi::clock::Timestamp;
use vmkpi::delivery::producer::Token;
use vmkpi::name::DataPoint;

use super::{Actor, Lane};
use crate::vm::lease::{Fate, Moment};
use vmkpi::broker::publisher::{Job, lease_properties};

impl Actor {
    /// Says, renews or takes back the VM's entry, if it is time to.
    pub(super) fn lease(&mut self) {
        let (fate, at) = (Fate::of(&self.spec), self.moment());
        let points = match fate {
            Fate::Held | Fate::Kept => self.points(),
            Fate::Removed | Fate::Let => Vec::new(),
        };
        let descriptor = &self.spec.descriptor;
        for message in self.leaseholder.step(fate, descriptor, points, at) {
            self.outbox.push_back(Job {
                topic: message.topic,
                payload: Bytes::from(message.payload),
                lane: self.lease_lane,
                token: message.token,
                reply: self.replies.0.clone(),
                retain: true,
                properties: lease_properties(),
            });
        }
    }

    /// What the broker said of an entry.
    pub(super) fn leased(&mut self, token: Token, taken: bool) {
        let at = self.moment();
        self.leaseholder.settled(token, taken, at);
    }

    fn moment(&self) -> Moment {
        Moment {
            now: Timestamp::now(),
            now_ms: self.now_ms(),
            connects: self.shared.publisher.status.connects(),
        }
    }

    /// The data points of the VM that are followed, each once, in order.
    fn points(&self) -> Vec<DataPoint> {
        let infra = self.lanes.iter().map(Lane::producer);
        let infra = infra.flat_map(vmkpi::delivery::producer::Producer::points);
        let points: BTreeSet<&DataPoint> = self.kpi.points().chain(infra).collect();
        points.into_iter().cloned().collect()
    }
}
