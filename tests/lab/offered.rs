//! A host that offers contexts to tiny virtual machines: a real libvirtd, real QEMUs that run their BIOS with CD-ROM
//! drives, and `vmkpi-host`. What is in a drive is read from the live XML, and its files from the image.

use std::collections::BTreeMap;
use std::fs::{Permissions, set_permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;
use vmkpi::iso9660;

use super::hypervisor::Hypervisor;
use super::{PATIENCE, require};
use crate::chain::{http_get, tail};
use crate::process::{Process, program};
use crate::scratch::{Scratch, free_address};
use crate::wait_for;

/// What it takes, and in which Debian package it is.
const NEEDED: [(&str, &str); 4] = [
    ("/usr/sbin/libvirtd", "libvirt-daemon-system"),
    ("/usr/bin/virsh", "libvirt-clients"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/unshare", "util-linux"),
];

const XML: &str = r#"<domain type='qemu'>
  <name>@NAME@</name>
  @METADATA@
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='usb' model='none'/>
    @DEVICES@
    <memballoon model='none'/>
  </devices>
</domain>
"#;

const METADATA: &str = r#"<metadata>
    <vmkpi:monitoring xmlns:vmkpi="https://vmkpi.org/xmlns/monitoring/v1" vm="@NAME@-of-acme" primary_site="acme"/>
  </metadata>"#;

/// The controller that SCSI drives hang on.
pub const SCSI: &str = "<controller type='scsi' index='0' model='virtio-scsi'/>";

/// A drive on it.
pub fn cdrom(target: &str, serial: &str, medium: Option<&Path>) -> String {
    let source = medium.map(|medium| format!("<source file='{}'/>", medium.display()));
    let serial = match serial {
        "" => String::new(),
        serial => format!("<serial>{serial}</serial>"),
    };
    format!(
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>{}\
         <target dev='{target}' bus='scsi'/><readonly/>{serial}</disk>",
        source.unwrap_or_default()
    )
}

/// A host that offers contexts.
pub struct Offering {
    /// The host daemon.
    pub host: Process,
    /// libvirtd.
    pub hypervisor: Hypervisor,
    metrics: SocketAddr,
    further: Vec<String>,
    // Last: the folder goes when nobody is in it any more.
    scratch: Scratch,
}

impl Offering {
    /// Starts libvirtd and the host daemon, with these files in the folder of contexts. `None`: this machine has not what it takes,
    /// which was said.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start(files: &[(&str, &str)], further: &[&str]) -> Result<Option<Self>> {
        if !require(&NEEDED)? {
            return Ok(None);
        }
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        let contexts = folder.join("contexts");
        std::fs::create_dir(&contexts)?;
        set_permissions(&contexts, Permissions::from_mode(0o755))?;
        for (path, text) in files {
            put(&contexts, path, text)?;
        }
        let hypervisor = Hypervisor::start(folder)?;
        let metrics = free_address()?;
        let further: Vec<String> = further.iter().map(ToString::to_string).collect();
        let host = start_host(folder, &hypervisor, metrics, &further)?;
        Ok(Some(Self {
            host,
            hypervisor,
            metrics,
            further,
            scratch,
        }))
    }

    /// Writes a file into the folder of contexts as an editor does: whole.
    ///
    /// # Errors
    /// It cannot.
    pub fn put(&self, path: &str, text: &str) -> Result<()> {
        put(&self.scratch.path().join("contexts"), path, text)
    }

    /// Removes a class from the folder of contexts.
    ///
    /// # Errors
    /// It cannot.
    pub fn remove_class(&self, class: &str) -> Result<()> {
        let folder = self.scratch.path().join("contexts").join(class);
        Ok(std::fs::remove_dir_all(folder)?)
    }

    /// Boots a VM with these devices; with a descriptor that calls it NAME-of-acme, or none.
    ///
    /// # Errors
    /// libvirt refuses.
    pub fn boot(&self, name: &str, devices: &str, described: bool) -> Result<()> {
        let metadata = if described { METADATA } else { "" };
        let xml = XML.replace("@METADATA@", metadata).replace("@NAME@", name);
        let xml = xml.replace("@DEVICES@", devices);
        let file = self.scratch.path().join(format!("{name}.xml"));
        std::fs::write(&file, xml)?;
        let file = file.display().to_string();
        self.hypervisor.virsh(&["create", &file]).map(drop)
    }

    /// What is in each CD-ROM and disk of a VM, by its live XML.
    ///
    /// # Errors
    /// It does not run.
    pub fn media(&self, vm: &str) -> Result<BTreeMap<String, Option<PathBuf>>> {
        let list = self.hypervisor.virsh(&["domblklist", vm])?;
        let lines = list.lines().filter_map(|line| line.trim().split_once(' '));
        let medium = |text: &str| Some(text.trim()).filter(|t| *t != "-").map(PathBuf::from);
        Ok(lines
            .map(|(target, source)| (target.to_owned(), medium(source)))
            .collect())
    }

    /// The files of the context in a VM's drive, if it is one of ours, whole and labelled as it should be.
    pub fn files(&self, vm: &str, target: &str, class: &str) -> Option<BTreeMap<String, String>> {
        let image = self.media(vm).ok()?.get(target)?.clone()?;
        if image.parent()? != self.images() {
            return None;
        }
        let (file, bytes) = (
            std::fs::File::open(&image).ok()?,
            std::fs::read(&image).ok()?,
        );
        let index = iso9660::read(&file, iso9660::Limits::default()).ok()?;
        (index.label == format!("VMKPI_{}", class.to_uppercase())).then_some(())?;
        let text = |(path, (offset, length)): (String, (u64, u64))| {
            let (from, to) = (
                usize::try_from(offset).ok()?,
                usize::try_from(offset + length).ok()?,
            );
            let text = String::from_utf8_lossy(bytes.get(from..to)?).into_owned();
            Some((path, text))
        };
        index.files.into_iter().map(text).collect()
    }

    /// Waits until a file of the context in a VM's drive has this text.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for_file(
        &self,
        (vm, target, class): (&str, &str, &str),
        path: &str,
        text: &str,
    ) -> Result<()> {
        let what = format!("{path} of {vm} in {target} to be {text:?}");
        let ready = || {
            let files = self.files(vm, target, class)?;
            (files.get(path).map(String::as_str) == Some(text)).then_some(())
        };
        wait_for(PATIENCE, &what, ready).with_context(|| self.words())
    }

    /// Where the images are.
    pub fn images(&self) -> PathBuf {
        self.scratch.path().join("host/context")
    }

    /// How many there are.
    pub fn count_images(&self) -> usize {
        std::fs::read_dir(self.images()).map_or(0, Iterator::count)
    }

    /// Waits until there are so many images.
    ///
    /// # Errors
    /// There are not.
    pub fn wait_for_images(&self, count: usize) -> Result<()> {
        let what = format!("{count} images");
        wait_for(PATIENCE, &what, || {
            (self.count_images() == count).then_some(())
        })
        .with_context(|| self.words())
    }

    /// Runs `vmkpi-host recontextualize --format json` with these arguments: its status and what it said.
    ///
    /// # Errors
    /// It cannot be run, or its answer is none.
    pub fn recontextualize(&self, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
        let command = ["recontextualize", "--format=json"];
        let output = self.command(&[&command, arguments].concat())?;
        let said: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok((output.status.code(), said))
    }

    /// The same, until all is as it should be, and what was said then: a BIOS that looks for something to boot may
    /// have the tray for a while.
    ///
    /// # Errors
    /// It never is.
    pub fn recontextualize_well(&self, arguments: &[&str]) -> Result<Value> {
        let done = || {
            let (code, said) = self.recontextualize(arguments).ok()?;
            (code == Some(0)).then_some(said)
        };
        wait_for(PATIENCE, "contexts as they should be", done).with_context(|| self.words())
    }

    /// What `vmkpi-host status --format json` says.
    ///
    /// # Errors
    /// It says nothing.
    pub fn status(&self) -> Result<Value> {
        let output = self.command(&["status", "--format=json"])?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Waits until the problem that status shows of a VM's class satisfies `enough`.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for_problem(
        &self,
        vm: &str,
        class: &str,
        enough: impl Fn(Option<&str>) -> bool,
    ) -> Result<()> {
        let ready = || {
            let status = self.status().ok()?;
            let vm = status["vms"]
                .as_array()?
                .iter()
                .find(|v| v["domain"] == vm)?
                .clone();
            enough(vm["context"].get(class)?["problem"].as_str()).then_some(())
        };
        wait_for(PATIENCE, "what status says of a context", ready).with_context(|| self.words())
    }

    fn command(&self, arguments: &[&str]) -> Result<Output> {
        let state = self.scratch.path().join("host");
        let state = format!("--state={}", state.display());
        Ok(Command::new(program("vmkpi-host")?)
            .args(arguments)
            .args(["--config=/dev/null", &state])
            .stdin(Stdio::null())
            .output()?)
    }

    /// A number on the exporter's page: of the line that begins so.
    ///
    /// # Errors
    /// The page does not come.
    pub fn metric(&self, line: &str) -> Result<f64> {
        let page = http_get(self.metrics, "/metrics").with_context(|| self.words())?;
        let found = page.lines().find_map(|l| l.strip_prefix(line));
        found
            .with_context(|| format!("no {line}\n{page}"))?
            .trim()
            .parse()
            .context("a number")
    }

    /// Kills the host daemon as kill -9 does.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill_host(&mut self) -> Result<()> {
        self.host.kill()
    }

    /// Starts it again on the same state.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_host(&mut self) -> Result<()> {
        let folder = self.scratch.path();
        self.host = start_host(folder, &self.hypervisor, self.metrics, &self.further)?;
        Ok(())
    }

    /// The test's folder.
    pub fn folder(&self) -> &Path {
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

/// As an editor does: whole, and not writable by others.
fn put(contexts: &Path, path: &str, text: &str) -> Result<()> {
    let file = contexts.join(path);
    let parents = file.ancestors().skip(1);
    let inside: Vec<&Path> = parents.take_while(|parent| *parent != contexts).collect();
    for parent in inside.into_iter().rev().filter(|parent| !parent.exists()) {
        std::fs::create_dir(parent)?;
        set_permissions(parent, Permissions::from_mode(0o755))?;
    }
    let new = contexts.join(".new");
    std::fs::write(&new, text)?;
    set_permissions(&new, Permissions::from_mode(0o644))?;
    Ok(std::fs::rename(new, file)?)
}

/// With no broker anywhere: contexts need none.
fn start_host(
    folder: &Path,
    hypervisor: &Hypervisor,
    metrics: SocketAddr,
    further: &[String],
) -> Result<Process> {
    let mut arguments = vec![
        "run".to_owned(),
        "--config=/dev/null".to_owned(),
        "--log-level=info,vmkpi_host::context=debug".to_owned(),
        format!("--libvirt.uri={}", hypervisor.uri()),
        "--broker=mqtt://127.0.0.1:1".to_owned(),
        format!("--web.listen-address={metrics}"),
        format!("--state={}", folder.join("host").display()),
        format!("--context.directory={}", folder.join("contexts").display()),
    ];
    arguments.extend(further.iter().cloned());
    let host = Process::start(folder, "host", &program("vmkpi-host")?, arguments)?;
    wait_for(PATIENCE, "the exporter", || {
        std::net::TcpStream::connect(metrics).ok()
    })
    .with_context(|| host.words())?;
    Ok(host)
}
