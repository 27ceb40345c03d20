//! The requests: create, guarded update, look, delete.
//!
//! In: [`Desired`] and [`ObservedSecret`]. Out: the facts of what was written, from an answer that holds metadata only. Each request has a time limit.
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
    observed::ObservedSecret,
    patch::{self, Base64Values, Operation},
};
use crate::{
    crd::MANAGED_BY,
    kubernetes::{json_patch, metadata_only},
};

/// Requests about Secrets.
#[derive(Clone)]
pub struct SecretClient {
    client: Client,
    timeout: Duration,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenSecret {
    /// The Secret's facts after the write: its version is the one whose content is known to be good.
    pub observed: ObservedSecret,
}

/// A Secret as it was found, values and all.
pub struct FetchedSecret {
    /// Its facts.
    pub observed: ObservedSecret,
    /// Its type.
    pub type_: String,
    /// Whether it is immutable.
    pub immutable: bool,
    /// Its values.
    pub content: BTreeMap<String, SecretSlice<u8>>,
}

impl FetchedSecret {
    /// Why it cannot be updated, if it cannot.
    #[must_use]
    pub fn update_blocker(&self) -> Option<WriteError> {
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
    pub fn data_equals(&self, data: &BTreeMap<String, SecretString>) -> bool {
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

/// As much of a Secret as is looked at.
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
    /// Requests by `client`, each within `limit`.
    #[must_use]
    pub const fn new(client: Client, limit: Duration) -> Self {
        Self {
            client,
            timeout: limit,
        }
    }

    /// Creates the Secret.
    ///
    /// # Errors
    /// [`WriteError::Exists`] if one of that name is there.
    pub async fn create(&self, desired: &Desired) -> Result<WrittenSecret, WriteError> {
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
            data: Base64Values(&desired.data),
        };
        let request = serde_json::to_vec(&body)
            .map_err(request::Error::SerializeBody)
            .and_then(|body| secret_requests(&desired.namespace).create(&post_params(), body));
        self.write(request, "create", &desired.namespace).await
    }

    /// Makes the Secret of `facts` the desired one, if it has not changed since.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed: look at it and judge again.
    pub async fn update(
        &self,
        desired: &Desired,
        facts: &ObservedSecret,
    ) -> Result<WrittenSecret, WriteError> {
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
    pub async fn disown(
        &self,
        namespace: &str,
        name: &str,
        facts: &ObservedSecret,
        binding_uid: &str,
    ) -> Result<WrittenSecret, WriteError> {
        self.patch(namespace, name, &patch::disown(facts, binding_uid))
            .await
    }

    /// Has the Secret go with its binding.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it changed: look at it and judge again.
    pub async fn set_owner(
        &self,
        namespace: &str,
        name: &str,
        facts: &ObservedSecret,
        owner: &OwnerReference,
    ) -> Result<WrittenSecret, WriteError> {
        self.patch(namespace, name, &patch::set_owner(facts, owner))
            .await
    }

    /// The Secret as it is, values and all.
    ///
    /// # Errors
    /// If the API server does not give it; that there is none is not an error.
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
                return match WriteError::from_kube(&error, "get", namespace) {
                    WriteError::NotFound => Ok(None),
                    error => Err(error),
                };
            }
        };
        // Not the client's own parsing: it logs what it cannot read.
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

