//! The event socket of one Prefect server, which notifies the operator of changes.
//!
//! Input: a [`Connection`] and [`SocketLimits`].
//! Output: a stream of [`ServerEvent`]s. Its first error is its end.
//! Invariants: the HTTP client opens the connection and hands it over after the upgrade, so that TLS,
//! proxy, refused addresses, headers and credentials are those of every other request. No message is
//! kept or logged, and what arrives is bounded for each socket and for all together. Events before the connection are not replayed, so the caller reads everything once
//! the socket is open.

mod error;
mod handshake;
mod metered;

use std::time::Duration;

use futures::{
    SinkExt, StreamExt,
    stream::{self, BoxStream},
};
use reqwest::Upgraded;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Bytes, Message,
        error::ProtocolError,
        handshake::client::generate_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

pub use error::{DisconnectCause, RejectionCause, SocketError};

use super::{
    connection::{Auth, Connection},
    event::{self, ServerEvent},
};
use crate::outbound::{TransportError, stream_client};
use handshake::{check_upgrade, upgrade_headers};
use metered::Metered;

/// The read buffer of each socket, in bytes.
const READ_BUFFER: usize = 16 << 10;
/// The write buffer, in bytes. Credentials, filter and pings need far less.
const WRITE_BUFFER: usize = 256 << 10;

/// Time limits and bounds of a socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketLimits {
    /// From connecting until the event filter is sent, and for each ping.
    pub open_timeout: Duration,
    /// After this time without a frame, the server is pinged.
    pub idle_timeout: Duration,
    /// After this time without a frame, the socket is disconnected.
    pub silence_timeout: Duration,
    /// The maximum age of a socket. It must be below one year, the span of the event filter.
    pub max_lifetime: Duration,
    /// The largest message, in bytes. An event of a work pool contains its template twice; a larger
    /// event closes the socket, and everything is read once it is open again.
    pub max_message_bytes: usize,
}

impl Default for SocketLimits {
    fn default() -> Self {
        Self {
            open_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            silence_timeout: Duration::from_mins(1),
            max_lifetime: Duration::from_hours(30 * 24),
            max_message_bytes: 2 << 20,
        }
    }
}

/// Opens the socket. When this returns, the event filter has been sent; the server does not confirm
/// it.
///
/// # Errors
/// [`SocketError`]. The stream ends with one, too.
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
    let stream = Metered::new(upgraded);
    let frames = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
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

/// An open socket.
struct Socket {
    host: String,
    frames: WebSocketStream<Metered<Upgraded>>,
    limits: SocketLimits,
    /// When the last frame arrived.
    last_frame_at: Instant,
    /// Whether a ping has been sent since then.
    pinged: bool,
    opened_at: Instant,
}

impl Socket {
    /// Sends the credentials, and the event filter once they are accepted.
    async fn authenticate(&mut self, auth: &Auth) -> Result<(), SocketError> {
        let token = match auth {
            Auth::None => None,
            // Unlike in a header, `user:password` is not encoded.
            Auth::Bearer(token) | Auth::Basic(token) => Some(token.expose_secret()),
        };
        let auth = json!({"type": "auth", "token": token}).to_string();
        self.send(Message::text(auth)).await?;
        if !event::is_auth_success(&self.next_message().await?) {
            return Err(self.rejected(RejectionCause::Authentication));
        }
        self.send(Message::text(event::subscription_filter())).await
    }

    /// The next event.
    async fn next_event(&mut self) -> Result<ServerEvent, SocketError> {
        loop {
            let message = match self.next_frame().await? {
                Message::Text(text) => Bytes::from(text),
                Message::Binary(bytes) => bytes,
                Message::Pong(_) => return Ok(ServerEvent::Heartbeat),
                Message::Close(frame) => return Err(self.close_error(frame)),
                // The library answers pings.
                Message::Ping(_) | Message::Frame(_) => continue,
            };
            let event = event::parse_event(&message)
                .map_err(|_| self.disconnected(DisconnectCause::Undecodable))?;
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    /// The next message, parsed by the caller.
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

    /// The next frame. Without one, the server is pinged once; then the socket is disconnected.
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
            let max_wait = if self.pinged {
                silence_timeout
            } else {
                idle_timeout.min(silence_timeout)
            };
            let deadline = (self.last_frame_at + max_wait).min(self.opened_at + max_lifetime);
            match timeout_at(deadline, self.frames.next()).await {
                Ok(Some(Ok(frame))) => {
                    self.last_frame_at = Instant::now();
                    self.pinged = false;
                    self.frames.get_mut().message_done();
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

    /// The library's error may contain a message, so only its kind is kept.
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
