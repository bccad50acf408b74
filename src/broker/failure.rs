//! Why a connection to a broker failed or ended: a kind, for those who count, and words that say what
//! to do, for those who read.

use std::error::Error;
use std::fmt;
use std::io;

use rumqttc::{ConnectReturnCode, ConnectionError, DisconnectReasonCode, StateError};
use rustls::{AlertDescription, CertificateError};

use super::{Broker, FileError};

/// Of what kind a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A file of ours is not right.
    Files,
    /// Nobody answers there, or not in time.
    Unreachable,
    /// The broker's certificate is not accepted.
    ServerCertificate,
    /// The broker does not accept our certificate, or misses one.
    ClientCertificate,
    /// There is no TLS with it, for another reason.
    Tls,
    /// The broker does not know the login, or does not let it in.
    Login,
    /// The broker refuses the connection for another reason.
    Refused,
    /// Somebody else has come with our client id, and the broker has ended our connection for it.
    TakenOver,
    /// A connection that stood has ended.
    Lost,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Files,
        Self::Unreachable,
        Self::ServerCertificate,
        Self::ClientCertificate,
        Self::Tls,
        Self::Login,
        Self::Refused,
        Self::TakenOver,
        Self::Lost,
    ];

    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Unreachable => "unreachable",
            Self::ServerCertificate => "server_certificate",
            Self::ClientCertificate => "client_certificate",
            Self::Tls => "tls",
            Self::Login => "login",
            Self::Refused => "refused",
            Self::TakenOver => "taken_over",
            Self::Lost => "lost",
        }
    }

    /// Whether it stays so until somebody changes something here or at the broker.
    pub fn needs_somebody(self) -> bool {
        matches!(
            self,
            Self::Files | Self::ServerCertificate | Self::ClientCertificate | Self::Login
        )
    }
}

/// Why a connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of what kind.
    pub kind: Kind,
    /// What happened, and what to do; without the broker's name.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::new(Kind::Files, error.to_string())
    }
}

impl Failure {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Somebody else has our client id.
    pub fn taken_over() -> Self {
        Self::new(
            Kind::TakenOver,
            "somebody else has come with our client id, which only who reads the broker's log can know; look there \
             who it was",
        )
    }

    /// What `error` means. `connected` says whether the broker had accepted the connection.
    pub fn of(error: &ConnectionError, broker: &Broker, connected: bool) -> Self {
        if let Some(tls) = tls_error(error) {
            return of_tls(tls, broker);
        }
        match error {
            ConnectionError::ConnectionRefused(code) => of_refusal(*code, broker),
            ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code: DisconnectReasonCode::SessionTakenOver,
                ..
            }) => Self::taken_over(),
            _ if connected => Self::new(Kind::Lost, plain(error)),
            ConnectionError::Timeout(_) => Self::new(
                Kind::Unreachable,
                "no answer in time; is it there, and does a firewall let us through?",
            ),
            _ => {
                let hint = match broker.url().tls {
                    true if ended(error) => {
                        "; it may want a client certificate, or this is not its port for TLS"
                    }
                    false if ended(error) => "; it may speak TLS on this port: write mqtts://",
                    _ => "",
                };
                Self::new(Kind::Unreachable, format!("{}{hint}", plain(error)))
            }
        }
    }
}

/// The system's word, without the layers around it.
fn plain(error: &ConnectionError) -> String {
    match (io_error(error), error) {
        (Some(error), _) => error.to_string(),
        (None, ConnectionError::MqttState(error)) => error.to_string(),
        (None, error) => error.to_string(),
    }
}

/// Where the layers of an error begin: this one does not say what is below it.
fn begin(error: &ConnectionError) -> &(dyn Error + 'static) {
    match error {
        ConnectionError::MqttState(StateError::Deserialization(inner)) => inner,
        error => error,
    }
}

/// The layers of an error. What an `io::Error` wraps is not its source but the source's source.
fn layers<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |layer| {
        let layer: &'a (dyn Error + 'static) = *layer;
        let wrapped = layer
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => layer.source(),
        }
    })
}

fn tls_error(error: &ConnectionError) -> Option<&rustls::Error> {
    layers(begin(error)).find_map(<dyn Error>::downcast_ref)
}

fn io_error(error: &ConnectionError) -> Option<&io::Error> {
    layers(begin(error)).find_map(<dyn Error>::downcast_ref)
}

