//! `vmkpi relay`: the intermediary between two sites' brokers, a Consumer and a Producer at once. Data, answers and
//! the Producers' leases go up, to the broker nearer to the primary site; confirmations, questions and the Consumers'
//! leases go down. Bytes, topics and flags stay as they are, and nothing is confirmed here.
//!
//! | module | job |
//! | --- | --- |
//! | [`gate`] | which message crosses, and why another does not |
//! | [`hops`] | what is said beside a message, and how often it has been forwarded |
//! | [`spool`], [`keeper`] | what goes up, on disk until it has arrived; the thread that owns it |
//! | [`reserve`] | room for a full disk |
//! | [`sending`] | what of the spool is on its way |
//! | [`latest`] | what goes down, in memory |
//! | [`alive`] | whether the VMs that are forwarded are alive |
//! | [`end`], [`running`] | a broker at one end; the two of them, and all of this between them |
//! | [`words`] | a message in its several forms |
//! | [`metrics`], [`api`] | what is counted, and answered over HTTP |
//! | [`status`] | what a spool holds |

mod alive;
mod api;
mod end;
mod gate;
mod hops;
mod keeper;
mod latest;
mod metrics;
mod reserve;
mod running;
mod sending;
mod spool;
mod status;
mod words;

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::net::lookup_host;
use tracing_subscriber::filter::Targets;
use vmkpi::broker::publisher::QUIET;
use vmkpi::broker::{Broker, BrokerUrl};
use vmkpi::key_file::signing_key;
use vmkpi::logging;
use vmkpi::name::Label;
use vmkpi::sign::SigningKey;

use super::access::{FromArgs, ToArgs};
use super::collect::parse_size;
use super::print::Console;
use super::run_or::RunOr;
use super::stop::{Stop, parse_seconds};
use super::{Failure, Outcome, runtime};
use gate::Sites;

/// What the spool may hold unless the operator says otherwise.
const DEFAULT_BYTES: &str = "1GiB";
/// The least it may hold, in bytes: a few of the largest messages.
const MIN_BYTES: u64 = 16 << 20;
/// The most sites of one relay: each takes three subscriptions at either broker.
const MAX_SITES: usize = 100;
/// How long a broker's name may take to be looked up, to find whether both are one.
const LOOK_UP: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
What goes up is on disk before the broker it comes from hears so, and stays there until the next broker has it. \
Nothing is confirmed here: guests wait for the Consumers that their descriptors name.

Examples:
  vmkpi relay --site acme --from mqtt://127.0.0.1 --to mqtts://broker.acme.example --state relay
  vmkpi relay --site acme --state /var/lib/vmkpi-relay --listen 127.0.0.1:9107 \\
      --from mqtts://broker.here.example --from.ca-file here/ca.crt \\
      --from.cert-file here.crt --from.key-file here.key \\
      --to mqtts://broker.acme.example --to.ca-file acme/ca.crt \\
      --to.cert-file there.crt --to.key-file there.key
  vmkpi relay status --state /var/lib/vmkpi-relay";

/// What is asked of relay: to run, or what a spool holds.
pub type Args = RunOr<RunArgs, Command>;

/// What there is beside running.
#[derive(clap::Subcommand)]
pub enum Command {
    /// What a spool holds, and which VMs are alive; also beside a running relay.
    Status(status::Args),
}

