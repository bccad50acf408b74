//! Bytes on the wire: the same minute of measurements, delivered raw and processed, open, signed and sealed. The
//! chain is the real one (guest, host, mosquitto, TCP), the minute is a real minute by the clock, and what is counted
//! passes a proxy between host and broker. Every way of delivery is a specifier of its own on the same rows.
#![expect(clippy::print_stdout, reason = "prints its own results")]

mod tap;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use aws_lc_rs::signature::Ed25519KeyPair;
use vmkpi::clock::Timestamp;
use vmkpi::message::Event;

use crate::fleet::guests::socket;
use crate::fleet::lab::{Program, free_address, start_broker, start_guest, until};
use crate::seal::pem;
use tap::{Message, Tap};

const MINUTE_US: i64 = 60_000_000;
/// How long after a minute its last window is waited for.
const AFTER: Duration = Duration::from_secs(5);
/// What the guest's first rows may take before a minute counts.
const BEFORE_US: i64 = 10_000_000;

/// Measurements: what they are called here, their point, and how far apart the application's stores are.
const SETS: [(&str, &str, Option<Duration>); 3] = [
    ("1-hz", "unencrypted/one", Some(Duration::from_secs(1))),
    ("10-hz", "unencrypted/ten", Some(Duration::from_millis(100))),
    ("infra", "infra/*", None),
];

/// Ways of delivery: what they are called, and what a specifier says.
const WAYS: [(&str, &str); 4] = [
    ("raw, at once", ""),
    ("raw, 10 s windows", "delivery_ms = 10000\n"),
    (
        "mean of 10 s",
        "format = 'processed'\nfunction = 'mean'\ndelivery_ms = 10000\n",
    ),
    (
        "mean of 60 s",
        "format = 'processed'\nfunction = 'mean'\ndelivery_ms = 60000\n",
    ),
];

/// Bytes around what TLS 1.3 encrypts: a record's header, its inner type and its tag (RFC 8446, section 5.2).
const TLS_RECORD: usize = 5 + 1 + 16;
/// The most in a record (the same).
const RECORD: usize = 16 << 10;
/// Bytes of a frame around what TCP carries: Ethernet II, IPv4, TCP with timestamps.
const FRAME: usize = 14 + 20 + 32;
/// What TCP carries in a frame of 1,500 bytes.
const SEGMENT: usize = 1500 - 20 - 32;

/// What to measure with.
pub struct Plan {
    /// The vmkpi-host program.
    pub host: PathBuf,
    /// The vmkpi-guest program.
    pub guest: PathBuf,
    /// Where state is kept.
    pub dir: PathBuf,
}

/// One way of delivery of one set, in the minute.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    messages: usize,
    /// Packets of both ways: PUBLISH and its PUBACK.
    mqtt: usize,
    /// The same in TLS, TCP, IPv4 and Ethernet.
    frames: usize,
}

/// A chain of its own.
struct Chain {
    tap: Tap,
    mount: PathBuf,
    _programs: [Program; 3],
    _dir: tempfile::TempDir,
}

/// Measures a minute and prints the table.
///
/// # Errors
/// A program is missing or does not come up, or a way of delivery has sent nothing.
pub fn run(plan: &Plan) -> Result<()> {
    let open = Chain::start(plan, false)?;
    let signed = Chain::start(plan, true)?;
    for (name, _, pause) in SETS {
        if let Some(pause) = pause {
            open.store(name, pause);
            signed.store(name, pause);
        }
    }
    let now = Timestamp::now().as_micros() + BEFORE_US;
    let begin = (now / MINUTE_US + 1) * MINUTE_US;
    let end = begin + MINUTE_US;
    println!(
        "| measurements | delivery | messages | MQTT bytes | of raw, at once | signed | sealed and signed \
         | in TLS and Ethernet | signed | sealed and signed |\n|{}",
        " --- |".repeat(10)
    );
    sleep_until(end);
    thread::sleep(AFTER);
    let (open, signed) = (open.tap.seen(), signed.tap.seen());
    for (set, point, _) in SETS {
        let mut first = None;
        for (way, (name, _)) in WAYS.iter().enumerate() {
            let cell = |seen: &tap::Seen, sealed| {
                let topic = format!("/{}/", specifier(set, way, sealed));
                let mine = seen.messages.iter().filter(|m| m.topic.contains(&topic));
                let puback = seen.acknowledged.1 / seen.acknowledged.0.max(1);
                cell(mine, puback, begin..end).with_context(|| format!("{set} {name}"))
            };
            let cells = [
                cell(&open, false)?,
                cell(&signed, false)?,
                cell(&signed, true)?,
            ];
            let raw = *first.get_or_insert(cells[0].mqtt);
            print(point, name, &cells, raw);
        }
    }
    Ok(())
}

fn print(point: &str, way: &str, cells: &[Cell; 3], raw: usize) {
    let [open, signed, sealed] = cells;
    println!(
        "| {point} | {way} | {} | {} | {:.1} % | {} | {} | {} | {} | {} |",
        open.messages,
        open.mqtt,
        100.0 * open.mqtt as f64 / raw as f64,
        signed.mqtt,
        sealed.mqtt,
        open.frames,
        signed.frames,
        sealed.frames
    );
}

