//! The machine against a hypervisor that does what it likes and tells of it as it likes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn class(name: &str) -> Class {
    name.parse().unwrap()
}

fn one() -> Machine {
    Machine::new([class("infrastructure")].iter())
}

/// What it wants done, said to be done at once.
fn run(machine: &mut Machine, outcome: Outcome) -> Vec<Task> {
    let now = Instant::now();
    let mut done = Vec::new();
    while let Some(operation) = machine.next(now) {
        done.push(operation.task);
        machine.finished(operation.id, outcome, now);
    }
    done
}

const BOOTED: Lifecycle = Lifecycle::Started(Start::Booted);
const INCOMING: Lifecycle = Lifecycle::Started(Start::Migrated);
const ARRIVED: Lifecycle = Lifecycle::Resumed { migrated: true };
const LEAVING: Lifecycle = Lifecycle::Suspended { migrated: true };

fn apply() -> Task {
    Task::Apply(class("infrastructure"))
}

#[test]
fn a_vm_that_boots_is_given_its_medium_once() {
    let mut machine = one();
    machine.heard(BOOTED);
    let operation = machine.next(Instant::now()).unwrap();
    assert_eq!((&operation.task, &*operation.event), (&apply(), "started"));
    assert_eq!(machine.next(Instant::now()), None, "one at a time");
    machine.finished(operation.id, Outcome::Done, Instant::now());
    assert_eq!(run(&mut machine, Outcome::Done), []);
}

#[test]
fn at_the_destination_the_image_is_prepared_before_the_vm_runs_and_nothing_changed() {
    let mut machine = one();
    machine.heard(INCOMING);
    assert_eq!(
        run(&mut machine, Outcome::Done),
        [Task::Prepare(class("infrastructure"))]
    );
    machine.heard(ARRIVED);
    let operation = machine.next(Instant::now()).unwrap();
    assert_eq!((operation.task, &*operation.event), (apply(), "migrated"));
    assert_eq!(operation.trigger, Trigger::Migrated);
}

#[test]
fn a_destination_that_is_never_reached_is_cleaned_up() {
    let mut machine = one();
    machine.heard(INCOMING);
    run(&mut machine, Outcome::Done);
    machine.heard(Lifecycle::Stopped);
    assert_eq!(run(&mut machine, Outcome::Done), [Task::CleanUp]);
    assert!(machine.is_forgotten());
}

#[test]
fn a_migration_that_fails_changes_nothing_at_the_source() {
    let mut machine = one();
    machine.heard(BOOTED);
    run(&mut machine, Outcome::Done);
    machine.heard(LEAVING);
    machine.changed();
    assert_eq!(
        run(&mut machine, Outcome::Done),
        [],
        "it may be gone in a moment"
    );
    machine.heard(ARRIVED);
    let operation = machine.next(Instant::now()).unwrap();
    assert_eq!((operation.task, &*operation.event), (apply(), "started"));
}

#[test]
fn a_late_word_that_it_stopped_removes_nothing_of_a_vm_that_runs() {
    let mut machine = one();
    machine.heard(BOOTED);
    run(&mut machine, Outcome::Done);
    machine.heard(Lifecycle::Stopped);
    let operation = machine.next(Instant::now()).unwrap();
    assert_eq!(operation.task, Task::CleanUp);
    machine.finished(operation.id, Outcome::There(Found::Here), Instant::now());
    assert_eq!(machine.presence(), Presence::Here);
    assert_eq!(run(&mut machine, Outcome::Done), [apply()]);
}

#[test]
fn what_fails_is_tried_again_ever_later_and_at_once_when_something_happens() {
    let mut machine = one();
    machine.heard(BOOTED);
    let begin = Instant::now();
    let (mut now, mut pauses) = (begin, Vec::new());
    for _ in 0..14 {
        let operation = machine.next(now).unwrap();
        machine.finished(operation.id, Outcome::Failed, now);
        assert_eq!(machine.next(now), None);
        let wake = machine.wake().unwrap();
        pauses.push(wake - now);
        now = wake;
    }
    assert_eq!(pauses[..3], [100, 200, 400].map(Duration::from_millis));
    assert_eq!(pauses[13], Duration::from_secs(60));
    let operation = machine.next(now).unwrap();
    machine.finished(operation.id, Outcome::Refused, now);
    assert_eq!(machine.wake(), Some(now + Duration::from_secs(60)));
    machine.ask(None, None);
    assert!(machine.next(now).is_some());
}

