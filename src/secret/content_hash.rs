//! The keyed content hash.
//!
//! Input: the installation's hash key, a binding's UID, the type of the Secret, names and values.
//! Output: a text that is equal for equal content.
//! Invariants: keeps no value; without the key, the hash does not allow anyone to test guesses of
//! values.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac, digest::Key};
use rand::RngCore;
use secrecy::{ExposeSecret, SecretBox, SecretSlice};
use sha2::Sha256;

use crate::crd::SecretType;

/// Length of a key in bytes.
pub const KEY_LENGTH: usize = 32;

/// The random hash key of this installation.
pub struct HashKey(SecretBox<[u8; KEY_LENGTH]>);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey([redacted])")
    }
}

impl HashKey {
    /// Generates a random key.
    #[must_use]
    pub fn generate() -> Self {
        Self(SecretBox::init_with_mut(|key: &mut [u8; KEY_LENGTH]| {
            rand::rng().fill_bytes(key);
        }))
    }

    /// A stored key. `None` if the bytes do not have the length of a key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == KEY_LENGTH).then(|| {
            Self(SecretBox::init_with_mut(|key: &mut [u8; KEY_LENGTH]| {
                key.copy_from_slice(bytes);
            }))
        })
    }

    pub(super) fn expose(&self) -> &[u8; KEY_LENGTH] {
        self.0.expose_secret()
    }

    /// The hash of a binding's content. A change of the type counts, because metadata does not show the
    /// type of a Secret. The length precedes every part, so that no two different
    /// contents give the same bytes.
    #[must_use]
    pub fn content_hash(
        &self,
        binding_uid: &str,
        type_: SecretType,
        data: &BTreeMap<String, SecretSlice<u8>>,
    ) -> String {
        // HMAC pads a key that is shorter than a block (64 bytes) with zeros, so the result is the
        // same.
        let mut block = Key::<Hmac<Sha256>>::default();
        block[..KEY_LENGTH].copy_from_slice(self.expose());
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block);
        update_with_length(&mut mac, b"doppler-prefect.dev/content-hash/1");
        update_with_length(&mut mac, binding_uid.as_bytes());
        if type_ != SecretType::Opaque {
            // No key of a Secret has a slash.
            update_with_length(&mut mac, type_.as_str().as_bytes());
        }
        for (name, value) in data {
            update_with_length(&mut mac, name.as_bytes());
            update_with_length(&mut mac, value.expose_secret());
        }
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }
}

fn update_with_length(mac: &mut Hmac<Sha256>, bytes: &[u8]) {
    mac.update(&(bytes.len() as u64).to_be_bytes());
    mac.update(bytes);
}

#[cfg(test)]
mod tests;
