//! What shells complete.

use clap::Command;
use clap_complete::aot::{Generator, Shell, generate};

use crate::File;

/// The shells, by the folder of each, and the file that is installed for it.
pub fn files(command: &Command) -> [(&'static str, File); 3] {
    let of = |folder, shell: Shell| {
        let mut command = command.clone();
        let name = command.get_name().to_owned();
        let mut text = Vec::new();
        generate(shell, &mut command, &name, &mut text);
        let installed = match shell {
            // What bash-completion looks for is the program's name alone.
            Shell::Bash => name,
            shell => shell.file_name(&name),
        };
        (folder, (installed, text))
    };
    [
        of("bash", Shell::Bash),
        of("zsh", Shell::Zsh),
        of("fish", Shell::Fish),
    ]
}
