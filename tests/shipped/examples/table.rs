//! `examples/README.md`: its commands, for a test's own partition, broker and ports.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use vmkpi_tests::process::{Process, program};

/// The sections with tables.
const SECTIONS: [&str; 4] = [
    "Storing a KPI",
    "A web application's own numbers",
    "Sealing for the VM's owner",
    "Reading what is published",
];

/// What a command needs: what it has in it, a program or a file, and the package that has it.
const NEEDED: [(&str, &str, &str); 10] = [
    ("python3 ", "/usr/bin/python3", "python3"),
    (
        "seal.py",
        "/usr/lib/python3/dist-packages/jwcrypto",
        "python3-jwcrypto",
    ),
    (
        "read.py",
        "/usr/lib/python3/dist-packages/paho",
        "python3-paho-mqtt",
    ),
    ("node ", "node", "nodejs"),
    ("read.js", "/usr/share/nodejs/mqtt", "node-mqtt"),
    ("java ", "javac", "default-jdk-headless"),
    ("cc ", "cc", "gcc"),
    ("go run", "go", "gccgo-go"),
    ("perl ", "perl", "perl"),
    ("read.sh", "jq", "jq"),
];

/// A row of a table.
#[derive(Clone, Debug)]
pub struct Example {
    /// The first cell.
    pub language: String,
    /// The file that is linked, if one is.
    file: Option<String>,
    /// The command.
    pub command: String,
}

impl Example {
    /// The same, with another command.
    pub fn with(&self, command: String) -> Self {
        Self {
            command,
            ..self.clone()
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// The README.
pub fn text() -> Result<String> {
    let path = folder().join("README.md");
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The cells of a table's row; `\|` is no border.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let inner = inner.replace("\\|", "\u{0}");
    let cells = inner.split('|').map(str::trim);
    Some(cells.map(|cell| cell.replace('\u{0}', "|")).collect())
}

fn example(line: &str) -> Option<Example> {
    let cells = cells(line)?;
    let command = cells.iter().skip(1).find_map(|cell| {
        let command = cell.strip_prefix('`')?.strip_suffix('`')?;
        command.contains(' ').then(|| command.to_owned())
    })?;
    let file = cells.iter().find_map(|cell| {
        let (_, link) = cell.strip_prefix('[')?.split_once("](")?;
        Some(link.strip_suffix(')')?.to_owned())
    });
    let language = cells.first()?.clone();
    Some(Example {
        language,
        file,
        command,
    })
}

/// The rows of a section's tables that have a command, in order.
pub fn section(title: &str) -> Result<Vec<Example>> {
    let text = text()?;
    let begin = text
        .find(&format!("\n## {title}\n"))
        .context("no such section")?;
    let body = &text[begin + 4..];
    let body = body.split("\n## ").next().unwrap_or_default();
    let found: Vec<_> = body.lines().filter_map(example).collect();
    ensure!(!found.is_empty(), "{title}: no command");
    Ok(found)
}

/// Those of a section that this machine can run; of the others it is said why not.
pub fn runnable(title: &str) -> Result<Vec<Example>> {
    let mut here = vec![];
    for example in section(title)? {
        if has_what_it_needs(&example)? {
            here.push(example);
        }
    }
    ensure!(!here.is_empty(), "{title}: none can be run");
    Ok(here)
}

fn has_what_it_needs(example: &Example) -> Result<bool> {
    let there = |name: &str| -> Result<bool> {
        if name.starts_with('/') {
            return Ok(Path::new(name).exists());
        }
        let found = Command::new("sh")
            .args(["-c", "command -v \"$1\" >/dev/null", "sh", name])
            .env("PATH", path()?)
            .status()?;
        Ok(found.success())
    };
    for (word, name, package) in NEEDED {
        if !example.command.contains(word) || there(name)? {
            continue;
        }
        if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            bail!("{}: install {package}", example.command);
        }
        // Past libtest, which hides what a test that passes says.
        let language = &example.language;
        writeln!(
            std::io::stderr(),
            "skipped, an example in {language}: install {package}"
        )?;
        return Ok(false);
    }
    Ok(true)
}

/// The programs under test, and Debian's interpreters before any other.
fn path() -> Result<String> {
    let vmkpi = program("vmkpi")?;
    let own = vmkpi.parent().context("a folder")?.display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(format!("{own}:/usr/bin:/bin:/usr/sbin:/sbin:{path}"))
}

/// Where a test runs commands: what stands in the README for a partition, a broker and a port is its own here.
pub struct Desk {
    /// The folder that commands run in.
    pub folder: PathBuf,
    /// The partition.
    pub mount: PathBuf,
    /// The broker's port.
    pub broker: u16,
    /// The web application's port.
    pub web: u16,
}

impl Desk {
    /// One for a partition, with neither broker nor web application.
    pub fn new(folder: &Path, mount: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            mount: mount.to_owned(),
            broker: 0,
            web: 0,
        }
    }

    /// A command of the README, for this desk.
    pub fn here(&self, command: &str) -> String {
        let examples = format!("{}/", folder().display());
        let mount = self.mount.display().to_string();
        let kpi = |text: &str| text.replace("/kpi/", "\u{0}/").replace(" /kpi ", " \u{0} ");
        kpi(command)
            .replace("examples/", &examples)
            .replace('\u{0}', &mount)
            .replace("localhost 1883", &format!("127.0.0.1 {}", self.broker))
            .replace(" 8080", &format!(" {}", self.web))
            .replace(" 8081", &format!(" {}", self.web))
    }

    fn environment(&self) -> Result<Vec<(String, String)>> {
        let cache = self.folder.join("go-cache").display().to_string();
        let of = |name: &str, value: String| (name.to_owned(), value);
        Ok(vec![
            of("PATH", path()?),
            // A node that is not Debian's looks elsewhere for Debian's packages.
            of("NODE_PATH", "/usr/share/nodejs".to_owned()),
            of("GOCACHE", cache),
            of("LC_ALL", "C.UTF-8".to_owned()),
        ])
    }

    /// Runs commands at the same time, each to its end.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn run_all(&self, examples: &[Example]) -> Result<Vec<(Example, Output)>> {
        let mut running = vec![];
        for example in examples {
            let child = Command::new("timeout")
                .args(["120", "sh", "-c", &self.here(&example.command)])
                .envs(self.environment()?)
                .current_dir(&self.folder)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            running.push((example.clone(), child));
        }
        let ended = running.into_iter();
        ended
            .map(|(example, child)| Ok((example, child.wait_with_output()?)))
            .collect()
    }

