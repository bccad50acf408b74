//! The door of `vmkpi`, the site's command: calls the room, which reads the command line and says how it went.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmkpi::command::run()
}
