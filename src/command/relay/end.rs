//! One end of a relay: a broker that is read and written to.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vmkpi::broker::Broker;
use vmkpi::broker::publisher::{Publisher, Reply};
use vmkpi::broker::subscription::{Step, Subscription};

/// How long what is on its way may take to arrive, when the relay ends.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// One end: what is read there, and what is written there.
pub struct End {
    /// Which.
    pub broker: Broker,
    /// What is read.
    pub subscription: Subscription,
    /// What is written.
    pub publisher: Publisher,
    publishing: JoinHandle<()>,
    /// Why nothing comes, as said last.
    trouble: Option<String>,
    /// Whether what is to be read is subscribed to.
    pub listening: bool,
    /// Where it is said what became of a message.
    pub reply: mpsc::UnboundedSender<Reply>,
    /// What has been said of messages.
    pub replies: mpsc::UnboundedReceiver<Reply>,
}

impl End {
    /// Begins to publish beside a subscription.
    pub fn new(broker: &Broker, subscription: Subscription) -> Self {
        let (publisher, publishing) = Publisher::start(broker.clone());
        let (reply, replies) = mpsc::unbounded_channel();
        Self {
            broker: broker.clone(),
            subscription,
            publisher,
            publishing,
            trouble: None,
            listening: false,
            reply,
            replies,
        }
    }

    /// Says what there is to say of a step that is no message.
    pub fn note(&mut self, step: Step) {
        let broker = &self.broker;
        match step {
            Step::Message(_) => {}
            Step::Listening => {
                if self.trouble.take().is_some() || !self.listening {
                    tracing::info!(%broker, "listening");
                }
                self.listening = true;
            }
            Step::Denied(filter) => {
                tracing::error!(%broker, filter, "the broker does not let us read there; its ACL must");
            }
            Step::Notice(text) => tracing::warn!(%broker, "{text}"),
            Step::Lost(reason) => {
                self.listening = false;
                // Said once for each trouble, not for each attempt.
                if self.trouble.as_ref() != Some(&reason.message) {
                    tracing::warn!(%broker, error = %reason, "nothing comes from the broker; trying again");
                }
                self.trouble = Some(reason.message);
            }
        }
    }

    /// Ends both; what has not arrived by then is in the spool, or said again.
    pub async fn end(self) {
        self.subscription.end().await;
        drop(self.publisher);
        // What it has not delivered is in the spool, or said again.
        let abort = self.publishing.abort_handle();
        if timeout(FAREWELL, self.publishing).await.is_err() {
            abort.abort();
        }
    }
}
