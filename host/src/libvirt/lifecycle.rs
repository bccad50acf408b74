//! What happens to domains, as it happens: for who must not wait until the follower has looked. A thread with a read-only
//! connection of its own hands on each lifecycle event, and says what it finds when it connects and every
//! [`RECONCILE_EVERY`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use virt::connect::Connect;

use super::events::{DomainEvent, Registration};
use super::follower::{TRANSIT, state};
use super::{LibvirtError, RECONCILE_EVERY, RECONNECT_EVERY, State, connect, is_gone};

/// How many events may wait; more are lost, and found by the next look.
const MAX_WAITING_EVENTS: usize = 10_000;

/// How often to see whether the connection lives and whether to stop.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a domain was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It boots.
    Booted,
    /// It comes from another host, and does not run yet.
    Migrated,
    /// From a file or a snapshot.
    Restored,
    /// From a sleep in memory: it was there all the time.
    Woken,
}

/// What happened to a domain (virDomainEventType and its details), as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It has a process now.
    Started(Start),
    /// Its processors have stopped.
    Suspended {
        /// As it is migrated.
        migrated: bool,
    },
    /// Its processors run again, or for the first time.
    Resumed {
        /// After a migration, or one that failed.
        migrated: bool,
    },
    /// It has no process any more.
    Stopped,
    /// Anything else, and what later versions of libvirt say.
    Other,
}

impl Lifecycle {
    /// Of libvirt's numbers.
    pub fn of(event: i32, detail: i32) -> Self {
        use virt_sys as sys;
        let (Ok(event), Ok(detail)) = (u32::try_from(event), u32::try_from(detail)) else {
            return Self::Other;
        };
        match event {
            sys::VIR_DOMAIN_EVENT_STARTED => Self::Started(match detail {
                sys::VIR_DOMAIN_EVENT_STARTED_MIGRATED => Start::Migrated,
                sys::VIR_DOMAIN_EVENT_STARTED_RESTORED
                | sys::VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT => Start::Restored,
                sys::VIR_DOMAIN_EVENT_STARTED_WAKEUP => Start::Woken,
                _ => Start::Booted,
            }),
            sys::VIR_DOMAIN_EVENT_SUSPENDED => Self::Suspended {
                migrated: detail == sys::VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED,
            },
            sys::VIR_DOMAIN_EVENT_RESUMED => Self::Resumed {
                migrated: detail == sys::VIR_DOMAIN_EVENT_RESUMED_MIGRATED,
            },
            sys::VIR_DOMAIN_EVENT_STOPPED => Self::Stopped,
            _ => Self::Other,
        }
    }
}

/// Where a domain is, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It runs on this host, or is paused here.
    Here,
    /// It is paused as it is migrated, from here or to here.
    InTransit,
    /// It does not run here.
    Gone,
}

impl Found {
    pub(super) fn of(domain: &virt::domain::Domain) -> Result<Self, virt::error::Error> {
        match state(domain) {
            Ok((State::Off, _)) => Ok(Self::Gone),
            Ok((State::Paused, reason)) if TRANSIT.contains(&reason) => Ok(Self::InTransit),
            Ok(_) => Ok(Self::Here),
            Err(error) if is_gone(&error) => Ok(Self::Gone),
            Err(error) => Err(error),
        }
    }
}

/// A domain by its UUID, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its UUID.
    pub uuid: Arc<str>,
    /// Its name on this host.
    pub name: Arc<str>,
    /// The id libvirt gave this run: another one, and it was started in between.
    pub id: Option<u32>,
    /// Where it is.
    pub found: Found,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something happened to a domain, by its UUID and its name.
    Event(Arc<str>, Arc<str>, Lifecycle),
    /// All domains there are.
    All {
        /// The domains.
        domains: Vec<Seen>,
        /// Whether events may have been missed before it.
        anew: bool,
    },
}

