//! The record of requests.
//!
//! Input: each request, and the status of its response. Output: a bounded log, and counters.
//! Invariants: the record has fingerprints of tokens, and no token.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Instant;

use axum::extract::Query;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const MAX_RECORDED: usize = 20_000;
/// The path of a download.
pub const DOWNLOAD_PATH: &str = "/v3/configs/config/secrets/download";
/// The path of the watch stream.
pub const WATCH_PATH: &str = "/v3/configs/config/secrets/watch";

/// The path of the exchange of an OIDC token.
pub const EXCHANGE_PATH: &str = "/v3/auth/oidc";
/// The path of the revocation of a token.
pub const REVOKE_PATH: &str = "/v3/auth/revoke";

/// A request.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// The number of the request, from 0.
    pub number: u64,
    /// The time at which it arrived.
    pub at: Instant,
    /// The method.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The decoded query.
    pub query: BTreeMap<String, String>,
    /// The headers, with names in lower case. `authorization` has its scheme and the token's
    /// fingerprint.
    pub headers: BTreeMap<String, String>,
    /// The token's [`fingerprint`].
    pub token: Option<String>,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// The status of the response; none if there is no response yet.
    pub status: Option<u16>,
}

impl RecordedRequest {
    pub(super) fn from_parts(parts: &Parts) -> Self {
        let token = token_of(parts).map(|token| fingerprint(&token));
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                let value = if name == "authorization" {
                    let scheme = value.split(' ').next().unwrap_or_default();
                    format!("{scheme} {}", token.as_deref().unwrap_or("none"))
                } else {
                    value.into_owned()
                };
                (name.as_str().to_owned(), value)
            })
            .collect();
        Self {
            number: 0,
            at: Instant::now(),
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri)
                .map(|Query(query)| query)
                .unwrap_or_default(),
            headers,
            token,
            version: format!("{:?}", parts.version),
            status: None,
        }
    }

    /// Whether this is a download of secrets.
    #[must_use]
    pub fn is_download(&self) -> bool {
        self.path == DOWNLOAD_PATH
    }

    /// Whether this opens a watch stream.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.path == WATCH_PATH
    }

    /// Whether this exchanges an OIDC token.
    #[must_use]
    pub fn is_exchange(&self) -> bool {
        self.path == EXCHANGE_PATH
    }

    /// Whether this revokes a token.
    #[must_use]
    pub fn is_revocation(&self) -> bool {
        self.path == REVOKE_PATH
    }

    /// Whether the query names this project and config.
    #[must_use]
    pub fn is_for(&self, project: &str, config: &str) -> bool {
        let parameter = |name: &str| self.query.get(name).map(String::as_str);
        parameter("project") == Some(project) && parameter("config") == Some(config)
    }

    /// Whether the request has this token.
    #[must_use]
    pub fn uses_token(&self, token: &str) -> bool {
        self.token.as_deref() == Some(&fingerprint(token))
    }
}

/// The token of a request: after `Bearer`, or as the user name of `Basic`.
pub(super) fn token_of(parts: &Parts) -> Option<String> {
    let header = parts.headers.get("authorization")?.to_str().ok()?;
    let (scheme, rest) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        return decoded.strip_suffix(':').map(str::to_owned);
    }
    None
}

/// The fingerprint of a token: twelve hexadecimal digits of its SHA-256.
#[must_use]
pub fn fingerprint(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes())[..6])
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Counters since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All requests.
    pub requests: u64,
    /// Requests for downloads, whatever their response.
    pub downloads: u64,
    /// Requests for watch streams.
    pub watches: u64,
    /// Responses by status.
    pub by_status: BTreeMap<u16, u64>,
}

impl Counts {
    /// Responses with that status.
    #[must_use]
    pub fn status(&self, status: u16) -> u64 {
        self.by_status.get(&status).copied().unwrap_or_default()
    }

    /// Responses 304.
    #[must_use]
    pub fn not_modified(&self) -> u64 {
        self.status(304)
    }
}

#[derive(Default)]
pub(super) struct RequestLog {
    next_number: u64,
    pub(super) requests: VecDeque<RecordedRequest>,
    pub(super) counts: Counts,
}

impl RequestLog {
    pub(super) fn record(&mut self, request: &mut RecordedRequest) {
        request.number = self.next_number;
        self.next_number += 1;
        self.counts.requests += 1;
        self.counts.downloads += u64::from(request.is_download());
        self.counts.watches += u64::from(request.is_watch());
        if self.requests.len() == MAX_RECORDED {
            self.requests.pop_front();
        }
        self.requests.push_back(request.clone());
    }

    pub(super) fn record_status(&mut self, number: u64, status: u16) {
        *self.counts.by_status.entry(status).or_default() += 1;
        if let Some(request) = self
            .requests
            .iter_mut()
            .rev()
            .find(|call| call.number == number)
        {
            request.status = Some(status);
        }
    }

    pub(super) fn reset(&mut self) {
        self.requests.clear();
        self.counts = Counts::default();
    }
}
