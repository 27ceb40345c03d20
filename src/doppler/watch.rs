//! The HTTP client of Doppler's watch stream: one request, one stream, until it ends.
//!
//! Input: a [`ConfigKey`], whose transformer does not matter.
//! Output: the events of a stream, or a [`WatchError`] that says whether a retry can help.
//! Invariants: each wait has a time limit, for the head of the answer and for each event. The
//! client never downloads a config, and never retries by itself.

use std::{collections::VecDeque, time::Duration};

use futures::{Stream, stream};
use jiff::Timestamp;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap},
};
use secrecy::SecretString;
use tokio::time::timeout;

use super::{
    config_key::ConfigKey,
    error::DopplerError,
    error_messages::{self, ErrorMessages},
    request::{bearer, host_and_port},
    sse::{Decoder, MAX_EVENT_BYTES, Malformed, StreamEvent},
    watch_error::{DisconnectCause, WatchError},
};
use crate::{
    outbound::{self, ClientError, TransportError, read_bounded},
    upstream::{
        limiter::{Priority, RateLimiter, ReadRequest, RequestOutcome},
        rate_headers::{parse_rate, retry_after_limit},
    },
};

/// The wait after a 429 that does not say how long to wait.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Opens watch streams. Its connections are not those of [`super::Client`], so no number of
/// streams delays a download.
pub struct WatchClient {
    http: reqwest::Client,
    head_timeout: Duration,
    idle_timeout: Duration,
    limiter: RateLimiter<DopplerError>,
}

impl WatchClient {
    /// Creates a client whose streams must open within `head_timeout` of their permit, and end with
    /// an error after `idle_timeout` without an event. Doppler pings about every 30 s.
    /// `limiter` must not be the one of downloads, which would wait behind streams that do not open.
    ///
    /// # Errors
    /// If the system has no certificate authorities.
    pub fn new(
        head_timeout: Duration,
        idle_timeout: Duration,
        limiter: RateLimiter<DopplerError>,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            http: outbound::stream_client(head_timeout, None)?,
            head_timeout,
            idle_timeout,
            limiter,
        })
    }

    /// Opens a stream for the config `key`, whose host the caller has found allowed. Dropping the
    /// stream closes its connection. A stream ends with an error, and never without one.
    ///
    /// # Errors
    /// If the stream does not open.
    pub async fn watch(
        &self,
        key: &ConfigKey,
    ) -> Result<impl Stream<Item = Result<StreamEvent, WatchError>> + Send + use<>, WatchError>
    {
        let credential = &key.credential;
        let unavailable = |error| WatchError::NoToken(Box::new(error));
        let token = credential.token().await.map_err(unavailable)?;
        let mut response = self.request(key, &token).await;
        if response.as_ref().is_err_and(WatchError::rejects_token) && credential.discard(&token) {
            // The token of an identity may have been revoked, or have expired by Doppler's clock.
            let token = credential.token().await.map_err(unavailable)?;
            response = self.request(key, &token).await;
        }
        let response = response?;
        let open = OpenStream {
            response,
            host: host_and_port(&key.host),
            idle_timeout: self.idle_timeout,
            decoder: Decoder::default(),
            events: VecDeque::new(),
        };
        Ok(stream::try_unfold(open, |mut open| async move {
            let event = open.next_event().await?;
            Ok(Some((event, open)))
        }))
    }

    /// Sends the request with this token and returns the answer whose body is an event stream.
    async fn request(&self, key: &ConfigKey, token: &SecretString) -> Result<Response, WatchError> {
        let authorization = bearer(token).ok_or(WatchError::TokenInvalid)?;
        let host = host_and_port(&key.host);
        let read = ReadRequest::with_priority(Priority::Background);
        let permit = self.limiter.acquire(&key.stream_limit_key(), &read).await;
        let mut permit = permit.map_err(WatchError::CircuitOpen)?;
        let request = self
            .http
            .get(key.endpoint("watch"))
            .header(ACCEPT, "text/event-stream")
            .header(AUTHORIZATION, authorization)
            .header(CACHE_CONTROL, "no-cache")
            .send();
        let sent = timeout(self.head_timeout, request)
            .await
            .map_err(|_| TransportError::Timeout(self.head_timeout))
            .and_then(|sent| sent.map_err(|error| TransportError::new(&error, self.head_timeout)));
        let response = match sent {
            Ok(response) => response,
            Err(cause) => {
                permit.record(RequestOutcome::Failed(DopplerError::Unreachable {
                    host: host.clone(),
                    cause: cause.clone(),
                }));
                let cause = DisconnectCause::Transport(cause);
                return Err(WatchError::Disconnected { host, cause });
            }
        };
        permit.record(outcome(&response, &host));
        drop(permit);
        if response.status() != StatusCode::OK || !is_event_stream(response.headers()) {
            return Err(self.read_rejection(response, host, token).await);
        }
        Ok(response)
    }

    async fn read_rejection(
        &self,
        response: Response,
        host: String,
        token: &SecretString,
    ) -> WatchError {
        let status = response.status().as_u16();
        let mut rejects_token = status == 401;
        let message = match status {
            429 => {
                let retry_after = retry_after_limit(response.headers(), Timestamp::now());
                return WatchError::RateLimited { host, retry_after };
            }
            408 | 500..=599 => {
                let cause = DisconnectCause::ServerError(status);
                return WatchError::Disconnected { host, cause };
            }
            200 => Some("the answer is not an event stream".to_owned()),
            300..=399 => Some("the operator does not follow a redirect with a token".to_owned()),
            _ => {
                // The status is enough. Without a body, only Doppler's messages are missing.
                let max_bytes = error_messages::MAX_BODY_BYTES;
                let body = read_bounded(response, max_bytes, self.head_timeout);
                let messages = match timeout(self.head_timeout, body).await {
                    Ok(Ok(body)) => ErrorMessages::parse(body.expose_secret(), token),
                    _ => ErrorMessages::default(),
                };
                rejects_token |= status == 400 && messages.rejects_token();
                messages.into_quote()
            }
        };
        WatchError::Rejected {
            host,
            status,
            message,
            rejects_token,
        }
    }
}

