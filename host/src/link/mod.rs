//! The link to one guest, from the host's end: connect, or let it connect, read lines, write lines, and bear whatever
//! the guest sends. A guest costs bounded memory, a bounded rate, and never another VM's time.
//!
//! | module | job |
//! | --- | --- |
//! | [`client`] | one line to one guest, as something to be polled |
//! | [`links`] | the two lines that a VM may have, and which of them is spoken on |
//! | [`door`] | where guests come in from a network, each with the certificate of its VM |
//! | [`stream`] | what carries the bytes |
//! | [`history`] | rows of an earlier time |
//!
//! ```text
//!          connect()          next(): a message
//!  (down) ──────────> up ────────────────────────┐
//!    ^                │ <────────────────────────┘
//!    └── backoff ─────┴─ end of file, I/O error, too many bad lines, guest does not read
//! ```

mod client;
mod door;
mod history;
mod links;
mod stream;

use std::fmt;
use std::path::PathBuf;

use vmkpi::tls::VmName;

pub use client::{Client, Event, Limits};
pub use door::{Door, Expected, Refusal, listen};
pub use history::{Ask, Histories, HistoryClient, HistoryError};
pub use links::Links;

/// Why a session ended, or a line was refused: the `reason` of `vmkpi_link_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The socket could not be connected to.
    Connect,
    /// The other end closed, or reading or writing failed.
    Closed,
    /// A line that is no message.
    Malformed,
    /// A line over the limit.
    TooLong,
    /// A line of another session.
    Stale,
    /// A line that the producer found impossible.
    Impossible,
    /// Over its budget of bad lines: disconnected for a while.
    Banned,
    /// The guest does not read what it is sent.
    Deaf,
    /// The guest has connected once more, and the newest connection counts.
    Replaced,
}

impl Fault {
    /// Every fault, in the order of the exporter.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Closed,
        Self::Malformed,
        Self::TooLong,
        Self::Stale,
        Self::Impossible,
        Self::Banned,
        Self::Deaf,
        Self::Replaced,
    ];

    /// Its name in the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Stale => "stale",
            Self::Impossible => "impossible",
            Self::Banned => "banned",
            Self::Deaf => "deaf",
            Self::Replaced => "replaced",
        }
    }
}

/// Where a VM's link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect to.
    pub address: Address,
    /// Whether the stream may begin in the middle of a line: it does on virtio-serial, which has no
    /// connections.
    pub joining: bool,
}

/// What a link's socket is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The Unix socket that the guest, or QEMU for it, listens on.
    Unix(PathBuf),
    /// A port of the guest, by the context id that libvirt assigned to its domain.
    Vsock {
        /// The guest's context id.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// Wherever the guest comes from, over a network, with the certificate of this VM.
    Tls(VmName),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Tls(name) => write!(f, "tls, with the certificate of {name}"),
        }
    }
}
