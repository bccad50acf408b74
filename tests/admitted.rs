//! A broker exactly as `vmkpi broker --print-config mosquitto` configures it, with certificates as `vmkpi key new tls`
//! makes them, started as its documentation says.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::chain::Broker;
use crate::process::{Process, vmkpi};
use crate::scratch::free_address;

/// The broker's address, for which its certificate is.
const SERVER: &str = "127.0.0.1";

/// Certificates of a site, and whom its broker lets in.
pub struct Admitted {
    folder: PathBuf,
}

/// The user's and the group's numbers.
fn mosquitto() -> Result<(u32, u32)> {
    let id = |option: &str| -> Result<u32> {
        let output = Command::new("id").args([option, "mosquitto"]).output()?;
        ensure!(output.status.success(), "there is no user mosquitto");
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    };
    Ok((id("-u")?, id("-g")?))
}

/// Runs `vmkpi`, which has to say yes.
fn done(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = vmkpi(&arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(())
}

impl Admitted {
    /// Makes a CA in `folder`, and certificates for the broker and `clients`.
    ///
    /// # Errors
    /// `vmkpi key new` says no.
    pub fn new(folder: &Path, clients: &[&str]) -> Result<Self> {
        let site = Self {
            folder: folder.to_owned(),
        };
        let mut arguments = ["key", "new", "tls", "--site=acme"]
            .map(String::from)
            .to_vec();
        arguments.push(format!("--server={SERVER}"));
        arguments.push(format!("--dir={}", site.tls("").display()));
        arguments.extend(clients.iter().map(|name| format!("--client={name}")));
        done(&arguments)?;
        Ok(site)
    }

    /// A file of the CA's folder.
    pub fn tls(&self, name: &str) -> PathBuf {
        self.folder.join("tls").join(name)
    }

    /// What the broker reads.
    pub fn place(&self) -> PathBuf {
        self.folder.join("broker")
    }

    /// Starts the broker that is made of `options`, such as `--host=hosts`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, options: &[&str]) -> Result<Broker> {
        let address = free_address()?;
        let (place, state) = (self.place(), self.folder.join("state-of-mosquitto"));
        std::fs::create_dir(&state)?;
        let mut arguments = ["broker", "--print-config=mosquitto"]
            .map(String::from)
            .to_vec();
        arguments.extend([
            format!("--server={SERVER}"),
            format!("--listen={address}"),
            format!("--etc={}", place.display()),
            format!("--dir={}", place.display()),
            format!("--state={}", state.display()),
        ]);
        arguments.extend(options.iter().map(ToString::to_string));
        done(&arguments)?;
        for name in ["ca.cert.pem", "127.0.0.1.cert.pem", "127.0.0.1.key.pem"] {
            std::fs::copy(self.tls(name), place.join(name))?;
        }
        self.hand_over(&[&place, &state])?;
        Broker::start_as(&self.folder, place.join("vmkpi.conf"), "mqtts", address)
    }

    /// What root's mosquitto becomes the user of, that one must be able to read.
    fn hand_over(&self, folders: &[&Path]) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let (user, group) = mosquitto()?;
        let passage = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(&self.folder, passage)?;
        for folder in folders {
            chown(folder, Some(user), Some(group))?;
            for file in std::fs::read_dir(folder)? {
                chown(file?.path(), Some(user), Some(group))?;
            }
        }
        Ok(())
    }

    /// The options by which one of our programs comes as `name`.
    pub fn options(&self, name: &str) -> [String; 3] {
        let option =
            |name: &str, file: &str| format!("--broker.{name}-file={}", self.tls(file).display());
        [
            option("ca", "ca.cert.pem"),
            option("cert", &format!("{name}.cert.pem")),
            option("key", &format!("{name}.key.pem")),
        ]
    }

    /// The options by which mosquitto's own clients come as `name`.
    pub fn options_of_mosquitto(&self, name: &str, broker: &Broker) -> Vec<String> {
        let file = |file: String| self.tls(&file).display().to_string();
        vec![
            "-h".into(),
            SERVER.into(),
            "-p".into(),
            broker.port().to_string(),
            "--cafile".into(),
            file("ca.cert.pem".into()),
            "--cert".into(),
            file(format!("{name}.cert.pem")),
            "--key".into(),
            file(format!("{name}.key.pem")),
        ]
    }

    /// Publishes as `name`, with MQTT 5 and QoS 1; what was said of it.
    ///
    /// # Errors
    /// The client cannot be run.
    pub fn publish(&self, broker: &Broker, name: &str, topic: &str, text: &str) -> Result<String> {
        let output = Command::new("mosquitto_pub")
            .args(self.options_of_mosquitto(name, broker))
            .args(["-V", "5", "-q", "1", "-t", topic, "-m", text])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Subscribes as `name` to everything; each message becomes a line of topic and payload.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn listen(&self, broker: &Broker, name: &str) -> Result<Process> {
        let mut arguments = self.options_of_mosquitto(name, broker);
        let id = format!("ear-of-{name}");
        let rest = [
            "-V", "5", "-q", "1", "-i", &id, "-F", "%t %p", "-t", "#", "-t", "$SYS/#",
        ];
        arguments.extend(rest.map(String::from));
        let sub = Path::new("/usr/bin/mosquitto_sub");
        Process::start(&self.folder, &id, sub, arguments)
    }
}
