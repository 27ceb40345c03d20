//! What every request to Doppler has in common.
//!
//! In: [`ConfigKey`]. Out: the URL, the header with the token, and the host as errors name it. It sends nothing.

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::ConfigKey;

/// The URL of what can be done with a config's secrets, with the names of project and config.
pub(super) fn endpoint(at: &ConfigKey, action: &str) -> Url {
    let mut url = at.host.clone();
    url.set_fragment(None);
    // A base URL may carry a path, as that of a gateway does.
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}/v3/configs/config/secrets/{action}"));
    url.query_pairs_mut()
        .clear()
        .append_pair("project", &at.project)
        .append_pair("config", &at.config);
    url
}

/// The value of `Authorization`; nothing if no token looks like that.
pub(super) fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let token = token.expose_secret();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `api.doppler.com`, or with a port that is not the scheme's own.
pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
