//! The one place of the command that writes to standard output and standard error, so that output
//! stays a contract: lines for programs, and a block that is updated in place for people.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use crossterm::{QueueableCommand, cursor, terminal};

/// Standard output and standard error.
pub struct Console {
    out: BufWriter<Stdout>,
    terminal: bool,
    /// Lines of the block that the next one replaces.
    block_lines: u16,
}

impl Console {
    /// The process's own.
    pub fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        Self {
            out: BufWriter::new(io::stdout()),
            terminal,
            block_lines: 0,
        }
    }

    /// Whether a person sees standard output.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Columns and lines of the terminal.
    pub fn size(&self) -> (u16, u16) {
        terminal::size().unwrap_or((80, 24))
    }

    /// A line of output.
    ///
    /// # Errors
    /// Standard output could not be written; see [`is_broken_pipe`].
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        self.block_lines = 0;
        self.out.write_all(line.as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// Shows `lines` in place of the last block. They must fit the terminal.
    ///
    /// # Errors
    /// Standard output could not be written.
    pub fn block(&mut self, lines: &[String]) -> io::Result<()> {
        if self.block_lines > 0 {
            self.out
                .queue(cursor::MoveToPreviousLine(self.block_lines))?;
        }
        for line in lines {
            self.out.write_all(line.as_bytes())?;
            self.out
                .queue(terminal::Clear(terminal::ClearType::UntilNewLine))?;
            self.out.write_all(b"\n")?;
        }
        self.out
            .queue(terminal::Clear(terminal::ClearType::FromCursorDown))?;
        self.block_lines = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        self.out.flush()
    }

    /// Hands everything over to the reader.
    ///
    /// # Errors
    /// Standard output could not be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// A word to people, on standard error. That nobody listens is no reason to fail.
    pub fn say(&mut self, text: &str) {
        // What is said during a block stands above the next one.
        let _ = self.out.flush();
        if std::mem::take(&mut self.block_lines) > 0 {
            let _ = self.out.write_all(b"\n").and_then(|()| self.out.flush());
        }
        let _ = writeln!(io::stderr(), "vmkpi: {text}");
    }
}

/// Whether the error says that whoever read our output is gone.
pub fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
