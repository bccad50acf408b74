//! Repair: what a Consumer lacks is read from the guest again, in bounded pages, and published beside
//! live data. At most one for each (instance, Consumer).
//!
//! ```text
//!  want_from, or patience ends ──> asking ──page──> feeding ──fed all──> done (last window, cover)
//!                                    ^                 │
//!                                    └── room again <──┘ too much unconfirmed
//!  no progress for 8 s: dropped; the next want_from or the end of patience begins another.
//! ```

use std::sync::Arc;

use super::instance::{Instance, Progress, Scope};
use super::lines::reason_of;
use super::outbox::Outbox;
use crate::delivery::window::Windower;
use crate::link::{From, HostMessage, Row, Rows, TableId};
use crate::position::{Mark, Nonce, Position, Seq};

/// Rows asked for at once.
pub(super) const PAGE_ROWS: Seq = 500;
/// Pages that may be published and unconfirmed.
const PAGES_IN_FLIGHT: Seq = 6;
/// A repair without progress for so long, in milliseconds, is dropped.
const ABANDON_MS: u64 = 8000;
/// A repair younger than this is not begun again, in milliseconds.
const RESTART_MS: u64 = 5000;

/// Rows on their way to one Consumer again.
#[derive(Clone, Debug)]
pub(super) struct Repair {
    window: Windower,
    progress: Progress,
    progressed_ms: u64,
    query: u64,
}

/// What asking needs.
pub(super) struct Asker<'a> {
    pub(super) nonce: Nonce,
    pub(super) next_query: &'a mut u64,
}

impl Asker<'_> {
    /// Shows the guest a position that it does not have.
    fn refute(&self, table: &TableId, position: Position, out: &mut Outbox) {
        out.send(HostMessage::Ack {
            nonce: self.nonce,
            table: table.clone(),
            cursors: vec![position],
        });
    }

    fn ask(&mut self, table: &TableId, seq: Seq, limit: Seq, out: &mut Outbox) -> u64 {
        *self.next_query += 1;
        let id = *self.next_query;
        out.send(HostMessage::Query {
            nonce: self.nonce,
            id,
            from: From {
                table: table.clone(),
                seq,
            },
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        });
        id
    }
}

impl Instance {
    /// Begins to send again what follows `from` to the Consumer at `at`.
    pub(super) fn begin_repair(
        &mut self,
        at: usize,
        from: Position,
        asker: &mut Asker<'_>,
        scope: &mut Scope<'_>,
    ) {
        let young = |r: &Repair| scope.now_ms.saturating_sub(r.progressed_ms) < RESTART_MS;
        let running = self.cursors[at].repair.as_ref().is_some_and(young);
        if running || from.seq >= self.live.published.seq {
            return;
        }
        scope.counters.repairs += 1;
        self.cursors[at].repair = Some(Repair {
            window: Windower::new(Arc::clone(&self.monitor), from, Some(scope.acked)),
            progress: Progress::at(from),
            progressed_ms: scope.now_ms,
            query: 0,
        });
        self.step_repair(at, asker, scope);
    }

    /// Goes on with a repair whose Consumer has said something.
    pub(super) fn continue_repair(
        &mut self,
        at: usize,
        asker: &mut Asker<'_>,
        scope: &mut Scope<'_>,
    ) {
        if let Some(repair) = &mut self.cursors[at].repair {
            repair.progressed_ms = scope.now_ms;
            self.step_repair(at, asker, scope);
        }
    }

    /// Drops a repair that makes no progress.
    pub(super) fn abandon_repair(&mut self, at: usize, now_ms: u64) {
        let slot = &mut self.cursors[at].repair;
        if slot
            .as_ref()
            .is_some_and(|r| now_ms.saturating_sub(r.progressed_ms) > ABANDON_MS)
        {
            *slot = None;
        }
    }

    /// Whether `query` is the one that the repair of the cursor at `at` waits for.
    pub(super) fn awaits(&self, at: usize, query: u64) -> bool {
        self.cursors[at]
            .repair
            .as_ref()
            .is_some_and(|r| r.query == query)
    }

