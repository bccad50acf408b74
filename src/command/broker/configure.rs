//! `vmkpi broker --print-config`: the configuration of a real broker and its ACL, from who may come. It goes to standard
//! output, to be looked at, or into a folder, to be used.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use vmkpi::name::Label;

use super::super::folder::{CA, Folder, NewFile};
use super::super::key::server_name;
use super::super::print::Console;
use super::super::{Failure, Outcome};
use super::mosquitto::{Places, acl, configuration};
use super::party::{Grant, Party, grants};
use super::rights::Role;

/// Where these options stand in the help.
const HEADING: &str = "With --print-config; NAME is the common name of a certificate, as of `vmkpi key new tls --client \
     NAME`, and NAME@SITE its rights at one of several sites, NAME@* at all";
/// What the files are called.
const CONFIGURATION: &str = "vmkpi.conf";
const ACL: &str = "acl";

/// Whose configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Product {
    /// Eclipse mosquitto, 2.0.11 or later.
    Mosquitto,
}

/// What a configuration is made of.
#[derive(clap::Args)]
pub struct Configure {
    /// Instead of running one, print the configuration of a broker with mutual TLS and an ACL.
    #[arg(long, value_enum, value_name = "BROKER", requires_all = ["site", "server"])]
    print_config: Option<Product>,
    /// A primary site whose data goes through the broker; may be repeated.
    #[arg(long, value_name = "SITE", requires = "print_config", help_heading = HEADING)]
    site: Vec<Label>,
    /// The name for which the broker's certificate was made (vmkpi key new tls --server).
    #[arg(long, value_name = "NAME", value_parser = server_name, requires = "print_config", help_heading = HEADING)]
    server: Option<String>,
    /// The folder, at the broker, with the CA's and the broker's certificate, the broker's key and the ACL.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/mosquitto/vmkpi",
        requires = "print_config",
        help_heading = HEADING
    )]
    etc: PathBuf,
    /// Where the broker keeps what must outlive it.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/mosquitto",
        requires = "print_config",
        help_heading = HEADING
    )]
    state: PathBuf,
    /// Hosts of VMs: write measurements, leases and answers, hear confirmations and questions; may be repeated.
    #[arg(long = "host", value_name = "NAME[@SITE]", requires = "print_config", help_heading = HEADING)]
    hosts: Vec<Party>,
    /// A Consumer, by its own name: reads what is delivered, confirms and asks for itself; may be repeated.
    #[arg(long = "consumer", value_name = "NAME[@SITE]", requires = "print_config", help_heading = HEADING)]
    consumers: Vec<Party>,
    /// Who only looks: reads measurements and the Directory; may be repeated.
    #[arg(long = "reader", value_name = "NAME[@SITE]", requires = "print_config", help_heading = HEADING)]
    readers: Vec<Party>,
    /// A relay that carries data from here on, towards the primary site, and brings confirmations; may be repeated.
    #[arg(long = "relay-out", value_name = "NAME[@SITE]", requires = "print_config", help_heading = HEADING)]
    relays_out: Vec<Party>,
    /// A relay that brings data to here, from where the VMs are, and takes confirmations along; may be repeated.
    #[arg(long = "relay-in", value_name = "NAME[@SITE]", requires = "print_config", help_heading = HEADING)]
    relays_in: Vec<Party>,
    /// Write vmkpi.conf and acl into this folder, made if it is not there, over nothing.
    #[arg(long, value_name = "DIR", requires = "print_config", help_heading = HEADING)]
    dir: Option<PathBuf>,
    /// Replace the files in --dir.
    #[arg(long, requires = "dir", help_heading = HEADING)]
    overwrite: bool,
}

impl Configure {
    /// Whether a configuration is wanted, and no broker.
    pub fn is_asked(&self) -> bool {
        self.print_config.is_some()
    }

    fn parties(&self) -> impl Iterator<Item = (Role, &Party)> {
        let named = [
            (Role::Host, &self.hosts),
            (Role::Consumer, &self.consumers),
            (Role::Reader, &self.readers),
            (Role::RelayOut, &self.relays_out),
            (Role::RelayIn, &self.relays_in),
        ];
        named
            .into_iter()
            .flat_map(|(role, parties)| parties.iter().map(move |party| (role, party)))
    }

    fn users(&self) -> anyhow::Result<BTreeMap<Label, Vec<Grant>>> {
        let users = grants(&self.site, self.parties()).map_err(|error| anyhow!(error))?;
        match users.is_empty() {
            true => Err(anyhow!(
                "nobody may come: name at least one --host, --consumer, --reader, --relay-out or --relay-in"
            )),
            false => Ok(users),
        }
    }