fn sleep_until(us: i64) {
    let left = us - Timestamp::now().as_micros();
    thread::sleep(Duration::from_micros(left.max(0).unsigned_abs()));
}

/// What of these messages is about the minute: by the latest time that a message is about, so a window counts for
/// the minute that it lies in.
fn cell<'a>(
    messages: impl Iterator<Item = &'a Message>,
    puback: usize,
    minute: std::ops::Range<i64>,
) -> Result<Cell> {
    let mut cell = Cell::default();
    for message in messages {
        let event = Event::decode(&message.payload)?;
        if !minute.contains(&event.time.as_micros()) {
            continue;
        }
        cell.messages += 1;
        cell.mqtt += message.packet + puback;
        cell.frames += framed(message.packet) + framed(puback) + FRAME;
    }
    ensure!(cell.messages > 0, "nothing was sent");
    Ok(cell)
}

/// Bytes of a packet in TLS records, and those in frames. (Beside, each message costs a bare acknowledgement of TCP.)
fn framed(packet: usize) -> usize {
    let records = packet + TLS_RECORD * packet.div_ceil(RECORD);
    records + FRAME * records.div_ceil(SEGMENT)
}

fn specifier(set: &str, way: usize, sealed: bool) -> String {
    let sealed = if sealed { "sealed" } else { "open" };
    format!("{set}-{way}-{sealed}")
}

/// Every way of every set, open and sealed.
fn descriptor(key: &Path) -> String {
    let mut text = format!(
        "vm = 'shop-frontend-1'\nprimary_site = 'acme'\nprimary_key_file = '{}'\n",
        key.display()
    );
    for (set, point, pause) in SETS {
        for (way, (_, says)) in WAYS.iter().enumerate() {
            for sealed in [false, true] {
                let id = specifier(set, way, sealed);
                let interval_ms = if pause.is_none() { 1000 } else { 0 };
                let _ = write!(
                    text,
                    "[[monitor]]\nid = '{id}'\npoint = '{point}'\ninterval_ms = {interval_ms}\n\
                     seal = {sealed}\n{says}"
                );
            }
        }
    }
    text
}

/// A site's keys, in files.
fn keys(dir: &Path) -> Result<[PathBuf; 2]> {
    let no = |_| anyhow!("no key");
    let pair = Ed25519KeyPair::generate().map_err(no)?;
    let private = pair.to_pkcs8v1().map_err(no)?;
    let key = PrivateDecryptingKey::generate(KeySize::Rsa3072).map_err(no)?;
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(no)?;
    let [sign, seal] = ["sign.key.pem", "seal.pub.pem"].map(|name| dir.join(name));
    fs::write(&sign, pem("PRIVATE KEY", private.as_ref())?)?;
    fs::set_permissions(&sign, fs::Permissions::from_mode(0o600))?;
    fs::write(&seal, pem("PUBLIC KEY", public.as_ref())?)?;
    Ok([sign, seal])
}

impl Chain {
    fn start(plan: &Plan, signs: bool) -> Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("vmkpi-bench-")
            .tempdir_in(&plan.dir)?;
        let dir = scratch.path();
        let [sign, seal] = keys(dir)?;
        let file = dir.join("descriptor.toml");
        fs::write(&file, descriptor(&seal))?;
        let (broker, address) = start_broker(dir)?;
        let tap = Tap::start(address)?;
        let (guest, mount) = start_guest(&plan.guest, dir, 0)?;
        let metrics = free_address()?;
        let mut command = Command::new(&plan.host);
        command.args(["run", "--libvirt.uri=test:///default"]);
        command.arg(format!("--broker=mqtt://{}", tap.address));
        command.arg(format!("--web.listen-address={metrics}"));
        command.arg(format!("--state={}", dir.join("host").display()));
        command.arg(format!("--guest=test=unix:{}", socket(dir, 0).display()));
        command.arg(format!("--descriptor=test={}", file.display()));
        if signs {
            command.arg(format!("--sign.key-file={}", sign.display()));
        }
        let host = Program::start(command, &dir.join("host.log"))?;
        until("the host publishes", || !tap.seen().messages.is_empty())
            .with_context(|| fs::read_to_string(dir.join("host.log")).unwrap_or_default())?;
        Ok(Self {
            tap,
            mount,
            _programs: [host, guest, broker],
            _dir: scratch,
        })
    }

    /// An application begins to store five columns at its pace, for as long as this program runs.
    fn store(&self, set: &str, pause: Duration) {
        let name = if set == "1-hz" { "one" } else { "ten" };
        let file = self.mount.join(name);
        thread::spawn(move || {
            let begin = Instant::now();
            for n in 0_u32.. {
                // Numbers as an application has them: counters that grow, and measurements with two digits.
                let (users, requests) = (40 + n % 17, 18_000 + 37 * n);
                let (errors, busy, ms) = (
                    n / 100,
                    f64::from(n % 97) / 97.0,
                    12.0 + f64::from(n % 53) / 7.0,
                );
                let row = format!(
                    "current_users,requests_total,errors_total,busy_ratio,response_ms\n\
                     {users},{requests},{errors},{busy:.2},{ms:.2}\n"
                );
                if fs::write(&file, row).is_err() {
                    return;
                }
                thread::sleep((begin + pause * (n + 1)).saturating_duration_since(Instant::now()));
            }
        });
    }
}
