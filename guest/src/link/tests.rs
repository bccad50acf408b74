//! A host that is there and says nothing, on a real socket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use vmkpi::link::{GuestMessage, HostMessage, LineReader, VERSION, encode};
use vmkpi::position::Nonce;

use super::*;
use crate::config::Limits;

const SILENCE: Duration = Duration::from_millis(1500);
const NONCE: Nonce = Nonce(7);

struct Running {
    /// How often another context was looked for.
    hurried: Arc<AtomicUsize>,
    link: Link,
    store: Store,
    dir: tempfile::TempDir,
}

fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let counters = Arc::new(Counters::default());
    let feed = Arc::new(Feed::new().unwrap());
    let limits = Limits::default();
    let opened = Store::open(dir.path(), limits, Arc::clone(&counters), Arc::clone(&feed)).unwrap();
    let url = format!("unix:{}", dir.path().join("link.sock").display());
    let config = LinkConfig {
        url: url.parse().unwrap(),
        ..LinkConfig::default()
    };
    let parts = (opened.store.clone(), feed, counters);
    let guide = Arc::new(Guide::new().unwrap());
    let hurried = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hurried);
    guide.on_hang_up(move || {
        count.fetch_add(1, Ordering::Release);
    });
    let link = Link::start_patient(config, parts, guide, SILENCE).unwrap();
    Running {
        hurried,
        link,
        store: opened.store,
        dir,
    }
}

impl Running {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("link.sock")).unwrap();
        let patience = Some(Duration::from_millis(50));
        stream.set_read_timeout(patience).unwrap();
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.link.stop();
        self.store.close();
    }
}

/// Reads until the guest hangs up, and says something each time there is nothing to read; how long that was.
fn until_hung_up(
    stream: &mut UnixStream,
    mut say: impl FnMut(&mut UnixStream) -> bool,
) -> Duration {
    let begun = Instant::now();
    let mut bytes = [0; 4096];
    loop {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "it never hangs up"
        );
        match stream.read(&mut bytes) {
            Ok(0) => return begun.elapsed(),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if !say(stream) {
                    return begun.elapsed();
                }
            }
            // What was said last was not read any more.
            Err(_) => return begun.elapsed(),
        }
    }
}

fn hello() -> Vec<u8> {
    encode(&HostMessage::Hello {
        version: VERSION,
        nonce: NONCE,
        uuid: None,
        genid: None,
        have: Vec::new(),
    })
}

#[test]
fn a_host_that_says_nothing_is_hung_up_on() {
    let guest = start();
    assert!(until_hung_up(&mut guest.connect(), |_| true) >= SILENCE);
    let mut greeted = guest.connect();
    greeted.write_all(&hello()).unwrap();
    assert!(until_hung_up(&mut greeted, |_| true) >= SILENCE);
}

#[test]
fn half_a_line_byte_by_byte_and_lines_of_another_session_are_silence() {
    let guest = start();
    let mut slow = guest.connect();
    let hung_up = until_hung_up(&mut slow, |stream| {
        let _ = stream.write_all(b"x");
        true
    });
    assert!(hung_up >= SILENCE);
    let mut stranger = guest.connect();
    let ping = encode(&HostMessage::Ping { nonce: Nonce(8) });
    let hung_up = until_hung_up(&mut stranger, |stream| {
        let _ = stream.write_all(&ping);
        true
    });
    assert!(hung_up >= SILENCE);
}

#[test]
fn a_host_that_pings_may_stay_as_long_as_it_likes() {
    let guest = start();
    let mut host = guest.connect();
    host.write_all(&hello()).unwrap();
    let ping = encode(&HostMessage::Ping { nonce: NONCE });
    let begun = Instant::now();
    let stayed = until_hung_up(&mut host, |stream| {
        stream.write_all(&ping).unwrap();
        begun.elapsed() < 3 * SILENCE
    });
    assert!(stayed >= 3 * SILENCE);
    assert!(guest.link.state().connected);
}

/// Reads messages until the guest has answered a greeting with `nonce`.
fn until_greeted(stream: &mut UnixStream, reader: &mut LineReader, nonce: Nonce) {
    let until = Instant::now() + Duration::from_secs(30);
    let mut bytes = [0; 4096];
    loop {
        while let Some(message) = reader.next_message::<GuestMessage>() {
            if matches!(message, Ok(GuestMessage::Hello { nonce: n, .. }) if n == nonce) {
                return;
            }
        }
        assert!(Instant::now() < until, "it does not answer");
        if let Ok(count) = stream.read(&mut bytes) {
            reader.push(&bytes[..count]);
        }
    }
}

#[test]
fn a_host_that_joins_while_the_guest_is_silent_has_its_greeting_answered() {
    let guest = start();
    let mut host = guest.connect();
    host.write_all(&hello()).unwrap();
    until_greeted(&mut host, &mut LineReader::new(), NONCE);
    // As after a migration: the same connection to the guest, and a host that may be in the middle of a line.
    let again = HostMessage::Hello {
        version: VERSION,
        nonce: Nonce(9),
        uuid: None,
        genid: None,
        have: Vec::new(),
    };
    host.write_all(&encode(&again)).unwrap();
    until_greeted(&mut host, &mut LineReader::joining(), Nonce(9));
}

#[test]
fn a_host_of_a_newer_version_is_told_ours_and_nothing_else() {
    let guest = start();
    let mut host = guest.connect();
    let newer = HostMessage::Hello {
        version: VERSION + 1,
        nonce: Nonce(9),
        uuid: None,
        genid: None,
        have: Vec::new(),
    };
    host.write_all(&encode(&newer)).unwrap();
    until_greeted(&mut host, &mut LineReader::new(), Nonce(9));
    let until = Instant::now() + Duration::from_secs(30);
    while guest.link.state().other_version != Some(VERSION + 1) {
        assert!(Instant::now() < until, "status does not say so");
        std::thread::sleep(Duration::from_millis(5));
    }
    // One of our own version is spoken with on the same connection.
    host.write_all(&hello()).unwrap();
    until_greeted(&mut host, &mut LineReader::new(), NONCE);
    while guest.link.state().other_version.is_some() {
        assert!(Instant::now() < until, "status says so for ever");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_host_that_hangs_up_has_the_context_looked_for() {
    let running = start();
    let stream = running.connect();
    let until = Instant::now() + Duration::from_secs(30);
    while !running.link.state().connected {
        assert!(Instant::now() < until, "it does not take the connection");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(running.hurried.load(Ordering::Acquire), 0);
    drop(stream);
    while running.hurried.load(Ordering::Acquire) == 0 {
        assert!(Instant::now() < until, "the context is not looked for");
        std::thread::sleep(Duration::from_millis(5));
    }
}
