//! What a session sends: the greeting, rows, answers and marks. Rows are read a bounded page at a time and only
//! while the host takes them; every table and every question gets its turn.

use std::sync::atomic::Ordering;

use vmkpi::link::{Databases, From as FromSeq, GuestMessage, HistoryQuery, TableId, encode};
use vmkpi::name::{Area, DataPoint};
use vmkpi::position::{Nonce, Position, Seq};

use super::super::lines::{add_fitting, add_history, history_message, rows_message};
use super::{FULL_BYTES, Mode, Poll, Question, Session};
use crate::store::inspect::{Page, Reader};
use crate::store::{Job, Marks, Point};

/// Bytes of rows in one line, about: more gains nothing, and each table gets its turn sooner.
const PAGE_BYTES: usize = 64 << 10;

/// Rows in one line.
const PAGE_ROWS: usize = 500;

impl Session {
    /// Adds what waits to `out` as long as there is room: the greeting first, then rows and answers in turn, so
    /// that neither keeps the other from being sent.
    pub fn push(&mut self, out: &mut Vec<u8>) {
        self.push_rows(out);
        self.finish_poll(out);
    }

    fn push_rows(&mut self, out: &mut Vec<u8>) {
        self.notice();
        while out.len() < FULL_BYTES {
            if self.greet_on(out) {
                continue;
            }
            let pushed = self.push_next(out);
            let answered = self.answer_next(out);
            if !pushed && !answered {
                return;
            }
        }
    }

    /// Takes note of rows that were committed.
    fn notice(&mut self) {
        let mut wanted = Vec::new();
        for (Point { area, name }, end) in self.feed.take() {
            let point = DataPoint::Kpi(area, (*name).clone());
            if self.wants(&point) {
                let stream = self.stream;
                let table = TableId { stream, point };
                if self.is_held(&table.point) {
                    if self.sought.insert(table.clone()) {
                        wanted.push(table);
                    }
                    continue;
                }
                if !self.cursors.contains_key(&table) {
                    wanted.push(table.clone());
                }
                self.advance(table, 1, end);
            }
        }
        self.want(&wanted);
    }

    /// Adds a page of the table whose turn it is; says whether there was one.
    fn push_next(&mut self, out: &mut Vec<u8>) -> bool {
        let limit = match (self.mode, &self.poll) {
            (Mode::Pushed, _) => PAGE_ROWS,
            (Mode::Polled, Some(poll)) => poll.left.min(PAGE_ROWS),
            _ => 0,
        };
        let Some(nonce) = self.nonce.filter(|_| limit > 0) else {
            return false;
        };
        let Some(table) = self.turns.pop_front() else {
            return false;
        };
        let sent = self.push_page(nonce, table, limit, out);
        if let Some(poll) = &mut self.poll {
            poll.left -= sent;
        }
        true
    }

    /// Ends a poll whose rows have all been sent, or as many as it may have.
    fn finish_poll(&mut self, out: &mut Vec<u8>) {
        let sent = |poll: &Poll| poll.left == 0 || self.turns.is_empty();
        if out.len() >= FULL_BYTES || !self.poll.as_ref().is_some_and(sent) {
            return;
        }
        self.mark(out);
        if let (Some(nonce), Some(Poll { id, .. })) = (self.nonce, self.poll.take()) {
            let more = !self.turns.is_empty();
            out.extend(encode(&GuestMessage::Polled { nonce, id, more }));
        }
    }

    /// Adds a page of a table; returns how many rows it has.
    fn push_page(
        &mut self,
        nonce: Nonce,
        table: TableId,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let Some(from) = self.cursors.get(&table).map(|cursor| cursor.next) else {
            return 0;
        };
        let mut sent = 0;
        match self.read(&table, from, limit) {
            Ok(Some((_, marks))) if from <= marks.trimmed.seq && marks.gap().is_some() => {
                self.pass_gap(nonce, table, &marks, out);
            }
            Ok(Some((page, Marks { acked, .. }))) => {
                let Some(last) = page.rows.last().map(|row| row.seq) else {
                    // Nothing there: the rows were taken by retention, or the stream has ended.
                    self.cursors.remove(&table);
                    return 0;
                };
                sent = page.rows.len();
                self.counters
                    .rows_sent
                    .fetch_add(sent as u64, Ordering::Relaxed);
                add_fitting(out, rows_message(nonce, &table, page, acked));
                if let Some(cursor) = self.cursors.get_mut(&table) {
                    cursor.next = last + 1;
                    cursor.queued = false;
                    let end = cursor.end;
                    self.advance(table, last + 1, end);
                }
            }
            Ok(None) => {
                self.cursors.remove(&table);
            }
            Err(error) => {
                tracing::error!(point = %table.point, %error, "rows cannot be read");
                if let Some(cursor) = self.cursors.get_mut(&table) {
                    cursor.queued = false;
                }
            }
        }
        sent
    }

