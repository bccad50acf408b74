//! The thread that has the machines: it hears what happens, asks each machine what to do, has it done, and writes down
//! what became of it. It waits for nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use vmkpi::clock::Timestamp;
use vmkpi::context::Class;
use vmkpi::descriptor::Descriptor;

use super::images::Images;
use super::machine::{Machine, Operation, Outcome, Presence, Task};
use super::pool::Pool;
use super::requests::{Answer, Ask, Requests};
use super::status::{Fault, Layer, Status, Times};
use super::templates::{Contents, Problem};
use super::work::{Deed, Job, Report, Trouble};
use super::{Input, Known, Tuning};
use crate::libvirt::lifecycle::{Found, Lifecycle, Seen, Told};

/// How often to see whether to stop.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it is seen to that what is in the drives is right, though nothing has happened: others change media, too, and
/// libvirt shows a change that it makes before the guest has agreed.
const VERIFY_EVERY: Duration = Duration::from_secs(60);

/// The most VMs that are followed: their events are heard before anybody knows whether they are ours.
const MAX_VMS: usize = 20_000;

/// A VM.
struct Vm {
    machine: Machine,
    /// The id of its run when it was last looked at.
    id: Option<u32>,
    /// When it was last seen to that what is in its drives is right.
    looked: Instant,
    /// The descriptor that its media were last made with, once any was.
    used: Option<Option<Arc<Descriptor>>>,
    /// What preparing early took, by class: it is part of the recontextualization that follows.
    early: BTreeMap<Class, Times>,
}

impl Vm {
    /// Asks anew when its media were made with another descriptor than the one in force. One that was taken away leaves
    /// them as they are.
    fn is_up_to_date(&mut self, known: &Known, uuid: &str) {
        let now = known.in_force.get(uuid);
        let used = self.used.as_ref().map(Option::as_ref);
        if now.is_some() && used.is_some_and(|used| used != now) {
            // Once, whatever becomes of it.
            self.used = None;
            self.machine.changed();
        }
    }
}

/// Everything that the thread has.
pub(super) struct State {
    vms: BTreeMap<Arc<str>, Vm>,
    names: BTreeMap<Arc<str>, Arc<str>>,
    contents: Contents,
    known: Arc<Known>,
    tuning: Tuning,
    images: Images,
    pool: Pool,
    requests: Requests,
    status: Arc<Status>,
    swept: bool,
}

impl State {
    /// Nothing is known of any VM yet.
    pub fn new(
        uri: &str,
        images: Images,
        contents: Contents,
        tuning: Tuning,
        (status, inputs): (Arc<Status>, SyncSender<Input>),
    ) -> std::io::Result<Self> {
        status.lock().classes = contents.keys().cloned().collect();
        Ok(Self {
            vms: BTreeMap::new(),
            names: BTreeMap::new(),
            contents,
            known: Arc::default(),
            tuning,
            pool: Pool::new(uri, images.clone(), inputs)?,
            images,
            requests: Requests::default(),
            status,
            swept: false,
        })
    }

    /// Runs until it is time to stop.
    pub fn run(&mut self, inputs: &Receiver<Input>, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            match inputs.recv_timeout(self.patience()) {
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            inputs.try_iter().for_each(|input| self.take(input));
            self.act();
        }
    }

