//! What is to be done for one VM, and when. Pure: no thread, no libvirt, no clock of its own.
//!
//! ```text
//!                    started (migrated), found in transit
//!          ┌──────────────────────────────────────────────> arriving ── prepare what it will need
//!          │                                                │      │
//!          │        started, resumed, found                 │      │ resumed, found running
//!   absent ┼────────────────────────────────────────────┐   │      v
//!     ^    │                                            └──────> here ── apply: resolve, detach,
//!     │    └── clean up: its images are removed             │    │  ^     prepare, attach
//!     │                                                     │    │  │ resumed, found running:
//!     │ stopped, found gone, an operation found it gone     │    v  │ the migration failed
//!     └─────────────────────────────────────────────────────┴── leaving ── nothing: the medium stays
//!                                                    suspended (migrated), found in transit
//! ```
//! *Events are hints.* They come twice, late, in any order, or never. Each only says what is likely true, and that it is worth
//! a look; what is in a drive is read from the live XML by the operation itself, which does nothing where all is right, and
//! images are removed only once libvirt has said that the VM does not run. Every ten seconds, and whenever libvirt is
//! connected anew, what is [`Found`] puts right what events did not say.
//!
//! *Desires are numbered.* An event, a request, a changed template each ask anew for a class; an operation carries the
//! number that was the newest when it began, and when it is done every desire up to that number is met. So the newest
//! wins, nothing is done twice for one reason, and what comes meanwhile is not lost. At most one operation runs for a VM.
//!
//! *A failed migration changes nothing.* The source ejects nothing, ever: its image goes when the VM is gone. The destination only
//! prepares until the VM runs there; when it never does, the images are removed.
//!
//! *What fails is tried again*, after 0.1 s, twice as long each time, once a minute at most. What a person has to see to
//! (no drive, a foreign medium, a template with a mistake) is looked at once a minute, and whenever something happens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vmkpi::context::Class;

use crate::libvirt::lifecycle::{Found, Lifecycle, Start};

/// How long after the first failure it is tried again, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// What brought an operation about, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Trigger {
    /// The VM was started.
    Started,
    /// It came from another host.
    Migrated,
    /// It was restored from a file or a snapshot.
    Restored,
    /// It goes on after a pause.
    Resumed,
    /// It was there when libvirt was connected, or an event was missed.
    #[default]
    Found,
    /// Templates or its descriptor have changed.
    Changed,
    /// The operator has asked.
    Operator,
}

impl Trigger {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Started,
        Self::Migrated,
        Self::Restored,
        Self::Resumed,
        Self::Found,
        Self::Changed,
        Self::Operator,
    ];

    /// Its name in metrics, and as the word `event` of templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Migrated => "migrated",
            Self::Restored => "restored",
            Self::Resumed => "resumed",
            Self::Found => "found",
            Self::Changed => "changed",
            Self::Operator => "operator",
        }
    }
}

/// Where the VM is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Presence {
    /// It does not run on this host.
    #[default]
    Absent,
    /// It is on its way to this host.
    Arriving,
    /// It runs here, or is paused here.
    Here,
    /// It is paused as it goes to another host.
    Leaving,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Make the image of a class, and change nothing of the VM.
    Prepare(Class),
    /// See that the class's medium is in its drive.
    Apply(Class),
    /// Take the class's medium out: the class is not offered any more.
    Withdraw(Class),
    /// Remove the VM's images, unless it runs.
    CleanUp,
}

/// One thing to be done, by somebody who says [`Machine::finished`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub id: u64,
    /// What.
    pub task: Task,
    /// Every desire up to this number is met with it.
    pub desire: u64,
    /// What brought it about.
    pub trigger: Trigger,
    /// The word `event` of templates.
    pub event: String,
    /// Failures before it, since the last success.
    pub tries: u32,
}

/// What became of an operation, as far as it decides what is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it should be.
    Done,
    /// It may go better next time.
    Failed,
    /// A person has to see to it.
    Refused,
    /// The VM does not run here.
    Gone,
    /// It was not to be cleaned up: it is there.
    There(Found),
}

#[derive(Clone, Debug)]
struct Slot {
    /// Whether the class is offered; if not, its medium is to be taken out.
    offered: bool,
    asked: u64,
    met: u64,
    prepared: u64,
    tries: u32,
    due: Option<Instant>,
    trigger: Trigger,
}

impl Slot {
    fn is_due(&self, now: Instant) -> bool {
        self.met < self.asked && self.due.is_none_or(|due| due <= now)
    }
}

#[derive(Clone, Debug)]
struct Running {
    operation: Operation,
    /// How many events had been heard when it began.
    heard: u64,
}

/// One VM.
#[derive(Clone, Debug)]
pub struct Machine {
    presence: Presence,
    /// The word `event` of templates.
    event: String,
    slots: BTreeMap<Class, Slot>,
    running: Option<Running>,
    /// Whether there may be images to remove.
    littered: bool,
    desires: u64,
    operations: u64,
    heard: u64,
}

