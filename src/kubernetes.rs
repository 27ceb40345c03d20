//! How requests to the API server differ from those that its client makes.
//!
//! In: a request. Out: the same one, with other headers. It sends nothing.

use axum::http::{
    HeaderValue, Request,
    header::{ACCEPT, CONTENT_TYPE},
};

/// The answer is to hold metadata only, which costs both sides less, and shows no value.
#[must_use]
pub fn metadata_only(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    request
}

/// The body is a JSON Patch (RFC 6902). The client makes those from a tree only, into which all would have to be copied; only the header differs.
#[must_use]
pub fn json_patch(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    let patch = HeaderValue::from_static("application/json-patch+json");
    request.headers_mut().insert(CONTENT_TYPE, patch);
    request
}
