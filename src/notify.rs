//! The service manager's side of a service: sd_notify(3), a datagram to the socket that `NOTIFY_SOCKET`
//! names, and its watchdog. Without a manager nothing is sent.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells the service manager how the program is.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The manager that the environment names.
    pub fn from_environment() -> Self {
        let var = |name| std::env::var(name).ok();
        let address = var("NOTIFY_SOCKET").and_then(|path| address(&path));
        let socket = address.and_then(|to| Some((UnixDatagram::unbound().ok()?, to)));
        let watchdog = watchdog(
            var("WATCHDOG_USEC").as_deref(),
            var("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        Self {
            watchdog: watchdog.filter(|_| socket.is_some()),
            socket,
        }
    }

    /// How often the manager wants to hear that the program is alive.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The program does what it is there for.
    ///
    /// # Errors
    /// The manager cannot be told; likewise below.
    pub fn ready(&self, status: &str) -> io::Result<()> {
        self.send(&format!("READY=1\nSTATUS={status}"))
    }

    /// The program reads its configuration anew, and is ready when it says so again. The manager
    /// takes it for the answer to its own request by `monotonic`, the time of CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// The manager cannot be told.
    pub fn reloading(&self, monotonic: Duration) -> io::Result<()> {
        let usec = monotonic.as_micros();
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=reading the configuration anew"
        ))
    }

    /// How the program fares, in a line for people.
    ///
    /// # Errors
    /// The manager cannot be told.
    pub fn status(&self, status: &str) -> io::Result<()> {
        self.send(&format!("STATUS={status}"))
    }

    /// The program is going down.
    ///
    /// # Errors
    /// The manager cannot be told.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1\nSTATUS=going down")
    }

    /// The program is alive.
    ///
    /// # Errors
    /// The manager cannot be told.
    pub fn alive(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    fn send(&self, text: &str) -> io::Result<()> {
        match &self.socket {
            Some((socket, to)) => socket.send_to_addr(text.as_bytes(), to).map(drop),
            None => Ok(()),
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
