//! A broker that does what no broker may: MQTT 5 written down from the standard (OASIS, 2019), as far as a client of ours
//! gets. It acknowledges everything and keeps nothing; to each subscription it answers with what it was given, retained
//! though nobody asked for that, or takes the session away.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

/// DISCONNECT, Session taken over (section 3.14.2.1).
const TAKEN_OVER: [u8; 4] = [0xe0, 2, 0x8e, 0];

/// What it does to whoever comes.
#[derive(Debug)]
pub enum Malice {
    /// Sends these messages, topic and payload, as retained ones.
    Retained(Vec<(String, Vec<u8>)>),
    /// Says to whoever subscribes or publishes that somebody else has come with the same client id, and hangs up.
    TakenOver,
}

/// A running one; its threads end with the test.
pub struct Hostile {
    /// Where it listens.
    pub address: SocketAddr,
    ids: Arc<Mutex<Vec<String>>>,
}

impl Hostile {
    /// Starts one.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start(malice: Malice) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (malice, ids) = (Arc::new(malice), Arc::default());
        let hostile = Self {
            address,
            ids: Arc::clone(&ids),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (malice, ids) = (Arc::clone(&malice), Arc::clone(&ids));
                // A connection that ends is no event.
                std::thread::spawn(move || drop(serve(stream, &malice, &ids)));
            }
        });
        Ok(hostile)
    }

    /// The client ids that have come, in order.
    pub fn ids(&self) -> Vec<String> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.clone()
    }
}

/// The client id of a CONNECT whose properties are shorter than 128 bytes (section 3.1).
fn id(body: &[u8]) -> String {
    let rest = &body[10..];
    let rest = &rest[1 + usize::from(rest[0])..];
    let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
    String::from_utf8_lossy(&rest[2..2 + length]).into_owned()
}

fn serve(mut stream: TcpStream, malice: &Malice, ids: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    loop {
        let (kind, body) = packet(&mut stream)?;
        match kind >> 4 {
            1 => {
                let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
                ids.push(id(&body));
                drop(ids);
                stream.write_all(&[0x20, 3, 0, 0, 0])?;
            }
            3 | 8 if matches!(malice, Malice::TakenOver) => return stream.write_all(&TAKEN_OVER),
            3 if kind & 6 != 0 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                stream.write_all(&[0x40, 2, body[2 + topic], body[3 + topic]])?;
            }
            8 => {
                subscribed(&mut stream, &body)?;
                if let Malice::Retained(messages) = malice {
                    for (topic, payload) in messages {
                        stream.write_all(&retained(topic, payload))?;
                    }
                }
            }
            12 => stream.write_all(&[0xd0, 0])?,
            14 => return Ok(()),
            _ => {}
        }
    }
}

/// One packet: its first byte, and what follows its length.
fn packet(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let kind = byte[0];
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((kind, body))
}

/// Grants QoS 1 for each filter.
fn subscribed(stream: &mut TcpStream, body: &[u8]) -> std::io::Result<()> {
    let mut rest = &body[3 + usize::from(body[2])..];
    let mut codes = vec![];
    while let [high, low, after @ ..] = rest {
        let filter = usize::from(u16::from_be_bytes([*high, *low]));
        rest = after.get(filter + 1..).unwrap_or_default();
        codes.push(1);
    }
    let mut answer = vec![0x90];
    answer.extend(length(3 + codes.len()));
    answer.extend([body[0], body[1], 0]);
    answer.extend(codes);
    stream.write_all(&answer)
}

/// PUBLISH with QoS 0, retained.
fn retained(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x31];
    packet.extend(length(2 + topic.len() + 1 + payload.len()));
    packet.extend((topic.len() as u16).to_be_bytes());
    packet.extend(topic.as_bytes());
    packet.push(0);
    packet.extend(payload);
    packet
}

/// A Variable Byte Integer (section 1.5.5).
fn length(mut length: usize) -> Vec<u8> {
    let mut bytes = vec![];
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        if length == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}
