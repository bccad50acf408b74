//! What must hold when a run is over: each row kept once, the windows those of a run without faults.

use super::*;

impl World {
    /// The windows of a run without faults.
    fn reference(&self, id: &InstanceId) -> Vec<Closed> {
        let monitor = self
            .descriptor
            .monitors
            .iter()
            .find(|m| m.id == id.1)
            .unwrap();
        let mut windower = Windower::new(Arc::new(monitor.clone()), Position::START, None);
        let mut out = Vec::new();
        let mut rows: Vec<_> = self.stored[&id.0].iter().collect();
        rows.sort_by_key(|r| r.seq);
        for row in rows {
            windower.feed(&[COLUMN.into()].into(), row, &mut out);
        }
        windower.close(&mut out);
        out
    }

    pub(super) fn check(&self) {
        if self.rules.harsh {
            return self.check_ledger();
        }
        for (table, rows) in &self.stored {
            for monitor in self.descriptor.monitors_of(&table.point) {
                let id = (table.clone(), monitor.id.clone());
                let last = rows.len() as u64;
                let reference = self.reference(&id);
                if self.named {
                    for site in &self.sites {
                        Self::check_site(site, (&id, monitor.when.as_ref()), &reference, last);
                    }
                } else {
                    let published = &self.published[&id];
                    assert_eq!(
                        published.len() as u64,
                        last,
                        "{id:?}: every row was published"
                    );
                }
            }
        }
        for site in &self.sites {
            self.check_holes(site);
            for (id, seq, value) in &site.samples {
                let row = self.stored[&id.0].iter().find(|r| r.seq == *seq).unwrap();
                assert_eq!(
                    row.payload,
                    Payload::Values(vec![value.clone()]),
                    "nothing is invented"
                );
            }
        }
    }

    /// A Consumer that is named gives up nothing. A stranger keeps each row of the first specifier, which takes every
    /// row raw, once, or has given it up. (That no message of it had come then is checked then.) Nobody sends who is not
    /// named a window again that straddles its cursor, as after a change of hosts: of it rows may be given up, and of raw
    /// rows none where no message is lost.
    fn check_holes(&self, site: &Site) {
        if self.rules.named {
            assert_eq!(site.given_up.len(), 0, "{:?} gave up", site.name);
        }
        if !self.rules.strangers {
            let raw = site.given_up.keys().find(|id| id.1.as_str() == "m0");
            assert_eq!(raw, None, "{:?} gave up raw rows", site.name);
            return;
        }
        for id in site.heard.keys().filter(|id| id.1.as_str() == "m0") {
            let given_up = site.given_up.get(id).map_or(&[][..], Vec::as_slice);
            let mut lost = BTreeSet::new();
            for (after, through) in given_up {
                lost.extend(after + 1..=*through);
            }
            let kept = site.samples.iter().filter(|s| s.0 == *id).map(|s| s.1);
            let mut kept: Vec<u64> = kept.chain(lost).collect();
            kept.sort_unstable();
            let last = self.stored[&id.0].len() as u64;
            let all: Vec<u64> = (site.begun[id] + 1..=last).collect();
            assert_eq!(kept, all, "{id:?}: each row once");
        }
    }

    /// The first specifier is raw and takes every row: each row of the guest's history is kept once.
    /// (That none is kept twice is what `keys` sees to, across forks; here it is the ranges.)
    fn check_ledger(&self) {
        for site in &self.sites {
            let kept: BTreeSet<_> = site.keys.iter().filter(|k| k.0.as_str() == "m0").collect();
            for (point, key) in &self.ledger {
                let id = ("m0".parse().unwrap(), point.clone(), *key);
                assert!(
                    kept.contains(&id),
                    "{point} {key} is missing at {:?}",
                    site.name
                );
            }
            for (id, accepted) in &site.accepted {
                let mut cursor = accepted.first().map_or(0, |(_, at)| at.seq);
                for (event, at) in accepted {
                    assert_eq!(
                        at.seq, cursor,
                        "{id:?}: coverage has no hole and no overlap"
                    );
                    cursor = event.through.seq;
                }
            }
        }
    }

    fn check_site(
        site: &Site,
        (id, when): (&InstanceId, Option<&When>),
        reference: &[Closed],
        last: u64,
    ) {
        assert_eq!(
            site.cursors.get(id).map_or(0, |c| c.seq),
            last,
            "{id:?}: all is covered"
        );
        let accepted = site.accepted.get(id).map_or(&[][..], Vec::as_slice);
        let mut cursor = 0;
        for (event, at) in accepted {
            assert!(
                !matches!(event.body, Body::Gap(_)),
                "{id:?}: nothing was lost"
            );
            assert_eq!(at.seq, cursor, "{id:?}: coverage has no hole");
            cursor = event.through.seq;
        }
        let raw: BTreeSet<_> = reference
            .iter()
            .flat_map(|c| match &c.content {
                Content::Raw(samples) => samples.iter().filter(|s| holds_of(when, s)).collect(),
                Content::Processed(..) => vec![],
            })
            .map(|s| s.seq)
            .collect();
        let mut kept: Vec<_> = site
            .samples
            .iter()
            .filter(|s| s.0 == *id)
            .map(|s| s.1)
            .collect();
        kept.sort_unstable();
        assert_eq!(
            kept,
            raw.into_iter().collect::<Vec<_>>(),
            "{id:?}: each sample exactly once"
        );
        let expected: Vec<_> = reference
            .iter()
            .filter_map(|c| match &c.content {
                Content::Processed(a, from, to) => {
                    let window = (c.after.seq, c.through.seq, *from, *to, a.result());
                    let value = window.4.0.get(COLUMN).copied().map(Value::Real);
                    holds(when, value.as_ref()).then_some(window)
                }
                Content::Raw(_) => None,
            })
            .collect();
        let windows: Vec<_> = accepted
            .iter()
            .filter_map(|(event, _)| match &event.body {
                Body::Processed(p) => {
                    assert!(!p.partial, "{id:?}: no whole window is called partial");
                    let result = (p.values.clone(), p.count.clone());
                    Some((p.rows_after, event.through.seq, p.from, p.to, result))
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            windows, expected,
            "{id:?}: the windows of a run without faults"
        );
    }
}

pub(super) fn holds(when: Option<&When>, value: Option<&Value>) -> bool {
    let lookup = |name: &str| value.filter(|_| name == COLUMN).map(Cow::Borrowed);
    when.is_none_or(|when| when.holds(&lookup) == Ok(true))
}

pub(super) fn holds_of(when: Option<&When>, sample: &Sample) -> bool {
    let SampleBody::Values(values) = &sample.body else {
        panic!()
    };
    holds(when, values.row.first())
}
