//! The event socket of one Prefect server, which notifies the operator of changes.
//!
//! In: a [`Connection`] and [`SocketLimits`]. Out: a stream of what has changed ([`ServerEvent`]), whose first error is its end. The HTTP client opens the
//! connection and hands it over once it is upgraded, so that TLS, certificate authorities, proxy, refused addresses, headers and credentials are those
//! of every other request, and no redirect is followed.
//!
//! It opens no second socket by itself, reads no block, and neither keeps nor shows a message. What it says is a hint: an event comes before the change
//! is committed, so read, and read again shortly after; and the server does not report what happened before the socket was open, so read everything once it is.

use std::time::Duration;

use futures::{
    SinkExt, StreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use reqwest::{
    Response, StatusCode, Upgraded,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Bytes, Message,
        error::ProtocolError,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    client::{request_headers, retry_after},
    connection::{Auth, Connection},
    event::{self, ServerEvent},
};
use crate::outbound::{ClientError, TransportError, stream_client};

/// Read at once, and kept for each socket.
const READ_BUFFER: usize = 16 << 10;
/// Far above what is ever written: credentials, filter, pings.
const WRITE_BUFFER: usize = 256 << 10;
/// The subprotocol in which credentials are a message.
const SUBPROTOCOL: &str = "prefect";

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub struct SocketLimits {
    /// From connecting until the events are asked for, and for each ping.
    pub open_timeout: Duration,
    /// Without a frame for this long, the server is pinged.
    pub idle_timeout: Duration,
    /// Without a frame for this long, the socket is lost.
    pub silence_timeout: Duration,
    /// The longest that one socket is used. Less than a year, after which the server would say nothing more.
    pub max_lifetime: Duration,
    /// The largest message, in bytes. That of a work pool holds its template twice.
    pub max_message_bytes: usize,
}

impl Default for SocketLimits {
    fn default() -> Self {
        Self {
            open_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            silence_timeout: Duration::from_mins(1),
            max_lifetime: Duration::from_hours(30 * 24),
            max_message_bytes: 9 << 20,
        }
    }
}

/// Why there is no socket, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// No HTTP client can be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server has none, or not for these credentials: asking again soon is of no use.
    #[error(
        "the Prefect server {host} refuses its event socket ({cause}); blocks and pools are polled"
    )]
    Rejected {
        /// The server.
        host: String,
        /// What it said.
        cause: RejectionCause,
    },
    /// It could not be opened now, or it broke.
    #[error(
        "the event socket of the Prefect server {host} is lost ({cause}); blocks and pools are polled until it is back"
    )]
    Disconnected {
        /// The server.
        host: String,
        /// What happened.
        cause: DisconnectCause,
    },
}

impl SocketError {
    /// How long the server wants to be left alone, if it said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Disconnected {
                cause: DisconnectCause::Status { retry_after, .. },
                ..
            } => *retry_after,
            _ => None,
        }
    }
}

/// In which way a server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectionCause {
    /// With a status: 404 is an old server or a wrong URL, 403 a proxy or missing permissions.
    #[error("it answered {0}")]
    Status(u16),
    /// Credentials do not follow a redirect.
    #[error("it redirects ({0}), and credentials do not follow")]
    Redirect(u16),
    /// It agreed to something else than this socket.
    #[error("what answers there speaks no WebSocket of Prefect's")]
    Handshake,
    /// It says something else than that the credentials are accepted.
    #[error("it did not accept the credentials")]
    Authentication,
    /// It closed with a code that means the same next time: 1008 is about credentials, 1002 about the filter.
    #[error("it closed the socket with {0}{hint}", hint = close_hint(*.0))]
    Closed(u16),
}

/// In which way a socket is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectCause {
    /// It could not be opened.
    #[error("it {0}")]
    Transport(TransportError),
    /// 429 or a fault.
    #[error("it answered {status}")]
    Status {
        /// The status.
        status: u16,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The server closed it.
    #[error("it was closed")]
    Closed,
    /// The connection ended.
    #[error("the connection broke off")]
    ConnectionLost,
    /// Nothing came, not even the answer to a ping.
    #[error("nothing came for {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// A message is larger than what is read.
    #[error("a message has more than {0} bytes")]
    TooLarge(usize),
    /// What came is no message.
    #[error("what came cannot be decoded")]
    Undecodable,
    /// It has been used for long enough.
    #[error("it is opened anew after {} h", .0.as_secs() / 3600)]
    LifetimeReached(Duration),
}

