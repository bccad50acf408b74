//! Since when: the daemon runs, libvirt answers, the broker is connected.

use std::net::SocketAddr;
use std::time::Instant;

use super::Config;
use crate::libvirt::Domains;
use crate::status::Facts;
use vmkpi::broker::publisher::Status;

/// Something that comes and goes.
#[derive(Clone, Copy, Debug)]
struct Since {
    connected: bool,
    connects: u64,
    then: Instant,
}

impl Since {
    fn new(now: Instant) -> Self {
        Self {
            connected: false,
            connects: 0,
            then: now,
        }
    }

    /// It is like this at `now`. Who was away and is back between two looks has connected once more.
    fn look(&mut self, connected: bool, connects: u64, now: Instant) {
        if (connected, connects) != (self.connected, self.connects) {
            let still_away = !connected && !self.connected;
            let then = if still_away { self.then } else { now };
            *self = Self {
                connected,
                connects,
                then,
            };
        }
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.then.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Since when, and with what.
#[derive(Debug)]
pub(super) struct Uptime {
    started: Instant,
    libvirt: Since,
    broker: Since,
    told: Facts,
}

impl Uptime {
    /// A daemon that starts now.
    pub(super) fn new(config: &Config, listen: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            libvirt: Since::new(now),
            broker: Since::new(now),
            told: Facts {
                libvirt_uri: config.libvirt_uri.clone(),
                broker: config.broker.to_string(),
                listen: listen.to_string(),
                ..Facts::default()
            },
        }
    }

    /// Looks whether libvirt and the broker are there. Call it at least each second.
    pub(super) fn look(&mut self, domains: &Domains, broker: &Status) {
        let now = Instant::now();
        self.libvirt.look(domains.connected, domains.connects, now);
        self.broker
            .look(broker.is_connected(), broker.connects(), now);
    }

    /// These facts; the others are empty.
    pub(super) fn facts(&self) -> Facts {
        let uptime = self.started.elapsed().as_millis();
        Facts {
            uptime_ms: u64::try_from(uptime).unwrap_or(u64::MAX),
            libvirt_since_ms: self.libvirt.age_ms(),
            broker_since_ms: self.broker.age_ms(),
            ..self.told.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_connection_counts_from_its_last_beginning_and_an_absence_from_its_first_moment() {
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        let mut since = Since::new(begin);
        since.look(false, 0, at(1));
        assert_eq!(since.then, begin, "it has never been there");
        since.look(true, 1, at(2));
        since.look(true, 1, at(3));
        assert_eq!(since.then, at(2));
        since.look(true, 2, at(4));
        assert_eq!(since.then, at(4), "away and back between two looks");
        since.look(false, 2, at(5));
        since.look(false, 3, at(6));
        assert_eq!(since.then, at(5), "back and away again, and never seen");
    }
}
