//! How an application hands over a value: the number `n`, and beside it `n` and a half, by which one that was torn
//! or mixed with another is known.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

/// A way in.
pub enum Writer {
    /// A store in vmkpi's partition.
    Store(PathBuf),
    /// A line at the end of a CSV file.
    Line(PathBuf),
    /// A new file in the place of the old, as the textfile collector's documentation asks.
    Rename(PathBuf),
    /// The same file again, by two writes, as a shell's `{ echo ...; echo ...; } > file`.
    Rewrite(PathBuf),
    /// mosquitto_pub for each value.
    Publish(SocketAddr),
    /// A line to one mosquitto_pub that stays.
    Pipe(Child),
    /// curl for each value, as Pushgateway's documentation does.
    Push(SocketAddr),
}

fn exposition(n: u64) -> [String; 2] {
    [format!("app_n {n}\n"), format!("app_half {n}.5\n")]
}

fn json(n: u64) -> String {
    format!("{{\"n\":{n},\"half\":{n}.5}}")
}

/// A file that is closed here, as only the close says whether vmkpi has kept it.
fn close(file: File) -> Result<()> {
    Ok(nix::unistd::close(file)?)
}

fn succeeds(command: &mut Command) -> Result<()> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    let status = quiet.stderr(Stdio::null()).status()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

impl Writer {
    /// One mosquitto_pub that reads lines.
    pub fn pipe(broker: SocketAddr) -> Result<Self> {
        let child = publisher(broker)
            .arg("-l")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self::Pipe(child))
    }

    /// Hands over `n`.
    ///
    /// # Errors
    /// The application is told that it could not be.
    pub fn put(&mut self, n: u64) -> Result<()> {
        match self {
            Self::Store(path) => {
                let mut file = File::create(path)?;
                file.write_all(format!("n,half\n{n},{n}.5\n").as_bytes())?;
                close(file)
            }
            Self::Line(path) => append(path, n),
            Self::Rename(path) => {
                let new = path.with_extension("new");
                std::fs::write(&new, exposition(n).concat())?;
                Ok(std::fs::rename(new, path)?)
            }
            Self::Rewrite(path) => {
                let mut file = File::create(path)?;
                for line in exposition(n) {
                    file.write_all(line.as_bytes())?;
                }
                Ok(())
            }
            Self::Publish(broker) => succeeds(publisher(*broker).arg("-m").arg(json(n))),
            Self::Pipe(child) => {
                let pipe = child.stdin.as_mut().context("no pipe")?;
                Ok(pipe.write_all(format!("{}\n", json(n)).as_bytes())?)
            }
            Self::Push(gateway) => push(*gateway, n),
        }
    }

    /// The process that stays, if there is one.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Pipe(child) => Some(child.id()),
            _ => None,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Self::Pipe(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn append(path: &Path, n: u64) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let mut file = OpenOptions::new().append(true).open(path)?;
    Ok(file.write_all(format!("{now:.6},{n}\n").as_bytes())?)
}

fn publisher(broker: SocketAddr) -> Command {
    let mut command = Command::new("/usr/bin/mosquitto_pub");
    let (host, port) = (broker.ip().to_string(), broker.port().to_string());
    command.args(["-q", "1", "-t", "app/load", "-h", &host, "-p", &port]);
    command
}

fn push(gateway: SocketAddr, n: u64) -> Result<()> {
    let url = format!("http://{gateway}/metrics/job/app");
    let mut curl = Command::new("/usr/bin/curl")
        .args(["-sf", "--data-binary", "@-", &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let text = exposition(n).concat();
    // Dropped, so that curl sees the end.
    curl.stdin
        .take()
        .context("no pipe")?
        .write_all(text.as_bytes())?;
    let status = curl.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}
