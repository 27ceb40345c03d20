//! The installation's hash key, in a Secret of the operator's own namespace.
//!
//! In: that namespace. Out: the key, made on the first start, read on every later one. Never replaces a key that is there: every content hash
//! would change.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};

use super::{
    client::{Found, Secrets},
    content_hash::HashKey,
    desired::Desired,
    error::WriteError,
};
use crate::crd::{MANAGED_BY, MANAGED_BY_LABEL};

/// Name of the Secret that holds the key.
pub const NAME: &str = "doppler-prefect-operator-hash-key";
/// Its only key: base64 of 32 random bytes, so that the Secret holds text.
const ENTRY: &str = "key";

/// Why there is no hash key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The Secret cannot be created or read.
    #[error("the hash key, Secret {namespace}/{NAME}, could not be created or read: {error}")]
    Request {
        /// The operator's namespace.
        namespace: String,
        /// What failed.
        error: WriteError,
    },
    /// The Secret does not hold a key.
    #[error(
        "Secret {namespace}/{NAME} does not hold a hash key (`{ENTRY}`, 32 random bytes in base64): delete it and restart the operator, which then makes a new one and writes each managed Secret's hash once more"
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
pub async fn load_or_create_key(secrets: &Secrets, namespace: &str) -> Result<HashKey, KeyError> {
    let failed = |error| KeyError::Request {
        namespace: namespace.to_owned(),
        error,
    };
    // First a look: at each start but the first one there is nothing to write.
    let mut found = secrets.get(namespace, NAME).await.map_err(failed)?;
    if found.is_none() {
        let key = HashKey::generate();
        match secrets.create(&holder(namespace, &key)).await {
            Ok(_) => return Ok(key),
            // Somebody was first.
            Err(WriteError::Exists) => {
                found = secrets.get(namespace, NAME).await.map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let found = found.ok_or_else(|| failed(WriteError::NotFound))?;
    read(&found).ok_or_else(|| KeyError::Malformed {
        namespace: namespace.to_owned(),
    })
}

fn read(found: &Found) -> Option<HashKey> {
    let text = found.content.get(ENTRY)?.expose_secret();
    HashKey::from_bytes(&STANDARD.decode(text.trim_ascii()).ok()?)
}

fn holder(namespace: &str, key: &HashKey) -> Desired {
    Desired {
        name: NAME.to_owned(),
        namespace: namespace.to_owned(),
        binding_uid: String::new(),
        data: BTreeMap::from([(
            ENTRY.to_owned(),
            SecretString::from(STANDARD.encode(key.expose())),
        )]),
        labels: BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())]),
        annotations: BTreeMap::new(),
        owner: None,
        content_hash: String::new(),
        held_back: Vec::new(),
    }
}
