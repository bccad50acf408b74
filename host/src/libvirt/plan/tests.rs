//! A world of VMs, some of which hang, and a plan that must not let the others wait.

use super::*;
use std::collections::HashSet;

const SECOND: Duration = Duration::from_secs(1);

/// libvirt, as far as a plan can tell: a call takes 5 ms for each VM. Where one hangs it stands still while
/// it has got that VM's job, and passes it over if another call has.
struct World {
    start: Instant,
    now: Instant,
    plan: Plan,
    vms: Vec<Arc<str>>,
    hanging: HashSet<Arc<str>>,
    /// Which call holds the job of a VM that hangs.
    jobs: HashMap<Arc<str>, CallId>,
    /// Open calls: when they will have been answered, if nothing hangs.
    open: Vec<(Instant, Order)>,
    answered: HashMap<Arc<str>, Instant>,
    most_open: usize,
}

impl World {
    fn new(count: usize) -> Self {
        let now = Instant::now();
        Self {
            start: now,
            now,
            plan: Plan::default(),
            vms: (0..count).map(|n| format!("vm{n:04}").into()).collect(),
            hanging: HashSet::new(),
            jobs: HashMap::new(),
            open: Vec::new(),
            answered: HashMap::new(),
            most_open: 0,
        }
    }

    fn hang(&mut self, vms: &[usize]) {
        self.hanging = vms.iter().map(|n| Arc::clone(&self.vms[*n])).collect();
    }

    fn step(&mut self) {
        let (now, start) = (self.now, self.start);
        let next = |every: Duration| {
            let passed = (now - start).as_millis() / every.as_millis();
            start + every * u32::try_from(passed + 1).unwrap()
        };
        self.plan
            .follow(now, self.vms.iter().map(|vm| (vm, SECOND)), &next);
        self.plan.expire(now);
        self.plan.begin(now, &next);
        while let Some(order) = self.plan.next(now) {
            let takes = Duration::from_millis(5) * u32::try_from(order.vms.len()).unwrap();
            let takes = if order.kind == Kind::Quick {
                Duration::ZERO
            } else {
                takes
            };
            self.open.push((now + takes, order));
        }
        self.most_open = self.most_open.max(self.open.len());
        self.jobs.retain(|vm, _| self.hanging.contains(vm));
        for (at, order) in std::mem::take(&mut self.open) {
            let hangs = order.vms.iter().find(|vm| {
                let free = self.hanging.contains(*vm) && order.kind == Kind::Detailed;
                free && *self.jobs.entry(Arc::clone(vm)).or_insert(order.call) == order.call
            });
            if at > now || hangs.is_some() {
                self.open.push((at, order));
                continue;
            }
            let word = |vm: &Arc<str>| match self.hanging.contains(vm) {
                true => Word::Part,
                false => Word::Whole,
            };
            if self.plan.answered(order.call, now, word) && order.kind == Kind::Detailed {
                let whole = order
                    .vms
                    .into_iter()
                    .filter(|vm| !self.hanging.contains(vm));
                self.answered.extend(whole.map(|vm| (vm, now)));
            }
        }
        self.now += Duration::from_millis(5);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// The age of the oldest figures of those that do not hang.
    fn oldest(&self) -> Duration {
        let ages = self.vms.iter().filter(|vm| !self.hanging.contains(*vm));
        let ages = ages.map(|vm| {
            self.answered
                .get(vm)
                .map_or(Duration::MAX, |t| self.now - *t)
        });
        ages.max().unwrap()
    }
}

#[test]
fn a_vm_that_hangs_never_makes_others_figures_older_than_two_intervals() {
    for hanging in [vec![3], vec![0, 30, 31, 77], (0..8).collect()] {
        let mut world = World::new(100);
        world.run(3 * SECOND);
        assert!(world.oldest() < 2 * SECOND, "{:?}", world.oldest());
        world.hang(&hanging);
        for _ in 0..600 {
            world.step();
            assert!(
                world.oldest() <= 2 * SECOND,
                "{hanging:?}: {:?}",
                world.oldest()
            );
        }
        world.run(60 * SECOND);
        assert!(
            world.oldest() <= 2 * SECOND,
            "{hanging:?}: {:?}",
            world.oldest()
        );
        assert!(
            world.most_open <= MAX_OPEN,
            "{} calls open",
            world.most_open
        );
        let apart = world.vms.iter().filter(|vm| world.plan.is_apart(vm));
        assert_eq!(apart.count(), hanging.len());
    }
}

#[test]
fn a_vm_that_goes_on_is_asked_with_the_others_again() {
    let mut world = World::new(50);
    world.run(2 * SECOND);
    world.hang(&[7, 8]);
    world.run(30 * SECOND);
    assert!(world.plan.late() > 0);
    world.hang(&[]);
    world.run(2 * SECOND);
    assert_eq!(world.plan.late(), 0, "every call has returned");
    assert!(!world.vms.iter().any(|vm| world.plan.is_apart(vm)));
    assert!(world.oldest() < 2 * SECOND, "{:?}", world.oldest());
}

#[test]
fn more_that_hang_than_there_are_askers_are_bounded() {
    let mut world = World::new(100);
    world.hang(&(0..60).collect::<Vec<_>>());
    world.run(30 * SECOND);
    assert!(
        world.most_open <= MAX_OPEN,
        "{} calls open",
        world.most_open
    );
    world.hang(&[]);
    world.run(3 * SECOND);
    assert!(world.oldest() < 2 * SECOND, "{:?}", world.oldest());
}

#[test]
fn a_vm_whose_job_somebody_else_holds_is_asked_by_itself_with_growing_pauses() {
    let (start, uuid): (Instant, Arc<str>) = (Instant::now(), "a".into());
    let mut plan = Plan::default();
    let next = |every: Duration| start + every;
    plan.follow(start, [(&uuid, SECOND)].into_iter(), &next);
    let (mut now, mut pauses, mut last) = (start + SECOND, Vec::new(), None);
    for _ in 0..10 {
        plan.expire(now);
        plan.begin(now, &|_| now + 1000 * SECOND);
        while let Some(order) = plan.next(now) {
            if order.kind == Kind::Detailed {
                pauses.extend(last.map(|last| now - last));
                last = Some(now);
            }
            plan.answered(order.call, now, |_| Word::Part);
        }
        now = plan.wake().unwrap();
    }
    assert_eq!(pauses[0], PAUSE.0);
    assert!(
        pauses.is_sorted() && *pauses.last().unwrap() == PAUSE.1,
        "{pauses:?}"
    );
}

#[test]
fn each_vm_is_asked_at_its_own_interval() {
    let (start, slow, fast): (Instant, Arc<str>, Arc<str>) =
        (Instant::now(), "s".into(), "f".into());
    let mut plan = Plan::default();
    let mut asked = HashMap::new();
    for ms in 0..5000 {
        let now = start + Duration::from_millis(ms);
        let next = |every: Duration| now + every;
        plan.follow(
            now,
            [(&slow, SECOND), (&fast, SECOND / 10)].into_iter(),
            &next,
        );
        plan.begin(now, &next);
        while let Some(order) = plan.next(now) {
            plan.answered(order.call, now, |_| Word::Whole);
            if order.kind == Kind::Detailed {
                order
                    .vms
                    .into_iter()
                    .for_each(|vm| *asked.entry(vm).or_insert(0) += 1);
            }
        }
    }
    assert!(
        (4..=6).contains(&asked[&slow]) && (45..=51).contains(&asked[&fast]),
        "{asked:?}"
    );
}
