//! The VM's infrastructure measurements: a lane for each residence, and statistics into the last of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Actor;
use crate::infra::{self, Lane, Of, measurements};
use crate::libvirt::{State, Taken};
use crate::outbox::Left;

/// Residences whose measurements are still on their way; over it, those of the oldest are lost, as a gap.
const MAX_LANES: usize = 16;
/// Residences of which nothing but that gap is on its way; over it, the oldest is forgotten.
const MAX_GIVEN_UP: usize = 16;

/// Part of a VM's sampling interval, and the most, over which the VMs take up statistics that came for all of
/// them at once: rows on their way wait for few of them, not for all.
const SPREAD: (u32, Duration) = (4, Duration::from_secs(1));
impl Actor {
    /// Goes on with what an earlier daemon left of the VM's measurements.
    pub(super) fn take_over(&mut self, left: &[Left]) {
        let now_ms = self.now_ms();
        for stream in left.iter().rev() {
            let (outbox, pages) = (&self.shared.outbox, &self.pages.0);
            match Lane::left(stream, &self.spec.descriptor, outbox, pages, now_ms) {
                Ok(lane) => self.lanes.push_front(lane),
                Err(error) => {
                    tracing::error!(domain = %self.spec.domain.name, %error, "what the outbox holds of the VM cannot be read; it stays there");
                }
            }
        }
    }

    /// One lane for the residence that is now, and an end to all others.
    pub(super) fn reside(&mut self) {
        let now_ms = self.now_ms();
        let here = !self.spec.leaving && self.spec.domain.state != State::Off;
        let residence = here.then_some(self.spec.domain.residence);
        for lane in &mut self.lanes {
            if lane.residence != residence {
                lane.end(&self.spec.descriptor, now_ms);
            }
        }
        if let Some(residence) = residence
            && self.lanes.back().and_then(|l| l.residence) != Some(residence)
        {
            let of = Of {
                uuid: &self.spec.domain.uuid,
                name: &self.spec.domain.name,
                descriptor: &self.spec.descriptor,
            };
            let (outbox, pages) = (&self.shared.outbox, &self.pages.0);
            let lane = Lane::new(residence, &of, outbox, pages, now_ms);
            self.lanes.push_back(lane);
            self.running_since = std::time::Instant::now();
        }
        self.limit_lanes();
    }

    /// Gives up the oldest lanes that are too many. The one of this residence is the last.
    fn limit_lanes(&mut self) {
        let domain = &self.spec.domain.name;
        let delivering = |lanes: &VecDeque<Lane>| lanes.iter().filter(|l| !l.is_given_up()).count();
        while delivering(&self.lanes) > MAX_LANES
            && let Some(lane) = self.lanes.iter_mut().find(|l| !l.is_given_up())
        {
            tracing::error!(%domain, "the VM restarts faster than its infrastructure measurements can be delivered; the oldest are lost, which is announced as a gap");
            lane.give_up();
        }
        while self.lanes.len() > MAX_LANES + MAX_GIVEN_UP {
            tracing::error!(domain = %self.spec.domain.name, "infrastructure measurements of more residences were lost than can be announced; the oldest is forgotten");
            self.drop_lane(0);
        }
    }

    pub(super) fn drop_lane(&mut self, at: usize) {
        if let Some(lane) = self.lanes.remove(at) {
            lane.forget();
            self.past.trimmed += lane.kept().trimmed;
            self.past.count(lane.producer().counters());
            self.forget_messages(lane.id);
        }
    }

    /// Statistics have come, perhaps of this VM: takes them up when it is its turn.
    pub(super) fn measure_soon(&mut self) {
        self.shared.sampling.mark_unchanged();
        let Some(pace) = infra::pace(&self.spec.descriptor) else {
            return;
        };
        let spread = (pace / SPREAD.0).min(SPREAD.1).mul_f64(self.phase);
        self.measure_at.get_or_insert(Instant::now() + spread);
    }

    /// Takes new statistics into the lane of this residence, if the VM runs.
    pub(super) fn measure(&mut self) {
        self.measure_at = None;
        let vms = Arc::clone(&self.shared.sampling.borrow_and_update().vms);
        let domain = &self.spec.domain;
        let running = domain.state == State::Running && !self.spec.leaving;
        let (Some(stats), Some(lane)) = (vms.get(&domain.uuid), self.lanes.back_mut()) else {
            return;
        };
        if !running || lane.residence != Some(domain.residence) {
            return;
        }
        for (taken, last) in [&stats.quick, &stats.detailed]
            .into_iter()
            .zip(&mut self.measured)
        {
            // Asked before the VM ran: figures of another residence, or of none.
            let new = |t: &&Taken| t.asked >= self.running_since && Some(t.at) > *last;
            if let Some(taken) = taken.as_ref().filter(new) {
                *last = Some(taken.at);
                let measured = measurements(&taken.figures, &domain.interfaces);
                lane.append(measured, &self.spec.descriptor, taken.time);
            }
        }
    }
}
