use super::*;

/// The private key of RFC 8037, appendix A.1, in PKCS#8.
fn key() -> SigningKey {
    let d = BASE64URL.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
    let head = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    let der = [&head[..], &d.unwrap()].concat();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        BASE64.encode(der)
    );
    SigningKey::from_pem(&pem).unwrap()
}

fn other() -> SigningKey {
    SigningKey::from_pem(include_str!("other-key.pem")).unwrap()
}

const ATTRIBUTES: [(&str, &str); 3] = [("id", "1f"), ("subject", "unencrypted/wäb"), ("after", "")];
const DATA: &[u8] = br#"{"samples":[]}"#;

fn verify(
    ring: &Keyring,
    attributes: &Attributes<'_>,
    data: &[u8],
    jws: &str,
) -> Result<String, Refusal> {
    let found = ring.verify(Purpose::Message, attributes, data, Some(jws));
    found.map(|key| key.kid().to_owned())
}

#[test]
fn key_and_thumbprint_are_those_of_the_rfc() {
    let key = key();
    assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let x = BASE64URL.encode(key.public().bytes());
    assert_eq!(x, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
}

#[test]
fn the_payload_cannot_be_read_in_two_ways() {
    let text = payload(&ATTRIBUTES, DATA);
    let expected = "id 2 1f\nsubject 16 unencrypted/wäb\nafter 0 \n\n{\"samples\":[]}";
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    let one = payload(&[("a", "1\nb 1 2")], b"");
    let two = payload(&[("a", "1"), ("b", "2")], b"");
    assert_ne!(one, two);
}

#[test]
fn what_was_signed_verifies_and_nothing_else_does() {
    let (key, other) = (key(), other());
    let ring = Keyring::from_iter([key.public().clone(), other.public().clone()]);
    let jws = key.sign(Purpose::Message, &ATTRIBUTES, DATA);
    assert_eq!(verify(&ring, &ATTRIBUTES, DATA, &jws).unwrap(), key.kid());
    for place in 0..DATA.len() {
        let mut altered = DATA.to_vec();
        altered[place] ^= 1;
        let refused = verify(&ring, &ATTRIBUTES, &altered, &jws);
        assert_eq!(refused.unwrap_err(), Refusal::Signature);
    }
    for place in 0..ATTRIBUTES.len() {
        let mut altered = ATTRIBUTES;
        altered[place].1 = "1";
        let refused = verify(&ring, &altered, DATA, &jws);
        assert_eq!(refused.unwrap_err(), Refusal::Signature);
    }
    let fewer = verify(&ring, &ATTRIBUTES[..2], DATA, &jws);
    assert_eq!(fewer.unwrap_err(), Refusal::Signature);
    let elsewhere = ring.verify(Purpose::Confirmation, &ATTRIBUTES, DATA, Some(&jws));
    assert_eq!(elsewhere.unwrap_err(), Refusal::Signature);
}

/// A header of the forger's own, with a signature that is right for it.
fn forged(header: &str) -> String {
    let head = BASE64URL.encode(header);
    let input = signing_input(&head, &payload(&ATTRIBUTES, DATA));
    let signature = key().pair.sign(input.as_bytes());
    format!("{head}..{}", BASE64URL.encode(signature))
}

#[test]
fn each_refusal_has_its_kind() {
    let key = key();
    let ring = Keyring::from_iter([key.public().clone()]);
    let (kid, typ) = (key.kid(), Purpose::Message.as_str());
    let header = |alg: &str, rest: &str| {
        forged(&format!(
            r#"{{"alg":"{alg}","kid":"{kid}","typ":"{typ}"{rest}}}"#
        ))
    };
    assert!(verify(&ring, &ATTRIBUTES, DATA, &header("EdDSA", "")).is_ok());
    let jws = header("EdDSA", "");
    let (head, signature) = jws.split_once("..").unwrap();
    let strange = other().sign(Purpose::Message, &ATTRIBUTES, DATA);
    for (text, reason) in [
        (header("none", ""), Refusal::Algorithm),
        (header("HS256", ""), Refusal::Algorithm),
        (header("eddsa", ""), Refusal::Algorithm),
        (header("EdDSA", r#","crit":["b64"]"#), Refusal::Malformed),
        (header("EdDSA", r#","alg":"none""#), Refusal::Malformed),
        (header("EdDSA", r#","jwk":{}"#), Refusal::Malformed),
        (strange, Refusal::UnknownKey),
        (String::new(), Refusal::Malformed),
        (head.to_owned(), Refusal::Malformed),
        (format!("{head}.e30.{signature}"), Refusal::Malformed),
        (format!("{jws}="), Refusal::Malformed),
        (format!("{head}..{}", "A".repeat(2000)), Refusal::Malformed),
        (format!("{head}.."), Refusal::Signature),
        (format!("{head}..AAAA"), Refusal::Signature),
    ] {
        assert_eq!(
            verify(&ring, &ATTRIBUTES, DATA, &text).unwrap_err(),
            reason,
            "{text}"
        );
    }
    let none = ring.verify(Purpose::Message, &ATTRIBUTES, DATA, None);
    assert_eq!(none.unwrap_err(), Refusal::Unsigned);
    let nobody = verify(&Keyring::default(), &ATTRIBUTES, DATA, &jws);
    assert_eq!(nobody.unwrap_err(), Refusal::UnknownKey);
}

#[test]
fn public_keys_are_read_in_each_spelling_and_weak_ones_refused() {
    let public = include_str!("other-key.pub.pem");
    let key = VerifyingKey::from_text(public).unwrap();
    assert_eq!(&key, other().public());
    assert_eq!(VerifyingKey::from_text(&key.to_base64()).unwrap(), key);
    let rsa = include_str!("../seal/primary-key.pem");
    for bad in ["", "x", "AAAA", rsa, &public[..60]] {
        let refused = VerifyingKey::from_text(bad).unwrap_err();
        assert_eq!(refused, KeyError::Public, "{bad}");
        assert_eq!(SigningKey::from_pem(bad).unwrap_err(), KeyError::Private);
    }
    let small = BASE64.encode([0; 32]);
    assert_eq!(VerifyingKey::from_text(&small), Err(KeyError::Weak));
    assert!(!format!("{:?}", other()).contains("seed"));
}
