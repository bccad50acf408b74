//! `vmkpi-guest`: the door. Reads the command line, calls the library, and is the one place that prints.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use vmkpi::name::DataPoint;
use vmkpi_guest::cli::{self, Invocation, RunMode};
use vmkpi_guest::context::command;
use vmkpi_guest::settings::{CATALOGUE, Loaded, Problems, Settings, Sources};
use vmkpi_guest::{daemon, logging, sealing, status};

/// It did not work.
const FAILED: u8 = 1;

/// It was asked wrongly: an argument, a variable or a line of the configuration.
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
    match perform(&invocation) {
        Ok(code) => code,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                // The last resort: where standard error is closed there is nobody to tell.
                let _ = writeln!(std::io::stderr(), "vmkpi-guest: {line}");
            }
            let usage = error.downcast_ref::<Problems>().is_some();
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

fn perform(invocation: &Invocation) -> anyhow::Result<ExitCode> {
    match invocation {
        Invocation::Run(sources, mode) => {
            let loaded = CATALOGUE.load(sources)?;
            match mode {
                RunMode::Serve => serve(sources, &loaded.settings),
                RunMode::Check => check(&loaded),
                RunMode::PrintConfig => print(CATALOGUE.example(&loaded.settings).as_bytes()),
            }
            .map(|()| ExitCode::SUCCESS)
        }
        Invocation::Status {
            sources,
            json,
            check,
        } => {
            let settings = CATALOGUE.load(sources)?.settings;
            let status = status::gather(&settings.state)?;
            match json {
                true => print((serde_json::to_string(&status)? + "\n").as_bytes())?,
                false => print(status::render(&status).as_bytes())?,
            }
            let unhealthy = *check && !status.advice.is_empty();
            Ok(ExitCode::from(if unhealthy { FAILED } else { 0 }))
        }
        Invocation::Context {
            sources,
            question,
            json,
        } => {
            let settings = CATALOGUE.load(sources)?.settings;
            let shown = command::context(&settings, question, *json)?;
            print(shown.text.as_bytes())?;
            Ok(ExitCode::from(if shown.well { 0 } else { FAILED }))
        }
        Invocation::Seal { sources, point } => {
            let settings = CATALOGUE.load(sources)?.settings;
            seal(&settings, point).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn serve(sources: &Sources, settings: &Settings) -> anyhow::Result<()> {
    let filter = logging::filter(&settings.log_level).map_err(anyhow::Error::msg)?;
    let level = vmkpi::logging::start(filter);
    daemon::run(sources, settings, &level)
}

fn check(loaded: &Loaded) -> anyhow::Result<()> {
    loaded.settings.run_config()?;
    let from = match &loaded.file {
        Some(file) => file.display().to_string(),
        None => "no file; environment and flags".into(),
    };
    print(format!("the configuration is valid ({from})\n").as_bytes())
}

fn seal(settings: &Settings, point: &str) -> anyhow::Result<()> {
    if std::io::stdin().is_terminal() {
        anyhow::bail!("there is nothing on standard input: write `cmd | vmkpi-guest seal ...`");
    }
    let point: DataPoint = point.parse().context("--point")?;
    let sealer = sealing::Sealer::new(settings, &point)?;
    let mut content = Vec::new();
    std::io::stdin()
        .take(sealer.room() as u64 + 1)
        .read_to_end(&mut content)
        .context("standard input")?;
    print(sealer.seal(content)?.as_bytes())
}

fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        // `vmkpi-guest status | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}
