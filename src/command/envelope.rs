//! `vmkpi seal` and `vmkpi open`: the envelope by hand.

use std::io::{BufRead, Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use serde_json::{Map, Value};

use vmkpi::key_file::sealing_key;
use vmkpi::message::Event;
use vmkpi::name::{DataPoint, Label};
use vmkpi::open::{MAX_ENVELOPE_BYTES, OpeningKeys};
use vmkpi::position::{Seq, StreamId};
use vmkpi::seal::{Bound, BoundMessage};

use super::print::Console;
use super::trust::OpenArgs;
use super::{Failure, Outcome};

/// The most that is sealed, in bytes: what fits the largest envelope that is opened.
const MAX_CONTENT_BYTES: usize = MAX_ENVELOPE_BYTES / 4 * 3 - (16 << 10);

/// For whom to seal what.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vmkpi seal --key seal.pub.pem --vm shop-frontend-1 --point encrypted/orders < orders.csv > orders.jwe")]
pub struct SealArgs {
    /// The primary site's public RSA key, PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    bound: BoundArgs,
}

/// What an envelope is bound to.
#[derive(clap::Args)]
struct BoundArgs {
    /// The VM, by its name in the descriptor.
    #[arg(long, value_name = "VM")]
    vm: Option<Label>,
    /// The data point.
    #[arg(long, value_name = "POINT")]
    point: Option<DataPoint>,
}

/// What to open, and with what.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vmkpi open --key seal.key.pem --vm shop-frontend-1 --point encrypted/orders < orders.jwe
  mosquitto_sub -h broker.acme.example -t 'vmkpi/v1/acme/data/#' | vmkpi open --key seal.key.pem
  sqlite3 -json kpi.db 'SELECT * FROM sealed_messages' | vmkpi open --key seal.key.pem

Standard input is an envelope, or JSON, one a line: published messages, what vmkpi collect has kept sealed, or what
vmkpi watch shows sealed. These say themselves what they are bound to; a message that is not sealed passes as it is.
Signatures are not looked at.")]
pub struct Args {
    #[command(flatten)]
    keys: OpenArgs,
    #[command(flatten)]
    bound: BoundArgs,
}

impl BoundArgs {
    fn both(&self) -> Result<Bound<'_>, Failure> {
        match (&self.vm, &self.point) {
            (Some(vm), Some(point)) => Ok(Bound {
                vm,
                point,
                message: None,
            }),
            _ => Err(Failure::Usage(anyhow!(
                "an envelope is bound to a VM and a data point: give --vm and --point"
            ))),
        }
    }
}

/// Seals standard input.
pub fn seal(args: &SealArgs, console: &mut Console) -> Outcome {
    let bound = args.bound.both()?;
    let key = sealing_key(&args.key).map_err(|e| Failure::Usage(e.into()))?;
    let mut content = Vec::new();
    let input = std::io::stdin().lock().take(MAX_CONTENT_BYTES as u64 + 1);
    { input }
        .read_to_end(&mut content)
        .context("standard input")?;
    if content.len() > MAX_CONTENT_BYTES {
        return Err(anyhow!("more than {MAX_CONTENT_BYTES} bytes on standard input").into());
    }
    let envelope = key.seal(&bound, content).context("not sealed")?;
    Ok(console.line(&envelope)?)
}

/// Opens standard input.
pub fn open(args: &Args, console: &mut Console) -> Outcome {
    let keys = args.keys.read()?;
    if keys.is_empty() {
        return Err(Failure::Usage(anyhow!("nothing opens without --key FILE")));
    }
    let mut input = std::io::stdin().lock();
    let first = input.fill_buf().context("standard input")?.first().copied();
    if matches!(first, Some(b'{' | b'[')) {
        return messages(&mut input, &keys, console);
    }
    let bound = args.bound.both()?;
    let mut text = String::new();
    let limit = MAX_ENVELOPE_BYTES as u64 + 2;
    let read = input.take(limit).read_to_string(&mut text);
    read.context("standard input")?;
    let content = keys.open(&bound, text.trim_end()).context("the envelope")?;
    console.flush()?;
    Ok(std::io::stdout().lock().write_all(&content)?)
}

/// Opens published messages, one a line.
fn messages(input: &mut impl BufRead, keys: &OpeningKeys, console: &mut Console) -> Outcome {
    let mut failed = false;
    for number in 1.. {
        let mut line = Vec::new();
        let limit = MAX_ENVELOPE_BYTES as u64;
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line);
        if read.context("standard input")? == 0 {
            break;
        }
        match message(&line, keys) {
            Ok(text) => console.line(&text)?,
            Err(error) => {
                failed = true;
                console.say(&format!("line {number}: {error:#}"));
            }
        }
        console.flush()?;
    }
    if failed { Err(Failure::No) } else { Ok(()) }
}

fn message(line: &[u8], keys: &OpeningKeys) -> anyhow::Result<String> {
    // Rows of an array come with its brackets and commas around them.
    let line = line.trim_ascii();
    let line = line.strip_prefix(b"[").unwrap_or(line);
    let end = line.iter().rposition(|b| !matches!(b, b',' | b']'));
    let line = &line[..end.map_or(0, |end| end + 1)];
    if let Ok(row) = serde_json::from_slice::<Row>(line) {
        return row.open(keys);
    }
    let event = Event::decode(line)?.open(keys)?;
    Ok(String::from_utf8(event.encode())?)
}

/// A sealed message as `vmkpi collect` keeps it and `vmkpi watch` shows it.
#[derive(Deserialize)]
struct Row {
    vm: Label,
    point: DataPoint,
    specifier: Label,
    stream: StreamId,
    after: Value,
    through: Value,
    envelope: String,
    /// Whatever else is said of it.
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Row {
    fn open(self, keys: &OpeningKeys) -> anyhow::Result<String> {
        let range = (number(&self.after)?, number(&self.through)?);
        let message = BoundMessage::new(self.stream, &self.specifier, range);
        let bound = Bound {
            vm: &self.vm,
            point: &self.point,
            message: Some(message),
        };
        let content = keys.open(&bound, &self.envelope)?;
        let opened: Value = serde_json::from_slice(&content)?;
        let mut row = self.others;
        row.insert("vm".into(), self.vm.as_str().into());
        row.insert("point".into(), self.point.to_string().into());
        row.insert("specifier".into(), self.specifier.as_str().into());
        row.insert("stream".into(), self.stream.to_string().into());
        row.insert("after".into(), self.after);
        row.insert("through".into(), self.through);
        row.insert("data".into(), opened);
        Ok(Value::Object(row).to_string())
    }
}

/// A row's number: beyond 2^53 it is a string.
fn number(value: &Value) -> anyhow::Result<Seq> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    number.with_context(|| format!("{value} is no row's number"))
}
