//! Follows the domains: an event makes it look at that domain, and every so often it looks at all of
//! them. What it finds is published whole, as one value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use virt::connect::Connect;
use virt::domain::DomainStateReason;
use virt::error::{Error, ErrorNumber};
use vmkpi::clock::Timestamp;
use vmkpi::descriptor::METADATA_NAMESPACE;
use vmkpi::link::url::KPI_PORT;

use super::events::{DomainEvent, Registration};
use super::{
    Domain, Domains, Ended, LibvirtError, RECONCILE_EVERY, RECONNECT_EVERY, State, connect,
    is_gone, xml,
};

/// How many events may wait; more are lost, and found by the next reconciliation.
const MAX_WAITING_EVENTS: usize = 10_000;

/// The most domains that are gone of which it is remembered how they ended.
const MAX_ENDED: usize = 10_000;

/// Why a domain is paused that is migrated away, or arrives (virDomainPausedReason).
pub(super) const TRANSIT: [u32; 2] = [
    virt_sys::VIR_DOMAIN_PAUSED_MIGRATION,
    virt_sys::VIR_DOMAIN_PAUSED_STARTING_UP,
];

/// How long libvirt may take to say how the run of a domain ended that is gone already.
const END_WAIT: Duration = Duration::from_millis(500);

/// How often to see whether the connection lives and whether to stop.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) fn start(
    uri: &str,
    stop: &Arc<AtomicBool>,
) -> Result<watch::Receiver<Arc<Domains>>, LibvirtError> {
    let (out, domains) = watch::channel(Arc::new(Domains::default()));
    let mut follower = Follower {
        uri: uri.to_owned(),
        known: BTreeMap::new(),
        ended: BTreeMap::new(),
        pending: Vec::new(),
        residences: 0,
        connected: false,
        reconciled: None,
        connects: 0,
        failures: 0,
        out,
    };
    let stop = Arc::clone(stop);
    std::thread::Builder::new()
        .name("libvirt-domains".into())
        .spawn(move || follower.run(&stop))?;
    Ok(domains)
}

struct Follower {
    uri: String,
    known: BTreeMap<Arc<str>, Arc<Domain>>,
    ended: BTreeMap<Arc<str>, Ended>,
    /// Events that came while one was waited for.
    pending: Vec<DomainEvent>,
    residences: u64,
    connected: bool,
    reconciled: Option<Timestamp>,
    connects: u64,
    failures: u64,
    out: watch::Sender<Arc<Domains>>,
}

impl Follower {
    fn run(&mut self, stop: &AtomicBool) {
        let mut said = false;
        while !stop.load(Ordering::Relaxed) {
            let Err(error) = self.session(stop) else {
                return;
            };
            if self.connected || !said {
                tracing::warn!(uri = %self.uri, %error, "libvirt does not answer; trying again");
                said = true;
            }
            self.connected = false;
            self.failures += 1;
            self.publish();
            std::thread::sleep(RECONNECT_EVERY);
        }
    }

