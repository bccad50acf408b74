//! The door of `vmkpi`, the site's command: reads the command line, calls the room, says how it went.

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::run()
}
