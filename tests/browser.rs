//! A real browser, headless, driven as any test of a page does it: Debian's chromium by its chromium-driver, over
//! W3C WebDriver (plain HTTP).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::process::Process;
use crate::scratch::{free_address, processes_with};
use crate::wait_for;

const DRIVER: &str = "/usr/bin/chromedriver";
const BROWSER: &str = "/usr/bin/chromium";
/// The machine may be busy; a browser starts slowly then.
const PATIENCE: Duration = Duration::from_secs(90);

/// A window of a given size.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// Pixels of the screen for each.
    pub ratio: f64,
    /// What `prefers-color-scheme` says.
    pub dark: bool,
}

impl Look {
    /// As on a desk.
    pub const DESK: Self = Self {
        width: 1280,
        height: 1000,
        ratio: 1.0,
        dark: false,
    };
}

/// A browser with one window.
pub struct Browser {
    address: SocketAddr,
    session: String,
    /// Where it keeps its files; its processes are known by it.
    files: PathBuf,
    _driver: Process,
}

impl Browser {
    /// Whether there is one; if not, it is said.
    ///
    /// # Errors
    /// There is none in continuous integration, where nothing is skipped.
    pub fn is_there() -> Result<bool> {
        if [DRIVER, BROWSER]
            .iter()
            .all(|file| Path::new(file).is_file())
        {
            return Ok(true);
        }
        let missing = "no browser: install chromium chromium-driver";
        if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            bail!("{missing}");
        }
        writeln!(std::io::stderr(), "skipped, {missing}")?;
        Ok(false)
    }

    /// Starts one with its files in `folder`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(folder: &Path, look: Look) -> Result<Self> {
        let address = free_address()?;
        let port = format!("--port={}", address.port());
        let driver = Process::start(folder, "chromedriver", Path::new(DRIVER), [port])?;
        wait_for(30, "chromedriver to listen", || {
            TcpStream::connect(address).ok()
        })
        .with_context(|| driver.words())?;
        let mut browser = Self {
            address,
            session: String::new(),
            files: folder.join("browser"),
            _driver: driver,
        };
        let started = call(address, "POST", "/session", &browser.capabilities(look))?;
        let session = started["sessionId"].as_str().context("no session")?;
        session.clone_into(&mut browser.session);
        // What the browser's own first window has asked for is nobody's affair.
        browser.open("about:blank")?;
        browser.said()?;
        Ok(browser)
    }

    fn ask(&self, command: &str, body: &Value) -> Result<Value> {
        let path = format!("/session/{}/{command}", self.session);
        call(self.address, "POST", &path, body).with_context(|| command.to_owned())
    }

    /// Goes to an address.
    ///
    /// # Errors
    /// Nothing is there.
    pub fn open(&self, url: &str) -> Result<()> {
        self.ask("url", &json!({ "url": url })).map(|_| ())
    }

    /// What the body of a function returns in the page.
    ///
    /// # Errors
    /// It throws.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.ask("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until the body of a function returns something true.
    ///
    /// # Errors
    /// It does not, within `seconds`: what the page shows.
    pub fn wait(&self, seconds: u64, what: &str, script: &str) -> Result<Value> {
        let is_true = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            _ => true,
        };
        let found = wait_for(seconds, what, || self.run(script).ok().filter(is_true));
        found.with_context(|| {
            let text = self.run("return document.body.innerText");
            format!("{script}: {text:?}")
        })
    }

    /// Waits until there is an element of this CSS selector.
    ///
    /// # Errors
    /// There is none, within `seconds`.
    pub fn shows(&self, seconds: u64, selector: &str) -> Result<()> {
        let script = format!(
            "return document.querySelector({}) !== null",
            json!(selector)
        );
        self.wait(seconds, selector, &script).map(|_| ())
    }

    /// Waits until there is none.
    ///
    /// # Errors
    /// There is one still, after `seconds`.
    pub fn lacks(&self, seconds: u64, selector: &str) -> Result<()> {
        let script = format!(
            "return document.querySelector({}) === null",
            json!(selector)
        );
        let what = format!("no {selector}");
        self.wait(seconds, &what, &script).map(|_| ())
    }

    /// Waits until the element of this selector has this in its text.
    ///
    /// # Errors
    /// It has not, within `seconds`.
    pub fn reads(&self, seconds: u64, selector: &str, text: &str) -> Result<()> {
        let (at, part) = (json!(selector), json!(text));
        let script = format!("return document.querySelector({at})?.innerText.includes({part})");
        let what = format!("{text:?} in {selector}");
        self.wait(seconds, &what, &script).map(|_| ())
    }

    /// Presses keys where the focus is.
    ///
    /// # Errors
    /// It cannot.
    pub fn keys(&self, keys: &str) -> Result<()> {
        let press = |key: char| {
            ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
        };
        let actions: Vec<_> = keys.chars().flat_map(press).collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.ask("actions", &json!({ "actions": [keyboard] }))
            .map(|_| ())
    }

    /// What the console has said that is an error, and each address that was asked for, since this was called last.
    ///
    /// # Errors
    /// It is not told.
    pub fn said(&self) -> Result<(Vec<String>, Vec<String>)> {
        let console = self.ask("se/log", &json!({ "type": "browser" }))?;
        let console = console.as_array().context("a log")?.iter();
        let errors = console
            .filter(|entry| entry["level"] == "SEVERE")
            .map(ToString::to_string)
            .collect();
        let network = self.ask("se/log", &json!({ "type": "performance" }))?;
        let network = network.as_array().context("a log")?.iter();
        let asked = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            let url = message["params"]["request"]["url"].as_str()?;
            is_request.then(|| url.to_owned())
        };
        Ok((errors, network.filter_map(asked).collect()))
    }

    /// What the window shows, PNG in base64.
    ///
    /// # Errors
    /// It cannot be taken.
    pub fn picture(&self) -> Result<String> {
        let path = format!("/session/{}/screenshot", self.session);
        let picture = call(self.address, "GET", &path, &Value::Null)?;
        picture.as_str().map(ToOwned::to_owned).context("a picture")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with its session.
        let path = format!("/session/{}", self.session);
        let _ = call(self.address, "DELETE", &path, &Value::Null);
        // One that never became a session, or did not hear: its first process ends the others.
        let option = format!("--user-data-dir={}", self.files.display());
        for (pid, _) in processes_with(&option) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Browser {
    fn capabilities(&self, look: Look) -> Value {
        let mut arguments = vec![
            "--headless=new".to_owned(),
            // Tests run as root; the page is ours.
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--user-data-dir={}", self.files.display()),
        ];
        if look.dark {
            arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        let size = json!({ "width": look.width, "height": look.height, "pixelRatio": look.ratio, "touch": false, "mobile": false });
        json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "goog:chromeOptions": {
            "binary": BROWSER,
            "args": arguments,
            "mobileEmulation": { "deviceMetrics": size },
        },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    } } })
    }
}

/// A command and its answer.
fn call(address: SocketAddr, method: &str, path: &str, body: &Value) -> Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let (status, body) = answer(stream).context("chromedriver's answer")?;
    let mut answer: Value = serde_json::from_slice(&body)?;
    ensure!(status.contains(" 200 "), "{}", answer["value"]);
    Ok(answer["value"].take())
}

/// The first line and the body of an answer; the driver does not close the connection.
fn answer(stream: TcpStream) -> Result<(String, Vec<u8>)> {
    let mut stream = BufReader::new(stream);
    let (mut status, mut length) = (String::new(), 0);
    stream.read_line(&mut status)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, body))
}
