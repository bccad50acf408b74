//! What a specifier seals leaves sealed, whatever kind of message it is in and whatever else is monitored.

use super::pair::Pair;
use super::*;

const KEY: &str = include_str!("../../seal/primary-key.pem");

fn text(seal: &str) -> String {
    format!(
        "primary_key = \"\"\"\n{KEY}\"\"\"\n[[monitor]]\nid = 'x'\npoint = 'unencrypted/x*'\nwhen = 'a > 10'\n{seal}\n\
         [[monitor]]\nid = 'open'\npoint = 'unencrypted/y'\n"
    )
}

#[test]
fn every_message_of_a_sealing_specifier_says_for_whom_and_no_other_does() {
    let mut pair = Pair::with(&text("seal = true"), Vec::new());
    let columns: Arc<[Box<str>]> = [COLUMN.into()].into();
    for (second, value) in (0..).zip([11, 1, 12, 1]) {
        let value = || vec![Value::Integer(value)];
        pair.store_at("unencrypted/x", &columns, value(), second * 1000);
        pair.store_at("unencrypted/y", &columns, value(), second * 1000);
    }
    // The last row was kept back: an empty message covers it.
    pair.tick(20_000);
    let of = |pair: &Pair, id: &str| -> Vec<bool> {
        let all = pair.published.iter().zip(&pair.seal_to);
        all.filter(|(event, _)| event.specifier.as_str() == id)
            .map(|(_, to)| to.as_deref() == Some(KEY.trim()))
            .collect()
    };
    let (sealed, open) = (of(&pair, "x"), of(&pair, "open"));
    assert!(
        sealed.len() >= 3 && sealed.iter().all(|to| *to),
        "{sealed:?}"
    );
    assert!(open.len() >= 4 && !open.iter().any(|to| *to), "{open:?}");
    let is_sealed = |pair: &Pair, point: &str| pair.producer.is_sealed(&point.parse().unwrap());
    assert!(is_sealed(&pair, "unencrypted/x") && !is_sealed(&pair, "unencrypted/y"));
    pair.describe(&text(""), 21_000);
    let before = pair.published.len();
    pair.store_at("unencrypted/x", &columns, vec![Value::Integer(13)], 22_000);
    assert!(pair.published.len() > before);
    assert!(pair.seal_to[before..].iter().all(Option::is_none));
    assert!(!is_sealed(&pair, "unencrypted/x"));
}