fn close_hint(code: u16) -> &'static str {
    if code == u16::from(CloseCode::Policy) {
        ": it does not accept the credentials"
    } else {
        ""
    }
}

/// Opens the socket. Once this returns, the events have been asked for; the server does not say when it has understood.
///
/// # Errors
/// [`SocketError`]; so does the stream, with which it ends.
pub async fn events(
    connection: &Connection,
    limits: SocketLimits,
) -> Result<BoxStream<'static, Result<ServerEvent, SocketError>>, SocketError> {
    let host = connection.host();
    let opened = timeout(limits.open_timeout, open(connection, limits)).await;
    let late = |_| SocketError::Disconnected {
        host: host.clone(),
        cause: DisconnectCause::Transport(TransportError::Timeout(limits.open_timeout)),
    };
    let socket = opened.map_err(late)??;
    let events = stream::unfold(Some(socket), async |socket| {
        let mut socket = socket?;
        Some(match socket.next_event().await {
            Ok(event) => (Ok(event), Some(socket)),
            Err(error) => (Err(error), None),
        })
    });
    Ok(events.boxed())
}

async fn open(connection: &Connection, limits: SocketLimits) -> Result<Socket, SocketError> {
    let host = connection.host();
    let ca = connection.ca.as_ref().map(String::as_bytes);
    let http = stream_client(limits.open_timeout, ca)?;
    let lost = |error: &reqwest::Error| SocketError::Disconnected {
        host: host.clone(),
        cause: DisconnectCause::Transport(TransportError::new(error, limits.open_timeout)),
    };
    let key = generate_key();
    let mut url = connection.api_url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["events", "out"]);
    }
    let response = http
        .get(url)
        .headers(upgrade_headers(connection, &key))
        .send()
        .await
        .map_err(|error| lost(&error))?;
    check_upgrade(&host, &key, &response)?;
    let upgraded = response.upgrade().await.map_err(|error| lost(&error))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(limits.max_message_bytes))
        .max_frame_size(Some(limits.max_message_bytes));
    let frames = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
    let now = Instant::now();
    let mut socket = Socket {
        host,
        frames,
        limits,
        last_frame_at: now,
        pinged: false,
        opened_at: now,
    };
    socket.authenticate(&connection.auth).await?;
    Ok(socket)
}

/// What every request carries, and what asks for the upgrade.
fn upgrade_headers(connection: &Connection, key: &str) -> HeaderMap {
    let mut headers = request_headers(connection);
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_VERSION, "13"),
        (header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(key) = HeaderValue::from_str(key) {
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
    }
    // No extension is wanted, so that a message is as large as what was sent.
    headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    headers
}

/// Whether the answer is the upgrade that was asked for.
fn check_upgrade(host: &str, key: &str, response: &Response) -> Result<(), SocketError> {
    let host = host.to_owned();
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let is = |name: HeaderName, expected: &str| {
            let value = response.headers().get(name);
            value.map(|value| value.as_bytes().eq_ignore_ascii_case(expected.as_bytes()))
        };
        let accept = derive_accept_key(key.as_bytes());
        let accepted = response
            .headers()
            .get(header::SEC_WEBSOCKET_ACCEPT)
            .is_some_and(|value| value == accept.as_str());
        if accepted
            && is(header::UPGRADE, "websocket") == Some(true)
            && is(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) != Some(false)
            && is(header::SEC_WEBSOCKET_EXTENSIONS, "").is_none()
        {
            return Ok(());
        }
        let cause = RejectionCause::Handshake;
        return Err(SocketError::Rejected { host, cause });
    }
    let code = status.as_u16();
    Err(match code {
        // 501 and 505 are what something says that knows no WebSocket; every other fault may pass.
        429 | 500 | 502..=504 | 506.. => SocketError::Disconnected {
            host,
            cause: DisconnectCause::Status {
                status: code,
                retry_after: retry_after(response.headers(), Timestamp::now()),
            },
        },
        300..=399 => SocketError::Rejected {
            host,
            cause: RejectionCause::Redirect(code),
        },
        _ => SocketError::Rejected {
            host,
            cause: RejectionCause::Status(code),
        },
    })
}

/// An open socket.
struct Socket {
    host: String,
    frames: WebSocketStream<Upgraded>,
    limits: SocketLimits,
    /// When the last frame came.
    last_frame_at: Instant,
    /// Whether a ping has been sent since.
    pinged: bool,
    opened_at: Instant,
}

