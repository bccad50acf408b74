//! `vmkpi watch`: shows what arrives at a primary site, each row once, to people or to programs. An
//! unnamed Consumer: it confirms nothing, and begins at its first message.
//!
//! | module | job |
//! | --- | --- |
//! | [`intake`] | from a packet to a valid message, or why not |
//! | [`cursor`] | what of it is new |
//! | [`join`] | windows of KPIs and of infrastructure side by side |
//! | [`sparkline`] | the last values of a column as a line of characters |
//! | [`view`] | shows it: JSON lines, plain lines, a table |

mod cursor;
pub(super) mod intake;
mod join;
pub(super) mod lines;
pub(super) mod sparkline;
pub(super) mod table;
pub(super) mod text;
mod view;

use std::time::Duration;

use anyhow::{Context as _, anyhow};

use vmkpi::broker::Broker;
use vmkpi::broker::subscription::{Session, Step, Subscription};
use vmkpi::clock::Timestamp;
use vmkpi::directory::{Heard, Query};
use vmkpi::message::data_filter;
use vmkpi::name::{Label, PointPattern};

use super::access;
use super::directory::producers;
use super::directory::reader::Reader;
use super::print::Console;
use super::stop::{Stop, parse_seconds};
use super::trust::{Trust, TrustArgs};
use super::{Format, Outcome, runtime};
use cursor::{Cursors, Verdict};
use intake::Intake;
use sparkline::Style;
pub(super) use view::View;

/// How often a table is drawn anew.
const REDRAW: Duration = Duration::from_millis(250);

/// The most filters of what was found; beyond, everything of the site and VM is subscribed to.
const MAX_FOUND: usize = 5000;

/// What to show, and how long.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vmkpi watch --broker mqtt://127.0.0.1
  vmkpi watch --broker mqtts://broker.acme.example --broker.credentials-file login.toml --trust sites/ --key seal.key.pem
  vmkpi watch --broker mqtt://127.0.0.1 --lookup --point 'unencrypted/*'
  vmkpi watch --broker mqtt://127.0.0.1 --format json --count 10 | jq .values")]
pub struct Args {
    #[command(flatten)]
    broker: access::BrokerArgs,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    trust: TrustArgs,
    /// A table for people, or one JSON object a line.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Look the data points up in the Directory, and subscribe to what is found alone, as it changes.
    #[arg(long)]
    lookup: bool,
    /// Show ranges that never came on standard output: {"missing":{"after","through"}}.
    #[arg(long)]
    show_gaps: bool,
    /// Show no sparklines of recent values in the table. They are block characters where the locale is UTF-8, else ASCII.
    #[arg(long)]
    no_sparklines: bool,
    /// End after so many seconds.
    #[arg(long, value_name = "N", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// End after so many samples, results and gaps.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Which messages are wanted.
#[derive(clap::Args, Clone, Default)]
pub(super) struct Select {
    /// Only this primary site.
    #[arg(long, value_name = "SITE")]
    site: Option<Label>,
    /// Only this VM, by its name in the descriptor.
    #[arg(long, value_name = "VM")]
    vm: Option<Label>,
    /// Only this data point, or those that match: unencrypted/web, unencrypted/*, infra/*.
    #[arg(long, value_name = "POINT")]
    point: Option<PointPattern>,
}

/// Runs the command.
pub(super) fn run(args: Args, console: &mut Console) -> Outcome {
    let broker = args.broker.broker()?;
    let trust = args.trust.read(&broker)?;
    if let Some(warning) = broker.warning() {
        console.say(&format!("warning: {warning}"));
    }
    runtime()?.block_on(async {
        let mut stop = Stop::new(args.seconds)?;
        let style = match args.no_sparklines {
            true => Style::None,
            false => Style::of_environment(),
        };
        let view = View::new(args.format, args.show_gaps, style);
        let mut watch = Watch::start(broker, args.select, trust, view, args.count)?;
        if args.lookup {
            watch.look_up();
        }
        Ok(watch.run(console, &mut stop).await?)
    })
}

/// A running watch.
pub(super) struct Watch {
    broker: Broker,
    subscription: Subscription,
    intake: Intake,
    /// Who delivers; and what of that is asked for.
    reader: Reader,
    query: Query,
    /// Whether only what is found there is subscribed to.
    lookup: bool,
    cursors: Cursors,
    view: View,
    left: Option<u64>,
    diverged: bool,
    /// Why nothing comes, as said last; and whether anything ever could.
    trouble: Option<String>,
    connected: bool,
}

impl Watch {
    /// Begins to subscribe to what `broker` has.
    pub(super) fn start(
        broker: Broker,
        select: Select,
        trust: Trust,
        view: View,
        count: Option<u64>,
    ) -> anyhow::Result<Self> {
        let (site, vm) = (select.site.as_ref(), select.vm.as_ref());
        let filters = [data_filter(site, vm), producers(site, vm)];
        Ok(Self {
            subscription: Subscription::start(
                broker.clone(),
                Session::random("vmkpi-watch")?,
                filters.into(),
            )?,
            broker,
            reader: Reader::new(&trust),
            lookup: false,
            query: Query {
                site: select.site,
                vm: select.vm,
                point: select.point.clone(),
            },
            intake: Intake::new(select.point, trust),
            cursors: Cursors::default(),
            view,
            left: count,
            diverged: false,
            trouble: None,
            connected: false,
        })
    }

