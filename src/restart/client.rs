//! Reads workloads, and writes the annotations of their pod templates.
//!
//! Input: a kind, a namespace and a name or the label; a decision.
//! Output: workloads; at most one patch, guarded by the version that the decision is based on.
//! Invariants: each request has a time limit. A list has at most [`MAX_LISTED`] workloads. Errors name
//! what to change, and repeat no value.

use std::time::Duration;

use jiff::Timestamp;
use kube::{
    Client,
    api::{GetParams, ListParams, Patch, PatchParams},
    core::Request,
};
use serde_json::json;
use tokio::time::timeout;

use super::workload::{Workload, WorkloadList};
use crate::{
    crd::{
        CONTENT_HASHES_ANNOTATION, MANAGED_BY, RESTART_LABEL, RESTARTED_AT_ANNOTATION, RestartKind,
    },
    printable::one_line,
    refusal::Refusal,
};

/// Workloads with the label in one namespace and of one kind. Of more, the first are restarted.
pub const MAX_LISTED: usize = 500;
/// Workloads of one request.
const PAGE: u32 = 50;
/// Longest part of the API server's answer in a message, in bytes.
const MAX_ANSWER_BYTES: usize = 512;

/// Why a workload cannot be read or restarted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestartError {
    /// It does not exist, or the API server does not know its kind.
    #[error("it does not exist")]
    Missing,
    /// No Role grants the verb.
    #[error(
        "the operator may not {verb} it: set the chart value rbac.restarts, or grant get, list and patch"
    )]
    Forbidden {
        /// `get`, `list` or `patch`.
        verb: &'static str,
    },
    /// Another client changed it meanwhile.
    #[error("another client changed it meanwhile")]
    Conflict,
    /// A policy or the API server rejects the change.
    #[error("the API server rejects the change: {0}")]
    Rejected(String),
    /// The API server does not answer.
    #[error("the API server does not answer")]
    Unreachable,
}

/// Client for workloads.
pub struct WorkloadClient {
    client: Client,
    limit: Duration,
}

impl std::fmt::Debug for WorkloadClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadClient").finish_non_exhaustive()
    }
}

impl WorkloadClient {
    /// A client whose requests take at most `limit`.
    #[must_use]
    pub fn new(client: Client, limit: Duration) -> Self {
        Self { client, limit }
    }

    /// Reads one workload.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn get(
        &self,
        kind: RestartKind,
        namespace: &str,
        name: &str,
    ) -> Result<Workload, RestartError> {
        let request = Request::new(kind.url_path(namespace)).get(name, &GetParams::default());
        self.send(request, "get").await
    }

    /// Reads the workloads of one kind that have the label. A kind that the API server does not know has
    /// none.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn labelled(
        &self,
        kind: RestartKind,
        namespace: &str,
    ) -> Result<Vec<Workload>, RestartError> {
        let mut found = Vec::new();
        let mut params = ListParams::default()
            .labels(&format!("{RESTART_LABEL}=true"))
            .limit(PAGE);
        loop {
            let request = Request::new(kind.url_path(namespace)).list(&params);
            let mut list: WorkloadList = match self.send(request, "list").await {
                Err(RestartError::Missing) => return Ok(found),
                listed => listed?,
            };
            found.append(&mut list.items);
            match list.token() {
                Some(token) if found.len() < MAX_LISTED => params = params.continue_token(&token),
                _ => return Ok(found),
            }
        }
    }

    /// Restarts a workload: its pod template gets the hashes of the content, and the time.
    ///
    /// # Errors
    /// If it changed since it was read, or the API server rejects the change.
    pub async fn restart(
        &self,
        kind: RestartKind,
        namespace: &str,
        workload: &Workload,
        (hashes, now): (&str, Timestamp),
    ) -> Result<(), RestartError> {
        let annotations = json!({
            CONTENT_HASHES_ANNOTATION: hashes,
            RESTARTED_AT_ANNOTATION: now.strftime("%FT%TZ").to_string(),
        });
        let patch = json!({
            "metadata": {"resourceVersion": workload.resource_version()},
            "spec": {"template": {"metadata": {"annotations": annotations}}},
        });
        let params = PatchParams {
            field_manager: Some(MANAGED_BY.to_owned()),
            ..PatchParams::default()
        };
        let request = Request::new(kind.url_path(namespace)).patch(
            workload.name(),
            &params,
            &Patch::Merge(&patch),
        );
        let _: Workload = self.send(request, "patch").await?;
        Ok(())
    }

    async fn send<T: serde::de::DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
        verb: &'static str,
    ) -> Result<T, RestartError> {
        let request = request.map_err(|_| RestartError::Unreachable)?;
        match timeout(self.limit, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(match (status.code, Refusal::of(&status)) {
                (404, _) => RestartError::Missing,
                (403, Refusal::Rbac) => RestartError::Forbidden { verb },
                (409, _) => RestartError::Conflict,
                (429 | 500.., _) => RestartError::Unreachable,
                _ => RestartError::Rejected(one_line(&status.message, MAX_ANSWER_BYTES)),
            }),
            Ok(Err(_)) | Err(_) => Err(RestartError::Unreachable),
        }
    }
}
