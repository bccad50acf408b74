//! vmkpi's guest side. An application writes a file; each close becomes one row on disk before it
//! returns; the rows leave the machine over the link, as often as it takes until they are acknowledged.
//!
//! ```text
//! application ── write(2) ──> fuse ──> fs ──> store ──> feed ──> link ──> host
//!                            kernel   names   SQLite             unix:, virtio-serial:, tls:
//!                            adapter  handles group commit
//! ```
//!
//! | module | room |
//! | --- | --- |
//! | [`fuse`] | the thin adapter to the kernel: decodes, calls, replies |
//! | [`fs`] | the file system behind it, which knows no FUSE type |
//! | [`csv`] | one or two records, typed |
//! | [`store`] | two databases and their one writer |
//! | [`feed`] | from the writer to the link |
//! | [`link`] | sessions with the host |
//! | [`context`] | the context partition: layers, and what they say that the program goes by |
//! | [`protection`] | what is not delivered from everywhere |
//! | [`mount`] | taking over, mounting, unmounting |
//! | [`daemon`] | the whole program, from start to signal |
//! | [`status`] | what it says about itself |
//! | [`cli`], [`settings`] | what it is told: flags, environment, file |
//! | [`poller`] | commands whose output is stored |
//! | [`sealing`] | encrypting for the owner |
//! | [`logging`] | what is not worth a line in the log |
//! | [`config`], [`counters`] | the limits, the counts |

pub mod cli;
mod complaint;
pub mod config;
pub mod context;
pub mod counters;
pub mod csv;
pub mod daemon;
pub mod feed;
pub mod fs;
pub mod fuse;
pub mod link;
pub mod logging;
pub mod mount;
pub mod poller;
pub mod protection;
pub mod sealing;
pub mod settings;
pub mod status;
pub mod store;