    /// One connection, until it breaks (an error) or it is time to stop.
    fn session(&mut self, stop: &AtomicBool) -> Result<(), LibvirtError> {
        let connection = connect(&self.uri)?;
        self.connects += 1;
        let (to, events) = sync_channel(MAX_WAITING_EVENTS);
        // Registered before the first listing, so that nothing falls between the two.
        let _registration = Registration::new(&connection, &to)?;
        self.reconcile(&connection, &events)?;
        tracing::info!(uri = %self.uri, domains = self.known.len(), "libvirt connected");
        let mut reconciled = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if self.follow(&connection, &events)? {
                self.publish();
            }
            if !connection.is_alive()? {
                return Err(LibvirtError::Closed);
            }
            if reconciled.elapsed() >= RECONCILE_EVERY {
                self.reconcile(&connection, &events)?;
                reconciled = Instant::now();
            }
        }
        Ok(())
    }

    /// Waits for events and looks at the domains they name; whether anything changed.
    fn follow(
        &mut self,
        connection: &Connect,
        events: &Receiver<DomainEvent>,
    ) -> Result<bool, LibvirtError> {
        if self.pending.is_empty() {
            match events.recv_timeout(LOOK_EVERY) {
                Ok(event) => self.pending.push(event),
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                Err(RecvTimeoutError::Disconnected) => return Err(LibvirtError::Closed),
            }
        }
        let mut touched = BTreeMap::new();
        for event in self.pending.drain(..).chain(events.try_iter()) {
            let (started, ended) = touched.entry(event.uuid).or_insert((false, None));
            *started |= event.started;
            *ended = event.ended.or(*ended);
        }
        let mut changed = false;
        for (uuid, (started, ended)) in touched {
            let domain = match connection.lookup_domain_by_uuid_string(&uuid) {
                Ok(domain) => self.describe(&domain, started)?,
                Err(error) if is_gone(&error) => None,
                Err(error) => return Err(error.into()),
            };
            changed |= match domain {
                Some(domain) => self.keep(domain),
                None => {
                    let ended = ended.or_else(|| self.await_end(&uuid, events));
                    self.forget(&uuid, ended)
                }
            };
        }
        Ok(changed)
    }

    /// How the run of a domain ended that is gone. libvirt forgets a transient one before it says so, and an event
    /// before that one, or a look at all domains, has found it gone. What else is said meanwhile is kept.
    fn await_end(&mut self, uuid: &str, events: &Receiver<DomainEvent>) -> Option<Ended> {
        let domain = self.known.get(uuid)?;
        if domain.state == State::Off {
            return domain.ended;
        }
        let deadline = Instant::now() + END_WAIT;
        loop {
            let of_it = self.pending.iter().filter(|event| event.uuid == uuid);
            if let Some(ended) = of_it.filter_map(|event| event.ended).next_back() {
                return Some(ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.pending.push(events.recv_timeout(left).ok()?);
        }
    }

    fn reconcile(
        &mut self,
        connection: &Connect,
        events: &Receiver<DomainEvent>,
    ) -> Result<(), LibvirtError> {
        let mut found = BTreeMap::new();
        for domain in connection.list_all_domains(0)? {
            if let Some(domain) = self.describe(&domain, false)? {
                found.insert(Arc::clone(&domain.uuid), Arc::new(domain));
            }
        }
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|uuid| !found.contains_key(*uuid))
            .cloned()
            .collect();
        for uuid in gone {
            let ended = self.await_end(&uuid, events);
            self.forget(&uuid, ended);
        }
        (self.known, self.connected) = (found, true);
        self.reconciled = Some(Timestamp::now());
        self.publish();
        Ok(())
    }

    /// The domain is gone, perhaps by an event that said how its run ended; whether it was known.
    fn forget(&mut self, uuid: &str, ended: Option<Ended>) -> bool {
        let Some((uuid, domain)) = self.known.remove_entry(uuid) else {
            return false;
        };
        if self.ended.len() >= MAX_ENDED {
            // What was of use has been used: who was told has acted at once.
            self.ended.clear();
        }
        match ended.or(domain.ended) {
            Some(ended) => self.ended.insert(uuid, ended),
            None => self.ended.remove(&uuid),
        };
        true
    }

    fn keep(&mut self, domain: Domain) -> bool {
        let before = self.known.get(&domain.uuid);
        if before.is_some_and(|before| **before == domain) {
            return false;
        }
        self.known
            .insert(Arc::clone(&domain.uuid), Arc::new(domain));
        true
    }

    fn publish(&self) {
        self.out.send_replace(Arc::new(Domains {
            connected: self.connected,
            by_uuid: self.known.clone(),
            ended: self.ended.clone(),
            reconciled: self.reconciled,
            connects: self.connects,
            failures: self.failures,
        }));
    }

    /// The domain as it is now; `None` if it went away while being looked at.
    fn describe(
        &mut self,
        domain: &virt::domain::Domain,
        started: bool,
    ) -> Result<Option<Domain>, LibvirtError> {
        match self.try_describe(domain, started) {
            Err(LibvirtError::Call(error)) if is_gone(&error) => Ok(None),
            Err(LibvirtError::Xml(error)) => {
                tracing::warn!(domain = domain.name().unwrap_or_default(), %error, "unreadable domain XML");
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn try_describe(
        &mut self,
        domain: &virt::domain::Domain,
        started: bool,
    ) -> Result<Domain, LibvirtError> {
        let uuid: Arc<str> = domain.uuid_string()?.into();
        let text = domain.xml_desc(0)?;
        let (state, reason) = state(domain)?;
        let (id, xml) = (domain.id(), xml::read(&text, KPI_PORT)?);
        let residence = match self.known.get(&uuid) {
            Some(before) if !started && before.id == id => before.residence,
            _ => {
                self.residences += 1;
                self.residences
            }
        };
        Ok(Domain {
            name: domain.name()?.into(),
            metadata: metadata(domain)?.map(Arc::from),
            channel: xml.channel.filter(|_| state != State::Off),
            cid: xml.cid.filter(|_| state != State::Off),
            genid: xml.genid,
            interfaces: xml.interfaces,
            infos: xml.infos,
            uuid,
            ended: ended(state, reason),
            in_transit: state == State::Paused && TRANSIT.contains(&reason),
            state,
            residence,
            id,
        })
    }
}

/// What a domain does, and why: the number means another thing in each state; 0 where it is unknown.
pub(super) fn state(domain: &virt::domain::Domain) -> Result<(State, u32), Error> {
    let (state, reason) = domain.state()?;
    let reason = match Result::<DomainStateReason, _>::from(reason) {
        Ok(DomainStateReason::Paused(reason)) => reason.to_raw(),
        Ok(DomainStateReason::Shutoff(reason)) => reason.to_raw(),
        _ => 0,
    };
    Ok((State::from_raw(state.to_raw()), reason))
}

/// How the last run of a domain that is off ended (virDomainShutoffReason).
fn ended(state: State, reason: u32) -> Option<Ended> {
    match reason {
        _ if state != State::Off => None,
        virt_sys::VIR_DOMAIN_SHUTOFF_MIGRATED => Some(Ended::Migrated),
        virt_sys::VIR_DOMAIN_SHUTOFF_UNKNOWN => None,
        _ => Some(Ended::Stopped),
    }
}

pub(super) fn metadata(domain: &virt::domain::Domain) -> Result<Option<String>, Error> {
    let kind = virt_sys::VIR_DOMAIN_METADATA_ELEMENT;
    match domain.metadata(
        i32::try_from(kind).unwrap_or_default(),
        Some(METADATA_NAMESPACE),
        0,
    ) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.code().to_raw() == number(ErrorNumber::NoDomainMetadata) => Ok(None),
        Err(error) => Err(error),
    }
}

fn number(known: ErrorNumber) -> virt_sys::virErrorNumber {
    virt::error::ErrorNumberEnum::from(known).to_raw()
}
