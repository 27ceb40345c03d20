//! The HTTP client of Doppler's downloads: URL, headers, statuses and limits.
//!
//! Input: a [`ConfigKey`], the last [`Snapshot`] of that key, and the priority of the request.
//! Output: a [`Download`], or a [`DopplerError`].
//! Invariants: each request holds a permit of the rate limiter and reports its outcome there. Time
//! and body size are bounded. Redirects are not followed, and no body is quoted.

use std::time::Duration;

use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, ETAG, HeaderValue, IF_NONE_MATCH},
};
use secrecy::SecretString;
use url::Url;

use super::{
    config_key::ConfigKey,
    error::DopplerError,
    error_messages::{self, ErrorMessages, one_line},
    request::{bearer, host_and_port},
    send::{Sent, send},
    snapshot::{self, Invalid, Snapshot},
};
use crate::{
    outbound::{self, BodyError, ClientError, read_bounded},
    upstream::limiter::{RateLimiter, ReadRequest, RequestOutcome},
};

/// A Doppler config holds 500 KiB, and JSON can escape one byte with six.
const MAX_BODY_BYTES: usize = 4 << 20;
/// Doppler's tags have about 70 characters.
const MAX_ETAG_BYTES: usize = 512;
/// Longest project or config name in an error message, in characters.
const MAX_NAME_CHARS: usize = 100;

/// The result of a download.
#[derive(Debug, PartialEq, Eq)]
pub enum Download {
    /// The config equals the snapshot that was passed in.
    Unchanged,
    /// The config as it is now.
    Changed(Snapshot),
}

/// Downloads configs. One client serves all configs: it owns the connections, and each request
/// waits for a permit of the rate limiter.
pub struct Client {
    http: reqwest::Client,
    timeout: Duration,
    limiter: RateLimiter<DopplerError>,
}

impl Client {
    /// Creates a client whose requests take at most `timeout` each, not counting the wait for a
    /// permit of `limiter`.
    ///
    /// # Errors
    /// If the system has no certificate authorities.
    pub fn new(timeout: Duration, limiter: RateLimiter<DopplerError>) -> Result<Self, ClientError> {
        let http = outbound::client(timeout, None)?;
        Ok(Self::with_http(http, timeout, limiter))
    }

    /// As [`Self::new`], with an HTTP client that has this time limit.
    pub(super) fn with_http(
        http: reqwest::Client,
        timeout: Duration,
        limiter: RateLimiter<DopplerError>,
    ) -> Self {
        Self {
            http,
            timeout,
            limiter,
        }
    }

    /// Downloads the config `key`, whose host the caller has found allowed. `last` must be a
    /// snapshot of the same key: its `ETag` is sent, so an unchanged config costs no body.
    ///
    /// # Errors
    /// If the config cannot be read. While the circuit of the host is open, no request is sent and
    /// the error is the one that opened it.
    pub async fn download(
        &self,
        key: &ConfigKey,
        last: Option<&Snapshot>,
        request: &ReadRequest,
    ) -> Result<Download, DopplerError> {
        let credential = &key.credential;
        let token = credential.token().await?;
        let mut downloaded = self.send(key, last, &token, request).await;
        if matches!(downloaded, Err(DopplerError::Unauthorized { .. }))
            && credential.discard(&token)
        {
            // The token of an identity may have been revoked, or have expired by Doppler's clock.
            let token = credential.token().await?;
            downloaded = self.send(key, last, &token, request).await;
        }
        downloaded.map_err(|error| credential.explain(error))
    }

