//! Signed messages: which attributes a signature is over, and in which order (docs/MESSAGES.md, "Signed").

use super::wire::{Attribute, Outgoing, Wire, bytes};
use super::{Event, Received};
use crate::sign::{Keyring, Purpose, Refusal, SigningKey, VerifyingKey};

impl Event {
    /// The event as CloudEvents 1.0 in structured JSON, signed: its extension `signature` is a detached JWS.
    pub fn encode_signed(&self, key: &SigningKey) -> Vec<u8> {
        let data = self.data();
        let mut wire: Outgoing<'_> = self.outgoing(&data);
        let attributes = attributes(&wire);
        let signature = key.sign(
            Purpose::Message,
            &borrowed(&attributes),
            data.get().as_bytes(),
        );
        wire.signature = Some(signature);
        bytes(&wire)
    }
}

impl Received<'_> {
    /// Who has signed exactly this message.
    ///
    /// # Errors
    /// None of `ring`'s keys, and why the signature does not count.
    pub fn verify<'k>(&self, ring: &'k Keyring) -> Result<&'k VerifyingKey, Refusal> {
        let (attributes, data) = (attributes(&self.wire), self.wire.data.get().as_bytes());
        let signature = self.wire.signature.as_deref();
        ring.verify(Purpose::Message, &borrowed(&attributes), data, signature)
    }
}

fn borrowed<'a>(attributes: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    attributes.iter().map(|(n, v)| (*n, v.as_str())).collect()
}

/// Every attribute that this version writes, but the signature; those that are absent are left out. Values
/// are in CloudEvents' canonical text form, so that a number is the same as a string of its digits.
fn attributes<S: AsRef<str>, D>(wire: &Wire<S, D>) -> Vec<(&'static str, String)> {
    let text = |text: &S| Some(text.as_ref().to_owned());
    let number = |n: Attribute| Some(n.0.to_string());
    let all = [
        ("specversion", text(&wire.specversion)),
        ("id", Some(wire.id.clone())),
        ("source", Some(wire.source.clone())),
        ("subject", Some(wire.subject.to_string())),
        ("time", Some(wire.time.to_string())),
        ("type", text(&wire.event_type)),
        ("datacontenttype", text(&wire.datacontenttype)),
        ("stream", Some(wire.stream.to_string())),
        ("specifier", Some(wire.specifier.as_str().to_owned())),
        ("revision", text(&wire.revision)),
        ("after", number(wire.after)),
        ("afterkey", wire.afterkey.map(|key| key.to_string())),
        ("through", number(wire.through)),
        ("throughkey", wire.throughkey.map(|key| key.to_string())),
        ("base", number(wire.base)),
        ("basekey", wire.basekey.map(|key| key.to_string())),
        ("clockskewms", wire.clockskewms.map(|skew| skew.to_string())),
    ];
    let present = |(name, value): (&'static str, Option<String>)| Some((name, value?));
    all.into_iter().filter_map(present).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Body, Kind, Sealed};
    use super::*;
    use crate::clock::Timestamp;
    use crate::position::{Position, RowKey, StreamId};

    fn key() -> SigningKey {
        SigningKey::from_pem(include_str!("../sign/other-key.pem")).unwrap()
    }

    fn event() -> Event {
        Event {
            site: "acme".parse().unwrap(),
            vm: "shop".parse().unwrap(),
            point: "unencrypted/web".parse().unwrap(),
            specifier: "web-load".parse().unwrap(),
            revision: "00ff".into(),
            stream: StreamId(5),
            after: Position::new(16, RowKey(1)),
            through: Position::new(17, RowKey(0x9f3c)),
            base: Position::START,
            time: Timestamp::from_micros(1),
            clock_skew_ms: Some(-12),
            body: Body::Raw(Vec::new()),
        }
    }

    fn judge(bytes: &[u8]) -> Option<Result<(), Refusal>> {
        let ring = Keyring::from_iter([key().public().clone()]);
        let received = Received::decode(bytes).ok()?;
        Some(received.verify(&ring).map(|_| ()))
    }

    #[test]
    fn a_signed_message_reads_like_an_unsigned_one_and_verifies() {
        let sealed = Body::Sealed(Sealed {
            kind: Kind::Raw,
            envelope: "e30.AA.AA.AA.AA".into(),
        });
        for body in [Body::Raw(vec![]), Body::Gap("\u{1}\"é".into()), sealed] {
            let event = Event { body, ..event() };
            let bytes = event.encode_signed(&key());
            assert_eq!(Event::decode(&bytes).unwrap(), event);
            assert_eq!(judge(&bytes), Some(Ok(())));
            assert_eq!(judge(&event.encode()), Some(Err(Refusal::Unsigned)));
        }
    }

    /// Whatever single byte is altered: it is no message any more, or not a signed one, or it says the same.
    #[test]
    fn no_byte_can_be_altered_unnoticed() {
        let bytes = event().encode_signed(&key());
        let mut refused = 0;
        for place in 0..bytes.len() {
            for bit in [1, 2, 0x10, 0x20] {
                let mut altered = bytes.clone();
                altered[place] ^= bit;
                match judge(&altered) {
                    None => {}
                    Some(Err(_)) => refused += 1,
                    Some(Ok(())) => {
                        let said = Event::decode(&altered).unwrap();
                        assert_eq!(said, event(), "{}", String::from_utf8_lossy(&altered));
                    }
                }
            }
        }
        assert!(refused > 500, "{refused}");
    }

    #[test]
    fn what_is_twice_or_spelled_otherwise_deceives_nobody() {
        let text = String::from_utf8(event().encode_signed(&key())).unwrap();
        let with = |from: &str, to: &str| judge(text.replacen(from, to, 1).as_bytes());
        assert_eq!(with("{", r#"{"after":3,"#), None, "an attribute twice");
        assert_eq!(with("{", r#"{"data":{"samples":[]},"#), None, "data twice");
        let spaced = with(r#"{"samples":[]}"#, r#"{"samples": []}"#);
        assert_eq!(spaced, Some(Err(Refusal::Signature)), "its bytes");
        let dropped = with(r#","clockskewms":-12"#, "");
        assert_eq!(dropped, Some(Err(Refusal::Signature)));
        let text_number = with(r#""after":16"#, r#""after":"16""#);
        assert_eq!(text_number, Some(Ok(())), "the same number");
    }
}
