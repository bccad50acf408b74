//! What the one who runs it sees: the configuration, signals, the service manager, status, the unit. The real
//! program, over libvirt's test driver, a real broker and guests on Unix sockets.

use std::io::BufRead as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::Value;

use crate::support::{DEADLINE, Guest, Mosquitto, Subscriber, free_port, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmkpi-host");

fn vmkpi_host(args: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(args)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into()
}

fn monitoring(vm: &str) -> String {
    format!(
        "vm = \"{vm}\"\nprimary_site = \"s\"\n[[monitor]]\nid = \"kpis\"\npoint = \"unencrypted/*\"\n\
         [[monitor]]\nid = \"cpu\"\npoint = \"infra/cpu\"\ninterval = \"1s\"\n"
    )
}

/// A folder with a hypervisor of two domains, `one` and `two`, which run; a guest and a descriptor for each.
struct Place {
    dir: tempfile::TempDir,
    guests: Vec<Guest>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Each connection reads the file anew: without a UUID each would have its own.
        let domain = |name: &str, digit: u8| {
            format!(
                "<domain type='test'><name>{name}</name><uuid>0000000{digit}-0000-4000-8000-000000000000</uuid><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>"
            )
        };
        let node = format!("<node>{}{}</node>", domain("one", 1), domain("two", 2));
        std::fs::write(dir.path().join("node.xml"), node).unwrap();
        let guest = |name: &str| Guest::start(&dir.path().join(format!("{name}.sock")));
        for name in ["one", "two"] {
            let file = dir.path().join(format!("{name}.toml"));
            std::fs::write(file, monitoring(name)).unwrap();
        }
        let guests = vec![guest("one"), guest("two")];
        Self { dir, guests }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration with these domains, and `more` at its beginning.
    fn configure(&self, broker: &str, domains: &[&str], more: &str) {
        let dir = self.dir.path().display();
        let mut text = format!(
            "{more}\nstate = '{dir}/state'\nlibvirt.uri = 'test://{dir}/node.xml'\nbroker.url = '{broker}'\n\
             web.listen_address = '127.0.0.1:{}'\n",
            free_port()
        );
        for domain in domains {
            text += &format!("guest.{domain} = 'unix:{dir}/{domain}.sock'\n");
            text += &format!("descriptor.{domain} = '{dir}/{domain}.toml'\n");
        }
        self.write_config(&text);
    }

    fn write_config(&self, text: &str) {
        std::fs::write(self.path("host.toml"), text).unwrap();
    }

    fn change_config(&self, change: impl Fn(&str) -> String) {
        let text = std::fs::read_to_string(self.path("host.toml")).unwrap();
        self.write_config(&change(&text));
    }

    fn config(&self) -> String {
        self.path("host.toml").display().to_string()
    }

    /// What `status` says, and with which exit status.
    fn status(&self) -> (Value, Option<i32>) {
        let out = vmkpi_host(&["status", "--config", &self.config(), "--format", "json"]);
        assert_eq!(
            out.stdout.lines().count(),
            1,
            "one object a line: {}",
            stderr(&out)
        );
        let json = serde_json::from_slice(&out.stdout).unwrap();
        (json, out.status.code())
    }
}

/// A running daemon, and the socket of its service manager.
struct Program {
    child: Child,
    log: PathBuf,
    notices: Receiver<String>,
}

/// What the service manager is told, as it comes.
fn listen(path: &Path) -> Receiver<String> {
    let _ = std::fs::remove_file(path);
    let socket = UnixDatagram::bind(path).unwrap();
    let (to, notices) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(n) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if to.send(text).is_err() {
                return;
            }
        }
    });
    notices
}

