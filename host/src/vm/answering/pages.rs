//! From a guest's page to pages of an answer: as few as there can be, none larger than a message. Pure.

use vmkpi::link::{HistoryPage, HistoryPosition};
use vmkpi::message::Sample;
use vmkpi::query::{MAX_PAGE_BYTES, MAX_ROW_BYTES, Page, Trimmed};

/// What a page needs besides its rows, in bytes: the names of site, Consumer, VM and point, the signature, places.
const FRAME_BYTES: usize = 4096;

/// Bytes of rows in a page; sealed, they are a third longer (base64), and their envelope has a header.
pub(super) fn room(sealed: bool) -> usize {
    let room = MAX_PAGE_BYTES - FRAME_BYTES;
    match sealed {
        true => (room - FRAME_BYTES) / 4 * 3,
        false => room,
    }
}

/// The pages that a guest's page comes to, which goes on from `after`: at least one. Which is the answer's last is
/// not known here.
pub(super) fn split(found: &HistoryPage, after: Option<HistoryPosition>, room: usize) -> Vec<Page> {
    let empty = |after| Page {
        point: found.point.clone(),
        stream: found.stream,
        after,
        samples: Vec::new(),
        next: found.next,
        last: false,
        trimmed: None,
        left_out: 0,
    };
    let (mut pages, mut page, mut bytes) = (Vec::new(), empty(after), 0);
    page.trimmed = found.trimmed.map(|trimmed| Trimmed {
        through: trimmed.seq,
        time: trimmed.time,
    });
    for row in &found.rows {
        let sample = Sample::of_row(&found.columns, row);
        let size = sample.size_bytes();
        if size > MAX_ROW_BYTES {
            page.left_out += 1;
            continue;
        }
        if bytes + size > room
            && let Some(last) = page.samples.last()
        {
            let next = Some(HistoryPosition {
                stream: found.stream,
                seq: last.seq,
            });
            page.next = next;
            pages.push(std::mem::replace(&mut page, empty(next)));
            bytes = 0;
        }
        bytes += size;
        page.samples.push(sample);
    }
    pages.push(page);
    pages
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::clock::Timestamp;
    use vmkpi::link::{Payload, Row};
    use vmkpi::position::{Mark, Nonce, RowKey, StreamId};
    use vmkpi::value::Value;

    fn row(seq: u64, bytes: usize) -> Row {
        Row {
            seq,
            key: RowKey(seq),
            epoch: 1,
            time: Timestamp::from_micros(1),
            payload: Payload::Values(vec![Value::Text("x".repeat(bytes).into())]),
        }
    }

    fn found(rows: Vec<Row>) -> HistoryPage {
        HistoryPage {
            nonce: Nonce(1),
            id: 1,
            point: "unencrypted/web".parse().unwrap(),
            stream: StreamId(7),
            columns: ["a".into()].into(),
            rows,
            next: Some(HistoryPosition {
                stream: StreamId(8),
                seq: 0,
            }),
            trimmed: Some(Mark {
                seq: 2,
                ..Mark::default()
            }),
            unknown: false,
        }
    }

    #[test]
    fn each_row_is_in_one_page_and_each_page_goes_on_where_the_one_before_ends() {
        let mut rows: Vec<Row> = (3..100).map(|seq| row(seq, 300)).collect();
        rows[40] = row(43, 5000);
        rows[50] = row(53, MAX_ROW_BYTES);
        let found = found(rows);
        let pages = split(&found, None, 2000);
        let seqs: Vec<u64> = pages
            .iter()
            .flat_map(|page| page.samples.iter().map(|s| s.seq))
            .collect();
        let due: Vec<u64> = (3..100).filter(|seq| *seq != 53).collect();
        assert_eq!(seqs, due);
        for page in &pages {
            let bytes: usize = page.samples.iter().map(Sample::size_bytes).sum();
            assert!(bytes <= 2000 || page.samples.len() == 1);
        }
        assert!(pages.windows(2).all(|w| w[0].next == w[1].after));
        assert_eq!(pages.last().unwrap().next, found.next);
        assert_eq!(pages.iter().map(|p| p.left_out).sum::<u64>(), 1);
        let trimmed = pages.iter().filter(|page| page.trimmed.is_some()).count();
        assert_eq!(trimmed, 1);
    }

    #[test]
    fn a_page_without_rows_is_a_page() {
        let found = found(Vec::new());
        let pages = split(&found, found.next, room(true));
        assert_eq!(pages.len(), 1);
        assert_eq!((pages[0].after, pages[0].next), (found.next, found.next));
    }

    #[test]
    fn a_full_page_fits_into_a_message_sealed_or_not() {
        use vmkpi::query::{Answer, Body, Subject};
        let key = include_str!("../../../../schemas/vectors/seal.pub.pem");
        let key = vmkpi::seal::SealingKey::fast_from_pem(key).unwrap();
        let sign = include_str!("../../../../schemas/vectors/sign.key.pem");
        let sign = vmkpi::sign::SigningKey::from_pem(sign).unwrap();
        let name = "\"".repeat(200);
        let of = Subject {
            site: name.parse().unwrap(),
            consumer: name.parse().unwrap(),
            vm: name.parse().unwrap(),
        };
        for sealed in [false, true] {
            let mut found = found((1..1000).map(|seq| row(seq, 700)).collect());
            found.point = format!("unencrypted/{name}").parse().unwrap();
            let page = split(&found, None, room(sealed)).swap_remove(0);
            let answer = Answer {
                id: vmkpi::position::QueryId(1),
                page: 255,
                body: Body::Page(page),
            };
            let answer = match sealed {
                true => answer.seal(&of.vm, &key).unwrap(),
                false => answer,
            };
            let bytes = answer.encode(&of, u64::MAX, Some(&sign)).len();
            assert!(
                bytes <= MAX_PAGE_BYTES && bytes > MAX_PAGE_BYTES * 8 / 10,
                "{bytes}"
            );
        }
    }
}