/// What the head of an answer means for the rate limiter.
fn outcome(response: &Response, host: &str) -> RequestOutcome<DopplerError> {
    let (headers, now) = (response.headers(), Timestamp::now());
    match response.status().as_u16() {
        429 => {
            let wait = retry_after_limit(headers, now).unwrap_or(DEFAULT_RETRY_AFTER);
            RequestOutcome::RateLimited(wait)
        }
        // As for a download: the circuit breaker spares other streams the request.
        status @ (502..=504) => RequestOutcome::Failed(DopplerError::ServerError {
            host: host.to_owned(),
            status,
        }),
        200 => RequestOutcome::Answered(parse_rate(headers, now)),
        _ => RequestOutcome::Refused(parse_rate(headers, now)),
    }
}

/// A stream that is open.
struct OpenStream {
    response: Response,
    host: String,
    idle_timeout: Duration,
    decoder: Decoder,
    /// Decoded events that the reader has not taken yet.
    events: VecDeque<StreamEvent>,
}

impl OpenStream {
    async fn next_event(&mut self) -> Result<StreamEvent, WatchError> {
        // The time limit starts when the reader asks, so a busy reader does not cause a timeout.
        let idle_timeout = self.idle_timeout;
        let event = timeout(idle_timeout, self.decode_next())
            .await
            .unwrap_or(Err(DisconnectCause::IdleTimeout(idle_timeout)));
        event.map_err(|cause| WatchError::Disconnected {
            host: self.host.clone(),
            cause,
        })
    }

    async fn decode_next(&mut self) -> Result<StreamEvent, DisconnectCause> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let chunk = self.response.chunk().await;
            let chunk = chunk.map_err(|error| TransportError::new(&error, self.idle_timeout))?;
            let chunk = chunk.ok_or(DisconnectCause::Ended)?;
            let decoded = self.decoder.push(&chunk, &mut self.events);
            decoded.map_err(|malformed| match malformed {
                Malformed::TooLarge => DisconnectCause::TooLarge {
                    limit: MAX_EVENT_BYTES,
                },
                Malformed::NotUtf8 => DisconnectCause::NotEventStream,
            })?;
        }
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let essence = value.and_then(|it| it.split(';').next());
    essence.is_some_and(|it| it.trim().eq_ignore_ascii_case("text/event-stream"))
}

#[cfg(test)]
mod tests;
