//! `vmkpi directory`: who delivers and who takes, as their leases say (docs/DIRECTORY.md). The Directory is what the
//! broker retains; that all of it has come is known by a message of our own that went after it and came back.
//!
//! ```text
//! Producers ──SUBACK──> echo ──back, and nothing retained came meanwhile──> Consumers ──> the same ──> shown
//!                        ^──── something came: once more ────┘
//! ```
//! Producers come first, as they say by which keys Consumers are known.
//!
//! | module | job |
//! | --- | --- |
//! | [`reader`] | entries from MQTT packets, for every command that looks at the Directory |
//! | [`show`] | an entry as a line of JSON or rows of a table |

pub(super) mod reader;
mod show;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::time::{Instant, MissedTickBehavior, interval};
use vmkpi::broker::Broker;
use vmkpi::broker::subscription::{Session, Step, Subscription};
use vmkpi::clock::Timestamp;
use vmkpi::directory::{Heard, Query, Side};
use vmkpi::name::{Label, PointPattern};
use vmkpi::topic::{Branch, echo};

use super::print::Console;
use super::stop::{Stop, parse_seconds};
use super::trust::{Trust, TrustArgs};
use super::{Format, Outcome, access, runtime};
use reader::Reader;
use show::Event;

/// How long our own message may take to come back; a broker whose ACL denies it never sends it.
const ECHO_WAIT: Duration = Duration::from_secs(3);
/// How often it is looked whose lease has expired.
const LOOK: Duration = Duration::from_millis(250);

/// What to look for.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vmkpi directory --broker mqtt://127.0.0.1
  vmkpi directory --broker mqtts://broker.acme.example --trust sites/ --vm shop --point 'unencrypted/*'
  vmkpi directory --broker mqtt://127.0.0.1 --follow --format json")]
pub struct Args {
    #[command(flatten)]
    broker: access::BrokerArgs,
    /// Only this primary site.
    #[arg(long, value_name = "SITE")]
    site: Option<Label>,
    /// Only this VM, and who takes of it.
    #[arg(long, value_name = "VM")]
    vm: Option<Label>,
    /// Only who delivers or takes this data point, or some that match: unencrypted/web, unencrypted/*, infra/*.
    #[arg(long, value_name = "POINT")]
    point: Option<PointPattern>,
    /// Producers: VMs that deliver. Without this and --consumers, both.
    #[arg(long)]
    producers: bool,
    /// Consumers: those who take what is delivered.
    #[arg(long)]
    consumers: bool,
    /// Go on, and show what changes.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// A table for people, or one JSON object a line.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// End after so many seconds.
    #[arg(long, value_name = "N", value_parser = parse_seconds)]
    seconds: Option<f64>,
}

/// Runs the command.
pub(super) fn run(args: Args, console: &mut Console) -> Outcome {
    let broker = args.broker.broker()?;
    let trust = args.trust.read(&broker)?;
    if let Some(warning) = broker.warning() {
        console.say(&format!("warning: {warning}"));
    }
    let both = args.producers == args.consumers;
    let sides = [
        (Side::Producer, args.producers || both),
        (Side::Consumer, args.consumers || both),
    ];
    let wanted = sides.into_iter().filter(|(_, wanted)| *wanted);
    let look = Look {
        sides: wanted.map(|(side, _)| side).collect(),
        query: Query {
            site: args.site,
            vm: args.vm,
            point: args.point,
        },
        format: args.format,
    };
    runtime()?.block_on(async {
        let mut stop = Stop::new(args.seconds)?;
        let mut finder = Finder::start(broker, look, &trust)?;
        let result = finder.run(args.follow, console, &mut stop).await;
        finder.reader.report(console);
        finder.subscription.end().await;
        Ok(result?)
    })
}

/// What is looked for, and how it is shown.
struct Look {
    sides: Vec<Side>,
    query: Query,
    format: Format,
}

struct Finder {
    broker: Broker,
    look: Look,
    reader: Reader,
    subscription: Subscription,
    echo: Echo,
    /// Whether changes are shown as they come: first everything has to be there.
    following: bool,
}

/// A message of our own, which the broker sends us after everything that it sent before.
struct Echo {
    topic: String,
    /// Which one is on its way.
    number: u64,
    /// A retained message came after it was sent.
    disturbed: bool,
    /// It did not come back once, which was said.
    missed: bool,
    /// Until when it is waited for, while it is.
    deadline: Option<Instant>,
}

impl Finder {
    fn start(broker: Broker, look: Look, trust: &Trust) -> anyhow::Result<Self> {
        let session = Session::random("vmkpi-directory")?;
        let topic = echo(session.id());
        let filters = filters(&look, &topic, &[Side::Producer]);
        Ok(Self {
            subscription: Subscription::start(broker.clone(), session, filters)?,
            broker,
            look,
            reader: Reader::new(trust),
            echo: Echo {
                topic,
                number: 0,
                disturbed: false,
                missed: false,
                deadline: None,
            },
            following: false,
        })
    }

    async fn run(
        &mut self,
        follow: bool,
        console: &mut Console,
        stop: &mut Stop,
    ) -> anyhow::Result<()> {
        let mut all = self.gather(console, stop).await?;
        if all && self.look.sides.contains(&Side::Consumer) {
            let both = filters(
                &self.look,
                &self.echo.topic,
                &[Side::Producer, Side::Consumer],
            );
            self.subscription.want(both);
            all = self.gather(console, stop).await?;
        }
        if !all && !follow {
            // Who ended it has not waited for the rest.
            return Ok(());
        }
        self.show_all(console)?;
        if follow {
            self.follow(console, stop).await?;
        }
        Ok(())
    }

