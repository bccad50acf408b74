//! SIGHUP: what of new settings a daemon that runs takes over, and what it does not. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use vmkpi::descriptor::Descriptor;
use vmkpi::link::LinkUrl;
use vmkpi::sign::SigningKey;
use vmkpi::tls::MutualFiles;

use crate::context::Tuning;
use crate::settings::{CATALOGUE, Checked, Settings};

/// What the running daemon is told.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Links that are not the one of the live XML, by domain name or UUID.
    pub guests: BTreeMap<String, LinkUrl>,
    /// Files of descriptors, by domain name or UUID.
    pub descriptors: BTreeMap<String, PathBuf>,
    /// What these files say: they have just been read.
    pub read: BTreeMap<PathBuf, Descriptor>,
    /// What the outbox may hold on disk, in bytes.
    pub outbox_bytes: u64,
    /// How contexts come into drives.
    pub tuning: Tuning,
    /// What messages are signed with: its file has just been read.
    pub signer: Option<Arc<SigningKey>>,
    /// What guests that come over a network are shown and verified by.
    pub link_files: Option<MutualFiles>,
}

impl Changes {
    /// What `checked` settings mean for a daemon that runs.
    pub fn of(checked: Checked) -> Self {
        Self {
            guests: checked.config.guests,
            descriptors: checked.config.descriptors,
            read: checked.descriptors,
            outbox_bytes: checked.config.outbox_bytes,
            tuning: checked.config.context.map(|c| c.tuning).unwrap_or_default(),
            signer: checked.config.signer,
            link_files: checked.config.door.map(|door| door.files),
        }
    }
}

/// What becomes of new settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What is in force from now on: the new value of what can change, the old one of what cannot.
    pub settings: Settings,
    /// The keys of what changes.
    pub changed: Vec<&'static str>,
    /// The keys of what would change in a daemon that is started.
    pub after_restart: Vec<&'static str>,
}

/// Decides what of `new` is taken over by a daemon that runs with `old`.
pub fn decide(old: &Settings, new: &Settings) -> Decision {
    let differing = CATALOGUE.changed(old, new);
    let (now, later): (Vec<_>, Vec<_>) = differing.into_iter().partition(|s| s.reloads);
    Decision {
        settings: Settings {
            log_level: new.log_level.clone(),
            outbox_bytes: new.outbox_bytes,
            guests: new.guests.clone(),
            descriptors: new.descriptors.clone(),
            sign_key_file: new.sign_key_file.clone(),
            link_cert_file: new.link_cert_file.clone(),
            link_key_file: new.link_key_file.clone(),
            link_ca_file: new.link_ca_file.clone(),
            context_tuning: new.context_tuning,
            ..old.clone()
        },
        changed: now.iter().map(|setting| setting.key).collect(),
        after_restart: later.iter().map(|setting| setting.key).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value of each setting that is not its default.
    fn other(key: &str) -> &'static str {
        match key {
            "state" => "/elsewhere",
            "log_level" => "debug",
            "libvirt.uri" => "test:///default",
            "broker.url" => "mqtt://elsewhere",
            "broker.ca_file" => "/ca",
            "broker.cert_file" => "/cert",
            "broker.key_file" => "/key",
            "broker.username" => "me",
            "broker.password_file" => "/password",
            "broker.credentials_file" => "/login",
            "sign.key_file" => "/signing",
            "directory.lease" => "7",
            "web.listen_address" => "127.0.0.1:1",
            "outbox.max_bytes" => "2097152",
            "link.poll_interval" => "7",
            "link.listen_address" => "127.0.0.1:2",
            "link.tls.cert_file" => "/link-cert",
            "link.tls.key_file" => "/link-key",
            "link.tls.ca_file" => "/link-ca",
            "context.directory" => "/contexts",
            "context.images" => "/images",
            "context.swap" => "device",
            "context.force" => "true",
            "guest" => "a=unix:/a",
            "descriptor" => "a=/a.toml",
            key => panic!("give {key} a value here"),
        }
    }

    #[test]
    fn each_setting_changes_or_is_named_and_the_catalogue_says_which() {
        let old = Settings::default();
        for setting in CATALOGUE.settings {
            let mut new = old.clone();
            setting.set(&mut new, other(setting.key)).unwrap();
            let decision = decide(&old, &new);
            let keys = (
                decision.changed.as_slice(),
                decision.after_restart.as_slice(),
            );
            let in_force = setting.get(&decision.settings);
            if setting.reloads {
                assert_eq!(keys, (&[setting.key][..], &[][..]));
                assert_eq!(in_force, setting.get(&new), "{}", setting.key);
            } else {
                assert_eq!(keys, (&[][..], &[setting.key][..]));
                assert_eq!(in_force, setting.get(&old), "{}", setting.key);
            }
        }
    }

    #[test]
    fn what_waits_for_a_restart_is_named_each_time_until_it_is_taken_back() {
        let old = Settings::default();
        let mut new = old.clone();
        new.libvirt_uri = "test:///default".into();
        let once = decide(&old, &new);
        assert_eq!(once.after_restart, ["libvirt.uri"]);
        assert_eq!(decide(&once.settings, &new).after_restart, ["libvirt.uri"]);
        let back = decide(&once.settings, &old);
        assert!(back.changed.is_empty() && back.after_restart.is_empty());
    }
}