    /// From now on only what is found in the Directory is subscribed to.
    fn look_up(&mut self) {
        self.lookup = true;
        self.want_found();
    }

    /// Subscribes to what is found now.
    fn want_found(&mut self) {
        let (site, vm) = (self.query.site.as_ref(), self.query.vm.as_ref());
        let mut filters = self.reader.directory.filters(&self.query, Timestamp::now());
        if filters.len() > MAX_FOUND {
            // Beyond, one filter costs the broker less than all of them.
            filters = [data_filter(site, vm)].into();
        }
        filters.insert(producers(site, vm));
        self.subscription.want(filters);
    }

    /// Who delivers has changed.
    fn take_entry(&mut self, publish: &rumqttc::Publish, console: &mut Console) {
        let heard = self.reader.take(publish, Timestamp::now(), console);
        let changed = matches!(heard, Some((_, Heard::New | Heard::Changed | Heard::Left)));
        if changed && self.lookup {
            self.want_found();
        }
    }

    /// Waits until the subscription stands: what is published from then on is not missed.
    pub(super) async fn listen(&mut self, console: &mut Console) -> anyhow::Result<()> {
        while !self.connected {
            let step = self.subscription.step().await;
            self.take(step, console)?;
        }
        Ok(())
    }

    /// Shows what comes until `stop` says so or enough was shown, then ends the session.
    pub(super) async fn run(
        mut self,
        console: &mut Console,
        stop: &mut Stop,
    ) -> anyhow::Result<()> {
        let mut redraw = tokio::time::interval(REDRAW);
        redraw.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let result = loop {
            tokio::select! {
                () = stop.wait() => break self.at_the_end(),
                _ = redraw.tick() => {
                    if self.reader.say_lapsed(&self.query, Timestamp::now(), console) && self.lookup {
                        self.want_found();
                    }
                    if let Err(error) = self.view.redraw(console) {
                        break Err(error.into());
                    }
                }
                step = self.subscription.step() => match self.take(step, console) {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                },
            }
        };
        let result = result.and_then(|()| Ok(self.view.redraw(console)?));
        self.intake.report(console);
        self.reader.report(console);
        self.subscription.end().await;
        result
    }

    /// Whether there is more to wait for.
    fn take(&mut self, step: Option<Step>, console: &mut Console) -> anyhow::Result<bool> {
        match step.context("the subscription has ended")? {
            Step::Message(publish) if Reader::is_entry(&publish) => {
                self.take_entry(&publish, console);
                Ok(true)
            }
            Step::Message(publish) => self.take_message(&publish, console),
            Step::Listening => {
                if self.trouble.take().is_some() {
                    console.say(&format!("connected to {}", self.broker));
                }
                self.connected = true;
                Ok(true)
            }
            Step::Denied(filter) if Reader::is_filter(&filter) && !self.lookup => {
                console.say(&format!("{}: the broker does not let us read {filter}: whose lease expires is not shown", self.broker));
                Ok(true)
            }
            Step::Denied(filter) => Err(denied(&self.broker, &filter)),
            Step::Notice(text) => {
                console.say(&format!("{}: {text}", self.broker));
                Ok(true)
            }
            Step::Lost(reason) => {
                if reason.kind.needs_somebody() && !self.connected {
                    return Err(anyhow!("{}: {reason}", self.broker));
                }
                let reason = reason.message;
                // Said once for each trouble, not for each attempt.
                if self.trouble.is_none() {
                    console.say(&format!("{}: {reason}; trying again", self.broker));
                }
                self.trouble = Some(reason);
                Ok(true)
            }
        }
    }

    fn take_message(
        &mut self,
        publish: &rumqttc::Publish,
        console: &mut Console,
    ) -> anyhow::Result<bool> {
        let Some(event) = self.intake.read(publish, console) else {
            return Ok(true);
        };
        match self.cursors.accept(event) {
            Verdict::Repetition => {}
            Verdict::Diverged => {
                if !std::mem::replace(&mut self.diverged, true) {
                    console.say("a guest's store went back in time; its new stream is awaited");
                }
            }
            Verdict::New { missing, event } => {
                if let Some(missing) = missing {
                    self.view.missing(&event, missing, console)?;
                }
                return self.show(&event, console);
            }
        }
        Ok(true)
    }

    fn show(
        &mut self,
        event: &vmkpi::message::Event,
        console: &mut Console,
    ) -> anyhow::Result<bool> {
        let limit = self.left.unwrap_or(u64::MAX);
        let shown = self.view.show(event, limit, console)?;
        if let Some(left) = &mut self.left {
            *left -= shown;
        }
        Ok(self.left != Some(0))
    }

    fn at_the_end(&self) -> anyhow::Result<()> {
        match &self.trouble {
            Some(reason) if !self.connected => Err(anyhow!("{}: {reason}", self.broker)),
            _ => Ok(()),
        }
    }
}

/// What to say where the broker does not let us read.
pub(super) fn denied(broker: &Broker, filter: &str) -> anyhow::Error {
    anyhow!(
        "{broker}: the broker refuses the subscription {filter:?}; its ACL must allow reading that"
    )
}