/// Whether the other end hung up on us.
fn ended(error: &ConnectionError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let aborted = matches!(
        error,
        ConnectionError::MqttState(StateError::ConnectionAborted | StateError::Deserialization(_))
    );
    aborted
        || io_error(error).is_some_and(|e| {
            matches!(
                e.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
            )
        })
}

fn of_refusal(code: ConnectReturnCode, broker: &Broker) -> Failure {
    use ConnectReturnCode as Code;
    let access = broker.access();
    let login = access.credentials_file.is_some() || access.username.is_some();
    match code {
        Code::BadUserNamePassword
        | Code::NotAuthorized
        | Code::BadAuthenticationMethod
        | Code::Banned => {
            let what = match login {
                true => "the broker refuses the login; check username and password, there and here"
                    .to_owned(),
                false if access.cert_file.is_some() => {
                    "the broker refuses us, without a login; it may not take the certificate for one"
                        .to_owned()
                }
                false => format!(
                    "the broker wants a login; give {}",
                    broker.option("credentials-file")
                ),
            };
            Failure::new(Kind::Login, format!("{what} ({code:?})"))
        }
        code => Failure::new(
            Kind::Refused,
            format!("the broker refuses the connection: {code:?}"),
        ),
    }
}

fn of_tls(error: &rustls::Error, broker: &Broker) -> Failure {
    match error {
        rustls::Error::InvalidCertificate(why) => {
            Failure::new(Kind::ServerCertificate, of_certificate(why, broker))
        }
        rustls::Error::AlertReceived(alert) => of_alert(*alert, broker),
        rustls::Error::InvalidMessage(_) => Failure::new(
            Kind::Tls,
            format!(
                "what answers does not speak TLS ({error}); its port for TLS is mostly 8883, and \
                 without TLS write mqtt://"
            ),
        ),
        error => Failure::new(Kind::Tls, format!("no TLS with it: {error}")),
    }
}

fn of_certificate(why: &CertificateError, broker: &Broker) -> String {
    use CertificateError as Why;
    match why {
        Why::UnknownIssuer => match &broker.access().ca_file {
            Some(file) => format!(
                "the broker's certificate is of no CA in {}; name the CA that signed it with {}",
                file.display(),
                broker.option("ca-file")
            ),
            None => format!(
                "the broker's certificate is of no CA that this system trusts; name its CA with {}",
                broker.option("ca-file")
            ),
        },
        Why::Expired | Why::ExpiredContext { .. } => {
            "the broker's certificate has expired; renew it there (or is this machine's clock wrong?)"
                .to_owned()
        }
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            "the broker's certificate is not valid yet; is this machine's clock wrong?".to_owned()
        }
        Why::NotValidForName => not_for(broker, &[]),
        Why::NotValidForNameContext { presented, .. } => not_for(broker, presented),
        other => format!("the broker's certificate is refused: {other}"),
    }
}

/// A certificate may be for a hundred names.
fn not_for(broker: &Broker, presented: &[String]) -> String {
    let host = &broker.url().host;
    let mut names: Vec<_> = presented.iter().take(5).map(String::as_str).collect();
    if presented.len() > names.len() {
        names.push("...");
    }
    let names = match names.is_empty() {
        true => String::new(),
        false => format!(" but for {}", names.join(", ")),
    };
    format!(
        "the broker's certificate is not for {host}{names}; use the name it is for, or have it \
         issued for {host}"
    )
}

fn of_alert(alert: AlertDescription, broker: &Broker) -> Failure {
    use AlertDescription as Alert;
    let shown = broker.access().cert_file.as_deref();
    let about_ours = matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
    );
    // What TLS 1.2 says where 1.3 says that a certificate is required.
    let may_be = alert == Alert::HandshakeFailure && shown.is_none();
    let message = match (about_ours || may_be, shown) {
        (true, None) => format!(
            "the broker wants a client certificate; give {} and {}",
            broker.option("cert-file"),
            broker.option("key-file")
        ),
        (true, Some(file)) => format!(
            "the broker refuses our certificate {}{}",
            file.display(),
            match alert {
                Alert::CertificateExpired => ", which has expired; renew it",
                Alert::UnknownCA =>
                    ", as it does not know its CA; have it issued by the CA it does",
                Alert::CertificateRevoked => ", which was revoked; have a new one issued",
                _ => "; is it still valid, of the right CA, and for clients?",
            }
        ),
        _ => "there is no TLS that both ends speak".to_owned(),
    };
    let kind = match about_ours || may_be {
        true => Kind::ClientCertificate,
        false => Kind::Tls,
    };
    Failure::new(kind, format!("{message} ({alert:?})"))
}
