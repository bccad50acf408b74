//! `vmkpi-host`: the door. Reads the command line, calls the library, and is the one place that prints.
//! Exit status 0, 1 (it failed; `status`: something needs attention), 2 (usage or configuration).

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use vmkpi::context::Class;
use vmkpi_host::cli::{self, Invocation, RunMode};
use vmkpi_host::settings::{CATALOGUE, Problems, Sources, check};
use vmkpi_host::{service, status};

/// It did not work, or something needs attention.
const FAILED: u8 = 1;

/// It was asked wrongly: an argument, a variable, or something in the configuration.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // What is not UTF-8 is no value of ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let invocation = match cli::parse(std::env::args_os(), environment) {
        Ok(invocation) => invocation,
        // --help and --version are such errors, too, and know where they go.
        Err(error) => error.exit(),
    };
    match perform(invocation) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            format!("{error:#}").lines().for_each(complain);
            let usage = error.downcast_ref::<Problems>().is_some();
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

fn complain(line: &str) {
    // The last resort: where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "vmkpi-host: {line}");
}

fn perform(invocation: Invocation) -> anyhow::Result<u8> {
    match invocation {
        Invocation::Run(sources, RunMode::Serve) => service::run(sources).map(|()| 0),
        Invocation::Run(sources, RunMode::Check) => say_check(&sources).map(|()| 0),
        Invocation::Run(sources, RunMode::PrintConfig) => {
            let settings = CATALOGUE.load(&sources)?.settings;
            print(CATALOGUE.example(&settings).as_bytes()).map(|()| 0)
        }
        Invocation::Status { sources, json } => {
            // A configuration that is wrong is no reason not to look how the daemon is.
            let (loaded, problems) = CATALOGUE.read(&sources);
            for problem in problems.0 {
                complain(&problem.to_string());
            }
            let status = status::ask(&loaded.settings.state)?;
            match json {
                true => print((serde_json::to_string(&status)? + "\n").as_bytes())?,
                false => print(status::render(&status).as_bytes())?,
            }
            Ok(if status.healthy { 0 } else { FAILED })
        }
        Invocation::Recontextualize {
            sources,
            request,
            json,
        } => {
            let (loaded, problems) = CATALOGUE.read(&sources);
            for problem in problems.0 {
                complain(&problem.to_string());
            }
            let answer = status::recontextualize(&loaded.settings.state, &request)?;
            match json {
                true => print((serde_json::to_string(&answer)? + "\n").as_bytes())?,
                false => print(status::render_answer(&answer).as_bytes())?,
            }
            let of_classes = answer.classes.values().filter_map(|c| c.problem.as_ref());
            for problem in answer.problem.iter().chain(of_classes) {
                complain(problem);
            }
            Ok(if answer.is_good() { 0 } else { FAILED })
        }
    }
}

fn say_check(sources: &Sources) -> anyhow::Result<()> {
    let (loaded, problems) = CATALOGUE.read(sources);
    let checked = check(&loaded.settings, problems)?;
    let from = match &loaded.file {
        Some(file) => file.display().to_string(),
        None => "no file; environment and flags".into(),
    };
    let descriptors = checked.descriptors.len();
    let contents = &checked.contents;
    let context = match contents.is_empty() {
        true => String::new(),
        false => {
            let classes: Vec<&str> = contents.keys().map(Class::as_str).collect();
            format!("; context of class {}", classes.join(", "))
        }
    };
    let said =
        format!("the configuration is valid ({from}; {descriptors} descriptors read{context})\n");
    print(said.as_bytes())
}

fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        // `vmkpi-host status | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}
