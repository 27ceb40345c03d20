//! The upgrade from HTTP to a WebSocket with Prefect's subprotocol.
//!
//! Input: a connection, and the answer to the upgrade request.
//! Output: the headers of the request; whether the answer is the requested upgrade.
//! Invariants: pure. A redirect is an error, because credentials must not follow it.

use jiff::Timestamp;
use reqwest::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::error::{DisconnectCause, RejectionCause, SocketError};
use crate::{
    prefect::{
        connection::Connection, http_client::MAX_RETRY_AFTER, request_headers::request_headers,
    },
    upstream::rate_headers::retry_after,
};

/// The subprotocol in which credentials are a message.
pub(super) const SUBPROTOCOL: &str = "prefect";

/// The headers of each request, and those that request the upgrade.
pub(super) fn upgrade_headers(connection: &Connection, key: &str) -> HeaderMap {
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
    // Without extensions a message cannot be larger than the bytes that were sent.
    headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    headers
}

/// Checks that the answer is the upgrade that was requested.
pub(super) fn check_upgrade(host: &str, key: &str, response: &Response) -> Result<(), SocketError> {
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
        // 501 and 505: the server does not support WebSockets. Any other server error may pass.
        429 | 500 | 502..=504 | 506.. => SocketError::Disconnected {
            host,
            cause: DisconnectCause::Status {
                status: code,
                retry_after: retry_after(response.headers(), Timestamp::now())
                    .map(|wait| wait.min(MAX_RETRY_AFTER)),
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
