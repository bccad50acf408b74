//! What keys are called, and what to paste where. A private key is shown by its public half alone.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde::Serialize;

use vmkpi::key_file::{opening_key, sealing_key, signing_key, verifying_key};
use vmkpi::sign::VerifyingKey;

use super::super::print::Console;
use super::super::trust::{PRIVATE, PUBLIC, files};
use super::super::{Failure, Format, Outcome};

/// Which keys to show.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vmkpi key show keys
  vmkpi key show keys/sign.pub.pem --format json | jq -r .kid")]
pub struct Args {
    /// Files of keys, or folders with *.pub.pem and *.key.pem.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// For people, or one JSON object a key and line.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// What is shown of a key.
#[derive(Serialize)]
struct Shown {
    file: String,
    /// `rsa` or `ed25519`.
    kind: &'static str,
    private: bool,
    /// The JWK thumbprint (RFC 7638).
    kid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<usize>,
    /// Of a public key, what a descriptor takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    paste: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: &Args, console: &mut Console) -> Outcome {
    for path in &args.paths {
        for shown in look(path)? {
            match args.format {
                Format::Json => console.line(&serde_json::to_string(&shown)?)?,
                Format::Table => table(&shown, console)?,
            }
        }
    }
    Ok(())
}

fn table(shown: &Shown, console: &mut Console) -> std::io::Result<()> {
    let kind = match (shown.kind, shown.bits) {
        ("rsa", Some(bits)) => format!("RSA, {bits} bits"),
        ("rsa", None) => "RSA".to_owned(),
        _ => "Ed25519".to_owned(),
    };
    let half = if shown.private { "private" } else { "public" };
    console.line(&format!("{}: {kind}, {half} key", shown.file))?;
    console.line(&format!("  kid {}", shown.kid))?;
    if let Some(paste) = &shown.paste {
        let what = match shown.kind {
            "rsa" => "in a VM descriptor, so that hosts seal for you",
            _ => "in a VM descriptor, if it is a Consumer's whose confirmations acknowledge",
        };
        console.line(&format!("  {what}:"))?;
        for line in paste.lines() {
            console.line(&format!("    {line}"))?;
        }
    }
    console.line("")
}

fn look(path: &Path) -> Result<Vec<Shown>, Failure> {
    if !path.is_dir() {
        return Ok(vec![key(path).map_err(Failure::Usage)?]);
    }
    let mut shown = Vec::new();
    for ending in [PUBLIC, PRIVATE] {
        let found = files(path, ending).map_err(Failure::Usage)?;
        // Keys of certificates are no keys that have a name here.
        shown.extend(found.iter().filter_map(|file| key(file).ok()));
    }
    match shown.is_empty() {
        true => Err(Failure::Usage(anyhow!(
            "{}: no RSA or Ed25519 key in files that end with {PUBLIC} or {PRIVATE}",
            path.display()
        ))),
        false => Ok(shown),
    }
}

fn key(path: &Path) -> anyhow::Result<Shown> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    if text.contains("PRIVATE KEY-----") {
        return private(path);
    }
    if text.contains("BEGIN CERTIFICATE") {
        let message = "a certificate, and no key that has a name here: openssl x509 -text -in it";
        return Err(anyhow!("{}: {message}", path.display()));
    }
    if let Ok(key) = sealing_key(path) {
        let paste = format!("primary_key = \"\"\"\n{}\n\"\"\"", text.trim());
        return Ok(Shown {
            bits: Some(key.bits()),
            ..shown(path, "rsa", key.kid(), Some(paste))
        });
    }
    let key = verifying_key(path);
    let key = key.map_err(|error| match sealing_key(path) {
        // An RSA key that is too short has a better reason than that it is not Ed25519.
        Err(better) if text.contains("-----BEGIN") && text.len() > 200 => better,
        _ => error,
    })?;
    Ok(shown(path, "ed25519", key.kid(), Some(confirm(&key))))
}

fn confirm(key: &VerifyingKey) -> String {
    format!(
        "[[confirm]]\nname = \"NAME\"\nkey = \"{}\"",
        key.to_base64()
    )
}

fn private(path: &Path) -> anyhow::Result<Shown> {
    let found = match opening_key(path) {
        Ok(key) => shown(path, "rsa", key.kid(), None),
        Err(other) => match signing_key(path) {
            Ok(key) => shown(path, "ed25519", key.kid(), None),
            Err(_) => return Err(other).context("neither an RSA nor an Ed25519 key of ours"),
        },
    };
    Ok(Shown {
        private: true,
        ..found
    })
}

fn shown(path: &Path, kind: &'static str, kid: &str, paste: Option<String>) -> Shown {
    Shown {
        file: path.display().to_string(),
        kind,
        private: false,
        kid: kid.to_owned(),
        bits: None,
        paste,
    }
}
