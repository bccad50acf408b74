//! Lines in and out of a byte stream, bounded. Decoding never allocates more than
//! [`MAX_LINE_BYTES`] for a line, whatever a peer announces or sends: an over-long line is counted,
//! skipped through its newline and reported once, and the stream goes on with the next line.

use serde::Serialize;

use super::Message;

/// The longest line accepted, newline included: room for one encrypted row of 1 MiB in base64 with
/// its frame, and for a page of ordinary rows.
pub const MAX_LINE_BYTES: usize = 2 << 20;

/// What was wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Over [`MAX_LINE_BYTES`]; skipped through its newline.
    #[error("a line over {MAX_LINE_BYTES} bytes was skipped")]
    TooLong,
    /// Not a message of the protocol.
    #[error("not a message of the link protocol: {0}")]
    Malformed(String),
}

/// One message as a line.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("link messages have string keys only");
    line.push(b'\n');
    line
}

/// Splits what arrives into lines and decodes them. Holds no file: bytes go in, messages come out.
#[derive(Debug, Default)]
pub struct LineReader {
    buffer: Vec<u8>,
    /// Bytes of `buffer` already searched for a newline.
    searched: usize,
    /// Bytes of `buffer` already handed out.
    taken: usize,
    skipping: bool,
}

impl LineReader {
    /// A reader at the beginning of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader that may have joined in the middle of a line: it discards up to the next newline.
    pub fn joining() -> Self {
        Self {
            skipping: true,
            ..Self::default()
        }
    }

    /// Takes bytes as they came. Call [`LineReader::next_message`] until it returns `None` before the next call: what is
    /// held stays below [`MAX_LINE_BYTES`] and one read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.searched -= self.taken;
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next line's message, if a whole line is there. Empty lines are passed over.
    pub fn next_message<T: Message>(&mut self) -> Option<Result<T, LineError>> {
        loop {
            let Some(end) = self.buffer[self.searched..]
                .iter()
                .position(|b| *b == b'\n')
                .map(|at| self.searched + at)
            else {
                return self.no_newline_yet();
            };
            let line = self.taken..end;
            self.taken = end + 1;
            self.searched = end + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let line = self.buffer[line].trim_ascii();
            if line.len() >= MAX_LINE_BYTES {
                return Some(Err(LineError::TooLong));
            }
            if !line.is_empty() {
                return Some(T::decode(line).map_err(|e| LineError::Malformed(e.to_string())));
            }
        }
    }

    fn no_newline_yet<T>(&mut self) -> Option<Result<T, LineError>> {
        self.searched = self.buffer.len();
        let held = self.buffer.len() - self.taken;
        if self.skipping {
            self.buffer.clear();
            (self.searched, self.taken) = (0, 0);
            return None;
        }
        if held < MAX_LINE_BYTES {
            return None;
        }
        self.buffer = Vec::new();
        (self.searched, self.taken, self.skipping) = (0, 0, true);
        Some(Err(LineError::TooLong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::HostMessage;
    use proptest::prelude::*;

    impl Message for serde_json::Value {
        fn decode(line: &[u8]) -> Result<Self, serde_json::Error> {
            serde_json::from_slice(line)
        }
    }

    fn drain(reader: &mut LineReader) -> Vec<Result<serde_json::Value, LineError>> {
        std::iter::from_fn(|| reader.next_message()).collect()
    }

    #[test]
    fn whoever_joins_in_the_middle_discards_up_to_the_next_newline() {
        let mut reader = LineReader::joining();
        reader.push(b"half\":1}\n{\"a\":1}\n");
        let got = drain(&mut reader);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].as_ref().unwrap()["a"], 1);
    }

    #[test]
    fn a_line_without_end_costs_bounded_memory_and_the_next_line_is_read() {
        let mut reader = LineReader::new();
        let mut errors = 0;
        for _ in 0..(3 * MAX_LINE_BYTES / 65536) {
            reader.push(&[b'x'; 65536]);
            errors += drain(&mut reader).len();
            assert!(reader.buffer.capacity() <= 2 * MAX_LINE_BYTES + 65536);
        }
        assert_eq!(errors, 1, "said once");
        reader.push(b"\n{\"a\":1}\n");
        assert_eq!(drain(&mut reader).len(), 1);
    }

    #[test]
    fn what_is_no_message_is_an_error_and_the_next_line_is_read() {
        for bad in [
            &b"nonsense"[..],
            b"{}",
            b"[[[[[[",
            b"{\"op\":\"hello\"}",
            b"\xff\xfe\x00",
            b"{\"op\":\"ack\",\"nonce\":-1}",
            b"{\"op\":\"launch\",\"nonce\":\"00000000000000000000000000000001\"}",
        ] {
            let mut reader = LineReader::new();
            reader.push(bad);
            reader.push(b"\n\r\n");
            assert!(matches!(
                reader.next_message::<HostMessage>(),
                Some(Err(LineError::Malformed(_)))
            ));
            assert!(reader.next_message::<HostMessage>().is_none());
        }
        let mut deep = vec![b'['; 100_000];
        deep.push(b'\n');
        let mut reader = LineReader::new();
        reader.push(&deep);
        assert!(reader.next_message::<HostMessage>().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_makes_no_difference(
            lines in prop::collection::vec("[a-z]{0,5}", 0..8),
            cuts in prop::collection::vec(1usize..7, 1..40),
        ) {
            let text: String = lines.iter().map(|l| format!("{{\"v\":\"{l}\"}}\n")).collect();
            let (mut reader, mut got, mut rest) = (LineReader::new(), Vec::new(), text.as_bytes());
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at(cut.min(rest.len()));
                reader.push(now);
                got.extend(drain(&mut reader).into_iter().map(|m| m.unwrap()["v"].as_str().unwrap().to_owned()));
                rest = later;
            }
            prop_assert_eq!(got, lines);
        }
    }
}
