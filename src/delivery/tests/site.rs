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
}

impl Site {
    pub(super) fn on(&mut self, event: &Event) -> Option<Confirmation> {
        let table = TableId {
            stream: event.stream,
            point: event.point.clone(),
        };
        let id = (table.clone(), event.specifier.clone());
        let cursor = *self
            .cursors
            .entry(id.clone())
            .or_insert_with(|| first_cursor(event, false));
        let verdict = judge(cursor, event);
        if verdict == Verdict::Accept {
            if let Body::Raw(samples) = &event.body {
                for s in samples {
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
        let through = self.cursors[&id];
        self.issued += 1;
        Some(Confirmation {
            consumer: self.name.clone(),
            issued: self.issued,
            table,
            specifier: event.specifier.clone(),
            through,
            want_from: (verdict == Verdict::Missing).then_some(through),
        })
    }
}