    /// Deletes exactly this Secret at exactly this version. That it is gone already is a success.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if it is another one by now, or changed.
    pub async fn delete(
        &self,
        namespace: &str,
        name: &str,
        facts: &ObservedSecret,
    ) -> Result<(), WriteError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(facts.uid.to_string()),
                resource_version: Some(facts.resource_version.to_string()),
            }),
            ..DeleteParams::default()
        };
        let request = secret_requests(namespace)
            .delete(name, &params)
            .map_err(|_| WriteError::NotFound)?;
        // The answer is a Status, or the object itself if finalizers hold it.
        match self
            .with_timeout(self.client.request_text(metadata_only(request)))
            .await?
        {
            Ok(_) => Ok(()),
            Err(error) => match WriteError::from_kube(&error, "delete", namespace) {
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
    ) -> Result<WrittenSecret, WriteError> {
        let params = PatchParams {
            field_manager: Some(MANAGED_BY.to_owned()),
            ..PatchParams::default()
        };
        let request = secret_requests(namespace).patch(name, &params, &Patch::Merge(operations));
        self.write(request.map(json_patch), "patch", namespace)
            .await
    }

    async fn write(
        &self,
        request: Result<HttpRequest, request::Error>,
        verb: &'static str,
        namespace: &str,
    ) -> Result<WrittenSecret, WriteError> {
        let request = metadata_only(request.map_err(|_| WriteError::Unreachable { verb })?);
        let text = self
            .with_timeout(self.client.request_text(request))
            .await?
            .map_err(|error| WriteError::from_kube(&error, verb, namespace))?;
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

fn post_params() -> PostParams {
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
    fn answering(code: u16, body: Value) -> SecretClient {
        let code = StatusCode::from_u16(code).unwrap();
        let router =
            Router::new().fallback(move || async move { (code, Json(body)).into_response() });
        SecretClient::new(Client::new(router, "default"), Duration::from_secs(5))
    }

    fn status(code: u16, word: &str, causes: &Value) -> Value {
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": word, "message": "canary", "details": {"causes": causes}})
    }

    fn facts() -> ObservedSecret {
        ObservedSecret::from_metadata(&ObjectMeta {
            uid: Some("s".into()),
            resource_version: Some("7".into()),
            ..ObjectMeta::default()
        })
    }

    #[tokio::test]
    async fn maps_api_errors_and_drops_the_server_message() {
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
            let error = secrets.disown("ns", "s", &facts(), "u").await.unwrap_err();
            assert_eq!(error.reason(), reason, "{code} {causes}");
            assert!(
                !format!("{error} {error:?}").contains("canary"),
                "{error:?}"
            );
        }
        let patch = |causes| answering(422, status(422, "Invalid", &causes));
        assert_eq!(
            patch(json!([])).disown("ns", "s", &facts(), "u").await,
            Err(WriteError::Conflict)
        );
    }

    #[tokio::test]
    async fn get_and_delete_accept_a_missing_secret() {
        let secrets = answering(404, status(404, "NotFound", &json!([])));
        assert!(secrets.get("ns", "s").await.unwrap().is_none());
        assert_eq!(secrets.delete("ns", "s", &facts()).await, Ok(()));
    }

    #[tokio::test]
    async fn times_out_when_the_api_server_does_not_answer() {
        let router = Router::new().fallback(std::future::pending::<()>);
        let secrets = SecretClient::new(Client::new(router, "default"), Duration::from_millis(20));
        assert_eq!(
            secrets.get("ns", "s").await.err(),
            Some(WriteError::Timeout)
        );
    }

    #[tokio::test]
    async fn compares_data_by_bytes_and_reports_what_blocks_an_update() {
        let body =
            json!({"metadata": {"uid": "s"}, "type": "Opaque", "data": {"A": "YQ==", "B": ""}});
        let found = answering(200, body).get("ns", "s").await.unwrap().unwrap();
        let data = |a: &str| {
            BTreeMap::from([
                ("A".to_owned(), a.into()),
                ("B".to_owned(), SecretString::from("")),
            ])
        };
        assert!(found.data_equals(&data("a")));
        assert!(!found.data_equals(&data("b")));
        assert!(!found.data_equals(&BTreeMap::new()));
        assert_eq!(found.update_blocker(), None);
        let typed = answering(200, json!({"metadata": {}, "type": "kubernetes.io/tls"}))
            .get("ns", "s")
            .await;
        assert_eq!(
            typed.unwrap().unwrap().update_blocker(),
            Some(WriteError::WrongType)
        );
        let immutable = answering(
            200,
            json!({"metadata": {}, "type": "Opaque", "immutable": true}),
        )
        .get("ns", "s")
        .await;
        assert_eq!(
            immutable.unwrap().unwrap().update_blocker(),
            Some(WriteError::Immutable)
        );
    }

    #[tokio::test]
    async fn reads_existing_hash_key_and_rejects_a_malformed_one() {
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
            SecretClient::new(Client::new(router, "default"), Duration::from_secs(5))
        };
        // base64 of base64 of 32 bytes of 'A'.
        let good = there("UVVGQlFVRkJRVUZCUVVGQlFVRkJRVUZCUVVGQlFVRkJRVUZCUVVGQlFVRT0=");
        let key = hash_key::load_or_create_hash_key(&good, "op")
            .await
            .unwrap();
        assert_eq!(key.expose(), &[b'A'; 32]);
        let error = hash_key::load_or_create_hash_key(&there("eA=="), "op")
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