    /// Runs commands as [`Self::run_all`] does, and each ends with 0 and says nothing but its result.
    ///
    /// # Errors
    /// One fails.
    pub fn succeed(&self, examples: &[Example]) -> Result<Vec<(Example, String)>> {
        let outputs = self.run_all(examples)?;
        let checked = outputs.into_iter().map(|(example, output)| {
            let words = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{}: {words}", example.command);
            ensure!(words.is_empty(), "{}: {words}", example.command);
            Ok((example, String::from_utf8(output.stdout)?))
        });
        checked.collect()
    }

    /// Starts a command that goes on, in a process group of its own.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, name: &str, example: &Example) -> Result<Process> {
        let command = format!("exec {}", self.here(&example.command));
        let arguments = ["--", "sh", "-c", &command];
        let setsid = Path::new("/usr/bin/setsid");
        Process::start_in(&self.folder, name, setsid, arguments, &self.environment()?)
    }
}

#[test]
fn every_example_stands_in_a_table_and_everything_in_a_table_is_there() -> Result<()> {
    let mut told = vec![];
    for title in SECTIONS {
        told.extend(section(title)?.into_iter().filter_map(|e| e.file));
    }
    told.sort();
    let mut there = vec![];
    for entry in std::fs::read_dir(folder())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let language = entry.file_name().to_string_lossy().into_owned();
            for file in std::fs::read_dir(entry.path())? {
                there.push(format!(
                    "{language}/{}",
                    file?.file_name().to_string_lossy()
                ));
            }
        }
    }
    there.sort();
    ensure!(told == there, "told {told:?}\nthere {there:?}");
    Ok(())
}

#[test]
fn the_readme_has_seven_languages_that_write() -> Result<()> {
    let stored = section(SECTIONS[0])?;
    let with_file = stored.iter().filter(|example| example.file.is_some());
    assert_eq!(with_file.count(), 7);
    Ok(())
}
