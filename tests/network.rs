//! Networks of a test's own: namespaces with a name of their own each, joined by links that can be cut. They are held
//! by a process each, and are gone with it: nothing of them has a name outside.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::Process;
use crate::wait_for;

const NSENTER: &str = "/usr/bin/nsenter";

/// A machine's place: a network and a host name.
pub struct Place {
    holder: Process,
    folder: PathBuf,
    /// Its host name.
    pub host_name: String,
}

impl Place {
    /// A new one, without any link yet, whose programs write below `folder`.
    ///
    /// # Errors
    /// The kernel refuses; these tests run as root.
    pub fn new(folder: &Path, host_name: &str) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let script = "hostname \"$0\" && ip link set lo up && echo ready && exec sleep infinity";
        let arguments = ["--net", "--uts", "sh", "-c", script, host_name];
        let unshare = Path::new("/usr/bin/unshare");
        let holder = Process::start(folder, "place", unshare, arguments)?;
        let said = holder.out.clone();
        wait_for(10, "a network of its own", || {
            std::fs::read_to_string(&said)
                .ok()?
                .contains("ready")
                .then_some(())
        })
        .with_context(|| holder.words())?;
        Ok(Self {
            holder,
            folder: folder.to_owned(),
            host_name: host_name.to_owned(),
        })
    }

    /// Where its programs write.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of one of its namespaces: `net` or `uts`.
    pub fn namespace(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.holder.pid()))
    }

    /// Starts a program in it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, name: &str, program: &Path, arguments: &[String]) -> Result<Process> {
        let words = [
            format!("--net={}", self.namespace("net").display()),
            format!("--uts={}", self.namespace("uts").display()),
            program.display().to_string(),
        ];
        let words = words.iter().chain(arguments);
        Process::start(&self.folder, name, Path::new(NSENTER), words)
    }

    /// Runs `ip` in it.
    ///
    /// # Errors
    /// It fails.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let output = Command::new(NSENTER)
            .arg(format!("--net={}", self.namespace("net").display()))
            .arg("ip")
            .args(arguments.split(' '))
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip {arguments}: {said}");
        Ok(())
    }

    /// Does something on its network: what is connected there stays there.
    ///
    /// # Errors
    /// The kernel refuses, or what is done fails.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let network = File::open(self.namespace("net"))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Joins places by one network, `10.99.0.0/24`: `hub` is .254, the others are .1, .2, ... It is a bridge in the hub.
///
/// # Errors
/// The kernel refuses.
pub fn join_all(hub: &Place, places: &[&Place]) -> Result<()> {
    hub.ip("link add lan type bridge")?;
    hub.ip("address add 10.99.0.254/24 dev lan")?;
    hub.ip("link set lan up")?;
    for (number, place) in (1..).zip(places) {
        let peer = place.holder.pid();
        hub.ip(&format!(
            "link add port{number} type veth peer name lan netns {peer}"
        ))?;
        hub.ip(&format!("link set port{number} master lan up"))?;
        place.ip(&format!("address add 10.99.0.{number}/24 dev lan"))?;
        place.ip("link set lan up")?;
    }
    Ok(())
}

/// A link between two places.
pub struct Link {
    /// The address of the first place on it.
    pub near: String,
    /// That of the second one.
    pub far: String,
    name: String,
}

impl Link {
    /// Joins two places by the network `10.0.NUMBER.0/24`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join(one: &Place, other: &Place, number: u8) -> Result<Self> {
        let name = format!("link{number}");
        let (near, far) = (format!("10.0.{number}.1"), format!("10.0.{number}.2"));
        let peer = other.holder.pid();
        one.ip(&format!(
            "link add {name} type veth peer name {name} netns {peer}"
        ))?;
        for (place, address) in [(one, &near), (other, &far)] {
            place.ip(&format!("address add {address}/24 dev {name}"))?;
            place.ip(&format!("link set {name} up"))?;
        }
        Ok(Self { near, far, name })
    }

    /// Cuts it at its first end: nothing gets through, and nobody is told.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn cut(&self, one: &Place) -> Result<()> {
        one.ip(&format!("link set {} down", self.name))
    }

    /// Mends it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mend(&self, one: &Place) -> Result<()> {
        one.ip(&format!("link set {} up", self.name))
    }
}
