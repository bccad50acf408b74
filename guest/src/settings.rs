//! Every setting of the guest program, once: its key in the configuration file, its flag, its
//! environment variable, its help, how it is read and how it is written. The command line, the file's
//! reader, the annotated example and docs/CONFIGURATION.md all come from [`CATALOGUE`].
//!
//! ```text
//! defaults <── /etc/vmkpi/guest.toml <── VMKPI_GUEST_* <── flags        (the later wins)
//! ```

pub mod accounts;
mod catalogue;
mod context;
mod poll;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::crypto::ring;
use vmkpi::link::LinkUrl;
use vmkpi::name::Label;
use vmkpi::seal::{MAX_PEM_BYTES, SealingKey};
use vmkpi::tls::{MutualFiles, mutual};

use crate::config::{Access, AllowOther, Limits, RunConfig};
use crate::link::LinkConfig;
use crate::poller::Poll;
use crate::protection::Policy;

pub use catalogue::CATALOGUE;
pub use context::ContextSettings;
pub use vmkpi::settings::{Problems, Sources, units};

/// What was read.
pub type Loaded = vmkpi::settings::Loaded<Settings>;

/// The value of every setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where to mount the partition.
    pub mount: PathBuf,
    /// Where the databases are.
    pub state: PathBuf,
    /// Where the host is.
    pub link: LinkUrl,
    /// What to show a host on a network, and whom to believe there.
    pub link_tls: TlsFiles,
    /// What is not delivered from everywhere.
    pub protection: Policy,
    /// Who may use the partition.
    pub allow_other: AllowOther,
    /// What is logged.
    pub log_level: String,
    /// The VM's name, as its owner gave it.
    pub vm: Option<Label>,
    /// The owner's public key.
    pub primary_key_file: Option<PathBuf>,
    /// The bounds.
    pub limits: Limits,
    /// The owner of everything in the partition; the program's user unless set.
    pub owner: Option<String>,
    /// Its group; the program's unless set.
    pub group: Option<String>,
    /// Permission bits of files.
    pub file_mode: u16,
    /// Permission bits of directories.
    pub directory_mode: u16,
    /// The commands to run.
    pub polls: Vec<Poll>,
    /// The context partition.
    pub context: ContextSettings,
}

/// Files of certificates, all of them or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// What the VM shows.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Who may have signed what a host shows.
    pub ca: Option<PathBuf>,
}

impl TlsFiles {
    fn complete(&self) -> anyhow::Result<Option<MutualFiles>> {
        match (self.cert.clone(), self.key.clone(), self.ca.clone()) {
            (None, None, None) => Ok(None),
            (Some(cert), Some(key), Some(ca)) => Ok(Some(MutualFiles { cert, key, ca })),
            _ => bail!(
                "cert_file, key_file and ca_file in [link_tls] are nothing without each other: give all three, or none"
            ),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let access = Access::default();
        Self {
            mount: "/kpi".into(),
            state: "/var/lib/vmkpi".into(),
            link: LinkUrl::default(),
            link_tls: TlsFiles::default(),
            protection: Policy::default(),
            allow_other: AllowOther::default(),
            log_level: "warn".into(),
            vm: None,
            primary_key_file: None,
            limits: Limits::default(),
            owner: None,
            group: None,
            file_mode: access.file_mode,
            directory_mode: access.directory_mode,
            polls: Vec::new(),
            context: ContextSettings::default(),
        }
    }
}

impl Settings {
    /// What a run is told: names are looked up and the key is read.
    ///
    /// # Errors
    /// An account is unknown, or the key cannot be read or used.
    pub fn run_config(&self) -> anyhow::Result<RunConfig> {
        let mut access = Access {
            file_mode: self.file_mode,
            directory_mode: self.directory_mode,
            ..Access::default()
        };
        if let Some(owner) = &self.owner {
            access.uid = accounts::user(owner).context("access.owner")?.uid;
        }
        if let Some(group) = &self.group {
            access.gid = accounts::group(group).context("access.group")?;
        }
        let primary_key = match &self.primary_key_file {
            Some(_) => Some(Arc::from(self.primary_key()?.0.as_bytes())),
            None => None,
        };
        for poll in &self.polls {
            let at = || format!("[[poll]] {}: user", poll.point);
            poll.account().with_context(at)?;
        }
        Ok(RunConfig {
            mount: self.mount.clone(),
            state: self.state.clone(),
            link: self.link_config()?,
            allow_other: self.allow_other,
            limits: self.limits,
            access,
            primary_key,
            polls: self.polls.clone(),
            context: self.context.config(&self.mount)?,
        })
    }

    /// The link's part of it.
    ///
    /// # Errors
    /// A file of [`TlsFiles`] is missing or cannot be used, or the link cannot be without them.
    fn link_config(&self) -> anyhow::Result<LinkConfig> {
        let files = self.link_tls.complete()?;
        if let Some(files) = &files {
            mutual::client(files, ring::default_provider()).context("[link_tls]")?;
        } else if matches!(self.link, LinkUrl::Tls { .. }) {
            bail!(
                "link {} needs certificates: set cert_file, key_file and ca_file in [link_tls]",
                self.link
            );
        }
        if self.protection.legislations.is_empty() && !self.protection.points.is_empty() {
            bail!(
                "protection.points would never be held: say where they may be delivered from with protection.legislations"
            );
        }
        Ok(LinkConfig {
            url: self.link.clone(),
            files,
            policy: self.protection.clone(),
        })
    }

    /// The owner's public key, as text and ready to seal to.
    ///
    /// # Errors
    /// None is set, or it cannot be read or used.
    pub fn primary_key(&self) -> anyhow::Result<(String, SealingKey)> {
        let path = self.primary_key_file.as_ref().context(
            "there is no key to seal to: set primary_key_file in the configuration, or give --key FILE",
        )?;
        let at = || format!("primary_key_file {}", path.display());
        let pem = units::read_bounded(path, MAX_PEM_BYTES).with_context(at)?;
        let key = SealingKey::from_pem(&pem).with_context(at)?;
        Ok((pem, key))
    }
}

#[cfg(test)]
mod tests;
