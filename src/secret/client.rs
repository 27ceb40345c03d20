//! The requests about Secrets: create, guarded update, get, delete.
//!
//! Input: a [`Desired`] and an [`ObservedSecret`].
//! Output: the metadata of the written Secret, from a response without values.
//! Invariants: each request has a time limit; never decides whether a write is due; never passes a
//! response with values to a parser that logs what it cannot read.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{PartialObjectMeta, Request, request},
};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    desired::Desired,
    error::WriteError,
    observed::ObservedSecret,
    patch::{self, Base64Values, PatchOperation},
};
use crate::{
    crd::{MANAGED_BY, SecretType},
    kubernetes::{json_patch, metadata_only},
};

/// Sends requests about Secrets.
#[derive(Clone)]
pub struct SecretClient {
    client: Client,
    timeout: Duration,
}

/// The result of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenSecret {
    /// The Secret's metadata after the write. Its version is known to have the desired data.
    pub observed: ObservedSecret,
}

/// A Secret from a GET, with its values.
pub struct FetchedSecret {
    /// Its metadata.
    pub observed: ObservedSecret,
    /// Its type.
    pub type_: String,
    /// Whether it is immutable.
    pub immutable: bool,
    /// Its data.
    pub content: BTreeMap<String, SecretSlice<u8>>,
}

impl FetchedSecret {
    /// Why the API server would reject an update to a Secret of this type. `None` if it would not.
    #[must_use]
    pub fn update_blocker(&self, type_: SecretType) -> Option<WriteError> {
        if self.type_ != type_.as_str() {
            Some(WriteError::WrongType)
        } else if self.immutable {
            Some(WriteError::Immutable)
        } else {
            None
        }
    }

