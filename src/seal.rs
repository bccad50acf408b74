//! The sealed envelope, its making: a compact JWE (RFC 7516, section 3.1) that nobody opens but the owner
//! of an RSA key, with RSA-OAEP-256 and A256GCM (RFC 7518, sections 4.3 and 5.3) and nothing else. The
//! protected header says whose data it is, so an envelope that is moved to another VM or point does not open
//! as that one's.
//!
//! ```text
//! BASE64URL(header) . BASE64URL(encrypted key) . BASE64URL(iv) . BASE64URL(ciphertext) . BASE64URL(tag)
//! ```
//!
//! Only the public key takes part, so the known weakness of the `rsa` crate (RUSTSEC-2023-0071, the timing
//! of private-key operations) has nothing to show here. Nothing is compressed: a length that depends on the
//! content would tell of it.

use aes_gcm::aead::AeadInPlace as _;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use rsa::rand_core::{CryptoRng, RngCore};
use rsa::traits::PublicKeyParts as _;
use rsa::{BigUint, Oaep, RsaPublicKey};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::descriptor::MIN_RSA_BITS;
use crate::name::{DataPoint, Label};

/// The largest modulus in bits: larger ones cost time and buy nothing.
pub const MAX_RSA_BITS: usize = 8192;

/// The longest PEM text that is read, in bytes: a key of [`MAX_RSA_BITS`] has a tenth of it.
pub const MAX_PEM_BYTES: usize = 16 << 10;

/// Bytes of A256GCM's key, initialization vector and tag (RFC 7518, section 5.3).
const KEY_BYTES: usize = 32;
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// rsaEncryption (RFC 8017, appendix A.1).
const RSA_ENCRYPTION: spki::ObjectIdentifier =
    spki::ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Why nothing can be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It cannot be read as a key.
    #[error("not an RSA public key in PEM (\"-----BEGIN PUBLIC KEY-----\")")]
    NotAKey,
    /// The modulus has too few or too many bits.
    #[error("an RSA key of {0} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are needed")]
    Size(usize),
    /// The key is of the right form, and RSA does not work with it.
    #[error("an RSA key with a modulus or exponent that cannot be used")]
    Unusable,
    /// The kernel gives no random bytes.
    #[error("the kernel gives no random bytes: {0}")]
    Random(String),
    /// The cipher refused, which it does only for more than 64 GiB.
    #[error("it is too long to be sealed")]
    TooLong,
}

/// What the protected header binds the content to.
#[derive(Clone, Debug, Serialize)]
pub struct Bound<'a> {
    /// The VM, by the name its owner gave it.
    pub vm: &'a Label,
    /// The data point.
    pub point: &'a DataPoint,
}

/// The protected header (RFC 7516, section 4.1), `vm` and `point` being private names (4.3).
#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    enc: &'static str,
    kid: &'a str,
    #[serde(flatten)]
    bound: &'a Bound<'a>,
}

/// An RSA public key that may be sealed to.
#[derive(Clone, Debug)]
pub struct SealingKey {
    key: RsaPublicKey,
    kid: String,
}

impl SealingKey {
    /// The key in a PEM text (`SubjectPublicKeyInfo`, RFC 5280).
    ///
    /// # Errors
    /// It is no RSA public key, or one of fewer than [`MIN_RSA_BITS`] bits.
    pub fn from_pem(pem: &str) -> Result<Self, SealError> {
        let (modulus, exponent) = parts(pem).ok_or(SealError::NotAKey)?;
        let bits = modulus.bits();
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
            return Err(SealError::Size(bits));
        }
        let kid = thumbprint(&modulus, &exponent);
        let key = RsaPublicKey::new_with_max_size(modulus, exponent, MAX_RSA_BITS)
            .map_err(|_| SealError::Unusable)?;
        Ok(Self { key, kid })
    }

    /// The key's identifier: its JWK thumbprint (RFC 7638) with SHA-256.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Bits of its modulus.
    pub fn bits(&self) -> usize {
        self.key.n().bits()
    }

    /// How many bytes may be sealed so that the envelope has at most `limit`.
    pub fn room(&self, bound: &Bound<'_>, limit: usize) -> usize {
        let base64 = |bytes: usize| (bytes * 4).div_ceil(3);
        let dots = 4;
        let frame = self.header(bound).len()
            + base64(self.key.size())
            + base64(IV_BYTES)
            + base64(TAG_BYTES)
            + dots;
        limit.saturating_sub(frame) * 3 / 4
    }

    fn header(&self, bound: &Bound<'_>) -> String {
        let header = Header {
            alg: "RSA-OAEP-256",
            enc: "A256GCM",
            kid: &self.kid,
            bound,
        };
        let json = serde_json::to_vec(&header).expect("a header is text in text");
        BASE64URL.encode(json)
    }

    /// Seals `content` under a key of its own, as ASCII text without a line break.
    ///
    /// # Errors
    /// There are no random bytes, or the content is longer than the cipher takes.
    pub fn seal(&self, bound: &Bound<'_>, mut content: Vec<u8>) -> Result<String, SealError> {
        let mut secret = [0; KEY_BYTES + IV_BYTES];
        getrandom::fill(&mut secret).map_err(|e| SealError::Random(e.to_string()))?;
        let (key, iv) = secret.split_at(KEY_BYTES);
        let header = self.header(bound);
        // The additional authenticated data is the encoded header (RFC 7516, section 5.1, step 14).
        let tag = Aes256Gcm::new(key.into())
            .encrypt_in_place_detached(iv.into(), header.as_bytes(), &mut content)
            .map_err(|_| SealError::TooLong)?;
        let wrapped = self
            .key
            .encrypt(&mut Kernel, Oaep::new::<Sha256>(), key)
            .map_err(|_| SealError::Unusable)?;
        let mut envelope = header;
        for part in [&wrapped, iv, &content, tag.as_slice()] {
            envelope.push('.');
            BASE64URL.encode_string(part, &mut envelope);
        }
        Ok(envelope)
    }
}

