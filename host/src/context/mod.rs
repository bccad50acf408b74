//! The recontextualizer: sees to it that each VM that runs here has, in a CD-ROM drive for each class, what the templates
//! of this host say for it (Armstrong, Espling, Tordsson, Djemame, Elmroth: "Runtime Virtual Machine Recontextualization
//! for Clouds", 2013). When a VM starts that is contextualization, when it arrives by live migration recontextualization;
//! the path is the same.
//!
//! ```text
//! libvirt's events ─┐                                   ┌─> worker ── resolve, detach, prepare, attach
//! folders, each 1 s ┼─> recontextualizer ── operations ─┼─> worker ── over a connection of its own
//! descriptors ──────┤   a machine for each VM (pure)    └─> ...
//! the operator ─────┘          ^                                │
//!                              └──────────── reports ───────────┘
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | [`machine`] | what is to be done for a VM, and when: the state machine |
//! | [`templates`], [`render`] | what a class offers, and what becomes of it for a VM |
//! | [`images`] | the images on disk |
//! | [`work`] | one operation |
//! | `pool` | who does it: threads, bounded, which may hang |
//! | `recontextualizer` | the thread that has the machines |
//! | `requests` | operators who wait for an answer |
//! | [`status`] | what has been done |

pub mod images;
pub mod machine;
mod pool;
mod recontextualizer;
pub mod render;
mod requests;
pub mod status;
pub mod templates;
pub mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use vmkpi::descriptor::Descriptor;

use crate::libvirt::lifecycle::{self, Told};
use images::Images;
pub use requests::{Answer, Ask, OfClass};
use status::Status;
use templates::{Contents, Looker, Problem};
use work::Report;

/// How often the folders are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What may wait for the recontextualizer; who has more waits.
const MAX_INPUTS: usize = 4096;

/// How another medium comes into a drive that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Swap {
    /// It is exchanged.
    #[default]
    Media,
    /// The drive is detached and attached again with it, as some hypervisors need it; where it can be.
    Device,
}

impl Swap {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Media => "media",
            Self::Device => "device",
        }
    }
}

impl FromStr for Swap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Media, Self::Device];
        let found = all.into_iter().find(|swap| swap.as_str() == text);
        found.ok_or_else(|| format!("{text:?}: write \"media\" or \"device\""))
    }
}

/// What may change while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tuning {
    /// How a medium is exchanged.
    pub swap: Swap,
    /// Whether a medium is taken from a guest that holds it.
    pub force: bool,
}

/// What to run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder of classes.
    pub directory: PathBuf,
    /// Where images are kept.
    pub images: PathBuf,
    /// What may change.
    pub tuning: Tuning,
}

/// The descriptors that are known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Those in force, by UUID.
    pub in_force: BTreeMap<Arc<str>, Arc<Descriptor>>,
    /// Those of files, by domain name or UUID: for VMs that have just come.
    pub by_name: BTreeMap<String, Arc<Descriptor>>,
}

/// What the recontextualizer hears.
#[derive(Debug)]
enum Input {
    Told(Told),
    Contents(Result<Contents, Vec<Problem>>),
    Known(Arc<Known>),
    Tuning(Tuning),
    Ask(Ask),
    Finished(usize, Box<Report>),
}

/// The running recontextualizer. It ends soon after this is dropped; what is in drives stays there.
#[derive(Debug)]
pub struct Recontextualizer {
    /// What it has done.
    pub status: Arc<Status>,
    inputs: SyncSender<Input>,
    stop: Arc<AtomicBool>,
    known: Arc<Known>,
}

impl Recontextualizer {
    /// Starts it.
    ///
    /// # Errors
    /// The folders are not as they should be, images cannot be kept, or a thread cannot be started.
    pub fn start(uri: &str, config: &Config) -> anyhow::Result<Self> {
        let mut looker = Looker::default();
        let first = looker
            .look(&config.directory)
            .unwrap_or_else(|| Ok(Contents::new()));
        let contents = first.map_err(|problems| anyhow::anyhow!(in_lines(&problems)))?;
        let images = Images::open(&config.images).context("context.images")?;
        let status = Arc::new(Status::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (inputs, inbox) = sync_channel(MAX_INPUTS);
        let mut state = recontextualizer::State::new(
            uri,
            images,
            contents,
            config.tuning,
            (Arc::clone(&status), inputs.clone()),
        )?;
        let ending = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("context".into())
            .spawn(move || state.run(&inbox, &ending))?;
        look_after(looker, config.directory.clone(), inputs.clone(), &stop)?;
        let tell = inputs.clone();
        lifecycle::start(uri, &stop, move |told| tell.send(Input::Told(told)).is_ok())?;
        tracing::info!(directory = %config.directory.display(), images = %config.images.display(), "contexts are offered");
        Ok(Self {
            status,
            inputs,
            stop,
            known: Arc::default(),
        })
    }

    /// Which descriptors there are now. Where it has too much to do it is told the next time.
    pub fn know(&mut self, known: Known) {
        if *self.known == known {
            return;
        }
        let known = Arc::new(known);
        if self
            .inputs
            .try_send(Input::Known(Arc::clone(&known)))
            .is_ok()
        {
            self.known = known;
        }
    }

    /// Changes what may change.
    pub fn tune(&self, tuning: Tuning) {
        if self.inputs.try_send(Input::Tuning(tuning)).is_err() {
            tracing::error!(
                "the recontextualizer has too much to do to be told of new settings; send SIGHUP again"
            );
        }
    }

    /// How to ask it, for who does not have it.
    pub fn asker(&self) -> Asker {
        Asker(self.inputs.clone())
    }
}

impl Drop for Recontextualizer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Asks the recontextualizer for what an operator wants.
#[derive(Clone, Debug)]
pub struct Asker(SyncSender<Input>);

impl Asker {
    /// Asks; the answer comes where the question says. Whether it was heard.
    pub fn ask(&self, ask: Ask) -> bool {
        match self.0.try_send(Input::Ask(ask)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Looks at the folders on a thread of its own: a file system may take its time.
fn look_after(
    mut looker: Looker,
    directory: PathBuf,
    inputs: SyncSender<Input>,
    stop: &Arc<AtomicBool>,
) -> std::io::Result<()> {
    let stop = Arc::clone(stop);
    let run = move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_EVERY);
            let found = looker.look(&directory);
            let heard = found.is_none_or(|found| inputs.send(Input::Contents(found)).is_ok());
            if !heard {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("context-folders".into());
    thread.spawn(run).map(drop)
}

/// Problems, a line each.
pub fn in_lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
