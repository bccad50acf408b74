//! `vmkpi broker`: an embedded MQTT broker for a laptop and the demo. Loopback only, as nobody is
//! asked who they are, and nothing is kept on disk. At scale any MQTT broker takes its place.
//!
//! rumqttd has one listener for each protocol version; [`front`] puts one port before both.
//!
//! `--print-config` makes the configuration of a real one instead:
//!
//! | module | job |
//! | --- | --- |
//! | [`configure`] | its options, and where the files go |
//! | [`party`] | who may come |
//! | [`rights`] | and do what, branch by branch |
//! | [`mosquitto`] | the same as text |

mod configure;
mod front;
mod mosquitto;
mod party;
mod rights;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};

use super::print::Console;
use super::stop::Stop;
use super::{Failure, Outcome, runtime};
use front::Backends;

/// The largest packet accepted, in bytes; vmkpi's own messages are split at 256 KiB.
const MAX_PAYLOAD_BYTES: usize = 2 << 20;
/// rumqttd keeps each topic's messages in a log and forgets its oldest segment, also for subscribers
/// that have not read it: the log has to be larger than the farthest one may be behind. It is
/// allocated as it fills.
const SEGMENT_BYTES: usize = 4 << 20;
const SEGMENTS: usize = 64;
/// How long rumqttd may take to listen.
const START: Duration = Duration::from_secs(5);

/// Where the embedded broker listens without an option.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1883);

/// Where to listen.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vmkpi broker
  vmkpi broker --listen 127.0.0.1:2883
  mosquitto_sub -t 'vmkpi/v1/#' -v

  vmkpi broker --print-config mosquitto --site acme --server broker.acme.example \\
      --host hosts --consumer acme-collect --reader dashboard --dir vmkpi")]
pub struct Args {
    /// A loopback address and a port, 127.0.0.1:1883 without it; port 0 takes a free one. Of a printed configuration any
    /// address; without it port 8883 on all of them.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    configure: configure::Configure,
}

/// Runs the command.
pub fn run(args: &Args, console: &mut Console) -> Outcome {
    if args.configure.is_asked() {
        return configure::run(&args.configure, args.listen, console);
    }
    let listen = args.listen.unwrap_or(LISTEN);
    if !listen.ip().is_loopback() {
        return Err(Failure::Usage(anyhow::anyhow!(
            "{} is not a loopback address: this broker asks nobody who they are. \
             Use a broker such as mosquitto, with TLS, on a network: --print-config",
            listen.ip()
        )));
    }
    Ok(serve(listen, console)?)
}

fn serve(listen: SocketAddr, console: &mut Console) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let backends = start_rumqttd()?;
    console.line(&format!(
        "listening on mqtt://{address} (MQTT 3.1.1 and 5, loopback only)"
    ))?;
    console.flush()?;
    runtime()?.block_on(async {
        let mut stop = Stop::new(None)?;
        tokio::select! {
            () = stop.wait() => Ok(()),
            result = front::serve(listener, backends) => result.context("accepting connections"),
        }
    })
}

/// Starts rumqttd on threads of its own, on two loopback ports that only [`front`] is told of.
fn start_rumqttd() -> anyhow::Result<Backends> {
    let (v4, v5) = (free_port()?, free_port()?);
    let config = config(v4, v5);
    let broker = std::thread::Builder::new()
        .name("rumqttd".into())
        .spawn(move || {
            // It never returns while a listener is alive; that one died is seen by connecting.
            let _ = rumqttd::Broker::new(config).start();
        })?;
    let deadline = Instant::now() + START;
    for address in [v4, v5] {
        while std::net::TcpStream::connect(address).is_err() {
            if broker.is_finished() || Instant::now() > deadline {
                bail!("the embedded broker does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(Backends { v4, v5 })
}

fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn config(v4: SocketAddr, v5: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: MAX_PAYLOAD_BYTES,
        max_inflight_count: 1000,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = |name: &str, listen| {
        let settings = ServerSettings {
            name: name.into(),
            listen,
            tls: None,
            next_connection_delay_ms: 1,
            connections: connections.clone(),
        };
        Some(HashMap::from([(name.to_owned(), settings)]))
    };
    Config {
        router: RouterConfig {
            max_connections: 1000,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v4: server("mqtt-3.1.1", v4),
        v5: server("mqtt-5", v5),
        ..Config::default()
    }
}
