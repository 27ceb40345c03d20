//! Why an event socket did not open or closed, and whether a retry can help.
//!
//! Input: the failures that the socket finds.
//! Output: [`SocketError`], with its message and the wait that the server asks for.
//! Invariants: the message contains nothing of a message or a header. It says that polling continues.

use std::time::Duration;

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::outbound::{ClientError, TransportError};
use crate::prefect::ServerVersion;

/// Why the socket did not open, or closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// The TLS backend cannot build an HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server has no event socket, or not for these credentials. A retry does not help soon.
    #[error(
        "the Prefect server {host} rejects the event socket ({cause}): the operator polls blocks and work pools"
    )]
    Rejected {
        /// The server.
        host: String,
        /// What it answered.
        cause: RejectionCause,
    },
    /// The socket could not be opened, or closed. A retry may help.
    #[error(
        "the event socket of the Prefect server {host} is disconnected ({cause}): the operator polls blocks and work pools until it is connected again"
    )]
    Disconnected {
        /// The server.
        host: String,
        /// What happened.
        cause: DisconnectCause,
    },
}

impl SocketError {
    /// Whether the server answers, and has no socket for the operator.
    #[must_use]
    pub const fn is_rejection(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }

    /// Whether the version of the server can say more: it answers, but not as a server with a socket.
    #[must_use]
    pub const fn concerns_version(&self) -> bool {
        self.is_rejection() || self.server_error().is_some()
    }

    /// The same error of a server of this version: 2.20 answers 500 where it has no socket, and a retry
    /// does not help soon.
    #[must_use]
    pub fn of_version(self, version: Option<&ServerVersion>) -> Self {
        let has_socket = version.is_none_or(ServerVersion::has_event_socket);
        match (self.server_error(), self) {
            (Some(status), Self::Disconnected { host, .. }) if !has_socket => Self::Rejected {
                host,
                cause: RejectionCause::Status(status),
            },
            (_, error) => error,
        }
    }

    const fn server_error(&self) -> Option<u16> {
        match self {
            Self::Disconnected {
                cause: DisconnectCause::Status { status: 500, .. },
                ..
            } => Some(500),
            _ => None,
        }
    }

    /// How long to wait before the next attempt, if the server says so.
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

/// How a server rejects the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectionCause {
    /// With a status. 404: an old server or a wrong URL. 403: a proxy, or a missing permission.
    #[error("it answered {0}")]
    Status(u16),
    /// With a redirect, which the operator does not follow with credentials.
    #[error(
        "it answered with a redirect ({0}), which the operator does not follow with credentials"
    )]
    Redirect(u16),
    /// The answer is not the upgrade that was requested.
    #[error("its answer is not that of Prefect's event socket")]
    Handshake,
    /// It did not confirm the credentials.
    #[error("it did not accept the credentials")]
    Authentication,
    /// It closed with a code that does not pass by itself: 1008 for credentials, 1002 for the filter.
    #[error("it closed the socket with {0}{hint}", hint = close_hint(*.0))]
    Closed(u16),
}

/// Why the socket is disconnected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectCause {
    /// The connection failed.
    #[error("it {0}")]
    Transport(TransportError),
    /// 429, or a server error.
    #[error("it answered {status}")]
    Status {
        /// The status.
        status: u16,
        /// How long to wait before the next attempt.
        retry_after: Option<Duration>,
    },
    /// The server closed it.
    #[error("the server closed it")]
    Closed,
    /// The connection broke.
    #[error("the connection was lost")]
    ConnectionLost,
    /// No frame arrived, not even the answer to a ping.
    #[error("no frame arrived for {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// A message is larger than the limit.
    #[error("a message has more than {0} bytes")]
    TooLarge(usize),
    /// The bytes are not a message.
    #[error("a message cannot be decoded")]
    Undecodable,
    /// The socket reached its maximum age.
    #[error("it reached its maximum age of {} h", .0.as_secs() / 3600)]
    LifetimeReached(Duration),
}

fn close_hint(code: u16) -> &'static str {
    if code == u16::from(CloseCode::Policy) {
        ": it does not accept the credentials"
    } else {
        ""
    }
}