impl Program {
    fn start(place: &Place) -> Self {
        let path = place.path("notify");
        let notices = listen(&path);
        let log = place.path("log");
        let child = Command::new(PROGRAM)
            .args(["run", "--config", &place.config()])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "200000")
            .env_remove("WATCHDOG_PID")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let program = Self {
            child,
            log,
            notices,
        };
        program.told("READY=1");
        program
    }

    /// The next message to the service manager that begins so.
    fn told(&self, begin: &str) -> String {
        let start = Instant::now();
        loop {
            let text = self.notices.recv_timeout(DEADLINE).expect(begin);
            if text.starts_with(begin) {
                return text;
            }
            assert!(start.elapsed() < DEADLINE, "never: {begin}");
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Sends SIGHUP, and waits until it is done.
    fn reload(&self) -> String {
        self.signal("HUP");
        let reloading = self.told("RELOADING=1\nMONOTONIC_USEC=");
        let usec = reloading.lines().nth(1).unwrap().split('=').nth(1).unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0, "{reloading}");
        self.told("READY=1")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Ends it as the service manager does.
    fn stop(mut self) -> (ExitStatus, String) {
        self.signal("TERM");
        self.told("STOPPING=1");
        let status = self.child.wait().unwrap();
        (status, self.log())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn check_tells_every_mistake_at_once_and_runs_nothing() {
    let place = Place::new();
    let dir = place.dir.path().display().to_string();
    std::fs::write(place.path("bad.toml"), "vm = 'x'\nsevrice = 'y'\n").unwrap();
    place.write_config(&format!(
        "state = '{dir}/node.xml'\nlog_levl = 'info'\n[broker]\nurl = 'localhost'\ncredentials_file = '{dir}/none'\n\
         [web]\nlisten_address = 'everywhere'\n[guest]\none = 'http://x'\n\
         [descriptor]\none = '{dir}/bad.toml'\ntwo = '{dir}/none.toml'\n"
    ));
    let config = place.config();
    let out = Command::new(PROGRAM)
        .args(["run", "--check", "--config", &config])
        .args(["--outbox.max-bytes", "1", "--guest", "two"])
        .env("VMKPI_HOST_STAT", "/x")
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let said = stderr(&out).replace(&format!("{dir}/"), "");
    assert_eq!(out.status.code(), Some(2), "{said}");
    for line in [
        "host.toml:2: log_levl: unknown key; did you mean log_level?",
        "host.toml:4: broker.url: \"localhost\" is no broker: write mqtt:",
        "host.toml:7: web.listen_address: \"everywhere\" is no address: write 127.0.0.1:9878 or [::1]:9878",
        "host.toml:9: guest.one: \"http://x\" is no link URL",
        "VMKPI_HOST_STAT: unknown variable; did you mean VMKPI_HOST_STATE?",
        "--outbox.max-bytes: 1 is less than 1048576",
        "--guest: \"two\": write DOMAIN=URL",
        "[broker]: broker credentials none: No such file",
        "bad.toml: descriptor.one: line 2: sevrice: unknown key",
        "bad.toml: descriptor.one: primary_site: missing",
        "none.toml: descriptor.two: No such file",
        "state node.xml: it is no directory",
    ] {
        let line = format!("vmkpi-host: {line}");
        assert!(
            said.lines().any(|said| said.starts_with(&line)),
            "{line}\n{said}"
        );
    }
    assert_eq!(said.lines().count(), 12, "{said}");
    place.configure("mqtt://localhost", &["one", "two"], "");
    let out = vmkpi_host(&["run", "--check", "--config", &config]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(!place.path("state").exists());
}

#[tokio::test]
async fn sighup_adds_a_vm_and_a_wrong_file_changes_nothing_and_no_row_is_lost() {
    let mut broker = Mosquitto::start("allow_anonymous true");
    let subscriber = Subscriber::start(&broker).await;
    let place = Place::new();
    place.configure(&broker.url(), &["one"], "");
    let program = Program::start(&place);
    for value in 0..100 {
        place.guests[0].store("unencrypted/web", value);
        place.guests[1].store("unencrypted/web", value);
    }
    let rows = |vm: &str| subscriber.seqs(vm, "unencrypted/web").len();
    until("rows of the first VM", || rows("one") == 100).await;

    // Wrong: the settings before stay in force, every mistake is said.
    place.configure(&broker.url(), &["one", "two"], "log_levl = 'debug'");
    place.change_config(|text| text.replace("two.toml", "none.toml"));
    assert!(program.reload().contains("the one before stays in force"));
    let log = program.log();
    assert!(
        log.contains("did you mean log_level?") && log.contains("No such file"),
        "{log}"
    );
    let (status, _) = place.status();
    assert_eq!(status["vms"].as_array().unwrap().len(), 1, "{status}");

    // Right: the second VM is followed, what needs a restart is named, and the log says more.
    place.change_config(|text| {
        text.replace("log_levl", "outbox.max_bytes = 2_000_000\nlog_level")
            .replace("none.toml", "two.toml")
    });
    assert!(program.reload().contains("read anew"));
    let log = program.log();
    assert!(
        log.contains("web.listen_address changes when vmkpi-host is restarted"),
        "{log}"
    );
    assert!(
        log.contains("changed=\"log_level, outbox.max_bytes, guest, descriptor\""),
        "{log}"
    );
    until("rows of the second VM", || rows("two") == 100).await;
    let (status, _) = place.status();
    assert_eq!(status["live"]["outbox"]["limit_bytes"], 2_000_000);
    broker.kill();

    // Taken away: it is let go, and what its guest stores stays there.
    place.configure(&broker.url(), &["one"], "log_level = 'debug'");
    program.reload();
    until("the second VM let go", || {
        program.log().contains("VM let go")
    })
    .await;
    for value in 100..200 {
        place.guests[0].store("unencrypted/web", value);
        place.guests[1].store("unencrypted/web", value);
    }
    place.configure(&broker.url(), &["one", "two"], "log_level = 'debug'");
    program.reload();
    broker.restart();
    until("all rows of both", || {
        rows("one") == 200 && rows("two") == 200
    })
    .await;
    let guests = &place.guests;
    until("all acknowledged", || {
        guests
            .iter()
            .all(|guest| guest.unacknowledged("unencrypted/web") == 0)
    })
    .await;
    let (status, log) = program.stop();
    assert!(status.success() && log.contains("DEBUG"), "{log}");
}

#[tokio::test]
async fn status_says_who_is_well_and_what_to_do_about_who_is_not() {
    let place = Place::new();
    let broker = Mosquitto::start("allow_anonymous true");
    place.configure(&broker.url(), &["one", "two"], "");
    let (status, code) = place.status();
    assert_eq!((&status["running"], code), (&false.into(), Some(1)));
    assert!(
        status["advice"][0]
            .as_str()
            .unwrap()
            .contains("does not run")
    );

    let program = Program::start(&place);
    place.guests[0].store("unencrypted/web", 1);
    let row = |status: &Value| status["vms"][0]["rows_received"] == 1;
    let mut last = Value::Null;
    until("all is well", || {
        let (status, code) = place.status();
        assert_eq!(code, Some(i32::from(status["healthy"] != true)));
        let acknowledged = status["vms"][0]["rows_unacknowledged"] == 0;
        last = status;
        last["healthy"] == true && row(&last) && acknowledged
    })
    .await;
    let one = &last["vms"][0];
    assert_eq!((&one["domain"], &one["vm"]), (&"one".into(), &"one".into()));
    assert_eq!(
        (&one["link"]["state"], &one["points"]),
        (&"up".into(), &1.into())
    );
    assert_eq!(
        one["descriptor"]["source"],
        place.path("one.toml").to_str().unwrap()
    );
    assert_eq!(
        (&one["descriptor"]["valid"], &one["infra_streams"]),
        (&true.into(), &1.into())
    );
    assert!(one["last_row_age_ms"].as_u64().unwrap() < 60_000);
    let live = &last["live"];
    assert_eq!(
        (&live["version"], &live["pid"]),
        (
            &env!("CARGO_PKG_VERSION").into(),
            &program.child.id().into()
        )
    );
    assert_eq!(
        (&live["libvirt"]["domains"], &live["broker"]["connected"]),
        (&2.into(), &true.into())
    );
    let socket = place.path("state/control.sock").metadata().unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);

    // A guest that is not there, a descriptor that became wrong, and no broker.
    drop(broker);
    std::fs::write(place.path("one.toml"), "vm = 'one'\nsevrice = 'x'\n").unwrap();
    std::fs::remove_file(place.path("two.sock")).unwrap();
    place.change_config(|text| {
        text.replace("/two.sock", "/none.sock")
            .replace("one.toml", "two.toml")
    });
    until("each is told", || {
        let (status, code) = place.status();
        assert_eq!(code, Some(i32::from(status["healthy"] != true)));
        last = status;
        let refused = last["vms"][0]["descriptor"]["error"].is_string();
        refused && last["live"]["broker"]["connected"] == false
    })
    .await;
    assert!(
        last["advice"][0]
            .as_str()
            .unwrap()
            .contains("no broker is connected")
    );
    let advice = last["vms"][0]["advice"][0].as_str().unwrap();
    assert!(
        advice.contains("the one before stays in force") && advice.contains("sevrice"),
        "{advice}"
    );
    let out = vmkpi_host(&["status", "--config", &place.config()]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1));
    for expected in [
        "NOT CONNECTED",
        "=> no broker is connected",
        "=> one: its descriptor is refused",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    program.stop();
    let (status, code) = place.status();
    assert_eq!(
        (&status["running"], code),
        (&false.into(), Some(1)),
        "the socket is gone"
    );
}

#[test]
fn the_service_manager_is_told_ready_alive_and_stopping() {
    let place = Place::new();
    // No broker listens there: a daemon that waits for one is ready.
    place.configure(&format!("mqtt://127.0.0.1:{}", free_port()), &[], "");
    let program = Program::start(&place);
    program.told("STATUS=0 VMs followed; libvirt connected, broker not connected");
    for _ in 0..3 {
        program.told("WATCHDOG=1");
    }
    let (status, log) = program.stop();
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn the_log_is_quiet_when_all_is_well() {
    let broker = Mosquitto::start("allow_anonymous true");
    let place = Place::new();
    place.configure(&broker.url(), &["one", "two"], "");
    let program = Program::start(&place);
    let samples = |status: &Value| status["vms"][0]["messages_acknowledged"].as_u64() > Some(5);
    until("some seconds of measurements", || {
        samples(&place.status().0)
    })
    .await;
    let (status, log) = program.stop();
    assert!(status.success());
    let mut lines: Vec<&str> = log
        .lines()
        .map(|line| line.split("INFO").nth(1).unwrap_or(line))
        .collect();
    lines.sort_unstable();
    let found = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    let counts = [
        "started",
        "libvirt connected",
        "broker connected",
        "VM followed",
        "stops",
    ]
    .map(found);
    assert_eq!((counts, lines.len()), ([1, 1, 1, 2, 1], 6), "{log}");
}

#[test]
fn a_daemon_that_cannot_start_says_why_and_with_which_status() {
    let place = Place::new();
    let out = vmkpi_host(&["run", "--config", place.path("none").to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(2));
    assert!(
        stderr(&out).contains("it cannot be read"),
        "{}",
        stderr(&out)
    );
    place.configure("mqtt://localhost", &[], "");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let out = vmkpi_host(&[
        "run",
        "--config",
        &place.config(),
        "--web.listen-address",
        &address,
    ]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        stderr(&out).contains("listening on 127.0.0.1"),
        "{}",
        stderr(&out)
    );
}

fn unit(dir: &Path) -> PathBuf {
    let unit = include_str!("../../../packaging/vmkpi-host.service");
    let path = dir.join("vmkpi-host.service");
    std::fs::write(&path, unit.replace("/usr/bin/vmkpi-host", PROGRAM)).unwrap();
    path
}

#[test]
fn the_unit_is_valid_and_exposes_little() {
    let dir = tempfile::tempdir().unwrap();
    let path = unit(dir.path());
    let analyze = |args: &[&str]| {
        Command::new("systemd-analyze")
            .args(args)
            .arg(&path)
            .output()
    };
    // Its manual pages are the package's; tests/shipped/packages.rs has the unit where they are.
    let Ok(out) = analyze(&["verify", "--man=no"]) else {
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    };
    assert!(
        out.status.success() && stderr(&out).is_empty(),
        "{}",
        stderr(&out)
    );
    // Tenths of its own scale from 0 (locked up) to 10; what is missing is explained in the unit.
    let out = analyze(&["security", "--offline=yes", "--threshold=20"]).unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", stderr(&out));
}
