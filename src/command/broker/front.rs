//! One port for both protocol versions: reads a connection's CONNECT packet just far enough to see
//! its protocol level, then hands the connection to the listener that speaks it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How long a client may take to say which version it speaks.
const HELLO: Duration = Duration::from_secs(10);
/// The most connections at once; further ones wait.
const MAX_CONNECTIONS: usize = 500;
/// A fixed header is 2 to 5 bytes, the protocol's name 2 + 4 or 2 + 6, its level 1
/// (MQTT 5, sections 2.1 and 3.1.2; MQTT 3.1 has the longer name).
const LONGEST_HEAD: usize = 5 + 8 + 1;

/// Where each version is spoken.
#[derive(Clone, Copy, Debug)]
pub struct Backends {
    /// MQTT 3.1.1 and 3.1.
    pub v4: SocketAddr,
    /// MQTT 5.
    pub v5: SocketAddr,
}

/// Accepts connections for ever.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(listener: std::net::TcpListener, backends: Backends) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, or a client that left again: neither ends the broker.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        tokio::spawn(async move {
            // A connection's end is no event for anyone but its client.
            let _ = pass(client, backends).await;
            drop(permit);
        });
    }
}

async fn pass(mut client: TcpStream, backends: Backends) -> io::Result<()> {
    let (head, level) = tokio::time::timeout(HELLO, read_head(&mut client)).await??;
    let backend = if level >= 5 { backends.v5 } else { backends.v4 };
    let mut server = TcpStream::connect(backend).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    server.write_all(&head).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// The first bytes of a connection, and the protocol level they name.
async fn read_head(client: &mut TcpStream) -> io::Result<(Vec<u8>, u8)> {
    let mut head = Vec::with_capacity(LONGEST_HEAD);
    loop {
        match protocol_level(&head) {
            Head::Level(level) => return Ok((head, level)),
            Head::Other => return Err(io::ErrorKind::InvalidData.into()),
            Head::Short => head.push(client.read_u8().await?),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Head {
    Short,
    Level(u8),
    Other,
}

/// The protocol level of the CONNECT packet that begins with `head`.
fn protocol_level(head: &[u8]) -> Head {
    let Some((kind, rest)) = head.split_first() else {
        return Head::Short;
    };
    if *kind != 0x10 {
        return Head::Other;
    }
    // The remaining length: at most four bytes, the last without its highest bit.
    let Some(length) = rest.iter().take(4).position(|b| b & 0x80 == 0) else {
        return if rest.len() < 4 {
            Head::Short
        } else {
            Head::Other
        };
    };
    let rest = &rest[length + 1..];
    let names: [&[u8]; 2] = [b"\0\x04MQTT", b"\0\x06MQIsdp"];
    for name in names {
        if rest.starts_with(name) {
            return rest
                .get(name.len())
                .map_or(Head::Short, |level| Head::Level(*level));
        }
    }
    if names.iter().any(|name| name.starts_with(rest)) {
        Head::Short
    } else {
        Head::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_found_at_its_byte_and_not_before() {
        for (head, level) in [
            (&b"\x10\x0c\0\x04MQTT\x04\x02"[..], 4),
            (b"\x10\x80\x80\x01\0\x04MQTT\x05", 5),
            (b"\x10\xff\xff\xff\x7f\0\x06MQIsdp\x03", 3),
        ] {
            let end = head.iter().rposition(|b| *b == level).unwrap();
            for short in 0..end {
                assert_eq!(protocol_level(&head[..short]), Head::Short, "{short}");
            }
            assert_eq!(protocol_level(&head[..=end]), Head::Level(level));
        }
    }

    #[test]
    fn what_is_no_connect_is_refused_early() {
        for bad in [
            &b"GET /"[..],
            b"\x20",
            b"\x10\xff\xff\xff\xff",
            b"\x10\x0c\0\x04HTTP",
            b"\x10\x0c\xff",
        ] {
            assert_eq!(protocol_level(bad), Head::Other, "{bad:?}");
        }
    }
}
