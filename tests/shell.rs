//! A shell that runs the documentation's commands as they stand, and the judge of what they print: numbers, times and
//! keys may differ; a command whose answer takes a moment is asked again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::document::Block;
use crate::process::program;
use crate::scratch::Scratch;

/// How long a block may take until it prints what it should.
const DEADLINE: Duration = Duration::from_secs(90);
/// Printed behind each block, with the status of its last command.
const END: &str = "==end of block==";

/// A line without what differs from run to run: keys in hexadecimal and base64, times, runs of blanks.
pub fn normal(line: &str) -> String {
    let separated = [",", "\"", "|", "="]
        .iter()
        .fold(line.to_owned(), |line, mark| {
            line.replace(mark, &format!(" {mark} "))
        });
    let words: Vec<String> = separated.split_whitespace().map(normal_word).collect();
    words.join(" ")
}

fn normal_word(word: &str) -> String {
    let bare = word.trim_end_matches('…');
    let coded = |c: char| c.is_ascii_alphanumeric() || "+/_-".contains(c);
    let drawn = |c: char| c.is_ascii_digit() || c.is_ascii_uppercase();
    if bare.len() >= 15 && bare.chars().all(coded) && bare.chars().any(drawn) {
        return "KEY".to_owned();
    }
    // A count is what it is.
    if bare.chars().all(|c| c.is_ascii_digit()) {
        return word.to_owned();
    }
    let mut text = String::new();
    for c in word.chars() {
        match c {
            '0'..='9' if text.ends_with('0') => {}
            '0'..='9' => text.push('0'),
            '.' if text.ends_with('0') => {}
            c => text.push(c),
        }
    }
    text
}

/// Whether `printed` has these lines, in this order; a line `...` is anything, and so is `...` within one.
///
/// # Errors
/// It has not; the first line that is missing is named.
pub fn says(printed: &[String], page: &[String]) -> Result<()> {
    let mut rest = printed.iter();
    for line in page.iter().filter(|line| *line != "...") {
        let (open, wanted) = match line.split_once("...") {
            Some((before, after)) => (true, (normal(before), normal(after))),
            None => (false, (normal(line), String::new())),
        };
        let fits = |line: &String| {
            let line = normal(line);
            match open {
                true => line.starts_with(&wanted.0) && line.ends_with(&wanted.1),
                false => line == wanted.0,
            }
        };
        ensure!(
            rest.any(fits),
            "not printed: {line}\nin:\n{}",
            printed.join("\n")
        );
    }
    Ok(())
}

/// A bash that is told one block after the other. Whatever it has started ends with it.
pub struct Shell {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Shell {
    /// One in this folder, which finds our programs.
    ///
    /// # Errors
    /// There is no bash, or the programs are not built.
    pub fn start(scratch: &Scratch) -> Result<Self> {
        let programs = program("vmkpi")?;
        let programs = programs.parent().context("no folder")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new("bash")
            .current_dir(scratch.path())
            .env("PATH", format!("{}:{path}:/usr/sbin", programs.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let to = child.stdin.take().context("no input")?;
        let from = BufReader::new(child.stdout.take().context("no output")?);
        let mut shell = Self { child, to, from };
        shell.run("exec 2>&1")?;
        Ok(shell)
    }

    /// What the commands print, and the status of the last.
    ///
    /// # Errors
    /// They ended the shell.
    pub fn run(&mut self, commands: &str) -> Result<(Vec<String>, String)> {
        writeln!(self.to, "{commands}\necho \"{END} $?\"")?;
        let mut printed = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(
                self.from.read_line(&mut line)? > 0,
                "the shell has ended: {printed:?}"
            );
            match line.trim_end().split_once(END) {
                Some((before, status)) => {
                    printed.extend((!before.is_empty()).then(|| before.to_owned()));
                    return Ok((printed, status.trim().to_owned()));
                }
                None => printed.push(line.trim_end().to_owned()),
            }
        }
    }

    /// Runs a block until it prints what the page says. One of which nothing is said has one chance.
    ///
    /// # Errors
    /// It does not, within the deadline, or ends with another status than 0.
    pub fn check(&mut self, block: &Block) -> Result<()> {
        let begin = Instant::now();
        let mut first = None;
        loop {
            let (printed, status) = self.run(&block.body)?;
            let verdict = says(&printed, &block.prints);
            if verdict.is_ok() && (status == "0" || block.body.contains("wait")) {
                return Ok(());
            }
            let verdict = verdict
                .err()
                .map_or("as it says".into(), |error| error.to_string());
            let first = first.get_or_insert_with(|| format!("{verdict} (status {status})"));
            if begin.elapsed() > DEADLINE || block.prints.is_empty() {
                bail!(
                    "line {}: {}\nfirst: {first}\nlast: {verdict} {printed:?}",
                    block.line,
                    block.body
                );
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
