//! What has been done, for whoever wants to see it: counts, times by phase, and each VM's contexts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmkpi::clock::Timestamp;
use vmkpi::context::Class;

use super::machine::Trigger;

/// What a recontextualization is made of ("Runtime Virtual Machine Recontextualization for Clouds", 2013, section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// What the VM is and has is found out.
    Resolve,
    /// The drive is taken away, where it has to be.
    Detach,
    /// The image is made, or found to be there.
    Prepare,
    /// It is put into the drive, or attached with one.
    Attach,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Resolve, Self::Detach, Self::Prepare, Self::Attach];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Detach => "detach",
            Self::Prepare => "prepare",
            Self::Attach => "attach",
        }
    }
}

/// How long each phase took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// By phase, in the order of [`Phase::ALL`].
    pub phases: [Duration; 4],
    /// How much of it libvirt's calls took.
    pub libvirt: Duration,
}

impl Times {
    /// All phases together.
    pub fn total(&self) -> Duration {
        self.phases.iter().sum()
    }

    /// What was done before, and this.
    pub fn add(&mut self, before: &Self) {
        for (phase, more) in self.phases.iter_mut().zip(before.phases) {
            *phase += more;
        }
        self.libvirt += before.libvirt;
    }
}

/// What keeps a medium from being in its drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The folders cannot be read as they are.
    Folder,
    /// A template cannot be rendered for the VM.
    Template,
    /// The image cannot be made or written.
    Image,
    /// No connection that may write.
    Connection,
    /// Somebody else has the domain's job.
    Busy,
    /// The guest holds the medium.
    Locked,
    /// A medium that is not ours is in the drive.
    Foreign,
    /// There is no drive, and none can be attached.
    Drive,
    /// libvirt says otherwise.
    Libvirt,
    /// A mistake of this program.
    Internal,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Folder,
        Self::Template,
        Self::Image,
        Self::Connection,
        Self::Busy,
        Self::Locked,
        Self::Foreign,
        Self::Drive,
        Self::Libvirt,
        Self::Internal,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Template => "template",
            Self::Image => "image",
            Self::Connection => "connection",
            Self::Busy => "busy",
            Self::Locked => "locked",
            Self::Foreign => "foreign",
            Self::Drive => "drive",
            Self::Libvirt => "libvirt",
            Self::Internal => "internal",
        }
    }

    /// Whether only a person can do something about it.
    pub fn is_for_people(self) -> bool {
        matches!(self, Self::Template | Self::Foreign | Self::Drive)
    }
}

/// What became of a recontextualization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Another medium is in the drive now.
    Changed,
    /// The right one was there.
    Unchanged,
    /// It failed, and is tried again.
    Failed,
    /// A person has to see to it.
    Refused,
    /// The VM went away meanwhile.
    Gone,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Changed,
        Self::Unchanged,
        Self::Failed,
        Self::Refused,
        Self::Gone,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

/// The upper bounds of a histogram's buckets, in seconds.
pub const BOUNDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    /// How often it took no longer than each of [`BOUNDS`], and longer than the one before.
    pub counts: [u64; BOUNDS.len()],
    /// How often it was done.
    pub count: u64,
    /// How long it took in all, in seconds.
    pub seconds: f64,
}

impl Histogram {
    fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.counts[at] += 1;
        }
        self.count += 1;
        self.seconds += seconds;
    }
}

/// A class's context of a VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer {
    /// What is in the drive.
    pub digest: Option<String>,
    /// Since when, as far as this daemon knows.
    pub since: Option<Timestamp>,
    /// The drive, as the domain calls it.
    pub drive: Option<String>,
    /// What is wrong, and of what kind.
    pub problem: Option<(Fault, String)>,
}

/// A VM's contexts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmContext {
    /// The domain's name.
    pub name: Arc<str>,
    /// By class.
    pub layers: BTreeMap<Class, Layer>,
}

/// Everything, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Times by phase, in the order of [`Phase::ALL`].
    pub phases: [Histogram; 4],
    /// How each ended.
    pub endings: BTreeMap<(Trigger, Ending), u64>,
    /// What went wrong.
    pub faults: BTreeMap<Fault, u64>,
    /// The VMs, by UUID.
    pub vms: BTreeMap<Arc<str>, VmContext>,
    /// The classes that are offered.
    pub classes: Vec<Class>,
    /// What is wrong with the folders: what was read before stays in force.
    pub problems: Vec<String>,
    /// Operations that have not ended, by who does them.
    pub busy: BTreeMap<usize, Instant>,
    /// Operations that wait for somebody to do them.
    pub waiting: usize,
}

/// How long an operation takes at most that does not hang.
const LATE: Duration = Duration::from_secs(10);

impl Seen {
    /// Operations that take too long: their calls to libvirt do not return.
    pub fn late(&self) -> usize {
        self.busy
            .values()
            .filter(|since| since.elapsed() > LATE)
            .count()
    }

    pub(super) fn count(&mut self, trigger: Trigger, ending: Ending, times: &Times) {
        *self.endings.entry((trigger, ending)).or_default() += 1;
        // Those that had nothing to do would hide the others.
        if ending == Ending::Changed {
            for (histogram, took) in self.phases.iter_mut().zip(times.phases) {
                histogram.observe(took);
            }
        }
    }

    pub(super) fn blame(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }
}

/// What the recontextualizer writes down and others read.
#[derive(Debug, Default)]
pub struct Status(Mutex<Seen>);

impl Status {
    /// A copy.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
