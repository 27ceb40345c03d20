//! The keyed content hash.
//!
//! In: the installation's key, a binding's UID, names and values. Out: a text that says whether two contents are the same, and nothing else:
//! without the key nobody can try out values. Never keeps a value.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac, digest::Key};
use rand::RngCore;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;

/// Length of a key in bytes.
pub const KEY_LENGTH: usize = 32;

/// The random key of this installation.
pub struct HashKey(SecretBox<[u8; KEY_LENGTH]>);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey([redacted])")
    }
}

impl HashKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self(SecretBox::init_with_mut(|key: &mut [u8; KEY_LENGTH]| {
            rand::rng().fill_bytes(key);
        }))
    }

    /// A key as it was stored; `None` if these bytes are not one.
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

    /// The hash of a binding's content. Every part is preceded by its length, so that no two contents run together to the same bytes.
    #[must_use]
    pub fn content_hash(&self, binding_uid: &str, data: &BTreeMap<String, SecretString>) -> String {
        // HMAC pads a key that is shorter than a block (64 bytes) with zeros, so this is the key itself.
        let mut block = Key::<Hmac<Sha256>>::default();
        block[..KEY_LENGTH].copy_from_slice(self.expose());
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block);
        update_with_length(&mut mac, b"doppler-prefect.dev/content-hash/1");
        update_with_length(&mut mac, binding_uid.as_bytes());
        for (name, value) in data {
            update_with_length(&mut mac, name.as_bytes());
            update_with_length(&mut mac, value.expose_secret().as_bytes());
        }
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }
}

fn update_with_length(mac: &mut Hmac<Sha256>, bytes: &[u8]) {
    mac.update(&(bytes.len() as u64).to_be_bytes());
    mac.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> HashKey {
        HashKey::from_bytes(&[byte; KEY_LENGTH]).unwrap()
    }

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, SecretString> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect()
    }

    #[test]
    fn equal_content_gives_equal_hash_and_any_change_another_one() {
        let hash = key(1).content_hash("uid", &data(&[("A", "b"), ("C", "")]));
        assert_eq!(
            hash,
            key(1).content_hash("uid", &data(&[("C", ""), ("A", "b")]))
        );
        assert_eq!(hash.len(), 43);
        for other in [
            key(2).content_hash("uid", &data(&[("A", "b"), ("C", "")])),
            key(1).content_hash("uid2", &data(&[("A", "b"), ("C", "")])),
            key(1).content_hash("uid", &data(&[("A", "b")])),
            key(1).content_hash("uid", &data(&[("A", ""), ("C", "b")])),
            key(1).content_hash("uid", &data(&[("Ab", ""), ("C", "")])),
            key(1).content_hash("uidA", &data(&[("b", "C")])),
            key(1).content_hash("uid", &data(&[])),
        ] {
            assert_ne!(hash, other);
        }
    }

    #[test]
    fn is_hmac_sha_256_of_the_length_prefixed_parts() {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&[7; KEY_LENGTH]).unwrap();
        mac.update(b"\0\0\0\0\0\0\0\x22doppler-prefect.dev/content-hash/1");
        mac.update(b"\0\0\0\0\0\0\0\x01u\0\0\0\0\0\0\0\x01A\0\0\0\0\0\0\0\x02bc");
        assert_eq!(
            key(7).content_hash("u", &data(&[("A", "bc")])),
            URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
        );
    }

    #[test]
    fn key_is_random_and_redacted_in_debug_output() {
        assert_ne!(HashKey::generate().expose(), HashKey::generate().expose());
        assert_eq!(format!("{:?}", key(65)), "HashKey([redacted])");
        assert!(HashKey::from_bytes(&[1; 31]).is_none());
    }
}
