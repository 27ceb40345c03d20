//! The client of Doppler's watch stream: one request, one stream, until it ends.
//!
//! In: [`ConfigKey`], of which the transformer does not matter. Out: the frames of a stream, or a [`WatchError`] that says whether another attempt
//! can help. Every wait has a limit: for the head of the answer, and for each frame. It never reads a config, never tries again by itself, and
//! shows nothing of a body but Doppler's own words.

use std::{collections::VecDeque, time::Duration};

use futures::{Stream, stream};
use jiff::Timestamp;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{
    ConfigKey, DopplerError, StreamEvent,
    error::{ErrorMessages, MAX_ERROR_BODY_BYTES, retry_hint},
    rate_headers::{parse_rate, retry_after},
    request::{bearer, endpoint, host_and_port},
    sse::{Decoder, MAX_EVENT_BYTES, Malformed},
};
use crate::{
    outbound::{self, ClientError, TransportError, read_bounded},
    reason::Reason,
    upstream::limiter::{CircuitOpen, Priority, RateLimiter, ReadRequest, RequestOutcome},
};

/// Wait after a 429 that does not say for how long.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Why there is no stream, or no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The token cannot be sent at all. Nothing was.
    #[error(
        "the Doppler token is empty or holds a character that no token has, so changes of this config cannot be pushed: put the bare token into the block or the Secret it comes from"
    )]
    TokenInvalid,
    /// Plan, token or something in between does not give a stream, and will not as long as things are as they are.
    #[error(
        "{host} refuses to push changes of this config (status {status}{}): it is polled", quoted(.message.as_deref())
    )]
    Rejected {
        /// The host that was asked.
        host: String,
        /// The status.
        status: u16,
        /// Doppler's words, or what is wrong with the answer.
        message: Option<String>,
    },
    /// 429.
    #[error(
        "{host} asks for fewer requests with this token{}: until it pushes changes of this config, it is polled", retry_hint(*.retry_after)
    )]
    RateLimited {
        /// The host that was asked.
        host: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// Another attempt may help. A change may have been missed.
    #[error("{host} {cause}: until it pushes changes of this config again, it is polled")]
    Disconnected {
        /// The host that was asked.
        host: String,
        /// What happened to the stream.
        cause: DisconnectCause,
    },
    /// Not asked, since the host gave no answer to others just now.
    #[error("{}", .0.error)]
    CircuitOpen(CircuitOpen<DopplerError>),
}

/// What happened to a stream. It reads on after a host's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectCause {
    /// Something went wrong on the way.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// 5xx, or a time limit of a server on the way.
    #[error("answered with a fault of its own ({0})")]
    ServerError(u16),
    /// The stream came to its end.
    #[error("ended the stream of changes")]
    Ended,
    /// Not a frame for this long, whatever else came.
    #[error("said nothing for {} s", .0.as_secs_f64())]
    IdleTimeout(Duration),
    /// What came is not text.
    #[error("sent what is no stream of events")]
    NotEventStream,
    /// A frame that is larger than what is read.
    #[error("sent an event of more than {limit} bytes, which is not read")]
    TooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
}

impl WatchError {
    /// Whether another attempt is of no use until somebody changes something.
    #[must_use]
    pub const fn is_rejection(&self) -> bool {
        matches!(self, Self::TokenInvalid | Self::Rejected { .. })
    }

    /// When to come back, if Doppler said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => *retry_after,
            Self::CircuitOpen(shut) => Some(shut.retry_after),
            _ => None,
        }
    }

    /// The word for metric and log. What is wrong with the config itself, its download says.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TokenInvalid | Self::Rejected { status: 401, .. } => Reason::DopplerUnauthorized,
            Self::Rejected {
                status: 400 | 403, ..
            } => Reason::DopplerForbidden,
            Self::Rejected { status: 404, .. } => Reason::ConfigMissing,
            Self::RateLimited { .. } => Reason::DopplerRateLimited,
            Self::Disconnected {
                cause: DisconnectCause::Transport(TransportError::AddressRefused),
                ..
            } => Reason::HostNotAllowed,
            Self::Rejected { .. }
            | Self::Disconnected {
                cause:
                    DisconnectCause::NotEventStream
                    | DisconnectCause::Transport(TransportError::Undecodable | TransportError::Request),
                ..
            } => Reason::DopplerError,
            Self::Disconnected {
                cause: DisconnectCause::TooLarge { .. },
                ..
            } => Reason::AnswerTooLarge,
            Self::Disconnected { .. } => Reason::DopplerUnreachable,
            Self::CircuitOpen(shut) => shut.error.reason(),
        }
    }
}

/// Opens streams. Its connections are not those of [`super::Client`], so that no number of streams holds up a download.
pub struct WatchClient {
    http: reqwest::Client,
    head_timeout: Duration,
    idle_timeout: Duration,
    limiter: RateLimiter<DopplerError>,
}

