//! What goes over a host's connection to its broker: a proxy that passes bytes on and takes note of each PUBLISH
//! and PUBACK (MQTT 3.1.1, sections 3.3 and 3.4; MQTT 5.0 likewise).

use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;

use anyhow::{Context as _, Result};

/// Packet types, in the upper half of the first byte.
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;

/// A message as it was published.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// What it says.
    pub payload: Vec<u8>,
    /// The whole packet, in bytes.
    pub packet: usize,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Messages of the host, in order.
    pub messages: Vec<Message>,
    /// Acknowledgements of the broker, and their bytes.
    pub acknowledged: (usize, usize),
}

/// A running proxy; it ends with the program.
pub struct Tap {
    /// Where to connect to.
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Tap {
    /// Begins to pass connections on to `broker`.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start(broker: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let of_thread = Arc::clone(&seen);
        spawn(move || {
            for near in listener.incoming().flatten() {
                // A host whose broker is gone is told so by the end of its connection.
                let Ok(far) = TcpStream::connect(broker) else {
                    continue;
                };
                let _ = pass(near, far, &of_thread);
            }
        });
        Ok(Self { address, seen })
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        let seen = self.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn pass(near: TcpStream, far: TcpStream, seen: &Arc<Mutex<Seen>>) -> Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        let seen = Arc::clone(seen);
        spawn(move || {
            // The other way ends with this one.
            let _ = packets(&from, &to, &seen);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

/// Passes packets on until the connection ends.
fn packets(mut from: &TcpStream, mut to: &TcpStream, seen: &Mutex<Seen>) -> Result<()> {
    let mut version = 4;
    loop {
        let packet = read_packet(&mut from)?;
        to.write_all(&packet.bytes)?;
        let body = &packet.bytes[packet.head..];
        match packet.bytes[0] >> 4 {
            // A name with its length, then the version.
            CONNECT => version = *body.get(6).context("a version")?,
            PUBLISH => {
                let message = message(packet.bytes[0], body, version, packet.bytes.len())?;
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.messages.push(message);
            }
            PUBACK => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.acknowledged.0 += 1;
                seen.acknowledged.1 += packet.bytes.len();
            }
            _ => {}
        }
    }
}

struct Packet {
    bytes: Vec<u8>,
    /// Where what follows the fixed header begins.
    head: usize,
}

fn read_packet(from: &mut impl Read) -> Result<Packet> {
    let mut bytes = vec![0];
    from.read_exact(&mut bytes)?;
    let length = read_length(&mut || {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        bytes.push(byte[0]);
        Ok(byte[0])
    })?;
    let head = bytes.len();
    bytes.resize(head + length, 0);
    from.read_exact(&mut bytes[head..])?;
    Ok(Packet { bytes, head })
}

/// A variable byte integer: seven bits a byte, the lowest first.
fn read_length(next: &mut dyn FnMut() -> Result<u8>) -> Result<usize> {
    let mut length = 0;
    for place in 0..4 {
        let byte = next()?;
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(length)
}

fn message(first: u8, body: &[u8], version: u8, packet: usize) -> Result<Message> {
    let (length, rest) = body.split_first_chunk().context("a topic")?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (topic, mut rest) = rest.split_at_checked(length).context("a topic")?;
    // With QoS 1 an identifier follows.
    if first & 0b110 != 0 {
        rest = rest.get(2..).context("an identifier")?;
    }
    if version == 5 {
        let mut bytes = rest.iter();
        let length = read_length(&mut || bytes.next().copied().context("properties"))?;
        rest = bytes.as_slice().get(length..).context("properties")?;
    }
    Ok(Message {
        topic: String::from_utf8(topic.to_vec())?,
        payload: rest.to_vec(),
        packet,
    })
}
