//! The client of Doppler's watch stream: one request, one stream, until it ends.
//!
//! In: [`Coordinates`], of which the transformer does not matter. Out: the frames of a stream, or a [`WatchError`] that says whether another attempt
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
    Coordinates, DopplerError, Frame,
    error::{LARGEST_ERROR_BODY, Words, wait},
    rate_headers::{rate, wait_after_refusal},
    request::{bearer, endpoint, host_and_port},
    sse::{Decoder, LARGEST_FRAME, Malformed},
};
use crate::{
    outbound::{self, ClientError, TransportError, read_bounded},
    reason::Reason,
    upstream::limiter::{Gate, Rank, Said, Shut, Wish},
};

/// Wait after a 429 that does not say for how long.
const REST: Duration = Duration::from_secs(30);

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
        "{host} refuses to push changes of this config (status {status}{}): it is polled", said(.words.as_deref())
    )]
    Refused {
        /// The host that was asked.
        host: String,
        /// The status.
        status: u16,
        /// Doppler's words, or what is wrong with the answer.
        words: Option<String>,
    },
    /// 429.
    #[error(
        "{host} asks for fewer requests with this token{}: until it pushes changes of this config, it is polled", wait(*.retry_after)
    )]
    Limited {
        /// The host that was asked.
        host: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// Another attempt may help. A change may have been missed.
    #[error("{host} {cause}: until it pushes changes of this config again, it is polled")]
    Lost {
        /// The host that was asked.
        host: String,
        /// What happened to the stream.
        cause: Loss,
    },
    /// Not asked, since the host gave no answer to others just now.
    #[error("{}", .0.error)]
    Shut(Shut<DopplerError>),
}

/// What happened to a stream. It reads on after a host's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// Something went wrong on the way.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// 5xx, or a time limit of a server on the way.
    #[error("answered with a fault of its own ({0})")]
    Fault(u16),
    /// The stream came to its end.
    #[error("ended the stream of changes")]
    Ended,
    /// Not a frame for this long, whatever else came.
    #[error("said nothing for {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// What came is not text.
    #[error("sent what is no stream of events")]
    Garbled,
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
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::TokenInvalid | Self::Refused { .. })
    }

    /// When to come back, if Doppler said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited { retry_after, .. } => *retry_after,
            Self::Shut(shut) => Some(shut.retry_after),
            _ => None,
        }
    }

    /// The word for metric and log. What is wrong with the config itself, its download says.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TokenInvalid | Self::Refused { status: 401, .. } => Reason::DopplerUnauthorized,
            Self::Refused {
                status: 400 | 403, ..
            } => Reason::DopplerForbidden,
            Self::Refused { status: 404, .. } => Reason::ConfigMissing,
            Self::Limited { .. } => Reason::DopplerRateLimited,
            Self::Lost {
                cause: Loss::Transport(TransportError::AddressRefused),
                ..
            } => Reason::HostNotAllowed,
            Self::Refused { .. }
            | Self::Lost {
                cause:
                    Loss::Garbled
                    | Loss::Transport(TransportError::Undecodable | TransportError::Request),
                ..
            } => Reason::DopplerError,
            Self::Lost {
                cause: Loss::TooLarge { .. },
                ..
            } => Reason::AnswerTooLarge,
            Self::Lost { .. } => Reason::DopplerUnreachable,
            Self::Shut(shut) => shut.error.reason(),
        }
    }
}

/// Opens streams. Its connections are not those of [`super::Client`], so that no number of streams holds up a download.
pub struct Watcher {
    http: reqwest::Client,
    head: Duration,
    silence: Duration,
    gate: Gate<DopplerError>,
}

