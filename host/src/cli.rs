//! The command line. Every option is an environment variable too, `VMKPI_HOST_...`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use vmkpi::broker::{Access, Broker, BrokerUrl};
use vmkpi::link::LinkUrl;

use crate::daemon::Config;
use crate::link::Limits;

/// vmkpi's host side: follows libvirt's domains, reads the KPIs of their guests, and publishes them as
/// their VM descriptors say.
#[derive(Debug, Parser)]
#[command(name = "vmkpi-host", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs in the foreground until SIGTERM or SIGINT.
    Run(Box<Run>),
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The hypervisor, as libvirt names it
    #[arg(
        long = "libvirt.uri",
        value_name = "URI",
        env = "VMKPI_HOST_LIBVIRT_URI",
        default_value = "qemu:///system"
    )]
    libvirt_uri: String,

    /// The MQTT broker: mqtt://HOST[:PORT], or mqtts://HOST[:PORT] for TLS
    #[arg(long, value_name = "URL", env = "VMKPI_HOST_BROKER")]
    broker: BrokerUrl,

    /// The CAs that may have signed the broker's certificate, PEM; without it those of this system
    #[arg(
        long = "broker.ca-file",
        value_name = "FILE",
        env = "VMKPI_HOST_BROKER_CA_FILE"
    )]
    ca_file: Option<PathBuf>,

    /// The certificate to show the broker, with its chain, PEM
    #[arg(
        long = "broker.cert-file",
        value_name = "FILE",
        env = "VMKPI_HOST_BROKER_CERT_FILE"
    )]
    cert_file: Option<PathBuf>,

    /// Its private key, PEM, not readable by everybody
    #[arg(
        long = "broker.key-file",
        value_name = "FILE",
        env = "VMKPI_HOST_BROKER_KEY_FILE"
    )]
    key_file: Option<PathBuf>,

    /// The user's name at the broker, with a password file instead of a credentials file
    #[arg(
        long = "broker.username",
        value_name = "NAME",
        env = "VMKPI_HOST_BROKER_USERNAME"
    )]
    username: Option<String>,

    /// A file with the password alone, not readable by everybody
    #[arg(
        long = "broker.password-file",
        value_name = "FILE",
        env = "VMKPI_HOST_BROKER_PASSWORD_FILE"
    )]
    password_file: Option<PathBuf>,

    /// A TOML file with the broker's username and password, not readable by everybody
    #[arg(
        long = "broker.credentials-file",
        value_name = "FILE",
        env = "VMKPI_HOST_BROKER_CREDENTIALS_FILE"
    )]
    credentials: Option<PathBuf>,

    /// Where /metrics is served
    #[arg(
        long = "web.listen-address",
        value_name = "ADDR",
        env = "VMKPI_HOST_WEB_LISTEN_ADDRESS",
        default_value = "127.0.0.1:9878"
    )]
    listen: SocketAddr,

    /// The daemon's own directory, made if need be
    #[arg(
        long,
        value_name = "DIR",
        env = "VMKPI_HOST_STATE",
        default_value = "/var/lib/vmkpi-host"
    )]
    state: PathBuf,

    /// What the outbox of infrastructure measurements may hold on disk, in bytes; beyond, the oldest go
    #[arg(
        long = "outbox.max-bytes",
        value_name = "BYTES",
        env = "VMKPI_HOST_OUTBOX_MAX_BYTES",
        default_value_t = crate::outbox::DEFAULT_MAX_BYTES
    )]
    outbox_bytes: u64,

    /// The link of a domain that is not the virtio-serial port in its XML: unix:/PATH, or vsock:CID:PORT with the CID in
    /// its XML; may be repeated
    #[arg(long = "guest", value_name = "DOMAIN=URL", env = "VMKPI_HOST_GUEST", value_delimiter = ',', value_parser = pair::<LinkUrl>)]
    guests: Vec<(String, LinkUrl)>,

    /// Ask the guests for new rows each so many seconds, instead of having them pushed as they are stored
    #[arg(
        long = "link.poll-interval",
        value_name = "SECONDS",
        env = "VMKPI_HOST_LINK_POLL_INTERVAL",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    poll_interval: Option<u64>,

    /// The VM descriptor of a domain, TOML or JSON; may be repeated
    #[arg(long = "descriptor", value_name = "DOMAIN=FILE", env = "VMKPI_HOST_DESCRIPTOR", value_delimiter = ',', value_parser = pair::<PathBuf>)]
    descriptors: Vec<(String, PathBuf)>,

    /// What is logged to stderr: error, warn, info, debug, trace, or a filter per module
    #[arg(
        long = "log-level",
        value_name = "LEVEL",
        env = "VMKPI_HOST_LOG_LEVEL",
        default_value = "info"
    )]
    pub log_level: String,
}

fn pair<T>(text: &str) -> Result<(String, T), String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match text.split_once('=') {
        Some((domain, value)) if !domain.is_empty() && !value.is_empty() => value
            .parse()
            .map(|value| (domain.to_owned(), value))
            .map_err(|e: T::Err| e.to_string()),
        _ => Err("write DOMAIN=VALUE".to_owned()),
    }
}

impl Run {
    /// What to run with.
    ///
    /// # Errors
    /// The broker's options contradict each other, or a domain is named twice.
    pub fn config(self) -> anyhow::Result<Config> {
        let access = Access {
            ca_file: self.ca_file,
            cert_file: self.cert_file,
            key_file: self.key_file,
            credentials_file: self.credentials,
            username: self.username,
            password_file: self.password_file,
        };
        let broker = Broker::new(self.broker, access)?;
        Ok(Config {
            libvirt_uri: self.libvirt_uri,
            broker,
            listen: self.listen,
            state: self.state,
            guests: unique(self.guests, "--guest")?,
            descriptors: unique(self.descriptors, "--descriptor")?,
            limits: Limits::default(),
            outbox_bytes: self.outbox_bytes,
            poll_interval: self.poll_interval.map(Duration::from_secs),
        })
    }
}

fn unique<T>(
    pairs: Vec<(String, T)>,
    option: &str,
) -> anyhow::Result<std::collections::BTreeMap<String, T>> {
    let mut map = std::collections::BTreeMap::new();
    for (domain, value) in pairs {
        anyhow::ensure!(
            !map.contains_key(&domain),
            "{option} names domain {domain:?} twice"
        );
        map.insert(domain, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        let base = ["vmkpi-host", "run", "--broker", "mqtt://localhost"];
        Cli::try_parse_from(base.iter().chain(args))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn domains_are_given_their_link_and_descriptor() {
        let cli = parse(&[
            "--guest",
            "a=unix:/x",
            "--guest",
            "b=unix:/y",
            "--guest",
            "c=vsock:7:9001",
            "--descriptor",
            "a=/d.toml",
        ])
        .unwrap();
        let Command::Run(run) = cli.command;
        let config = run.config().unwrap();
        assert_eq!(config.guests.len(), 3);
        assert_eq!(config.descriptors["a"], PathBuf::from("/d.toml"));
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            &["--guest", "a"][..],
            &["--guest", "=unix:/x"],
            &["--guest", "a=http://x"],
            &["--guest", "a=tls:example.org:9001"],
            &["--link.poll-interval", "0"],
            &["--descriptor", "a="],
            &["--web.listen-address", "everywhere"],
            &["--broker", "localhost"],
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad:?}: {error}");
        }
        let Command::Run(run) = parse(&["--guest", "a=unix:/x", "--guest", "a=unix:/y"])
            .unwrap()
            .command;
        assert!(run.config().is_err());
    }
}
