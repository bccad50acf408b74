//! What is kept of a batch of messages, in one transaction: a message that connects moves its instance's cursor
//! together with what it holds, so that a collect that is killed goes on exactly where its database is.
//!
//! ```text
//! messages ──> judge each by its cursor ──> rows and cursors ──> COMMIT, synced ──> what may be confirmed
//!                                                                   └── failed: nothing has happened
//! ```

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use vmkpi::clock::Timestamp;
use vmkpi::delivery::consumer::{Verdict, first_cursor, judge};
use vmkpi::message::{Body, Event, Processed, Sample, SampleBody, Sealed};
use vmkpi::position::{MAX_SEQ, Position, RowKey, Seq};

use super::kept::{Instance, Kept, Stand};
use crate::command::database::set_number;
use holes::{Behind, Holes};

mod holes;

/// The most instances of a database. Over it new ones are refused and counted, so that a flood of invented
/// VMs leaves room for those that are there.
pub const MAX_INSTANCES: u64 = 1_000_000;
/// Instances that are remembered; the others are in the database.
const MAX_REMEMBERED: usize = 65_536;

/// By what rules messages are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Only what connects is accepted, as what is missing will be sent again (docs/DELIVERY.md), or else was
    /// acknowledged without this Consumer ([`vmkpi::delivery::hole`]). Without a name
    /// nobody sends again: what is missing is noted as a gap, and what follows is kept.
    pub asks: bool,
    /// The database was restored from an older backup.
    pub restored: bool,
}

/// An instance as the database has it.
#[derive(Clone, Copy, Debug)]
struct Known {
    id: i64,
    series: i64,
    through: Position,
    seen: Seq,
    /// The times of the first and the latest row, in microseconds since 1970.
    span: Option<(i64, i64)>,
}

/// Keeps batches.
pub struct Keeper {
    connection: Connection,
    rules: Rules,
    known: HashMap<Instance, Known>,
    holes: Holes,
    instances: u64,
}

impl Keeper {
    /// Keeps into an open database.
    ///
    /// # Errors
    /// SQLite says so.
    pub fn new(connection: Connection, rules: Rules) -> rusqlite::Result<Self> {
        let sql = "SELECT count(*) FROM instance";
        let instances = connection.query_row(sql, [], |r| r.get(0))?;
        Ok(Self {
            connection,
            rules,
            known: HashMap::new(),
            holes: Holes::default(),
            instances,
        })
    }

    /// The database.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Keeps what connects, at `now`, and notes `issued`. When it returns it is on disk.
    ///
    /// # Errors
    /// SQLite says so: then nothing was kept.
    pub fn keep(
        &mut self,
        events: &[Event],
        issued: u64,
        now: Timestamp,
    ) -> rusqlite::Result<Kept> {
        if self.known.len() > MAX_REMEMBERED {
            self.known.clear();
        }
        let transaction = self.connection.transaction()?;
        let mut batch = Batch {
            transaction: &transaction,
            rules: self.rules,
            known: &self.known,
            holes: &self.holes,
            behind: Behind::default(),
            touched: HashMap::new(),
            instances: self.instances,
            now,
            kept: Kept::default(),
        };
        batch.note_time()?;
        for event in events {
            batch.take(event)?;
        }
        let (touched, kept, instances) = (batch.touched, batch.kept, batch.instances);
        let behind = batch.behind;
        set_number(&transaction, "issued", issued)?;
        transaction.commit()?;
        self.known.extend(touched);
        self.holes.take(behind, now);
        self.instances = instances;
        Ok(kept)
    }
}

/// One transaction.
struct Batch<'a> {
    transaction: &'a Transaction<'a>,
    rules: Rules,
    known: &'a HashMap<Instance, Known>,
    holes: &'a Holes,
    behind: Behind,
    /// Instances as they are in this transaction.
    touched: HashMap<Instance, Known>,
    instances: u64,
    now: Timestamp,
    kept: Kept,
}

