//! What the one who runs it sees: configuration, status, sealing, the owner's key, signals, the service
//! manager.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{Guest, PROGRAM, until};
use serde_json::Value;

const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/seal/primary-key.pem");
const SHORT_KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/seal/2048-bits.pem");

/// Runs the program with `input`; nothing of this machine's configuration counts.
fn vmkpi_guest(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may refuse before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into()
}

#[test]
fn check_names_file_line_and_key_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guest.toml");
    let mount = dir.path().join("mnt");
    std::fs::write(&file, format!("mount = '{}'\n", mount.display())).unwrap();
    let config = file.to_str().unwrap();
    let out = vmkpi_guest(&["run", "--check", "--config", config], b"");
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(String::from_utf8_lossy(&out.stdout).contains("valid"));
    std::fs::write(&file, "mount = '/x'\nstat = '/y'\n").unwrap();
    let out = vmkpi_guest(&["run", "--check", "--config", config], b"");
    assert_eq!(out.status.code(), Some(2));
    let expected = format!("vmkpi-guest: {config}:2: stat: unknown key; did you mean state?\n");
    assert_eq!(stderr(&out), expected);
    for (text, said) in [
        (
            format!("primary_key_file = '{SHORT_KEY}'"),
            "an RSA key of 2048 bits; 3072",
        ),
        (
            "primary_key_file = '/nonexistent'".into(),
            "primary_key_file /nonexistent: No such file",
        ),
        (
            "access.owner = 'nobody-knows'".into(),
            "access.owner: there is no user \"nobody-knows\"",
        ),
        (
            "[[poll]]\npoint='unencrypted/q'\ncommand=['x']\ninterval='1s'\nuser='nobody-knows'"
                .into(),
            "[[poll]] unencrypted/q: user: there is no user",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let out = vmkpi_guest(&["run", "--check", "--config", config], b"");
        assert!(
            !out.status.success() && stderr(&out).contains(said),
            "{}",
            stderr(&out)
        );
    }
    assert!(!mount.exists());
}

