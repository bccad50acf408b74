//! A host, for tests.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::common::Guest;
use vmkpi::link::{
    From, GuestMessage, Have, HostMessage, LineReader, Rows, TableId, TableInfo, VERSION, encode,
};
use vmkpi::position::{Nonce, Position, StreamId};

/// Long enough for a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host that keeps to the protocol.
pub struct Host {
    pub stream: UnixStream,
    pub reader: LineReader,
    pub nonce: Nonce,
}

impl Host {
    pub fn connect(guest: &Guest, nonce: u128) -> Self {
        let stream = UnixStream::connect(guest.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        Self {
            stream,
            reader: LineReader::new(),
            nonce: Nonce(nonce),
        }
    }

    pub fn say(&mut self, message: &HostMessage) {
        self.stream.write_all(&encode(message)).unwrap();
    }

    pub fn hello(&mut self, have: Vec<Have>) -> (StreamId, Vec<TableInfo>) {
        self.hello_as(have, None)
    }

    pub fn hello_as(&mut self, have: Vec<Have>, uuid: Option<&str>) -> (StreamId, Vec<TableInfo>) {
        let nonce = self.nonce;
        let uuid = uuid.map(str::to_owned);
        self.say(&HostMessage::Hello {
            version: VERSION,
            nonce,
            uuid,
            genid: None,
            have,
        });
        let mut all = Vec::new();
        let stream = self.expect(|message| match message {
            GuestMessage::Hello {
                version,
                nonce: n,
                stream,
                tables,
                more,
            } => {
                assert_eq!((version, n), (VERSION, nonce));
                all.extend(tables);
                (!more).then_some(stream)
            }
            _ => None,
        });
        (stream, all)
    }

    pub fn subscribe(&mut self, patterns: &[&str], from: Vec<From>) {
        let patterns = patterns.iter().map(|p| p.parse().unwrap()).collect();
        self.say(&HostMessage::Subscribe {
            nonce: self.nonce,
            patterns,
            from,
        });
    }

    pub fn ack(&mut self, table: &TableId, cursors: Vec<Position>) {
        self.say(&HostMessage::Ack {
            nonce: self.nonce,
            table: table.clone(),
            cursors,
        });
    }

    pub fn rows(&mut self) -> Rows {
        self.expect(|message| match message {
            GuestMessage::Rows(rows) => Some(rows),
            _ => None,
        })
    }

    pub fn next(&mut self, patience: Duration) -> Option<GuestMessage> {
        let until = Instant::now() + patience;
        loop {
            if let Some(message) = self.reader.next_message::<GuestMessage>() {
                return Some(message.unwrap());
            }
            let mut bytes = [0; 65536];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(length) => self.reader.push(&bytes[..length]),
                Err(_) if Instant::now() < until => {}
                Err(_) => return None,
            }
        }
    }

    pub fn expect<T>(&mut self, mut wanted: impl FnMut(GuestMessage) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(found) = self.next(PATIENCE).and_then(&mut wanted) {
                return found;
            }
        }
        panic!("it does not come");
    }
}

pub fn table(stream: StreamId, point: &str) -> TableId {
    TableId {
        stream,
        point: point.parse().unwrap(),
    }
}
