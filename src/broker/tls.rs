//! The TLS of a connection: rustls with aws-lc-rs, versions 1.2 and 1.3.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

use super::Broker;
use crate::key_file::{FileError, Named};
use crate::tls::files::{certificates, private_key, roots};

/// What the CAs of this system are called where a file would be named.
const SYSTEM: &str = "(this system's)";

/// What a connection is made with.
///
/// # Errors
/// A file is not what it should be, or certificate and key are not of each other.
pub(super) fn config(broker: &Broker) -> Result<Arc<ClientConfig>, FileError> {
    let access = broker.access();
    let trusted = match &access.ca_file {
        Some(path) => roots(path)?,
        None => of_the_system(broker)?,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has suites for TLS 1.2 and 1.3")
        .with_root_certificates(trusted);
    let mut config = match (&access.cert_file, &access.key_file) {
        (Some(cert), Some(key_path)) => {
            let file = Named {
                what: "client certificate",
                path: cert,
            };
            let chain = certificates(file)?;
            let private = private_key(Named {
                what: "private key",
                path: key_path,
            })?;
            builder.with_client_auth_cert(chain, private).map_err(|e| {
                file.refuse(format!("it does not go with {}: {e}", key_path.display()))
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    // A session that is resumed shows no certificate: a renewed one would never be seen.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A system has some that rustls does not understand; those are left out.
fn of_the_system(broker: &Broker) -> Result<RootCertStore, FileError> {
    let file = Named {
        what: "CAs",
        path: Path::new(SYSTEM),
    };
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|e| format!(" ({e})"));
        return Err(file.refuse(format!(
            "there are none{}; install ca-certificates, or name the broker's CA with {}",
            why.unwrap_or_default(),
            broker.option("ca-file")
        )));
    }
    Ok(roots)
}
