//! The guest that migrates: what it boots, its disks, and how it is told what to do.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::initramfs::{self, Content};
use super::kernel::{Kernel, run};
use super::{DOMAIN, PATIENCE, console, said, uuid};
use crate::wait_for;

const INIT: &str = include_str!("traveller.sh");
const XML: &str = include_str!("traveller.xml");

/// What it has besides the other guests of the laboratory: a network, and a drive for contexts.
const MODULES: [&str; 4] = ["virtio_net", "virtio_scsi", "sr_mod", "isofs"];

/// Bytes of the disk that the guest's store lies on.
const STORE_BYTES: u64 = 256 << 20;

/// Bytes of the disk by which it is told what to do.
const ORDERS_BYTES: usize = 4096;

/// What a guest is to be.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Rows that its application stores, a second.
    pub rate: u32,
    /// `/etc/vmkpi/guest.toml`, after mount and state.
    pub settings: String,
    /// Further files of its image: path, content, mode.
    pub files: Vec<(String, Vec<u8>, u32)>,
    /// Its descriptor: what is in `<monitoring>`.
    pub monitors: String,
}

/// A guest whose files are in a folder that all hosts share.
pub struct Traveller {
    folder: PathBuf,
}

impl Traveller {
    /// Makes its image, its disks and `domain.xml`.
    ///
    /// # Errors
    /// A part is missing.
    pub fn build(folder: &Path, kernel: &Kernel, plan: &Plan) -> Result<Self> {
        let file = |name: &str| folder.join(name).display().to_string();
        let settings = format!(
            "mount = \"/kpi\"\nstate = \"/var/vmkpi\"\n{}",
            plan.settings
        );
        let mut files = plan.files.clone();
        files.push(("etc/vmkpi/guest.toml".into(), settings.into_bytes(), 0o600));
        let content = Content {
            init: INIT,
            modules: &MODULES,
            files: &files,
        };
        initramfs::build(folder, kernel, &content)?;
        std::fs::write(folder.join("orders"), vec![0; 1 << 20])?;
        std::fs::File::create(folder.join("store"))?.set_len(STORE_BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", &file("store")]))?;
        let descriptor = format!(
            "<vmkpi:monitoring xmlns:vmkpi=\"{}\" vm=\"shop\" primary_site=\"acme\">{}</vmkpi:monitoring>",
            vmkpi::descriptor::METADATA_NAMESPACE,
            plan.monitors
        );
        let xml = XML
            .replace("@NAME@", DOMAIN)
            .replace("@UUID@", &uuid()?)
            .replace("@DESCRIPTOR@", &descriptor)
            .replace("@RATE@", &plan.rate.to_string())
            .replace("@KERNEL@", &kernel.image.display().to_string())
            .replace("@INITRAMFS@", &file(initramfs::FILE))
            .replace("@ORDERS@", &file("orders"))
            .replace("@STORE@", &file("store"))
            .replace("@CONSOLE@", &file("console"));
        std::fs::write(folder.join("domain.xml"), xml)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The guest whose files are in `folder`, which somebody else has started.
    pub fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The domain, as libvirt reads it.
    pub fn xml(&self) -> PathBuf {
        self.folder.join("domain.xml")
    }

    /// What it said last after `word` on its console.
    pub fn said(&self, word: &str) -> Option<String> {
        said(&self.console(), word)
    }

    /// How many rows it has stored at least, as far as it has said.
    pub fn stored(&self) -> u64 {
        self.said("at ").and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// Has it run a script, and returns what that prints.
    ///
    /// # Errors
    /// The script fails, or the guest does not answer.
    pub fn run(&self, script: &str) -> Result<String> {
        let (status, text) = self.attempt(script)?;
        ensure!(status == 0, "{script}: {status}\n{text}");
        Ok(text)
    }

    /// The same, with the status it ends with.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn attempt(&self, script: &str) -> Result<(i32, String)> {
        let number = self.order(script)?;
        let done = format!("done {number} ");
        let status = wait_for(PATIENCE, "the guest to do as it is told", || {
            self.said(&done)
        })
        .with_context(|| format!("{script}\n{}", self.console()))?;
        let prefix = format!("lab: {number}> ");
        let text = self.console();
        let lines = text
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix(&prefix));
        Ok((
            status.parse()?,
            lines.map(|line| format!("{line}\n")).collect(),
        ))
    }

    /// Writes an order to its disk; the order's number.
    fn order(&self, script: &str) -> Result<u64> {
        let disk = self.folder.join("orders");
        let disk = std::fs::File::options().read(true).write(true).open(disk)?;
        let mut block = vec![0; ORDERS_BYTES];
        disk.read_exact_at(&mut block, 0)?;
        let before = String::from_utf8_lossy(&block);
        let before = before.lines().next().and_then(|line| line.parse().ok());
        let number = before.unwrap_or(0_u64) + 1;
        let order = format!("{number}\n{script}\n");
        ensure!(order.len() <= ORDERS_BYTES, "an order too long: {script}");
        block.fill(0);
        block[..order.len()].copy_from_slice(order.as_bytes());
        disk.write_all_at(&block, 0)?;
        Ok(number)
    }

    /// Has it stop storing, and returns how many rows it has stored.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop_storing(&self) -> Result<u64> {
        self.run("touch /stop")?;
        let n = wait_for(PATIENCE, "the guest to stop storing", || {
            self.said("wrote ")
        })?;
        Ok(n.parse()?)
    }

    /// The text of its console.
    pub fn console(&self) -> String {
        console(&self.folder)
    }
}
