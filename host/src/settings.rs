//! What the daemon is told. Every setting stands once, in [`CATALOGUE`]: its key in the configuration file, its
//! flag, its environment variable, its help, how it is read and how it is written.
//!
//! ```text
//! defaults <── /etc/vmkpi/host.toml <── VMKPI_HOST_* <── flags        (the later wins)
//! ```

mod catalogue;
mod check;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use vmkpi::broker::{Access, BrokerUrl};
use vmkpi::link::LinkUrl;

use crate::context::{Config as ContextConfig, Tuning};

pub use catalogue::CATALOGUE;
pub use check::{Checked, check};
pub use vmkpi::settings::{Problems, Sources};

/// What was read.
pub type Loaded = vmkpi::settings::Loaded<Settings>;

/// The value of every setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// libvirt's connection URI.
    pub libvirt_uri: String,
    /// The broker, which has to be given.
    pub broker: Option<BrokerUrl>,
    /// How it lets us in.
    pub access: Access,
    /// Where the exporter listens.
    pub listen: SocketAddr,
    /// The state directory.
    pub state: PathBuf,
    /// What the outbox may hold on disk, in bytes.
    pub outbox_bytes: u64,
    /// How often guests are asked for rows; `None` has them pushed.
    pub poll_interval: Option<Duration>,
    /// Where guests come in from a network; `None`: nowhere.
    pub link_listen: Option<SocketAddr>,
    /// The certificate that they are shown.
    pub link_cert_file: Option<PathBuf>,
    /// Its private key.
    pub link_key_file: Option<PathBuf>,
    /// The CAs that may have signed theirs.
    pub link_ca_file: Option<PathBuf>,
    /// The site's key, which every message is signed with.
    pub sign_key_file: Option<PathBuf>,
    /// How long a VM's entry in the Directory lasts, in seconds.
    pub lease_seconds: u64,
    /// What is logged.
    pub log_level: String,
    /// Links that are not the one of the live XML, by domain name or UUID.
    pub guests: BTreeMap<String, LinkUrl>,
    /// The folder of what VMs are told by this host; `None` tells them nothing.
    pub context_directory: Option<PathBuf>,
    /// Where the images of it are kept; `None` is below the state directory.
    pub context_images: Option<PathBuf>,
    /// How they come into drives.
    pub context_tuning: Tuning,
    /// Files of descriptors, by domain name or UUID.
    pub descriptors: BTreeMap<String, PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            libvirt_uri: "qemu:///system".into(),
            broker: None,
            access: Access::default(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9878)),
            state: "/var/lib/vmkpi-host".into(),
            outbox_bytes: crate::outbox::DEFAULT_MAX_BYTES,
            poll_interval: None,
            link_listen: None,
            link_cert_file: None,
            link_key_file: None,
            link_ca_file: None,
            sign_key_file: None,
            lease_seconds: vmkpi::directory::DEFAULT_LEASE_SECONDS,
            log_level: "info".into(),
            context_directory: None,
            context_images: None,
            context_tuning: Tuning::default(),
            guests: BTreeMap::new(),
            descriptors: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// What VMs are told, if they are.
    pub fn context(&self) -> Option<ContextConfig> {
        Some(ContextConfig {
            directory: self.context_directory.clone()?,
            images: match &self.context_images {
                Some(images) => images.clone(),
                None => self.state.join("context"),
            },
            tuning: self.context_tuning,
        })
    }
}

#[cfg(test)]
mod tests;
