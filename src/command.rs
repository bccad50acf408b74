//! The site's command: what can be asked of it, and what its exit status means.
//!
//! | module | job |
//! | --- | --- |
//! | [`access`] | which broker, and how to be let in |
//! | [`watch`] | subscribes and shows what arrives, each row once |
//! | [`query`] | asks a VM for rows of an earlier time |
//! | [`collect`] | keeps what arrives, durably, and confirms it |
//! | [`relay`] | forwards between two sites' brokers |
//! | [`database`] | SQLite files of commands that keep something |
//! | [`broker`] | an embedded MQTT broker for a laptop, and the configuration of a real one |
//! | [`directory`] | finds who delivers and who takes |
//! | [`descriptor`] | checks a VM descriptor |
//! | [`key`] | makes a site's keys and certificates, and shows what they are called |
//! | [`envelope`] | seals and opens by hand |
//! | [`folder`] | files written all or nothing, with safe modes |
//! | [`trust`] | whose signatures count, and what envelopes are opened with |
//! | [`demo`] | the whole chain on this machine |
//! | [`series`] | pages of numbers for Prometheus |
//! | [`print`] | the one place that writes to standard output and standard error |
//! | [`run_or`] | a command that runs and has subcommands beside it |
//! | [`stop`] | what ends a program that would run for ever |

mod access;
mod broker;
mod collect;
mod database;
mod demo;
mod descriptor;
mod directory;
mod envelope;
mod folder;
mod key;
mod print;
mod query;
mod relay;
mod run_or;
mod series;
mod stop;
mod trust;
mod watch;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use print::Console;

/// It failed.
const FAILED: u8 = 1;
/// The command line, or a file named on it, is wrong.
const USAGE: u8 = 2;

/// KPIs out of virtual machines: the site's side.
#[derive(Parser)]
#[command(
    name = "vmkpi",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
#[command(after_help = "Exit status: 0, 1 (it failed), 2 (usage).\n\nStart here: vmkpi demo")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what arrives at a primary site, each row once.
    Watch(Box<watch::Args>),
    /// Keep everything that arrives at a primary site, durably, and confirm it.
    Collect(Box<collect::Args>),
    /// Ask a VM for rows of an earlier time, from its guest's store.
    Query(Box<query::Args>),
    /// Forward between two sites' brokers, one way per branch.
    Relay(Box<relay::Args>),
    /// Find who delivers and who takes: VMs and their data points, and Consumers.
    Directory(Box<directory::Args>),
    /// Run the embedded broker, for a laptop: loopback only, nothing kept on disk. Or print a real one's configuration.
    Broker(broker::Args),
    /// Look at VM descriptors.
    #[command(subcommand)]
    Descriptor(descriptor::Command),
    /// Make a site's keys and certificates, and say what they are called.
    #[command(subcommand)]
    Key(key::Command),
    /// Encrypt standard input for a primary site.
    Seal(envelope::SealArgs),
    /// Decrypt what was sealed for you: an envelope, or published messages.
    Open(envelope::Args),
    /// Run the whole chain on this machine: embedded broker, guest, host, libvirt's test driver.
    Demo(demo::Args),
    /// Ends with the program that started it, whatever ends that (internal).
    #[command(hide = true)]
    DemoChild(demo::child::Args),
    /// Clears up after a demo that could not do so itself (internal).
    #[command(hide = true)]
    DemoKeeper(demo::keeper::Args),
}

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs: one JSON object a line.
    Json,
}

/// Why a command did not do what it was asked.
enum Failure {
    /// The question was wrong: exit status 2.
    Usage(anyhow::Error),
    /// It could not be done: exit status 1.
    Failed(anyhow::Error),
    /// It was done, and the answer is no (already printed): exit status 1.
    No,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Outcome = Result<(), Failure>;

/// The command's subcommands, options and help, for whoever describes them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| without_login(error).exit());
    let mut console = Console::new();
    let outcome = match cli.command {
        Command::Watch(args) => watch::run(*args, &mut console),
        Command::Collect(args) => collect::run(*args, &mut console),
        Command::Query(args) => query::run(*args, &mut console),
        Command::Relay(args) => relay::run(*args, &mut console),
        Command::Directory(args) => directory::run(*args, &mut console),
        Command::Broker(args) => broker::run(&args, &mut console),
        Command::Descriptor(command) => descriptor::run(&command, &mut console),
        Command::Key(command) => key::run(&command, &mut console),
        Command::Seal(args) => envelope::seal(&args, &mut console),
        Command::Open(args) => envelope::open(&args, &mut console),
        Command::Demo(args) => demo::run(&args, &mut console),
        Command::DemoChild(args) => demo::child::run(&args),
        Command::DemoKeeper(args) => demo::keeper::run(&args),
    };
    exit_code(outcome.and_then(|()| Ok(console.flush()?)), &mut console)
}

/// A wrong value is repeated, but not a URL with a login in it: who looks at the terminal, or at a log of it,
/// would read the password.
fn without_login(mut error: clap::Error) -> clap::Error {
    let is_login = |value: &ContextValue| matches!(value, ContextValue::String(text) if text.contains("://") && text.contains('@'));
    if error.get(ContextKind::InvalidValue).is_some_and(is_login) {
        let hidden = ContextValue::String("(a URL with a login)".into());
        error.insert(ContextKind::InvalidValue, hidden);
    }
    error
}

fn exit_code(outcome: Outcome, console: &mut Console) -> ExitCode {
    let (code, error) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::No) => return ExitCode::from(FAILED),
        Err(Failure::Usage(error)) => (USAGE, error),
        Err(Failure::Failed(error)) => (FAILED, error),
    };
    // Whoever read our output has seen enough: `vmkpi watch | head` is no failure.
    if error.chain().any(print::is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    console.say(&format!("error: {error:#}"));
    ExitCode::from(code)
}

/// A runtime on this thread alone: children that are to end with us watch the thread that started
/// them, so it must be the main one.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
