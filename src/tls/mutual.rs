//! The two ends of a link over a network. TLS 1.3 alone, a certificate on each side, of the CAs that are named and of
//! no other; no session is resumed, as a resumed one shows no certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use super::{MutualFiles, VmName};
use crate::key_file::FileError;

/// Who is let in, of those whose certificate is right.
pub type Admits = Arc<dyn Fn(&VmName) -> bool + Send + Sync>;

/// What a guest connects with, by the cryptography of `provider`.
///
/// # Errors
/// A file is not what it should be, or certificate and key are not of each other.
pub fn client(
    files: &MutualFiles,
    provider: CryptoProvider,
) -> Result<Arc<ClientConfig>, FileError> {
    let material = files.read()?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| files.mismatch(&error))?
        .with_root_certificates(material.roots)
        .with_client_auth_cert(material.chain, material.key)
        .map_err(|error| files.mismatch(&error))?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// What a host accepts guests with: those that `admits` says are here.
///
/// # Errors
/// Those of [`client`].
pub fn server(
    files: &MutualFiles,
    provider: CryptoProvider,
    admits: Admits,
) -> Result<Arc<ServerConfig>, FileError> {
    let material = files.read()?;
    let provider = Arc::new(provider);
    let roots = Arc::new(material.roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let inner = verifier.build().map_err(|error| files.bad_ca(error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| files.mismatch(&error))?
        .with_client_cert_verifier(Arc::new(Admission { inner, admits }))
        .with_single_cert(material.chain, material.key)
        .map_err(|error| files.mismatch(&error))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Verifies a certificate, and then asks who it is of: who may not come in is told so in the handshake.
struct Admission {
    inner: Arc<dyn ClientCertVerifier>,
    admits: Admits,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Admission {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)?;
        let name = VmName::of_certificate(end_entity);
        match name.is_some_and(|name| (self.admits)(&name)) {
            true => Ok(verified),
            // Alert "access_denied" (RFC 8446, section 6.2): valid, and not allowed.
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
