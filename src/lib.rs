//! What guest, host and site of vmkpi agree on. No I/O lives here, but for what a feature brings: every
//! module takes values and a clock reading and returns values, so that each rule can be tested without a
//! machine around it.
//!
//! | module | job |
//! | --- | --- |
//! | [`name`] | names that are legal everywhere: KPI names, data points, patterns, topic levels |
//! | [`value`] | typed values, from CSV text to SQLite to JSON |
//! | [`position`] | streams, row keys, positions, rows |
//! | [`clock`] | timestamps in microseconds and their RFC 3339 form |
//! | [`link`] | the guest-to-host protocol: messages, bounded line codec, URLs |
//! | [`descriptor`] | the VM descriptor: one model, one validator, several spellings |
//! | [`delivery`] | how a row arrives exactly once: windows, coverage, acknowledgement |
//! | `broker` | where a broker is and how to be let in (feature `broker`; it reads the files that are named) |
//! | [`message`] | the published message: topics and CloudEvents |
//! | `seal` | making the envelope that only the owner opens (feature `seal`; it takes random bytes of the kernel) |
//! | [`when`] | predicates: which samples are delivered |

#[cfg(feature = "broker")]
pub mod broker;
pub mod clock;
pub mod delivery;
pub mod descriptor;
pub mod link;
pub mod message;
pub mod name;
pub mod position;
#[cfg(feature = "seal")]
pub mod seal;
mod text;
pub mod value;
pub mod when;
