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
    observed::Facts,
    patch::{self, Encoded, Operation},
};
use crate::{
    crd::MANAGED_BY,
    kubernetes::{json_patch, metadata_only},
};

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
        self.write(request, "create", &desired.namespace).await
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

    /// Has the Secret go with its binding.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed: look at it and judge again.
    pub async fn own(
        &self,
        namespace: &str,
        name: &str,
        facts: &Facts,
        owner: &OwnerReference,
    ) -> Result<Written, WriteError> {
        self.patch(namespace, name, &patch::own(facts, owner)).await
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
        let params = PatchParams {
            field_manager: Some(MANAGED_BY.to_owned()),
            ..PatchParams::default()
        };
        let request = requests(namespace).patch(name, &params, &Patch::Merge(operations));
        self.write(request.map(json_patch), "patch", namespace)
            .await
    }

    async fn write(
        &self,
        request: Result<HttpRequest, request::Error>,
        verb: &'static str,
        namespace: &str,
    ) -> Result<Written, WriteError> {
        let request = metadata_only(request.map_err(|_| WriteError::Unreachable { verb })?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reason::Reason, secret::hash_key};
    use axum::{Json, Router, http::StatusCode, response::IntoResponse};
    use serde_json::{Value, json};

    /// An API server that gives the same answer to everything.
    fn answering(code: u16, body: Value) -> Secrets {
        let code = StatusCode::from_u16(code).unwrap();
        let router =
            Router::new().fallback(move || async move { (code, Json(body)).into_response() });
        Secrets::new(Client::new(router, "default"), Duration::from_secs(5))
    }

    fn status(code: u16, word: &str, causes: &Value) -> Value {
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": word, "message": "canary", "details": {"causes": causes}})
    }

    fn facts() -> Facts {
        Facts::of(&ObjectMeta {
            uid: Some("s".into()),
            resource_version: Some("7".into()),
            ..ObjectMeta::default()
        })
    }

    #[tokio::test]
    async fn refusals_are_told_apart_and_never_repeat_what_the_server_said() {
        for (code, word, causes, reason) in [
            (409, "Conflict", json!([]), Reason::KubernetesError),
            (
                422,
                "Invalid",
                json!([{"reason": "FieldValueForbidden", "field": "data", "message": "m"}]),
                Reason::SecretImmutable,
            ),
            (
                422,
                "Invalid",
                json!([{"reason": "FieldValueTooLong", "field": "data", "message": "m"}]),
                Reason::SecretTooLarge,
            ),
            (
                413,
                "RequestEntityTooLarge",
                json!([]),
                Reason::SecretTooLarge,
            ),
            (403, "Forbidden", json!([]), Reason::SecretForbidden),
            (
                403,
                "Forbidden",
                json!([{"reason": "NamespaceTerminating", "field": "x", "message": "m"}]),
                Reason::NamespaceTerminating,
            ),
            (500, "InternalError", json!([]), Reason::KubernetesError),
        ] {
            let secrets = answering(code, status(code, word, &causes));
            let error = secrets.release("ns", "s", &facts(), "u").await.unwrap_err();
            assert_eq!(error.reason(), reason, "{code} {causes}");
            assert!(
                !format!("{error} {error:?}").contains("canary"),
                "{error:?}"
            );
        }
        let patch = |causes| answering(422, status(422, "Invalid", &causes));
        assert_eq!(
            patch(json!([])).release("ns", "s", &facts(), "u").await,
            Err(WriteError::Conflict)
        );
    }

    #[tokio::test]
    async fn a_missing_secret_is_no_error_to_look_at_or_delete() {
        let secrets = answering(404, status(404, "NotFound", &json!([])));
        assert!(secrets.get("ns", "s").await.unwrap().is_none());
        assert_eq!(secrets.delete("ns", "s", &facts()).await, Ok(()));
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_after_the_limit() {
        let router = Router::new().fallback(std::future::pending::<()>);
        let secrets = Secrets::new(Client::new(router, "default"), Duration::from_millis(20));
        assert_eq!(
            secrets.get("ns", "s").await.err(),
            Some(WriteError::Timeout)
        );
    }

    #[tokio::test]
    async fn found_content_is_compared_byte_for_byte_and_obstacles_are_named() {
        let body =
            json!({"metadata": {"uid": "s"}, "type": "Opaque", "data": {"A": "YQ==", "B": ""}});
        let found = answering(200, body).get("ns", "s").await.unwrap().unwrap();
        let data = |a: &str| {
            BTreeMap::from([
                ("A".to_owned(), a.into()),
                ("B".to_owned(), SecretString::from("")),
            ])
        };
        assert!(found.holds(&data("a")));
        assert!(!found.holds(&data("b")));
        assert!(!found.holds(&BTreeMap::new()));
        assert_eq!(found.obstacle(), None);
        let typed = answering(200, json!({"metadata": {}, "type": "kubernetes.io/tls"}))
            .get("ns", "s")
            .await;
        assert_eq!(
            typed.unwrap().unwrap().obstacle(),
            Some(WriteError::WrongType)
        );
        let immutable = answering(
            200,
            json!({"metadata": {}, "type": "Opaque", "immutable": true}),
        )
        .get("ns", "s")
        .await;
        assert_eq!(
            immutable.unwrap().unwrap().obstacle(),
            Some(WriteError::Immutable)
        );
    }

    #[tokio::test]
    async fn a_hash_key_that_is_there_is_read_and_a_malformed_one_is_an_error_that_says_what_to_do()
    {
        let there = |value: &'static str| {
            let router = Router::new().fallback(move |method: axum::http::Method| async move {
                if method == "POST" {
                    (
                        StatusCode::CONFLICT,
                        Json(status(409, "AlreadyExists", &json!([]))),
                    )
                } else {
                    (
                        StatusCode::OK,
                        Json(json!({"metadata": {}, "type": "Opaque", "data": {"key": value}})),
                    )
                }
            });
            Secrets::new(Client::new(router, "default"), Duration::from_secs(5))
        };
        // base64 of base64 of 32 bytes of 'A'.
        let good = there("UVVGQlFVRkJRVUZCUVVGQlFVRkJRVUZCUVVGQlFVRkJRVUZCUVVGQlFVRT0=");
        let key = hash_key::load_or_create_key(&good, "op").await.unwrap();
        assert_eq!(key.expose(), &[b'A'; 32]);
        let error = hash_key::load_or_create_key(&there("eA=="), "op")
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("delete it and restart the operator"),
            "{error}"
        );
    }
}
