//! `vmkpi demo-child`: becomes another program that ends when the demo ends. The kernel sends it
//! SIGTERM then, whatever ended the demo.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{anyhow, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::super::Outcome;

/// What to become.
#[derive(clap::Args)]
pub struct Args {
    /// The process that the program ends with.
    #[arg(long)]
    parent: i32,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// Becomes the program; returns only if that fails.
pub fn run(args: &Args) -> Outcome {
    Ok(become_program(args)?)
}

fn become_program(args: &Args) -> anyhow::Result<()> {
    end_with(args.parent)?;
    let [program, arguments @ ..] = &args.program[..] else {
        bail!("no program is named");
    };
    let error = Command::new(program).args(arguments).exec();
    Err(anyhow!(error).context(program.to_string_lossy().into_owned()))
}

/// Has the kernel end this process when the thread of `parent` that started it ends.
fn end_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have ended before the kernel was asked.
    if getppid()
        .map(Pid::as_raw_nonzero)
        .map(std::num::NonZeroI32::get)
        != Some(parent)
    {
        bail!("the program that started this one is gone");
    }
    Ok(())
}
