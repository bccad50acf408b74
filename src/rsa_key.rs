//! RSA public keys as numbers: what they are called, and whether they will do. Nothing is computed with them here.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use sha2::{Digest as _, Sha256};
use spki::der::Decode as _;

use crate::descriptor::MIN_RSA_BITS;

/// The largest modulus in bits: larger ones cost time and buy nothing.
pub const MAX_RSA_BITS: usize = 8192;

/// The longest PEM text that is read, in bytes: a private key of [`MAX_RSA_BITS`] has half of it.
pub const MAX_PEM_BYTES: usize = 16 << 10;

/// rsaEncryption (RFC 8017, appendix A.1).
const RSA_ENCRYPTION: spki::ObjectIdentifier =
    spki::ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// The largest exponent in bytes: every library takes one of 32 bits, and not every a larger one.
const MAX_EXPONENT_BYTES: usize = 4;

/// Why nothing is sealed with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RsaError {
    /// It cannot be read as a key.
    #[error("not an RSA public key in PEM (\"-----BEGIN PUBLIC KEY-----\")")]
    NotAKey,
    /// The modulus has too few or too many bits.
    #[error(
        "an RSA key of {0} bits; {MIN_RSA_BITS} or more are needed, and at most {MAX_RSA_BITS}"
    )]
    Size(usize),
    /// The key is of the right form, and RSA does not work with it.
    #[error("an RSA key with a modulus or exponent that cannot be used")]
    Unusable,
}

/// Modulus and exponent, without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RsaPublic {
    pub(crate) modulus: Vec<u8>,
    pub(crate) exponent: Vec<u8>,
}

impl RsaPublic {
    /// The key in a PEM text (`SubjectPublicKeyInfo`, RFC 5280), if it will do.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, RsaError> {
        let key = der(pem, "PUBLIC KEY").and_then(|der| Self::from_der(&der));
        key.ok_or(RsaError::NotAKey)?.checked()
    }

    /// The key in DER (`SubjectPublicKeyInfo`).
    pub(crate) fn from_der(der: &[u8]) -> Option<Self> {
        let info = spki::SubjectPublicKeyInfoRef::from_der(der).ok()?;
        if info.algorithm.oid != RSA_ENCRYPTION {
            return None;
        }
        let key = pkcs1::RsaPublicKey::from_der(info.subject_public_key.as_bytes()?).ok()?;
        let number = |n: pkcs1::UintRef<'_>| {
            let zeros = n.as_bytes().iter().take_while(|b| **b == 0).count();
            n.as_bytes()[zeros..].to_vec()
        };
        Some(Self {
            modulus: number(key.modulus),
            exponent: number(key.public_exponent),
        })
    }

    pub(crate) fn checked(self) -> Result<Self, RsaError> {
        let bits = self.bits();
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
            return Err(RsaError::Size(bits));
        }
        let odd = |n: &[u8]| n.last().is_some_and(|b| b % 2 == 1);
        let exponent = odd(&self.exponent)
            && self.exponent.len() <= MAX_EXPONENT_BYTES
            && self.exponent != [1];
        match exponent && odd(&self.modulus) {
            true => Ok(self),
            false => Err(RsaError::Unusable),
        }
    }

    /// Bits of the modulus.
    pub(crate) fn bits(&self) -> usize {
        let zeros = self.modulus.first().map_or(0, |b| b.leading_zeros());
        self.modulus.len() * 8 - zeros as usize
    }

    /// The JWK thumbprint (RFC 7638) with SHA-256: of the required members, in lexicographic order, without white
    /// space (section 3).
    pub(crate) fn thumbprint(&self) -> String {
        let (n, e) = (
            BASE64URL.encode(&self.modulus),
            BASE64URL.encode(&self.exponent),
        );
        let jwk = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
        BASE64URL.encode(Sha256::digest(jwk))
    }
}

/// The content of a PEM text with this label (RFC 7468).
pub(crate) fn der(pem: &str, label: &str) -> Option<Vec<u8>> {
    if pem.len() > MAX_PEM_BYTES {
        return None;
    }
    let (found, der) = spki::der::pem::decode_vec(pem.trim().as_bytes()).ok()?;
    (found == label).then_some(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 7638, section 3.1, has 2,048 bits; its thumbprint is given there.
    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs\
                 tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbI\
                 SD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let key = RsaPublic {
            modulus: BASE64URL.decode(n).unwrap(),
            exponent: vec![1, 0, 1],
        };
        assert_eq!(key.bits(), 2048);
        assert_eq!(
            key.thumbprint(),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }

    #[test]
    fn a_key_that_rsa_does_not_work_with_is_refused() {
        let key = |modulus: Vec<u8>, exponent: &[u8]| RsaPublic {
            modulus,
            exponent: exponent.to_vec(),
        };
        let odd = vec![0xff; 384];
        assert!(key(odd.clone(), &[1, 0, 1]).checked().is_ok());
        assert!(key(odd.clone(), &[3]).checked().is_ok());
        for exponent in [&[][..], &[1], &[2], &[1, 0, 0, 0, 1]] {
            let refused = key(odd.clone(), exponent).checked();
            assert_eq!(refused, Err(RsaError::Unusable), "{exponent:?}");
        }
        let mut even = odd.clone();
        even[383] = 0xfe;
        assert_eq!(key(even, &[3]).checked(), Err(RsaError::Unusable));
        let short = key(odd[1..].to_vec(), &[3]).checked();
        assert_eq!(short, Err(RsaError::Size(3064)));
        let long = key(vec![0xff; 1025], &[3]).checked();
        assert_eq!(long, Err(RsaError::Size(8200)));
    }
}
