//! The options of every command that talks to a broker.

use std::path::PathBuf;

use anyhow::Context as _;
use vmkpi::broker::{Access, Broker, BrokerUrl};

use super::Failure;

/// Where these options stand in the help.
const HEADING: &str = "To be let in (files are read anew for each connection)";

/// Which broker, and how to be let in.
#[derive(clap::Args)]
pub(super) struct BrokerArgs {
    /// The primary site's broker: mqtt://HOST[:PORT], or mqtts://HOST[:PORT] for TLS.
    #[arg(long, env = "VMKPI_BROKER", value_name = "URL")]
    broker: BrokerUrl,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(clap::Args)]
struct AccessArgs {
    /// The CAs that may have signed the broker's certificate, PEM; without it those of this system.
    #[arg(
        long = "broker.ca-file",
        env = "VMKPI_BROKER_CA_FILE",
        value_name = "FILE",
        help_heading = HEADING
    )]
    ca_file: Option<PathBuf>,
    /// The certificate to show the broker, with its chain, PEM.
    #[arg(
        long = "broker.cert-file",
        env = "VMKPI_BROKER_CERT_FILE",
        value_name = "FILE",
        help_heading = HEADING
    )]
    cert_file: Option<PathBuf>,
    /// Its private key, PEM, not readable by everybody.
    #[arg(
        long = "broker.key-file",
        env = "VMKPI_BROKER_KEY_FILE",
        value_name = "FILE",
        help_heading = HEADING
    )]
    key_file: Option<PathBuf>,
    /// A TOML file with username and password, not readable by everybody.
    #[arg(
        long = "broker.credentials-file",
        env = "VMKPI_BROKER_CREDENTIALS_FILE",
        value_name = "FILE",
        help_heading = HEADING
    )]
    credentials_file: Option<PathBuf>,
    /// The user's name, with a password file instead of a credentials file.
    #[arg(
        long = "broker.username",
        env = "VMKPI_BROKER_USERNAME",
        value_name = "NAME",
        help_heading = HEADING
    )]
    username: Option<String>,
    /// A file with the password alone, not readable by everybody.
    #[arg(
        long = "broker.password-file",
        env = "VMKPI_BROKER_PASSWORD_FILE",
        value_name = "FILE",
        help_heading = HEADING
    )]
    password_file: Option<PathBuf>,
}

impl BrokerArgs {
    /// The broker they name.
    ///
    /// # Errors
    /// Usage: they contradict each other, or a file they name is not right.
    pub(super) fn broker(self) -> Result<Broker, Failure> {
        let access = Access {
            ca_file: self.access.ca_file,
            cert_file: self.access.cert_file,
            key_file: self.access.key_file,
            credentials_file: self.access.credentials_file,
            username: self.access.username,
            password_file: self.access.password_file,
        };
        let url = self.broker.to_string();
        let broker = Broker::new(self.broker, access).map_err(|e| Failure::Usage(e.into()))?;
        let read = broker.read().with_context(|| url);
        read.map_err(Failure::Usage)?;
        Ok(broker)
    }
}
