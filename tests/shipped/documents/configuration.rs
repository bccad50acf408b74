//! docs/CONFIGURATION.md is what the programs' own catalogues say. `UPDATE_GOLDEN=1` writes it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use clap::Arg;
use vmkpi::settings::{Catalogue, Kind, Setting};

use super::{page, root};

/// Everything from here on is generated.
const MARK: &str =
    "<!-- From here on generated: UPDATE_GOLDEN=1 and the test of this page write it. -->\n";

/// What a value is, with its unit.
fn kind<S>(setting: &Setting<S>) -> &'static str {
    match (setting.kind, setting.value) {
        (Kind::Integer, "SECONDS") => "seconds",
        (Kind::Integer, _) if setting.key.ends_with("bytes") => "bytes",
        (Kind::Integer, _) => "number",
        (Kind::Boolean, _) => "`true`, `false`",
        (Kind::Mode, _) => "octal digits, text",
        (Kind::Account, _) => "name or number",
        (Kind::Map, _) => "a line each",
        (Kind::Text, "DURATION") => "duration",
        (Kind::Text, "FILE" | "DIR") => "path",
        (Kind::Text, "URL" | "URI") => "URL",
        (Kind::Text, "ADDR") => "address:port",
        (Kind::Text, "LIST" | "CLASS,...") => "list, with commas",
        (Kind::Text, _) => "text",
    }
}

/// Whether the program takes this number.
fn takes<S: Default>(setting: &Setting<S>, number: u64) -> bool {
    setting.set(&mut S::default(), &number.to_string()).is_ok()
}

/// The last number from `good` on towards `bad` that is taken.
fn last_taken<S: Default>(setting: &Setting<S>, mut good: u64, mut bad: u64) -> u64 {
    while good.abs_diff(bad) > 1 {
        let middle = good.midpoint(bad);
        match takes(setting, middle) {
            true => good = middle,
            false => bad = middle,
        }
    }
    good
}

/// The limits of a number, found by asking the program's own judge.
fn limits<S: Default>(setting: &Setting<S>) -> Result<String> {
    if setting.kind != Kind::Integer {
        return Ok(String::new());
    }
    let some = setting.get(&S::default());
    let some: u64 = some.as_deref().unwrap_or(setting.sample).parse()?;
    ensure!(takes(setting, some), "{} refuses its default", setting.key);
    let least = match takes(setting, 0) {
        true => 0,
        false => last_taken(setting, some, 0),
    };
    // TOML has no larger number.
    let all = i64::MAX.unsigned_abs();
    let most = match takes(setting, all) {
        true => return Ok(format!("{least} or more")),
        false => last_taken(setting, some, all),
    };
    Ok(format!("{least} to {most}"))
}

/// The value as the file has it.
fn default<S: Default>(setting: &Setting<S>) -> String {
    let value = setting.get(&S::default()).filter(|value| !value.is_empty());
    match (value, setting.kind) {
        (None, _) => "none".into(),
        (Some(value), Kind::Integer | Kind::Boolean) => format!("`{value}`"),
        (Some(value), _) => format!("`\"{value}\"`"),
    }
}

/// A daemon's settings.
fn settings<S: Default>(catalogue: &Catalogue<S>) -> Result<String> {
    let mut text = format!(
        "\n## {}\n\nThe file is `{}` (another: `--config`, `{}CONFIG`), {} KiB at most.\n\n\
         | key | flag, variable | type | default | limits | SIGHUP | what |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        catalogue.program,
        catalogue.default_file,
        catalogue.env_prefix,
        catalogue.max_file_bytes >> 10,
    );
    for setting in catalogue.settings {
        let key = match setting.kind {
            Kind::Map => format!("[{}]", setting.key),
            _ => setting.key.to_owned(),
        };
        let reload = if setting.reloads {
            "at once"
        } else {
            "restart"
        };
        writeln!(
            text,
            "| `{key}` | `--{}`<br>`{}` | {} | {} | {} | {reload} | {} |",
            setting.flag,
            catalogue.env(setting),
            kind(setting),
            default(setting),
            limits(setting)?,
            setting.help.replace('|', "\\|"),
        )?;
    }
    for tables in catalogue.tables {
        // Such a table has neither flags nor variables.
        for (key, help) in (tables.reference)() {
            let table = tables.key;
            writeln!(text, "| `[[{table}]]` `{key}` | | | | | at once | {help} |")?;
        }
    }
    Ok(text)
}

/// A line on one line, for a cell.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

fn flag(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first());
    let takes_value = arg.get_action().takes_values();
    let value = value
        .filter(|_| takes_value)
        .map_or(String::new(), |v| format!(" {v}"));
    match arg.get_long() {
        Some(long) => format!("`--{long}{value}`"),
        None => format!("`{}`", value.trim()),
    }
}

/// The options of a command and of those below it.
fn options(name: &str, command: &clap::Command, text: &mut String) -> Result<()> {
    let args: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"))
        .collect();
    if !args.is_empty() && name.contains(' ') {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        write!(
            text,
            "\n### {name}\n\n{}.\n\n| option | variable | default | what |\n| --- | --- | --- | --- |\n",
            cell(&about)
        )?;
    }
    for arg in args {
        let env = arg
            .get_env()
            .map_or(String::new(), |env| format!("`{}`", env.display()));
        let defaults: Vec<_> = arg
            .get_default_values()
            .iter()
            .map(|v| v.to_string_lossy())
            .collect();
        let shown = match defaults.is_empty() || !arg.get_action().takes_values() {
            true if arg.is_required_set() => "required".to_owned(),
            true => String::new(),
            false => format!("`{}`", defaults.join(",")),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(
            text,
            "| {} | {env} | {shown} | {} |",
            flag(arg),
            cell(&help)
        )?;
    }
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        options(&format!("{name} {}", below.get_name()), below, text)?;
    }
    Ok(())
}

fn generated() -> Result<String> {
    let mut text = settings(&vmkpi_guest::settings::CATALOGUE)?;
    text.push_str(&settings(&vmkpi_host::settings::CATALOGUE)?);
    text.push_str(
        "\n## vmkpi\n\nThe site's command has no file: options, and variables for some of them.\n",
    );
    options("vmkpi", &vmkpi::command::command(), &mut text)?;
    Ok(text)
}

#[test]
fn the_reference_is_what_the_programs_take() -> Result<()> {
    let path = root().join("docs/CONFIGURATION.md");
    let text = page("docs/CONFIGURATION.md")?.text;
    let (head, rest) = text.split_once(MARK).context("no mark")?;
    let generated = generated()?;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, format!("{head}{MARK}{generated}"))?;
        return Ok(());
    }
    ensure!(
        rest == generated,
        "run the test with UPDATE_GOLDEN=1 to write it"
    );
    Ok(())
}