    fn places(&self, listen: Option<SocketAddr>) -> anyhow::Result<Places> {
        let etc = absolute("--etc", &self.etc)?;
        let server = self.server.as_deref().unwrap_or_default();
        let server = server.replace(':', "-");
        let [ca, _] = CA;
        let names = [
            ca.to_owned(),
            format!("{server}.cert.pem"),
            format!("{server}.key.pem"),
        ];
        Ok(Places {
            listen,
            acl: etc.join(ACL),
            tls: names.map(|name| etc.join(name)),
            state: absolute("--state", &self.state)?,
        })
    }
}

/// The path from the root, as mosquitto's own folder is another one. It becomes a line of its configuration.
fn absolute(option: &str, path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path).map_err(|error| anyhow!("{option}: {error}"))?;
    let text = path.to_str().filter(|text| {
        let ends = text.ends_with(char::is_whitespace);
        !text.chars().any(char::is_control) && !ends
    });
    match text {
        Some(_) => Ok(path),
        None => Err(anyhow!(
            "{option}: {} cannot stand in a configuration; name a path in UTF-8 without control characters",
            path.display()
        )),
    }
}

/// Runs the command.
pub fn run(args: &Configure, listen: Option<SocketAddr>, console: &mut Console) -> Outcome {
    let users = args.users().map_err(Failure::Usage)?;
    let places = args.places(listen).map_err(Failure::Usage)?;
    check(&places, console)?;
    let (configuration, acl) = (configuration(&places), acl(&users));
    match &args.dir {
        Some(dir) => {
            write(dir, configuration, acl, args.overwrite, console)?;
            advise(&places, console)
        }
        None => {
            let path = places.acl.with_file_name(CONFIGURATION);
            for (path, text) in [(&path, &configuration), (&places.acl, &acl)] {
                console.line(&format!("# ==> {} <==\n{text}", path.display()))?;
            }
            console.say("this is to be looked at, two files in one; --dir DIR writes them");
            Ok(())
        }
    }
}

/// Looks for the files of TLS, where the folder is on this machine.
fn check(places: &Places, console: &mut Console) -> Result<(), Failure> {
    let [ca, ..] = &places.tls;
    let Some(folder) = ca.parent().filter(|folder| folder.is_dir()) else {
        let path = ca.with_file_name("");
        console.say(&format!(
            "note: {} is not on this machine; what is in it was not looked at",
            path.display()
        ));
        return Ok(());
    };
    let missing: Vec<String> = places
        .tls
        .iter()
        .filter(|path| !path.is_file())
        .map(|path| path.display().to_string())
        .collect();
    if !missing.is_empty() {
        return Err(Failure::Usage(anyhow!(
            "{}: not there; vmkpi key new tls --server NAME makes them, and --server names the same NAME here",
            missing.join(", ")
        )));
    }
    let [_, secret] = CA;
    if folder.join(secret).exists() {
        console.say(&format!(
            "warning: {} makes certificates for everybody; keep it off the broker's machine",
            folder.join(secret).display()
        ));
    }
    Ok(())
}

fn write(
    dir: &Path,
    configuration: String,
    acl: String,
    overwrite: bool,
    console: &mut Console,
) -> Outcome {
    let files = [
        NewFile::public(CONFIGURATION, configuration, "mosquitto -c reads it"),
        NewFile::secret(ACL, acl, "its ACL; mosquitto reads it again on SIGHUP"),
    ];
    Folder::open(dir)?.write(&files, overwrite)?;
    for file in &files {
        let path = dir.join(&file.name);
        console.line(&format!("{}  {}", path.display(), file.purpose))?;
    }
    Ok(())
}

/// What is left to do.
fn advise(places: &Places, console: &mut Console) -> Outcome {
    let [ca, cert, key] = &places.tls;
    let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
    let etc = ca.with_file_name("");
    console.line(&format!(
        "\nBoth belong into {} at the broker, beside {}, {} and {}; then chown -R mosquitto: {}",
        etc.display(),
        name(ca),
        name(cert),
        name(key),
        etc.display()
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_would_be_more_than_one_line_is_refused() {
        for bad in ["/a\nallow_anonymous true", "/a\rb", "/a\tb", "/a "] {
            assert!(absolute("--etc", Path::new(bad)).is_err(), "{bad:?}");
        }
        let here = absolute("--etc", Path::new("a b")).unwrap();
        assert!(here.is_absolute() && here.ends_with("a b"));
    }
}
