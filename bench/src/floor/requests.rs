//! The HTTP requests of the minimal client.
//!
//! Input: paths and bodies. Output: requests, and their result.
//! Invariants: the API server returns metadata only.

use std::time::Duration;

use anyhow::{Context, Result};
use http::{Request, header};
use kube::Client;
use kube::core::ApiResource;

const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The paths of a namespace.
pub struct Paths {
    /// The Secrets.
    pub secrets: String,
    /// The resources.
    pub resources: String,
}

impl Paths {
    /// The paths of that namespace and kind.
    #[must_use]
    pub fn of(namespace: &str, kind: &ApiResource) -> Self {
        let (api, plural) = (&kind.api_version, &kind.plural);
        Self {
            secrets: format!("/api/v1/namespaces/{namespace}/secrets"),
            resources: format!("/apis/{api}/namespaces/{namespace}/{plural}"),
        }
    }
}

/// A request that creates an object.
///
/// # Errors
/// When the path is invalid.
pub fn create(path: &str, body: String) -> Result<Request<Vec<u8>>> {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, JSON)
        .header(header::ACCEPT, METADATA_ONLY);
    Ok(request.body(body.into_bytes())?)
}

/// A request that applies a JSON patch.
///
/// # Errors
/// When the path is invalid.
pub fn patch(path: &str, body: String) -> Result<Request<Vec<u8>>> {
    let request = Request::patch(path)
        .header(header::CONTENT_TYPE, JSON_PATCH)
        .header(header::ACCEPT, METADATA_ONLY);
    Ok(request.body(body.into_bytes())?)
}

/// Sends a request.
///
/// # Errors
/// When the API server rejects it or does not respond in time.
pub async fn send(client: &Client, request: Request<Vec<u8>>) -> Result<()> {
    let response = tokio::time::timeout(WRITE_TIMEOUT, client.request_text(request)).await;
    response.context("the API server did not respond to a write in time")??;
    Ok(())
}
