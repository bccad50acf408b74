//! `vmkpi collect`: the durable Consumer of a primary site. Everything that arrives is kept in one SQLite file, each
//! row once; what is missing is asked for; what is on disk is confirmed, so that guests may let go of it.
//!
//! ```text
//! broker ──> intake ──> writer (a thread) ──> database ──> query API, /metrics
//!    ^                      │ after the commit
//!    └── confirmations <────┘ signed; what is missing is asked for
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | [`keeper`], [`kept`] | a batch of messages in one transaction: what connects, and cursors; what came of it |
//! | [`leases`] | what the Directory says of Producers |
//! | [`writer`] | the thread that owns the database |
//! | [`retention`] | what bounds it |
//! | [`keys`] | whose messages are kept and what opens them, read again while it runs |
//! | [`status`] | what a database holds |
//! | [`api`], [`query`], [`buckets`], [`page`] | what is answered over HTTP |
//! | [`embedded`] | the page that a browser shows, in the files of `page/` |
//! | [`metrics`] | collect's own numbers, for Prometheus |
//! | [`confirming`] | what is said to Producers |

mod api;
mod buckets;
mod confirming;
mod embedded;
mod keeper;
mod kept;
mod keys;
mod leases;
mod metrics;
mod page;
mod query;
mod retention;
mod running;
mod status;
mod writer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vmkpi::broker::Broker;
use vmkpi::key_file::signing_key;
use vmkpi::name::Label;
use vmkpi::sign::SigningKey;

use vmkpi::settings::units::parse_duration;

use super::access;
use super::database::Schema;
use super::print::Console;
use super::run_or::RunOr;
use super::stop::{Stop, parse_seconds};
use super::trust::TrustArgs;
use super::{Failure, Outcome, runtime};
use keys::Keys;
use retention::Limits;

/// A collect's database; the first migration is what `schemas/collect.sql` documents.
pub(super) const SCHEMA: Schema = Schema {
    program: "vmkpi collect",
    migrations: &[
        include_str!("../../schemas/collect.sql"),
        include_str!("../../schemas/collect.2.sql"),
        include_str!("../../schemas/collect.3.sql"),
    ],
};
/// What the database may hold unless the operator says otherwise, in bytes.
const DEFAULT_BYTES: &str = "10GiB";

const EXAMPLES: &str = "\
With --name and --sign-key-file it confirms what is on its disk, and a guest whose descriptor names it \
under [[confirm]] keeps its rows until it has. Without, it confirms nothing, and what it misses is noted \
as a gap.

Examples:
  vmkpi collect --broker mqtt://127.0.0.1 --db kpi.db
  vmkpi collect --broker mqtts://broker.acme.example --db kpi.db \\
      --name acme-collect --sign-key-file collect.key --listen 127.0.0.1:9106
  vmkpi collect status --db kpi.db";

/// What is asked of collect: to run, or what a database holds.
pub type Args = RunOr<RunArgs, Command>;

/// What there is beside running.
#[derive(clap::Subcommand)]
pub enum Command {
    /// What a database holds, who is silent and what is missing; also beside a running collect.
    Status(status::Args),
}

/// What a running collect needs.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    #[command(flatten)]
    broker: access::BrokerArgs,
    /// The database: it is made if it is not there, and gone on with if it is.
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// Only this primary site.
    #[arg(long, value_name = "SITE")]
    site: Option<Label>,
    /// Serve a page for the browser, /metrics and the query API there; there is no login, so keep it where only you come.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The name by which descriptors know this Consumer ([[confirm]] name).
    #[arg(long, value_name = "NAME", requires = "sign_key_file")]
    name: Option<Label>,
    /// Its Ed25519 private key, PEM, not readable by everybody.
    #[arg(long, value_name = "FILE", requires = "name")]
    sign_key_file: Option<PathBuf>,
    /// The database was restored from a backup: in streams it does not know, begin at the first row.
    #[arg(long)]
    restored: bool,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    retain: RetainArgs,
    /// End after so many seconds.
    #[arg(long, value_name = "N", value_parser = parse_seconds)]
    seconds: Option<f64>,
}

#[derive(clap::Args)]
struct RetainArgs {
    /// The most bytes in the database; over it, the oldest goes.
    #[arg(long = "retain.bytes", value_name = "SIZE", default_value = DEFAULT_BYTES, value_parser = parse_size)]
    bytes: u64,
    /// The most samples, and as many results; over it, the oldest go.
    #[arg(long = "retain.rows", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// How long anything is kept, as 90d, 12h or 30m.
    #[arg(long = "retain.age", value_name = "TIME", value_parser = parse_age)]
    age: Option<Duration>,
}

/// Runs the command.
pub(super) fn run(args: Args, console: &mut Console) -> Outcome {
    let args = match args {
        RunOr::Run(args) => *args,
        RunOr::Other(Command::Status(args)) => return Ok(status::run(&args, console)?),
    };
    let broker = args.broker.broker()?;
    if let Some(warning) = broker.warning() {
        console.say(&format!("warning: {warning}"));
    }
    let key = args.sign_key_file.as_deref().map(signing_key).transpose();
    let key = key.map_err(|e| Failure::Usage(e.into()))?;
    let keys = Keys::read(args.trust, &broker)?;
    let plan = Plan {
        broker,
        keys,
        db: args.db,
        site: args.site,
        listen: args.listen,
        named: args.name.zip(key.map(Arc::new)),
        restored: args.restored,
        limits: Limits {
            bytes: args.retain.bytes,
            rows: args.retain.rows,
            age: args.retain.age,
        },
    };
    runtime()?.block_on(async {
        let mut stop = Stop::new(args.seconds)?;
        Ok(running::run(plan, console, &mut stop).await?)
    })
}

/// What to do.
struct Plan {
    broker: Broker,
    keys: Keys,
    db: PathBuf,
    site: Option<Label>,
    listen: Option<SocketAddr>,
    named: Option<(Label, Arc<SigningKey>)>,
    restored: bool,
    limits: Limits,
}

/// A size on the command line: bytes, or with KiB, MiB, GiB, TiB.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err("a size is needed, as 500MiB or 10GiB".into()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a size is needed, as 500MiB or 10GiB")?;
    let bytes = number.checked_mul(1 << shift).ok_or("that is too much")?;
    match (retention::MIN_BYTES..1 << 60).contains(&bytes) {
        true => Ok(bytes),
        false => Err("from 1MiB on".into()),
    }
}

/// How long anything is kept.
fn parse_age(text: &str) -> Result<Duration, String> {
    let age = parse_duration(text)?;
    // Retention knows minutes.
    match age >= Duration::from_secs(60) {
        true => Ok(age),
        false => Err("from 1m on".to_owned()),
    }
}
