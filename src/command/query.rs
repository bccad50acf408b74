//! `vmkpi query`: asks a VM for rows of an earlier time and shows them as `watch` does: a Consumer that the VM's
//! descriptor names, in the query/response of the Grid Monitoring Architecture (docs/QUERY.md).
//!
//! | module | job |
//! | --- | --- |
//! | [`asker`] | what to ask next, and what of what comes is new |
//! | [`conversation`] | questions and answers over the broker, with deadlines |
//! | [`words`] | what is said when there is no answer |
//! | [`instant`] | times on the command line |

mod asker;
mod conversation;
mod instant;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use vmkpi::clock::Timestamp;
use vmkpi::key_file::signing_key;
use vmkpi::name::{DataPoint, Label};
use vmkpi::query::Subject;

use super::access;
use super::print::Console;
use super::stop::{Stop, parse_seconds};
use super::trust::TrustArgs;
use super::{Failure, Format, Outcome, runtime};
use asker::{Asker, Wanted};
use conversation::Conversation;

/// What to ask whom.
#[derive(clap::Args)]
#[command(after_help = "\
The VM's descriptor must name this Consumer under [[confirm]] with the public half of its key; anybody else gets no \
answer. Rows come by stream, the oldest first, then by number.

Examples:
  vmkpi query --broker mqtt://127.0.0.1 --site acme --vm shop --point unencrypted/web \\
      --name acme-collect --sign-key-file collect.key.pem --from -1h
  vmkpi query --broker mqtts://broker.acme.example --trust sites/ --key seal.key.pem --site acme --vm shop \\
      --point unencrypted/web --name acme-collect --sign-key-file collect.key.pem \\
      --from 2026-11-20T17:00:00Z --to 2026-11-20T18:00:00Z --format json")]
pub struct Args {
    #[command(flatten)]
    broker: access::BrokerArgs,
    /// The primary site, by its name in the descriptor.
    #[arg(long, value_name = "SITE")]
    site: Label,
    /// The VM, by its name in its descriptor.
    #[arg(long, value_name = "VM")]
    vm: Label,
    /// The data point: unencrypted/NAME or encrypted/NAME.
    #[arg(long, value_name = "POINT")]
    point: DataPoint,
    /// Rows stored at this time or later, by the guest's clock: RFC 3339, or as -90s, -15m, -1h, -7d ago.
    #[arg(long, value_name = "TIME", value_parser = instant::parse, allow_hyphen_values = true)]
    from: Option<Timestamp>,
    /// Rows stored before this time.
    #[arg(long, value_name = "TIME", value_parser = instant::parse, allow_hyphen_values = true)]
    to: Option<Timestamp>,
    /// At most so many rows; all of them otherwise.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// The name by which the descriptor knows this Consumer ([[confirm]] name).
    #[arg(long, value_name = "NAME")]
    name: Label,
    /// Its Ed25519 private key, PEM, not readable by everybody.
    #[arg(long, value_name = "FILE")]
    sign_key_file: PathBuf,
    #[command(flatten)]
    trust: TrustArgs,
    /// A line for people, or one JSON object a line.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Give up when nothing new has come for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_seconds)]
    timeout: f64,
}

/// Runs the command.
pub(super) fn run(args: Args, console: &mut Console) -> Outcome {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from >= to
    {
        return Err(Failure::Usage(anyhow!(
            "--from {from} is not before --to {to}: there is nothing between them"
        )));
    }
    let broker = args.broker.broker()?;
    let key = signing_key(&args.sign_key_file).map_err(|e| Failure::Usage(e.into()))?;
    let trust = args.trust.read(&broker)?;
    if let Some(warning) = broker.warning() {
        console.say(&format!("warning: {warning}"));
    }
    let subject = Subject {
        site: args.site,
        consumer: args.name,
        vm: args.vm,
    };
    let wanted = Wanted {
        point: args.point,
        from: args.from,
        to: args.to,
        limit: args.limit,
    };
    let timeout = Duration::try_from_secs_f64(args.timeout);
    let timeout = timeout.map_err(|e| Failure::Usage(anyhow!("--timeout: {e}")))?;
    runtime()?.block_on(async {
        let mut stop = Stop::new(None)?;
        let asker = Asker::new(wanted);
        let conversation = Conversation::start(broker, subject, (key, trust), asker)?;
        conversation
            .run((args.format, timeout), console, &mut stop)
            .await
            .map_err(Failure::Failed)
    })
}
