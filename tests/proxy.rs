//! A network that can be cut: a TCP proxy on the loopback.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::thread::{sleep, spawn};
use std::time::Duration;

use anyhow::Result;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Weather {
    /// Everything gets through.
    Fine,
    /// Connections stand, and nothing gets through.
    Silent,
    /// Likewise, and in the end connections are reset: what was on its way is lost.
    Blackout,
    /// Connections are reset, and new ones at once.
    Cut,
    /// The proxy ends.
    Over,
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    weather: Arc<AtomicU8>,
    /// Ways of connections that stand.
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// Begins to pass connections on to `target`.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let weather = Arc::new(AtomicU8::new(Weather::Fine as u8));
        let connections = Arc::new(AtomicUsize::new(0));
        let of_thread = (Arc::clone(&weather), Arc::clone(&connections));
        spawn(move || accept(&listener, target, &of_thread));
        Ok(Self {
            address,
            weather,
            connections,
        })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        self.weather.store(weather as u8, Relaxed);
    }

    /// The weather is fine again.
    pub fn clear_up(&self) {
        if is(&self.weather, Weather::Blackout) {
            self.set(Weather::Cut);
            while self.connections.load(Relaxed) > 0 {
                sleep(Duration::from_millis(5));
            }
        }
        self.set(Weather::Fine);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Weather::Over);
    }
}

fn is(weather: &AtomicU8, which: Weather) -> bool {
    weather.load(Relaxed) == which as u8
}

fn ends(weather: &AtomicU8) -> bool {
    is(weather, Weather::Cut) || is(weather, Weather::Over)
}

fn accept(
    listener: &TcpListener,
    target: SocketAddr,
    (weather, connections): &(Arc<AtomicU8>, Arc<AtomicUsize>),
) {
    while !is(weather, Weather::Over) {
        let Ok((near, _)) = listener.accept() else {
            sleep(Duration::from_millis(5));
            continue;
        };
        if ends(weather) {
            continue;
        }
        let Ok(far) = TcpStream::connect(target) else {
            continue;
        };
        if let (Ok(near2), Ok(far2)) = (near.try_clone(), far.try_clone()) {
            for (from, to) in [(near, far), (far2, near2)] {
                let (weather, connections) = (Arc::clone(weather), Arc::clone(connections));
                connections.fetch_add(1, Relaxed);
                spawn(move || {
                    pass(from, to, &weather);
                    connections.fetch_sub(1, Relaxed);
                });
            }
        }
    }
}

/// Passes bytes on, one way, until the connection ends.
#[allow(
    clippy::needless_pass_by_value,
    reason = "the streams end with their thread"
)]
fn pass(mut from: TcpStream, mut to: TcpStream, weather: &AtomicU8) {
    let mut chunk = vec![0; 1 << 16];
    let _ = from.set_nonblocking(false);
    let _ = from.set_read_timeout(Some(Duration::from_millis(50)));
    let _ = to.set_nodelay(true);
    // Who is stopped reads nothing; the proxy must end all the same.
    let _ = to.set_write_timeout(Some(Duration::from_secs(5)));
    while !ends(weather) {
        if is(weather, Weather::Silent) || is(weather, Weather::Blackout) {
            sleep(Duration::from_millis(10));
            continue;
        }
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) if to.write_all(&chunk[..count]).is_ok() => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
