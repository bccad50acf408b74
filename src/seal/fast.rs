//! The same two operations by aws-lc-rs, for those who link it anyway: a host seals for many VMs.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};

use super::{IV_BYTES, RsaError, SealError, TAG_BYTES};
use crate::rsa_key::RsaPublic;

/// An RSA public key of aws-lc-rs.
#[derive(Clone, Debug)]
pub(super) struct Fast(Arc<OaepPublicEncryptingKey>);

impl Fast {
    pub(super) fn new(public: &RsaPublic) -> Result<Self, RsaError> {
        let key = PublicEncryptingKey::from_der(&public.to_der().ok_or(RsaError::Unusable)?);
        let key = key.and_then(|key| OaepPublicEncryptingKey::new(key).map_err(Into::into));
        key.map(|key| Self(Arc::new(key)))
            .map_err(|_| RsaError::Unusable)
    }

    pub(super) fn wrap(&self, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut wrapped = vec![0; self.0.ciphertext_size()];
        let length = self
            .0
            .encrypt(&OAEP_SHA256_MGF1SHA256, secret, &mut wrapped, None)
            .map_err(|_| RsaError::Unusable)?
            .len();
        wrapped.truncate(length);
        Ok(wrapped)
    }

    pub(super) fn encrypt(
        secret: &[u8],
        iv: [u8; IV_BYTES],
        header: &[u8],
        content: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], SealError> {
        let key = UnboundKey::new(&AES_256_GCM, secret).map_err(|_| SealError::TooLong)?;
        let nonce = Nonce::assume_unique_for_key(iv);
        let tag = LessSafeKey::new(key)
            .seal_in_place_separate_tag(nonce, Aad::from(header), content)
            .map_err(|_| SealError::TooLong)?;
        tag.as_ref().try_into().map_err(|_| SealError::TooLong)
    }
}
