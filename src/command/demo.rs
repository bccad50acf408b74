//! `vmkpi demo`: the whole chain on this machine, with the real three programs: an embedded broker,
//! a guest whose partition is mounted here, a host on libvirt's test driver, a small application that
//! writes KPIs, and `watch`. Whatever ends it, nothing is left: no mount, no process, no folder.
//!
//! ```text
//! find programs -> folder, keeper -> broker -> guest (mounted) -> watch listens -> host, application
//!                                       any failure, signal, or program that ends │
//!                          host, guest, broker stopped; unmounted; folder removed <┘
//! ```

mod application;
pub mod child;
mod children;
mod clear;
pub mod keeper;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use vmkpi::broker::{Broker, BrokerUrl};

use super::print::Console;
use super::stop::{Stop, parse_seconds};
use super::trust::Trust;
use super::watch::sparkline::Style;
use super::watch::{Select, View, Watch};
use super::{Format, Outcome, runtime};
use application::Application;
use children::Children;
use keeper::Keeper;

/// How long each part may take to come up.
const START: Duration = Duration::from_secs(15);

/// The domain of libvirt's test driver.
const DOMAIN: &str = "test";

/// What the demo monitors; see `schemas/descriptor.schema.json`.
const DESCRIPTOR: &str = r#"vm = "demo"
service = "shop"
primary_site = "home"

[[monitor]]            # every stored row of every file, at once
id = "every-row"
point = "unencrypted/*"

[[monitor]]            # what the owner usually looks at: the mean of each two seconds
id = "web-mean"
point = "unencrypted/web"
delivery = "2s"
format = "processed"
function = "mean"

[[monitor]]            # what the hypervisor says of the VM
id = "infra"
point = "infra/*"
interval = "1s"
"#;

/// How long, and in what form.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vmkpi demo
  vmkpi demo --seconds 10 --format json | jq -c .values

