//! The command line: what was asked, from arguments and the environment. Flags come from [`CATALOGUE`].

use std::ffi::OsString;

use clap::Command;
pub use vmkpi::settings::flags::RunMode;
use vmkpi::settings::flags::{format, option, switch, text};

use vmkpi::context::Class;

use crate::settings::{CATALOGUE, Sources};
use crate::status::Request;

/// What the program is asked to do.
#[derive(Debug)]
pub enum Invocation {
    /// Follow the hypervisor's domains.
    Run(Sources, RunMode),
    /// Ask a daemon that runs how it is.
    Status {
        /// Where its state is.
        sources: Sources,
        /// Whether programs read it.
        json: bool,
    },
    /// Have a daemon that runs look after a VM's contexts now.
    Recontextualize {
        /// Where its state is.
        sources: Sources,
        /// What is asked.
        request: Request,
        /// Whether programs read the answer.
        json: bool,
    },
}

/// Reads arguments and environment.
///
/// # Errors
/// What clap says: bad usage, or `--help` and `--version`.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Vec<(String, String)>,
) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    let (name, matches) = matches.subcommand().unwrap_or(("", &matches));
    let sources = CATALOGUE.sources(matches, environment);
    Ok(match name {
        "status" => Invocation::Status {
            sources,
            json: text(matches, "format") == Some("json"),
        },
        "recontextualize" => Invocation::Recontextualize {
            sources,
            request: Request::Recontextualize {
                vm: text(matches, "vm").unwrap_or_default().to_owned(),
                class: matches.get_one::<Class>("class").cloned(),
                event: text(matches, "event").map(str::to_owned),
            },
            json: text(matches, "format") == Some("json"),
        },
        _ => Invocation::Run(sources, RunMode::of(matches)),
    })
}

/// The program's commands, flags and help.
pub fn command() -> Command {
    Command::new("vmkpi-host")
        .version(env!("CARGO_PKG_VERSION"))
        .max_term_width(100)
        .about(
            "Follows libvirt's domains, reads the KPIs of their guests, and publishes them as their VM descriptors say.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run())
        .subcommand(status())
        .subcommand(recontextualize())
}

fn run() -> Command {
    Command::new("run")
        .about("Run in the foreground until SIGTERM or SIGINT; SIGHUP reads the configuration anew")
        .args(CATALOGUE.flags(&[]))
        .arg(switch(
            "check",
            "Say all that is wrong with the configuration and the files it names, and run nothing",
        ))
        .arg(switch(
            "print-config",
            "Show the configuration as an annotated file, and run nothing",
        ))
}

fn status() -> Command {
    Command::new("status")
        .about("Show how the running daemon and each of its VMs are, and what to do; exit with 1 when something needs attention or nothing runs")
        .args(CATALOGUE.flags(&["state"]))
        .arg(format())
}

fn recontextualize() -> Command {
    Command::new("recontextualize")
        .about("Have the running daemon make and insert what a VM is told, now, for any event that libvirt does not know; exit with 1 when that fails")
        .arg(clap::Arg::new("vm").value_name("VM").required(true).help("The domain, by name or UUID"))
        .arg(option("class", "CLASS", "Only this class").value_parser(class))
        .arg(option("event", "NAME", "What has happened, which templates are told as event").value_parser(event))
        .args(CATALOGUE.flags(&["state"]))
        .arg(format())
}

fn class(text: &str) -> Result<Class, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// A word that reads the same in a file, a log and a terminal.
fn event(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match (1..=64).contains(&text.len()) && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("write letters, digits, -, _ or ., 1 to 64 in all".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Problems, Settings};

    fn load(args: &[&str]) -> Result<Settings, Problems> {
        // Nothing of this machine's configuration counts.
        let base = ["vmkpi-host", "run", "--config", "/dev/null"];
        let args = base.iter().chain(args).map(OsString::from);
        match parse(args, Vec::new()).unwrap() {
            Invocation::Run(sources, RunMode::Serve) => {
                CATALOGUE.load(&sources).map(|loaded| loaded.settings)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn domains_are_given_their_link_and_descriptor() {
        let settings = load(&[
            "--guest",
            "a=unix:/x",
            "--guest",
            "b=unix:/y",
            "--guest=c=vsock:7:9001",
            "--descriptor",
            "a=/d.toml",
        ])
        .unwrap();
        assert_eq!(settings.guests.len(), 3);
        assert_eq!(settings.descriptors["a"].to_str(), Some("/d.toml"));
    }

    #[test]
    fn a_recontextualization_names_a_vm_a_class_and_an_event() {
        let ask = |args: &[&str]| {
            let base = ["vmkpi-host", "recontextualize"];
            let args = base.iter().chain(args).map(OsString::from);
            parse(args, Vec::new())
        };
        let asked = ask(&["shop", "--class=service", "--event=fail-over.2"]).unwrap();
        let Invocation::Recontextualize { request, json, .. } = asked else {
            panic!("{asked:?}");
        };
        let due = Request::Recontextualize {
            vm: "shop".into(),
            class: Some("service".parse().unwrap()),
            event: Some("fail-over.2".into()),
        };
        assert_eq!((request, json), (due, false));
        for bad in [
            &[][..],
            &["a", "b"],
            &["a", "--class=A"],
            &["a", "--event="],
            &["a", "--event=a b"],
            &["a", "--event=ä"],
        ] {
            assert!(ask(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            &["--guest", "a"][..],
            &["--guest", "=unix:/x"],
            &["--guest", "a=http://x"],
            &["--guest", "a=tls:example.org:9001"],
            &["--guest", "a=unix:/x", "--guest", "a=unix:/y"],
            &["--link.poll-interval", "0"],
            &["--descriptor", "a="],
            &["--web.listen-address", "everywhere"],
            &["--broker", "localhost"],
            &["--libvirt.uri", ""],
        ] {
            let problems = load(bad).unwrap_err();
            assert_eq!(problems.0.len(), 1, "{bad:?}: {problems}");
            assert_eq!(problems.0[0].at, bad[0].split('=').next().unwrap());
        }
    }
}
