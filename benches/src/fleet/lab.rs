//! What a fleet runs on: a mosquitto, a `vmkpi-host` over libvirt's test driver, and a real `vmkpi-guest` among
//! the simulated ones; started on free ports in a folder of their own, and stopped in the end.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vmkpi::descriptor::METADATA_NAMESPACE;

use super::guests::{POINTS, socket};

/// How long anything may take to come up or to end.
const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !condition() {
        if begin.elapsed() > DEADLINE {
            bail!("never: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// An address that nobody listens on.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A program that is told to end when it goes.
pub struct Program(Child);

impl Program {
    /// Starts it; what it says goes to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(child))
    }

    /// Processor time used so far, in seconds (fields 14 and 15 of /proc/PID/stat; 100 ticks a second).
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
        let (user, system) = (ticks(12), ticks(13));
        Ok((user.context("stat")? + system.context("stat")?) / 100.0)
    }

    /// Resident memory now and at its peak, in bytes.
    pub fn memory(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let field = |name: &str| {
            let line = status.lines().find(|l| l.starts_with(name));
            line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok())
        };
        let (now, peak) = (field("VmRSS:"), field("VmHWM:"));
        Ok((
            1024.0 * now.context("VmRSS")?,
            1024.0 * peak.context("VmHWM")?,
        ))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) && matches!(self.0.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mosquitto that listens on a port of its own.
pub fn start_broker(dir: &Path) -> Result<(Program, SocketAddr)> {
    let address = free_address()?;
    let config = dir.join("mosquitto.conf");
    let text = format!(
        "listener {} {}\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\n\
         max_inflight_messages 0\n",
        address.port(),
        address.ip()
    );
    fs::write(&config, text)?;
    // Debian installs it where only root's PATH looks.
    let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"];
    let found = program.iter().find(|path| Path::new(path).is_file());
    let mut command = Command::new(found.context("mosquitto is not installed")?);
    command.arg("-c").arg(config);
    let broker = Program::start(command, &dir.join("mosquitto.log"))?;
    until("mosquitto listens", || TcpStream::connect(address).is_ok())?;
    Ok((broker, address))
}

/// Starts `vmkpi-host` on the processors `cpus`, with as many running domains of libvirt's test driver as there
/// are VMs.
pub fn start_host(
    host: &Path,
    dir: &Path,
    vms: usize,
    broker: SocketAddr,
    cpus: &str,
) -> Result<(Program, SocketAddr)> {
    let node = dir.join("node.xml");
    fs::write(&node, node_xml(dir, vms))?;
    let metrics = free_address()?;
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", cpus]).arg(host).arg("run");
    command.arg(format!("--libvirt.uri=test://{}", node.display()));
    command.arg(format!("--broker=mqtt://{broker}"));
    command.arg(format!("--web.listen-address={metrics}"));
    command.arg(format!("--state={}", dir.join("host").display()));
    let daemon = Program::start(command, &dir.join("host.log"))?;
    until("the exporter listens", || {
        TcpStream::connect(metrics).is_ok()
    })?;
    Ok((daemon, metrics))
}

/// libvirt's test driver reads its domains from a file: each with a link and a descriptor.
fn node_xml(dir: &Path, vms: usize) -> String {
    let mut xml = String::from("<node>\n");
    for vm in 0..vms {
        let _ = writeln!(
            xml,
            "<domain type='test'><name>vm-{vm}</name><uuid>6695eb01-f6a4-8304-79aa-{vm:012x}</uuid>\
             <memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os><metadata>{}</metadata>\
             <devices><channel type='unix'><source mode='bind' path='{}'/>\
             <target type='virtio' name='org.vmkpi.kpi.0'/></channel></devices></domain>",
            descriptor(vm),
            socket(dir, vm).display(),
        );
    }
    xml + "</node>\n"
}

/// Raw rows at once and once a second, and infrastructure measurements as a descriptor has them by default.
fn descriptor(vm: usize) -> String {
    format!(
        "<vmkpi:monitoring xmlns:vmkpi='{METADATA_NAMESPACE}' vm='vm-{vm}' primary_site='bench'>\
         <vmkpi:monitor id='now' point='{}'/>\
         <vmkpi:monitor id='batched' point='{}' delivery_ms='1000'/>\
         <vmkpi:monitor id='infra' point='infra/*' interval_ms='10000' delivery_ms='10000'/>\
         </vmkpi:monitoring>",
        POINTS[0], POINTS[1]
    )
}

/// Starts a real guest whose link is the VM's, and waits for its partition.
pub fn start_guest(guest: &Path, dir: &Path, vm: usize) -> Result<(Program, PathBuf)> {
    let mount = dir.join("kpi");
    fs::create_dir_all(&mount)?;
    let mut command = Command::new(guest);
    command.arg("run").arg("--mount").arg(&mount);
    command.arg("--state").arg(dir.join("guest"));
    command.arg("--link");
    command.arg(format!("unix:{}", socket(dir, vm).display()));
    let daemon = Program::start(command, &dir.join("guest.log"))?;
    let directory = mount.join("unencrypted");
    until("the partition is mounted", || directory.is_dir())?;
    Ok((daemon, directory))
}

/// Scrapes `/metrics` once: how long it took, and the page.
pub fn scrape(address: SocketAddr) -> Result<(Duration, String)> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok((begin.elapsed(), page))
}
