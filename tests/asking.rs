//! `vmkpi query` in a chain whose site signs and may seal, and questions made by hand.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi::clock::Timestamp;
use vmkpi::position::QueryId;
use vmkpi::query::{Question, Subject};
use vmkpi::sign::SigningKey;
use vmkpi::topic::Branch;

use crate::chain::Chain;
use crate::collector::{Key, NAME};
use crate::process::{Process, program};
use crate::scratch::Scratch;
use crate::wait_for;

/// The point that rows are stored to.
pub const POINT: &str = "unencrypted/load";

/// Keys of a site and of its Consumer.
pub struct Keys {
    folder: Scratch,
    /// The Consumer's.
    pub consumer: Key,
    /// Nobody's that a descriptor names.
    pub stranger: Key,
}

impl Keys {
    /// Makes them.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn new() -> Result<Self> {
        let folder = Scratch::new()?;
        for name in ["site", "other"] {
            let dir = format!("--dir={}", folder.path().join(name).display());
            let made = Command::new(program("vmkpi")?)
                .args(["key", "new", "seal", "sign", &dir])
                .stdout(Stdio::null())
                .status()?;
            ensure!(made.success(), "no keys");
        }
        Ok(Self {
            consumer: Key::make(folder.path(), "consumer.key")?,
            stranger: Key::make(folder.path(), "stranger.key")?,
            folder,
        })
    }

    /// A file of the folders `site` and `other`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A descriptor that names the Consumer by this key: every row open, but those of `unencrypted/closed`.
    pub fn descriptor(&self, consumer: &Key) -> String {
        format!(
            "vm = 'shop'\nprimary_site = 'acme'\nprimary_key_file = '{}'\n\
             [[confirm]]\nname = '{NAME}'\nkey = '{}'\n\
             [[monitor]]\nid = 'ready'\npoint = 'unencrypted/ready'\n\
             [[monitor]]\nid = 'load'\npoint = '{POINT}'\n\
             [[monitor]]\nid = 'closed'\npoint = 'unencrypted/closed'\nseal = true\n\
             [[monitor]]\nid = 'blob'\npoint = 'encrypted/blob'\n",
            self.file("site/seal.pub.pem").display(),
            consumer.public
        )
    }
}

/// A chain whose VM may be asked.
pub struct Site {
    /// Broker, guest, host and watcher.
    pub chain: Chain,
    /// Its keys.
    pub keys: Keys,
}

