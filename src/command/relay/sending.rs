//! What of the spool is on its way: read in parts, in order, as far as a window allows. A topic that the next broker
//! does not let us write on is left out for a while, so that it holds up nobody else; its messages stay.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::spool::{Part, Reading, Row};

/// The most messages on their way.
const WINDOW: usize = 1000;
/// The same, in bytes of payload.
const WINDOW_BYTES: usize = 8 << 20;
/// How long a topic is left out that was denied: at first, and at most.
const LEFT_OUT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// The most topics of which it is known; over it a topic is tried again as if it were new.
const MAX_DENIED: usize = 1024;

/// A message on its way.
#[derive(Debug)]
pub struct Sent {
    /// Its topic.
    pub topic: String,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Denied {
    until: Instant,
    wait: Duration,
}

/// What is on its way, and where reading goes on.
#[derive(Debug)]
pub struct Sending {
    /// Everything through here has been looked at.
    through: i64,
    sent: BTreeMap<i64, Sent>,
    bytes: usize,
    /// A part has been asked for.
    reading: bool,
    /// There may be something to read.
    more: bool,
    denied: HashMap<String, Denied>,
    /// The first message that was left out, and when it is looked at again.
    left_out: Option<(i64, Instant)>,
}

impl Default for Sending {
    fn default() -> Self {
        Self {
            through: 0,
            sent: BTreeMap::new(),
            bytes: 0,
            reading: false,
            more: true,
            denied: HashMap::new(),
            left_out: None,
        }
    }
}

impl Sending {
    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Topics that are left out.
    pub fn denied(&self) -> usize {
        self.denied.len()
    }

    /// There is something new in the spool.
    pub fn news(&mut self) {
        self.more = true;
    }

    /// What is to be read now, if anything.
    pub fn want(&mut self, now: Instant) -> Option<Reading> {
        if let Some((first, _)) = self.left_out.take_if(|(_, at)| *at <= now) {
            (self.through, self.more) = (self.through.min(first - 1), true);
        }
        let room = self.sent.len() < WINDOW / 2 && self.bytes < WINDOW_BYTES / 2;
        if self.reading || !self.more || !room {
            return None;
        }
        (self.reading, self.more) = (true, false);
        let but = self.denied.iter().filter(|(_, denied)| denied.until > now);
        Some(Reading {
            after: self.through,
            rows: WINDOW - self.sent.len(),
            bytes: WINDOW_BYTES - self.bytes,
            but: but.map(|(topic, _)| topic.clone()).collect(),
            sent: self.sent.keys().copied().collect(),
        })
    }

    /// Takes a part that was read; its messages are on their way now.
    pub fn take(&mut self, part: &Part, now: Instant) {
        self.reading = false;
        self.through = part.through;
        self.more |= !part.end;
        for Row { id, message, .. } in &part.rows {
            let bytes = message.payload.len();
            self.bytes += bytes;
            let topic = message.topic.clone();
            self.sent.insert(*id, Sent { topic, bytes });
        }
        if let Some(id) = part.left_out {
            self.leave_out(id, now + LEFT_OUT.0);
        }
    }

    /// A message has arrived, or never will.
    pub fn done(&mut self, id: i64) -> Option<Sent> {
        let sent = self.sent.remove(&id)?;
        self.bytes -= sent.bytes;
        Some(sent)
    }

    /// A message has arrived: its topic is open.
    pub fn open(&mut self, topic: &str) {
        if !self.denied.is_empty() {
            self.denied.remove(topic);
        }
    }

    /// The broker did not take a message: it stays in the spool, and its topic is left out for a while.
    pub fn deny(&mut self, id: i64, now: Instant) {
        let Some(sent) = self.done(id) else { return };
        let known = self.denied.get(&sent.topic).copied();
        let denied = match known {
            // Others of the topic were on their way already.
            Some(denied) if denied.until > now => denied,
            Some(denied) => Denied::after(now, (denied.wait * 2).min(LEFT_OUT.1)),
            None => Denied::after(now, LEFT_OUT.0),
        };
        if known.is_some() || self.denied.len() < MAX_DENIED {
            self.denied.insert(sent.topic, denied);
        }
        self.leave_out(id, denied.until);
    }

    fn leave_out(&mut self, id: i64, until: Instant) {
        let (first, at) = self.left_out.unwrap_or((id, until));
        self.left_out = Some((first.min(id), at.min(until)));
    }
}

impl Denied {
    fn after(now: Instant, wait: Duration) -> Self {
        Self {
            until: now + wait,
            wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::relay::spool::Message;
    use vmkpi::clock::Timestamp;

    fn part(rows: &[(i64, &str)], left_out: Option<i64>, end: bool) -> Part {
        let rows: Vec<_> = rows
            .iter()
            .map(|(id, topic)| Row {
                id: *id,
                kept: Timestamp::now(),
                message: Message {
                    topic: (*topic).to_owned(),
                    payload: "12345".into(),
                    retain: false,
                    properties: String::new(),
                },
            })
            .collect();
        let through = rows.iter().map(|row| row.id).chain(left_out).max();
        Part {
            through: through.unwrap_or(0),
            rows,
            left_out,
            end,
        }
    }

    #[test]
    fn the_spool_is_read_in_parts_and_again_when_there_is_news() {
        let (mut sending, now) = (Sending::default(), Instant::now());
        let reading = sending.want(now).unwrap();
        assert_eq!((reading.after, reading.rows), (0, WINDOW));
        assert!(sending.want(now).is_none(), "one part at a time");
        sending.news();
        sending.take(&part(&[(1, "a"), (2, "b")], None, true), now);
        let reading = sending.want(now).expect("what came while it was read");
        assert_eq!((reading.after, reading.sent.len()), (2, 2));
        sending.take(&part(&[], None, true), now);
        assert!(sending.want(now).is_none());
        assert_eq!(sending.done(1).unwrap().topic, "a");
        assert!(sending.done(1).is_none() && !sending.is_empty());
        assert_eq!(sending.bytes, 5);
    }

    #[test]
    fn no_more_is_read_than_the_window_holds() {
        let (mut sending, now) = (Sending::default(), Instant::now());
        sending.want(now);
        let rows: Vec<_> = (1..=500).map(|id| (id, "a")).collect();
        sending.take(&part(&rows, None, false), now);
        assert!(sending.want(now).is_none());
        sending.done(7);
        assert_eq!(sending.want(now).unwrap().rows, WINDOW - 499);
    }

    #[test]
    fn a_denied_topic_is_left_out_and_tried_again_later_and_later() {
        let (mut sending, now) = (Sending::default(), Instant::now());
        sending.want(now);
        sending.take(&part(&[(1, "no"), (2, "yes"), (3, "no")], None, true), now);
        sending.deny(1, now);
        sending.deny(3, now);
        sending.done(2);
        sending.open("yes");
        assert!(sending.want(now).is_none(), "not at once");
        sending.news();
        let reading = sending.want(now).unwrap();
        assert!(reading.after == 3 && reading.but.contains("no"));
        sending.take(&part(&[], Some(4), true), now);
        let later = now + LEFT_OUT.0;
        let reading = sending.want(later).expect("it is tried again");
        assert!(reading.after == 0 && reading.but.is_empty());
        sending.take(&part(&[(1, "no")], None, true), later);
        sending.deny(1, later);
        assert!(sending.want(later + LEFT_OUT.0).is_none());
        assert!(sending.want(later + 2 * LEFT_OUT.0).is_some());
        assert_eq!(sending.denied(), 1);
        sending.open("no");
        assert_eq!(sending.denied(), 0);
    }
}
