//! A KPI from each language: the row is at the store and at the site, and what is refused is told.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::{Chain, EVERY_ROW, query};
use vmkpi_tests::process::Process;
use vmkpi_tests::programs::start_guest;
use vmkpi_tests::scratch::Scratch;

use super::table::{Desk, Example, runnable, text};

const SECTION: &str = "Storing a KPI";

/// The programs of the first table, which take their values from the command line.
fn programs() -> Result<Vec<Example>> {
    let takes_values = |example: &Example| example.command.ends_with(" 42 0.7");
    Ok(runnable(SECTION)?
        .into_iter()
        .filter(takes_values)
        .collect())
}

/// The file that a command stores to.
fn point(example: &Example) -> Result<&str> {
    let (_, rest) = example
        .command
        .split_once("/kpi/unencrypted/")
        .context("no file")?;
    let end = rest.find([' ', '"']).unwrap_or(rest.len());
    Ok(&rest[..end])
}

#[test]
fn the_row_of_each_language_is_stored_and_published() -> Result<()> {
    let chain = Chain::start(EVERY_ROW)?;
    let desk = Desk::new(chain.folder(), &chain.mount());
    let examples = runnable(SECTION)?;
    desk.succeed(&examples)?;
    for example in &examples {
        let point = point(example)?;
        let (columns, expected) = if example.command.ends_with(" 42 0.7") {
            ("current_users, load", serde_json::json!([[42, 0.7]]))
        } else {
            ("column1", serde_json::json!([[42]]))
        };
        let rows = chain.query(
            "unencrypted.db",
            &format!("SELECT {columns} FROM \"{point}\""),
        )?;
        ensure!(
            serde_json::to_value(&rows)? == expected,
            "{point}: {rows:?}"
        );
        let published = format!("unencrypted/{point}");
        chain.wait_for_lines(30, &published, |lines| {
            lines.iter().any(|line| line["point"] == published.as_str())
        })?;
    }
    Ok(())
}

/// A guest whose partition refuses what is stored.
struct Refusing {
    scratch: Scratch,
    _guest: Process,
}

impl Refusing {
    fn start(arguments: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let guest = start_guest(scratch.path(), &arguments, &[])?;
        Ok(Self {
            scratch,
            _guest: guest,
        })
    }

    fn folder(&self) -> &Path {
        self.scratch.path()
    }

    fn desk(&self) -> Desk {
        Desk::new(self.folder(), &self.folder().join("kpi"))
    }

    /// Every program is told so, in the system's words, and nothing of it is stored.
    fn refuses(&self, examples: &[Example], words: &str) -> Result<()> {
        refused(&self.desk(), examples, words)?;
        self.has_none_of(examples)
    }

    fn has_none_of(&self, examples: &[Example]) -> Result<()> {
        let database = self.folder().join("guest/unencrypted.db");
        let tables = query(
            &database,
            "SELECT name FROM sqlite_master WHERE type = 'table'",
        )?;
        for example in examples {
            let point = point(example)?;
            ensure!(
                !tables.iter().any(|table| table[0] == point),
                "{point} is stored"
            );
        }
        Ok(())
    }
}

/// Every program ends with another status than 0 and says why, once.
fn refused(desk: &Desk, examples: &[Example], words: &str) -> Result<()> {
    for (example, output) in desk.run_all(examples)? {
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        let (status, command) = (output.status, &example.command);
        ensure!(
            status.code().is_some_and(|code| code != 0),
            "{command}: {status}"
        );
        ensure!(said.contains(words), "{command}: {said}");
        ensure!(said.contains(point(&example)?), "{command}: {said}");
        ensure!(!said.contains("traceback"), "{command}: {said}");
    }
    Ok(())
}

#[test]
fn what_is_no_row_is_told_to_each_language_and_not_to_a_shells_redirection() -> Result<()> {
    let guest = Refusing::start(&[])?;
    let mut examples = programs()?;
    for example in &mut examples {
        example.command = example.command.replace(" 42 0.7", " 42,43 0.7");
    }
    // Where there is nothing but busybox.
    let shell = examples[0].command.replacen("sh ", "busybox sh ", 1);
    examples.push(examples[0].with(shell));
    guest.refuses(&examples, "invalid argument")?;

    let text = text()?;
    let begin = text.find("`printf ").context("the redirection")?;
    let redirection = text[begin + 1..].split('`').next().unwrap_or_default();
    let silent = examples[0].with(redirection.to_owned());
    guest.desk().succeed(std::slice::from_ref(&silent))?;
    guest.has_none_of(&[silent])
}

#[test]
fn too_many_columns_are_told_to_each_language() -> Result<()> {
    Refusing::start(&["--max-columns=1"])?.refuses(&programs()?, "file too large")
}

#[test]
fn a_full_store_is_told_to_each_language() -> Result<()> {
    let guest = Refusing::start(&["--max-database-bytes=65536"])?;
    let ballast = guest.folder().join("kpi/unencrypted/ballast");
    for bytes in [8192, 512, 1] {
        // A sync says what became of the row, which std's close does not.
        let full = (0..200).find_map(|_| {
            let mut file = std::fs::File::create(&ballast).ok()?;
            let row = format!("{}\n", "x".repeat(bytes));
            file.write_all(row.as_bytes())
                .and_then(|()| file.sync_all())
                .err()
        });
        let full = full.context("it takes everything")?;
        ensure!(full.kind() == std::io::ErrorKind::StorageFull, "{full}");
    }
    guest.refuses(&programs()?, "no space left on device")
}

#[test]
fn a_store_that_another_program_locks_is_told_to_each_language() -> Result<()> {
    let guest = Refusing::start(&[])?;
    let mut lock = lock(&guest.folder().join("guest/unencrypted.db"))?;
    let told = refused(
        &guest.desk(),
        &programs()?,
        "resource temporarily unavailable",
    );
    lock.kill()?;
    lock.wait()?;
    told?;
    guest.has_none_of(&programs()?)
}

/// Another program that holds the database's lock until it is killed.
fn lock(database: &Path) -> Result<Child> {
    let mut holder = Command::new("sqlite3")
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("sqlite3")?;
    let questions = holder.stdin.as_mut().context("a pipe")?;
    questions.write_all(b"BEGIN IMMEDIATE; SELECT 'held';\n")?;
    questions.flush()?;
    let answers = holder.stdout.take().context("a pipe")?;
    let mut line = String::new();
    BufReader::new(answers).read_line(&mut line)?;
    ensure!(line.trim() == "held", "sqlite3 said {line:?}");
    Ok(holder)
}

#[test]
fn a_partition_that_is_not_there_is_told_to_each_language() -> Result<()> {
    let scratch = Scratch::new()?;
    let desk = Desk::new(scratch.path(), &scratch.path().join("kpi"));
    // Java: NoSuchFileException.
    let (java, others): (Vec<_>, Vec<_>) =
        programs()?.into_iter().partition(|e| e.language == "Java");
    refused(&desk, &others, "no such file")?;
    refused(&desk, &java, "nosuchfile")
}