impl Batch<'_> {
    fn take(&mut self, event: &Event) -> rusqlite::Result<()> {
        if is_impossible(event) {
            self.kept.counts.refused += 1;
            return Ok(());
        }
        let instance = Instance::of(event);
        let Some(mut known) = self.find(&instance, event)? else {
            self.kept.counts.refused += 1;
            return Ok(());
        };
        let verdict = judge(known.through, event);
        let accepts = match verdict {
            Verdict::Accept => true,
            Verdict::Missing => !self.rules.asks,
            Verdict::Repetition | Verdict::OtherHistory => false,
        };
        let counts = &mut self.kept.counts;
        match verdict {
            _ if accepts => {}
            Verdict::Missing => counts.missing += 1,
            Verdict::OtherHistory => counts.diverged += 1,
            _ => counts.repeated += 1,
        }
        if accepts {
            self.skip(&known, event)?;
            self.accept(&mut known, event)?;
        } else if event.through.seq == known.through.seq && known.through.key.is_none() {
            // A key that was not known yet is remembered: it tells histories apart.
            known.through.key = event.through.key;
        }
        if verdict != Verdict::OtherHistory {
            known.seen = known.seen.max(event.through.seq);
        }
        self.look_behind(&instance, &mut known, (event, verdict))?;
        self.update(&known, event)?;
        let stand = Stand {
            through: known.through,
            missing: verdict == Verdict::Missing
                && !accepts
                && event.through.seq > known.through.seq,
        };
        self.kept.stands.insert(instance.clone(), stand);
        self.touched.insert(instance, known);
        Ok(())
    }

    fn accept(&mut self, known: &mut Known, event: &Event) -> rusqlite::Result<()> {
        self.put(known, event)?;
        self.kept.counts.accepted += 1;
        known.through = event.through;
        if let Some((from, to)) = span(event) {
            let (first, last) = known.span.unwrap_or((from, to));
            known.span = Some((first.min(from), last.max(to)));
        }
        Ok(())
    }

    /// The instance, remembered, read or made; `None` over the limit.
    fn find(&mut self, instance: &Instance, event: &Event) -> rusqlite::Result<Option<Known>> {
        let remembered = self
            .touched
            .get(instance)
            .or_else(|| self.known.get(instance));
        if let Some(known) = remembered {
            return Ok(Some(*known));
        }
        if let Some(known) = self.read(instance)? {
            return Ok(Some(known));
        }
        if self.instances >= MAX_INSTANCES {
            return Ok(None);
        }
        self.instances += 1;
        self.make(instance, event).map(Some)
    }

    fn read(&self, instance: &Instance) -> rusqlite::Result<Option<Known>> {
        let sql = "SELECT instance.id, series.id, through, through_key, seen, first, last FROM vm \
                   JOIN series ON series.vm = vm.id JOIN instance ON instance.series = series.id \
                   WHERE site = ? AND name = ? AND point = ? AND specifier = ? AND stream = ?";
        let mut found = self.transaction.prepare_cached(sql)?;
        let names = params![
            instance.site.as_str(),
            instance.vm.as_str(),
            instance.point.to_string(),
            instance.specifier.as_str(),
            instance.stream.to_string(),
        ];
        let known = |row: &rusqlite::Row<'_>| {
            Ok(Known {
                id: row.get(0)?,
                series: row.get(1)?,
                through: Position {
                    seq: row.get(2)?,
                    key: row.get::<_, Option<i64>>(3)?.map(key_of),
                },
                seen: row.get(4)?,
                span: row.get::<_, Option<i64>>(5)?.zip(row.get(6)?),
            })
        };
        found.query_row(names, known).optional()
    }

    fn make(&self, instance: &Instance, event: &Event) -> rusqlite::Result<Known> {
        let vm = self.id_of(
            "INSERT INTO vm (site, name) VALUES (?, ?) ON CONFLICT DO UPDATE SET name = name RETURNING id",
            params![instance.site.as_str(), instance.vm.as_str()],
        )?;
        let series = self.id_of(
            "INSERT INTO series (vm, point, specifier) VALUES (?, ?, ?) \
             ON CONFLICT DO UPDATE SET vm = vm RETURNING id",
            params![vm, instance.point.to_string(), instance.specifier.as_str()],
        )?;
        let through = match self.rules.asks {
            true => first_cursor(event, self.rules.restored),
            // Nobody sends what was before: it is not missing.
            false => event.after,
        };
        let id = self.id_of(
            "INSERT INTO instance (series, stream, revision, through, through_key, seen, base, heard) \
             VALUES (?, ?, '', ?, ?, ?, 0, 0) RETURNING id",
            params![
                series,
                instance.stream.to_string(),
                through.seq,
                through.key.map(key_value),
                through.seq
            ],
        )?;
        let seen = through.seq;
        Ok(Known {
            id,
            series,
            through,
            seen,
            span: None,
        })
    }

    fn id_of(&self, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<i64> {
        let mut statement = self.transaction.prepare_cached(sql)?;
        statement.query_row(values, |row| row.get(0))
    }

    fn update(&self, known: &Known, event: &Event) -> rusqlite::Result<()> {
        let sql = "UPDATE instance SET through = ?, through_key = ?, seen = ?, revision = ?, base = ?, heard = ?, \
                   first = ?, last = ? WHERE id = ?";
        self.transaction.prepare_cached(sql)?.execute(params![
            known.through.seq,
            known.through.key.map(key_value),
            known.seen,
            &*event.revision,
            event.base.seq,
            self.now.as_micros(),
            known.span.map(|span| span.0),
            known.span.map(|span| span.1),
            known.id,
        ])?;
        Ok(())
    }

    /// Without a name, what is missing will not come.
    fn skip(&mut self, known: &Known, event: &Event) -> rusqlite::Result<()> {
        if event.after.seq <= known.through.seq {
            return Ok(());
        }
        let range = (known.through.seq, event.after.seq);
        self.put_gap(known, range, "not_sent", begin(event))
    }

    fn put(&mut self, known: &Known, event: &Event) -> rusqlite::Result<()> {
        match &event.body {
            Body::Raw(samples) => {
                // What is kept without having been sent again may straddle the cursor; else none of these is here.
                for sample in samples.iter().filter(|s| s.seq > known.through.seq) {
                    self.put_sample(known, sample)?;
                }
                Ok(())
            }
            Body::Processed(processed) => self.put_result(known, event, processed),
            Body::Gap(reason) => {
                let range = (known.through.seq, event.through.seq);
                self.put_gap(known, range, reason, event.time)
            }
            Body::Sealed(sealed) => self.put_sealed(known, event, sealed),
        }
    }

    fn put_sample(&mut self, known: &Known, sample: &Sample) -> rusqlite::Result<()> {
        let sql = "INSERT INTO sample (series, instance, seq, key, time, data) VALUES (?, ?, ?, ?, ?, ?) \
                   ON CONFLICT DO NOTHING";
        let (text, bytes);
        // What is sealed stays sealed: its bytes are kept as they came.
        let data: &dyn rusqlite::ToSql = match &sample.body {
            SampleBody::Values(values) => {
                text = json(values);
                &text
            }
            SampleBody::Data(data) => {
                bytes = &data.0;
                bytes
            }
        };
        let put = self.transaction.prepare_cached(sql)?.execute(params![
            known.series,
            known.id,
            sample.seq,
            key_value(sample.key),
            sample.time.as_micros(),
            data,
        ])?;
        match put {
            0 => self.kept.counts.samples_repeated += 1,
            _ => self.kept.counts.samples += 1,
        }
        Ok(())
    }

    fn put_result(
        &mut self,
        known: &Known,
        event: &Event,
        processed: &Processed,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO result (series, instance, after, through, rows_after, function, window_from, \
                   window_to, data, count, partial, forked, clock_skew_ms) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.transaction.prepare_cached(sql)?.execute(params![
            known.series,
            known.id,
            event.after.seq,
            event.through.seq,
            processed.rows_after,
            &*processed.function,
            processed.from.as_micros(),
            processed.to.as_micros(),
            json(&processed.values),
            json(&processed.count),
            processed.partial,
            processed.forked,
            event.clock_skew_ms,
        ])?;
        self.kept.counts.results += 1;
        Ok(())
    }

    fn put_sealed(
        &mut self,
        known: &Known,
        event: &Event,
        sealed: &Sealed,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO sealed (series, instance, after, after_key, through, through_key, kind, time, \
                   envelope) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.transaction.prepare_cached(sql)?.execute(params![
            known.series,
            known.id,
            event.after.seq,
            event.after.key.map(key_value),
            event.through.seq,
            event.through.key.map(key_value),
            sealed.kind.as_str(),
            event.time.as_micros(),
            &*sealed.envelope,
        ])?;
        self.kept.counts.sealed += 1;
        Ok(())
    }

    fn put_gap(
        &mut self,
        known: &Known,
        (after, through): (Seq, Seq),
        reason: &str,
        time: Timestamp,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO gap (series, instance, after, through, reason, time, since) \
                   VALUES (?, ?, ?, ?, ?, ?, nullif(?, 0))";
        self.transaction.prepare_cached(sql)?.execute(params![
            known.series,
            known.id,
            after,
            through,
            reason,
            time.as_micros(),
            known.span.map(|span| span.1),
        ])?;
        self.kept.counts.gaps += 1;
        Ok(())
    }

    /// Notes once a minute which ids this minute begins with.
    fn note_time(&self) -> rusqlite::Result<()> {
        let minute = self.now.as_micros() / 60_000_000 * 60_000_000;
        let sql = "INSERT INTO kept SELECT ?, coalesce((SELECT max(id) FROM sample), 0), \
                   coalesce((SELECT max(id) FROM result), 0), coalesce((SELECT max(id) FROM gap), 0), coalesce((SELECT max(id) FROM sealed), 0) \
                   WHERE true ON CONFLICT DO NOTHING";
        self.transaction.prepare_cached(sql)?.execute([minute])?;
        Ok(())
    }
}