impl Watcher {
    /// Makes one whose streams must open within `head`, once `gate` lets them, and are lost after `silence` without a frame. Doppler pings every 30 s
    /// or so. The gate is not to be that of downloads, which would wait behind streams that do not open.
    ///
    /// # Errors
    /// If the system has no certificate authorities.
    pub fn new(
        head: Duration,
        silence: Duration,
        gate: Gate<DopplerError>,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            http: outbound::stream_client(head, None)?,
            head,
            silence,
            gate,
        })
    }

    /// Opens a stream for the config at `at`, whose host must have been allowed before. Dropping the stream closes its connection. An error is the
    /// last that a stream says, and it does not end without one.
    ///
    /// # Errors
    /// If there is no stream.
    pub async fn watch(
        &self,
        at: &Coordinates,
    ) -> Result<impl Stream<Item = Result<Frame, WatchError>> + Send + use<>, WatchError> {
        let authorization = bearer(&at.token).ok_or(WatchError::TokenInvalid)?;
        let host = host_and_port(&at.host);
        let (lane, wish) = (at.stream_lane(), Wish::of(Rank::Late));
        let turn = self.gate.turn(&lane, &wish).await;
        let mut turn = turn.map_err(WatchError::Shut)?;
        let request = self
            .http
            .get(endpoint(at, "watch"))
            .header(ACCEPT, "text/event-stream")
            .header(AUTHORIZATION, authorization)
            .header(CACHE_CONTROL, "no-cache")
            .send();
        let answer = timeout(self.head, request)
            .await
            .map_err(|_| TransportError::Timeout(self.head))
            .and_then(|sent| sent.map_err(|error| TransportError::new(&error, self.head)));
        let response = match answer {
            Ok(response) => response,
            Err(cause) => {
                turn.said(Said::Failed(DopplerError::Unreachable {
                    host: host.clone(),
                    cause: cause.clone(),
                }));
                let cause = Loss::Transport(cause);
                return Err(WatchError::Lost { host, cause });
            }
        };
        let (headers, now) = (response.headers(), Timestamp::now());
        turn.said(match response.status().as_u16() {
            429 => Said::Limited(wait_after_refusal(headers, now).unwrap_or(REST)),
            // As with a download: it is the host that is in trouble, so other streams need not find out for themselves.
            status @ (408 | 500..=599) => Said::Failed(DopplerError::Fault {
                host: host.clone(),
                status,
            }),
            _ => Said::Answered(rate(headers, now)),
        });
        drop(turn);
        if response.status() != StatusCode::OK || !is_event_stream(response.headers()) {
            return Err(self.refusal(response, host, &at.token).await);
        }
        let open = Open {
            response,
            host,
            silence: self.silence,
            decoder: Decoder::default(),
            frames: VecDeque::new(),
        };
        Ok(stream::try_unfold(open, |mut open| async move {
            let frame = open.frame().await?;
            Ok(Some((frame, open)))
        }))
    }

    async fn refusal(&self, response: Response, host: String, token: &SecretString) -> WatchError {
        let status = response.status().as_u16();
        let words = match status {
            429 => {
                let retry_after = wait_after_refusal(response.headers(), Timestamp::now());
                return WatchError::Limited { host, retry_after };
            }
            408 | 500..=599 => {
                let cause = Loss::Fault(status);
                return WatchError::Lost { host, cause };
            }
            200 => Some("what it gives is not an event stream".to_owned()),
            300..=399 => Some("a redirect is not followed with a token".to_owned()),
            _ => {
                // As with a download: if the body cannot be read, only Doppler's own words are missing.
                let body = read_bounded(response, LARGEST_ERROR_BODY, self.head);
                match timeout(self.head, body).await {
                    Ok(Ok(body)) => Words::read(body.expose_secret(), token).quote(),
                    _ => None,
                }
            }
        };
        WatchError::Refused {
            host,
            status,
            words,
        }
    }
}

/// A stream that is open.
struct Open {
    response: Response,
    host: String,
    silence: Duration,
    decoder: Decoder,
    /// Those that came in one piece and have not been asked for.
    frames: VecDeque<Frame>,
}

impl Open {
    async fn frame(&mut self) -> Result<Frame, WatchError> {
        // The time counts from when a frame is asked for: a reader that was busy has not met with silence.
        let silence = self.silence;
        let frame = timeout(silence, self.next())
            .await
            .unwrap_or(Err(Loss::Silent(silence)));
        frame.map_err(|cause| WatchError::Lost {
            host: self.host.clone(),
            cause,
        })
    }

    async fn next(&mut self) -> Result<Frame, Loss> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(frame);
            }
            let piece = self.response.chunk().await;
            let piece = piece.map_err(|error| TransportError::new(&error, self.silence))?;
            let piece = piece.ok_or(Loss::Ended)?;
            let decoded = self.decoder.push(&piece, &mut self.frames);
            decoded.map_err(|malformed| match malformed {
                Malformed::TooLarge => Loss::TooLarge {
                    limit: LARGEST_FRAME,
                },
                Malformed::NotText => Loss::Garbled,
            })?;
        }
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let said = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let essence = said.and_then(|it| it.split(';').next());
    essence.is_some_and(|it| it.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn said(words: Option<&str>) -> String {
    words.map(|words| format!(": {words}")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
