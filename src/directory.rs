//! The Directory Service of the Grid Monitoring Architecture (GGF GWD-GP-16-3): where Producers and
//! Consumers say that they are there, and find each other. It lives in the broker, as retained messages; each is
//! a *lease*, which ends by itself unless it is renewed (docs/DIRECTORY.md). It informs, and authorises nothing.
//!
//! ```text
//! vmkpi/v1/SITE/directory/producer/VM        signed by the key of the site that has the VM
//! vmkpi/v1/SITE/directory/consumer/CONSUMER  signed by the Consumer's own key
//! {"site","vm" or "consumer","issued","expires_at","data":{...},"signature"}
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | [`entry`] | what an entry says |
//! | `wire` | how it is written, signed and read |
//! | [`known`] | what a reader knows: takes messages, refuses what does not count, finds |
//! | [`registrar`] | a Consumer's own entries: when which is to be said |
//!
//! ```text
//!          a lease               renewed, each third of it
//! unknown ────────> live <───────────────────┐
//!                    │ └─────────────────────┘
//!                    ├── its time is over ──> expired ── a newer lease ──> live
//!                    └── a farewell ────────> left ───── a newer lease ──> live
//! ```

pub mod entry;
pub mod known;
pub mod registrar;
mod wire;

#[cfg(test)]
mod tests;

pub use entry::{
    Confirmer, ConsumerEntry, Entry, Lease, ProducerEntry, Role, Side, Specifier, Subject, Take,
    Term,
};
pub use known::{Directory, Heard, Query, Refused, Standing};
pub use registrar::Registrar;
pub use wire::{check, encode};

/// The longest lease, in seconds: what is replayed after that time has expired.
pub const MAX_LEASE_SECONDS: u64 = 3600;
/// The shortest lease, in seconds: it is renewed each second then.
pub const MIN_LEASE_SECONDS: u64 = 3;
/// How long a lease is unless somebody says otherwise, in seconds.
pub const DEFAULT_LEASE_SECONDS: u64 = 60;
/// How far ahead of the reader's clock a lease may have been issued, in seconds.
pub const MAX_AHEAD_SECONDS: u64 = 60;
/// The most data points that a Producer's lease lists; how many more there are, it says.
pub const MAX_POINTS: usize = 256;
/// The same, in bytes.
pub const MAX_POINTS_BYTES: usize = 64 << 10;
/// The most specifiers of one VM, as of a descriptor.
pub const MAX_SPECIFIERS: usize = crate::descriptor::MAX_MONITORS;
/// The most wishes of a Consumer.
pub const MAX_TAKES: usize = 64;
/// The largest lease that is looked at, in bytes: above what the most points and specifiers with the longest names take.
pub const MAX_BYTES: usize = 256 << 10;
/// The most entries of either side that a reader remembers.
pub const MAX_ENTRIES: usize = 100_000;

/// So many seconds after `now`.
pub(crate) fn after(now: crate::clock::Timestamp, seconds: f64) -> crate::clock::Timestamp {
    let micros = (seconds * 1e6) as i64;
    crate::clock::Timestamp::from_micros(now.as_micros().saturating_add(micros))
}
