//! The installation's hash key, in a Secret of the operator's own namespace.
//!
//! In: that namespace. Out: the key, made on the first start, read on every later one. Never replaces a key that is there: every content hash
//! would change.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};

use super::{
    client::{FetchedSecret, SecretClient},
    content_hash::HashKey,
    desired::Desired,
    error::WriteError,
};
use crate::crd::{MANAGED_BY, MANAGED_BY_LABEL};

/// Name of the Secret that holds the key.
pub const SECRET_NAME: &str = "doppler-prefect-operator-hash-key";
/// Its only key: base64 of 32 random bytes, so that the Secret holds text.
const DATA_KEY: &str = "key";

/// Why there is no hash key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashKeyError {
    /// The Secret cannot be created or read.
    #[error(
        "the hash key, Secret {namespace}/{SECRET_NAME}, could not be created or read: {error}"
    )]
    Request {
        /// The operator's namespace.
        namespace: String,
        /// What failed.
        error: WriteError,
    },
    /// The Secret does not hold a key.
    #[error(
        "Secret {namespace}/{SECRET_NAME} does not hold a hash key (`{DATA_KEY}`, 32 random bytes in base64): delete it and restart the operator, which then makes a new one and writes each managed Secret's hash once more"
    )]
    Malformed {
        /// The operator's namespace.
        namespace: String,
    },
}

/// The key in `namespace`: created if there is none.
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
    // First a look: at each start but the first one there is nothing to write.
    let mut found = secrets.get(namespace, SECRET_NAME).await.map_err(failed)?;
    if found.is_none() {
        let key = HashKey::generate();
        match secrets.create(&key_secret(namespace, &key)).await {
            Ok(_) => return Ok(key),
            // Somebody was first.
            Err(WriteError::Exists) => {
                found = secrets.get(namespace, SECRET_NAME).await.map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let found = found.ok_or_else(|| failed(WriteError::NotFound))?;
    parse_key(&found).ok_or_else(|| HashKeyError::Malformed {
        namespace: namespace.to_owned(),
    })
}

fn parse_key(found: &FetchedSecret) -> Option<HashKey> {
    let text = found.content.get(DATA_KEY)?.expose_secret();
    HashKey::from_bytes(&STANDARD.decode(text.trim_ascii()).ok()?)
}

fn key_secret(namespace: &str, key: &HashKey) -> Desired {
    Desired {
        name: SECRET_NAME.to_owned(),
        namespace: namespace.to_owned(),
        binding_uid: String::new(),
        data: BTreeMap::from([(
            DATA_KEY.to_owned(),
            SecretString::from(STANDARD.encode(key.expose())),
        )]),
        labels: BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())]),
        annotations: BTreeMap::new(),
        owner: None,
        content_hash: String::new(),
        excluded_keys: Vec::new(),
    }
}
