//! The requests: create, guarded update, look, delete.
//!
//! In: [`Desired`] and [`Facts`]. Out: the facts of what was written, from an answer that holds metadata only. Each request has a time limit.
//! Never decides whether a write is due, and never hands an answer with values to a parser that logs what it cannot read.

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
    desired::{Desired, TYPE},
    error::WriteError,
    facts::Facts,
    patch::{self, Encoded, Operation},
};
use crate::crd::MANAGED_BY;

/// Answers to writes hold metadata only.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Requests about Secrets.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
    limit: Duration,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The Secret's facts after the write: its version is the one whose content is known to be good.
    pub facts: Facts,
}

/// A Secret as it was found, values and all.
pub struct Found {
    /// Its facts.
    pub facts: Facts,
    /// Its type.
    pub type_: String,
    /// Whether it is immutable.
    pub immutable: bool,
    /// Its values.
    pub content: BTreeMap<String, SecretSlice<u8>>,
}

impl Found {
    /// Why it cannot be updated, if it cannot.
    #[must_use]
    pub fn obstacle(&self) -> Option<WriteError> {
        if self.type_ != TYPE {
            Some(WriteError::WrongType)
        } else if self.immutable {
            Some(WriteError::Immutable)
        } else {
            None
        }
    }

    /// Whether it holds exactly these values.
    #[must_use]
    pub fn holds(&self, data: &BTreeMap<String, SecretString>) -> bool {
        self.content.len() == data.len()
            && self
                .content
                .iter()
                .zip(data)
                .all(|((name, value), (wanted, right))| {
                    name == wanted && value.expose_secret() == right.expose_secret().as_bytes()
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
    data: Encoded<'a>,
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

/// As much of a Secret as is looked at.
#[derive(Deserialize)]
struct Whole {
    metadata: ObjectMeta,
    #[serde(default, rename = "type")]
    type_: String,
    #[serde(default)]
    immutable: Option<bool>,
    #[serde(default)]
    data: Option<BTreeMap<String, ByteString>>,
}

impl Secrets {
    /// Requests by `client`, each within `limit`.
    #[must_use]
    pub const fn new(client: Client, limit: Duration) -> Self {
        Self { client, limit }
    }

    /// Creates the Secret.
    ///
    /// # Errors
    /// [`WriteError::Exists`] if one of that name is there.
    pub async fn create(&self, desired: &Desired) -> Result<Written, WriteError> {
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
            type_: TYPE,
            data: Encoded(&desired.data),
        };
        let request = serde_json::to_vec(&body)
            .map_err(request::Error::SerializeBody)
            .and_then(|body| requests(&desired.namespace).create(&by_us(), body));
        self.write(request, "create", &desired.namespace, None)
            .await
    }

    /// Makes the Secret of `facts` the desired one, if it has not changed since.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed: look at it and judge again.
    pub async fn update(&self, desired: &Desired, facts: &Facts) -> Result<Written, WriteError> {
        self.patch(
            &desired.namespace,
            &desired.name,
            &patch::update(facts, desired),
        )
        .await
    }

    /// Lets the Secret stay behind without its binding.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed: look at it and judge again.
    pub async fn release(
        &self,
        namespace: &str,
        name: &str,
        facts: &Facts,
        binding_uid: &str,
    ) -> Result<Written, WriteError> {
        self.patch(namespace, name, &patch::release(facts, binding_uid))
            .await
    }

    /// The Secret as it is, values and all.
    ///
    /// # Errors
    /// If the API server does not give it; that there is none is not an error.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<Found>, WriteError> {
        let unreachable = |_| WriteError::Unreachable { verb: "get" };
        let request = requests(namespace)
            .get(name, &kube::api::GetParams::default())
            .map_err(|_| WriteError::NotFound)?;
        let text = match self.within(self.client.request_text(request)).await? {
            Ok(text) => SecretString::from(text),
            Err(error) => {
                return match WriteError::of(&error, "get", namespace) {
                    WriteError::NotFound => Ok(None),
                    error => Err(error),
                };
            }
        };
        // Not the client's own parsing: it logs what it cannot read.
        let whole: Whole = serde_json::from_str(text.expose_secret()).map_err(unreachable)?;
        Ok(Some(Found {
            facts: Facts::of(&whole.metadata),
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

    /// Deletes exactly this Secret at exactly this version. That it is gone already is a success.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it is another one by now, or changed.
    pub async fn delete(
        &self,
        namespace: &str,
        name: &str,
        facts: &Facts,
    ) -> Result<(), WriteError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(facts.uid.to_string()),
                resource_version: Some(facts.resource_version.to_string()),
            }),
            ..DeleteParams::default()
        };
        let request = requests(namespace)
            .delete(name, &params)
            .map_err(|_| WriteError::NotFound)?;
        // The answer is a Status, or the object itself if finalizers hold it.
        match self
            .within(self.client.request_text(metadata_only(request)))
            .await?
        {
            Ok(_) => Ok(()),
            Err(error) => match WriteError::of(&error, "delete", namespace) {
                WriteError::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn patch(
        &self,
        namespace: &str,
        name: &str,
        operations: &[Operation<'_>],
    ) -> Result<Written, WriteError> {
        // `Patch::Json` takes a JSON tree, into which values would have to be copied: only the content type differs.
        let params = PatchParams {
            field_manager: Some(MANAGED_BY.to_owned()),
            ..PatchParams::default()
        };
        let request = requests(namespace).patch(name, &params, &Patch::Merge(operations));
        self.write(
            request,
            "patch",
            namespace,
            Some("application/json-patch+json"),
        )
        .await
    }

    async fn write(
        &self,
        request: Result<HttpRequest, request::Error>,
        verb: &'static str,
        namespace: &str,
        content_type: Option<&'static str>,
    ) -> Result<Written, WriteError> {
        let mut request = metadata_only(request.map_err(|_| WriteError::Unreachable { verb })?);
        if let Some(content_type) = content_type.and_then(|text| text.parse().ok()) {
            request.headers_mut().insert("content-type", content_type);
        }
        let text = self
            .within(self.client.request_text(request))
            .await?
            .map_err(|error| WriteError::of(&error, verb, namespace))?;
        let object: PartialObjectMeta<Secret> =
            serde_json::from_str(&text).map_err(|_| WriteError::Unreachable { verb })?;
        Ok(Written {
            facts: Facts::of(&object.metadata),
        })
    }

    async fn within<T>(&self, answer: impl Future<Output = T>) -> Result<T, WriteError> {
        tokio::time::timeout(self.limit, answer)
            .await
            .map_err(|_| WriteError::Timeout)
    }
}

type HttpRequest = axum::http::Request<Vec<u8>>;

fn requests(namespace: &str) -> Request {
    Request::new(Secret::url_path(&(), Some(namespace)))
}

fn by_us() -> PostParams {
    PostParams {
        field_manager: Some(MANAGED_BY.to_owned()),
        ..PostParams::default()
    }
}

fn metadata_only(mut request: HttpRequest) -> HttpRequest {
    if let Ok(accept) = METADATA_ONLY.parse() {
        request.headers_mut().insert("accept", accept);
    }
    request
}
