//! What a producer makes of the guest's lines: which tables there are, which rows come, where some are
//! missing. A line that says something impossible is refused as a whole.

use std::collections::BTreeMap;

use super::instance::{Instance, Scope};
use super::repair::Asker;
use super::table::{Held, Table};
use super::{
    MAX_HELD_BYTES, MAX_HELLO_TABLES, MAX_LIST_BYTES, MAX_TABLES, MAX_WINDOW_BYTES, Producer,
    RESUBSCRIBE_MS, Refused, Source, fits,
};
use crate::delivery::spool::RETENTION;
use crate::link::{From, HostMessage, Payload, Rows, TableId, TableInfo};
use crate::name::DataPoint;
use crate::position::{MAX_SEQ, Mark, Nonce, Position, StreamId};

/// Why open windows were lost, in a gap's `reason`.
const WINDOW_TOO_LARGE: &str = "window_too_large";

/// The longest reason of a gap that is passed on, in characters.
const MAX_REASON_CHARS: usize = 64;

impl Producer {
    /// Takes one line of a `hello`. What is kept until the last one is bounded by what is followed.
    pub(super) fn on_hello_line(
        &mut self,
        stream: StreamId,
        tables: Vec<TableInfo>,
        more: bool,
        now_ms: u64,
    ) -> Result<(), Refused> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let monitors = &self.monitors;
        let follows = |t: &TableInfo| monitors.iter().any(|m| m.point.matches(&t.table.point));
        let mut followed = tables.into_iter().filter(follows);
        let room = MAX_HELLO_TABLES.saturating_sub(session.told.len());
        session.told.extend(followed.by_ref().take(room));
        self.counters.tables_refused += followed.count() as u64;
        if more {
            return Ok(());
        }
        (session.greeted, session.stream) = (true, Some(stream));
        let told = std::mem::take(&mut session.told);
        self.on_hello(&told, now_ms);
        Ok(())
    }

    fn on_hello(&mut self, tables: &[TableInfo], now_ms: u64) {
        let told: BTreeMap<_, _> = tables.iter().map(|t| (&t.table, t)).collect();
        // Whatever the guest has less of than this host has read is of another history.
        self.tables.retain(|id, table| {
            let last = told.get(id).map(|t| t.last);
            last.is_some_and(|last| last >= table.highest.seq.max(table.received))
        });
        self.recount();
        for info in tables {
            self.know(&info.table, info.acked, now_ms);
            if let Some(table) = self.tables.get_mut(&info.table) {
                table.moved = info.moved;
                table.acknowledged(info.acked);
            }
        }
        self.subscribe(now_ms);
    }

    /// Asks for every table from where it is; the row there again, to tell its window.
    pub(super) fn subscribe(&mut self, now_ms: u64) {
        let Some(session) = self.session.as_ref().filter(|s| s.greeted) else {
            return;
        };
        let nonce = session.nonce;
        // A table that is not named begins after its acknowledged row: rows come again, and none is missing.
        let mut room = MAX_LIST_BYTES;
        let tables = self.tables.iter_mut();
        let named = tables.take_while(|(id, _)| fits(id, &mut room));
        let from = named.map(|(id, table)| {
            table.subscribed_ms = Some(now_ms);
            From {
                table: id.clone(),
                seq: table.received.max(1),
            }
        });
        let from = from.collect();
        self.ask_rows(nonce, from, now_ms);
    }

    /// Asks for rows, pushed from now on or once, as this producer was told to.
    fn ask_rows(&mut self, nonce: Nonce, from: Vec<From>, now_ms: u64) {
        let patterns = self.patterns();
        let message = match &mut self.polling {
            Some(polling) => polling.ask(nonce, patterns, from, now_ms),
            None => HostMessage::Subscribe {
                nonce,
                patterns,
                from,
            },
        };
        self.out.send(message);
    }

    /// Polls, when it is time to. What a table was sent of is the guest's to remember within a session.
    pub(super) fn poll_if_due(&mut self, now_ms: u64) {
        let session = self.session.as_ref().filter(|s| s.greeted && !s.over);
        let (Some(session), Some(polling)) = (session, &self.polling) else {
            return;
        };
        if polling.is_due(now_ms) && self.out.has_room() {
            self.ask_rows(session.nonce, Vec::new(), now_ms);
        }
    }

    pub(super) fn on_polled(&mut self, id: u64, more: bool, now_ms: u64) -> Result<(), Refused> {
        let polling = self.polling.as_mut().ok_or(Refused)?;
        // An answer to an earlier poll of this session is late, not wrong.
        polling.answered(id, more, now_ms);
        self.poll_if_due(now_ms);
        Ok(())
    }

    /// Makes the instances of a table that match and are not there yet.
    pub(super) fn know(&mut self, id: &TableId, acked: Mark, now_ms: u64) {
        if !self.follows(&id.point) || !self.is_ours(&id.point) {
            return;
        }
        if !self.tables.contains_key(id) && self.tables.len() >= MAX_TABLES {
            self.counters.tables_refused += 1;
            return;
        }
        let table = self
            .tables
            .entry(id.clone())
            .or_insert_with(|| Table::new(acked));
        if table.specify(id, &self.monitors, &self.consumers, now_ms) {
            table.subscribed_ms = None;
        }
    }

    fn is_ours(&self, point: &DataPoint) -> bool {
        matches!(
            (self.source, point),
            (Source::Kpi, DataPoint::Kpi(..)) | (Source::Infra, DataPoint::Infra(..))
        )
    }

    /// Rows are missing: asks for the table again, but not for each line.
    fn hole(&mut self, id: &TableId, now_ms: u64) {
        let (Some(session), Some(table)) = (&self.session, self.tables.get_mut(id)) else {
            return;
        };
        let asked = table.subscribed_ms.replace(now_ms);
        if asked.is_some_and(|then| now_ms.saturating_sub(then) <= RESUBSCRIBE_MS) {
            table.subscribed_ms = asked;
            return;
        }
        self.counters.holes += 1;
        let from = From {
            table: id.clone(),
            seq: table.received.max(1),
        };
        let nonce = session.nonce;
        self.ask_rows(nonce, vec![from], now_ms);
    }

    /// What each line about a table says besides: the acknowledged row, and that the table exists.
    fn hear_of(&mut self, id: &TableId, acked: Mark, now_ms: u64) -> Result<(), Refused> {
        self.know(id, acked, now_ms);
        let table = self.tables.get_mut(id).ok_or(Refused)?;
        table.acknowledged(acked);
        Ok(())
    }

    pub(super) fn on_rows(&mut self, rows: &Rows, now_ms: u64) -> Result<(), Refused> {
        check_rows(rows)?;
        let id = rows.table();
        if rows.query.is_some() {
            self.on_page(&id, rows, now_ms);
            return Ok(());
        }
        self.hear_of(&id, rows.acked, now_ms)?;
        let Some(first) = rows.rows.first() else {
            return Ok(());
        };
        let table = self.tables.get_mut(&id).ok_or(Refused)?;
        if first.seq > table.received + 1 {
            self.hole(&id, now_ms);
            return Ok(());
        }
        if table.contradicted_by(rows) {
            self.diverged(&id);
            return Err(Refused);
        }
        table.note(rows);
        self.counters.rows += rows.rows.len() as u64;
        let Some(mut hands) = self.hands(&id, now_ms) else {
            return Ok(());
        };
        let (instances, mut scope) = hands.split();
        for instance in instances.iter_mut() {
            let mut closed = Vec::new();
            for row in &rows.rows {
                let fed = instance.window.fed();
                // A row at `fed` tells the window before; one beyond waits until older ones came.
                if row.seq == fed || row.seq == fed + 1 {
                    instance.window.feed(&rows.columns, row, &mut closed);
                }
            }
            instance.publish_live(closed, &mut scope);
        }
        self.keep_within_budget(&id, now_ms);
        Ok(())
    }

    fn recount(&mut self) {
        let held = self.tables.values().map(|t| t.held);
        self.held = held.fold(Held::default(), |sum, held| Held {
            raw: sum.raw + held.raw,
            all: sum.all + held.all,
        });
    }

    /// Open windows share budgets. Over that of raw ones, those of the table that grew go out early; over
    /// that of all, what is left of the table's is lost.
    fn keep_within_budget(&mut self, id: &TableId, now_ms: u64) {
        let held = self.count_held(id);
        if held.raw > 0 && self.held.raw > MAX_HELD_BYTES {
            self.for_each_instance(id, now_ms, |instance, scope| {
                let mut closed = Vec::new();
                instance.window.shed_all(&mut closed);
                instance.publish_live(closed, scope);
            });
            self.count_held(id);
        }
        if self.held.all > MAX_WINDOW_BYTES {
            self.for_each_instance(id, now_ms, |instance, scope| {
                if instance.lose_open(WINDOW_TOO_LARGE, scope) {
                    scope.counters.windows_lost += 1;
                }
            });
            self.count_held(id);
        }
    }

    /// Counts anew what the open windows of a table hold.
    fn count_held(&mut self, id: &TableId) -> Held {
        let Some(table) = self.tables.get_mut(id) else {
            return Held::default();
        };
        let now = table.count_held();
        self.held
            .replace(std::mem::replace(&mut table.held, now), now);
        now
    }

    fn for_each_instance(
        &mut self,
        id: &TableId,
        now_ms: u64,
        mut what: impl FnMut(&mut Instance, &mut Scope<'_>),
    ) {
        if let Some(mut hands) = self.hands(id, now_ms) {
            let (instances, mut scope) = hands.split();
            for instance in instances.iter_mut() {
                what(instance, &mut scope);
            }
        }
    }

    /// Two histories of one stream. Of the current one, the guest finds out by what this host says it
    /// has, and begins another; of an earlier one it would not, so this host begins anew.
    fn diverged(&mut self, id: &TableId) {
        match &mut self.session {
            Some(session) if session.stream == Some(id.stream) => session.over = true,
            _ => {
                self.tables.remove(id);
                self.recount();
            }
        }
    }

    pub(super) fn on_page(&mut self, id: &TableId, page: &Rows, now_ms: u64) {
        let (Some(query), Some(session)) = (page.query, &self.session) else {
            return;
        };
        let nonce = session.nonce;
        let mut next_query = self.next_query;
        let Some(mut hands) = self.hands(id, now_ms) else {
            return;
        };
        let (instances, mut scope) = hands.split();
        for instance in instances.iter_mut() {
            let at = (0..instance.cursors.len()).find(|at| instance.awaits(*at, query));
            if let Some(at) = at {
                let mut asker = Asker {
                    nonce,
                    next_query: &mut next_query,
                };
                instance.take_page(at, page, &mut asker, &mut scope);
            }
        }
        self.next_query = next_query;
    }

    /// `end` is the last row stored; its epoch and time are what the guest promises.
    pub(super) fn on_mark(
        &mut self,
        id: &TableId,
        end: Mark,
        acked: Mark,
        now_ms: u64,
    ) -> Result<(), Refused> {
        self.hear_of(id, acked, now_ms)?;
        let table = self.tables.get(id).ok_or(Refused)?;
        if end.seq > table.received {
            self.hole(id, now_ms);
            return Ok(());
        }
        let Some(mut hands) = self.hands(id, now_ms) else {
            return Ok(());
        };
        let (instances, mut scope) = hands.split();
        for instance in instances.iter_mut().filter(|i| i.window.fed() >= end.seq) {
            let mut closed = Vec::new();
            instance.window.mark(end.epoch, end.time, &mut closed);
            instance.publish_live(closed, &mut scope);
        }
        hands.acknowledge();
        self.keep_within_budget(id, now_ms);
        Ok(())
    }

    pub(super) fn on_gap(
        &mut self,
        id: &TableId,
        after: Position,
        through: Mark,
        reason: &str,
        now_ms: u64,
    ) -> Result<(), Refused> {
        if after.seq >= through.seq || through.seq > MAX_SEQ {
            return Err(Refused);
        }
        let table = self.tables.get_mut(id).ok_or(Refused)?;
        if after.seq > table.received {
            self.hole(id, now_ms);
            return Ok(());
        }
        table.received = table.received.max(through.seq);
        if through.seq > table.highest.seq {
            table.highest = through.position();
        }
        let reason = reason_of(reason);
        let Some(mut hands) = self.hands(id, now_ms) else {
            return Ok(());
        };
        let (instances, mut scope) = hands.split();
        for instance in instances
            .iter_mut()
            .filter(|i| i.window.fed() < through.seq)
        {
            instance.lose(through, &reason, &mut scope);
        }
        Ok(())
    }
}

/// Why rows are gone, as far as a guest says: it is published, so it is short and not empty.
pub(super) fn reason_of(said: &str) -> String {
    match said.is_empty() {
        true => RETENTION.to_owned(),
        false => said.chars().take(MAX_REASON_CHARS).collect(),
    }
}

/// A page must be what the protocol says before any of it counts: contiguous, one value for each
/// column, bytes only where they belong.
fn check_rows(rows: &Rows) -> Result<(), Refused> {
    let encrypted = rows.point.is_encrypted();
    let first = rows.rows.first().map_or(1, |r| r.seq);
    for (row, due) in rows.rows.iter().zip(first..=u64::MAX) {
        let payload_fits = match &row.payload {
            Payload::Values(values) => !encrypted && values.len() == rows.columns.len(),
            Payload::Data(_) => encrypted,
        };
        if row.seq != due || !(1..=MAX_SEQ).contains(&row.seq) || !payload_fits {
            return Err(Refused);
        }
    }
    Ok(())
}
