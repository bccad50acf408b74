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
use sha2::Sha256;

use crate::envelope::{ALG, ENC, HeaderOut, IV_BYTES, KEY_BYTES, TAG_BYTES};
pub use crate::envelope::{Bound, BoundMessage};
use crate::rsa_key::RsaPublic;
pub use crate::rsa_key::{MAX_PEM_BYTES, MAX_RSA_BITS, RsaError};

/// Why nothing can be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key will not do.
    #[error(transparent)]
    Key(#[from] RsaError),
    /// The kernel gives no random bytes.
    #[error("the kernel gives no random bytes: {0}")]
    Random(String),
    /// The cipher refused, which it does only for more than 64 GiB.
    #[error("it is too long to be sealed")]
    TooLong,
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
    /// It is no RSA public key, or one of too few bits.
    pub fn from_pem(pem: &str) -> Result<Self, SealError> {
        let public = RsaPublic::from_pem(pem)?;
        let number = |bytes: &[u8]| BigUint::from_bytes_be(bytes);
        let (modulus, exponent) = (number(&public.modulus), number(&public.exponent));
        let key = RsaPublicKey::new_with_max_size(modulus, exponent, MAX_RSA_BITS)
            .map_err(|_| RsaError::Unusable)?;
        let kid = public.thumbprint();
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
        let header = HeaderOut {
            alg: ALG,
            enc: ENC,
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
            .map_err(|_| RsaError::Unusable)?;
        let mut envelope = header;
        for part in [&wrapped, iv, &content, tag.as_slice()] {
            envelope.push('.');
            BASE64URL.encode_string(part, &mut envelope);
        }
        Ok(envelope)
    }
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

    const KEY: &str = include_str!("seal/primary-key.pem");

    fn seal(content: &[u8]) -> (SealingKey, String) {
        let key = SealingKey::from_pem(KEY).unwrap();
        let (vm, point) = ("shop".parse().unwrap(), "encrypted/orders".parse().unwrap());
        let bound = Bound {
            vm: &vm,
            point: &point,
            message: None,
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
        let not_a_key = SealError::from(RsaError::NotAKey);
        for bad in [
            "",
            "x",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert_eq!(SealingKey::from_pem(bad).unwrap_err(), not_a_key);
        }
        let short = include_str!("seal/2048-bits.pem");
        assert_eq!(
            SealingKey::from_pem(short).unwrap_err(),
            RsaError::Size(2048).into()
        );
        let curve = include_str!("seal/p256.pem");
        assert_eq!(SealingKey::from_pem(curve).unwrap_err(), not_a_key);
    }
}
