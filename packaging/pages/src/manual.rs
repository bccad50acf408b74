//! A manual page for each command and subcommand.

use anyhow::Result;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::{File, Program};

/// The program's page, and one for each subcommand that is not internal.
///
/// # Errors
/// A page cannot be made.
pub fn pages(program: &Program) -> Result<Vec<File>> {
    // The pages say what `help` would.
    let mut command = program.command.clone().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, program, &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, program: &Program, pages: &mut Vec<File>) -> Result<()> {
    pages.push(page(command, program)?);
    let shown = |command: &&Command| !command.is_hide_set();
    command
        .get_subcommands()
        .filter(shown)
        .try_for_each(|command| collect(command, program, pages))
}

fn page(command: &Command, program: &Program) -> Result<File> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(program.section)
        .source(format!("vmkpi {}", env!("CARGO_PKG_VERSION")))
        .manual("vmkpi");
    let mut text = Vec::new();
    man.render(&mut text)?;
    // The generator's word for what stands behind `--help`; man-pages(7) has another.
    let mut text = String::from_utf8(text)?
        .replace(".SH EXTRA\n", ".SH NOTES\n")
        .into_bytes();
    let above = program.command.get_name();
    let own = (above != name).then_some((above, program.section));
    see_also(own.iter().chain(program.see_also)).to_writer(&mut text)?;
    Ok((format!("{name}.{}", program.section), text))
}

/// The section that ends a page.
pub fn see_also<'a>(pages: impl Iterator<Item = &'a (&'a str, &'a str)>) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let mut words = Vec::new();
    for (name, section) in pages {
        let comma = if words.is_empty() { "" } else { ", " };
        words.extend([roman(comma), bold(*name), roman(format!("({section})"))]);
    }
    roff.text(words);
    roff
}
