//! The link's lines, from both ends.

use vmkpi::link::Message;
use vmkpi::link::{
    GuestMessage, HistoryQuery, HostMessage, LineReader, MAX_LINE_BYTES, MAX_ROWS, encode,
};

/// What a guest reads: a message that was read is written and read as the same.
pub fn host_line(data: &[u8]) {
    let Ok(message) = HostMessage::decode(data) else {
        return;
    };
    let again = HostMessage::decode(&encode(&message));
    assert_eq!(again.ok().as_ref(), Some(&message));
    assert_eq!(
        again_nonce(&encode(&message)),
        Some(message.nonce().to_string())
    );
}

/// What a host reads, by the short way for rows and by the long one.
pub fn guest_line(data: &[u8]) {
    let Ok(message) = GuestMessage::decode(data) else {
        return;
    };
    let line = encode(&message);
    assert_eq!(GuestMessage::decode(&line).ok().as_ref(), Some(&message));
    let long_way: Result<GuestMessage, _> = serde_json::from_slice(&line);
    assert_eq!(long_way.ok().as_ref(), Some(&message));
    assert_eq!(again_nonce(&line), Some(message.nonce().to_string()));
    if let GuestMessage::History(page) = message {
        let query = HistoryQuery {
            point: page.point.clone(),
            from: page.rows.first().map(|row| row.time).unwrap_or_default(),
            to: page.rows.last().map(|row| row.time).unwrap_or_default(),
            after: page.next,
            limit: page.rows.len(),
        };
        if query.admits(&page) {
            assert!(page.rows.len() <= MAX_ROWS.max(1));
            assert!(page.rows.iter().all(|row| row.time < query.to));
        }
    }
}

fn again_nonce(line: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    Some(value["nonce"].as_str()?.to_owned())
}

/// However the bytes are cut, the same lines come out, and they are those between the newlines.
pub fn line_reader(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else {
        return;
    };
    let (joining, cut) = (cut & 1 == 1, usize::from(cut >> 1) + 1);
    let (mut reader, mut got) = (reader(joining), Vec::new());
    for piece in bytes.chunks(cut) {
        reader.push(piece);
        got.extend(drain(&mut reader));
    }
    let ended = bytes
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1);
    let lines = bytes[..ended]
        .split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii);
    let lines = lines
        .skip(usize::from(joining))
        .filter(|line| !line.is_empty());
    let due: Vec<_> = lines.map(|line| HostMessage::decode(line).ok()).collect();
    assert!(bytes.len() < MAX_LINE_BYTES);
    assert_eq!(got, due);
}

fn reader(joining: bool) -> LineReader {
    match joining {
        true => LineReader::joining(),
        false => LineReader::new(),
    }
}

fn drain(reader: &mut LineReader) -> Vec<Option<HostMessage>> {
    std::iter::from_fn(|| reader.next_message().map(Result::ok)).collect()
}
