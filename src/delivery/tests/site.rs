//! A Consumer of a run.

use super::*;

/// A named Consumer with its database.
pub(super) struct Site {
    pub(super) name: Label,
    pub(super) cursors: BTreeMap<InstanceId, Position>,
    pub(super) keys: BTreeSet<(Label, DataPoint, RowKey)>,
    pub(super) samples: Vec<(InstanceId, u64, Value)>,
    pub(super) accepted: BTreeMap<InstanceId, Vec<Kept>>,
    pub(super) deaf_until: u64,
    pub(super) issued: u64,
    /// Its word counts all the time, for all that is specified.
    pub(super) always_named: bool,
    pub(super) holes: BTreeMap<InstanceId, Hole>,
    /// Where its cursors began.
    pub(super) begun: BTreeMap<InstanceId, u64>,
    /// Rows that it has given up: after, through.
    pub(super) given_up: BTreeMap<InstanceId, Vec<(u64, u64)>>,
    /// Rows that messages spoke of which it got.
    pub(super) heard: BTreeMap<InstanceId, BTreeSet<u64>>,
}

impl Site {
    pub(super) fn on(&mut self, event: &Event, now: u64) -> Option<Confirmation> {
        let table = TableId {
            stream: event.stream,
            point: event.point.clone(),
        };
        let id = (table.clone(), event.specifier.clone());
        let rows = event.after.seq + 1..=event.through.seq;
        self.heard.entry(id.clone()).or_default().extend(rows);
        let cursor = *self
            .cursors
            .entry(id.clone())
            .or_insert_with(|| first_cursor(event, false));
        self.begun.entry(id.clone()).or_insert(cursor.seq);
        let verdict = judge(cursor, event);
        if verdict == Verdict::Accept {
            self.keep(&id, event);
        }
        self.look_behind(&id, event, verdict, now);
        let through = self.cursors[&id];
        self.issued += 1;
        Some(Confirmation {
            consumer: self.name.clone(),
            issued: self.issued,
            table,
            specifier: event.specifier.clone(),
            through,
            want_from: (verdict == Verdict::Missing && event.through.seq > through.seq)
                .then_some(through),
        })
    }

    fn keep(&mut self, id: &InstanceId, event: &Event) {
        let cursor = self.cursors[id];
        if let Body::Raw(samples) = &event.body {
            for s in samples.iter().filter(|s| s.seq > cursor.seq) {
                let SampleBody::Values(values) = &s.body else {
                    panic!()
                };
                let key = (event.specifier.clone(), event.point.clone(), s.key);
                if self.keys.insert(key) {
                    self.samples
                        .push((id.clone(), s.seq, values.row[0].clone()));
                }
            }
        }
        self.cursors.insert(id.clone(), event.through);
        self.accepted
            .entry(id.clone())
            .or_default()
            .push((event.clone(), cursor));
    }

    /// What was held behind a hole, when that is filled or given up.
    fn look_behind(&mut self, id: &InstanceId, event: &Event, verdict: Verdict, now: u64) {
        let cursor = self.cursors[id];
        let fresh = || Hole::new(cursor, now);
        let mut hole = self.holes.remove(id).unwrap_or_else(fresh);
        if verdict == Verdict::Missing {
            hole.hold(event.clone());
        }
        if self.always_named {
            // What the rule stands on (src/delivery/hole.rs).
            assert!(
                event.base.seq <= cursor.seq,
                "{id:?}: acknowledged without its Consumer"
            );
        }
        if verdict != Verdict::OtherHistory {
            for step in hole.steps(cursor, event.base, now, false) {
                match step {
                    Step::Keep(event) => self.keep(id, event),
                    Step::GiveUp(through) => {
                        let after = self.cursors.insert(id.clone(), through);
                        let rows = (after.map_or(0, |p| p.seq), through.seq);
                        let lost = rows.0 + 1..=rows.1;
                        let came: Vec<_> = self.heard[id].range(lost).collect();
                        let checked = id.1.as_str() == "m0";
                        assert!(!checked || came.is_empty(), "{id:?}: {came:?} came");
                        self.given_up.entry(id.clone()).or_default().push(rows);
                    }
                }
            }
        }
        if hole.settle(self.cursors[id], now) {
            self.holes.insert(id.clone(), hole);
        }
    }
}