/// Modulus and exponent of an RSA public key in PEM.
fn parts(pem: &str) -> Option<(BigUint, BigUint)> {
    use spki::der::{Decode as _, DecodePem as _};
    if pem.len() > MAX_PEM_BYTES {
        return None;
    }
    let info = spki::SubjectPublicKeyInfoOwned::from_pem(pem.trim()).ok()?;
    if info.algorithm.oid != RSA_ENCRYPTION {
        return None;
    }
    let key = pkcs1::RsaPublicKey::from_der(info.subject_public_key.as_bytes()?).ok()?;
    let number = |n: pkcs1::UintRef<'_>| BigUint::from_bytes_be(n.as_bytes());
    Some((number(key.modulus), number(key.public_exponent)))
}

/// The required members of the JWK, in lexicographic order, without white space (RFC 7638, section 3).
fn thumbprint(modulus: &BigUint, exponent: &BigUint) -> String {
    let encode = |n: &BigUint| BASE64URL.encode(n.to_bytes_be());
    let (n, e) = (encode(modulus), encode(exponent));
    let jwk = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
    BASE64URL.encode(Sha256::digest(jwk))
}

/// The kernel's random bytes, as `rsa` takes them.
struct Kernel;

impl RngCore for Kernel {
    fn next_u32(&mut self) -> u32 {
        rsa::rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rsa::rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the kernel gave random bytes a moment ago");
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Kernel {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 7638, section 3.1, has 2,048 bits; its thumbprint is given there.
    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs\
                 tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbI\
                 SD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let n = BigUint::from_bytes_be(&BASE64URL.decode(n).unwrap());
        let e = BigUint::from(65_537_u32);
        assert_eq!(
            thumbprint(&n, &e),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }

    const KEY: &str = include_str!("seal/primary-key.pem");

    fn seal(content: &[u8]) -> (SealingKey, String) {
        let key = SealingKey::from_pem(KEY).unwrap();
        let (vm, point) = ("shop".parse().unwrap(), "encrypted/orders".parse().unwrap());
        let bound = Bound {
            vm: &vm,
            point: &point,
        };
        let envelope = key.seal(&bound, content.to_vec()).unwrap();
        assert_eq!(key.room(&bound, envelope.len()), content.len());
        (key, envelope)
    }

    #[test]
    fn an_envelope_has_five_parts_and_its_header_binds_vm_and_point() {
        for len in [0, 1, 2, 3, 1000] {
            let (key, envelope) = seal(&vec![b'x'; len]);
            let parts: Vec<Vec<u8>> = envelope
                .split('.')
                .map(|part| BASE64URL.decode(part).unwrap())
                .collect();
            let lengths: Vec<usize> = parts.iter().skip(1).map(Vec::len).collect();
            assert_eq!(lengths, [384, 12, len, 16]);
            let header: serde_json::Value = serde_json::from_slice(&parts[0]).unwrap();
            let expected = serde_json::json!({"alg": "RSA-OAEP-256", "enc": "A256GCM",
                "kid": key.kid(), "vm": "shop", "point": "encrypted/orders"});
            assert_eq!(header, expected);
        }
    }

    #[test]
    fn two_envelopes_of_the_same_content_have_nothing_in_common_but_the_header() {
        let (_, one) = seal(b"42");
        let (_, two) = seal(b"42");
        let (one, two): (Vec<_>, Vec<_>) = (one.split('.').collect(), two.split('.').collect());
        assert_eq!(one[0], two[0]);
        assert!((1..5).all(|part| one[part] != two[part]));
    }

    #[test]
    fn what_is_no_key_or_too_short_a_one_is_refused() {
        for bad in [
            "",
            "x",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert_eq!(SealingKey::from_pem(bad).unwrap_err(), SealError::NotAKey);
        }
        let short = include_str!("seal/2048-bits.pem");
        assert_eq!(
            SealingKey::from_pem(short).unwrap_err(),
            SealError::Size(2048)
        );
        let curve = include_str!("seal/p256.pem");
        assert_eq!(SealingKey::from_pem(curve).unwrap_err(), SealError::NotAKey);
    }
}
