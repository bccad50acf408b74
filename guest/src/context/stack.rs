//! Which layers there are, in which order, and which of them linger. Pure: what came and went, and when, go in.
//!
//! ```text
//!                comes                     goes                    linger is over
//! (not there) ──────────> shown ─────────────────────> lingering ─────────────────> (not there)
//!                           ^                            │
//!                           └─── the same source again ──┘ another layer of its class: gone at once
//! ```

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmkpi::clock::Timestamp;
use vmkpi::context::Class;

use super::layer::Layer;

/// The most layers; more are not taken, which is said.
pub const MAX_LAYERS: usize = 16;

/// Where a layer comes from. Within a class, media lie over directories, which are the image's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A medium in a drive.
    Drive(String),
    /// A local directory.
    Directory(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drive(drive) => write!(f, "drive {drive}"),
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A layer that is shown.
#[derive(Clone, Debug)]
pub struct Held {
    /// Where it comes from.
    pub source: Source,
    /// The layer.
    pub layer: Arc<Layer>,
    /// Since when it is shown.
    pub since: Timestamp,
    /// When it is shown no longer, if it has gone.
    pub leaves: Option<Instant>,
    /// Later ones lie over earlier ones of the same kind.
    arrival: u64,
}

/// The layers.
#[derive(Debug)]
pub struct Stack {
    classes: Vec<Class>,
    linger: Duration,
    held: Vec<Held>,
    arrivals: u64,
}

impl Stack {
    /// No layers yet, of these classes, the highest first. One that goes is shown for so long.
    pub fn new(classes: Vec<Class>, linger: Duration) -> Self {
        Self {
            classes,
            linger,
            held: Vec::new(),
            arrivals: 0,
        }
    }

    /// How long a layer is shown that has gone.
    pub fn set_linger(&mut self, linger: Duration) {
        self.linger = linger;
    }

    /// A layer is there, in the place of what its source had and of those of its class that linger.
    ///
    /// # Errors
    /// Why it is not shown.
    pub fn put(
        &mut self,
        source: Source,
        layer: Arc<Layer>,
        at: (Instant, Timestamp),
    ) -> Result<(), String> {
        if !self.classes.contains(&layer.class) {
            return Err(format!(
                "the context of class {} in {source} is ignored: context.classes does not name it",
                layer.class
            ));
        }
        self.take_others(&source, &layer.class, at.0);
        let same = |held: &&Held| held.source == source && held.layer.is_same_as(&layer);
        let since = self.held.iter().find(same).map_or(at.1, |held| held.since);
        self.held.retain(|held| {
            held.layer.class != layer.class || held.source != source && held.leaves.is_none()
        });
        if self.held.len() >= MAX_LAYERS {
            return Err(format!(
                "the context of class {} in {source} is ignored: there are {MAX_LAYERS} layers already",
                layer.class
            ));
        }
        self.arrivals += 1;
        self.held.push(Held {
            source,
            layer,
            since,
            leaves: None,
            arrival: self.arrivals,
        });
        self.sort();
        Ok(())
    }

    /// A source has no layer of that class any more; it lingers.
    pub fn take(&mut self, source: &Source, class: &Class, now: Instant) {
        let leaves = now + self.linger;
        let gone = |held: &&mut Held| held.source == *source && held.layer.class == *class;
        for held in self.held.iter_mut().filter(gone) {
            held.leaves.get_or_insert(leaves);
        }
    }

    /// What a source had of other classes goes when it has one of this.
    fn take_others(&mut self, source: &Source, class: &Class, now: Instant) {
        let leaves = now + self.linger;
        let gone = |held: &&mut Held| held.source == *source && held.layer.class != *class;
        for held in self.held.iter_mut().filter(gone) {
            held.leaves.get_or_insert(leaves);
        }
    }

    /// Drops those that have lingered for long enough.
    pub fn tick(&mut self, now: Instant) {
        self.held
            .retain(|held| held.leaves.is_none_or(|leaves| leaves > now));
    }

    /// When the next one goes.
    pub fn deadline(&self) -> Option<Instant> {
        self.held.iter().filter_map(|held| held.leaves).min()
    }

    /// All that are shown, the highest first.
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Their layers.
    pub fn layers(&self) -> Vec<Arc<Layer>> {
        self.held
            .iter()
            .map(|held| Arc::clone(&held.layer))
            .collect()
    }

    /// Their classes, as often as there are layers of them, those that linger not.
    pub fn classes(&self) -> Vec<Class> {
        let there = self.held.iter().filter(|held| held.leaves.is_none());
        there.map(|held| held.layer.class.clone()).collect()
    }

    fn sort(&mut self) {
        let classes = &self.classes;
        self.held.sort_by_key(|held| {
            let class = classes.iter().position(|class| *class == held.layer.class);
            let image = matches!(held.source, Source::Directory(_));
            (class, image, std::cmp::Reverse(held.arrival))
        });
    }
}

/// Whether each of `wanted` is among `there`, as often as it is wanted.
pub fn has_all(there: &[Class], wanted: &[Class]) -> bool {
    let count = |classes: &[Class], class| classes.iter().filter(|c| *c == class).count();
    wanted
        .iter()
        .all(|class| count(there, class) >= count(wanted, class))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn layer(class: &str) -> Arc<Layer> {
        let content = std::fs::File::open("/dev/null").unwrap();
        let class = class.parse().unwrap();
        Arc::new(Layer::new(class, BTreeMap::new(), BTreeSet::new(), content))
    }

    fn drive(name: &str) -> Source {
        Source::Drive(name.into())
    }

    fn shown(stack: &Stack) -> Vec<String> {
        let text = |held: &Held| format!("{} {}", held.layer.class, held.source);
        stack.held().iter().map(text).collect()
    }

    fn stack() -> Stack {
        let classes = ["infrastructure", "service"].map(|c| c.parse().unwrap());
        Stack::new(classes.into(), Duration::from_secs(5))
    }

    #[test]
    fn classes_are_in_order_and_media_lie_over_the_image() {
        let (mut stack, now) = (stack(), (Instant::now(), Timestamp::default()));
        stack.put(drive("sr1"), layer("service"), now).unwrap();
        let image = Source::Directory("/etc/c".into());
        stack.put(image, layer("service"), now).unwrap();
        stack
            .put(drive("sr0"), layer("infrastructure"), now)
            .unwrap();
        stack.put(drive("sr2"), layer("service"), now).unwrap();
        let expected = [
            "infrastructure drive sr0",
            "service drive sr2",
            "service drive sr1",
            "service /etc/c",
        ];
        assert_eq!(shown(&stack), expected);
        let refused = stack.put(drive("sr3"), layer("foreign"), now).unwrap_err();
        assert!(refused.contains("context.classes"), "{refused}");
    }

    #[test]
    fn what_goes_lingers_unless_another_of_its_class_comes() {
        let mut stack = stack();
        let start = Instant::now();
        let at = |s: u64| (start + Duration::from_secs(s), Timestamp::default());
        stack.put(drive("sr0"), layer("service"), at(0)).unwrap();
        stack.take(&drive("sr0"), &"service".parse().unwrap(), at(1).0);
        stack.tick(at(5).0);
        assert_eq!(shown(&stack), ["service drive sr0"]);
        assert_eq!(stack.deadline(), Some(at(6).0));
        assert!(stack.classes().is_empty());
        stack.tick(at(6).0);
        assert!(stack.held().is_empty());

        stack.put(drive("sr0"), layer("service"), at(7)).unwrap();
        stack.take(&drive("sr0"), &"service".parse().unwrap(), at(8).0);
        stack.put(drive("sr1"), layer("service"), at(9)).unwrap();
        assert_eq!(shown(&stack), ["service drive sr1"]);
        stack
            .put(drive("sr1"), layer("infrastructure"), at(10))
            .unwrap();
        assert_eq!(
            stack.deadline(),
            Some(at(15).0),
            "its medium of before lingers"
        );
        stack
            .put(drive("sr1"), layer("infrastructure"), at(11))
            .unwrap();
        assert_eq!(shown(&stack).len(), 2, "replaced, not laid over");
    }

    #[test]
    fn no_more_than_so_many() {
        let (mut stack, now) = (stack(), (Instant::now(), Timestamp::default()));
        for n in 0..MAX_LAYERS {
            stack
                .put(drive(&format!("sr{n}")), layer("service"), now)
                .unwrap();
        }
        assert!(stack.put(drive("sr99"), layer("service"), now).is_err());
        stack.put(drive("sr3"), layer("service"), now).unwrap();
    }

    #[test]
    fn all_is_counted() {
        let c =
            |names: &[&str]| -> Vec<Class> { names.iter().map(|n| n.parse().unwrap()).collect() };
        assert!(has_all(&c(&["a", "b"]), &c(&["b"])));
        assert!(!has_all(&c(&["a", "b"]), &c(&["b", "b"])));
    }
}
