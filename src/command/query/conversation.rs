//! Questions and answers over the broker. A question that is not answered is asked again, from where the rows that
//! have come end: a host that is killed in the middle costs time and no row.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rumqttc::Publish;
use tokio::time::{Instant, sleep_until};

use vmkpi::broker::Broker;
use vmkpi::broker::subscription::{Session, Step, Subscription};
use vmkpi::clock::Timestamp;
use vmkpi::position::QueryId;
use vmkpi::query::{Answer, Body, Reason, Received, Subject};
use vmkpi::sign::SigningKey;
use vmkpi::topic::Branch;

use super::super::Format;
use super::super::print::Console;
use super::super::stop::Stop;
use super::super::trust::Trust;
use super::super::watch::text::safe;
use super::super::watch::{denied, intake, lines, table};
use super::asker::{Asker, Taken, Then};
use super::words;

/// A question is asked again after so long without a word, and then each so long.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));
/// After a reason that may pass.
const SOON: Duration = Duration::from_secs(2);

/// One command's questions and answers.
pub struct Conversation {
    broker: Broker,
    subscription: Subscription,
    subject: Subject,
    key: SigningKey,
    trust: Trust,
    asker: Asker,
    issued: u64,
    connected: bool,
    trouble: Option<String>,
    /// Why the host did not answer the last time.
    reason: Option<Reason>,
    /// Answers that nobody who is believed has signed, or that are none.
    refused: BTreeMap<String, u64>,
    unopened: u64,
}

/// When what happens unless something comes.
struct Clock {
    timeout: Duration,
    deadline: Instant,
    again: Instant,
}

impl Clock {
    fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            timeout,
            deadline: now + timeout,
            again: now + timeout,
        }
    }

    /// Something new has come.
    fn progress(&mut self) {
        let now = Instant::now();
        (self.deadline, self.again) = (now + self.timeout, now + AGAIN.0);
    }
}

impl Conversation {
    /// Begins to subscribe to answers.
    pub fn start(
        broker: Broker,
        subject: Subject,
        (key, trust): (SigningKey, Trust),
        asker: Asker,
    ) -> anyhow::Result<Self> {
        let filter = subject.topic(Branch::Answer);
        Ok(Self {
            subscription: Subscription::start(
                broker.clone(),
                Session::random("vmkpi-query")?,
                [filter].into(),
            )?,
            broker,
            subject,
            key,
            trust,
            asker,
            issued: 0,
            connected: false,
            trouble: None,
            reason: None,
            refused: BTreeMap::new(),
            unopened: 0,
        })
    }

    /// Asks until everything has come, and shows it.
    pub async fn run(
        mut self,
        (format, timeout): (Format, Duration),
        console: &mut Console,
        stop: &mut Stop,
    ) -> anyhow::Result<()> {
        let mut clock = Clock::new(timeout);
        let result = self.converse(format, &mut clock, console, stop).await;
        if self.unopened > 0 {
            console.say(&format!(
                "left sealed {} rows: they do not open with these keys",
                self.unopened
            ));
        }
        self.subscription.end().await;
        result
    }

