//! Public keys: the primary site's RSA key, and the Ed25519 keys of Consumers that confirm.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::rsa_key::RsaPublic;

/// What is wrong with an RSA public key in PEM; nothing, if it can be sealed to.
pub(super) fn check_rsa(pem: &str) -> Result<(), String> {
    RsaPublic::from_pem(pem)
        .map(|_| ())
        .map_err(|e| e.to_string())
}

/// The points of small order (RFC 7748, section 7, on the curve of RFC 8032), without their signs: with one
/// of them as a key, signatures can be made that verify for many messages.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        minus_one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

/// An Ed25519 public key (RFC 8032, section 5.1.2) in base64.
pub(crate) fn ed25519(text: &str) -> Result<[u8; 32], String> {
    let bytes = BASE64.decode(text.trim());
    let bytes = bytes.map_err(|_| "not base64 (RFC 4648, section 4)".to_owned())?;
    let key: [u8; 32] = bytes.try_into().map_err(|bytes: Vec<u8>| {
        let found = bytes.len();
        format!("{found} bytes; an Ed25519 public key is the base64 of its 32 bytes, without PEM")
    })?;
    let mut y = key;
    y[31] &= 0x7f;
    // y is below 2^255 - 19, least byte first.
    let canonical = y[31] != 0x7f || y[1..31].iter().any(|b| *b != 0xff) || y[0] < 0xed;
    match canonical && !SMALL_ORDER.contains(&y) {
        true => Ok(key),
        false => Err("no Ed25519 public key: no point of the curve, or one of small order".into()),
    }
}
