//! The sealed envelope, its opening, with the private key: by aws-lc-rs, whose private-key operations take the
//! same time whatever is decrypted. Everything that can be wrong with an envelope is one error, and does the same
//! work before it is told: who sends altered envelopes learns nothing from the answer, nor from when it comes
//! (RFC 7516, section 11.5; RFC 8725, section 2.3).

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;

use crate::envelope::{Bound, HeaderIn, IV_BYTES, KEY_BYTES, TAG_BYTES};
use crate::rsa_key::{RsaError, RsaPublic, der};

/// The longest envelope that is looked at, in bytes: a message of ours is shorter.
pub const MAX_ENVELOPE_BYTES: usize = 8 << 20;

/// Why a private key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningKeyError {
    /// It is no RSA private key.
    #[error("not an RSA private key in PEM (PKCS#8, \"-----BEGIN PRIVATE KEY-----\")")]
    NotAKey,
    /// Its public half would not be sealed to.
    #[error(transparent)]
    Unfit(#[from] RsaError),
}

/// It does not open. Nothing more is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be opened with the keys that are here")]
pub struct Unopened;

/// An RSA private key that envelopes are opened with.
pub struct OpeningKey {
    key: OaepPrivateDecryptingKey,
    modulus: Vec<u8>,
    kid: String,
}

/// The identifier alone: a private key comes into no log.
impl std::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpeningKey").field(&self.kid).finish()
    }
}

impl OpeningKey {
    /// The key in a PEM text (PKCS#8, RFC 5208), as `vmkpi key new` and `openssl genpkey` write it.
    ///
    /// # Errors
    /// It is no RSA private key, or one of a size that nobody seals to.
    pub fn from_pem(pem: &str) -> Result<Self, OpeningKeyError> {
        let der = der(pem, "PRIVATE KEY").ok_or(OpeningKeyError::NotAKey)?;
        let key = PrivateDecryptingKey::from_pkcs8(&der).map_err(|_| OpeningKeyError::NotAKey)?;
        let public: Result<PublicKeyX509Der<'_>, _> = key.public_key().as_der();
        let public = public.map_err(|_| OpeningKeyError::NotAKey)?;
        let public = RsaPublic::from_der(public.as_ref()).ok_or(OpeningKeyError::NotAKey)?;
        let public = public.checked()?;
        Ok(Self {
            key: OaepPrivateDecryptingKey::new(key).map_err(|_| OpeningKeyError::NotAKey)?,
            kid: public.thumbprint(),
            modulus: public.modulus,
        })
    }

    /// The key's identifier: its JWK thumbprint (RFC 7638) with SHA-256.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The content key in `wrapped`; a random one where there is none, so that what follows takes the same time.
    fn unwrap(&self, wrapped: &[u8]) -> Option<[u8; KEY_BYTES]> {
        let mut secret = [0; KEY_BYTES];
        rand::fill(&mut secret).ok()?;
        let mut space = vec![0; self.key.min_output_size()];
        let found = self
            .key
            .decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut space, None);
        if let Ok(key) = found
            && key.len() == KEY_BYTES
        {
            secret.copy_from_slice(key);
        }
        Some(secret)
    }
}

/// Private keys, several at once: while a key is replaced, the old and the new one.
#[derive(Debug, Default)]
pub struct OpeningKeys(BTreeMap<String, OpeningKey>);

impl FromIterator<OpeningKey> for OpeningKeys {
    fn from_iter<I: IntoIterator<Item = OpeningKey>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (key.kid.clone(), key)).collect())
    }
}

/// An envelope whose form is right.
struct Parts<'a> {
    key: &'a OpeningKey,
    /// The encoded header, which is authenticated along (RFC 7516, section 5.1, step 14).
    header: &'a str,
    wrapped: Vec<u8>,
    iv: [u8; IV_BYTES],
    /// The ciphertext with its tag.
    content: Vec<u8>,
}

impl OpeningKeys {
    /// Whether nothing can be opened.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys' identifiers.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What is in `envelope`, if one of the keys opens it and it was sealed for `expected`.
    ///
    /// # Errors
    /// It does not open, for whatever reason.
    pub fn open(&self, expected: &Bound<'_>, envelope: &str) -> Result<Vec<u8>, Unopened> {
        if envelope.len() > MAX_ENVELOPE_BYTES {
            return Err(Unopened);
        }
        let parts = self.parts(expected, envelope);
        let is_right = parts.is_some();
        let parts = parts.or_else(|| self.decoy(envelope)).ok_or(Unopened)?;
        let content = decrypt(parts);
        content.filter(|_| is_right).ok_or(Unopened)
    }

    fn parts<'a>(&'a self, expected: &Bound<'_>, envelope: &'a str) -> Option<Parts<'a>> {
        let mut split = envelope.split('.');
        let mut next = || split.next();
        let (header, wrapped, iv) = (next()?, decode(next()?)?, decode(next()?)?);
        let (mut content, tag) = (decode(next()?)?, decode(next()?)?);
        let said: HeaderIn = serde_json::from_slice(&decode(header)?).ok()?;
        let key = self.0.get(&said.kid)?;
        // A number that is no residue would be refused before any work is done.
        let is_residue = wrapped.len() == key.modulus.len() && wrapped < key.modulus;
        if next().is_some() || tag.len() != TAG_BYTES || !is_residue || !said.is_for(expected) {
            return None;
        }
        content.extend_from_slice(&tag);
        Some(Parts {
            key,
            header,
            wrapped,
            iv: iv.try_into().ok()?,
            content,
        })
    }

    /// What is opened in vain in place of an envelope that cannot be right: as long, and under one of the keys.
    fn decoy(&self, envelope: &str) -> Option<Parts<'_>> {
        let key = self.0.values().next()?;
        let mut wrapped = vec![0x5a; key.modulus.len()];
        wrapped[0] = 0;
        let around = wrapped.len() * 4 / 3;
        let content = envelope.len().saturating_sub(around) * 3 / 4;
        Some(Parts {
            key,
            header: "",
            wrapped,
            iv: [0; IV_BYTES],
            content: vec![0; content.max(TAG_BYTES)],
        })
    }
}

fn decode(part: &str) -> Option<Vec<u8>> {
    BASE64URL.decode(part).ok()
}

fn decrypt(parts: Parts<'_>) -> Option<Vec<u8>> {
    let secret = parts.key.unwrap(&parts.wrapped)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).ok()?);
    let nonce = Nonce::assume_unique_for_key(parts.iv);
    let mut content = parts.content;
    let aad = Aad::from(parts.header.as_bytes());
    let length = key.open_in_place(nonce, aad, &mut content).ok()?.len();
    content.truncate(length);
    Some(content)
}

#[cfg(test)]
mod tests;
