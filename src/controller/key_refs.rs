//! The values behind the keys that bindings name.
//!
//! In: a key of a Secret or ConfigMap in the binding's namespace. Out: its text. Each object is read once for each of its versions that the watch
//! shows, and only the keys that were asked for are kept, so that nothing is read at rest.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client};
use secrecy::SecretString;
use tokio::time::timeout;

use super::object_cache::{ObjectCache, ObjectKey, ReferenceKind};
use crate::reason::Reason;

/// Why a value behind a key cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefError {
    /// There is no such object.
    #[error("{kind:?} {name} is not there: create it in namespace {namespace}, or correct {field}")]
    NoObject {
        /// Kind of the object.
        kind: ReferenceKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The field of the binding that names it.
        field: String,
    },
    /// It has no such key.
    #[error("{kind:?} {name} has no key {key}: add it, or correct {field}")]
    NoKey {
        /// Kind of the object.
        kind: ReferenceKind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
        /// The field of the binding that names it.
        field: String,
    },
    /// The value is not text.
    #[error(
        "the value of key {key} of {kind:?} {name} is not UTF-8 text, so that it cannot be used as {field}"
    )]
    NotText {
        /// Kind of the object.
        kind: ReferenceKind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
        /// The field of the binding that names it.
        field: String,
    },
    /// The operator may not read it.
    #[error(
        "the operator may not read {kind:?} {name} in namespace {namespace}: give its service account the chart's Role there"
    )]
    Forbidden {
        /// Kind of the object.
        kind: ReferenceKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The API server did not answer.
    #[error("{kind:?} {name} could not be read from the API server; it is tried again")]
    Unreachable {
        /// Kind of the object.
        kind: ReferenceKind,
        /// Its name.
        name: String,
    },
}

impl KeyRefError {
    /// Its reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NoObject { .. } | Self::NoKey { .. } => Reason::ReferenceMissing,
            Self::NotText { .. } => Reason::ReferenceInvalid,
            Self::Forbidden { .. } => Reason::SecretForbidden,
            Self::Unreachable { .. } => Reason::KubernetesError,
        }
    }
}

#[derive(Default)]
struct Cached {
    version: String,
    keys: HashMap<String, Option<Result<SecretString, ()>>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Cached>>>;

/// Values that were read, by object and version.
pub struct KeyRefs {
    client: Client,
    limit: Duration,
    slots: Mutex<HashMap<ObjectKey, Slot>>,
}

impl std::fmt::Debug for KeyRefs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("References").finish_non_exhaustive()
    }
}

impl KeyRefs {
    /// Nothing was read yet; each read may take `limit`.
    #[must_use]
    pub fn new(client: Client, limit: Duration) -> Self {
        Self {
            client,
            limit,
            slots: Mutex::default(),
        }
    }

    /// The text under `key` of an object; `field` is the binding's field that names it. Many who ask at once cost one read.
    ///
    /// # Errors
    /// If it is not there, is not text, or cannot be read.
    pub async fn resolve(
        &self,
        objects: &ObjectCache,
        object: &ObjectKey,
        key: &str,
        field: &str,
    ) -> Result<SecretString, KeyRefError> {
        let slot = Arc::clone(
            self.slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(object.clone())
                .or_default(),
        );
        let mut cached = slot.lock().await;
        let current = objects
            .get(object)
            .map(|known| known.observed.resource_version.to_string());
        let held = cached
            .as_ref()
            .filter(|cached| current.as_ref() == Some(&cached.version))
            .and_then(|cached| cached.keys.get(key));
        let value = match held {
            Some(value) => value.clone(),
            None => self.read(objects, object, key, field, &mut cached).await?,
        };
        let (kind, name, key, field) = (
            object.kind,
            object.name.clone(),
            key.to_owned(),
            field.to_owned(),
        );
        match value {
            Some(Ok(text)) => Ok(text),
            Some(Err(())) => Err(KeyRefError::NotText {
                kind,
                name,
                key,
                field,
            }),
            None => Err(KeyRefError::NoKey {
                kind,
                name,
                key,
                field,
            }),
        }
    }

    /// Drops the values of objects that `is_named` says no binding names any more.
    pub fn retain(&self, is_named: impl Fn(&ObjectKey) -> bool) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|object, _| is_named(object));
    }

    async fn read(
        &self,
        objects: &ObjectCache,
        object: &ObjectKey,
        key: &str,
        field: &str,
        cached: &mut Option<Cached>,
    ) -> Result<Option<Result<SecretString, ()>>, KeyRefError> {
        let (kind, namespace, name) = (object.kind, object.namespace.clone(), object.name.clone());
        let read = timeout(self.limit, self.get(object, key)).await;
        let (facts, value) = match read {
            Ok(Ok(Some(found))) => found,
            Ok(Ok(None)) => {
                *cached = None;
                return Err(KeyRefError::NoObject {
                    kind,
                    namespace,
                    name,
                    field: field.to_owned(),
                });
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                return Err(KeyRefError::Forbidden {
                    kind,
                    namespace,
                    name,
                });
            }
            Ok(Err(_)) | Err(_) => return Err(KeyRefError::Unreachable { kind, name }),
        };
        let version = facts.resource_version.to_string();
        objects.observe(object, facts, false);
        let slot = cached.get_or_insert_with(Cached::default);
        if slot.version != version {
            *slot = Cached {
                version,
                keys: HashMap::new(),
            };
        }
        slot.keys.insert(key.to_owned(), value.clone());
        Ok(value)
    }

    async fn get(
        &self,
        object: &ObjectKey,
        key: &str,
    ) -> Result<
        Option<(
            crate::secret::ObservedSecret,
            Option<Result<SecretString, ()>>,
        )>,
        kube::Error,
    > {
        use crate::secret::ObservedSecret;
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .map(SecretString::from)
                .map_err(|_| ())
        };
        Ok(match object.kind {
            ReferenceKind::Secret => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &object.namespace);
                api.get_opt(&object.name).await?.map(|mut secret| {
                    let value = secret
                        .data
                        .as_mut()
                        .and_then(|data| data.remove(key))
                        .map(|ByteString(bytes)| text(bytes));
                    (ObservedSecret::from_metadata(&secret.metadata), value)
                })
            }
            ReferenceKind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &object.namespace);
                api.get_opt(&object.name).await?.map(|mut map| {
                    let value = map
                        .data
                        .as_mut()
                        .and_then(|data| data.remove(key))
                        .map(|text| Ok(SecretString::from(text)));
                    (ObservedSecret::from_metadata(&map.metadata), value)
                })
            }
        })
    }
}
