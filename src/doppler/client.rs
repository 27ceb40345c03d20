//! The HTTP client of Doppler's API: URL, headers, statuses and limits.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, ETAG, HeaderValue, IF_NONE_MATCH},
};
use secrecy::ExposeSecret;
use url::Url;

use super::{
    ConfigKey, DopplerError, Snapshot,
    error::{ErrorMessages, MAX_ERROR_BODY_BYTES, error_for_status},
    rate_headers::{parse_rate, retry_after},
    request::{bearer, endpoint, host_and_port},
    snapshot,
};
use crate::{
    outbound::{self, BodyError, ClientError, TransportError, read_bounded},
    upstream::limiter::{Permit, RateLimiter, ReadRequest, RequestOutcome},
};

/// Doppler holds 500 KiB a config; JSON escapes can make six bytes of one.
const MAX_BODY_BYTES: usize = 4 << 20;
/// Doppler's tags have some 70 characters.
const MAX_ETAG_BYTES: usize = 512;

/// What a download gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Download {
    /// The config is as it was in the snapshot that was given.
    Unchanged,
    /// The config as it is now.
    Changed(Snapshot),
}

/// Waits after a refusal that does not say for how long.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// One client for all configs: it holds the connections, and asks when its turn comes.
pub struct Client {
    http: reqwest::Client,
    timeout: Duration,
    limiter: RateLimiter<DopplerError>,
}

impl Client {
    /// Makes a client whose requests take at most `timeout` each, once `gate` lets them through.
    ///
    /// # Errors
    /// If the system has no certificate authorities.
    pub fn new(timeout: Duration, gate: RateLimiter<DopplerError>) -> Result<Self, ClientError> {
        Ok(Self::with_http(
            outbound::client(timeout, None)?,
            timeout,
            gate,
        ))
    }

    /// As [`Self::new`], over an HTTP client with that time limit.
    pub(super) fn with_http(
        http: reqwest::Client,
        timeout: Duration,
        gate: RateLimiter<DopplerError>,
    ) -> Self {
        Self {
            http,
            timeout,
            limiter: gate,
        }
    }

    /// Reads the config at `at`, whose host must have been allowed before, when its turn comes. `last` must be a snapshot that the very same
    /// coordinates gave: its tag is sent, so that an unchanged config costs neither a body nor a comparison.
    ///
    /// # Errors
    /// Whatever keeps the config from being read. Where the host is dead, nothing is sent, and the error is that of others before.
    pub async fn download(
        &self,
        at: &ConfigKey,
        last: Option<&Snapshot>,
        wish: &ReadRequest,
    ) -> Result<Download, DopplerError> {
        let authorization = bearer(&at.token).ok_or(DopplerError::TokenInvalid)?;
        let turn = self.limiter.acquire(&at.download_limit_key(), wish).await;
        let mut turn = turn.map_err(|shut| DopplerError::CircuitOpen(Box::new(shut)))?;
        let downloaded = self.send(at, last, authorization, &mut turn).await;
        if let Err(error) = &downloaded
            && error.is_host_failure()
        {
            turn.record(RequestOutcome::Failed(error.clone()));
        }
        downloaded
    }

    /// One request and its answer.
    async fn send(
        &self,
        at: &ConfigKey,
        last: Option<&Snapshot>,
        authorization: HeaderValue,
        turn: &mut Permit<DopplerError>,
    ) -> Result<Download, DopplerError> {
        let tag = last.and_then(Snapshot::etag).and_then(header_value);
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
        let (headers, now) = (response.headers(), Timestamp::now());
        if status == StatusCode::TOO_MANY_REQUESTS {
            let wait = retry_after(headers, now);
            turn.record(RequestOutcome::RateLimited(
                wait.unwrap_or(DEFAULT_RETRY_AFTER),
            ));
            return Err(DopplerError::RateLimited { retry_after: wait });
        }
        turn.record(RequestOutcome::Answered(parse_rate(headers, now)));
        match status {
            StatusCode::OK => self
                .read_snapshot(response, host)
                .await
                .map(Download::Changed),
            StatusCode::NOT_MODIFIED if tag.is_some() => Ok(Download::Unchanged),
            StatusCode::NOT_MODIFIED => Err(DopplerError::UnexpectedStatus {
                host,
                status: status.as_u16(),
            }),
            _ => {
                // The status says enough: if the body cannot be read, only Doppler's own words are missing.
                let body = read_bounded(response, MAX_ERROR_BODY_BYTES, self.timeout).await;
                let words = body
                    .map(|body| ErrorMessages::parse(body.expose_secret(), &at.token))
                    .unwrap_or_default();
                let names = (host.as_str(), at.project.as_str(), at.config.as_str());
                Err(error_for_status(status.as_u16(), names, words))
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
        let values = snapshot::parse(body.expose_secret())
            .map_err(|problem| DopplerError::InvalidBody { host, problem })?;
        Ok(Snapshot::new(values, etag))
    }
}

fn download_url(at: &ConfigKey) -> Url {
    let mut url = endpoint(at, "download");
    url.query_pairs_mut().append_pair("format", "json");
    if let Some(transformer) = at.transformer {
        url.query_pairs_mut()
            .append_pair("name_transformer", transformer.as_str());
    }
    url
}

fn header_value(tag: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(tag).ok()
}

#[cfg(test)]
mod tests;