    fn step_repair(&mut self, at: usize, asker: &mut Asker<'_>, scope: &mut Scope<'_>) {
        let published = self.live.published.seq;
        let Some(mut repair) = self.cursors[at].repair.take() else {
            return;
        };
        let fed = repair.window.fed();
        if fed >= published || repair.progress.published.seq >= published {
            let mut closed = Vec::new();
            repair.window.close(&mut closed);
            self.publish_repair(&mut repair.progress, closed, scope);
            if repair.progress.uncovered() > 0 {
                self.cover(&mut repair.progress, scope);
            }
            return;
        }
        let told = self.cursors[at].told.seq;
        let unconfirmed = repair.progress.covered.seq.saturating_sub(told);
        if unconfirmed <= PAGES_IN_FLIGHT * PAGE_ROWS {
            let from = fed.max(1);
            let limit = PAGE_ROWS.min(published - from + 1);
            repair.query = asker.ask(scope.table, from, limit, scope.out);
        }
        self.cursors[at].repair = Some(repair);
    }

    /// Takes the page that the repair of the cursor at `at` asked for.
    pub(super) fn take_page(
        &mut self,
        at: usize,
        page: &Rows,
        asker: &mut Asker<'_>,
        scope: &mut Scope<'_>,
    ) {
        let published = self.live.published.seq;
        let Some(mut repair) = self.cursors[at].repair.take() else {
            return;
        };
        if let Some(trimmed) = page.trimmed.filter(|t| t.seq > repair.window.fed())
            && !self.pass_trimmed(
                at,
                (trimmed, page.trimmed_reason.as_deref()),
                &mut repair,
                scope,
            )
        {
            return;
        }
        let asked_for = repair.progress.published;
        let begun = page.rows.iter().map(Row::position);
        if begun
            .chain(page.trimmed.map(|t| t.position()))
            .any(|position| position.contradicts(&asked_for))
        {
            // The Consumer named a row of another history. Messages that went on from its key
            // would be accepted; told the key, the guest begins a new stream.
            asker.refute(scope.table, asked_for, scope.out);
            return;
        }
        let mut closed = Vec::new();
        for row in page.rows.iter().filter(|r| r.seq <= published) {
            if row.seq > repair.window.fed() + 1 {
                return; // not what was asked for: the next want_from begins anew
            }
            repair.window.feed(&page.columns, row, &mut closed);
        }
        scope.counters.rows_replayed += page.rows.len() as u64;
        self.publish_repair(&mut repair.progress, closed, scope);
        if repair.progress.uncovered() > 3 * PAGE_ROWS {
            self.cover(&mut repair.progress, scope);
        }
        let more = !page.rows.is_empty() || repair.window.fed() >= published;
        self.cursors[at].repair = Some(repair);
        if more {
            self.step_repair(at, asker, scope);
        }
    }

    /// The rows through `trimmed` are gone. Whether the repair goes on.
    fn pass_trimmed(
        &self,
        at: usize,
        (trimmed, reason): (Mark, Option<&str>),
        repair: &mut Repair,
        scope: &mut Scope<'_>,
    ) -> bool {
        let (told, published) = (self.cursors[at].told, self.live.published.seq);
        if told.seq >= trimmed.seq {
            // The Consumer has got there meanwhile: nothing is lost.
            repair.window = Windower::new(Arc::clone(&self.monitor), told, Some(scope.acked));
            repair.progress = Progress::at(told);
            return told.seq < published;
        }
        if trimmed.seq > published {
            return false;
        }
        if repair.progress.uncovered() > 0 {
            self.cover(&mut repair.progress, scope);
        }
        let reason = reason_of(reason.unwrap_or_default());
        self.gap(&mut repair.progress, trimmed, &reason, scope);
        repair.window = Windower::new(Arc::clone(&self.monitor), trimmed.position(), Some(trimmed));
        true
    }
}
