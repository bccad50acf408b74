//! Who said it: a detached JSON Web Signature (RFC 7515, appendix F) by an Ed25519 key (EdDSA; RFC 8032, RFC
//! 8037) over the exact bytes of a message's `data` and a fixed list of its attributes. A site's hosts share one
//! key, so a signature names the site and no host; a Consumer has a key of its own, for its confirmations.
//!
//! ```text
//! BASE64URL(header) .. BASE64URL(signature)
//! header   {"alg":"EdDSA","kid":"(RFC 7638)","typ":"vmkpi-message"}
//! payload  for each attribute that is there, in order: name SP length-of-the-value-in-bytes SP value LF
//!          then LF, then the bytes of data
//! ```
//!
//! The payload is not transmitted: who has the message can make it, with any library. Lengths are in it so that
//! no value can be taken for two; `typ` (RFC 8725, section 3.11) so that no confirmation can be taken for a message.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, ParsedPublicKey};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD as BASE64, BASE64_URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::descriptor::ed25519;
use crate::rsa_key::der;

/// The longest signature that is looked at, in bytes: ours have about 210.
const MAX_SIGNATURE_BYTES: usize = 1024;
/// id-Ed25519 (RFC 8410, section 3).
const ID_ED25519: spki::ObjectIdentifier = spki::ObjectIdentifier::new_unwrap("1.3.101.112");

/// What a signature is made for: one that was made for something else does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A published message, by the key of the site whose host it came from.
    Message,
    /// A Consumer's confirmation, by the Consumer's key.
    Confirmation,
    /// An entry in the Directory.
    Entry,
    /// A question to a Producer, by the key of who asks.
    Query,
    /// A page of the answer, by the key of the site whose host it came from.
    Answer,
}

impl Purpose {
    /// The header's `typ`.
    fn as_str(self) -> &'static str {
        match self {
            Self::Message => "vmkpi-message",
            Self::Confirmation => "vmkpi-confirmation",
            Self::Entry => "vmkpi-entry",
            Self::Query => "vmkpi-query",
            Self::Answer => "vmkpi-answer",
        }
    }
}

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no private key that we can sign with.
    #[error("not an Ed25519 private key in PEM (PKCS#8, \"-----BEGIN PRIVATE KEY-----\")")]
    Private,
    /// It is no public key.
    #[error(
        "not an Ed25519 public key: neither the base64 of its 32 bytes nor PEM (\"-----BEGIN PUBLIC KEY-----\")"
    )]
    Public,
    /// It is a key by its form, and everybody could sign with it.
    #[error("no Ed25519 public key: no point of the curve, or one of small order")]
    Weak,
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("not signed")]
    Unsigned,
    /// It is none of ours by its form, or has a header that we do not know.
    #[error("a signature that is no detached JWS of ours")]
    Malformed,
    /// Another algorithm than EdDSA, `none` among them.
    #[error("signed with an algorithm that is not accepted")]
    Algorithm,
    /// By a key that is not trusted here.
    #[error("signed by a key that is not trusted here")]
    UnknownKey,
    /// Altered, moved from elsewhere, made for another purpose, or forged.
    #[error("a signature that does not verify")]
    Signature,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::Unsigned,
        Self::Malformed,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
    ];

    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Malformed => "malformed_signature",
            Self::Algorithm => "wrong_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "bad_signature",
        }
    }
}

/// The protected header (RFC 7515, section 4.1). Nothing else may be in it, `crit` least of all.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

/// Attributes by name, in the order in which they are signed.
pub type Attributes<'a> = [(&'a str, &'a str)];

/// What the signature is over.
fn payload(attributes: &Attributes<'_>, data: &[u8]) -> Vec<u8> {
    let length: usize = attributes.iter().map(|(n, v)| n.len() + v.len() + 12).sum();
    let mut payload = Vec::with_capacity(length + data.len());
    for (name, value) in attributes {
        payload.extend_from_slice(format!("{name} {} {value}\n", value.len()).as_bytes());
    }
    payload.push(b'\n');
    payload.extend_from_slice(data);
    payload
}

/// The JWS Signing Input (RFC 7515, section 5.1, step 8).
fn signing_input(header: &str, payload: &[u8]) -> String {
    let mut input = String::with_capacity(header.len() + 1 + payload.len().div_ceil(3) * 4);
    input.push_str(header);
    input.push('.');
    BASE64URL.encode_string(payload, &mut input);
    input
}

/// The required members of the JWK, in lexicographic order, without white space (RFC 8037, appendix A.3).
fn thumbprint(key: &[u8; 32]) -> String {
    let x = BASE64URL.encode(key);
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    BASE64URL.encode(Sha256::digest(jwk))
}

/// An Ed25519 private key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

/// The public half alone: a private key comes into no log.
impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public.kid).finish()
    }
}

