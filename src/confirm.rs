//! A confirmation: what a named Consumer has on its disk, and where it wants messages to begin again
//! (docs/DELIVERY.md, "Acknowledgement"). Signed by the Consumer's key, as it lets a guest forget rows.
//!
//! ```text
//! vmkpi/v1/SITE/confirm/CONSUMER/VM
//! {"site","consumer","vm","issued","data":{"confirmations":[{stream,point,specifier,through,want_from?}]},"signature"}
//! ```
//! The signature is over the exact bytes of `data` and the four attributes before it, so that it counts for
//! no other site, Consumer or VM; `issued` tells an old one that is sent again.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::name::{DataPoint, Label};
use crate::position::{Position, StreamId};
use crate::sign::{Keyring, Purpose, Refusal, SigningKey};
use crate::topic::Branch;

/// The most instances of one message; a Consumer that has more to say of a VM sends several.
pub const MAX_CONFIRMATIONS: usize = 256;
/// The largest message that is looked at, in bytes: one of [`MAX_CONFIRMATIONS`] with the longest names.
pub const MAX_BYTES: usize = 512 << 10;

/// Where a Consumer confirms what it has of a VM.
pub fn topic(site: &Label, consumer: &Label, vm: &Label) -> String {
    Branch::Confirm.topic(site, &[consumer, vm])
}

/// Who confirms what of whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// The primary site.
    pub site: Label,
    /// The Consumer, by its name in the VM's descriptor.
    pub consumer: Label,
    /// The VM, by its name in its descriptor.
    pub vm: Label,
}

impl Subject {
    /// Where its confirmations are published.
    pub fn topic(&self) -> String {
        topic(&self.site, &self.consumer, &self.vm)
    }
}

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

/// Why bytes are no confirmation that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotConfirmed {
    /// Too long, or not of the form.
    Malformed,
    /// It speaks of another site, Consumer or VM than its topic.
    Elsewhere,
    /// Its signature does not count.
    Refused(Refusal),
}

impl NotConfirmed {
    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Elsewhere => "another_topic",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Data {
    confirmations: Vec<Confirmed>,
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    site: Label,
    consumer: Label,
    vm: Label,
    issued: u64,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// A message of confirmations, signed. `issued` is greater than that of every earlier one of the Consumer's.
pub fn encode(
    subject: &Subject,
    issued: u64,
    confirmations: Vec<Confirmed>,
    key: &SigningKey,
) -> Vec<u8> {
    let data = serde_json::value::to_raw_value(&Data { confirmations });
    let data = data.expect("confirmations have string keys only");
    let signature = signed(subject, issued, |attributes| {
        key.sign(Purpose::Confirmation, attributes, data.get().as_bytes())
    });
    let wire = Wire {
        site: subject.site.clone(),
        consumer: subject.consumer.clone(),
        vm: subject.vm.clone(),
        issued,
        data: &data,
        signature: Some(signature),
    };
    serde_json::to_vec(&wire).expect("a confirmation has string keys only")
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
    let malformed = |_| NotConfirmed::Malformed;
    if bytes.len() > MAX_BYTES {
        return Err(NotConfirmed::Malformed);
    }
    let wire: Wire<'_> = serde_json::from_slice(bytes).map_err(malformed)?;
    if (&wire.site, &wire.consumer, &wire.vm) != (&subject.site, &subject.consumer, &subject.vm) {
        return Err(NotConfirmed::Elsewhere);
    }
    let data = wire.data.get();
    signed(subject, wire.issued, |attributes| {
        let signature = wire.signature.as_deref();
        let verified = keys.verify(
            Purpose::Confirmation,
            attributes,
            data.as_bytes(),
            signature,
        );
        verified.map(|_| ()).map_err(NotConfirmed::Refused)
    })?;
    let data: Data = serde_json::from_str(data).map_err(malformed)?;
    if data.confirmations.len() > MAX_CONFIRMATIONS {
        return Err(NotConfirmed::Malformed);
    }
    Ok((wire.issued, data.confirmations))
}

/// Hands the attributes that are signed to `with`.
fn signed<T>(subject: &Subject, issued: u64, with: impl FnOnce(&[(&str, &str)]) -> T) -> T {
    with(&[
        ("site", subject.site.as_str()),
        ("consumer", subject.consumer.as_str()),
        ("vm", subject.vm.as_str()),
        ("issued", &issued.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::RowKey;

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
        assert_eq!(of.topic(), "vmkpi/v1/acme/confirm/collect/shop a%2Bb");
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
