//! The HTTP client of Doppler's API: URL, headers, statuses and limits.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH},
};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use url::Url;

use super::{
    Coordinates, DopplerError, RateLimit, Snapshot,
    error::{LARGEST_ERROR_BODY, Words, refusal},
    limits::{wait_after_refusal, wait_until_reset},
    pacing::{Key, Pacing},
    request::{bearer, endpoint, host_and_port},
    snapshot,
};
use crate::outbound::{self, BodyError, ClientError, TransportError, read_bounded};

/// Doppler holds 500 KiB a config; JSON escapes can make six bytes of one.
const LARGEST_BODY: usize = 4 << 20;
/// Doppler's tags have some 70 characters.
const LONGEST_ETAG: usize = 512;

/// What a download gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Download {
    /// The config is as it was in the snapshot that was given.
    Unchanged,
    /// The config as it is now.
    New(Snapshot),
}

/// One client for all configs: it holds the connections, and what each token's limit allows.
pub struct Client {
    http: reqwest::Client,
    timeout: Duration,
    pacing: Pacing,
}

impl Client {
    /// Makes a client whose requests take at most `timeout` each.
    ///
    /// # Errors
    /// If the system has no certificate authorities.
    pub fn new(timeout: Duration) -> Result<Self, ClientError> {
        Ok(Self::over(outbound::client(timeout, None)?, timeout))
    }

    /// As [`Self::new`], over an HTTP client with that time limit.
    pub(super) fn over(http: reqwest::Client, timeout: Duration) -> Self {
        Self {
            http,
            timeout,
            pacing: Pacing::default(),
        }
    }

    /// Reads the config at `at`, whose host must have been allowed before. `last` must be a snapshot that the very same coordinates gave: its tag
    /// is sent, so that an unchanged config costs neither a body nor a comparison.
    ///
    /// # Errors
    /// Whatever keeps the config from being read; also a limit that is known to be used up, in which case nothing is sent.
    pub async fn download(
        &self,
        at: &Coordinates,
        last: Option<&Snapshot>,
    ) -> Result<Download, DopplerError> {
        let key = Key::of(at);
        if let Some(wait) = self.pacing.wait(&key, Instant::now()) {
            return Err(DopplerError::RateLimited {
                retry_after: Some(wait),
            });
        }
        let authorization = bearer(&at.token).ok_or(DopplerError::TokenInvalid)?;
        let tag = last.and_then(Snapshot::etag).and_then(sendable);
        let mut request = self
            .http
            .get(download_url(at))
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, authorization);
        if let Some(tag) = &tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let host = host_and_port(&at.host);
        let response = request
            .send()
            .await
            .map_err(|error| DopplerError::Unreachable {
                cause: TransportError::new(&error, self.timeout),
                host: host.clone(),
            })?;

        let status = response.status();
        let wait = wait_said(status, response.headers());
        let rate = RateLimit::read(response.headers());
        self.pacing.note(key, rate, wait, Instant::now());
        match status {
            StatusCode::OK => self.read(response, host).await.map(Download::New),
            StatusCode::NOT_MODIFIED if tag.is_some() => Ok(Download::Unchanged),
            StatusCode::NOT_MODIFIED => Err(DopplerError::Unexpected {
                host,
                status: status.as_u16(),
            }),
            StatusCode::TOO_MANY_REQUESTS => Err(DopplerError::RateLimited { retry_after: wait }),
            _ => {
                // The status says enough: if the body cannot be read, only Doppler's own words are missing.
                let body = read_bounded(response, LARGEST_ERROR_BODY, self.timeout).await;
                let words = body
                    .map(|body| Words::read(body.expose_secret(), &at.token))
                    .unwrap_or_default();
                let names = (host.as_str(), at.project.as_str(), at.config.as_str());
                Err(refusal(status.as_u16(), names, words))
            }
        }
    }

    /// What the last answer to this token said about its limit.
    #[must_use]
    pub fn rate_limit(&self, at: &Coordinates) -> Option<RateLimit> {
        self.pacing.rate(&Key::of(at))
    }

    async fn read(&self, response: Response, host: String) -> Result<Snapshot, DopplerError> {
        let etag = response
            .headers()
            .get(ETAG)
            .and_then(|tag| tag.to_str().ok())
            .filter(|tag| !tag.is_empty() && tag.len() <= LONGEST_ETAG)
            .map(str::to_owned);
        let body = match read_bounded(response, LARGEST_BODY, self.timeout).await {
            Ok(body) => body,
            Err(BodyError::TooLarge { limit }) => {
                return Err(DopplerError::TooLarge { host, limit });
            }
            Err(BodyError::Transport(cause)) => {
                return Err(DopplerError::Unreachable { host, cause });
            }
        };
        let values = snapshot::parse(body.expose_secret())
            .map_err(|problem| DopplerError::Unreadable { host, problem })?;
        Ok(Snapshot::new(values, etag))
    }
}

/// How long the token must rest after an answer with these headers.
fn wait_said(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if status == StatusCode::TOO_MANY_REQUESTS {
        return wait_after_refusal(headers, Timestamp::now());
    }
    RateLimit::read(headers)
        .filter(|rate| rate.remaining == 0)
        .and_then(|_| wait_until_reset(headers, Timestamp::now()))
}

fn download_url(at: &Coordinates) -> Url {
    let mut url = endpoint(at, "download");
    url.query_pairs_mut().append_pair("format", "json");
    if let Some(transformer) = at.transformer {
        url.query_pairs_mut()
            .append_pair("name_transformer", transformer.as_str());
    }
    url
}

fn sendable(tag: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(tag).ok()
}

#[cfg(test)]
mod tests;
