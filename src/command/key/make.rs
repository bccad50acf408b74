//! New keys, as texts in PEM. By aws-lc-rs; every other library reads them.

use anyhow::{Context as _, anyhow};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use spki::der::pem::{LineEnding, encode_string};

use super::super::folder::NewFile;

/// The sizes that can be made.
const RSA_SIZES: [(u32, KeySize); 3] = [
    (3072, KeySize::Rsa3072),
    (4096, KeySize::Rsa4096),
    (8192, KeySize::Rsa8192),
];
/// SubjectPublicKeyInfo of an Ed25519 key but its 32 bytes (RFC 8410, section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Bits of an RSA key, as they are given.
pub(super) fn rsa_bits(text: &str) -> Result<u32, String> {
    let known = RSA_SIZES.map(|(bits, _)| bits);
    let bits = text.parse().ok().filter(|bits| known.contains(bits));
    bits.ok_or_else(|| format!("write one of {known:?}: a key under 3072 bits is not sealed to"))
}

/// The key that is sealed to, and the one that opens.
pub(super) fn seal(bits: u32) -> anyhow::Result<[NewFile; 2]> {
    let size = RSA_SIZES.iter().find(|(known, _)| *known == bits);
    let (_, size) = size.with_context(|| format!("no RSA keys of {bits} bits are made"))?;
    let key = PrivateDecryptingKey::generate(*size).map_err(|_| anyhow!("no RSA key was made"))?;
    let private: Pkcs8V1Der<'_> = key.as_der().map_err(|_| anyhow!("no RSA key was made"))?;
    let public: Result<PublicKeyX509Der<'_>, _> = key.public_key().as_der();
    let public = public.map_err(|_| anyhow!("no RSA key was made"))?;
    Ok([
        NewFile::secret(
            "seal.key.pem",
            pem("PRIVATE KEY", private.as_ref())?,
            "SECRET: opens what was sealed (vmkpi watch --key, vmkpi open --key); back it up",
        ),
        NewFile::public(
            "seal.pub.pem",
            pem("PUBLIC KEY", public.as_ref())?,
            "is sealed to: primary_key of VM descriptors, and the guests' primary_key_file",
        ),
    ])
}

/// The key that signs, and the one by which that is known.
pub(super) fn sign() -> anyhow::Result<[NewFile; 2]> {
    let failed = |_| anyhow!("no Ed25519 key was made");
    let key = Ed25519KeyPair::generate().map_err(failed)?;
    let private = key.to_pkcs8v1().map_err(failed)?;
    let public = [&ED25519_SPKI[..], key.public_key().as_ref()].concat();
    Ok([
        NewFile::secret(
            "sign.key.pem",
            pem("PRIVATE KEY", private.as_ref())?,
            "SECRET: signs (vmkpi-host run --sign.key-file on each host of the site; or a Consumer's confirmations)",
        ),
        NewFile::public(
            "sign.pub.pem",
            pem("PUBLIC KEY", &public)?,
            "is believed: vmkpi watch --trust; a Consumer's also as [[confirm]] key of VM descriptors",
        ),
    ])
}

/// PEM (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> anyhow::Result<String> {
    encode_string(label, LineEnding::LF, der).map_err(|error| anyhow!("no PEM was made: {error}"))
}
