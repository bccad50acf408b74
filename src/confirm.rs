//! A confirmation: what a named Consumer has on its disk, and where it wants messages to begin again
//! (docs/DELIVERY.md, "Acknowledgement"). Signed by the Consumer's key, as it lets a guest forget rows.
//!
//! ```text
//! vmkpi/v1/SITE/confirm/CONSUMER/VM
//! {"site","consumer","vm","issued","data":{"confirmations":[{stream,point,specifier,through,want_from?}]},"signature"}
//! ```
//! The form is that of everything a Consumer says (`spoken`).

use serde::{Deserialize, Serialize};

use crate::name::{DataPoint, Label};
use crate::position::{Position, StreamId};
use crate::sign::{Keyring, Purpose, SigningKey};
use crate::spoken;
pub use crate::spoken::{NotHeard as NotConfirmed, Subject};

/// The most instances of one message; a Consumer that has more to say of a VM sends several.
pub const MAX_CONFIRMATIONS: usize = 256;
/// The largest message that is looked at, in bytes: one of [`MAX_CONFIRMATIONS`] with the longest names.
pub const MAX_BYTES: usize = 512 << 10;

/// What is confirmed of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The stream.
    pub stream: StreamId,
    /// The data point.
    pub point: DataPoint,
    /// The specifier's id.
    pub specifier: Label,
    /// Everything through here is on the Consumer's disk, without a hole.
    pub through: Position,
    /// Where messages are to begin again: something after it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub want_from: Option<Position>,
}

#[derive(Serialize, Deserialize)]
struct Data {
    confirmations: Vec<Confirmed>,
}

/// A message of confirmations, signed. `issued` is greater than that of every earlier one of the Consumer's.
pub fn encode(
    subject: &Subject,
    issued: u64,
    confirmations: Vec<Confirmed>,
    key: &SigningKey,
) -> Vec<u8> {
    let head = (subject, issued, Purpose::Confirmation);
    spoken::encode(head, &Data { confirmations }, key)
}

/// What a message on the topic of `subject` confirms, if one of `keys` signed it, and when it was issued.
///
/// # Errors
/// It does not count, and why.
pub fn decode(
    bytes: &[u8],
    subject: &Subject,
    keys: &Keyring,
) -> Result<(u64, Vec<Confirmed>), NotConfirmed> {
    let head = (subject, Purpose::Confirmation);
    let (issued, data): (_, Data) = spoken::decode(bytes, MAX_BYTES, head, keys)?;
    if data.confirmations.len() > MAX_CONFIRMATIONS {
        return Err(NotConfirmed::Malformed);
    }
    Ok((issued, data.confirmations))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::RowKey;
    use crate::sign::Refusal;
    use crate::topic::Branch;

    const KEY: &str = include_str!("sign/other-key.pem");

    fn subject(site: &str, consumer: &str, vm: &str) -> Subject {
        Subject {
            site: site.parse().unwrap(),
            consumer: consumer.parse().unwrap(),
            vm: vm.parse().unwrap(),
        }
    }

    fn one() -> Vec<Confirmed> {
        vec![Confirmed {
            stream: StreamId(7),
            point: "unencrypted/web".parse().unwrap(),
            specifier: "load".parse().unwrap(),
            through: Position::new(17, RowKey(9)),
            want_from: Some(Position::new(17, RowKey(9))),
        }]
    }

    fn keyring(key: &SigningKey) -> Keyring {
        [key.public().clone()].into_iter().collect()
    }

    #[test]
    fn a_confirmation_counts_for_its_site_consumer_and_vm_alone() {
        let key = SigningKey::from_pem(KEY).unwrap();
        let of = subject("acme", "collect", "shop a+b");
        assert_eq!(
            of.topic(Branch::Confirm),
            "vmkpi/v1/acme/confirm/collect/shop a%2Bb"
        );
        let bytes = encode(&of, 5, one(), &key);
        assert_eq!(decode(&bytes, &of, &keyring(&key)), Ok((5, one())));
        for other in [
            subject("acme", "collect", "other"),
            subject("other", "collect", "shop a+b"),
            subject("acme", "other", "shop a+b"),
        ] {
            let heard = decode(&bytes, &other, &keyring(&key));
            assert_eq!(heard, Err(NotConfirmed::Elsewhere));
            // Moved there by rewriting the envelope, which nobody signed.
            let moved = String::from_utf8(bytes.clone()).unwrap();
            let moved = moved.replace(
                r#""site":"acme","consumer":"collect","vm":"shop a+b""#,
                &format!(
                    r#""site":"{}","consumer":"{}","vm":"{}""#,
                    other.site, other.consumer, other.vm
                ),
            );
            let heard = decode(moved.as_bytes(), &other, &keyring(&key));
            assert_eq!(heard, Err(NotConfirmed::Refused(Refusal::Signature)));
        }
    }

    #[test]
    fn an_altered_or_unsigned_confirmation_does_not_count() {
        let key = SigningKey::from_pem(KEY).unwrap();
        let of = subject("acme", "collect", "shop");
        let bytes = String::from_utf8(encode(&of, 5, one(), &key)).unwrap();
        let heard = |text: &str| decode(text.as_bytes(), &of, &keyring(&key)).unwrap_err();
        let bad = NotConfirmed::Refused(Refusal::Signature);
        assert_eq!(heard(&bytes.replace("\"seq\":17", "\"seq\":18")), bad);
        assert_eq!(heard(&bytes.replace("\"issued\":5", "\"issued\":6")), bad);
        let unsigned = bytes.split(",\"signature\"").next().unwrap().to_owned() + "}";
        let refusal = NotConfirmed::Refused(Refusal::Unsigned);
        assert_eq!(heard(&unsigned), refusal);
        for end in 0..bytes.len() {
            assert!(decode(&bytes.as_bytes()[..end], &of, &keyring(&key)).is_err());
        }
        let nobody = decode(bytes.as_bytes(), &of, &Keyring::default());
        assert_eq!(nobody, Err(NotConfirmed::Refused(Refusal::UnknownKey)));
        let long = " ".repeat(MAX_BYTES) + &bytes;
        assert_eq!(heard(&long), NotConfirmed::Malformed);
    }
}