impl SigningKey {
    /// The key in a PEM text (PKCS#8, RFC 5958), as `vmkpi key new` and `openssl genpkey` write it.
    ///
    /// # Errors
    /// It is no Ed25519 private key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = der(pem, "PRIVATE KEY").ok_or(KeyError::Private)?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| KeyError::Private)?;
        let public = pair.public_key().as_ref().try_into();
        let public = VerifyingKey::from_bytes(public.map_err(|_| KeyError::Private)?)?;
        Ok(Self { pair, public })
    }

    /// Its public half.
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// The key's identifier: its JWK thumbprint (RFC 7638, RFC 8037) with SHA-256.
    pub fn kid(&self) -> &str {
        &self.public.kid
    }

    /// Signs `attributes` and `data`: a compact JWS without its payload.
    pub fn sign(&self, purpose: Purpose, attributes: &Attributes<'_>, data: &[u8]) -> String {
        let header = Header {
            alg: "EdDSA".into(),
            kid: self.public.kid.clone(),
            typ: purpose.as_str().into(),
        };
        let header = serde_json::to_vec(&header).expect("a header is text in text");
        let header = BASE64URL.encode(header);
        let input = signing_input(&header, &payload(attributes, data));
        let signature = self.pair.sign(input.as_bytes());
        format!("{header}..{}", BASE64URL.encode(signature))
    }
}

/// An Ed25519 public key that may be believed.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    bytes: [u8; 32],
    key: ParsedPublicKey,
    kid: String,
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for VerifyingKey {}

impl VerifyingKey {
    /// The key whose 32 bytes are given (RFC 8032, section 5.1.2), as a descriptor's `[[confirm]]` has it.
    ///
    /// # Errors
    /// It is no point of the curve, or one with which everybody could sign.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        ed25519(&BASE64.encode(bytes)).map_err(|_| KeyError::Weak)?;
        let key = ParsedPublicKey::new(&ED25519, bytes).map_err(|_| KeyError::Weak)?;
        let kid = thumbprint(&bytes);
        Ok(Self { bytes, key, kid })
    }

    /// The key in a text: the base64 of its 32 bytes, or PEM (`SubjectPublicKeyInfo`, RFC 8410).
    ///
    /// # Errors
    /// It is neither, or see [`Self::from_bytes`].
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let bytes = match text.trim_start().starts_with("-----BEGIN") {
            true => spki_bytes(text),
            false => BASE64.decode(text.trim()).ok(),
        };
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        Self::from_bytes(bytes.ok_or(KeyError::Public)?)
    }

    /// The key's identifier: its JWK thumbprint (RFC 7638, RFC 8037) with SHA-256.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Its 32 bytes in base64, as a descriptor's `[[confirm]]` has them.
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.bytes)
    }
}

/// The 32 bytes of a public key in PEM.
fn spki_bytes(pem: &str) -> Option<Vec<u8>> {
    use spki::der::Decode as _;
    let der = der(pem, "PUBLIC KEY")?;
    let info = spki::SubjectPublicKeyInfoRef::from_der(&der).ok()?;
    let plain = info.algorithm.oid == ID_ED25519 && info.algorithm.parameters.is_none();
    let bits = info.subject_public_key.as_bytes().filter(|_| plain)?;
    Some(bits.to_vec())
}

/// Keys that are believed, several at once: while a key is replaced, the old and the new one.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: BTreeMap<String, VerifyingKey>,
}

impl FromIterator<VerifyingKey> for Keyring {
    fn from_iter<I: IntoIterator<Item = VerifyingKey>>(keys: I) -> Self {
        let keys = keys.into_iter().map(|key| (key.kid.clone(), key));
        Self {
            keys: keys.collect(),
        }
    }
}

impl Keyring {
    /// Whether nobody is believed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys' identifiers.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Checks that one of the keys signed exactly this, for this purpose; says which one.
    ///
    /// # Errors
    /// None did, and why the signature does not count.
    pub fn verify(
        &self,
        purpose: Purpose,
        attributes: &Attributes<'_>,
        data: &[u8],
        signature: Option<&str>,
    ) -> Result<&VerifyingKey, Refusal> {
        let text = signature.ok_or(Refusal::Unsigned)?;
        let (head, signature) = split(text).ok_or(Refusal::Malformed)?;
        let header = header_of(head)?;
        let key = self.keys.get(&header.kid).ok_or(Refusal::UnknownKey)?;
        if header.typ != purpose.as_str() {
            return Err(Refusal::Signature);
        }
        let input = signing_input(head, &payload(attributes, data));
        let verified = key.key.verify_sig(input.as_bytes(), &signature);
        verified.map(|()| key).map_err(|_| Refusal::Signature)
    }
}

/// The encoded header and the signature of a compact JWS without payload.
fn split(text: &str) -> Option<(&str, Vec<u8>)> {
    if text.len() > MAX_SIGNATURE_BYTES {
        return None;
    }
    let (header, signature) = text.split_once("..")?;
    Some((header, BASE64URL.decode(signature).ok()?))
}

fn header_of(encoded: &str) -> Result<Header, Refusal> {
    #[derive(Deserialize)]
    struct Algorithm {
        alg: String,
    }
    let json = BASE64URL.decode(encoded).map_err(|_| Refusal::Malformed)?;
    let of: Algorithm = serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)?;
    if of.alg != "EdDSA" {
        return Err(Refusal::Algorithm);
    }
    serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)
}

#[cfg(test)]
mod tests;
