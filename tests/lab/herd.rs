//! Several tiny virtual machines without a system: a real libvirtd, real QEMUs that run their BIOS, and
//! beside them broker, watcher and `vmkpi-host`. For what a hypervisor does, not for what a guest does.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use super::hypervisor::Hypervisor;
use super::{PATIENCE, require, start_host};
use crate::chain::{Broker, http_get, lines_of, start_watch, tail};
use crate::process::Process;
use crate::scratch::{Scratch, free_address};
use crate::wait_for;

/// What it takes, and in which Debian package it is.
const NEEDED: [(&str, &str); 5] = [
    ("/usr/sbin/libvirtd", "libvirt-daemon-system"),
    ("/usr/bin/virsh", "libvirt-clients"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/sbin/mosquitto", "mosquitto"),
];

const XML: &str = r#"<domain type='qemu'>
  <name>@NAME@</name>
  <metadata>
    <vmkpi:monitoring xmlns:vmkpi="https://vmkpi.org/xmlns/monitoring/v1" vm="@NAME@" primary_site="acme">
      <vmkpi:monitor id="infra" point="infra/*" interval_ms="@INTERVAL@"/>
    </vmkpi:monitoring>
  </metadata>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <iothreads>1</iothreads>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' error_policy='stop' rerror_policy='stop'/>
      <source file='@DISK@'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    @INTERFACE@
    <memballoon model='virtio'/>
  </devices>
</domain>
"#;

/// Whether the machine has taps; then the first VM has an interface.
pub fn has_taps() -> bool {
    std::path::Path::new("/dev/net/tun").exists()
}

/// An interface in a domain's XML, or nothing where there are no taps.
pub fn interface() -> &'static str {
    match has_taps() {
        true => "<interface type='ethernet'><model type='virtio'/></interface>",
        false => "",
    }
}

/// Running virtual machines called `vm0`, `vm1`, ...
pub struct Herd {
    /// The host daemon.
    pub host: Process,
    /// The broker.
    pub broker: Broker,
    metrics: SocketAddr,
    watch: Process,
    /// libvirtd.
    pub hypervisor: Hypervisor,
    // Last: the folder goes when nobody is in it any more.
    scratch: Scratch,
}

impl Herd {
    /// Starts `count` VMs and everything else. `None`: this machine has not what it takes, which was said.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start(count: usize, interval_ms: u64) -> Result<Option<Self>> {
        if !require(&NEEDED)? {
            return Ok(None);
        }
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        let hypervisor = Hypervisor::start(folder)?;
        let broker = Broker::start(folder)?;
        let watch = start_watch(folder, &broker)?;
        let metrics = free_address()?;
        for n in 0..count {
            let name = format!("vm{n}");
            let disk = folder.join(format!("{name}.disk"));
            std::fs::write(&disk, vec![0; 1 << 20])?;
            let xml = XML
                .replace("@NAME@", &name)
                .replace("@INTERVAL@", &interval_ms.to_string())
                .replace("@DISK@", &disk.display().to_string());
            let interface = if n == 0 { interface() } else { "" };
            let xml = xml.replace("@INTERFACE@", interface);
            let file = folder.join(format!("{name}.xml"));
            // Every other one without a balloon: libvirt then says less of its memory.
            let xml = match n % 2 {
                0 => xml,
                _ => xml.replace("model='virtio'/>\n  </dev", "model='none'/>\n  </dev"),
            };
            std::fs::write(&file, xml)?;
            hypervisor.virsh(&["create", &file.display().to_string()])?;
        }
        let host = start_host(folder, &hypervisor, &broker, metrics)?;
        Ok(Some(Self {
            host,
            broker,
            metrics,
            watch,
            hypervisor,
            scratch,
        }))
    }

    /// Kills the host daemon as kill -9 does.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill_host(&mut self) -> Result<()> {
        self.host.kill()
    }

    /// Starts the host daemon again on the same state.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_host(&mut self) -> Result<()> {
        let folder = self.scratch.path();
        self.host = start_host(folder, &self.hypervisor, &self.broker, self.metrics)?;
        Ok(())
    }

    /// Sends a signal to the QEMU of a VM.
    ///
    /// # Errors
    /// It is not there.
    pub fn signal(&self, vm: &str, signal: Signal) -> Result<()> {
        let pid = self.hypervisor.qemu(vm).context("no QEMU")?;
        Ok(kill_process(pid, signal)?)
    }

    /// The exporter's page.
    ///
    /// # Errors
    /// It does not answer.
    pub fn scrape(&self) -> Result<String> {
        http_get(self.metrics, "/metrics")
    }

    /// Waits until the exporter's page satisfies `enough`.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for_page(&self, what: &str, enough: impl Fn(&str) -> bool) -> Result<String> {
        let ready = || self.scrape().ok().filter(|page| enough(page));
        wait_for(PATIENCE, what, ready).with_context(|| self.words())
    }

    /// What the watcher has shown so far.
    ///
    /// # Errors
    /// A line is no JSON.
    pub fn lines(&self) -> Result<Vec<Value>> {
        lines_of(&self.watch.out)
    }

    /// Waits until the watcher's lines satisfy `enough`.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_for_lines(
        &self,
        what: &str,
        enough: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>> {
        let ready = || self.lines().ok().filter(|lines| enough(lines));
        wait_for(PATIENCE, what, ready).with_context(|| self.words())
    }

    /// The test's folder.
    pub fn folder(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// What everybody said, for a failed test.
    pub fn words(&self) -> String {
        let parts = [
            ("host", self.host.words()),
            ("libvirtd", self.hypervisor.words()),
        ];
        let parts = parts.map(|(name, words)| format!("--- {name}\n{}", tail(&words)));
        parts.join("\n")
    }
}

/// The value of a series of `vm` on the exporter's page.
pub fn series(page: &str, metric: &str, vm: &str) -> Option<f64> {
    let mut lines = page.lines();
    let begin = format!("{metric}{{domain=\"{vm}\",");
    let line = lines.find(|line| line.starts_with(&begin))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// How long ago a series of `vm` that is a time says.
pub fn age(page: &str, metric: &str, vm: &str) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let then = Duration::try_from_secs_f64(series(page, metric, vm)?).ok()?;
    Some(now.saturating_sub(then))
}
