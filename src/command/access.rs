//! The options of every command that talks to a broker, or to two.

use std::path::PathBuf;

use anyhow::Context as _;
use vmkpi::broker::{Access, Broker, BrokerUrl};

use super::Failure;

/// The options of one broker: all begin with `--$options`, their variables with `VMKPI_$variable`.
macro_rules! broker_args {
    ($(#[$doc:meta])* $name:ident, $options:literal, $variable:literal, $heading:literal, $help:literal) => {
        $(#[$doc])*
        #[derive(clap::Args)]
        pub(super) struct $name {
            #[doc = $help]
            #[arg(id = $options, long = $options, env = concat!("VMKPI_", $variable), value_name = "URL")]
            url: BrokerUrl,
            /// The CAs that may have signed the broker's certificate, PEM; without it those of this system.
            #[arg(
                id = concat!($options, ".ca-file"), long = concat!($options, ".ca-file"),
                env = concat!("VMKPI_", $variable, "_CA_FILE"), value_name = "FILE", help_heading = $heading
            )]
            ca_file: Option<PathBuf>,
            /// The certificate to show the broker, with its chain, PEM.
            #[arg(
                id = concat!($options, ".cert-file"), long = concat!($options, ".cert-file"),
                env = concat!("VMKPI_", $variable, "_CERT_FILE"), value_name = "FILE", help_heading = $heading
            )]
            cert_file: Option<PathBuf>,
            /// Its private key, PEM, not readable by everybody.
            #[arg(
                id = concat!($options, ".key-file"), long = concat!($options, ".key-file"),
                env = concat!("VMKPI_", $variable, "_KEY_FILE"), value_name = "FILE", help_heading = $heading
            )]
            key_file: Option<PathBuf>,
            /// A TOML file with username and password, not readable by everybody.
            #[arg(
                id = concat!($options, ".credentials-file"), long = concat!($options, ".credentials-file"),
                env = concat!("VMKPI_", $variable, "_CREDENTIALS_FILE"), value_name = "FILE", help_heading = $heading
            )]
            credentials_file: Option<PathBuf>,
            /// The user's name, with a password file instead of a credentials file.
            #[arg(
                id = concat!($options, ".username"), long = concat!($options, ".username"),
                env = concat!("VMKPI_", $variable, "_USERNAME"), value_name = "NAME", help_heading = $heading
            )]
            username: Option<String>,
            /// A file with the password alone, not readable by everybody.
            #[arg(
                id = concat!($options, ".password-file"), long = concat!($options, ".password-file"),
                env = concat!("VMKPI_", $variable, "_PASSWORD_FILE"), value_name = "FILE", help_heading = $heading
            )]
            password_file: Option<PathBuf>,
        }

        impl $name {
            /// The broker they name.
            ///
            /// # Errors
            /// Usage: they contradict each other, or a file they name is not right.
            pub(super) fn broker(self) -> Result<Broker, Failure> {
                let access = Access {
                    ca_file: self.ca_file,
                    cert_file: self.cert_file,
                    key_file: self.key_file,
                    credentials_file: self.credentials_file,
                    username: self.username,
                    password_file: self.password_file,
                };
                checked(Broker::of($options, self.url, access))
            }
        }
    };
}

broker_args!(
    /// Which broker, and how to be let in.
    BrokerArgs,
    "broker",
    "BROKER",
    "To be let in (files are read anew for each connection)",
    "The primary site's broker: mqtt://HOST[:PORT], or mqtts://HOST[:PORT] for TLS."
);
broker_args!(
    /// The broker nearer to the VMs, and how to be let in.
    FromArgs,
    "from",
    "RELAY_FROM",
    "To be let in by --from (files are read anew for each connection)",
    "The broker nearer to the VMs: mqtt://HOST[:PORT], or mqtts://HOST[:PORT] for TLS."
);
broker_args!(
    /// The broker nearer to the primary site, and how to be let in.
    ToArgs,
    "to",
    "RELAY_TO",
    "To be let in by --to (files are read anew for each connection)",
    "The broker nearer to the primary site, written likewise."
);

/// A broker whose files can be read.
fn checked(broker: Result<Broker, vmkpi::broker::OptionsError>) -> Result<Broker, Failure> {
    let broker = broker.map_err(|e| Failure::Usage(e.into()))?;
    let read = broker.read().with_context(|| broker.to_string());
    read.map_err(Failure::Usage)?;
    Ok(broker)
}
