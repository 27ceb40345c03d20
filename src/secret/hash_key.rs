//! The installation's hash key, in a Secret of the operator's own namespace.
//!
//! Input: that namespace.
//! Output: the key, generated at the first start and read at every later start.
//! Invariants: never replaces an existing key, because every content hash would change.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret;

use super::{
    client::{FetchedSecret, SecretClient},
    content_hash::HashKey,
    desired::Desired,
    error::WriteError,
};
use crate::crd::{MANAGED_BY, MANAGED_BY_LABEL, SecretType};

/// Name of the Secret with the key.
pub const SECRET_NAME: &str = "doppler-prefect-operator-hash-key";
/// Its only key: base64 of 32 random bytes, so that the Secret holds text.
const DATA_KEY: &str = "key";

/// Why the hash key is not available.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashKeyError {
    /// A request about the Secret failed.
    #[error(
        "the operator could not create or read the hash key in Secret {namespace}/{SECRET_NAME}: {error}"
    )]
    Request {
        /// The operator's namespace.
        namespace: String,
        /// What failed.
        error: WriteError,
    },
    /// The Secret does not hold a key.
    #[error(
        "Secret {namespace}/{SECRET_NAME} does not hold a hash key (`{DATA_KEY}`, 32 random bytes in base64): delete it and restart the operator; the operator generates a new key and updates the hash of each managed Secret once"
    )]
    Malformed {
        /// The operator's namespace.
        namespace: String,
    },
}

/// Reads the key in `namespace`, or creates it if it does not exist.
///
/// # Errors
/// If the Secret cannot be created or read, or does not hold a key.
pub async fn load_or_create_hash_key(
    secrets: &SecretClient,
    namespace: &str,
) -> Result<HashKey, HashKeyError> {
    let failed = |error| HashKeyError::Request {
        namespace: namespace.to_owned(),
        error,
    };
    // Read first: only the first start has something to write.
    let mut fetched = secrets.get(namespace, SECRET_NAME).await.map_err(failed)?;
    if fetched.is_none() {
        let key = HashKey::generate();
        match secrets.create(&key_secret(namespace, &key)).await {
            Ok(_) => return Ok(key),
            // Another replica created it first.
            Err(WriteError::Exists) => {
                fetched = secrets.get(namespace, SECRET_NAME).await.map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let fetched = fetched.ok_or_else(|| failed(WriteError::NotFound))?;
    parse_key(&fetched).ok_or_else(|| HashKeyError::Malformed {
        namespace: namespace.to_owned(),
    })
}

fn parse_key(fetched: &FetchedSecret) -> Option<HashKey> {
    let text = fetched.content.get(DATA_KEY)?.expose_secret();
    HashKey::from_bytes(&STANDARD.decode(text.trim_ascii()).ok()?)
}

fn key_secret(namespace: &str, key: &HashKey) -> Desired {
    Desired {
        name: SECRET_NAME.to_owned(),
        namespace: namespace.to_owned(),
        binding_uid: String::new(),
        data: BTreeMap::from([(
            DATA_KEY.to_owned(),
            STANDARD.encode(key.expose()).into_bytes().into(),
        )]),
        labels: BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())]),
        annotations: BTreeMap::new(),
        owner: None,
        removes_entries: false,
        content_hash: String::new(),
        excluded_keys: Vec::new(),
        rename_note: None,
        collisions: Vec::new(),
        type_: SecretType::Opaque,
        files: None,
    }
}

#[cfg(test)]
mod tests;
