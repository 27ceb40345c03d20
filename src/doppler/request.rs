//! What every request to Doppler has in common.
//!
//! Input: the base URL of the API, and a token.
//! Output: the URL of a path, the `Authorization` header, and the host as error messages name it.
//! Invariants: nothing is sent. The header is marked as sensitive.

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// The URL of a path of the API.
pub(super) fn api_url(host: &Url, path: &str) -> Url {
    let mut url = host.clone();
    url.set_fragment(None);
    url.set_query(None);
    // A base URL may carry a path, for example that of a gateway.
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}/{path}"));
    url
}

/// The value of `Authorization`, or `None` if the token contains characters that no token has.
pub(super) fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let token = token.expose_secret();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `api.doppler.com`, followed by the port if it is not the scheme's default.
pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