/// What a running relay needs.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// A primary site whose messages cross; several, with commas or one --site each.
    #[arg(
        long = "site",
        value_name = "SITE",
        required = true,
        value_delimiter = ','
    )]
    sites: Vec<Label>,
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    to: ToArgs,
    /// Where what goes up is kept until it has arrived, made if it is not there; one relay at a time.
    #[arg(long, env = "VMKPI_RELAY_STATE", value_name = "DIR")]
    state: PathBuf,
    /// Serve /metrics and /-/healthy there; there is no login, so keep it where only you come.
    #[arg(long, env = "VMKPI_RELAY_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The name by which it registers in the Directory at --from, as one more Consumer.
    #[arg(long, value_name = "NAME", requires = "sign_key_file")]
    name: Option<Label>,
    /// The Ed25519 private key that signs its lease, PEM, not readable by everybody.
    #[arg(long, value_name = "FILE", requires = "name")]
    sign_key_file: Option<PathBuf>,
    /// The most bytes of what waits; over it nothing is taken, and the broker of --from keeps it.
    #[arg(long = "spool.max-bytes", env = "VMKPI_RELAY_SPOOL_MAX_BYTES", value_name = "SIZE",
          default_value = DEFAULT_BYTES, value_parser = parse_spool)]
    max_bytes: u64,
    /// What is logged to standard error: error, warn, info, debug, or TARGET=LEVEL, with commas.
    #[arg(long, env = "VMKPI_RELAY_LOG_LEVEL", value_name = "FILTER", default_value = "info",
          value_parser = parse_filter)]
    log_level: Targets,
    /// End after so many seconds.
    #[arg(long, value_name = "N", value_parser = parse_seconds)]
    seconds: Option<f64>,
}

/// Runs the command.
pub(super) fn run(args: Args, console: &mut Console) -> Outcome {
    let args = match args {
        RunOr::Run(args) => *args,
        RunOr::Other(Command::Status(args)) => return Ok(status::run(&args, console)?),
    };
    if args.sites.len() > MAX_SITES {
        let error = anyhow!("--site: at most {MAX_SITES} sites; run a second relay");
        return Err(Failure::Usage(error));
    }
    let key = args.sign_key_file.as_deref().map(signing_key).transpose();
    let key = key.map_err(|e| Failure::Usage(e.into()))?;
    let plan = Plan {
        sites: Sites::new(args.sites),
        from: args.from.broker()?,
        to: args.to.broker()?,
        state: args.state,
        listen: args.listen,
        max_bytes: args.max_bytes,
        named: args.name.zip(key),
    };
    for broker in [&plan.from, &plan.to] {
        if let Some(warning) = broker.warning() {
            console.say(&format!("warning: {warning}"));
        }
    }
    make_folder(&plan.state).map_err(Failure::Usage)?;
    logging::start(args.log_level);
    runtime()?.block_on(async {
        if same(plan.from.url(), plan.to.url()).await {
            let error =
                anyhow!("--from and --to are the same broker: what is forwarded would come back");
            return Err(Failure::Usage(error));
        }
        let mut stop = Stop::new(args.seconds)?;
        Ok(running::run(plan, &mut stop).await?)
    })
}

/// What to do.
struct Plan {
    sites: Sites,
    from: Broker,
    to: Broker,
    state: PathBuf,
    listen: Option<SocketAddr>,
    max_bytes: u64,
    named: Option<(Label, SigningKey)>,
}

/// What is in it is its owner's.
fn make_folder(path: &Path) -> anyhow::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.with_context(|| format!("--state {}", path.display())),
    }
}

/// Whether both lead to one broker, as far as names tell.
async fn same(one: &BrokerUrl, other: &BrokerUrl) -> bool {
    if (&one.host, one.port) == (&other.host, other.port) {
        return true;
    }
    let addresses = async |url: &BrokerUrl| {
        let found = tokio::time::timeout(LOOK_UP, lookup_host((url.host.clone(), url.port))).await;
        // Who has no address now may have one later.
        let found = found.ok().and_then(Result::ok);
        found.map(Iterator::collect::<Vec<_>>).unwrap_or_default()
    };
    let (one, other) = (addresses(one).await, addresses(other).await);
    one.iter().any(|address| other.contains(address))
}

fn parse_spool(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes >= MIN_BYTES => Ok(bytes),
        _ => Err("from 16MiB on".into()),
    }
}

/// What it says of rumqttc comes later than what we say, and counts.
fn parse_filter(text: &str) -> Result<Targets, String> {
    logging::filter(text)?;
    logging::filter(&format!("{QUIET},{text}"))
}
