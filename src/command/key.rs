//! `vmkpi key`: a site's keys, their making and their names. docs/KEYS.md says what each is for.
//!
//! | module | job |
//! | --- | --- |
//! | [`make`] | new keys, as texts |
//! | [`tls`] | a CA and its certificates, as texts |
//! | [`show`] | what a key is called, and what to paste where |

mod make;
mod show;
mod tls;

use std::path::PathBuf;

use anyhow::anyhow;
use vmkpi::name::Label;

use super::folder::{Folder, NewFile};
use super::print::Console;
use super::{Failure, Outcome};
use tls::Authority;

pub(super) use tls::{client_name, server_name};

/// What can be done with keys.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a site's keys, in a folder of their own: to seal to, to sign with, and for mutual TLS.
    New(NewArgs),
    /// Say what keys are called, and what to paste into a VM descriptor.
    Show(show::Args),
}

/// Which keys to make, and where.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vmkpi key new seal sign --dir keys
  vmkpi key new tls --dir keys/tls --site acme --server broker.acme.example \\
      --client hosts --client dashboard
  vmkpi key new tls --dir keys/link --site acme --vm shop --endpoint host-7.example.org
  vmkpi key new tls --dir keys/tls --site acme --client collect     (a further one of the same CA)")]
pub struct NewArgs {
    /// Which keys.
    #[arg(value_enum, required = true)]
    what: Vec<What>,
    /// The folder, made if it is not there. Nobody else may be able to write in it.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Replace files that are there. What was sealed for a replaced key can never be opened again.
    #[arg(long)]
    overwrite: bool,
    /// Bits of the RSA key.
    #[arg(long, default_value_t = 3072, value_parser = make::rsa_bits)]
    rsa_bits: u32,
    /// The site whose CA it is, for tls.
    #[arg(long, value_name = "SITE")]
    site: Option<Label>,
    /// A broker's name or address, for which it gets a certificate; may be repeated.
    #[arg(long = "server", value_name = "NAME", value_parser = tls::server_name)]
    servers: Vec<String>,
    /// A client's name, for which it gets a certificate: its user name at the broker; may be repeated. One that
    /// several hosts share names none of them.
    #[arg(long = "client", value_name = "NAME", value_parser = tls::client_name)]
    clients: Vec<String>,
    /// A VM's name in its descriptor, for which its guest gets a certificate for links by tls; may be repeated.
    #[arg(long = "vm", value_name = "NAME", value_parser = tls::vm_name)]
    vms: Vec<Label>,
    /// A host's name or address in links' URLs (tls:NAME:PORT), for which it gets a certificate; may be repeated.
    #[arg(long = "endpoint", value_name = "NAME", value_parser = tls::server_name)]
    endpoints: Vec<String>,
    /// Days for which certificates are valid; the CA's is for ten years.
    #[arg(long, default_value_t = 398, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

impl NewArgs {
    fn wants_certificates(&self) -> bool {
        let named = [&self.servers, &self.clients, &self.endpoints];
        !self.vms.is_empty() || named.iter().any(|names| !names.is_empty())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// An RSA key pair: hosts and guests seal to it, and only its owner opens.
    Seal,
    /// An Ed25519 key pair: a site's hosts, or a Consumer, sign with it.
    Sign,
    /// A CA, and certificates of it, for mutual TLS with the broker.
    Tls,
}

/// Runs the command.
pub fn run(command: &Command, console: &mut Console) -> Outcome {
    match command {
        Command::New(args) => new(args, console),
        Command::Show(args) => show::run(args, console),
    }
}

fn new(args: &NewArgs, console: &mut Console) -> Outcome {
    let wants = |what| args.what.contains(&what);
    let named = args.site.is_some() || args.wants_certificates();
    if named && !wants(What::Tls) {
        let message =
            "--site, --server, --client, --vm and --endpoint are for certificates: name tls too";
        return Err(Failure::Usage(anyhow!(message)));
    }
    let folder = Folder::open(&args.dir)?;
    let mut files = Vec::new();
    if wants(What::Seal) {
        files.extend(make::seal(args.rsa_bits)?);
    }
    if wants(What::Sign) {
        files.extend(make::sign()?);
    }
    if wants(What::Tls) {
        files.extend(certificates(args, &folder)?);
    }
    folder.write(&files, args.overwrite)?;
    for file in &files {
        let path = args.dir.join(&file.name);
        console.line(&format!("{}  {}", path.display(), file.purpose))?;
    }
    if wants(What::Seal) || wants(What::Sign) {
        let next = format!("vmkpi key show {}", args.dir.display());
        console.line(&format!("\nWhat to paste where: {next}"))?;
    }
    Ok(())
}

/// The CA, which is made unless it is there, and the certificates that are asked for.
fn certificates(args: &NewArgs, folder: &Folder) -> Result<Vec<NewFile>, Failure> {
    let usage = |message: &str| Failure::Usage(anyhow!("{message}"));
    let site = args.site.as_ref();
    let site = site.ok_or_else(|| usage("tls needs --site SITE, the name of the CA's site"))?;
    let there = folder.read_authority()?;
    if there.is_some() && !args.wants_certificates() && !args.overwrite {
        return Err(usage(
            "the CA is there; name what gets a certificate with --server, --client, --vm or --endpoint",
        ));
    }
    let (authority, mut files) = match there {
        // A CA is replaced in a folder of its own: certificates of the old one are still in use.
        Some((cert, key)) => (Authority::again(site, &cert, &key)?, Vec::new()),
        None => Authority::new(site)?,
    };
    for name in &args.servers {
        files.extend(authority.server(name, args.days)?);
    }
    for name in &args.clients {
        files.extend(authority.client(name, args.days)?);
    }
    for vm in &args.vms {
        files.extend(authority.vm(site, vm, args.days)?);
    }
    for name in &args.endpoints {
        files.extend(authority.endpoint(name, args.days)?);
    }
    Ok(files)
}
