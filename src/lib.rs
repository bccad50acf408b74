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
//! | [`context`] | classes of context, their labels and limits |
//! | [`iso9660`] | images of contexts, written and read |
//! | [`descriptor`] | the VM descriptor: one model, one validator, several spellings |
//! | [`delivery`] | how a row arrives exactly once: windows, coverage, acknowledgement |
//! | `broker` | where a broker is and how to be let in (feature `broker`; it reads the files that are named) |
//! | `open` | opening envelopes with the owner's private key (feature `open`) |
//! | `key_file` | files of keys, certificates and passwords, read with care (features `open`, `sign`, `tls`) |
//! | `tls` | TLS over a socket, and the certificates of the link's two ends (feature `tls`) |
//! | [`topic`] | the topic tree: its branches, who speaks on them and which way they go |
//! | [`message`] | the published message, a CloudEvent |
//! | `seal` | making the envelope that only the owner opens (feature `seal`; it takes random bytes of the kernel) |
//! | `sign` | who said it: detached signatures over messages and confirmations (feature `sign`) |
//! | `confirm` | what a Consumer says of what it has on disk, signed (feature `sign`) |
//! | `directory` | who delivers and who takes: leases of Producers and Consumers, signed (feature `sign`) |
//! | `query` | history on demand: the question, signed by who asks, and the answer, by the site (feature `sign`) |
//! | `web` | a small web server for `/metrics` and questions (feature `web`) |
//! | [`when`] | predicates: which samples are delivered |
//!
//! What the two daemons do alike, each for itself, is here too, behind the feature `daemon`. It reads files and
//! the environment:
//!
//! | module | job |
//! | --- | --- |
//! | `settings` | configuration from file, environment and flags, from one catalogue |
//! | `logging` | the log, for people and for the journal |
//! | `notify` | the service manager: sd_notify(3) |
//! | `terminal` | ages, sizes and sentences in 80 columns |
//!
//! The site's command itself is `command` (feature `command`). It is here, and not in the program, so that its manual
//! pages and completions can be made of what it really takes.

// The command is written as one more user of this library.
#[cfg(feature = "command")]
extern crate self as vmkpi;

#[cfg(feature = "broker")]
pub mod broker;
pub mod clock;
#[cfg(feature = "command")]
pub mod command;
#[cfg(feature = "sign")]
pub mod confirm;
pub mod context;
pub mod delivery;
pub mod descriptor;
#[cfg(feature = "sign")]
pub mod directory;
#[cfg(feature = "seal")]
mod envelope;
pub mod iso9660;
#[cfg(any(feature = "tls", feature = "open", feature = "sign"))]
pub mod key_file;
pub mod link;
#[cfg(feature = "daemon")]
pub mod logging;
pub mod message;
pub mod name;
#[cfg(feature = "daemon")]
pub mod notify;
#[cfg(feature = "open")]
pub mod open;
pub mod position;
#[cfg(feature = "sign")]
pub mod query;
mod rsa_key;
#[cfg(feature = "seal")]
pub mod seal;
#[cfg(feature = "daemon")]
pub mod settings;
#[cfg(feature = "sign")]
pub mod sign;
#[cfg(feature = "sign")]
mod spoken;
#[cfg(feature = "daemon")]
pub mod terminal;
mod text;
#[cfg(feature = "tls")]
pub mod tls;
pub mod topic;
pub mod value;
#[cfg(feature = "web")]
pub mod web;
pub mod when;
