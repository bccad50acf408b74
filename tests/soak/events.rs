//! What goes wrong next: drawn from a seed, so that a run can be had again.

use std::time::Duration;

use crate::seed::Seed;

/// What is hurt; one thing at a time has one trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A host daemon.
    Host(usize),
    /// A guest daemon.
    Guest(usize),
    /// The broker.
    Broker,
    /// The network between hosts, watcher and broker.
    Network,
    /// The watcher.
    Watch,
}

/// What is done to a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// kill -9, and a new start.
    Kill,
    /// SIGTERM, and a new start.
    End,
    /// SIGSTOP, and SIGCONT.
    Freeze,
    /// Connections are reset for a while.
    Cut,
    /// Nothing gets through for a while.
    Silence,
    /// Nothing gets through for a while, and then connections are reset: what was on its way is lost.
    Blackout,
    /// The wall clock is set so far from the right time.
    Clock(&'static str),
    /// Another descriptor.
    Describe,
}

/// One event: what, to whom, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// To whom.
    pub part: Part,
    /// What.
    pub trouble: Trouble,
    /// How long it lasts.
    pub lasts: Duration,
}

/// What there is to hurt, and what may be done.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Host daemons. The first is never killed: its memory is looked at.
    pub hosts: usize,
    /// Guests, evenly on the hosts. The first is never killed.
    pub guests: usize,
    /// Whether clocks can be set.
    pub clocks: bool,
    /// Whether the broker may be killed: it takes along what it has acknowledged.
    pub broker_kills: bool,
    /// The longest that something lasts.
    pub longest: Duration,
}

const OFFSETS: [&str; 8] = ["-3s", "+2s", "+0", "-1h", "+1h", "-2d", "+400d", "+0"];

/// Draws the next event.
pub fn draw(seed: &mut Seed, scene: &Scene) -> Event {
    let (part, trouble) = match seed.below(100) {
        0..=15 => host(seed, scene),
        16..=31 => guest(seed, scene),
        32..=41 => (Part::Broker, broker(seed, scene)),
        42..=53 => (Part::Network, network(seed)),
        54..=70 => clock(seed, scene),
        71..=75 => (Part::Watch, Trouble::Kill),
        _ => (Part::Guest(index(seed, scene.guests)), Trouble::Describe),
    };
    let longest = u64::try_from(scene.longest.as_millis()).unwrap_or(u64::MAX);
    // Short ones more often: what is back at once meets what has not noticed yet.
    let lasts = (1 + seed.below(longest)).min(1 + seed.below(longest));
    Event {
        part,
        trouble,
        lasts: Duration::from_millis(lasts),
    }
}

fn index(seed: &mut Seed, count: usize) -> usize {
    usize::try_from(seed.below(count as u64)).unwrap_or(0)
}

fn network(seed: &mut Seed) -> Trouble {
    [Trouble::Cut, Trouble::Silence, Trouble::Blackout][index(seed, 3)]
}

/// A program that may not be killed is stopped.
fn ending(seed: &mut Seed, steady: bool) -> Trouble {
    match seed.below(3) {
        0 if !steady => Trouble::Kill,
        1 if !steady => Trouble::End,
        _ => Trouble::Freeze,
    }
}

fn host(seed: &mut Seed, scene: &Scene) -> (Part, Trouble) {
    let host = index(seed, scene.hosts);
    (Part::Host(host), ending(seed, host == 0))
}

fn guest(seed: &mut Seed, scene: &Scene) -> (Part, Trouble) {
    let guest = index(seed, scene.guests);
    (Part::Guest(guest), ending(seed, guest == 0))
}

fn broker(seed: &mut Seed, scene: &Scene) -> Trouble {
    match seed.below(4) {
        0 if scene.broker_kills => Trouble::Kill,
        0 | 1 => Trouble::End,
        _ => Trouble::Freeze,
    }
}

fn clock(seed: &mut Seed, scene: &Scene) -> (Part, Trouble) {
    let guest = Part::Guest(index(seed, scene.guests));
    if !scene.clocks {
        return (guest, Trouble::Describe);
    }
    let part = match seed.below(3) {
        0 => Part::Host(index(seed, scene.hosts)),
        _ => guest,
    };
    (part, Trouble::Clock(OFFSETS[index(seed, OFFSETS.len())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENE: Scene = Scene {
        hosts: 2,
        guests: 4,
        clocks: true,
        broker_kills: false,
        longest: Duration::from_secs(3),
    };

    fn run(seed: u64, scene: &Scene) -> Vec<Event> {
        let mut seed = Seed(seed);
        (0..3000).map(|_| draw(&mut seed, scene)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_events_and_another_one_others() {
        assert_eq!(run(1, &SCENE), run(1, &SCENE));
        assert_ne!(run(1, &SCENE), run(2, &SCENE));
    }

    #[test]
    fn everything_happens_and_the_steady_ones_are_never_killed() {
        let all = run(1, &SCENE);
        let has = |part, trouble| all.iter().any(|e| e.part == part && e.trouble == trouble);
        for trouble in [Trouble::Kill, Trouble::End, Trouble::Freeze] {
            assert!(has(Part::Host(1), trouble) && has(Part::Guest(3), trouble));
        }
        for steady in [Part::Host(0), Part::Guest(0)] {
            assert!(!has(steady, Trouble::Kill) && !has(steady, Trouble::End));
            assert!(has(steady, Trouble::Freeze) && has(steady, Trouble::Clock("-1h")));
        }
        for trouble in [Trouble::Cut, Trouble::Silence, Trouble::Blackout] {
            assert!(has(Part::Network, trouble));
        }
        assert!(has(Part::Broker, Trouble::End) && !has(Part::Broker, Trouble::Kill));
        let kills = Scene {
            broker_kills: true,
            ..SCENE
        };
        let kill = |e: &Event| e.part == Part::Broker && e.trouble == Trouble::Kill;
        assert!(run(1, &kills).iter().any(kill));
        assert!(all.iter().all(|e| e.lasts <= SCENE.longest));
    }
}