    /// Whether its data equal these values byte for byte.
    #[must_use]
    pub fn data_equals(&self, data: &BTreeMap<String, SecretSlice<u8>>) -> bool {
        self.content.len() == data.len()
            && self
                .content
                .iter()
                .zip(data)
                .all(|((name, value), (wanted, right))| {
                    name == wanted && value.expose_secret() == right.expose_secret()
                })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewSecret<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: NewMetadata<'a>,
    #[serde(rename = "type")]
    type_: &'static str,
    data: Base64Values<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewMetadata<'a> {
    name: &'a str,
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_references: Option<[&'a OwnerReference; 1]>,
}

/// The fields of a Secret that the operator reads.
#[derive(Deserialize)]
struct SecretResponse {
    metadata: ObjectMeta,
    #[serde(default, rename = "type")]
    type_: String,
    #[serde(default)]
    immutable: Option<bool>,
    #[serde(default)]
    data: Option<BTreeMap<String, ByteString>>,
}

impl SecretClient {
    /// Sends requests through `client`, each with the time limit `timeout`.
    #[must_use]
    pub const fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    /// Creates the Secret.
    ///
    /// # Errors
    /// [`WriteError::Exists`] if a Secret of that name exists, or another [`WriteError`] if the
    /// request fails.
    pub async fn create(&self, desired: &Desired) -> Result<WrittenSecret, WriteError> {
        let request = create_request(desired, false);
        self.write(request, "create", &desired.namespace, Some(&desired.data))
            .await
    }

    /// Asks the API server whether it would accept the Secret: in place of the `observed` one, or as
    /// a new one. Stores nothing.
    ///
    /// # Errors
    /// Why the write would fail.
    pub async fn dry_run(
        &self,
        desired: &Desired,
        observed: Option<&ObservedSecret>,
    ) -> Result<(), WriteError> {
        let (namespace, sent) = (&desired.namespace, Some(&desired.data));
        match observed {
            None => {
                let request = create_request(desired, true);
                self.write(request, "create", namespace, sent).await?;
            }
            Some(observed) => {
                let operations = patch::update(observed, desired);
                let request = patch_request(namespace, &desired.name, &operations, true);
                self.write(request, "patch", namespace, sent).await?;
            }
        }
        Ok(())
    }

    /// Updates the `observed` Secret to `desired`, if it has not changed since.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed: get it and decide again.
    pub async fn update(
        &self,
        desired: &Desired,
        observed: &ObservedSecret,
    ) -> Result<WrittenSecret, WriteError> {
        let operations = patch::update(observed, desired);
        let request = patch_request(&desired.namespace, &desired.name, &operations, false);
        self.write(request, "patch", &desired.namespace, Some(&desired.data))
            .await
    }

    /// Removes the ownership of a binding, so that the Secret remains after the binding is deleted.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed: get it and decide again.
    pub async fn disown(
        &self,
        namespace: &str,
        name: &str,
        observed: &ObservedSecret,
        binding_uid: &str,
    ) -> Result<WrittenSecret, WriteError> {
        self.patch(namespace, name, &patch::disown(observed, binding_uid))
            .await
    }

    /// Records the pool entries that name the Secret. None removes the record.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed: get it and decide again.
    pub async fn record_entries(
        &self,
        namespace: &str,
        name: &str,
        observed: &ObservedSecret,
        entries: Option<&str>,
    ) -> Result<WrittenSecret, WriteError> {
        self.patch(namespace, name, &patch::record_entries(observed, entries))
            .await
    }

    /// Sets the owner reference, so that the garbage collector deletes the Secret with its binding.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed: get it and decide again.
    pub async fn set_owner(
        &self,
        namespace: &str,
        name: &str,
        observed: &ObservedSecret,
        owner: &OwnerReference,
    ) -> Result<WrittenSecret, WriteError> {
        self.patch(namespace, name, &patch::set_owner(observed, owner))
            .await
    }

    /// Gets the Secret with its values. `None` if it does not exist.
    ///
    /// # Errors
    /// If the request fails, or the response cannot be parsed.
    pub async fn get(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<FetchedSecret>, WriteError> {
        let unreachable = |_| WriteError::Unreachable { verb: "get" };
        let request = secret_requests(namespace)
            .get(name, &kube::api::GetParams::default())
            .map_err(|_| WriteError::NotFound)?;
        let text = match self.with_timeout(self.client.request_text(request)).await? {
            Ok(text) => SecretString::from(text),
            Err(error) => {
                return match WriteError::from_kube(&error, "get", namespace, None) {
                    WriteError::NotFound => Ok(None),
                    error => Err(error),
                };
            }
        };
        // The client's own parser logs what it cannot read.
        let whole: SecretResponse =
            serde_json::from_str(text.expose_secret()).map_err(unreachable)?;
        Ok(Some(FetchedSecret {
            observed: ObservedSecret::from_metadata(&whole.metadata),
            type_: whole.type_,
            immutable: whole.immutable == Some(true),
            content: whole
                .data
                .into_iter()
                .flatten()
                .map(|(name, value)| (name, SecretSlice::from(value.0)))
                .collect(),
        }))
    }

    /// Deletes this Secret at this version. Succeeds if it no longer exists.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed, or if another Secret has that name now.
    pub async fn delete(
        &self,
        namespace: &str,
        name: &str,
        observed: &ObservedSecret,
    ) -> Result<(), WriteError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(observed.uid.to_string()),
                resource_version: Some(observed.resource_version.to_string()),
            }),
            ..DeleteParams::default()
        };
        let request = secret_requests(namespace)
            .delete(name, &params)
            .map_err(|_| WriteError::NotFound)?;
        // The response is a Status, or the object itself if it has finalizers.
        match self
            .with_timeout(self.client.request_text(metadata_only(request)))
            .await?
        {
            Ok(_) => Ok(()),
            Err(error) => match WriteError::from_kube(&error, "delete", namespace, None) {
                WriteError::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn patch(
        &self,
        namespace: &str,
        name: &str,
        operations: &[PatchOperation<'_>],
    ) -> Result<WrittenSecret, WriteError> {
        let request = patch_request(namespace, name, operations, false);
        self.write(request, "patch", namespace, None).await
    }

    /// `sent` are the values in the request.
    async fn write(
        &self,
        request: Result<HttpRequest, request::Error>,
        verb: &'static str,
        namespace: &str,
        sent: Option<&BTreeMap<String, SecretSlice<u8>>>,
    ) -> Result<WrittenSecret, WriteError> {
        let request = metadata_only(request.map_err(|_| WriteError::Unreachable { verb })?);
        let text = self
            .with_timeout(self.client.request_text(request))
            .await?
            .map_err(|error| WriteError::from_kube(&error, verb, namespace, sent))?;
        let object: PartialObjectMeta<Secret> =
            serde_json::from_str(&text).map_err(|_| WriteError::Unreachable { verb })?;
        Ok(WrittenSecret {
            observed: ObservedSecret::from_metadata(&object.metadata),
        })
    }

    async fn with_timeout<T>(&self, answer: impl Future<Output = T>) -> Result<T, WriteError> {
        tokio::time::timeout(self.timeout, answer)
            .await
            .map_err(|_| WriteError::Timeout)
    }
}

type HttpRequest = axum::http::Request<Vec<u8>>;

fn secret_requests(namespace: &str) -> Request {
    Request::new(Secret::url_path(&(), Some(namespace)))
}

fn create_request(desired: &Desired, dry_run: bool) -> Result<HttpRequest, request::Error> {
    let body = NewSecret {
        api_version: "v1",
        kind: "Secret",
        metadata: NewMetadata {
            name: &desired.name,
            namespace: &desired.namespace,
            labels: &desired.labels,
            annotations: &desired.annotations,
            owner_references: desired.owner.as_ref().map(|owner| [owner]),
        },
        type_: desired.type_.as_str(),
        data: Base64Values(&desired.data),
    };
    let params = PostParams {
        dry_run,
        field_manager: Some(MANAGED_BY.to_owned()),
    };
    let body = serde_json::to_vec(&body).map_err(request::Error::SerializeBody)?;
    secret_requests(&desired.namespace).create(&params, body)
}

fn patch_request(
    namespace: &str,
    name: &str,
    operations: &[PatchOperation<'_>],
    dry_run: bool,
) -> Result<HttpRequest, request::Error> {
    let params = PatchParams {
        dry_run,
        field_manager: Some(MANAGED_BY.to_owned()),
        ..PatchParams::default()
    };
    let request = secret_requests(namespace).patch(name, &params, &Patch::Merge(operations));
    request.map(json_patch)
}

#[cfg(test)]
mod tests;