    /// Sends one request with this token and reads its answer.
    async fn send(
        &self,
        key: &ConfigKey,
        last: Option<&Snapshot>,
        token: &SecretString,
        request: &ReadRequest,
    ) -> Result<Download, DopplerError> {
        let authorization = bearer(token).ok_or(DopplerError::TokenInvalid)?;
        let limit_key = key.download_limit_key();
        let permit = self.limiter.acquire(&limit_key, request).await;
        let mut permit = permit.map_err(|open| DopplerError::CircuitOpen(Box::new(open)))?;
        let tag = last.and_then(Snapshot::etag).and_then(header_value);
        let mut request = self
            .http
            .get(download_url(key))
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, authorization);
        if let Some(tag) = &tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let host = host_and_port(&key.host);
        let Sent { response, rate } = send(request, &host, self.timeout, &mut permit).await?;
        match response.status() {
            StatusCode::OK => {
                let snapshot = self.read_snapshot(response, host).await?;
                permit.record(RequestOutcome::Answered(rate));
                Ok(Download::Changed(snapshot))
            }
            StatusCode::NOT_MODIFIED if tag.is_some() => {
                permit.record(RequestOutcome::Answered(rate));
                Ok(Download::Unchanged)
            }
            status => {
                // The status is enough. Without a body, only Doppler's messages are missing.
                let max_bytes = error_messages::MAX_BODY_BYTES;
                let body = read_bounded(response, max_bytes, self.timeout).await;
                let messages = body
                    .map(|body| ErrorMessages::parse(body.expose_secret(), token))
                    .unwrap_or_default();
                Err(error_for_status(status.as_u16(), key, messages))
            }
        }
    }

    async fn read_snapshot(
        &self,
        response: Response,
        host: String,
    ) -> Result<Snapshot, DopplerError> {
        let etag = response
            .headers()
            .get(ETAG)
            .and_then(|tag| tag.to_str().ok())
            .filter(|tag| !tag.is_empty() && tag.len() <= MAX_ETAG_BYTES)
            .map(str::to_owned);
        let body = match read_bounded(response, MAX_BODY_BYTES, self.timeout).await {
            Ok(body) => body,
            Err(BodyError::TooLarge { limit }) => {
                return Err(DopplerError::TooLarge { host, limit });
            }
            Err(BodyError::Transport(cause)) => {
                return Err(DopplerError::Unreachable { host, cause });
            }
        };
        let values = snapshot::parse(body.expose_secret()).map_err(|invalid| match invalid {
            Invalid::TooLarge => DopplerError::ConfigTooLarge { host },
            Invalid::Malformed(problem) => DopplerError::InvalidBody { host, problem },
        })?;
        Ok(Snapshot::new(values, etag))
    }
}

fn download_url(key: &ConfigKey) -> Url {
    let mut url = key.endpoint("download");
    url.query_pairs_mut().append_pair("format", "json");
    if let Some(transformer) = key.transformer {
        url.query_pairs_mut()
            .append_pair("name_transformer", transformer.as_str());
    }
    url
}

fn header_value(tag: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(tag).ok()
}

/// The error of a status other than 200 and 429, or of a 304 to a request without a tag.
fn error_for_status(status: u16, key: &ConfigKey, messages: ErrorMessages) -> DopplerError {
    let host = host_and_port(&key.host);
    let project = one_line(&key.project, MAX_NAME_CHARS);
    let config = one_line(&key.config, MAX_NAME_CHARS);
    let denies_access = messages.denies_access();
    let rejects_token = messages.rejects_token() && !denies_access;
    let quote = messages.into_quote();
    match status {
        401 => DopplerError::Unauthorized { quote },
        400 if rejects_token => DopplerError::Unauthorized { quote },
        403 => DopplerError::Forbidden {
            project,
            config,
            quote,
        },
        400 if denies_access => DopplerError::Forbidden {
            project,
            config,
            quote,
        },
        400 | 404 => DopplerError::ConfigMissing {
            project,
            config,
            quote,
        },
        304 => DopplerError::UnexpectedStatus { host, status },
        300..=399 => DopplerError::Redirected { host, status },
        408 | 500..=599 => DopplerError::ServerError { host, status },
        _ => DopplerError::UnexpectedStatus { host, status },
    }
}

#[cfg(test)]
mod tests;
