//! `make lab`: two hosts with a running guest that migrates between them, and a shell to try things in (docs/LAB.md).
//! Everything ends with the shell, or when this program is killed.
#![expect(clippy::print_stdout, reason = "shows what the guest says")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use vmkpi_tests::lab::contexts::{self, CACHE_HOOK, CACHE_HOOK_FILE};
use vmkpi_tests::lab::host::{End, METRICS};
use vmkpi_tests::lab::judge::MONITORS;
use vmkpi_tests::lab::pair::{BROKER, Pair, Planned};
use vmkpi_tests::lab::traveller::{Plan, Traveller};

/// The variable in which the shell is told where the laboratory lies.
const FOLDER: &str = "LAB";

const USAGE: &str = "usage: vmkpi-lab          start the laboratory and a shell in it\n       \
                     vmkpi-lab guest SCRIPT   in that shell: run a script in the guest\n       \
                     vmkpi-lab console        in that shell: what the guest says";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] => start(),
        ["guest", ..] if words.len() > 1 => guest(&words[1..].join(" ")),
        ["console"] => {
            print!("{}", Traveller::of(&folder()?).console());
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}

fn folder() -> Result<PathBuf> {
    let folder = std::env::var_os(FOLDER).context("this is for the shell of `make lab`")?;
    Ok(folder.into())
}

fn guest(script: &str) -> Result<ExitCode> {
    let (status, said) = Traveller::of(&folder()?).attempt(script)?;
    print!("{said}");
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

fn start() -> Result<ExitCode> {
    eprintln!("starting two hosts and a guest ...");
    let Some(pair) = Pair::start(plan)? else {
        bail!("there can be no laboratory here, see above");
    };
    let status = shell(&pair)?;
    eprintln!("ending the hosts and the guest ...");
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

/// Ten rows a second, and at each host another cache in the context.
fn plan(folder: &Path) -> Result<Planned> {
    let daemons = contexts::offer_caches(folder)?;
    let plan = Plan {
        rate: 10,
        settings: contexts::GUEST.into(),
        files: vec![(CACHE_HOOK_FILE.into(), CACHE_HOOK.into(), 0o755)],
        monitors: MONITORS.into(),
    };
    Ok((plan, daemons))
}

/// Runs the user's shell at the site until it ends; its status.
fn shell(pair: &Pair) -> Result<i32> {
    let program = std::env::current_exe()?;
    let programs = program.parent().context("a folder")?.display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    eprint!("{}", hints(pair));
    // Hung up on if this program is killed: a shell ignores SIGTERM.
    let network = format!("--net={}", pair.site().namespace("net").display());
    let mut command = Command::new("/usr/bin/setpriv");
    command
        .args(["--pdeathsig", "HUP", "nsenter", &network])
        .arg(shell);
    command.env("PATH", path).env(FOLDER, pair.folder());
    command.env("BROKER", format!("mqtt://{BROKER}"));
    for (end, name) in End::BOTH.into_iter().zip(["A", "B"]) {
        command.env(name, pair.host(end).hypervisor.uri());
        let metrics = format!("http://{}:{METRICS}/metrics", end.address());
        command.env(format!("METRICS_{name}"), metrics);
    }
    let status = command.stdin(Stdio::inherit()).status()?;
    Ok(status.code().unwrap_or(1))
}

fn hints(pair: &Pair) -> String {
    let folder = pair.folder().display();
    format!(
        r#"
Two hosts, A and B (virsh URIs), and a guest `lab`, which runs at A and stores ten rows a second. This shell is at the
site that the rows belong to.

  virsh -c $A list                                             where the guest is; `virsh -c $B list`
  virsh -c $A migrate --live --unsafe lab $B                   migrate it to B; and back: -c $B ... $A
  vmkpi watch --broker $BROKER --insecure --point 'unencrypted/*'   see the rows come, wherever it is
  vmkpi collect status --db {folder}/site/collect.db
  curl -s $METRICS_A | grep -e recontext -e vmkpi_kpi          the host daemon's figures; $METRICS_B
  vmkpi-lab guest 'cat /context/cache/address'                 what the guest is told; any script runs there
  vmkpi-lab guest 'vmkpi-guest status --state /var/vmkpi'
  vmkpi-lab console                                            what the guest says on its console
  less {folder}/one/host.err                                   what the host daemons say; .../two/host.err
  ls {folder}/one/context/infrastructure                       what A tells its guests; change it and look again

Everything ends with this shell.
"#
    )
}
