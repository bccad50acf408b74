//! Shows messages: JSON lines for programs, a table in place on a terminal, plain lines elsewhere.

use std::io;

use vmkpi::clock::Timestamp;
use vmkpi::message::{Body, Event};

use super::super::Format;
use super::super::print::Console;
use super::cursor::Missing;
use super::join::Windows;
use super::lines;
use super::sparkline::Style;
use super::table::{self, Table};

/// A way to show messages.
pub struct View {
    format: Format,
    show_gaps: bool,
    table: Table,
    windows: Windows,
}

impl View {
    /// Shows in `format`; with `show_gaps` also what never came. A table has sparklines in this style.
    pub fn new(format: Format, show_gaps: bool, style: Style) -> Self {
        Self {
            format,
            show_gaps,
            table: Table::new(style),
            windows: Windows::default(),
        }
    }

    /// Shows at most `limit` samples of a message, and says how many it were.
    ///
    /// # Errors
    /// Standard output could not be written.
    pub fn show(&mut self, event: &Event, limit: u64, console: &mut Console) -> io::Result<u64> {
        let in_place = self.format == Format::Table && console.is_terminal();
        if in_place {
            self.table.update(event);
            self.windows.update(event);
            if let Body::Gap(reason) = &event.body {
                self.table.interrupt(event);
                console.say(&table::gap(event, reason));
            }
            return Ok(limit.min(amount(event)));
        }
        let lines = match self.format {
            Format::Json => lines::of_event(event),
            Format::Table => table::plain_lines(event),
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut shown = 0;
        for line in lines.iter().take(limit) {
            console.line(line)?;
            shown += 1;
        }
        console.flush()?;
        Ok(shown)
    }

    /// Says that rows before `event` never came.
    ///
    /// # Errors
    /// Standard output could not be written.
    pub fn missing(
        &mut self,
        event: &Event,
        missing: Missing,
        console: &mut Console,
    ) -> io::Result<()> {
        self.table.interrupt(event);
        if self.show_gaps && self.format == Format::Json {
            return console.line(&lines::of_missing(event, missing));
        }
        console.say(&format!(
            "{} {} [{}]: rows {} to {} are missing",
            super::text::safe(event.vm.as_str()),
            super::text::safe(&event.point.to_string()),
            super::text::safe(event.specifier.as_str()),
            missing.after.saturating_add(1),
            missing.through
        ));
        Ok(())
    }

    /// Draws the table anew, where there is one.
    ///
    /// # Errors
    /// Standard output could not be written.
    pub fn redraw(&self, console: &mut Console) -> io::Result<()> {
        if self.format != Format::Table || !console.is_terminal() {
            return Ok(());
        }
        let (width, height) = console.size();
        // Joined windows take at most half of the terminal, below the table.
        let columns = usize::from(width).saturating_sub(1);
        let joined = self.windows.render((columns, usize::from(height / 2)));
        let left = u16::try_from(joined.len() + 1).unwrap_or(u16::MAX);
        let left = if joined.is_empty() { 0 } else { left };
        let size = (width, height.saturating_sub(left));
        let mut lines = self.table.render(Timestamp::now(), size);
        if !joined.is_empty() {
            lines.push(String::new());
            lines.extend(joined);
        }
        console.block(&lines)
    }
}

fn amount(event: &Event) -> u64 {
    match &event.body {
        Body::Raw(samples) => samples.len() as u64,
        Body::Processed(_) | Body::Gap(_) | Body::Sealed(_) => 1,
    }
}