/// Whether a message says what no guest can: numbers beyond what SQLite counts to, or samples outside the rows
/// that it accounts for. One of these must not fail the batch that it is in.
fn is_impossible(event: &Event) -> bool {
    if event.through.seq.max(event.base.seq) > MAX_SEQ {
        return true;
    }
    let rows = event.after.seq + 1..=event.through.seq;
    let inside = match &event.body {
        Body::Raw(samples) => samples.iter().all(|sample| rows.contains(&sample.seq)),
        Body::Processed(processed) => processed.rows_after <= event.through.seq,
        Body::Gap(_) | Body::Sealed(_) => true,
    };
    !inside
}

/// From when to when a message has rows, in microseconds since 1970.
fn span(event: &Event) -> Option<(i64, i64)> {
    match &event.body {
        Body::Raw(samples) => {
            let times = || samples.iter().map(|sample| sample.time.as_micros());
            times().min().zip(times().max())
        }
        Body::Processed(window) => Some((window.from.as_micros(), window.to.as_micros())),
        Body::Sealed(_) => Some((event.time.as_micros(), event.time.as_micros())),
        Body::Gap(_) => None,
    }
}

/// When the rows of a message begin: what was lost before it is not later.
fn begin(event: &Event) -> Timestamp {
    span(event).map_or(event.time, |(from, _)| Timestamp::from_micros(from))
}

/// A key as SQLite has it: its 64 bits, signed.
fn key_value(key: RowKey) -> i64 {
    key.0.cast_signed()
}

fn key_of(value: i64) -> RowKey {
    RowKey(value.cast_unsigned())
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("names are text")
}

#[cfg(test)]
mod tests;