impl WatchClient {
    /// Makes one whose streams must open within `head`, once `gate` lets them, and are lost after `silence` without a frame. Doppler pings every 30 s
    /// or so. The gate is not to be that of downloads, which would wait behind streams that do not open.
    ///
    /// # Errors
    /// If the system has no certificate authorities.
    pub fn new(
        head: Duration,
        silence: Duration,
        gate: RateLimiter<DopplerError>,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            http: outbound::stream_client(head, None)?,
            head_timeout: head,
            idle_timeout: silence,
            limiter: gate,
        })
    }

    /// Opens a stream for the config at `at`, whose host must have been allowed before. Dropping the stream closes its connection. An error is the
    /// last that a stream says, and it does not end without one.
    ///
    /// # Errors
    /// If there is no stream.
    pub async fn watch(
        &self,
        at: &ConfigKey,
    ) -> Result<impl Stream<Item = Result<StreamEvent, WatchError>> + Send + use<>, WatchError>
    {
        let authorization = bearer(&at.token).ok_or(WatchError::TokenInvalid)?;
        let host = host_and_port(&at.host);
        let (lane, wish) = (
            at.stream_limit_key(),
            ReadRequest::with_priority(Priority::Background),
        );
        let turn = self.limiter.acquire(&lane, &wish).await;
        let mut turn = turn.map_err(WatchError::CircuitOpen)?;
        let request = self
            .http
            .get(endpoint(at, "watch"))
            .header(ACCEPT, "text/event-stream")
            .header(AUTHORIZATION, authorization)
            .header(CACHE_CONTROL, "no-cache")
            .send();
        let answer = timeout(self.head_timeout, request)
            .await
            .map_err(|_| TransportError::Timeout(self.head_timeout))
            .and_then(|sent| sent.map_err(|error| TransportError::new(&error, self.head_timeout)));
        let response = match answer {
            Ok(response) => response,
            Err(cause) => {
                turn.record(RequestOutcome::Failed(DopplerError::Unreachable {
                    host: host.clone(),
                    cause: cause.clone(),
                }));
                let cause = DisconnectCause::Transport(cause);
                return Err(WatchError::Disconnected { host, cause });
            }
        };
        let (headers, now) = (response.headers(), Timestamp::now());
        turn.record(match response.status().as_u16() {
            429 => RequestOutcome::RateLimited(
                retry_after(headers, now).unwrap_or(DEFAULT_RETRY_AFTER),
            ),
            // As with a download: it is the host that is in trouble, so other streams need not find out for themselves.
            status @ (408 | 500..=599) => RequestOutcome::Failed(DopplerError::ServerError {
                host: host.clone(),
                status,
            }),
            _ => RequestOutcome::Answered(parse_rate(headers, now)),
        });
        drop(turn);
        if response.status() != StatusCode::OK || !is_event_stream(response.headers()) {
            return Err(self.read_rejection(response, host, &at.token).await);
        }
        let open = OpenStream {
            response,
            host,
            idle_timeout: self.idle_timeout,
            decoder: Decoder::default(),
            events: VecDeque::new(),
        };
        Ok(stream::try_unfold(open, |mut open| async move {
            let frame = open.next_event().await?;
            Ok(Some((frame, open)))
        }))
    }

    async fn read_rejection(
        &self,
        response: Response,
        host: String,
        token: &SecretString,
    ) -> WatchError {
        let status = response.status().as_u16();
        let words = match status {
            429 => {
                let retry_after = retry_after(response.headers(), Timestamp::now());
                return WatchError::RateLimited { host, retry_after };
            }
            408 | 500..=599 => {
                let cause = DisconnectCause::ServerError(status);
                return WatchError::Disconnected { host, cause };
            }
            200 => Some("what it gives is not an event stream".to_owned()),
            300..=399 => Some("a redirect is not followed with a token".to_owned()),
            _ => {
                // As with a download: if the body cannot be read, only Doppler's own words are missing.
                let body = read_bounded(response, MAX_ERROR_BODY_BYTES, self.head_timeout);
                match timeout(self.head_timeout, body).await {
                    Ok(Ok(body)) => ErrorMessages::parse(body.expose_secret(), token).quote(),
                    _ => None,
                }
            }
        };
        WatchError::Rejected {
            host,
            status,
            message: words,
        }
    }
}

/// A stream that is open.
struct OpenStream {
    response: Response,
    host: String,
    idle_timeout: Duration,
    decoder: Decoder,
    /// Those that came in one piece and have not been asked for.
    events: VecDeque<StreamEvent>,
}

impl OpenStream {
    async fn next_event(&mut self) -> Result<StreamEvent, WatchError> {
        // The time counts from when a frame is asked for: a reader that was busy has not met with silence.
        let silence = self.idle_timeout;
        let frame = timeout(silence, self.decode_next())
            .await
            .unwrap_or(Err(DisconnectCause::IdleTimeout(silence)));
        frame.map_err(|cause| WatchError::Disconnected {
            host: self.host.clone(),
            cause,
        })
    }

    async fn decode_next(&mut self) -> Result<StreamEvent, DisconnectCause> {
        loop {
            if let Some(frame) = self.events.pop_front() {
                return Ok(frame);
            }
            let piece = self.response.chunk().await;
            let piece = piece.map_err(|error| TransportError::new(&error, self.idle_timeout))?;
            let piece = piece.ok_or(DisconnectCause::Ended)?;
            let decoded = self.decoder.push(&piece, &mut self.events);
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
    let said = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let essence = said.and_then(|it| it.split(';').next());
    essence.is_some_and(|it| it.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn quoted(words: Option<&str>) -> String {
    words.map(|words| format!(": {words}")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
