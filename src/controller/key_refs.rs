//! Resolves the keys that bindings reference, to their values.
//!
//! Input: a key of a Secret or ConfigMap in the binding's namespace.
//! Output: its value as text.
//! Invariants: each version of an object that the watch shows is read once, so that nothing is read
//! at rest. Only the values of referenced keys are kept.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::time::timeout;

use super::object_cache::{ObjectCache, ObjectKey, ReferenceKind};
use crate::{failure::Failure, reason::Reason, secret::ObservedSecret};

/// A key of a Secret or ConfigMap that a binding references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReference {
    /// The Secret or ConfigMap.
    pub object: ObjectKey,
    /// The key in it.
    pub key: String,
    /// The field of the spec that references it.
    pub field: String,
}

/// Why a referenced key cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefError {
    /// The object does not exist.
    #[error(
        "{kind:?} {name} does not exist: create it in namespace {namespace}, or correct {field}"
    )]
    NoObject {
        /// Kind of the object.
        kind: ReferenceKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The field of the spec that references it.
        field: String,
    },
    /// The object lacks the key.
    #[error("{kind:?} {name} has no key {key}: add it, or correct {field}")]
    NoKey {
        /// Kind of the object.
        kind: ReferenceKind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
        /// The field of the spec that references it.
        field: String,
    },
    /// The value is not text.
    #[error(
        "the value of key {key} of {kind:?} {name} is not UTF-8 text: store text under this key, or correct {field}"
    )]
    NotText {
        /// Kind of the object.
        kind: ReferenceKind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
        /// The field of the spec that references it.
        field: String,
    },
    /// The operator may not read the object.
    #[error(
        "the operator has no permission to read {kind:?} {name} in namespace {namespace}: bind the chart's Role there to its service account"
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
    #[error("the operator could not read {kind:?} {name} from the API server; it tries again")]
    Unreachable {
        /// Kind of the object.
        kind: ReferenceKind,
        /// Its name.
        name: String,
    },
}

impl From<KeyRefError> for Failure {
    fn from(error: KeyRefError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
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

/// A value, or that it is not text.
type Value = Result<SecretString, NotText>;

#[derive(Clone, Copy)]
struct NotText;

/// The values of an object at one of its versions. None for a key that the object lacks.
#[derive(Default)]
struct CachedValues {
    version: String,
    values: HashMap<String, Option<Value>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<CachedValues>>>;

/// The cached values of referenced keys, by object and version.
pub struct KeyRefs {
    client: Client,
    limit: Duration,
    slots: Mutex<HashMap<ObjectKey, Slot>>,
}

impl std::fmt::Debug for KeyRefs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRefs").finish_non_exhaustive()
    }
}

impl KeyRefs {
    /// Creates an empty cache. Each read may take `limit`.
    #[must_use]
    pub fn new(client: Client, limit: Duration) -> Self {
        Self {
            client,
            limit,
            slots: Mutex::default(),
        }
    }

    /// Resolves a reference to its value. Concurrent callers share one read.
    ///
    /// # Errors
    /// If the object or the key does not exist, the value is not text, or it cannot be read.
    pub async fn resolve(
        &self,
        objects: &ObjectCache,
        reference: &KeyReference,
    ) -> Result<SecretString, KeyRefError> {
        let slot = {
            let mut slots = self.slots.lock();
            Arc::clone(slots.entry(reference.object.clone()).or_default())
        };
        let mut cached = slot.lock().await;
        let current = objects
            .get(&reference.object)
            .map(|object| object.observed.resource_version.to_string());
        let hit = cached
            .as_ref()
            .filter(|cached| current.as_ref() == Some(&cached.version))
            .and_then(|cached| cached.values.get(&reference.key));
        let value = match hit {
            Some(value) => value.clone(),
            None => self.read(objects, reference, &mut cached).await?,
        };
        let kind = reference.object.kind;
        let name = reference.object.name.clone();
        let (key, field) = (reference.key.clone(), reference.field.clone());
        match value {
            Some(Ok(text)) => Ok(text),
            Some(Err(NotText)) => Err(KeyRefError::NotText {
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

    /// Drops the values of all objects that are not tracked.
    pub fn retain(&self, is_tracked: impl Fn(&ObjectKey) -> bool) {
        self.slots.lock().retain(|object, _| is_tracked(object));
    }

    async fn read(
        &self,
        objects: &ObjectCache,
        reference: &KeyReference,
        cached: &mut Option<CachedValues>,
    ) -> Result<Option<Value>, KeyRefError> {
        let object = &reference.object;
        let (kind, namespace, name) = (object.kind, object.namespace.clone(), object.name.clone());
        let read = timeout(self.limit, self.fetch(object, &reference.key)).await;
        let (observed, value) = match read {
            Ok(Ok(Some(found))) => found,
            Ok(Ok(None)) => {
                *cached = None;
                return Err(KeyRefError::NoObject {
                    kind,
                    namespace,
                    name,
                    field: reference.field.clone(),
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
        let version = observed.resource_version.to_string();
        objects.observe(object, observed, false);
        let current = cached.get_or_insert_with(CachedValues::default);
        if current.version != version {
            *current = CachedValues {
                version,
                values: HashMap::new(),
            };
        }
        current.values.insert(reference.key.clone(), value.clone());
        Ok(value)
    }

    async fn fetch(
        &self,
        object: &ObjectKey,
        key: &str,
    ) -> Result<Option<(ObservedSecret, Option<Value>)>, kube::Error> {
        let text = |bytes| {
            let text = String::from_utf8(bytes).map_err(|_| NotText)?;
            Ok(SecretString::from(text))
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
