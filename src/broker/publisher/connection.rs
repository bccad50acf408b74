//! One connection to the broker: made with what the broker's files hold now, and driven by a task of its
//! own to its end.

use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, DisconnectReasonCode, Event, EventLoop, MqttOptions,
    NetworkOptions, Packet, StateError,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::MAX_IN_FLIGHT;
use crate::broker::{Broker, Entry, Failure, Kind};

/// A broker that is silent for twice this time, in seconds, is given up.
const KEEP_ALIVE_SECONDS: u16 = 5;
/// How long a connection may take to be accepted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// Its files cannot be read, and never could.
    #[error(transparent)]
    Entry(Failure),
    #[error(transparent)]
    Connection(Box<ConnectionError>),
    #[error("the broker said goodbye: {0}")]
    Goodbye(String),
    /// Somebody else has come with our client id.
    #[error("the broker says that somebody else has our client id")]
    TakenOver,
    #[error("the client's task ended")]
    Task,
}

impl SessionError {
    /// Whether it may be about a message of ours, rather than about the network.
    pub(super) fn blames_us(&self) -> bool {
        match self {
            Self::Goodbye(_) => true,
            Self::Connection(error) => matches!(
                &**error,
                ConnectionError::MqttState(
                    StateError::Deserialization(_)
                        | StateError::ServerDisconnect { .. }
                        | StateError::OutgoingPacketTooLarge { .. }
                        | StateError::ProtocolViolation(_)
                )
            ),
            // Who has stolen our id must not make us give up a message.
            Self::Entry(_) | Self::TakenOver | Self::Task => false,
        }
    }

    /// The same for those who count and those who read; `connected`: whether the broker had accepted
    /// the connection.
    pub(super) fn failure(&self, broker: &Broker, connected: bool) -> Failure {
        match self {
            Self::Entry(failure) => failure.clone(),
            Self::Connection(error) => Failure::of(error, broker, connected),
            Self::TakenOver => Failure::taken_over(),
            Self::Goodbye(_) | Self::Task => Failure {
                kind: Kind::Lost,
                message: self.to_string(),
            },
        }
    }
}

/// One connection.
pub(super) struct Connection {
    pub(super) client: AsyncClient,
    pub(super) driver: Driver,
    /// The largest packet the broker takes, in bytes.
    pub(super) max_packet_bytes: usize,
    /// The first message not yet sent on it.
    pub(super) next: u64,
    pub(super) acknowledged: bool,
}

/// The task that drives rumqttc's event loop; it ends with this.
pub(super) struct Driver(JoinHandle<SessionError>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Driver {
    /// Why the connection ended, when it has.
    pub(super) async fn end(&mut self) -> SessionError {
        (&mut self.0).await.unwrap_or(SessionError::Task)
    }
}

impl Connection {
    /// Opens a connection; nothing is sent on it before `next`.
    pub(super) async fn open(
        client_id: &str,
        broker: &Broker,
        entry: Entry,
        next: u64,
    ) -> Result<Self, SessionError> {
        let mut options = options(client_id, broker);
        entry.apply(&mut options);
        let (client, eventloop) = AsyncClient::builder(options)
            .capacity(2 * MAX_IN_FLIGHT)
            .build();
        let (accepted, accept) = oneshot::channel();
        let mut driver = Driver(tokio::spawn(drive(eventloop, accepted)));
        let Ok(max_packet_bytes) = accept.await else {
            return Err(driver.end().await);
        };
        Ok(Self {
            client,
            driver,
            max_packet_bytes,
            next,
            acknowledged: false,
        })
    }

    /// Says goodbye, and waits a moment for it to be sent.
    pub(super) async fn goodbye(&mut self) {
        if self.client.try_disconnect().is_ok() {
            let _ = timeout(GOODBYE, self.driver.end()).await;
        }
    }
}

fn options(client_id: &str, broker: &Broker) -> MqttOptions {
    let url = broker.url();
    let mut options = MqttOptions::new(client_id, (url.host.as_str(), url.port));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
    options
        .set_keep_alive(KEEP_ALIVE_SECONDS)
        .set_connect_timeout(CONNECT_TIMEOUT)
        .set_clean_start(true)
        .set_outgoing_inflight_upper_limit(u16::try_from(MAX_IN_FLIGHT).unwrap_or(u16::MAX))
        .set_network_options(network);
    options
}

/// Drives one connection to its end. `accepted` gets the largest packet the broker takes.
async fn drive(mut eventloop: EventLoop, accepted: oneshot::Sender<usize>) -> SessionError {
    let mut accepted = Some(accepted);
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                let max = ack.properties.and_then(|p| p.max_packet_size);
                let max = max.map_or(usize::MAX, |m| usize::try_from(m).unwrap_or(usize::MAX));
                match accepted.take() {
                    Some(accepted) => drop(accepted.send(max)),
                    // It has connected a second time by itself: not with our messages.
                    None => return SessionError::Goodbye("connected twice".into()),
                }
            }
            Ok(Event::Incoming(Packet::Disconnect(goodbye))) => {
                return of_goodbye(goodbye.reason_code);
            }
            Ok(_) => {}
            Err(ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code: code @ DisconnectReasonCode::SessionTakenOver,
                ..
            })) => return of_goodbye(code),
            Err(error) => return SessionError::Connection(Box::new(error)),
        }
    }
}

fn of_goodbye(code: DisconnectReasonCode) -> SessionError {
    match code {
        DisconnectReasonCode::SessionTakenOver => SessionError::TakenOver,
        code => SessionError::Goodbye(format!("{code:?}")),
    }
}
