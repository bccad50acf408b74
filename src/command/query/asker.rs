//! What to ask next, and what of what comes is new. Pure: it takes answers that somebody has vouched for, and
//! returns rows. A page counts only where it goes on from the place that was reached, whoever sent it and however
//! often, so each row is taken once.

use std::collections::{HashSet, VecDeque};

use anyhow::bail;
use vmkpi::clock::Timestamp;
use vmkpi::link::HistoryPosition;
use vmkpi::message::Sample;
use vmkpi::name::DataPoint;
use vmkpi::position::{QueryId, RowKey, StreamId};
use vmkpi::query::{MAX_ROWS, Page, Question, Trimmed};

/// Questions whose answers may still come.
const MAX_OPEN: usize = 8;
/// Rows whose keys are remembered: a guest that begins a new stream meanwhile shows what was not acknowledged again.
const MAX_KEYS: usize = 1_000_000;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The data point.
    pub point: DataPoint,
    /// From when on.
    pub from: Option<Timestamp>,
    /// Until when.
    pub to: Option<Timestamp>,
    /// At most so many rows.
    pub limit: Option<u64>,
}

/// What is to be done after a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next page of the same answer comes by itself.
    Wait,
    /// There is more for another question.
    Ask,
    /// That was all, or enough.
    End,
}

/// What a page brought.
#[derive(Debug, PartialEq)]
pub struct Taken {
    /// The stream of the rows.
    pub stream: StreamId,
    /// Rows that were not there before.
    pub rows: Vec<Sample>,
    /// What retention has taken of the stream, said once.
    pub trimmed: Option<Trimmed>,
    /// Rows too large for an answer.
    pub left_out: u64,
    /// What now.
    pub then: Then,
}

/// Asks for one point.
#[derive(Debug)]
pub struct Asker {
    wanted: Wanted,
    left: u64,
    place: Option<HistoryPosition>,
    open: VecDeque<QueryId>,
    /// Streams that were left behind.
    behind: HashSet<StreamId>,
    keys: (HashSet<RowKey>, VecDeque<RowKey>),
    trimmed: Option<(StreamId, Trimmed)>,
}

impl Asker {
    /// From the beginning.
    pub fn new(wanted: Wanted) -> Self {
        Self {
            left: wanted.limit.unwrap_or(u64::MAX),
            wanted,
            place: None,
            open: VecDeque::new(),
            behind: HashSet::new(),
            keys: Default::default(),
            trimmed: None,
        }
    }

    /// The point.
    pub fn point(&self) -> &DataPoint {
        &self.wanted.point
    }

    /// Whether anything has come.
    pub fn has_begun(&self) -> bool {
        self.place.is_some()
    }

    /// The question for what is not there yet.
    pub fn ask(&mut self, id: QueryId) -> Question {
        self.open.push_back(id);
        if self.open.len() > MAX_OPEN {
            self.open.pop_front();
        }
        Question {
            id,
            point: self.wanted.point.clone(),
            from: self.wanted.from,
            to: self.wanted.to,
            after: self.place,
            limit: u32::try_from(self.left).map_or(MAX_ROWS, |left| left.clamp(1, MAX_ROWS)),
        }
    }

    /// Whether it is a question of ours.
    pub fn is_open(&self, id: QueryId) -> bool {
        self.open.contains(&id)
    }

    /// Whether it is our last question.
    pub fn is_last(&self, id: QueryId) -> bool {
        self.open.back() == Some(&id)
    }

    /// Takes a page of an answer to a question of ours; nothing where it does not go on from where we are.
    ///
    /// # Errors
    /// The guest leads in circles.
    pub fn take(&mut self, page: Page) -> anyhow::Result<Option<Taken>> {
        if page.point != self.wanted.point || page.after != self.place {
            return Ok(None);
        }
        let begun = self.place.map(|place| place.stream);
        self.behind
            .extend(begun.filter(|stream| *stream != page.stream));
        let next = page.next.map(|next| next.stream);
        let next = next.filter(|next| *next != page.stream);
        if self.behind.contains(&page.stream) || next.is_some_and(|n| self.behind.contains(&n)) {
            bail!("the guest's answers lead in circles; what it says is not to be believed");
        }
        if next.is_some() {
            self.behind.insert(page.stream);
        }
        let trimmed = page.trimmed.filter(|trimmed| {
            self.trimmed.replace((page.stream, *trimmed)) != Some((page.stream, *trimmed))
        });
        let mut rows = page.samples;
        rows.retain(|row| self.is_new(row.key));
        rows.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= rows.len() as u64;
        self.place = page.next;
        let then = match page.next {
            None => Then::End,
            Some(_) if self.left == 0 => Then::End,
            Some(_) if page.last => Then::Ask,
            Some(_) => Then::Wait,
        };
        Ok(Some(Taken {
            stream: page.stream,
            rows,
            trimmed,
            left_out: page.left_out,
            then,
        }))
    }

