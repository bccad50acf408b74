//! The addresses of a name, asked for in a thread: the system's resolver takes its time, and cannot be told to stop.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Names asked for at a time; whoever gave up waiting leaves a thread behind until the resolver does, too.
const MAX_ASKED: usize = 4;

/// Addresses that are tried of one name.
const MAX_ADDRESSES: usize = 8;

static ASKED: AtomicUsize = AtomicUsize::new(0);

/// A name whose addresses are on their way.
pub struct Resolving {
    bell: Arc<EventFd>,
    answer: Receiver<io::Result<VecDeque<SocketAddr>>>,
}

impl Resolving {
    /// Asks.
    ///
    /// # Errors
    /// The resolver hangs, or the system has no descriptor or thread left.
    pub fn start(host: &str, port: u16) -> io::Result<Self> {
        if ASKED.fetch_add(1, Ordering::AcqRel) >= MAX_ASKED {
            ASKED.fetch_sub(1, Ordering::AcqRel);
            return Err(io::Error::other(
                "the system's resolver does not answer: see to its name servers, or write an address in place of the name",
            ));
        }
        let started = Self::ask(host.to_owned(), port);
        if started.is_err() {
            ASKED.fetch_sub(1, Ordering::AcqRel);
        }
        started
    }

    fn ask(host: String, port: u16) -> io::Result<Self> {
        let bell = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let (tell, answer) = channel();
        let ringing = Arc::clone(&bell);
        std::thread::Builder::new()
            .name("resolve".into())
            .spawn(move || {
                let found = (host.as_str(), port).to_socket_addrs();
                let found = found.map(|all| all.take(MAX_ADDRESSES).collect());
                ASKED.fetch_sub(1, Ordering::AcqRel);
                // Whoever asked may have given up.
                let _ = tell.send(found);
                let _ = ringing.write(1);
            })?;
        Ok(Self { bell, answer })
    }

    /// The addresses, if they have come.
    ///
    /// # Errors
    /// The name has none.
    pub fn answer(&self) -> io::Result<Option<VecDeque<SocketAddr>>> {
        match self.answer.try_recv() {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(error)) => Err(io::Error::other(format!(
                "its name has no address: {error}"
            ))),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(io::Error::other("the resolver has failed")),
        }
    }
}

impl AsFd for Resolving {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
