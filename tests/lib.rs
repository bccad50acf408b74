//! What the end-to-end tests share: the programs under test and real neighbours, each in a folder of
//! its own and on a port of its own, and none of them left when a test ends, however it ends.
//!
//! The programs are taken from `VMKPI_BIN_DIR`, or from where cargo builds them.
//!
//! | module | job |
//! | --- | --- |
//! | [`process`] | child processes that end with the test |
//! | [`scratch`] | folders, mounts and ports |
//! | [`admitted`] | a broker as vmkpi configures it, and who is let in |
//! | [`chain`] | broker, guest, host and watcher, together |
//! | [`away`] | a guest that goes from host to host over a network |
//! | [`browser`] | a real browser, headless |
//! | [`asking`] | `vmkpi query`, and questions made by hand |
//! | [`collector`] | `vmkpi collect`, and its database as the judge |
//! | [`network`], [`sites`] | networks that can be cut, and a chain of three sites in them |
//! | [`document`], [`invocation`], [`shell`] | the documentation: its pages, the commands in them, and a shell that runs them |
//! | [`ledger`] | the judge: what was stored arrived, once |
//! | [`hostile`] | a broker that does what none may |
//! | [`lab`] | a real virtual machine below a real libvirtd |
//! | [`pki`] | certificates |
//! | [`programs`] | how each program is started |
//! | [`mqtt`], [`proxy`] | a subscriber that keeps everything, a network that can be cut |
//! | [`seed`], [`faketime`] | random numbers that come again, clocks that can be set |
//! | [`soak`] | whatever may go wrong, at random |
//! | [`schema`] | the JSON Schemas |

pub mod admitted;
pub mod asking;
pub mod away;
pub mod browser;
pub mod chain;
pub mod collector;
pub mod document;
#[path = "../guest/tests/common/faketime.rs"]
pub mod faketime;
pub mod hostile;
pub mod invocation;
pub mod lab;
pub mod ledger;
pub mod mqtt;
pub mod network;
pub mod pki;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod schema;
pub mod scratch;
#[path = "../guest/tests/common/seed.rs"]
pub mod seed;
pub mod shell;
pub mod sites;
pub mod soak;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};

/// How long after `begin` a daemon's log first has a line with these words.
pub fn said_since(log: &std::path::Path, words: &str, begin: SystemTime) -> Option<Duration> {
    let text = std::fs::read_to_string(log).ok()?;
    let since = |line: &str| -> Option<Duration> {
        let time: vmkpi::clock::Timestamp = line.split_once(' ')?.0.parse().ok()?;
        let time = Duration::from_micros(u64::try_from(time.as_micros()).ok()?);
        (SystemTime::UNIX_EPOCH + time).duration_since(begin).ok()
    };
    let lines = text.lines().filter(|line| line.contains(words));
    lines.filter_map(since).next()
}

/// Waits until `ready` says what it found.
///
/// # Errors
/// `seconds` are over.
pub fn wait_for<T>(seconds: u64, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = ready() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited {seconds} s for {what} in vain");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
