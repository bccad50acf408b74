//! A vsock port. Whether anything can connect to it here depends on the kernel: the loopback (context id 1, module
//! `vsock_loopback`) stands in for a host's end.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::common::{PROGRAM, until};
use socket2::{Domain, SockAddr, Socket, Type};
use vmkpi::link::{HostMessage, VERSION, encode};
use vmkpi::position::Nonce;

/// VMADDR_CID_LOCAL.
const LOOPBACK: u32 = 1;

/// A port that no other test of this process id uses.
fn port() -> u32 {
    1_000_000 + std::process::id()
}

fn connect(port: u32) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    let timeout = Duration::from_secs(5);
    socket.connect_timeout(&SockAddr::vsock(LOOPBACK, port), timeout)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(socket)
}

/// Why a guest cannot be reached over vsock on this machine, if it cannot.
fn obstacle() -> Option<String> {
    let listener = match Socket::new(Domain::VSOCK, Type::STREAM, None) {
        Ok(listener) => listener,
        Err(error) => return Some(format!("this kernel has no AF_VSOCK: {error}")),
    };
    let port = port() + 500_000;
    listener
        .bind(&SockAddr::vsock(u32::MAX, port))
        .and_then(|()| listener.listen(1))
        .and_then(|()| connect(port).map(drop))
        .err()
        .map(|error| format!("no loopback (module vsock_loopback): {error}"))
}

#[test]
fn a_guest_listens_on_vsock_and_answers_the_context_id_it_was_given_and_no_other() {
    if let Some(obstacle) = obstacle() {
        eprintln!("skipped: {obstacle}");
        return;
    }
    for (allowed, port) in [(LOOPBACK, port()), (2, port() + 1)] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(PROGRAM)
            .arg("run")
            .arg("--mount")
            .arg(dir.path().join("mnt"))
            .arg("--state")
            .arg(dir.path().join("state"))
            .args(["--link", &format!("vsock:{allowed}:{port}")])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the guest listens", || connect(port).is_ok());
        let mut host = connect(port).unwrap();
        let hello = HostMessage::Hello {
            version: VERSION,
            nonce: Nonce(1),
            uuid: None,
            genid: None,
            have: vec![],
        };
        // One that is refused may be closed before this is written.
        let _ = host.write_all(&encode(&hello));
        let mut answer = Vec::new();
        let mut byte = [0];
        while host.read(&mut byte).is_ok_and(|n| n == 1) && !answer.ends_with(b"}\n") {
            answer.push(byte[0]);
        }
        let answered = String::from_utf8(answer)
            .unwrap()
            .contains("\"op\":\"hello\"");
        child.kill().unwrap();
        child.wait().unwrap();
        let _ = Command::new("umount")
            .arg("-l")
            .arg(dir.path().join("mnt"))
            .status();
        assert_eq!(answered, allowed == LOOPBACK);
    }
}