#[test]
fn the_newest_desire_wins_and_what_comes_meanwhile_is_not_lost() {
    let mut machine = one();
    machine.heard(BOOTED);
    let first = machine.next(Instant::now()).unwrap();
    let desires = [(); 3].map(|()| machine.ask(None, Some("deploy")));
    machine.finished(first.id, Outcome::Done, Instant::now());
    assert!(!machine.has_met(&class("infrastructure"), desires[0]));
    let second = machine.next(Instant::now()).unwrap();
    assert_eq!((second.desire, &*second.event), (desires[2], "deploy"));
    // One that comes twice.
    machine.finished(first.id, Outcome::Failed, Instant::now());
    machine.finished(second.id, Outcome::Done, Instant::now());
    assert!(machine.has_met(&class("infrastructure"), desires[2]));
    assert_eq!(run(&mut machine, Outcome::Done), []);
}

#[test]
fn a_class_that_is_not_offered_any_more_is_taken_out_and_one_that_is_new_put_in() {
    let mut machine = one();
    machine.heard(BOOTED);
    run(&mut machine, Outcome::Done);
    machine.offer([class("service")].iter(), |_| false);
    let withdraw = Task::Withdraw(class("infrastructure"));
    let due = [withdraw, Task::Apply(class("service"))];
    assert_eq!(run(&mut machine, Outcome::Done), due);
    machine.offer([class("service")].iter(), |_| false);
    assert_eq!(run(&mut machine, Outcome::Done), [], "nothing has changed");
    machine.offer([class("service")].iter(), |_| true);
    assert_eq!(
        run(&mut machine, Outcome::Done),
        [Task::Apply(class("service"))]
    );
}

/// What a hypervisor does with one VM, and what it says.
#[derive(Clone, Copy, Debug)]
enum Act {
    Boot,
    Arrive,
    ArrivalDone,
    ArrivalFails,
    Leave,
    LeavingDone,
    LeavingFails,
    Stop,
    Edit,
    Ask,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Real {
    Off,
    Incoming,
    Running,
    Outgoing,
}

/// The truth: one VM, what is in its drives, which images there are, and what should be offered.
struct World {
    real: Real,
    drives: BTreeMap<Class, u64>,
    images: BTreeSet<(Class, u64)>,
    wanted: u64,
    classes: Vec<Class>,
}

impl World {
    fn act(&mut self, act: Act) -> Vec<Lifecycle> {
        let (next, said): (_, &[Lifecycle]) = match (self.real, act) {
            (Real::Off, Act::Boot) => (
                Real::Running,
                &[Lifecycle::Resumed { migrated: false }, BOOTED],
            ),
            (Real::Off, Act::Arrive) => (Real::Incoming, &[INCOMING]),
            (Real::Incoming, Act::ArrivalDone) => (Real::Running, &[ARRIVED]),
            (Real::Incoming, Act::ArrivalFails) => (Real::Off, &[Lifecycle::Stopped]),
            (Real::Running, Act::Leave) => (Real::Outgoing, &[LEAVING]),
            (Real::Outgoing, Act::LeavingDone) => (Real::Off, &[Lifecycle::Stopped]),
            (Real::Outgoing, Act::LeavingFails) => (Real::Running, &[ARRIVED]),
            (Real::Running, Act::Stop) => (Real::Off, &[Lifecycle::Stopped]),
            (real, _) => (real, &[]),
        };
        self.real = next;
        if next == Real::Off {
            self.drives.clear();
        }
        said.to_vec()
    }

    fn found(&self) -> Found {
        match self.real {
            Real::Off => Found::Gone,
            Real::Incoming | Real::Outgoing => Found::InTransit,
            Real::Running => Found::Here,
        }
    }

    /// What becomes of an operation that ends now; what it may never do is an error.
    fn perform(&mut self, task: &Task, fails: bool) -> Outcome {
        match task {
            Task::CleanUp if self.real == Real::Off => self.images.clear(),
            Task::CleanUp => return Outcome::There(self.found()),
            Task::Withdraw(_) => panic!("all classes are offered"),
            Task::Prepare(_) | Task::Apply(_) if self.real == Real::Off => return Outcome::Gone,
            _ if fails => return Outcome::Failed,
            Task::Prepare(class) => drop(self.images.insert((class.clone(), self.wanted))),
            // libvirt's job is the migration's: such a call waits, and fails when the VM has left.
            Task::Apply(_) if self.real == Real::Outgoing => return Outcome::Failed,
            Task::Apply(class) => {
                self.images.retain(|(of, _)| of != class);
                self.images.insert((class.clone(), self.wanted));
                self.drives.insert(class.clone(), self.wanted);
            }
        }
        Outcome::Done
    }
}

/// What happens to the word of an event.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Told,
    Twice,
    Late,
    Lost,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![4 => Just(Fate::Told), 1 => Just(Fate::Twice), 2 => Just(Fate::Late), 1 => Just(Fate::Lost)]
}