    /// Until something is to be tried again.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        let wakes = self.vms.values().filter_map(|vm| vm.machine.wake());
        let wake = wakes.min().map(|at| at.saturating_duration_since(now));
        // One that is due and waits for a thread hears of it.
        let least = Duration::from_millis(1);
        wake.map_or(LOOK_EVERY, |wait| wait.clamp(least, LOOK_EVERY))
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Told(Told::Event(uuid, name, what)) => {
                self.heard(&uuid, what);
                // Of those that are followed, so that nobody fills it with others.
                if self.vms.contains_key(&uuid) {
                    self.names.insert(uuid, name);
                }
            }
            Input::Told(Told::All { domains, anew }) => self.found(&domains, anew),
            Input::Contents(Ok(contents)) => self.offer(contents),
            Input::Contents(Err(problems)) => self.refuse(&problems),
            Input::Known(known) => self.know(known),
            Input::Tuning(tuning) => self.tuning = tuning,
            Input::Ask(ask) => self.ask(ask),
            Input::Finished(worker, report) => self.finished(worker, *report),
        }
    }

    fn heard(&mut self, uuid: &Arc<str>, what: Lifecycle) {
        tracing::debug!(%uuid, ?what, "lifecycle event");
        if let Some(vm) = self.vms.get_mut(uuid) {
            vm.machine.heard(what);
        } else if matches!(what, Lifecycle::Started(_) | Lifecycle::Resumed { .. })
            && let Some(vm) = self.meet(uuid)
        {
            vm.machine.heard(what);
        }
        if what == Lifecycle::Stopped {
            self.requests.gone(uuid);
        }
    }

    /// A VM of which nothing was known.
    fn meet(&mut self, uuid: &Arc<str>) -> Option<&mut Vm> {
        if self.vms.len() >= MAX_VMS && !self.vms.contains_key(uuid) {
            tracing::error!(%uuid, "over {MAX_VMS} VMs: this one is offered no context");
            return None;
        }
        let classes = self.contents.keys();
        Some(self.vms.entry(Arc::clone(uuid)).or_insert_with(|| Vm {
            machine: Machine::new(classes),
            id: None,
            looked: Instant::now(),
            used: None,
            early: BTreeMap::new(),
        }))
    }

    fn found(&mut self, domains: &[Seen], anew: bool) {
        self.names = domains
            .iter()
            .map(|d| (d.uuid.clone(), d.name.clone()))
            .collect();
        self.sweep();
        for seen in domains.iter().filter(|seen| seen.found != Found::Gone) {
            if let Some(vm) = self.meet(&seen.uuid) {
                let other = std::mem::replace(&mut vm.id, seen.id) != seen.id;
                let long = vm.looked.elapsed() >= VERIFY_EVERY;
                if anew || other || long {
                    vm.looked = Instant::now();
                }
                vm.machine.found(seen.found, anew || other || long);
            }
        }
        let here = domains.iter().filter(|seen| seen.found != Found::Gone);
        let here: BTreeSet<&str> = here.map(|seen| &*seen.uuid).collect();
        for (uuid, vm) in &mut self.vms {
            if !here.contains(&**uuid) {
                vm.machine.found(Found::Gone, anew);
            }
        }
    }

    /// Images that an earlier daemon left, of VMs that have left since, are removed as those of any VM that leaves.
    fn sweep(&mut self) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        let owners = self.images.owners().unwrap_or_else(|error| {
            tracing::error!(%error, "what images an earlier daemon has left is not known");
            BTreeSet::new()
        });
        for uuid in owners {
            if let Some(vm) = self.meet(&Arc::from(uuid)) {
                vm.machine.litter();
            }
        }
    }

    fn offer(&mut self, contents: Contents) {
        let before = std::mem::replace(&mut self.contents, contents);
        let anew = |class: &Class| before.get(class) != self.contents.get(class);
        for vm in self.vms.values_mut() {
            vm.machine.offer(self.contents.keys(), anew);
        }
        let changed: Vec<&str> = self
            .contents
            .keys()
            .filter(|class| anew(class))
            .map(Class::as_str)
            .collect();
        tracing::info!(
            changed = changed.join(" "),
            "the folders of contexts were read anew"
        );
        let mut seen = self.status.lock();
        seen.classes = self.contents.keys().cloned().collect();
        seen.problems.clear();
        for vm in seen.vms.values_mut() {
            vm.layers
                .retain(|class, _| self.contents.contains_key(class));
        }
    }

    fn refuse(&self, problems: &[Problem]) {
        for problem in problems {
            tracing::error!(%problem, "the folders of contexts are not as they should be; what was read before stays in force");
        }
        let mut seen = self.status.lock();
        seen.problems = problems.iter().map(ToString::to_string).collect();
        seen.blame(Fault::Folder);
    }

    fn know(&mut self, known: Arc<Known>) {
        self.known = known;
        for (uuid, vm) in &mut self.vms {
            vm.is_up_to_date(&self.known, uuid);
        }
    }

    fn ask(&mut self, ask: Ask) {
        let Ask {
            vm: name,
            class,
            event,
            reply,
        } = ask;
        let by_name = self
            .names
            .iter()
            .find(|(uuid, named)| ***named == *name || ***uuid == *name);
        let (uuid, domain) = by_name.map_or_else(
            || (Arc::from(&*name), Arc::from(&*name)),
            |(uuid, domain)| (Arc::clone(uuid), Arc::clone(domain)),
        );
        let offered: BTreeSet<Class> = match &class {
            Some(class) => [class.clone()].into(),
            None => self.contents.keys().cloned().collect(),
        };
        let missing = offered
            .iter()
            .find(|class| !self.contents.contains_key(*class));
        let vm = self.vms.get_mut(&uuid);
        let problem = match (missing, &vm) {
            (Some(class), _) => Some(format!(
                "class {class} is not offered: it has no folder in context.directory"
            )),
            _ if offered.is_empty() => {
                Some("no class is offered: context.directory has no folder".into())
            }
            (_, Some(vm)) if vm.machine.presence() == Presence::Here => None,
            (_, Some(vm)) if vm.machine.presence() == Presence::Arriving => Some(format!(
                "VM {name} is on its way to this host; it is seen to when it is here"
            )),
            _ => Some(format!(
                "no VM {name} runs on this host: give the domain's name or UUID"
            )),
        };
        let (Some(vm), None) = (vm, &problem) else {
            let _ = reply.send(Answer::problem(problem.unwrap_or_default()));
            return;
        };
        let desire = vm.machine.ask(class.as_ref(), event.as_deref());
        self.requests.wait((&uuid, &domain), desire, offered, reply);
    }

    /// Has done what is to be done, as far as there is somebody to do it.
    fn act(&mut self) {
        let now = Instant::now();
        let mut waiting = 0;
        for (uuid, vm) in &mut self.vms {
            if !self.pool.has_room() {
                waiting += usize::from(vm.machine.clone().next(now).is_some());
                continue;
            }
            let Some(operation) = vm.machine.next(now) else {
                continue;
            };
            let job = Job {
                uuid: Arc::clone(uuid),
                content: content_of(&self.contents, &operation),
                operation,
                known: Arc::clone(&self.known),
                swap: self.tuning.swap,
                force: self.tuning.force,
            };
            let id = job.operation.id;
            match self.pool.give(job) {
                Some(worker) => drop(self.status.lock().busy.insert(worker, now)),
                None => vm.machine.finished(id, Outcome::Failed, now),
            }
        }
        self.status.lock().waiting = waiting;
        self.vms.retain(|_, vm| !vm.machine.is_forgotten());
    }

    fn finished(&mut self, worker: usize, mut report: Report) {
        self.pool.is_idle(worker);
        self.status.lock().busy.remove(&worker);
        let Some(vm) = self.vms.get_mut(&report.uuid) else {
            return;
        };
        vm.machine
            .finished(report.operation.id, report.outcome(), Instant::now());
        match report.operation.task.clone() {
            Task::Prepare(class) => drop(vm.early.insert(class, report.times)),
            Task::Apply(class) | Task::Withdraw(class) => {
                if let Some(early) = vm.early.remove(&class) {
                    report.times.add(&early);
                }
                self.requests.finished(&class, &report, &report.times);
            }
            Task::CleanUp => {}
        }
        if report.result.is_ok() || report.descriptor.is_some() {
            vm.used = Some(report.descriptor.clone());
            vm.is_up_to_date(&self.known, &report.uuid);
        }
        if vm.machine.presence() == Presence::Absent {
            self.requests.gone(&report.uuid);
        }
        self.note(&report);
    }

    /// Writes it down, and says it.
    fn note(&self, report: &Report) {
        say(report);
        let mut seen = self.status.lock();
        if let Some(ending) = report.ending() {
            seen.count(report.operation.trigger, ending, &report.times);
        }
        if let Err(Trouble::Fault(fault, _)) = &report.result {
            seen.blame(*fault);
        }
        let gone = self
            .vms
            .get(&report.uuid)
            .is_none_or(|vm| vm.machine.presence() == Presence::Absent);
        if gone
            || matches!(report.operation.task, Task::CleanUp)
                && report.result.as_ref().is_ok_and(|d| *d == Deed::Removed)
        {
            seen.vms.remove(&report.uuid);
            return;
        }
        let Task::Apply(class) = &report.operation.task else {
            return;
        };
        if matches!(report.result, Ok(Deed::Spared)) {
            return;
        }
        let vm = seen.vms.entry(Arc::clone(&report.uuid)).or_default();
        if let Some(name) = &report.name {
            vm.name = name.as_str().into();
        }
        note_layer(vm.layers.entry(class.clone()).or_default(), report);
    }
}

