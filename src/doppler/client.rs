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
    Coordinates, DopplerError, Snapshot,
    error::{LARGEST_ERROR_BODY, Words, refusal},
    rate_headers::{rate, wait_after_refusal},
    request::{bearer, endpoint, host_and_port},
    snapshot,
};
use crate::{
    outbound::{self, BodyError, ClientError, TransportError, read_bounded},
    upstream::limiter::{Gate, Said, Turn, Wish},
};

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

/// Waits after a refusal that does not say for how long.
const REST: Duration = Duration::from_secs(5);

/// One client for all configs: it holds the connections, and asks when its turn comes.
pub struct Client {
    http: reqwest::Client,
    timeout: Duration,
    gate: Gate<DopplerError>,
}

impl Client {
    /// Makes a client whose requests take at most `timeout` each, once `gate` lets them through.
    ///
    /// # Errors
    /// If the system has no certificate authorities.
    pub fn new(timeout: Duration, gate: Gate<DopplerError>) -> Result<Self, ClientError> {
        Ok(Self::over(outbound::client(timeout, None)?, timeout, gate))
    }

    /// As [`Self::new`], over an HTTP client with that time limit.
    pub(super) fn over(http: reqwest::Client, timeout: Duration, gate: Gate<DopplerError>) -> Self {
        Self {
            http,
            timeout,
            gate,
        }
    }

    /// Reads the config at `at`, whose host must have been allowed before, when its turn comes. `last` must be a snapshot that the very same
    /// coordinates gave: its tag is sent, so that an unchanged config costs neither a body nor a comparison.
    ///
    /// # Errors
    /// Whatever keeps the config from being read. Where the host is dead, nothing is sent, and the error is that of others before.
    pub async fn download(
        &self,
        at: &Coordinates,
        last: Option<&Snapshot>,
        wish: &Wish,
    ) -> Result<Download, DopplerError> {
        let authorization = bearer(&at.token).ok_or(DopplerError::TokenInvalid)?;
        let turn = self.gate.turn(&at.lane(), wish).await;
        let mut turn = turn.map_err(|shut| DopplerError::Shut(Box::new(shut)))?;
        let downloaded = self.send(at, last, authorization, &mut turn).await;
        if let Err(error) = &downloaded
            && error.is_of_the_host()
        {
            turn.said(Said::Failed(error.clone()));
        }
        downloaded
    }

    /// One request and its answer.
    async fn send(
        &self,
        at: &Coordinates,
        last: Option<&Snapshot>,
        authorization: HeaderValue,
        turn: &mut Turn<DopplerError>,
    ) -> Result<Download, DopplerError> {
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
        let (headers, now) = (response.headers(), Timestamp::now());
        if status == StatusCode::TOO_MANY_REQUESTS {
            let wait = wait_after_refusal(headers, now);
            turn.said(Said::Limited(wait.unwrap_or(REST)));
            return Err(DopplerError::RateLimited { retry_after: wait });
        }
        turn.said(Said::Answered(rate(headers, now)));
        match status {
            StatusCode::OK => self.read(response, host).await.map(Download::New),
            StatusCode::NOT_MODIFIED if tag.is_some() => Ok(Download::Unchanged),
            StatusCode::NOT_MODIFIED => Err(DopplerError::Unexpected {
                host,
                status: status.as_u16(),
            }),
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
