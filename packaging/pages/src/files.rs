//! A manual page for each configuration file, of the catalogue that it is read by.

use anyhow::Result;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use vmkpi::settings::{Catalogue, Kind, Setting, quote};

use crate::File;
use crate::manual::see_also;

/// The programs that read a file, each with the page about it.
///
/// # Errors
/// A page cannot be made.
pub fn pages() -> Result<[(&'static str, File); 2]> {
    Ok([
        ("vmkpi-guest", page(&vmkpi_guest::settings::CATALOGUE)?),
        ("vmkpi-host", page(&vmkpi_host::settings::CATALOGUE)?),
    ])
}

fn page<S: Default>(catalogue: &Catalogue<S>) -> Result<File> {
    let name = format!("{}.toml", catalogue.program);
    let source = format!("vmkpi {}", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    roff.control("TH", [&name.to_uppercase(), "5", "", &source, "vmkpi"]);
    roff.control("SH", ["NAME"]);
    let what = format!("{name} - configuration of {}", catalogue.program);
    roff.text([roman(what)]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([italic(catalogue.default_file)]);
    describe(catalogue, &mut roff);
    let defaults = S::default();
    roff.control("SH", ["SETTINGS"]);
    for setting in catalogue.settings {
        entry(catalogue, setting, &defaults, &mut roff);
    }
    tables(catalogue, &defaults, &mut roff);
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    see_also([(catalogue.program, "8")].iter()).to_writer(&mut text)?;
    Ok((format!("{name}.5"), text))
}

fn describe<S: Default>(catalogue: &Catalogue<S>, roff: &mut Roff) {
    let (program, prefix) = (catalogue.program, catalogue.env_prefix);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(format!(
        "TOML, at most {} bytes. A key a.b is the key b in the section [a]. What is left out has its default; variables of \
         the environment ({prefix}*) are stronger than the file, and flags are stronger than both. Nobody but root and \
         the program's user may be able to write the file.",
        catalogue.max_file_bytes
    ))]);
    roff.control("PP", []);
    let command = |text: &str| bold(format!("{program} run {text}"));
    roff.text([
        command("--check"),
        roman(" says what is wrong with the file, "),
        command("--print-config"),
        roman(" shows what would be used, as an annotated file."),
    ]);
}

fn entry<S: Default>(
    catalogue: &Catalogue<S>,
    setting: &Setting<S>,
    defaults: &S,
    roff: &mut Roff,
) {
    roff.control("TP", []);
    let key = match setting.kind {
        Kind::Map => format!("[{}]", setting.key),
        _ => setting.key.to_owned(),
    };
    let mut heading = vec![bold(key)];
    if let Some(value) = setting.get(defaults).filter(|value| !value.is_empty()) {
        heading.extend(default(setting.kind, &value));
    }
    roff.text(heading);
    roff.text([roman(format!("{}.", setting.help))]);
    roff.control("br", []);
    let (kind, flag) = (setting.kind.describe(), setting.flag);
    let variable = catalogue.env(setting);
    let reloads = match setting.reloads {
        true => "; SIGHUP is enough to change it",
        false => "",
    };
    roff.text([
        roman(format!("{kind}; ")),
        bold(format!("--{flag}")),
        roman(", "),
        italic(variable),
        roman(reloads),
    ]);
}

/// The default as it is written in the file.
fn default(kind: Kind, value: &str) -> [Inline; 2] {
    let value = match kind {
        Kind::Integer | Kind::Boolean => value.to_owned(),
        _ => quote(value),
    };
    [roman(" = "), roman(value)]
}

/// Arrays of tables, as the annotated file has them.
fn tables<S: Default>(catalogue: &Catalogue<S>, defaults: &S, roff: &mut Roff) {
    let mut text = String::new();
    for tables in catalogue.tables {
        (tables.write)(defaults, &mut text);
    }
    if text.is_empty() {
        return;
    }
    roff.control("SH", ["TABLES"]);
    roff.control("nf", []);
    for line in text.trim().lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}