While it runs, write a value of your own into the partition; it appears at once.
Ctrl-C leaves nothing behind.")]
pub struct Args {
    /// End after so many seconds.
    #[arg(long, value_name = "N", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// A table for people, or one JSON object a line (and nothing else on standard output).
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// The three programs.
struct Programs {
    own: PathBuf,
    guest: PathBuf,
    host: PathBuf,
}

impl Programs {
    /// Those beside this one.
    fn find() -> Result<Self> {
        let own = std::env::current_exe().context("where is this program?")?;
        let beside = |name: &str| {
            let path = own.with_file_name(name);
            if path.is_file() {
                return Ok(path);
            }
            bail!(
                "{name} is not beside {}; build all three programs together: \
                 cargo build --release --workspace --features vmkpi/command (make demo does it)",
                own.display()
            )
        };
        Ok(Self {
            guest: beside("vmkpi-guest")?,
            host: beside("vmkpi-host")?,
            own: own.clone(),
        })
    }
}

/// Runs the command.
pub(super) fn run(args: &Args, console: &mut Console) -> Outcome {
    let programs = Programs::find()?;
    runtime()?.block_on(async {
        let mut stop = Stop::new(None)?;
        stop.with_parent();
        let mut keeper = Keeper::start(&programs.own)?;
        let mut children = Children::new(&programs.own, keeper.folder());
        let result = show(
            args,
            &programs,
            &mut keeper,
            &mut children,
            console,
            &mut stop,
        )
        .await;
        children.stop().await;
        let cleared = keeper.end();
        Ok(result.and(cleared)?)
    })
}

/// Brings the chain up and watches it until `stop` says so.
async fn show(
    args: &Args,
    programs: &Programs,
    keeper: &mut Keeper,
    children: &mut Children,
    console: &mut Console,
    stop: &mut Stop,
) -> Result<()> {
    let folder = keeper.folder().to_owned();
    let chain = tokio::select! {
        () = stop.wait() => return Ok(()),
        chain = bring_up(args.format, programs, &folder, keeper, children, console) => chain?,
    };
    chain.invite(args.format, console)?;
    let _application = Application::start(&chain.mount.join("unencrypted"))?;
    stop.after(args.seconds);
    tokio::select! {
        result = chain.watch.run(console, stop) => result,
        error = children.first_end() => Err(error),
    }
}

/// Where the parts of the running chain are.
struct Chain {
    broker: BrokerUrl,
    watch: Watch,
    mount: PathBuf,
    metrics: SocketAddr,
}

async fn bring_up(
    format: Format,
    programs: &Programs,
    folder: &Path,
    keeper: &mut Keeper,
    children: &mut Children,
    console: &mut Console,
) -> Result<Chain> {
    let broker = start_broker(programs, keeper, children).await?;
    let mount = start_guest(programs, folder, keeper, children).await?;
    // Before the host publishes its first message: what nobody subscribes to, a broker drops.
    let mut watch = Watch::start(
        Broker::anonymous(broker.clone()),
        Select::default(),
        Trust::of_nobody(),
        View::new(format, false, Style::of_environment()),
        None,
    )?;
    tokio::time::timeout(START, watch.listen(console))
        .await
        .context("the broker does not answer")??;
    let metrics = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let descriptor = folder.join("descriptor.toml");
    std::fs::write(&descriptor, DESCRIPTOR)?;
    let arguments = [
        "run".into(),
        "--libvirt.uri=test:///default".into(),
        format!("--broker={broker}"),
        format!("--web.listen-address={metrics}"),
        format!("--state={}", folder.join("host").display()),
        format!("--guest={DOMAIN}={}", link(folder)),
        format!("--descriptor={DOMAIN}={}", descriptor.display()),
    ];
    children.start(keeper, "vmkpi-host", &programs.host, &arguments)?;
    Ok(Chain {
        broker,
        watch,
        mount,
        metrics,
    })
}

fn link(folder: &Path) -> String {
    format!("unix:{}", folder.join("link").display())
}

async fn start_broker(
    programs: &Programs,
    keeper: &mut Keeper,
    children: &mut Children,
) -> Result<BrokerUrl> {
    let arguments = ["broker".into(), "--listen=127.0.0.1:0".into()];
    let log = children.start(keeper, "vmkpi broker", &programs.own, &arguments)?;
    children
        .wait_for(START, "the broker to listen", || {
            let text = std::fs::read_to_string(&log).ok()?;
            let (line, _) = text.split_once('\n')?;
            line.split(' ').find_map(|word| word.parse().ok())
        })
        .await
}

async fn start_guest(
    programs: &Programs,
    folder: &Path,
    keeper: &mut Keeper,
    children: &mut Children,
) -> Result<PathBuf> {
    let mount = folder.join("kpi");
    std::fs::create_dir(&mount)?;
    let arguments = [
        "run".into(),
        format!("--mount={}", mount.display()),
        format!("--state={}", folder.join("guest").display()),
        format!("--link={}", link(folder)),
    ];
    children.start(keeper, "vmkpi-guest", &programs.guest, &arguments)?;
    let inside = mount.join("unencrypted");
    children
        .wait_for(START, "the partition to be mounted", || {
            inside.is_dir().then_some(())
        })
        .await?;
    Ok(mount)
}

impl Chain {
    /// Says what there is to see and to try.
    fn invite(&self, format: Format, console: &mut Console) -> Result<()> {
        let mine = self.mount.join("unencrypted/mine");
        let lines = [
            format!("The KPI partition is mounted at {}", self.mount.display()),
            format!("Write a value of your own:  echo 42 > {}", mine.display()),
            format!(
                "Metrics for Prometheus:     http://{}/metrics",
                self.metrics
            ),
            format!(
                "Everything published:       vmkpi watch --broker {}",
                self.broker
            ),
            "Ctrl-C ends it and leaves nothing behind.".into(),
            String::new(),
        ];
        for line in &lines {
            match format {
                Format::Table => console.line(line)?,
                Format::Json if line.is_empty() => {}
                Format::Json => console.say(line),
            }
        }
        Ok(console.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::descriptor::{Descriptor, Spelling};

    #[test]
    fn the_demo_monitors_by_a_valid_descriptor() {
        let none = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let descriptor = Descriptor::parse(DESCRIPTOR, Spelling::Toml, &none).unwrap();
        assert_eq!(descriptor.monitors.len(), 3);
    }
}