fn note_layer(layer: &mut Layer, report: &Report) {
    if report.drive.is_some() {
        layer.drive.clone_from(&report.drive);
    }
    match &report.result {
        Ok(_) => {
            if layer.digest != report.digest || layer.since.is_none() {
                layer.since = Some(Timestamp::now());
            }
            layer.digest.clone_from(&report.digest);
            layer.problem = None;
        }
        Err(Trouble::Fault(fault, text)) => layer.problem = Some((*fault, text.clone())),
        Err(Trouble::Gone) => {}
    }
}

fn content_of(
    contents: &Contents,
    operation: &Operation,
) -> Option<Arc<super::templates::Content>> {
    match &operation.task {
        Task::Prepare(class) | Task::Apply(class) => contents.get(class).cloned(),
        Task::Withdraw(_) | Task::CleanUp => None,
    }
}

/// What changes something is said, and what goes wrong, once.
fn say(report: &Report) {
    let name = report.name.as_deref().unwrap_or(&report.uuid);
    let (task, event) = (&report.operation.task, &report.operation.event);
    match &report.result {
        Ok(Deed::Changed) => {
            let Task::Apply(class) = task else { return };
            let [resolve, detach, prepare, attach] = report.times.phases;
            tracing::info!(domain = name, %class, event, digest = report.digest, drive = report.drive,
                ?resolve, ?detach, ?prepare, ?attach, libvirt = ?report.times.libvirt, "VM recontextualized");
        }
        Ok(deed) => tracing::debug!(domain = name, ?task, ?deed, "context looked after"),
        Err(Trouble::Gone) => tracing::debug!(domain = name, ?task, "the VM has gone"),
        Err(error) if report.operation.tries == 0 => {
            tracing::warn!(domain = name, ?task, event, %error, "a context is not as it should be; it is tried again");
        }
        Err(error) => {
            tracing::debug!(domain = name, ?task, %error, "a context is still not as it should be");
        }
    }
}