    /// Tells of rows that were dropped before anyone confirmed them, and goes on behind them. A host that
    /// connects later is told again, until it has acknowledged the last of them.
    fn pass_gap(&mut self, nonce: Nonce, table: TableId, marks: &Marks, out: &mut Vec<u8>) {
        let (Some(gap), Some(cursor)) = (marks.gap(), self.cursors.get_mut(&table)) else {
            return;
        };
        let after = match cursor.next - 1 {
            seq if seq > gap.after.seq => Position { seq, key: None },
            _ => gap.after,
        };
        out.extend(encode(&GuestMessage::Gap {
            nonce,
            table: table.clone(),
            after,
            through: gap.through,
            reason: gap.reason.text().into(),
        }));
        cursor.next = gap.through.seq + 1;
        cursor.queued = false;
        let (next, end) = (cursor.next, cursor.end);
        self.advance(table, next, end);
    }

    /// How full the databases are; what cannot be found out is left out.
    pub(super) fn databases(&mut self) -> Databases {
        let limit = self.store.database_bytes();
        let mut of = |area| self.reader(area).ok()?.usage(limit).ok();
        Databases {
            unencrypted: of(Area::Unencrypted),
            encrypted: of(Area::Encrypted),
        }
    }

    fn reader(&mut self, area: Area) -> rusqlite::Result<&Reader> {
        let slot = &mut self.readers[usize::from(area == Area::Unencrypted)];
        match slot {
            Some(reader) => Ok(reader),
            None => Ok(slot.insert(Reader::open(self.store.directory(), area)?)),
        }
    }

    fn read(
        &mut self,
        table: &TableId,
        from: Seq,
        limit: usize,
    ) -> rusqlite::Result<Option<(Page, Marks)>> {
        let DataPoint::Kpi(area, _) = table.point else {
            return Ok(None);
        };
        let reader = self.reader(area)?;
        let page = reader.page(table, from, limit, PAGE_BYTES)?;
        let marks = reader.marks(table)?;
        Ok(page.map(|page| (page, marks)))
    }

    /// Answers the question whose turn it is; says whether there was one.
    fn answer_next(&mut self, out: &mut Vec<u8>) -> bool {
        let (Some(nonce), Some(question)) = (self.nonce, self.questions.pop_front()) else {
            return false;
        };
        let (id, asked) = match &question {
            Question::Rows { id, from, .. } => (*id, &from.table.point),
            Question::History { id, query } => (*id, &query.point),
        };
        if self.is_held(asked) {
            let reason = format!("{asked} is held: it is not delivered from where the VM is");
            out.extend(encode(&GuestMessage::Failed { nonce, id, reason }));
            return true;
        }
        let (id, point, answered) = match question {
            Question::Rows { id, from, limit } => {
                let answered = self.answer_query(nonce, id, &from, limit, out);
                (id, from.table.point, answered)
            }
            Question::History { id, query } => {
                let answered = self.answer_history(nonce, id, &query, out);
                (id, query.point, answered)
            }
        };
        if let Err(error) = answered {
            tracing::error!(%point, %error, "rows cannot be read");
            let reason = format!("{point} cannot be read");
            out.extend(encode(&GuestMessage::Failed { nonce, id, reason }));
        }
        true
    }

    fn answer_query(
        &mut self,
        nonce: Nonce,
        id: u64,
        from: &FromSeq,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        let read = self.read(&from.table, from.seq, limit)?;
        let (page, marks) = read.unwrap_or_default();
        let mut message = rows_message(nonce, &from.table, page, marks.acked);
        message.query = Some(id);
        message.trimmed = Some(marks.trimmed);
        let reason = marks.kept.reason.filter(|_| marks.trimmed.seq > 0);
        message.trimmed_reason = reason.map(|reason| reason.text().into());
        add_fitting(out, message);
        Ok(())
    }

    fn answer_history(
        &mut self,
        nonce: Nonce,
        id: u64,
        query: &HistoryQuery,
        out: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        let area = match &query.point {
            DataPoint::Kpi(area, _) => *area,
            // Not the guest's to tell; either reader says that there is nothing.
            DataPoint::Infra(..) => Area::Unencrypted,
        };
        let found = self.reader(area)?.history(query, PAGE_BYTES)?;
        add_history(out, history_message(nonce, id, query.point.clone(), found));
        Ok(())
    }

    /// Adds a mark for each table that is pushed and whose rows have all been sent.
    pub fn promise(&mut self, out: &mut Vec<u8>) {
        if self.mode == Mode::Pushed && out.len() < FULL_BYTES {
            self.mark(out);
        }
    }

    fn mark(&mut self, out: &mut Vec<u8>) {
        let Some(nonce) = self.nonce else {
            return;
        };
        if self.cursors.is_empty() {
            return;
        }
        let tables: Vec<TableId> = self.cursors.keys().cloned().collect();
        let Some(marks) = self.heed(self.store.ask(|done| Job::Marks { tables, done })) else {
            return;
        };
        // Rows stored before the marks were given come before them.
        self.push_rows(out);
        for mark in marks {
            let sent = self.cursors.get(&mark.table).map(|cursor| cursor.next);
            if sent.is_some_and(|next| next > mark.position.seq) {
                out.extend(encode(&GuestMessage::Mark {
                    nonce,
                    table: mark.table,
                    position: mark.position,
                    epoch: mark.epoch,
                    time: mark.time,
                    acked: mark.acked,
                }));
            }
        }
    }
}