    /// Waits until everything that the broker retains has come. Whether nobody ended it before.
    async fn gather(&mut self, console: &mut Console, stop: &mut Stop) -> anyhow::Result<bool> {
        loop {
            let late = async {
                match self.echo.deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.wait() => return Ok(false),
                () = late => {
                    self.echo.deadline = None;
                    if std::mem::replace(&mut self.echo.missed, true) {
                        return Ok(true);
                    }
                    let topic = &self.echo.topic;
                    console.say(&format!(
                        "{}: our own message on {topic} did not come back; its ACL should let us write and read there. \
                         What has come within {} s is shown, which may not be all",
                        self.broker, ECHO_WAIT.as_secs()
                    ));
                    return Ok(true);
                }
                step = self.subscription.step() => if self.take(step, console)? {
                    return Ok(true);
                },
            }
        }
    }

    /// Takes a step. Whether it is our message that came back, and nothing retained came while it was away.
    fn take(&mut self, step: Option<Step>, console: &mut Console) -> anyhow::Result<bool> {
        match step.context("the subscription has ended")? {
            Step::Message(publish) if publish.topic == self.echo.topic.as_bytes() => {
                let ours = publish.payload == self.echo.number.to_string().as_bytes();
                if ours && !self.following {
                    let whole = !self.echo.disturbed;
                    match whole {
                        true => self.echo.deadline = None,
                        false => self.send_echo(),
                    }
                    return Ok(whole);
                }
            }
            Step::Message(publish) => {
                self.echo.disturbed |= publish.retain;
                let heard = self.reader.take(&publish, Timestamp::now(), console);
                if let Some((topic, heard)) = heard.filter(|_| self.following) {
                    self.show_change(&topic, heard, console)?;
                }
            }
            Step::Listening if !self.following => self.send_echo(),
            Step::Listening => {}
            Step::Denied(filter) => return Err(super::watch::denied(&self.broker, &filter)),
            Step::Notice(text) => console.say(&format!("{}: {text}", self.broker)),
            Step::Lost(reason) if self.following => {
                console.say(&format!("{}: {reason}; trying again", self.broker));
            }
            Step::Lost(reason) => return Err(anyhow!("{}: {reason}", self.broker)),
        }
        Ok(false)
    }

    fn send_echo(&mut self) {
        let echo = &mut self.echo;
        (echo.number, echo.disturbed) = (echo.number + 1, false);
        echo.deadline
            .get_or_insert_with(|| Instant::now() + ECHO_WAIT);
        let text = echo.number.to_string().into_bytes();
        // One that cannot be queued does not come back, which is said.
        self.subscription.publish(&echo.topic, text);
    }

    fn show_all(&self, console: &mut Console) -> anyhow::Result<()> {
        let (now, look) = (Timestamp::now(), &self.look);
        let mut any = false;
        for side in &look.sides {
            let found: Vec<_> = self
                .reader
                .directory
                .find(*side, &look.query, now)
                .collect();
            any |= !found.is_empty();
            show::all(*side, &found, look, now, console)?;
        }
        if !any {
            console.say("nobody is found; leases that have expired are left out");
        }
        Ok(console.flush()?)
    }

    /// Shows what changes, until `stop` says so.
    async fn follow(&mut self, console: &mut Console, stop: &mut Stop) -> anyhow::Result<()> {
        self.following = true;
        // Who had expired before is nobody who expires.
        self.reader.directory.lapsed(Timestamp::now());
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.wait() => return Ok(()),
                _ = look.tick() => {
                    let now = Timestamp::now();
                    for lease in self.reader.directory.lapsed(now) {
                        show::change(Event::Expired, &lease, &self.look, now, console)?;
                    }
                    console.flush()?;
                }
                step = self.subscription.step() => {
                    self.take(step, console)?;
                }
            }
        }
    }

    fn show_change(&self, topic: &str, heard: Heard, console: &mut Console) -> anyhow::Result<()> {
        let event = match heard {
            Heard::New => Event::Found,
            Heard::Changed => Event::Changed,
            Heard::Left => Event::Left,
            Heard::Renewed | Heard::Expired | Heard::Repeated => return Ok(()),
        };
        if let Some(lease) = self.reader.directory.lease(topic) {
            show::change(event, lease, &self.look, Timestamp::now(), console)?;
            console.flush()?;
        }
        Ok(())
    }
}

fn filters(look: &Look, echo: &str, sides: &[Side]) -> BTreeSet<String> {
    let site = look.query.site.as_ref();
    let filters = sides.iter().map(|side| side.branch().filter(site));
    filters.chain([echo.to_owned()]).collect()
}

/// The filter of the Producers of a site and a VM; `None` stands for all of them.
pub(super) fn producers(site: Option<&Label>, vm: Option<&Label>) -> String {
    let all = Branch::Producers.filter(site);
    match vm {
        None => all,
        Some(vm) => {
            let below = all.trim_end_matches('#');
            format!("{below}{}", vmkpi::name::topic_level(vm.as_str()))
        }
    }
}
