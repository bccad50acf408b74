//! Why a connection by mutual TLS has failed, in words that say what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What `error` means for who wanted to talk with the other end.
pub fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => of_certificate(why),
        Some(Error::AlertReceived(alert)) => of_alert(*alert),
        Some(other) => format!("no TLS that can be used: {other}"),
        None if has_hung_up(error.kind()) => {
            "the other end has hung up: is it an endpoint of vmkpi's?".into()
        }
        None => error.to_string(),
    }
}

fn has_hung_up(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// What the other end shows is refused here.
fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of a CA that our ca_file does not have".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or the clock here is ahead: renew it".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock here is behind".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "its certificate is for another name: {error}; give it the name that the URL has"
            )
        }
        CertificateError::ApplicationVerificationFailure => {
            "its certificate names no VM that is here (urn:vmkpi:SITE:VM)".into()
        }
        other => format!("its certificate is refused: {other}"),
    }
}

/// What is shown here is refused by the other end.
fn of_alert(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::AccessDenied => {
            "knows no VM of this certificate: it must run there with a descriptor in force that has its site and name"
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "does not take our certificate: it is of a CA that its ca_file does not have"
        }
        AlertDescription::CertificateExpired => {
            "says that our certificate has expired, or is not valid yet: renew it, or see to the clocks"
        }
        AlertDescription::CertificateRequired => "wants a certificate, and none was shown",
        AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
            "does not take our certificate: is it a client's?"
        }
        AlertDescription::ProtocolVersion => "does not speak TLS 1.3",
        _ => return format!("the other end refuses: {alert:?}"),
    };
    format!("the other end {why}")
}
