//! The service manager's side of a service: sd_notify(3), a datagram to the socket that `NOTIFY_SOCKET`
//! names, and its watchdog. Without a manager nothing is sent. A manager that does not read holds nobody up: what has
//! to be told is waited for a while, the rest is dropped.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells the service manager how the program is.
#[derive(Debug, Default)]
pub struct Notifier {
    sockets: Option<Sockets>,
    watchdog: Option<Duration>,
}

/// How long a manager may take to read what has to be told.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Sockets {
    to: SocketAddr,
    /// Waits until the manager reads, for [`PATIENCE`].
    patient: UnixDatagram,
    /// Does not wait.
    hasty: UnixDatagram,
}

impl Sockets {
    fn to(to: SocketAddr) -> io::Result<Self> {
        let (patient, hasty) = (UnixDatagram::unbound()?, UnixDatagram::unbound()?);
        patient.set_write_timeout(Some(PATIENCE))?;
        hasty.set_nonblocking(true)?;
        Ok(Self { to, patient, hasty })
    }

    fn send(&self, by: &UnixDatagram, text: &str) -> io::Result<()> {
        by.send_to_addr(text.as_bytes(), &self.to).map(drop)
    }
}

impl Notifier {
    /// The manager that the environment names.
    pub fn from_environment() -> Self {
        let var = |name| std::env::var(name).ok();
        let address = var("NOTIFY_SOCKET").and_then(|path| address(&path));
        let sockets = address.and_then(|to| Sockets::to(to).ok());
        let watchdog = watchdog(
            var("WATCHDOG_USEC").as_deref(),
            var("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        Self {
            watchdog: watchdog.filter(|_| sockets.is_some()),
            sockets,
        }
    }

    /// How often the manager wants to hear that the program is alive.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The program does what it is there for.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The program reads its configuration anew, and is ready when it says so again. The manager
    /// takes it for the answer to its own request by `monotonic`, the time of CLOCK_MONOTONIC.
    pub fn reloading(&self, monotonic: Duration) {
        let usec = monotonic.as_micros();
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=reading the configuration anew"
        ));
    }

    /// How the program fares, in a line for people.
    pub fn status(&self, status: &str) {
        self.hint(&format!("STATUS={status}"));
    }

    /// The program is going down.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=going down");
    }

    /// The program is alive.
    pub fn alive(&self) {
        self.hint("WATCHDOG=1");
    }

    /// What has to be told.
    fn send(&self, text: &str) {
        if let Some(sockets) = &self.sockets
            && let Err(error) = sockets.send(&sockets.patient, text)
        {
            tracing::warn!(%error, "the service manager cannot be told: {text}");
        }
    }

    /// What is told again soon, or is of no use any more.
    fn hint(&self, text: &str) {
        if let Some(sockets) = &self.sockets
            && let Err(error) = sockets.send(&sockets.hasty, text)
        {
            tracing::debug!(%error, "the service manager is not told: {text}");
        }
    }
}

/// A path, or an abstract name after an `@`.
fn address(path: &str) -> Option<SocketAddr> {
    match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None if path.starts_with('/') => SocketAddr::from_pathname(path).ok(),
        None => None,
    }
}

/// Half the watchdog's time, as sd_watchdog_enabled(3) advises, if it is this process that is watched.
fn watchdog(usec: Option<&str>, pid: Option<&str>, me: u32) -> Option<Duration> {
    let mine = pid.is_none_or(|pid| pid.parse() == Ok(me));
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    mine.then(|| Duration::from_micros(usec) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up_for_long() {
        let name = format!("vmkpi-notify-{}", std::process::id());
        let to = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&to).unwrap();
        let sockets = Sockets::to(to).unwrap();
        let hasty = || sockets.send(&sockets.hasty, "x");
        let full = (0..10_000).find_map(|_| hasty().err());
        assert_eq!(full.map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        let begun = std::time::Instant::now();
        sockets.send(&sockets.patient, "x").unwrap_err();
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() < 10 * PATIENCE);
        manager.recv(&mut [0; 64]).unwrap();
        sockets.send(&sockets.patient, "x").unwrap();
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_and_only_by_the_process_it_watches() {
        assert_eq!(
            watchdog(Some("2000000"), None, 7),
            Some(Duration::from_secs(1))
        );
        assert_eq!(
            watchdog(Some("2000000"), Some("7"), 7),
            Some(Duration::from_secs(1))
        );
        assert_eq!(watchdog(Some("2000000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("0"), None, 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }

    #[test]
    fn an_address_is_a_path_or_an_abstract_name() {
        assert!(address("/run/systemd/notify").is_some_and(|a| a.as_pathname().is_some()));
        assert!(address("@notify").is_some_and(|a| a.as_abstract_name() == Some(b"notify")));
        assert!(address("vsock:2:1234").is_none());
    }
}