    fn is_new(&mut self, key: RowKey) -> bool {
        let (known, order) = &mut self.keys;
        if !known.insert(key) {
            return false;
        }
        order.push_back(key);
        if order.len() > MAX_KEYS
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::message::{SampleBody, Values};
    use vmkpi::value::Value;

    fn asker(limit: Option<u64>) -> Asker {
        let mut asker = Asker::new(Wanted {
            point: "unencrypted/web".parse().unwrap(),
            from: None,
            to: None,
            limit,
        });
        asker.ask(QueryId(1));
        asker
    }

    fn place(stream: u128, seq: u64) -> Option<HistoryPosition> {
        let stream = StreamId(stream);
        Some(HistoryPosition { stream, seq })
    }

    fn page(
        after: Option<HistoryPosition>,
        (stream, seqs): (u128, std::ops::RangeInclusive<u64>),
        next: Option<HistoryPosition>,
        last: bool,
    ) -> Page {
        let sample = |seq| Sample {
            seq,
            key: RowKey(seq),
            time: Timestamp::from_micros(1),
            body: SampleBody::Values(Values {
                columns: ["n".into()].into(),
                row: vec![Value::Integer(1)],
            }),
        };
        Page {
            point: "unencrypted/web".parse().unwrap(),
            stream: StreamId(stream),
            after,
            samples: seqs.map(sample).collect(),
            next,
            last,
            trimmed: None,
            left_out: 0,
        }
    }

    /// What was taken, as the rows' numbers, and what now.
    fn take(asker: &mut Asker, page: Page) -> Option<(Vec<u64>, Then)> {
        let taken = asker.take(page).unwrap()?;
        Some((taken.rows.iter().map(|row| row.seq).collect(), taken.then))
    }

    #[test]
    fn a_page_that_comes_twice_or_from_two_hosts_is_taken_once() {
        let mut asker = asker(None);
        let first = || page(None, (7, 1..=3), place(7, 3), false);
        assert_eq!(take(&mut asker, first()), Some((vec![1, 2, 3], Then::Wait)));
        assert_eq!(take(&mut asker, first()), None);
        // Of another host, whose pages begin elsewhere.
        let other = page(place(7, 2), (7, 3..=5), place(7, 5), true);
        assert_eq!(take(&mut asker, other), None);
        let second = page(place(7, 3), (7, 4..=6), place(7, 6), true);
        assert_eq!(take(&mut asker, second), Some((vec![4, 5, 6], Then::Ask)));
        let question = asker.ask(QueryId(2));
        assert_eq!(question.after, place(7, 6));
        assert!(asker.is_open(QueryId(1)) && asker.is_last(QueryId(2)));
        let end = page(place(7, 6), (7, 7..=7), None, true);
        assert_eq!(take(&mut asker, end), Some((vec![7], Then::End)));
    }

    #[test]
    fn no_more_rows_are_taken_than_are_wanted() {
        let mut asker = asker(Some(4));
        assert_eq!(asker.ask(QueryId(2)).limit, 4);
        let first = page(None, (7, 1..=3), place(7, 3), false);
        take(&mut asker, first);
        assert_eq!(asker.ask(QueryId(3)).limit, 1);
        let second = page(place(7, 3), (7, 4..=6), place(7, 6), false);
        assert_eq!(take(&mut asker, second), Some((vec![4], Then::End)));
        assert_eq!(self::asker(None).ask(QueryId(1)).limit, MAX_ROWS);
    }

    #[test]
    fn what_a_new_stream_shows_again_is_taken_once() {
        let mut asker = asker(None);
        take(&mut asker, page(None, (7, 1..=3), place(8, 0), false));
        let moved = page(place(8, 0), (8, 2..=5), None, true);
        assert_eq!(take(&mut asker, moved), Some((vec![4, 5], Then::End)));
    }

    #[test]
    fn a_guest_that_leads_in_circles_is_not_followed() {
        let mut asker = asker(None);
        take(&mut asker, page(None, (7, 1..=1), place(8, 0), false));
        let back = page(place(8, 0), (8, 2..=2), place(7, 0), false);
        assert!(asker.take(back).is_err());
    }

    #[test]
    fn what_retention_took_is_said_once_a_stream() {
        let mut asker = asker(None);
        let trimmed = Some(Trimmed {
            through: 9,
            time: Timestamp::from_micros(1),
        });
        let mut said = 0;
        for (after, next) in [(None, place(7, 10)), (place(7, 10), place(7, 11))] {
            let page = Page {
                trimmed,
                ..page(after, (7, 10..=10), next, false)
            };
            let taken = asker.take(page).unwrap().unwrap();
            said += usize::from(taken.trimmed.is_some());
        }
        assert_eq!(said, 1);
    }
}
