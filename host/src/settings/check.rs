//! Whether the daemon could run as it is told: everything that can be known without starting anything, and all
//! of it at once. The same judge for `run --check`, at start, and before anything is changed by SIGHUP.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{AccessFlags, eaccess};
use vmkpi::broker::{Access, Broker, BrokerUrl};
use vmkpi::descriptor::Descriptor;
use vmkpi::key_file::signing_key;
use vmkpi::settings::{Problem as Wrong, Problems};
use vmkpi::sign::SigningKey;
use vmkpi::tls::MutualFiles;

use super::{CATALOGUE, Settings};
use crate::context::render::{Words, render};
use crate::context::templates::{self, Contents, Problem};
use crate::daemon::{Config, DoorConfig};
use crate::descriptors::{Refusal, read_file};
use crate::link::{Door, Limits};

/// What a check that found nothing wrong has read on its way.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What to run with.
    pub config: Config,
    /// The descriptors, by file.
    pub descriptors: BTreeMap<PathBuf, Descriptor>,
    /// What VMs are told, by class.
    pub contents: Contents,
}

/// Looks at all that `settings` name. `found` is what was wrong with the settings themselves.
///
/// # Errors
/// Everything that is wrong, with `found` first.
pub fn check(settings: &Settings, found: Problems) -> Result<Checked, Problems> {
    let mut problems = found;
    let broker = broker(settings, &mut problems);
    let signer = signer(settings, &mut problems);
    let door = door(settings, &mut problems);
    let descriptors = descriptors(settings, &mut problems);
    let contents = context(settings, &descriptors, &mut problems);
    if let Err(message) = usable(&settings.state) {
        let at = format!("state {}", settings.state.display());
        problems.add(at, "", message);
    }
    match broker {
        Some(broker) if problems.0.is_empty() => Ok(Checked {
            config: config(settings, broker, signer, door),
            descriptors,
            contents,
        }),
        _ => Err(problems),
    }
}

fn config(
    settings: &Settings,
    broker: Broker,
    signer: Option<Arc<SigningKey>>,
    door: Option<DoorConfig>,
) -> Config {
    Config {
        door,
        libvirt_uri: settings.libvirt_uri.clone(),
        broker,
        listen: settings.listen,
        state: settings.state.clone(),
        guests: settings.guests.clone(),
        descriptors: settings.descriptors.clone(),
        limits: Limits::default(),
        outbox_bytes: settings.outbox_bytes,
        poll_interval: settings.poll_interval,
        signer,
        lease_seconds: settings.lease_seconds,
        context: settings.context(),
    }
}

/// Where guests come in from a network.
fn door(settings: &Settings, problems: &mut Problems) -> Option<DoorConfig> {
    let Settings {
        link_cert_file,
        link_key_file,
        link_ca_file,
        ..
    } = settings.clone();
    let files = match (link_cert_file, link_key_file, link_ca_file) {
        (None, None, None) if settings.link_listen.is_none() => return None,
        (Some(cert), Some(key), Some(ca)) => MutualFiles { cert, key, ca },
        _ => {
            let message = "cert_file, key_file and ca_file are nothing without each other, and listen_address in [link] \
                           is nothing without them: give all of them, or none";
            problems.add("[link.tls]", "", message);
            return None;
        }
    };
    let Some(listen) = settings.link_listen else {
        let message = "missing, so nobody would be shown what [link.tls] names: give listen_address in [link]";
        problems.add("link.listen_address", "", message);
        return None;
    };
    let door = DoorConfig { listen, files };
    if let Err(error) = door.tls(&Door::default()) {
        problems.add("[link.tls]", "", error.to_string());
        return None;
    }
    Some(door)
}

/// Reads the folders of contexts, and makes of them what each VM that is known here by a descriptor would get.
fn context(
    settings: &Settings,
    descriptors: &BTreeMap<PathBuf, Descriptor>,
    problems: &mut Problems,
) -> Contents {
    let Some(config) = settings.context() else {
        return Contents::new();
    };
    let key = "context.directory";
    if let Err(message) = usable(&config.images) {
        let at = format!("context.images {}", config.images.display());
        problems.add(at, "", message);
    }
    let contents = templates::read(&config.directory).unwrap_or_else(|found| {
        for Problem { place, message } in found {
            problems.add(place, key, message);
        }
        Contents::new()
    });
    for content in contents.values() {
        let mut said: Vec<String> = Vec::new();
        for (file, descriptor) in descriptors {
            let words = Words {
                descriptor: Some(descriptor),
                uuid: "00000000-0000-0000-0000-000000000000",
                event: "check",
            };
            let Err(Problem { place, message }) = render(content, &words) else {
                continue;
            };
            // The same for every VM is told once.
            let line = format!("{place}: {message}");
            if !said.contains(&line) {
                let message = format!("{message} (for the VM of {})", file.display());
                problems.add(place, key, message);
                said.push(line);
            }
        }
    }
    contents
}

/// The site's key.
fn signer(settings: &Settings, problems: &mut Problems) -> Option<Arc<SigningKey>> {
    let read = signing_key(settings.sign_key_file.as_deref()?);
    read.map(Arc::new)
        .map_err(|error| problems.add("sign.key_file", "", error.to_string()))
        .ok()
}

