//! The demo: the real three programs, and nothing left of them, however it ends.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vmkpi_tests::process::program;
use vmkpi_tests::scratch::{Scratch, mounts_in, processes_of};
use vmkpi_tests::wait_for;

/// A demo whose folder is in `scratch`; ordered to end when this thread does.
fn demo(scratch: &Scratch, arguments: &[&str]) -> Result<Child> {
    let log = std::fs::File::create(scratch.path().join("demo.err"))?;
    Ok(Command::new(program("vmkpi")?)
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?)
}

fn words(scratch: &Scratch) -> String {
    std::fs::read_to_string(scratch.path().join("demo.err")).unwrap_or_default()
}

/// What is left in `scratch`: folders, mounts, processes.
fn left(scratch: &Scratch) -> Vec<String> {
    let mut left: Vec<String> = std::fs::read_dir(scratch.path())
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("vmkpi-demo-"))
        .collect();
    left.extend(
        mounts_in(scratch.path())
            .iter()
            .map(|m| m.display().to_string()),
    );
    left.extend(processes_of(scratch.path()));
    left
}

fn wait_until_mounted(scratch: &Scratch) -> Result<()> {
    wait_for(30, "the demo's invitation", || {
        words(scratch).contains("echo 42 >").then_some(())
    })
    .with_context(|| words(scratch))
}

fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("a process id")
}

#[test]
fn it_shows_samples_of_every_kind_and_leaves_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let child = demo(&scratch, &["--seconds", "10", "--format", "json"])?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.code() == Some(0),
        "{:?} {}",
        output.status,
        words(&scratch)
    );
    assert_eq!(left(&scratch), [""; 0]);
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context(text.clone())?;
    let of = |specifier: &str| lines.iter().filter(|l| l["specifier"] == specifier).count();
    ensure!(of("every-row") > 20, "{text}");
    ensure!(of("web-mean") >= 2, "{text}");
    ensure!(of("infra") >= 3, "{text}");
    ensure!(
        lines
            .iter()
            .all(|l| l["site"] == "home" && l["vm"] == "demo"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_value_of_ones_own_appears_and_ctrl_c_leaves_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let child = demo(&scratch, &["--format", "json"])?;
    wait_until_mounted(&scratch)?;
    let words = words(&scratch);
    let path = words
        .split("echo 42 > ")
        .nth(1)
        .and_then(|t| t.lines().next())
        .context("a path")?;
    // Until the host has joined, a store waits in the guest; either way it arrives.
    std::fs::write(path, "42\n")?;
    std::thread::sleep(std::time::Duration::from_secs(4));
    kill_process(pid(&child)?, Signal::INT)?;
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(left(&scratch), [""; 0]);
    let text = String::from_utf8(output.stdout)?;
    let mine = text
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let mine: Vec<Value> = mine.filter(|l| l["point"] == "unencrypted/mine").collect();
    assert_eq!(mine.len(), 1, "{text}");
    assert_eq!(mine[0]["values"]["column1"], 42);
    Ok(())
}

#[test]
fn a_demo_that_is_killed_leaves_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut child = demo(&scratch, &["--format", "json"])?;
    wait_until_mounted(&scratch)?;
    child.kill()?;
    child.wait()?;
    wait_for(20, "everything to be gone", || {
        left(&scratch).is_empty().then_some(())
    })
    .with_context(|| format!("{:?}", left(&scratch)))
}

#[test]
fn a_program_that_dies_ends_the_demo_and_is_named() -> Result<()> {
    for name in ["vmkpi-guest", "vmkpi-host"] {
        let scratch = Scratch::new()?;
        let child = demo(&scratch, &["--format", "json"])?;
        wait_until_mounted(&scratch)?;
        kill_program(&scratch, name)?;
        let output = child.wait_with_output()?;
        assert_eq!(output.status.code(), Some(1), "{name}: {}", words(&scratch));
        let words = words(&scratch);
        ensure!(
            words.contains(&format!("{name} ended by itself")),
            "{words}"
        );
        assert_eq!(left(&scratch), [""; 0]);
    }
    Ok(())
}

/// Kills the program of this demo, as kill -9 does.
fn kill_program(scratch: &Scratch, name: &str) -> Result<()> {
    let needle = scratch.path().to_string_lossy().into_owned();
    let pid = wait_for(10, name, || {
        std::fs::read_dir("/proc")
            .ok()?
            .flatten()
            .find_map(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line).into_owned();
                let first = line.split('\0').next()?;
                let ours = first.ends_with(name) && line.contains(&needle);
                ours.then(|| entry.file_name().to_string_lossy().parse::<i32>().ok())?
            })
    })?;
    kill_process(Pid::from_raw(pid).context("a process id")?, Signal::KILL)?;
    Ok(())
}

/// Run by root, the test becomes an ordinary user; run by one, every test here is this test.
#[test]
fn it_works_for_an_ordinary_user_too() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(scratch.path(), open)?;
    for name in ["vmkpi", "vmkpi-guest", "vmkpi-host"] {
        std::fs::copy(program(name)?, scratch.path().join(name))?;
    }
    // Debian's udev opens /dev/fuse to all; a container may have kept it shut.
    let script = "mount --make-rprivate / && mknod -m 666 $0/fuse c 10 229 && \
        mount --bind $0/fuse /dev/fuse && \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups $0/vmkpi demo --seconds 5 --format json";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(scratch.path())
        .env("TMPDIR", scratch.path())
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(0),
        "{:?} {said}",
        output.status
    );
    ensure!(
        output.stdout.iter().filter(|b| **b == b'\n').count() > 5,
        "{said}"
    );
    assert_eq!(left(&scratch), [""; 0]);
    Ok(())
}

#[test]
fn a_demo_whose_starter_is_killed_leaves_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let log = std::fs::File::create(scratch.path().join("demo.err"))?;
    // The `:` keeps the shell from becoming the demo itself.
    let script = format!("{} demo --format json; :", program("vmkpi")?.display());
    let mut shell = Command::new("sh")
        .args(["-c", &script])
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    wait_until_mounted(&scratch)?;
    shell.kill()?;
    shell.wait()?;
    wait_for(20, "everything to be gone", || {
        left(&scratch).is_empty().then_some(())
    })
    .with_context(|| format!("{:?}", left(&scratch)))
}

#[test]
fn a_missing_program_is_named_with_how_to_build_it() -> Result<()> {
    let scratch = Scratch::new()?;
    let alone = scratch.path().join("vmkpi");
    std::fs::copy(program("vmkpi")?, &alone)?;
    let output = Command::new(&alone)
        .arg("demo")
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("vmkpi-guest is not beside") && said.contains("cargo build"),
        "{said}"
    );
    Ok(())
}
