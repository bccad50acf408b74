//! Whose messages are kept, and what opens sealed ones: the files are read again while collect runs, as those of TLS
//! are, so that a key is replaced without a restart and without a message that nobody believes or opens.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinHandle;
use vmkpi::broker::Broker;

use crate::command::Failure;
use crate::command::print::Console;
use crate::command::trust::{Trust, TrustArgs};

/// Between two readings.
pub const LOOK: Duration = Duration::from_secs(5);

/// The files, and what they said last.
pub struct Keys {
    args: TrustArgs,
    broker: Broker,
    trust: Trust,
    kids: [BTreeSet<String>; 2],
    reading: Option<JoinHandle<Result<Trust, Failure>>>,
    /// What is wrong with them, as said last.
    trouble: Option<String>,
}

impl Keys {
    /// Reads them.
    ///
    /// # Errors
    /// Usage: a file is not what it should be, or nobody is named whose signature counts.
    pub(in crate::command) fn read(args: TrustArgs, broker: &Broker) -> Result<Self, Failure> {
        let trust = args.read(broker)?;
        Ok(Self {
            args,
            broker: broker.clone(),
            kids: trust.kids(),
            trust,
            reading: None,
            trouble: None,
        })
    }

    /// What they said when they were read first.
    pub(in crate::command) fn take(&mut self) -> Trust {
        std::mem::take(&mut self.trust)
    }

    /// Begins to read them again, on another thread: a file system may be slow.
    pub fn begin(&mut self) {
        if self.reading.is_some() || !self.args.names_files() {
            return;
        }
        let (args, broker) = (self.args.clone(), self.broker.clone());
        self.reading = Some(tokio::task::spawn_blocking(move || args.read(&broker)));
    }

    /// What they say now, if that has changed. What cannot be read changes nothing. Cancel-safe.
    pub(in crate::command) async fn read_again(&mut self, console: &mut Console) -> Option<Trust> {
        let Some(reading) = &mut self.reading else {
            return std::future::pending().await;
        };
        let read = reading.await;
        self.reading = None;
        // Who ends while a file is read does not wait for it.
        match read.ok()? {
            Ok(trust) => self.compare(trust, console),
            Err(error) => {
                let (Failure::Usage(error) | Failure::Failed(error)) = error else {
                    return None;
                };
                let error = format!("{error:#}");
                if self.trouble.as_ref() != Some(&error) {
                    console.say(&format!(
                        "the keys are not read anew, and those before stay in force: {error}"
                    ));
                }
                self.trouble = Some(error);
                None
            }
        }
    }

    fn compare(&mut self, trust: Trust, console: &mut Console) -> Option<Trust> {
        self.trouble = None;
        let kids = trust.kids();
        if kids == self.kids {
            return None;
        }
        let [believed, opening] = &kids;
        let names = |kids: &BTreeSet<String>| match kids.is_empty() {
            true => "none".to_owned(),
            false => kids
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        };
        console.say(&format!(
            "keys have changed; believed: {}; opening: {}",
            names(believed),
            names(opening)
        ));
        self.kids = kids;
        Some(trust)
    }
}