    async fn converse(
        &mut self,
        format: Format,
        clock: &mut Clock,
        console: &mut Console,
        stop: &mut Stop,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = stop.wait() => bail!("interrupted: what was shown is not all"),
                () = sleep_until(clock.deadline) => return Err(self.no_answer(clock.timeout)),
                () = sleep_until(clock.again), if self.connected => self.ask(clock, AGAIN.1)?,
                step = self.subscription.step() => {
                    let step = step.context("the subscription has ended")?;
                    if self.take(step, format, clock, console)? == Then::End {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Asks for what has not come yet; again after `patience` without an answer.
    fn ask(&mut self, clock: &mut Clock, patience: Duration) -> anyhow::Result<()> {
        let id = QueryId(random()?);
        let now = Timestamp::now().as_micros().unsigned_abs();
        self.issued = now.max(self.issued + 1);
        let question = self
            .asker
            .ask(id)
            .encode(&self.subject, self.issued, &self.key);
        // What cannot be queued is asked again.
        let _ = self
            .subscription
            .publish(&self.subject.topic(Branch::Query), question);
        clock.again = Instant::now() + patience;
        Ok(())
    }

    fn take(
        &mut self,
        step: Step,
        format: Format,
        clock: &mut Clock,
        console: &mut Console,
    ) -> anyhow::Result<Then> {
        match step {
            Step::Message(publish) => return self.hear(&publish, format, clock, console),
            Step::Listening => {
                if self.trouble.take().is_some() {
                    console.say(&format!("connected to {}", self.broker));
                }
                self.connected = true;
                self.ask(clock, AGAIN.0)?;
            }
            Step::Denied(filter) => return Err(denied(&self.broker, &filter)),
            Step::Notice(text) => console.say(&format!("{}: {text}", self.broker)),
            Step::Lost(failure) => {
                if failure.kind.needs_somebody() && !self.connected {
                    bail!("{}: {failure}", self.broker);
                }
                if self.trouble.is_none() {
                    console.say(&format!(
                        "{}: {}; trying again",
                        self.broker, failure.message
                    ));
                }
                self.trouble = Some(failure.message);
                self.connected = false;
            }
        }
        Ok(Then::Wait)
    }

    fn hear(
        &mut self,
        publish: &Publish,
        format: Format,
        clock: &mut Clock,
        console: &mut Console,
    ) -> anyhow::Result<Then> {
        let Some(answer) = self.vouched(publish, console) else {
            return Ok(Then::Wait);
        };
        let (id, of) = (answer.id, (&self.subject.vm, self.asker.point()));
        let opened = answer.open(of, &self.trust.keys);
        let opened = opened.map_err(|_| {
            anyhow!("the answer is sealed for the primary site and does not open: name its private key with --key")
        })?;
        match opened.body {
            Body::Failed(reason) if !self.asker.is_last(id) => {
                // Of a question that was asked again meanwhile.
                self.reason = Some(reason);
            }
            Body::Failed(reason) if reason.passes() => {
                self.reason = Some(reason);
                clock.again = clock.again.min(Instant::now() + SOON);
            }
            Body::Failed(reason) => {
                bail!(words::failed(
                    reason,
                    (&self.subject, &self.asker.point().to_string())
                ));
            }
            Body::Sealed(_) => bail!("an envelope within an envelope"),
            Body::Page(page) => {
                let Some(taken) = self.asker.take(page)? else {
                    return Ok(Then::Wait);
                };
                self.reason = None;
                clock.progress();
                let then = taken.then;
                self.show(taken, format, console)?;
                if then == Then::Ask {
                    self.ask(clock, AGAIN.0)?;
                }
                return Ok(then);
            }
        }
        Ok(Then::Wait)
    }

    /// The answer to a question of ours, if somebody who is believed vouches for it.
    fn vouched(&mut self, publish: &Publish, console: &mut Console) -> Option<Answer> {
        let received = match Received::decode(&publish.payload, &self.subject) {
            Ok(received) => received,
            Err(error) => {
                let text: String = safe(&error.to_string()).chars().take(200).collect();
                self.refuse(text, console);
                return None;
            }
        };
        if !self.asker.is_open(received.answer.id) {
            return None;
        }
        let nobody = self.trust.ring.is_empty() && self.trust.insecure;
        if !nobody && let Err(refusal) = received.verify(&self.trust.ring) {
            if !self.trust.insecure {
                self.refuse(refusal.to_string(), console);
                return None;
            }
            self.note(&format!("took all the same: {refusal}"), console);
        }
        Some(received.answer)
    }

    fn refuse(&mut self, why: String, console: &mut Console) {
        self.note(&format!("ignored an answer: {why}"), console);
        // As many kinds as are worth telling.
        if self.refused.len() < 8 || self.refused.contains_key(&why) {
            *self.refused.entry(why).or_default() += 1;
        }
    }

    /// Said once for each kind.
    fn note(&self, text: &str, console: &mut Console) {
        if self.trouble.as_deref() != Some(text) && !self.refused.keys().any(|k| text.ends_with(k))
        {
            console.say(text);
        }
    }

    fn show(&mut self, taken: Taken, format: Format, console: &mut Console) -> anyhow::Result<()> {
        let (site, vm, point) = (&self.subject.site, &self.subject.vm, self.asker.point());
        let mut rows = taken.rows;
        if !self.trust.keys.is_empty() {
            self.unopened += intake::open_samples(&mut rows, (vm, point), &self.trust.keys);
        }
        if let Some(trimmed) = taken.trimmed {
            let (through, time) = (trimmed.through, trimmed.time);
            console.say(&format!(
                "rows through {through}, the last stored at {time}, are gone: trimmed by the guest's retention"
            ));
        }
        if taken.left_out > 0 {
            console.say(&format!(
                "{} rows are too large for an answer and were left out",
                taken.left_out
            ));
        }
        for row in &rows {
            let line = match format {
                Format::Json => lines::of_row((site, vm, point), taken.stream, row),
                Format::Table => table::plain_row(row),
            };
            console.line(&line)?;
        }
        Ok(console.flush()?)
    }

    fn no_answer(&self, timeout: Duration) -> anyhow::Error {
        if let Some(trouble) = self.trouble.as_ref().filter(|_| !self.connected) {
            return anyhow!("{}: {trouble}", self.broker);
        }
        let so_far = match self.asker.has_begun() {
            true => "the answer broke off, and what was shown is not all: ",
            false => "",
        };
        if let Some(reason) = self.reason {
            let point = self.asker.point().to_string();
            return anyhow!("{so_far}{}", words::failed(reason, (&self.subject, &point)));
        }
        let key = self.key.public().to_base64();
        let refused: Vec<_> = self.refused.iter().map(|(k, n)| (k.clone(), *n)).collect();
        let silence = words::silence(&self.subject, &key, timeout.as_secs_f64(), &refused);
        anyhow!("{so_far}{silence}")
    }
}

/// 128 random bits.
fn random() -> anyhow::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random numbers: {error}"))?;
    Ok(u128::from_ne_bytes(bytes))
}
