//! The programs under test, started as an operator does: watcher, guest daemon and host daemon.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::chain::Broker;
use crate::process::{Process, program};
use crate::wait_for;

/// Variables of a program's environment.
pub type Environment = [(String, String)];

/// Starts `vmkpi watch --format json --show-gaps` and waits until it listens.
///
/// # Errors
/// It does not start.
pub fn start_watch(folder: &Path, broker: &Broker) -> Result<Process> {
    let watch = begin_watch(folder, &broker.url())?;
    broker.wait_for_watcher()?;
    Ok(watch)
}

/// The same, without waiting.
///
/// # Errors
/// It does not start.
pub fn begin_watch(folder: &Path, broker: &str) -> Result<Process> {
    let arguments = [
        "watch",
        "--broker",
        broker,
        "--format",
        "json",
        "--show-gaps",
    ];
    Process::start(folder, "watch", &program("vmkpi")?, arguments)
}

/// The link of the guest in `folder`.
fn link(folder: &Path) -> String {
    format!("unix:{}", folder.join("link").display())
}

/// Starts the guest daemon of `folder`: mount `kpi`, state `guest`, socket `link`.
///
/// # Errors
/// The partition does not come.
pub fn start_guest(
    folder: &Path,
    further: &[String],
    environment: &Environment,
) -> Result<Process> {
    start_guest_of(&program("vmkpi-guest")?, folder, further, environment)
}

/// The same of this program, which may be of another version.
///
/// # Errors
/// The partition does not come.
pub fn start_guest_of(
    program: &Path,
    folder: &Path,
    further: &[String],
    environment: &Environment,
) -> Result<Process> {
    let mount = folder.join("kpi");
    let mut arguments = vec![
        "run".to_owned(),
        format!("--mount={}", mount.display()),
        format!("--state={}", folder.join("guest").display()),
        format!("--link={}", link(folder)),
    ];
    arguments.extend_from_slice(further);
    let guest = Process::start_in(folder, "guest", program, arguments, environment)?;
    wait_for(20, "the partition", || {
        mount.join("unencrypted").is_dir().then_some(())
    })
    .with_context(|| guest.words())?;
    Ok(guest)
}

/// Where a host daemon works and whom it serves.
pub struct HostPlace<'a> {
    /// Its state is `host` in here.
    pub folder: &'a Path,
    /// libvirt's URI.
    pub libvirt: String,
    /// The broker's URL.
    pub broker: String,
    /// Where its exporter listens.
    pub metrics: SocketAddr,
    /// Domains, and the folder of each with `link` and `descriptor.toml`.
    pub vms: Vec<(String, PathBuf)>,
    /// Further options.
    pub options: &'a [String],
    /// Its environment.
    pub environment: &'a Environment,
}

/// Starts a host daemon.
///
/// # Errors
/// Its exporter does not come.
pub fn start_host(place: &HostPlace<'_>) -> Result<Process> {
    start_host_of(&program("vmkpi-host")?, place)
}

/// The same of this program, which may be of another version.
///
/// # Errors
/// Its exporter does not come.
pub fn start_host_of(program: &Path, place: &HostPlace<'_>) -> Result<Process> {
    let mut arguments = vec![
        "run".to_owned(),
        format!("--libvirt.uri={}", place.libvirt),
        format!("--broker={}", place.broker),
        format!("--web.listen-address={}", place.metrics),
        format!("--state={}", place.folder.join("host").display()),
    ];
    for (domain, folder) in &place.vms {
        let descriptor = folder.join("descriptor.toml");
        arguments.push(format!("--guest={domain}={}", link(folder)));
        arguments.push(format!("--descriptor={domain}={}", descriptor.display()));
    }
    arguments.extend_from_slice(place.options);
    let host = Process::start_in(place.folder, "host", program, arguments, place.environment)?;
    let listens = || TcpStream::connect(place.metrics).ok();
    wait_for(15, "the exporter", listens).with_context(|| host.words())?;
    Ok(host)
}
