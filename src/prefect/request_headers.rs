//! The headers of each request to a Prefect server.
//!
//! Input: a [`Connection`].
//! Output: authentication, extra headers and the API version.
//! Invariants: values with credentials are marked sensitive, so that no log prints them.

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use super::connection::{Auth, Connection};

/// The API version whose shapes this module parses.
const API_VERSION: &str = "0.8.4";

/// The headers of each request.
pub(super) fn request_headers(connection: &Connection) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &connection.headers {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            headers.append(name, sensitive(value.expose_secret()));
        }
    }
    let authorization = match &connection.auth {
        Auth::None => None,
        Auth::Bearer(key) => Some(format!("Bearer {}", key.expose_secret())),
        Auth::Basic(pair) => Some(format!(
            "Basic {}",
            BASE64_STANDARD.encode(pair.expose_secret())
        )),
    };
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, sensitive(&authorization));
    }
    headers.insert(
        HeaderName::from_static("x-prefect-api-version"),
        HeaderValue::from_static(API_VERSION),
    );
    headers
}

/// A header value that no log prints. [`super::connection`] has rejected text that cannot be a
/// header value; here it becomes an empty value.
pub(super) fn sensitive(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
