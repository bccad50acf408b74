//! Blocks: commands are the programs', configuration is what the programs take.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::error::ErrorKind;
use vmkpi_tests::document::{Block, Page};
use vmkpi_tests::invocation::calls;
use vmkpi_tests::process::program;
use vmkpi_tests::scratch::Scratch;

use super::links::is_a_test;
use super::{pages, root};

/// Calls `judge` with every block, and collects what it says.
fn every_block(mut judge: impl FnMut(&Page, &Block) -> Result<()>) -> Result<()> {
    let mut wrong = Vec::new();
    for page in pages()? {
        for block in page.blocks() {
            if let Err(error) = judge(&page, &block) {
                wrong.push(format!("{}:{}: {error:#}", page.path, block.line));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn what_is_not_run_says_why_and_what_shows_it() -> Result<()> {
    every_block(|_, block| {
        let Some(excuse) = &block.excuse else {
            return Ok(());
        };
        ensure!(block.language == "sh", "only commands are run");
        ensure!(excuse.reason.len() > 10, "that is no reason");
        for test in &excuse.shown_by {
            ensure!(is_a_test(test), "there is no {test}");
        }
        Ok(())
    })
}

/// Runs a judge with `text` as its input.
fn judged(judge: &mut Command, text: &str) -> Result<()> {
    let mut child = judge
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let to = child.stdin.take().context("no input")?;
    // One that has seen enough closes its end.
    let _ = (&to).write_all(text.as_bytes());
    drop(to);
    let output = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{words}");
    Ok(())
}

/// Has `arguments` of a program read `text` as a file.
fn taken(name: &str, arguments: &[&str], ending: &str, text: &str) -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.path().join(format!("file.{ending}"));
    std::fs::write(&file, text)?;
    let mut command = Command::new(program(name)?);
    command.args(arguments).arg(file);
    judged(&mut command, "")
}

fn is_descriptor(text: &str) -> bool {
    text.contains("[[monitor]]") || text.contains("[[confirm]]")
}

/// What is TOML is a descriptor, or the configuration of a daemon: one of them takes it.
fn toml(text: &str) -> Result<()> {
    if is_descriptor(text) {
        // A part of one: the VM is said elsewhere.
        let head = match text.contains("vm = ") {
            true => "",
            false => "vm = \"shop\"\nprimary_site = \"acme\"\n",
        };
        let text = format!("{head}{text}").replace("primary_key_file", "# primary_key_file");
        let text = text.replace("seal = true", "# seal = true");
        return taken("vmkpi", &["descriptor", "check"], "toml", &text);
    }
    let show = ["run", "--print-config", "--config"];
    let host = taken("vmkpi-host", &show, "toml", text);
    let guest = taken("vmkpi-guest", &show, "toml", text);
    match (host, guest) {
        (Err(host), Err(guest)) => bail!("neither takes it:\n{host}\n{guest}"),
        _ => Ok(()),
    }
}

/// Well formed; of ours, what the program takes.
fn xml(text: &str) -> Result<()> {
    if text.contains("MonitoringSection") {
        return taken("vmkpi", &["descriptor", "check"], "ovf", text);
    }
    judged(
        Command::new("xmllint").args(["--noout", "-"]),
        &format!("<all>{text}</all>"),
    )
}

fn json(text: &str) -> Result<()> {
    for value in serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>() {
        value?;
    }
    Ok(())
}

/// A question that a collect's database answers.
fn sql(text: &str) -> Result<()> {
    let schema = |name: &str| std::fs::read_to_string(root().join("schemas").join(name));
    let all = format!(
        "{}\n{}\n{text}",
        schema("collect.sql")?,
        schema("collect.2.sql")?
    );
    judged(Command::new("sqlite3").args(["-bail", ":memory:"]), &all)
}

#[test]
fn every_block_is_what_it_says() -> Result<()> {
    every_block(|_, block| match block.language.as_str() {
        "sh" => judged(Command::new("bash").arg("-n"), &block.body),
        "toml" => toml(&block.body),
        "json" => json(&block.body),
        "xml" => xml(&block.body),
        "sql" => sql(&block.body),
        "python" => judged(
            Command::new("python3").args([
                "-c",
                "import sys; compile(sys.stdin.read(), 'page', 'exec')",
            ]),
            &block.body,
        ),
        "ini" | "console" | "yaml" | "promql" | "" => Ok(()),
        other => bail!("nobody judges {other:?}"),
    })
}

/// The lines of a block that are commands: all of shell's, and those behind a prompt.
fn commands(block: &Block) -> String {
    let prompt = |line: &&str| line.starts_with("$ ") || line.starts_with("# ");
    let typed = block.body.lines().filter(prompt).map(|line| &line[2..]);
    match block.language.as_str() {
        "sh" => block.body.clone(),
        "console" | "" => typed.collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// What the program says of a call. It is `all` of one, or one that is only mentioned.
fn parses(call: &[String], all: bool) -> Result<()> {
    let command = match call[0].as_str() {
        "vmkpi-guest" => vmkpi_guest::cli::command(),
        "vmkpi-host" => vmkpi_host::cli::command(),
        _ => vmkpi::command::command(),
    };
    let open = call.iter().any(|word| word == "...");
    let words = call.iter().filter(|word| *word != "...");
    let Err(error) = command.try_get_matches_from(words) else {
        return Ok(());
    };
    // What is only mentioned may leave out all but what the options are called.
    let mentioned = !matches!(
        error.kind(),
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand
    );
    let allowed = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        _ if !all => mentioned,
        ErrorKind::MissingRequiredArgument => open,
        _ => false,
    };
    let words = error.to_string();
    let words = words.lines().next().unwrap_or_default();
    ensure!(allowed, "{}: {words}", call.join(" "));
    Ok(())
}

#[test]
fn every_call_is_one_that_the_program_takes() -> Result<()> {
    let mut seen = 0;
    every_block(|page, block| {
        // What the page has exported need not be said again.
        let told = page.text.contains("export VMKPI_BROKER=");
        for mut call in calls(&commands(block)) {
            seen += 1;
            call.extend(told.then(|| "...".to_owned()));
            parses(&call, true)?;
        }
        Ok(())
    })?;
    ensure!(seen > 30, "only {seen} calls were found");
    let mut wrong = Vec::new();
    for page in pages()? {
        for (line, span) in page.spans() {
            let judged = calls(&span).iter().try_for_each(|call| parses(call, false));
            wrong.extend(judged.err().map(|e| format!("{}:{line}: {e}", page.path)));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn calls_are_found_in_shell_as_in_text() {
    let found = |text: &str| -> Vec<String> { calls(text).iter().map(|c| c.join(" ")).collect() };
    assert_eq!(
        found("cat x | vmkpi open --key k >y"),
        ["vmkpi open --key k"]
    );
    assert_eq!(
        found("vmkpi-guest run --mount kpi \\\n  --state s 2> log &"),
        ["vmkpi-guest run --mount kpi --state s"]
    );
    assert_eq!(
        found("sudo -u vmkpi-host vmkpi-host run --check   # why"),
        ["vmkpi-host run --check"]
    );
    assert_eq!(
        found("key = $(vmkpi key show a | sed -n 's/^ *key = //p')"),
        ["vmkpi key show a"]
    );
    assert!(found("install -m 755 target/release/vmkpi-host /usr/bin/").is_empty());
    assert!(found("curl 'http://x/?vm=vmkpi run'").is_empty());
}
