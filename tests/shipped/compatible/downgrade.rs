//! The answer to a downgrade: a program that finds what a newer one has left refuses it by name, changes nothing of
//! it, and the newer one goes on with all of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::query;
use vmkpi_tests::process::Process;
use vmkpi_tests::programs::start_guest_of;
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::wait_for;

use super::versions::{Programs, earlier};

/// A database of a program, and how the program is run on it.
struct State {
    program: &'static str,
    database: PathBuf,
    arguments: Vec<String>,
    /// What the refusal says beside the database's name and format.
    says: &'static str,
}

fn states(folder: &Path) -> Result<Vec<State>> {
    let at = |name: &str| folder.join(name).display().to_string();
    let nobody = format!("mqtt://{}", free_address()?);
    let option = |name: &str, value: String| format!("--{name}={value}");
    let guest = [
        "run".into(),
        option("mount", at("kpi")),
        option("state", at("guest")),
        option("link", format!("unix:{}", at("link"))),
    ];
    let host = [
        "run".into(),
        "--libvirt.uri=test:///default".into(),
        option("broker", nobody.clone()),
        option("web.listen-address", free_address()?.to_string()),
        option("state", at("host")),
    ];
    let collect = [
        "collect".into(),
        option("broker", nobody.clone()),
        option("db", at("collect.db")),
    ];
    let relay = [
        "relay".into(),
        option("from", nobody),
        option("to", format!("mqtt://{}", free_address()?)),
        option("state", at("relay")),
        "--site=acme".into(),
    ];
    let state = |program, database: &str, arguments: &[String], says| State {
        program,
        database: folder.join(database),
        arguments: arguments.to_vec(),
        says,
    };
    Ok(vec![
        state(
            "vmkpi-guest",
            "guest/unencrypted.db",
            &guest,
            "use a newer vmkpi-guest",
        ),
        state(
            "vmkpi-host",
            "host/outbox.db",
            &host,
            "use the newer vmkpi-host",
        ),
        state("vmkpi", "collect.db", &collect, "use the newer vmkpi"),
        state("vmkpi", "relay/relay.db", &relay, "use the newer vmkpi"),
    ])
}

impl State {
    fn start(&self, of: &Programs, folder: &Path) -> Result<Process> {
        Process::start(folder, "program", &of.path(self.program), &self.arguments)
    }

    fn format(&self) -> Result<u64> {
        let rows = query(&self.database, "PRAGMA user_version")?;
        rows[0][0].as_u64().context("user_version")
    }

    fn set_format(&self, format: u64) -> Result<()> {
        let done = Command::new("sqlite3")
            .arg(&self.database)
            .arg(format!("PRAGMA user_version = {format}"))
            .stdin(Stdio::null())
            .status()?;
        ensure!(done.success(), "sqlite3");
        Ok(())
    }

    /// Lets the program make its database, and ends it.
    fn make(&self, of: &Programs, folder: &Path) -> Result<()> {
        let mut process = self.start(of, folder)?;
        wait_for(20, "the database", || {
            (self.format().ok()? > 0).then_some(())
        })
        .with_context(|| process.words())?;
        // A guest that is asked to end before it is mounted has nothing to drain.
        process.terminate().with_context(|| process.words())?;
        Ok(())
    }

    /// The program finds its database in a format that it does not know.
    fn refuse(&self, of: &Programs, folder: &Path) -> Result<()> {
        let format = self.format()?;
        self.set_format(format + 1)?;
        let before = std::fs::read(&self.database)?;
        let said = folder.join("program.err");
        std::fs::remove_file(&said)?;
        let status = self.start(of, folder)?.wait(30)?;
        let said = std::fs::read_to_string(said)?;
        ensure!(!status.success(), "it goes on: {said}");
        ensure!(said.contains(self.says), "{said}");
        ensure!(said.contains(&(format + 1).to_string()), "{said}");
        let name = self.database.file_name().and_then(|name| name.to_str());
        ensure!(said.contains(name.context("name")?), "{said}");
        ensure!(std::fs::read(&self.database)? == before, "it was changed");
        self.set_format(format)
    }
}

/// Rows that were stored before are there afterwards.
fn goes_on(of: &Programs, folder: &Path, rows: u64) -> Result<()> {
    let mut guest = start_guest_of(&of.path("vmkpi-guest"), folder, &[], &[])?;
    std::fs::write(folder.join("kpi/unencrypted/load"), "n\n1\n")?;
    guest.terminate()?;
    let kept = query(
        &folder.join("guest/unencrypted.db"),
        "SELECT count(*), max(_seq) FROM load",
    )?;
    ensure!(kept[0][0] == rows && kept[0][1] == rows, "{kept:?}");
    Ok(())
}

#[test]
fn a_database_of_a_newer_format_is_refused_by_name_and_nothing_of_it_is_lost() -> Result<()> {
    let scratch = Scratch::new()?;
    let folder = scratch.path();
    std::fs::create_dir(folder.join("kpi"))?;
    let now = Programs::now()?;
    goes_on(&now, folder, 1)?;
    for state in states(folder)? {
        let told = || format!("{} {:?}", state.program, state.arguments);
        state.make(&now, folder).with_context(told)?;
        state.refuse(&now, folder).with_context(told)?;
    }
    goes_on(&now, folder, 2)
}

#[test]
fn a_program_of_an_earlier_version_goes_on_with_what_this_one_has_left_where_the_format_is_the_same()
-> Result<()> {
    let now = Programs::now()?;
    for before in earlier()? {
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        std::fs::create_dir(folder.join("kpi"))?;
        goes_on(&now, folder, 1)?;
        let formats = ["store", "outbox", "collect"];
        for (state, name) in states(folder)?.iter().zip(formats) {
            let told = || format!("{} of {}", state.program, before.programs.name);
            state.make(&now, folder).with_context(told)?;
            let theirs = before.formats.get(name).with_context(told)?;
            if *theirs == state.format()? {
                state.make(&before.programs, folder).with_context(told)?;
            } else {
                state.refuse(&before.programs, folder).with_context(told)?;
            }
        }
        if before.formats["store"] == states(folder)?[0].format()? {
            goes_on(&before.programs, folder, 2)?;
            goes_on(&now, folder, 3)?;
        }
    }
    Ok(())
}
