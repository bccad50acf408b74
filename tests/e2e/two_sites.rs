//! docs/TWO-SITES.md, run as it stands by one shell: each command is tried, and what is printed is what the page says.
//! Numbers, times and keys may differ; a command whose answer takes a moment is asked again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use vmkpi_tests::process::program;
use vmkpi_tests::scratch::{Scratch, free_address};

const PAGE: &str = include_str!("../../docs/TWO-SITES.md");
/// Ports that the page names.
const PORTS: [&str; 4] = ["8883", "8884", "9106", "9177"];
/// How long a block may take until it prints what it should.
const DEADLINE: Duration = Duration::from_secs(90);
/// Printed behind each block, with the status of its last command.
const END: &str = "==end of block==";

/// Commands, and what they print.
#[derive(Default)]
struct Block {
    commands: String,
    prints: Vec<String>,
}

/// The page's blocks, in order.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let kind = match line {
            "```sh" => true,
            "```" => false,
            _ => continue,
        };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match (kind, blocks.last_mut()) {
            (true, _) => blocks.push(Block {
                commands: body.join("\n"),
                prints: Vec::new(),
            }),
            // The picture comes before any command.
            (false, None) => {}
            (false, Some(block)) => block.prints = body.into_iter().map(str::to_owned).collect(),
        }
    }
    blocks
}

/// A line without what differs from run to run: keys in hexadecimal and base64, times, runs of blanks.
fn normal(line: &str) -> String {
    let word = |word: &str| {
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
    };
    let separated = [",", "\"", "|", "="]
        .iter()
        .fold(line.to_owned(), |line, mark| {
            line.replace(mark, &format!(" {mark} "))
        });
    let words: Vec<String> = separated.split_whitespace().map(word).collect();
    words.join(" ")
}

/// Whether `printed` has these lines, in this order; `...` at a line's beginning is anything.
fn says(printed: &[String], page: &[String]) -> Result<()> {
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
struct Shell {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Shell {
    fn start(scratch: &Scratch) -> Result<Self> {
        let programs = program("vmkpi")?;
        let programs = programs.parent().context("no folder")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new("bash")
            .current_dir(scratch.path())
            .env("PATH", format!("{}:{path}", programs.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let to = child.stdin.take().context("no input")?;
        let from = BufReader::new(child.stdout.take().context("no output")?);
        let mut shell = Self { child, to, from };
        // As root, the page's note on mosquitto's user is followed.
        shell.run(
            "exec 2>&1\nmosquitto() { echo \"user $(id -un)\" >> \"$2\"; exec mosquitto \"$@\"; }",
        )?;
        Ok(shell)
    }

    /// What the commands print, and the status of the last.
    fn run(&mut self, commands: &str) -> Result<(Vec<String>, String)> {
        writeln!(self.to, "{commands}\necho \"{END} $?\"")?;
        let mut printed = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(
                self.from.read_line(&mut line)? > 0,
                "the shell has ended: {printed:?}"
            );
            match line.trim_end().strip_prefix(END) {
                Some(status) => return Ok((printed, status.trim().to_owned())),
                None => printed.push(line.trim_end().to_owned()),
            }
        }
    }

    /// Runs a block until it prints what the page says.
    fn check(&mut self, block: &Block) -> Result<()> {
        let begin = Instant::now();
        let mut first = None;
        loop {
            let (printed, status) = self.run(&block.commands)?;
            let verdict = says(&printed, &block.prints);
            if verdict.is_ok() && (status == "0" || block.commands.contains("wait")) {
                return Ok(());
            }
            let first = first.get_or_insert_with(|| format!("{verdict:?} (status {status})"));
            if begin.elapsed() > DEADLINE || block.prints.is_empty() {
                bail!(
                    "{}\nfirst: {first}\nlast: {verdict:?} {printed:?}",
                    block.commands
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

#[test]
fn the_page_prints_what_it_says() -> Result<()> {
    let mut page = PAGE.to_owned();
    for port in PORTS {
        page = page.replace(port, &free_address()?.port().to_string());
    }
    let scratch = Scratch::new()?;
    let mut shell = Shell::start(&scratch)?;
    let blocks = blocks(&page);
    ensure!(blocks.len() > 12, "{} blocks", blocks.len());
    for block in &blocks {
        if let Err(error) = shell.check(block) {
            let logs = shell.run("tail -n 5 *.log */*.log")?.0.join("\n");
            bail!("{error:#}\n{logs}");
        }
    }
    let left = std::fs::read_dir(scratch.path())?.count();
    ensure!(left == 0, "{left} files are left");
    Ok(())
}

#[test]
fn what_differs_from_run_to_run_does_not_count_and_words_do() {
    assert_eq!(normal("a  54.0 s"), normal("a 9.2 s"));
    assert_eq!(
        normal("k FZ6lqyiysiZsj7auyBTOKbhiO…"),
        normal("k 1/e66I9VZvK/v7LIuhtfl")
    );
    assert_ne!(normal("3 rows"), normal("4 rows"));
    assert_ne!(normal("all is well"), normal("all is not well"));
    let lines = ["one 1".to_owned(), "two".to_owned()];
    assert!(
        says(
            &lines,
            &["one 1".to_owned(), "...".to_owned(), "two".to_owned()]
        )
        .is_ok()
    );
    assert!(says(&lines, &["two".to_owned(), "one 1".to_owned()]).is_err());
}
