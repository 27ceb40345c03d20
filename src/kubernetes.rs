//! Headers of requests to the API server that the client cannot set.
//!
//! Input: a request.
//! Output: the same request with another header.
//! Invariants: pure. It sends nothing.

use axum::http::{
    HeaderValue, Request,
    header::{ACCEPT, CONTENT_TYPE},
};

/// Requests metadata only, which costs both sides less and returns no values.
#[must_use]
pub fn metadata_only(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    request
}

/// Declares the body a JSON Patch (RFC 6902). The client only builds one from a JSON tree, into which
/// everything would have to be copied.
#[must_use]
pub fn json_patch(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    let patch = HeaderValue::from_static("application/json-patch+json");
    request.headers_mut().insert(CONTENT_TYPE, patch);
    request
}