fn act() -> impl Strategy<Value = Act> {
    prop::sample::select(vec![
        Act::Boot,
        Act::Arrive,
        Act::ArrivalDone,
        Act::ArrivalFails,
        Act::Leave,
        Act::LeavingDone,
        Act::LeavingFails,
        Act::Stop,
        Act::Edit,
        Act::Ask,
    ])
}

/// An act, what happens to the words of it, which word that waits is told before it, whether an operation begins after it,
/// whether one that runs ends, and whether it fails.
type Step = (Act, Fate, prop::sample::Index, bool, bool, bool);

fn step() -> impl Strategy<Value = Step> {
    (
        act(),
        fate(),
        any::<prop::sample::Index>(),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.2),
    )
}

fn play(steps: Vec<Step>, anew: bool) -> (World, Machine, Instant) {
    let classes = vec![class("infrastructure"), class("service")];
    let mut world = World {
        real: Real::Off,
        drives: BTreeMap::new(),
        images: BTreeSet::new(),
        wanted: 0,
        classes: classes.clone(),
    };
    let (mut machine, mut late) = (Machine::new(classes.iter()), Vec::new());
    let mut running: Option<Operation> = None;
    let mut now = Instant::now();
    for (act, fate, which, begins, ends, fails) in steps {
        if !late.is_empty() {
            machine.heard(late.swap_remove(which.index(late.len())));
        }
        let said = world.act(act);
        for event in said {
            match fate {
                Fate::Told => machine.heard(event),
                Fate::Twice => [(); 2].into_iter().for_each(|()| machine.heard(event)),
                Fate::Late => late.push(event),
                Fate::Lost => {}
            }
        }
        match act {
            Act::Edit => {
                world.wanted += 1;
                machine.offer(world.classes.iter(), |_| true);
            }
            Act::Ask => drop(machine.ask(None, Some("asked"))),
            _ => {}
        }
        now += Duration::from_millis(70);
        if begins && running.is_none() {
            running = machine.next(now);
        }
        if ends && let Some(operation) = running.take() {
            let outcome = world.perform(&operation.task, fails);
            machine.finished(operation.id, outcome, now);
        }
    }
    late.into_iter().for_each(|event| machine.heard(event));
    // What runs ends as it would have; then everything is looked at.
    if let Some(operation) = running {
        let outcome = world.perform(&operation.task, false);
        machine.finished(operation.id, outcome, now);
    }
    machine.found(world.found(), anew);
    (world, machine, now)
}

/// Does all there is to do.
fn settle(world: &mut World, machine: &mut Machine, mut now: Instant) -> u32 {
    for done in 0..100 {
        let Some(operation) = machine.next(now) else {
            match machine.wake() {
                Some(wake) if wake > now => now = wake,
                _ => return done,
            }
            continue;
        };
        let outcome = world.perform(&operation.task, false);
        machine.finished(operation.id, outcome, now);
    }
    panic!("it does not come to rest: {machine:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// However events come, if they come, a look at what is ends with the right medium in each drive of a VM that runs,
    /// with no image of one that does not, and with nothing left to do.
    #[test]
    fn whatever_is_told_after_a_look_everything_is_right(steps in prop::collection::vec(step(), 0..60)) {
        let (mut world, mut machine, now) = play(steps, true);
        settle(&mut world, &mut machine, now);
        let right: BTreeMap<Class, u64> = world.classes.iter().map(|class| (class.clone(), world.wanted)).collect();
        match world.real {
            Real::Running => {
                prop_assert_eq!(machine.presence(), Presence::Here);
                prop_assert_eq!(&world.drives, &right);
                prop_assert_eq!(world.images, right.into_iter().collect());
            }
            Real::Off => {
                prop_assert_eq!(machine.presence(), Presence::Absent);
                prop_assert!(world.images.is_empty(), "{:?}", world.images);
                prop_assert!(machine.is_forgotten());
            }
            Real::Incoming | Real::Outgoing => prop_assert!(matches!(
                machine.presence(), Presence::Arriving | Presence::Leaving
            )),
        }
        prop_assert!(machine.next(now + Duration::from_secs(3600)).is_none());
    }

    /// A VM that is on its way is not changed by who looks only at what happens to it.
    #[test]
    fn no_more_is_done_than_there_are_reasons_for(times in 1_u32..50) {
        let mut machine = one();
        let mut world = World { real: Real::Off, drives: BTreeMap::new(), images: BTreeSet::new(), wanted: 0, classes: vec![class("infrastructure")] };
        for event in world.act(Act::Boot) {
            (0..times).for_each(|_| machine.heard(event));
        }
        let done = settle(&mut world, &mut machine, Instant::now());
        prop_assert_eq!(done, 1);
        (0..times).for_each(|_| machine.found(Found::Here, false));
        prop_assert_eq!(settle(&mut world, &mut machine, Instant::now()), 0);
    }
}