#[test]
fn status_shows_what_is_there_in_eighty_columns_and_says_whether_it_is_well() {
    let guest = Guest::start();
    guest.write("unencrypted/web", "users\n42\n").unwrap();
    let long = "x".repeat(200);
    guest.write(&format!("unencrypted/{long}"), "1\n").unwrap();
    guest
        .write("unencrypted/bad", "a,b\n\x1b[31m\n")
        .unwrap_err();
    let status = guest.status();
    assert_eq!(status["healthy"], false);
    assert_eq!(status["unacknowledged"], 2);
    assert!(status["free_bytes"].as_u64().unwrap() > 0);
    assert_eq!(
        status["live"]["limits"]["database_bytes"],
        4_294_967_296_u64
    );
    let web = status["points"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["point"] == "unencrypted/web");
    let web = web.unwrap();
    assert_eq!(
        (&web["rows"], &web["last"], &web["unacknowledged"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert!(web["last_store_age_ms"].as_u64().unwrap() < 60_000);
    assert_eq!(status["refused"][0]["input"], "a,b\n\u{1b}[31m\n");
    let state = guest.state();
    let out = vmkpi_guest(&["status", "--state", state.to_str().unwrap()], b"");
    assert!(
        out.status.success(),
        "status says what is, and that it could be told"
    );
    let text = String::from_utf8(out.stdout).unwrap();
    for line in text.lines() {
        assert!(line.chars().count() <= 80 || line.contains('/'), "{line}");
    }
    for expected in [
        "no host",
        "unencrypted/web",
        "refused inputs: 1",
        "GiB free",
        "=> no host is connected",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "no control codes: {text}");
    let check = vmkpi_guest(
        &["status", "--check", "--state", state.to_str().unwrap()],
        b"",
    );
    assert_eq!(check.status.code(), Some(1));
}

#[test]
fn the_status_of_a_program_that_does_not_run_says_so() {
    let mut guest = Guest::start();
    guest.write("unencrypted/web", "1\n").unwrap();
    guest.terminate();
    let status = guest.status();
    assert_eq!(
        (&status["running"], &status["healthy"]),
        (&false.into(), &false.into())
    );
    assert!(
        status["advice"][0]
            .as_str()
            .unwrap()
            .contains("does not run")
    );
    assert_eq!(status["points"][0]["rows"], 1);
    let missing = vmkpi_guest(&["status", "--state", "/nonexistent"], b"");
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        stderr(&missing).contains("/nonexistent"),
        "{}",
        stderr(&missing)
    );
}

/// Makes a key pair, seals with the program and opens with another library.
#[test]
fn what_is_sealed_is_opened_by_a_stock_library_and_bound_to_vm_and_point() {
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/open_sealed.py");
    // The interpreter that has Debian's python3-jwcrypto.
    let python = |args: &[&str], input: &[u8]| {
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
        out.stdout
    };
    let (private, public) = (
        dir.path().join("private.pem"),
        dir.path().join("public.pem"),
    );
    let (private, public) = (private.to_str().unwrap(), public.to_str().unwrap());
    python(&["new", private, public], b"");
    let content = b"users\n42\n\xff";
    let args = [
        "seal",
        "--point",
        "encrypted/orders",
        "--key",
        public,
        "--vm",
        "shop",
    ];
    let sealed = vmkpi_guest(&args, content);
    assert!(sealed.status.success(), "{}", stderr(&sealed));
    let opened: Value =
        serde_json::from_slice(&python(&["open", private], &sealed.stdout)).unwrap();
    let text: String = content.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(opened["content"], text);
    let header = &opened["header"];
    assert_eq!(
        (&header["alg"], &header["enc"]),
        (&"RSA-OAEP-256".into(), &"A256GCM".into())
    );
    assert_eq!(
        (&header["vm"], &header["point"]),
        (&"shop".into(), &"encrypted/orders".into())
    );
    assert_eq!(header["kid"], opened["thumbprint"]);
    assert_eq!(
        header.as_object().unwrap().len(),
        5,
        "no zip, no crit: {header}"
    );
    // Another header with the same content does not open.
    assert_eq!(opened["opens_as_another_point"], false);
}

#[test]
fn seal_takes_its_defaults_from_the_configuration_and_fits_a_store() {
    let config = format!("vm = 'shop'\nprimary_key_file = '{KEY}'\n");
    let guest = Guest::start_with_config(&config, &[]);
    let file = guest.dir().join("guest.toml");
    let file = file.to_str().unwrap();
    let pipe = format!(
        "printf 'users\\n42\\n' | {PROGRAM} seal --config {file} --point encrypted/orders > {}",
        guest.path("encrypted/orders").display()
    );
    assert!(
        Command::new("sh")
            .arg("-c")
            .arg(pipe)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(guest.read("encrypted/orders").split('.').count(), 5);
    let seal = |bytes: usize| {
        let args = ["seal", "--config", file, "--point", "encrypted/orders"];
        vmkpi_guest(&args, &vec![7; bytes])
    };
    let refused = seal(1 << 20);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    let said = stderr(&refused);
    let room: usize = said
        .split("more than ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let largest = seal(room);
    assert!(largest.status.success(), "{}", stderr(&largest));
    assert!(largest.stdout.len() > (1 << 20) - 4);
    guest.write("encrypted/orders", &largest.stdout).unwrap();
    assert_eq!(seal(room + 1).status.code(), Some(1));
}

#[test]
fn seal_refuses_what_would_not_keep_a_secret() {
    for (args, said) in [
        (
            vec!["--point", "unencrypted/x", "--key", KEY, "--vm", "v"],
            "is not in encrypted/",
        ),
        (
            vec!["--point", "encrypted/x", "--key", SHORT_KEY, "--vm", "v"],
            "an RSA key of 2048 bits; 3072",
        ),
        (
            vec!["--point", "encrypted/x", "--vm", "v"],
            "there is no key to seal to",
        ),
        (
            vec!["--point", "encrypted/x", "--key", KEY],
            "there is no VM to bind to",
        ),
    ] {
        let args: Vec<&str> = ["seal"].into_iter().chain(args).collect();
        let out = vmkpi_guest(&args, b"secret");
        assert!(!out.status.success() && out.stdout.is_empty());
        assert!(stderr(&out).contains(said), "{}", stderr(&out));
    }
    let nothing = vmkpi_guest(
        &["seal", "--point", "encrypted/x", "--key", KEY, "--vm", "v"],
        b"",
    );
    assert!(
        stderr(&nothing).contains("nothing on standard input"),
        "{}",
        stderr(&nothing)
    );
}

#[test]
fn the_owners_key_is_shown_to_applications_and_nobody_changes_it() {
    use nix::errno::Errno;
    let guest = Guest::start_with_config(&format!("primary_key_file = '{KEY}'\n"), &[]);
    let path = guest.path("primary-key.pem");
    assert_eq!(
        guest.read("primary-key.pem"),
        std::fs::read_to_string(KEY).unwrap()
    );
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o444);
    assert_eq!(found.len(), std::fs::metadata(KEY).unwrap().len());
    let listed: Vec<_> = std::fs::read_dir(guest.mount())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(listed, ["encrypted", "unencrypted", "primary-key.pem"]);
    // An application that looks at what close says has read it all the same.
    let opened = std::fs::File::open(&path).unwrap();
    opened.sync_all().unwrap();
    nix::unistd::close(opened).unwrap();
    let errno =
        |result: std::io::Result<()>| Errno::from_raw(result.unwrap_err().raw_os_error().unwrap());
    let write = OpenOptions::new().write(true).open(&path).map(drop);
    assert_eq!(errno(write), Errno::EACCES);
    assert_eq!(errno(std::fs::File::create(&path).map(drop)), Errno::EACCES);
    assert_eq!(errno(std::fs::remove_file(&path)), Errno::EPERM);
    assert_eq!(
        errno(std::fs::rename(&path, guest.path("other"))),
        Errno::EPERM
    );
    guest.write("unencrypted/w", "1\n").unwrap();
    assert_eq!(
        errno(std::fs::rename(guest.path("unencrypted/w"), &path)),
        Errno::EPERM
    );
    let mode = std::fs::Permissions::from_mode(0o666);
    assert_eq!(errno(std::fs::set_permissions(&path, mode)), Errno::EPERM);
    assert_eq!(
        guest.read("primary-key.pem"),
        std::fs::read_to_string(KEY).unwrap()
    );
    let without = Guest::start();
    assert!(!without.path("primary-key.pem").exists());
}

#[test]
fn sigterm_ends_it_within_seconds_though_the_mount_is_busy() {
    let mut guest = Guest::start();
    guest.write("unencrypted/w", "1\n").unwrap();
    // First: a child that is started closes what it inherits, which is a store.
    let mut inside = Command::new("sleep")
        .arg("1000")
        .current_dir(guest.path("unencrypted"))
        .spawn()
        .unwrap();
    let mut open = OpenOptions::new()
        .append(true)
        .open(guest.path("unencrypted/w"))
        .unwrap();
    open.write_all(b"2\n").unwrap();
    let (code, log) = guest.terminate();
    assert_eq!(
        (code, log.as_str()),
        (Some(0), ""),
        "quiet when all is well"
    );
    assert!(!guest.path("unencrypted").exists(), "unmounted");
    inside.kill().unwrap();
    inside.wait().unwrap();
    assert!(guest.query::<i64>("SELECT count(*) FROM w") >= 1);
    common::close(open).expect_err("whoever closes later is told");
}

#[test]
fn the_service_manager_is_told_ready_alive_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let receive = || {
        let mut buffer = [0; 512];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let child = service(dir.path(), &path).spawn().unwrap();
    let ready = receive();
    assert!(ready.starts_with("READY=1\nSTATUS=mounted at "), "{ready}");
    assert!(
        dir.path().join("mnt/encrypted").is_dir(),
        "ready means mounted"
    );
    for _ in 0..3 {
        assert_eq!(receive(), "WATCHDOG=1");
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    until("STOPPING", || receive().starts_with("STOPPING=1"));
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
}

fn service(dir: &Path, notify: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .arg("run")
        .arg("--mount")
        .arg(dir.join("mnt"))
        .arg("--state")
        .arg(dir.join("state"))
        .arg(format!("--link=unix:{}", dir.join("link.sock").display()))
        .env("NOTIFY_SOCKET", notify)
        .env("WATCHDOG_USEC", "200000")
        .env_remove("WATCHDOG_PID")
        .stderr(Stdio::piped());
    command
}

#[test]
fn under_the_journal_a_line_has_its_priority_and_neither_time_nor_colour() {
    let dir = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    let found = log.metadata().unwrap();
    let stream = format!("{}:{}", found.dev(), found.ino());
    let notify = dir.path().join("notify");
    let socket = UnixDatagram::bind(&notify).unwrap();
    let mut child = service(dir.path(), &notify)
        .args(["--log-level", "info"])
        .env("JOURNAL_STREAM", stream)
        .stderr(log)
        .spawn()
        .unwrap();
    socket.recv(&mut [0; 512]).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    let said = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(
        said.starts_with("<6> INFO ") && said.contains("the partition is mounted"),
        "{said}"
    );
    assert!(
        said.lines().all(|line| line.starts_with("<6> INFO ")),
        "{said}"
    );
    let mut guest = Guest::start_with_config("log_level = 'info'\n", &[]);
    let (_, log) = guest.terminate();
    assert!(
        log.contains("the partition is mounted") && log.contains("INFO"),
        "{log}"
    );
    assert!(
        !log.contains('\u{1b}') && log.starts_with("20"),
        "time, and no colour in a pipe: {log}"
    );
}

#[test]
fn the_unit_is_valid_and_leaves_the_mount_where_others_see_it() {
    let unit = include_str!("../../packaging/vmkpi-guest.service");
    // Each of these gives the service a mount namespace of its own (systemd.exec(5)).
    for option in [
        "PrivateTmp",
        "PrivateDevices",
        "PrivateIPC",
        "ProtectSystem",
        "ProtectHome",
        "ProtectProc",
        "ProcSubset",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "BindPaths",
        "TemporaryFileSystem",
        "DynamicUser",
        "RootDirectory",
        "MountFlags",
        "PrivateNetwork",
    ] {
        assert!(
            !unit
                .lines()
                .any(|line| line.starts_with(&format!("{option}="))),
            "{option}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmkpi-guest.service");
    std::fs::write(&path, unit.replace("/usr/bin/vmkpi-guest", PROGRAM)).unwrap();
    let Ok(out) = Command::new("systemd-analyze")
        // Its manual pages are the package's; tests/shipped/packages.rs has the unit where they are.
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
    else {
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    };
    assert!(
        out.status.success() && stderr(&out).is_empty(),
        "{}",
        stderr(&out)
    );
}