impl Machine {
    /// A VM of which nothing is known, offered these classes.
    pub fn new<'a>(classes: impl Iterator<Item = &'a Class>) -> Self {
        let mut machine = Self {
            presence: Presence::Absent,
            event: Trigger::Found.as_str().into(),
            slots: BTreeMap::new(),
            running: None,
            littered: false,
            desires: 0,
            operations: 0,
            heard: 0,
        };
        machine.slots = classes.map(|class| (class.clone(), slot())).collect();
        machine
    }

    /// There may be images of it, left by an earlier daemon.
    pub fn litter(&mut self) {
        self.littered = true;
    }

    /// Where it is.
    pub fn presence(&self) -> Presence {
        self.presence
    }

    /// Whether there is nothing to remember of it.
    pub fn is_forgotten(&self) -> bool {
        self.presence == Presence::Absent && !self.littered && self.running.is_none()
    }

    /// Whether a desire for the class is met.
    pub fn has_met(&self, class: &Class, desire: u64) -> bool {
        self.slots.get(class).is_none_or(|slot| slot.met >= desire)
    }

    /// libvirt says that something happened.
    pub fn heard(&mut self, what: Lifecycle) {
        self.heard += 1;
        match what {
            Lifecycle::Started(Start::Migrated) if self.presence != Presence::Here => self.arrive(),
            // Late: it runs already.
            Lifecycle::Started(Start::Migrated) => {}
            Lifecycle::Started(Start::Booted) => self.begin(Trigger::Started),
            Lifecycle::Started(Start::Restored) => self.begin(Trigger::Restored),
            Lifecycle::Started(Start::Woken) | Lifecycle::Resumed { .. } => self.resume(),
            Lifecycle::Suspended { migrated: true } if self.presence == Presence::Here => {
                self.presence = Presence::Leaving;
            }
            Lifecycle::Stopped => self.leave(),
            Lifecycle::Suspended { .. } | Lifecycle::Other => {}
        }
    }

    /// It was looked at; `anew` after a time in which events may have been missed.
    pub fn found(&mut self, found: Found, anew: bool) {
        match (found, self.presence) {
            (Found::Gone, Presence::Absent) => {}
            (Found::Gone, _) => self.leave(),
            (Found::InTransit, Presence::Absent) => self.arrive(),
            (Found::InTransit, Presence::Here) => self.presence = Presence::Leaving,
            (Found::InTransit, _) => {}
            (Found::Here, Presence::Absent) => self.begin(Trigger::Found),
            (Found::Here, Presence::Arriving | Presence::Leaving) => self.resume(),
            (Found::Here, Presence::Here) if anew => self.ask_all(Trigger::Found),
            (Found::Here, Presence::Here) => {}
        }
    }

    /// The operator wants a class to be looked at, or all, and names the event; the number of the desire.
    pub fn ask(&mut self, class: Option<&Class>, event: Option<&str>) -> u64 {
        if let Some(event) = event {
            self.event = event.into();
        }
        self.desires += 1;
        for (name, slot) in &mut self.slots {
            if class.is_none_or(|class| class == name) {
                slot.want(self.desires, Trigger::Operator);
            }
        }
        self.desires
    }

    /// What it is offered may have changed.
    pub fn changed(&mut self) {
        self.ask_all(Trigger::Changed);
    }

    /// It is offered these classes from now on, of which `anew` have changed.
    pub fn offer<'a>(
        &mut self,
        classes: impl Iterator<Item = &'a Class>,
        anew: impl Fn(&Class) -> bool,
    ) {
        self.desires += 1;
        let offered: Vec<&Class> = classes.collect();
        for (class, slot) in &mut self.slots {
            let is = offered.contains(&class);
            if is != slot.offered || (is && anew(class)) {
                slot.offered = is;
                slot.want(self.desires, Trigger::Changed);
            }
        }
        for class in offered {
            let slot = self.slots.entry(class.clone()).or_insert_with(slot);
            if slot.asked == 0 {
                slot.want(self.desires, Trigger::Changed);
            }
        }
    }

    /// What to do now, if anything: it has begun then.
    pub fn next(&mut self, now: Instant) -> Option<Operation> {
        if self.running.is_some() {
            return None;
        }
        let (task, desire, trigger, tries) = match self.presence {
            Presence::Absent if self.littered => (Task::CleanUp, 0, Trigger::Found, 0),
            Presence::Absent | Presence::Leaving => return None,
            Presence::Arriving => {
                let mut slots = self.slots.iter().filter(|(_, slot)| slot.offered);
                let (class, slot) = slots.find(|(_, slot)| slot.prepared < slot.asked)?;
                (
                    Task::Prepare(class.clone()),
                    slot.asked,
                    slot.trigger,
                    slot.tries,
                )
            }
            Presence::Here => {
                let (class, slot) = self.slots.iter().find(|(_, slot)| slot.is_due(now))?;
                let task = match slot.offered {
                    true => Task::Apply(class.clone()),
                    false => Task::Withdraw(class.clone()),
                };
                (task, slot.asked, slot.trigger, slot.tries)
            }
        };
        self.operations += 1;
        let operation = Operation {
            id: self.operations,
            task,
            desire,
            trigger,
            event: self.event.clone(),
            tries,
        };
        self.running = Some(Running {
            operation: operation.clone(),
            heard: self.heard,
        });
        Some(operation)
    }

    /// An operation has ended.
    pub fn finished(&mut self, id: u64, outcome: Outcome, now: Instant) {
        let Some(running) = self.running.take_if(|running| running.operation.id == id) else {
            return;
        };
        let Running { operation, heard } = running;
        match &operation.task {
            Task::CleanUp => self.cleaned(outcome, heard),
            Task::Prepare(class) => {
                // What did not go well is said, and done again when the medium is needed.
                let slot = self.slots.get_mut(class);
                slot.into_iter()
                    .for_each(|s| s.prepared = operation.desire.max(s.prepared));
            }
            Task::Apply(class) | Task::Withdraw(class) => {
                self.applied(class, &operation, outcome, now);
            }
        }
        // What was heard since then knows better.
        if outcome == Outcome::Gone && self.heard == heard {
            self.leave();
        }
    }

    fn cleaned(&mut self, outcome: Outcome, heard: u64) {
        match outcome {
            Outcome::Done | Outcome::Gone | Outcome::Refused => {
                self.littered = self.presence != Presence::Absent;
            }
            Outcome::There(found) if self.heard == heard => self.found(found, true),
            // Whoever looks at all next says where it is.
            Outcome::There(_) => {}
            Outcome::Failed => self.littered = false,
        }
    }

    fn applied(&mut self, class: &Class, operation: &Operation, outcome: Outcome, now: Instant) {
        let Some(slot) = self.slots.get_mut(class) else {
            return;
        };
        match outcome {
            Outcome::Done => {
                slot.met = slot.met.max(operation.desire);
                (slot.tries, slot.due) = (0, None);
            }
            Outcome::Refused => {
                slot.tries = slot.tries.saturating_add(1);
                slot.due = Some(now + PAUSE.1);
            }
            Outcome::Failed | Outcome::Gone | Outcome::There(_) => {
                let pause = PAUSE.0.saturating_mul(1 << slot.tries.min(16));
                slot.due = Some(now + pause.min(PAUSE.1));
                slot.tries = slot.tries.saturating_add(1);
            }
        }
        // Something was asked for meanwhile: that is no repetition.
        if slot.asked > operation.desire {
            slot.due = None;
        }
        if !slot.offered && slot.met >= slot.asked {
            self.slots.remove(class);
        }
    }

    /// When something is to be done next, if nothing happens.
    pub fn wake(&self) -> Option<Instant> {
        if self.running.is_some() || self.presence != Presence::Here {
            return None;
        }
        let waiting = self.slots.values().filter(|slot| slot.met < slot.asked);
        waiting.filter_map(|slot| slot.due).min()
    }

    fn begin(&mut self, trigger: Trigger) {
        self.event = trigger.as_str().into();
        (self.presence, self.littered) = (Presence::Here, true);
        self.ask_all(trigger);
    }

    fn arrive(&mut self) {
        self.event = Trigger::Migrated.as_str().into();
        if self.presence != Presence::Arriving {
            (self.presence, self.littered) = (Presence::Arriving, true);
            self.ask_all(Trigger::Migrated);
        }
    }

    /// It runs: after a pause, after a migration that failed, or because it has arrived.
    fn resume(&mut self) {
        match self.presence {
            Presence::Absent => self.begin(Trigger::Started),
            Presence::Arriving => self.begin(Trigger::Migrated),
            Presence::Here | Presence::Leaving => {
                self.presence = Presence::Here;
                self.ask_all(Trigger::Resumed);
            }
        }
    }

    fn leave(&mut self) {
        (self.presence, self.littered) = (Presence::Absent, true);
    }

    fn ask_all(&mut self, trigger: Trigger) {
        self.desires += 1;
        for slot in self.slots.values_mut() {
            slot.want(self.desires, trigger);
        }
    }
}

impl Slot {
    fn want(&mut self, desire: u64, trigger: Trigger) {
        (self.asked, self.trigger) = (desire, trigger);
        (self.tries, self.due) = (0, None);
    }
}

fn slot() -> Slot {
    Slot {
        offered: true,
        asked: 0,
        met: 0,
        prepared: 0,
        tries: 0,
        due: None,
        trigger: Trigger::Found,
    }
}

#[cfg(test)]
mod tests;