/// Starts to tell `tell`, until it says that nobody listens, or `stop`.
///
/// # Errors
/// No thread could be started.
pub fn start(
    uri: &str,
    stop: &Arc<AtomicBool>,
    tell: impl Fn(Told) -> bool + Send + 'static,
) -> std::io::Result<()> {
    let (uri, stop) = (uri.to_owned(), Arc::clone(stop));
    let run = move || {
        // The follower says that libvirt does not answer; once is enough.
        while !stop.load(Ordering::Relaxed) && session(&uri, &stop, &tell).is_err() {
            std::thread::sleep(RECONNECT_EVERY);
        }
    };
    let thread = std::thread::Builder::new().name("libvirt-events".into());
    thread.spawn(run).map(drop)
}

/// One connection, until it breaks (an error) or nobody listens.
fn session(uri: &str, stop: &AtomicBool, tell: &dyn Fn(Told) -> bool) -> Result<(), LibvirtError> {
    let connection = connect(uri)?;
    let (to, events) = sync_channel(MAX_WAITING_EVENTS);
    let _registration = Registration::new(&connection, &to)?;
    let mut reconciled = Instant::now();
    let mut listens = tell(look(&connection, true)?);
    while listens && !stop.load(Ordering::Relaxed) {
        listens = hand_on(&events, tell)?;
        if !connection.is_alive()? {
            return Err(LibvirtError::Closed);
        }
        if reconciled.elapsed() >= RECONCILE_EVERY {
            listens &= tell(look(&connection, false)?);
            reconciled = Instant::now();
        }
    }
    Ok(())
}

/// Waits for events, and hands them on; whether somebody listens.
fn hand_on(
    events: &Receiver<DomainEvent>,
    tell: &dyn Fn(Told) -> bool,
) -> Result<bool, LibvirtError> {
    let first = match events.recv_timeout(LOOK_EVERY) {
        Ok(first) => first,
        Err(RecvTimeoutError::Timeout) => return Ok(true),
        Err(RecvTimeoutError::Disconnected) => return Err(LibvirtError::Closed),
    };
    let mut listens = true;
    for event in std::iter::once(first).chain(events.try_iter()) {
        if let Some(lifecycle) = event.lifecycle {
            let told = Told::Event(event.uuid.into(), event.name.into(), lifecycle);
            listens &= tell(told);
        }
    }
    Ok(listens)
}

fn look(connection: &Connect, anew: bool) -> Result<Told, LibvirtError> {
    let mut domains = Vec::new();
    for domain in connection.list_all_domains(0)? {
        let seen = Found::of(&domain).and_then(|found| {
            let (uuid, name) = (domain.uuid_string()?.into(), domain.name()?.into());
            Ok(Seen {
                uuid,
                name,
                id: domain.id(),
                found,
            })
        });
        match seen {
            Ok(seen) => domains.push(seen),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Told::All { domains, anew })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_libvirt_numbers_them_and_unknown_ones_say_nothing() {
        for (event, detail, due) in [
            (2, 0, Lifecycle::Started(Start::Booted)),
            (2, 1, Lifecycle::Started(Start::Migrated)),
            (2, 2, Lifecycle::Started(Start::Restored)),
            (2, 3, Lifecycle::Started(Start::Restored)),
            (2, 4, Lifecycle::Started(Start::Woken)),
            (2, 99, Lifecycle::Started(Start::Booted)),
            (3, 1, Lifecycle::Suspended { migrated: true }),
            (3, 0, Lifecycle::Suspended { migrated: false }),
            (4, 1, Lifecycle::Resumed { migrated: true }),
            (4, 0, Lifecycle::Resumed { migrated: false }),
            (5, 3, Lifecycle::Stopped),
            (5, 5, Lifecycle::Stopped),
            (0, 0, Lifecycle::Other),
            (1, 0, Lifecycle::Other),
            (99, 0, Lifecycle::Other),
            (-1, -1, Lifecycle::Other),
        ] {
            assert_eq!(Lifecycle::of(event, detail), due, "{event}/{detail}");
        }
    }
}
