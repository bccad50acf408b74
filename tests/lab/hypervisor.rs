//! A libvirtd of the test's own, in namespaces of its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;
use crate::network::Place;
use crate::process::Process;
use crate::scratch::processes_of;
use crate::wait_for;

const SCRIPT: &str = include_str!("libvirtd.sh");

const LIBVIRTD_CONF: &str = "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n";

/// No users, labels, control groups or helpers of the machine's: QEMU is a process like another.
const QEMU_CONF: &str = r#"user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
seccomp_sandbox = 0
"#;

const SETPRIV: &str = "/usr/bin/setpriv";

/// The script's name below the root.
const SCRIPT_FILE: &str = "libvirtd.sh";

/// Folders that take the place of the machine's.
const FOLDERS: [&str; 5] = [
    "run",
    "etc/libvirt",
    "var/lib/libvirt",
    "var/log/libvirt",
    "var/cache/libvirt",
];

/// A running libvirtd. When this process or thread ends, so does it, and every QEMU of it.
pub struct Hypervisor {
    folder: PathBuf,
    root: PathBuf,
    process: Process,
    /// The namespaces that a program joins which is started inside.
    joins: &'static [&'static str],
}

impl Hypervisor {
    /// Starts libvirtd with all its files below `folder`, in a network without any link, and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start(folder: &Path) -> Result<Self> {
        let root = prepare(folder, "")?;
        let uuid = super::uuid()?;
        // SIGKILL when the test is gone, as unshare blocks SIGTERM; then the namespace's first
        // process is killed too, and the kernel ends all others in it.
        let words = "--pdeathsig KILL unshare --mount --pid --net --fork --kill-child sh";
        let arguments = words.split(' ').map(Path::new).map(Path::to_owned);
        let arguments = arguments.chain([root.join(SCRIPT_FILE), root.clone(), uuid.into()]);
        let process = Process::start(folder, "libvirtd", Path::new(SETPRIV), arguments)?;
        Self::answering(folder, root, process, &["mnt"])
    }

    /// The same on the network of a place and under its name: the libvirtd of another one may migrate VMs to it, by
    /// `address`, and asks nobody who he is, as nobody else is on that network.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start_in(place: &Place, address: IpAddr) -> Result<Self> {
        let folder = place.folder();
        let more = format!(
            "listen_tls = 0\nlisten_tcp = 1\nauth_tcp = \"none\"\nlisten_addr = \"{address}\"\n"
        );
        let root = prepare(folder, &more)?;
        let qemu = format!("{QEMU_CONF}migration_host = \"{address}\"\n");
        std::fs::write(root.join("etc/libvirt/qemu.conf"), qemu)?;
        let hosts = format!("127.0.0.1 localhost\n{address} {}\n", place.host_name);
        std::fs::write(root.join("etc/hosts"), hosts)?;
        let words = "--pdeathsig KILL unshare --mount --pid --fork --kill-child sh";
        let mut arguments: Vec<String> = words.split(' ').map(ToOwned::to_owned).collect();
        arguments.extend([
            root.join(SCRIPT_FILE).display().to_string(),
            root.display().to_string(),
        ]);
        arguments.extend([place.host_name.clone(), "--listen".to_owned()]);
        let process = place.start("libvirtd", Path::new(SETPRIV), &arguments)?;
        Self::answering(folder, root, process, &["mnt", "net", "uts"])
    }

    fn answering(
        folder: &Path,
        root: PathBuf,
        process: Process,
        joins: &'static [&'static str],
    ) -> Result<Self> {
        let hypervisor = Self {
            folder: folder.to_owned(),
            root,
            process,
            joins,
        };
        wait_for(PATIENCE, "libvirtd to answer", || {
            hypervisor.virsh(&["version"]).ok()
        })
        .with_context(|| hypervisor.words())?;
        Ok(hypervisor)
    }

    /// The URI by which it is reached, from inside and outside.
    pub fn uri(&self) -> String {
        let socket = self.root.join("run/libvirt/libvirt-sock");
        format!("qemu+unix:///system?socket={}", socket.display())
    }

    /// Runs virsh.
    ///
    /// # Errors
    /// It fails.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("virsh")
            .args(["--quiet", "--connect", &self.uri()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "virsh {}: {}\n{}",
                arguments.join(" "),
                said.trim(),
                self.words()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts a program where libvirt's files are under their usual names.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_inside(
        &self,
        folder: &Path,
        name: &str,
        program: &Path,
        arguments: &[String],
    ) -> Result<Process> {
        let option = |kind: &&str| match *kind {
            "mnt" => format!("--mount=/proc/{}/ns/mnt", self.process.pid()),
            kind => format!("--{kind}=/proc/{}/ns/{kind}", self.process.pid()),
        };
        let mut words: Vec<String> = self.joins.iter().map(option).collect();
        words.push(program.display().to_string());
        let words = words.iter().chain(arguments);
        Process::start(folder, name, Path::new("/usr/bin/nsenter"), words)
    }

    /// The process of a domain, by the number that it has outside.
    pub fn qemu(&self, domain: &str) -> Option<Pid> {
        let (ours, guest) = (self.folder.to_string_lossy(), format!("guest={domain},"));
        std::fs::read_dir("/proc")
            .ok()?
            .flatten()
            .find_map(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line);
                let found = line.contains(&guest) && line.contains(&*ours);
                let pid = entry.file_name().to_string_lossy().parse().ok();
                pid.filter(|_| found).and_then(Pid::from_raw)
            })
    }

    /// The process of libvirtd, by the number that it has outside.
    ///
    /// # Errors
    /// It is not there.
    pub fn libvirtd(&self) -> Result<Pid> {
        // Only its namespace tells it from any other libvirtd of this machine.
        let ours = std::fs::read_link(format!("/proc/{}/ns/pid_for_children", self.process.pid()))?;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let path = entry.path();
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            let pid = entry.file_name().to_string_lossy().parse().ok();
            let Some(pid) = pid
                .and_then(Pid::from_raw)
                .filter(|_| name.trim() == "libvirtd")
            else {
                continue;
            };
            if std::fs::read_link(path.join("ns/pid")).is_ok_and(|ns| ns == ours) {
                return Ok(pid);
            }
        }
        bail!("no libvirtd\n{}", self.words());
    }

    /// Kills libvirtd, and nothing else, as kill -9 does; it is started again.
    ///
    /// # Errors
    /// It is not there.
    pub fn kill_libvirtd(&self) -> Result<()> {
        Ok(kill_process(self.libvirtd()?, Signal::KILL)?)
    }

    /// Ends libvirtd in order, as a service manager does; it is started again.
    ///
    /// # Errors
    /// It is not there.
    pub fn restart_libvirtd(&self) -> Result<()> {
        Ok(kill_process(self.libvirtd()?, Signal::TERM)?)
    }

    /// Says whether libvirtd stays away when it ends.
    ///
    /// # Errors
    /// The word cannot be left.
    pub fn hold_libvirtd(&self, hold: bool) -> Result<()> {
        let file = self.root.join("hold");
        if hold {
            return Ok(std::fs::write(file, "")?);
        }
        Ok(std::fs::remove_file(file)?)
    }

    /// What libvirtd said.
    pub fn words(&self) -> String {
        self.process.words()
    }
}

/// The files of a libvirtd below `folder`; `more` is for its configuration. The folder that has them.
fn prepare(folder: &Path, more: &str) -> Result<PathBuf> {
    let root = folder.join("hypervisor");
    for name in FOLDERS {
        std::fs::create_dir_all(root.join(name))?;
    }
    let config = root.join("etc/libvirt");
    let conf = format!("{LIBVIRTD_CONF}host_uuid = \"{}\"\n{more}", super::uuid()?);
    std::fs::write(config.join("libvirtd.conf"), conf)?;
    std::fs::write(config.join("qemu.conf"), QEMU_CONF)?;
    std::fs::write(root.join(SCRIPT_FILE), SCRIPT)?;
    Ok(root)
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        // Asking would be in vain, see above. The rest ends a little later, and writes until then.
        let _ = self.process.kill();
        let _ = wait_for(10, "every QEMU to end", || {
            processes_of(&self.folder).is_empty().then_some(())
        });
    }
}