/// The broker and how it lets us in.
fn broker(settings: &Settings, problems: &mut Problems) -> Option<Broker> {
    let Some(url) = settings.broker.clone() else {
        if !may_have_been_given(problems) {
            let message = "missing; give url in [broker], VMKPI_HOST_BROKER or --broker URL";
            problems.add("broker.url", "", message);
        }
        // Its files can be wrong without it, too.
        if let Ok(somewhere) = "mqtts://localhost".parse() {
            read_parts(&somewhere, &settings.access, problems);
        }
        return None;
    };
    read_parts(&url, &settings.access, problems);
    match Broker::new(url, settings.access.clone()) {
        Ok(broker) => Some(broker),
        Err(error) => {
            problems.add("[broker]", "", error.to_string());
            None
        }
    }
}

/// Reads what lets us in, each part for itself, so that all that is wrong is told.
fn read_parts(url: &BrokerUrl, access: &Access, problems: &mut Problems) {
    let Access {
        ca_file,
        cert_file,
        key_file,
        credentials_file,
        username,
        password_file,
    } = access.clone();
    let ca = Access {
        ca_file: ca_file.clone(),
        ..Access::default()
    };
    let certificate = Access {
        ca_file: ca_file.filter(|_| cert_file.is_some()),
        cert_file,
        key_file,
        ..Access::default()
    };
    let credentials = Access {
        credentials_file,
        ..Access::default()
    };
    let password = Access {
        username,
        password_file,
        ..Access::default()
    };
    let mut said: Vec<String> = Vec::new();
    for part in [ca, certificate, credentials, password] {
        // What contradicts itself is told as a whole.
        let Ok(part) = Broker::new(url.clone(), part) else {
            continue;
        };
        let error = part.read().err().map(|error| error.to_string());
        if let Some(error) = error.filter(|error| !said.contains(error)) {
            problems.add("[broker]", "", &error);
            said.push(error);
        }
    }
}

/// Whether the broker may stand in what was refused, or in a file that could not be read: then it is not missing.
fn may_have_been_given(problems: &Problems) -> bool {
    let settings = CATALOGUE.settings.iter();
    let Some(setting) = settings.into_iter().find(|s| s.key == "broker.url") else {
        return false;
    };
    let (env, flag) = (CATALOGUE.env(setting), format!("--{}", setting.flag));
    let about = |p: &Wrong| p.key == setting.key || p.at == env || p.at == flag;
    let of_file = |p: &Wrong| {
        let others = ["--", CATALOGUE.env_prefix];
        p.key.is_empty() && !others.iter().any(|other| p.at.starts_with(other))
    };
    problems.0.iter().any(|p| about(p) || of_file(p))
}

/// Reads every file of descriptors; a file that several domains have is told once.
fn descriptors(settings: &Settings, problems: &mut Problems) -> BTreeMap<PathBuf, Descriptor> {
    let mut read = BTreeMap::new();
    let mut names: BTreeMap<(String, String), (&str, &Path)> = BTreeMap::new();
    let mut refused: Vec<&Path> = Vec::new();
    for (domain, path) in &settings.descriptors {
        if refused.contains(&path.as_path()) {
            continue;
        }
        match read_file(path) {
            Ok(descriptor) => {
                let name = (
                    descriptor.primary_site.to_string(),
                    descriptor.vm.to_string(),
                );
                let (other, file) = *names.entry(name).or_insert((domain, path));
                // One file for a domain's name and its UUID is no mistake.
                if file != path.as_path() {
                    let (site, vm) = (descriptor.primary_site.as_str(), descriptor.vm.as_str());
                    let message = format!(
                        "VM {vm:?} of site {site:?} is domain {other} already; each VM needs a name of its own"
                    );
                    problems.add(
                        path.display().to_string(),
                        &format!("descriptor.{domain}"),
                        message,
                    );
                }
                read.insert(path.clone(), descriptor);
            }
            Err(refusal) => {
                refused.push(path);
                tell(domain, &refusal, problems);
            }
        }
    }
    read
}

/// Every error of a descriptor is a line.
fn tell(domain: &str, refusal: &Refusal, problems: &mut Problems) {
    let key = format!("descriptor.{domain}");
    match refusal {
        Refusal::Read { path, message } => problems.add(path, &key, message),
        Refusal::Invalid { place, errors } => {
            for error in errors {
                problems.add(place, &key, error.to_string());
            }
        }
        other => problems.add(key, "", other.to_string()),
    }
}

/// Whether the daemon's user could keep its state there.
fn usable(state: &Path) -> Result<(), String> {
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    let me = nix::unistd::geteuid();
    match std::fs::metadata(state) {
        Ok(found) if !found.is_dir() => Err("it is no directory".into()),
        Ok(_) => eaccess(state, all).map_err(|errno| {
            format!(
                "user {me} cannot use it ({}): chown it, or run as its owner",
                errno.desc()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => makable(state),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a directory that is not there could be made.
fn makable(state: &Path) -> Result<(), String> {
    let parents = state.ancestors().skip(1);
    let there = parents.map(|p| match p.as_os_str().is_empty() {
        true => Path::new("."),
        false => p,
    });
    let Some(nearest) = there.into_iter().find(|p| p.symlink_metadata().is_ok()) else {
        return Err("it is not there, and cannot be made".into());
    };
    if !nearest.is_dir() {
        return Err(format!("{} is no directory", nearest.display()));
    }
    eaccess(nearest, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| {
        let me = nix::unistd::geteuid();
        format!(
            "it is not there, and user {me} cannot make it in {} ({})",
            nearest.display(),
            errno.desc()
        )
    })
}