impl Site {
    /// Starts it, with further arguments for the guest.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn start(guest: &[&str]) -> Result<Self> {
        let keys = Keys::new()?;
        let sign = keys.file("site/sign.key.pem");
        let sign = format!("--sign.key-file={}", sign.display());
        let chain = Chain::start_with(&keys.descriptor(&keys.consumer), guest, &[&sign])?;
        Ok(Self { chain, keys })
    }

    /// Stores `n` = `from`, ..., `to`.
    ///
    /// # Errors
    /// One cannot be stored.
    pub fn store(&self, point: &str, numbers: std::ops::RangeInclusive<u64>) -> Result<()> {
        let file = self.chain.mount().join(point);
        for n in numbers {
            std::fs::write(&file, format!("n,text\n{n},a text of some length\n"))?;
        }
        Ok(())
    }

    fn arguments(&self, point: &str, more: &[&str]) -> Vec<String> {
        let mut arguments = vec![
            "query".to_owned(),
            format!("--broker={}", self.chain.broker.url()),
            "--site=acme".to_owned(),
            "--vm=shop".to_owned(),
            format!("--point={point}"),
            format!("--trust={}", self.keys.file("site").display()),
            "--format=json".to_owned(),
        ];
        if !more.iter().any(|m| m.starts_with("--sign-key-file")) {
            let key = self.keys.consumer.file.display();
            arguments.push(format!("--sign-key-file={key}"));
        }
        if !more.iter().any(|m| m.starts_with("--name")) {
            arguments.push(format!("--name={NAME}"));
        }
        arguments.extend(more.iter().map(ToString::to_string));
        arguments
    }

    /// Asks, and waits for what comes of it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn ask(&self, point: &str, more: &[&str]) -> Result<Output> {
        Ok(Command::new(program("vmkpi")?)
            .args(self.arguments(point, more))
            .stdin(Stdio::null())
            .output()?)
    }

    /// Asks in the background.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn begin(&self, name: &str, point: &str, more: &[&str]) -> Result<Process> {
        let arguments = self.arguments(point, more);
        Process::start(self.chain.folder(), name, &program("vmkpi")?, arguments)
    }

    /// The rows that are answered.
    ///
    /// # Errors
    /// There is no answer.
    pub fn rows(&self, point: &str, more: &[&str]) -> Result<Vec<Value>> {
        let output = self.ask(point, more)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{said}\n{}", self.chain.words());
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().map(|line| Ok(serde_json::from_str(line)?));
        lines.collect()
    }

    /// That asking fails, with status 1 and these words.
    ///
    /// # Errors
    /// It does not.
    pub fn fails(&self, point: &str, more: &[&str], words: &str) -> Result<()> {
        let output = self.ask(point, more)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
        ensure!(said.contains(words), "{words:?} is not in {said}");
        ensure!(output.stdout.is_empty(), "something was shown");
        Ok(())
    }

    /// How many questions were refused for this reason.
    ///
    /// # Errors
    /// The host does not say.
    pub fn refused(&self, reason: &str) -> Result<f64> {
        self.chain.metric(&format!(
            "vmkpi_queries_refused_total{{reason=\"{reason}\"}}"
        ))
    }

    /// Publishes something on the topic of questions to `vm`, and waits until it was refused for this reason.
    ///
    /// # Errors
    /// It was not.
    pub fn refuses(&self, reason: &str, vm: &str, payload: &[u8], more: &[&str]) -> Result<()> {
        let before = self.refused(reason)?;
        self.publish(&topic(vm)?, payload, more)?;
        wait_for(20, &format!("{reason} to be counted"), || {
            (self.refused(reason).ok()? > before).then_some(())
        })
        .with_context(|| String::from_utf8_lossy(payload).into_owned())
    }

    /// Publishes one message.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn publish(&self, topic: &str, payload: &[u8], more: &[&str]) -> Result<()> {
        let file = self.chain.folder().join("payload");
        std::fs::write(&file, payload)?;
        let port = self.chain.broker.port().to_string();
        let status = Command::new("mosquitto_pub")
            .args(["-V", "5", "-p", &port, "-q", "1", "-t", topic, "-f"])
            .arg(&file)
            .args(more)
            .status()?;
        ensure!(status.success(), "mosquitto_pub: {status}");
        Ok(())
    }
}

/// The Consumer and a VM.
///
/// # Errors
/// It is no name.
pub fn subject(vm: &str) -> Result<Subject> {
    Ok(Subject {
        site: "acme".parse()?,
        consumer: NAME.parse()?,
        vm: vm.parse()?,
    })
}

/// Where the Consumer asks a VM.
///
/// # Errors
/// It is no name.
pub fn topic(vm: &str) -> Result<String> {
    Ok(subject(vm)?.topic(Branch::Query))
}

/// Now, as questions have it.
pub fn now_us() -> u64 {
    Timestamp::now().as_micros().unsigned_abs()
}

/// A question for a few rows, made by hand.
///
/// # Errors
/// The key cannot be read.
pub fn question(key: &Path, vm: &str, issued: u64, limit: u32) -> Result<Vec<u8>> {
    let key = SigningKey::from_pem(&std::fs::read_to_string(key)?)?;
    let question = Question {
        id: QueryId(u128::from(issued)),
        point: POINT.parse()?,
        from: None,
        to: None,
        after: None,
        limit,
    };
    Ok(question.encode(&subject(vm)?, issued, &key))
}
