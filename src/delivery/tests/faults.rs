//! What goes wrong in a run, second by second, until it is let come to rest.

use super::*;

impl World {
    fn fault(&mut self) {
        let host = self.rng.below(2) as usize;
        match self.rng.below(if self.rules.harsh { 10 } else { 7 }) {
            0 => {
                self.hosts[host] = None;
                if host == self.at && self.rng.one_in(2) {
                    self.start_host(host);
                }
            }
            1 => {
                self.at = 1 - self.at;
                self.both_until = self.now + self.rng.below(20_000);
                if self.hosts[self.at].is_none() {
                    self.start_host(self.at);
                } else {
                    self.connect(self.at);
                }
            }
            2 => self.guest_up = false,
            3 => self.cut_until = self.now + self.rng.below(20_000),
            4 => self.broker_down_until = self.now + self.rng.below(15_000),
            5 => {
                let site = self.rng.below(self.sites.len() as u64) as usize;
                self.sites[site].deaf_until = self.now + self.rng.below(60_000);
            }
            6 => {
                let step = [300, 2500, 9000, 60_000][self.rng.below(4) as usize];
                self.clock_offset += if self.rng.one_in(2) { step } else { -step };
            }
            7 => self.snapshot = Some((self.guest.clone(), self.ledger.clone())),
            8 => {
                if let Some((store, ledger)) = self.snapshot.clone() {
                    (self.guest, self.ledger) = (store, ledger);
                    self.guest.restart();
                }
            }
            _ => {
                self.descriptor = describe(
                    &mut self.rng,
                    Some(&self.descriptor),
                    self.rules.when_from(),
                );
                let (descriptor, now) = (self.descriptor.clone(), self.now);
                for host in 0..2 {
                    if let Some(p) = &mut self.hosts[host] {
                        p.adopt(&descriptor, now);
                        self.drain_host(host);
                    }
                }
            }
        }
    }

    fn second(&mut self) {
        let clock = self.clock();
        if self.guest_up {
            self.guest.tick(clock);
            self.drain_guest();
        } else if self.now > QUIET || self.rng.one_in(4) {
            (self.guest_up, self.cut_until) = (true, 0);
            self.guest.restart();
        }
        for host in 0..2 {
            // The host that the VM has left stops; the one it is at is started again by somebody.
            if host != self.at && self.now > self.both_until {
                self.hosts[host] = None;
            }
            if host == self.at
                && self.hosts[host].is_none()
                && (self.now > QUIET || self.rng.one_in(4))
            {
                self.start_host(host);
            }
            let now = self.now;
            if let Some(p) = &mut self.hosts[host] {
                p.tick(now);
                if p.needs_hello(now) {
                    self.connect(host);
                }
            }
            self.drain_host(host);
        }
    }

    pub(super) fn run(&mut self) {
        let mut next_store = 0;
        while self.now < END {
            if self.now < self.stores_end && self.now >= next_store {
                for _ in 0..if self.rng.one_in(10) { 12 } else { 1 } {
                    let point = if self.rng.one_in(2) {
                        "unencrypted/a"
                    } else {
                        "unencrypted/b"
                    };
                    self.store(point);
                }
                next_store = self.now + 300 + self.rng.below(1500);
            }
            if self.now < QUIET && self.rng.one_in(60) {
                self.fault();
            }
            if self.now.is_multiple_of(1000) {
                self.second();
            }
            self.now += 100;
            while let Some(entry) = self.wires.first_entry().filter(|e| e.key().0 <= self.now) {
                let wire = entry.remove();
                self.deliver(wire);
            }
            if self.now > QUIET + 10_000 && self.now.is_multiple_of(5000) && self.is_quiet() {
                return;
            }
        }
        panic!(
            "not quiet at the end: {}",
            self.unfinished().unwrap_or_default()
        );
    }

    fn is_quiet(&self) -> bool {
        self.unfinished().is_none()
    }

    fn unfinished(&self) -> Option<String> {
        for (id, backlog) in self.guest.backlogs() {
            if backlog > 0 && self.descriptor.monitors_of(&id.point).any(|_| true) {
                return Some(format!("{id:?}: {backlog} rows not acknowledged"));
            }
        }
        if self.rules.strangers {
            return self.unfinished_of_strangers();
        }
        None
    }

    fn unfinished_of_strangers(&self) -> Option<String> {
        for site in &self.sites {
            for (id, cursor) in &site.cursors {
                let last = self.stored[&id.0].len() as u64;
                if cursor.seq < last {
                    let at = cursor.seq;
                    return Some(format!("{id:?}: {at} of {last} at {:?}", site.name));
                }
            }
        }
        None
    }
}