impl Socket {
    /// Says who asks, and which events are wanted.
    async fn authenticate(&mut self, auth: &Auth) -> Result<(), SocketError> {
        let token = match auth {
            Auth::None => None,
            // Not encoded, unlike in a header.
            Auth::Bearer(token) | Auth::Basic(token) => Some(token.expose_secret()),
        };
        let auth = json!({"type": "auth", "token": token}).to_string();
        self.send(Message::text(auth)).await?;
        if !event::is_auth_success(&self.next_message().await?) {
            return Err(self.rejected(RejectionCause::Authentication));
        }
        self.send(Message::text(event::subscription_filter(Timestamp::now())))
            .await
    }

    /// The next event.
    async fn next_event(&mut self) -> Result<ServerEvent, SocketError> {
        loop {
            let message = match self.next_frame().await? {
                Message::Text(text) => Bytes::from(text),
                Message::Binary(bytes) => bytes,
                Message::Pong(_) => return Ok(ServerEvent::Heartbeat),
                Message::Close(frame) => return Err(self.close_error(frame)),
                // A ping is answered by the library.
                Message::Ping(_) | Message::Frame(_) => continue,
            };
            let event = event::parse_event(&message)
                .map_err(|_| self.disconnected(DisconnectCause::Undecodable))?;
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    /// The next message, whatever it says.
    async fn next_message(&mut self) -> Result<Bytes, SocketError> {
        loop {
            match self.next_frame().await? {
                Message::Text(text) => return Ok(text.into()),
                Message::Binary(bytes) => return Ok(bytes),
                Message::Close(frame) => return Err(self.close_error(frame)),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// The next frame. While none comes, the server is pinged once; then the socket is lost.
    async fn next_frame(&mut self) -> Result<Message, SocketError> {
        let SocketLimits {
            idle_timeout,
            silence_timeout,
            max_lifetime,
            ..
        } = self.limits;
        loop {
            if self.opened_at.elapsed() >= max_lifetime {
                return Err(self.disconnected(DisconnectCause::LifetimeReached(max_lifetime)));
            }
            let quiet_for = if self.pinged {
                silence_timeout
            } else {
                idle_timeout.min(silence_timeout)
            };
            let deadline = (self.last_frame_at + quiet_for).min(self.opened_at + max_lifetime);
            match timeout_at(deadline, self.frames.next()).await {
                Ok(Some(Ok(frame))) => {
                    self.last_frame_at = Instant::now();
                    self.pinged = false;
                    return Ok(frame);
                }
                Ok(Some(Err(error))) => return Err(self.protocol_error(&error)),
                Ok(None) => return Err(self.disconnected(DisconnectCause::Closed)),
                Err(_) if self.last_frame_at.elapsed() >= silence_timeout => {
                    return Err(self.disconnected(DisconnectCause::Silent(silence_timeout)));
                }
                Err(_) if !self.pinged => {
                    self.send(Message::Ping(Bytes::new())).await?;
                    self.pinged = true;
                }
                Err(_) => {}
            }
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), SocketError> {
        match timeout(self.limits.open_timeout, self.frames.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.protocol_error(&error)),
            Err(_) => Err(self.disconnected(DisconnectCause::ConnectionLost)),
        }
    }

    fn close_error(&self, frame: Option<CloseFrame>) -> SocketError {
        match frame.map(|frame| frame.code) {
            Some(code @ (CloseCode::Protocol | CloseCode::Unsupported | CloseCode::Policy)) => {
                self.rejected(RejectionCause::Closed(code.into()))
            }
            _ => self.disconnected(DisconnectCause::Closed),
        }
    }

    /// The library's error says what came; only its kind is kept.
    fn protocol_error(&self, error: &tungstenite::Error) -> SocketError {
        use tungstenite::Error as E;
        self.disconnected(match error {
            E::ConnectionClosed | E::AlreadyClosed => DisconnectCause::Closed,
            E::Capacity(_) => DisconnectCause::TooLarge(self.limits.max_message_bytes),
            E::Io(_)
            | E::WriteBufferFull(_)
            | E::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                DisconnectCause::ConnectionLost
            }
            _ => DisconnectCause::Undecodable,
        })
    }

    fn rejected(&self, cause: RejectionCause) -> SocketError {
        let host = self.host.clone();
        SocketError::Rejected { host, cause }
    }

    fn disconnected(&self, cause: DisconnectCause) -> SocketError {
        let host = self.host.clone();
        SocketError::Disconnected { host, cause }
    }
}

#[cfg(test)]
mod tests;
