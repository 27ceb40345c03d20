//! Describes a failed exchange with a server.
//!
//! Input: an error of the HTTP client.
//! Output: a [`TransportError`], whose message continues a host name ("api.doppler.com did not
//! answer within 15 s").
//! Invariants: it drops the original error, which may contain the URL with its query.

use std::{error::Error, io, time::Duration};

use super::{certificate_problem::certificate_problem, client::AddressRefused};

/// Why a request got no complete response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The whole exchange took longer than allowed.
    #[error("did not answer within {}", seconds(*.0))]
    Timeout(Duration),
    /// The name does not resolve.
    #[error("could not be found: its name does not resolve")]
    Dns,
    /// The name resolves to refused addresses only.
    #[error(
        "is refused: its name resolves to link-local, multicast or instance metadata addresses only"
    )]
    AddressRefused,
    /// The connection was refused or failed.
    #[error("could not be reached: the connection was refused or failed")]
    Connect,
    /// The server's certificate is not valid for this client.
    #[error("could not be trusted: {0}")]
    Certificate(String),
    /// Another TLS failure.
    #[error("could not be reached: the TLS handshake failed: {0}")]
    Tls(&'static str),
    /// The response ended early.
    #[error("closed the connection in the middle of its answer")]
    Interrupted,
    /// The headers of the response exceed a limit.
    #[error("sent response headers that {0}")]
    Headers(&'static str),
    /// The compression or framing of the response is invalid.
    #[error("sent a response that cannot be decoded")]
    Undecodable,
    /// The request could not be built.
    #[error("did not receive the request, because the request is not valid")]
    Request,
}

impl TransportError {
    /// Whether other requests to the host may fail in the same way. An answer that cannot be used shows
    /// that the host answers.
    #[must_use]
    pub const fn concerns_host(&self) -> bool {
        !matches!(self, Self::Headers(_) | Self::Undecodable | Self::Request)
    }

    /// Classifies the error of a client whose time limit is `timeout`.
    #[must_use]
    pub fn new(error: &reqwest::Error, timeout: Duration) -> Self {
        if find_source::<AddressRefused>(error).is_some() {
            Self::AddressRefused
        } else if let Some(tls) = find_source::<rustls::Error>(error) {
            match tls {
                rustls::Error::InvalidCertificate(problem) => {
                    Self::Certificate(certificate_problem(problem))
                }
                tls => Self::Tls(handshake_problem(tls)),
            }
        } else if let Some(problem) = header_problem(error) {
            problem
        } else if error.is_timeout() {
            Self::Timeout(timeout)
        } else if error.is_dns() {
            Self::Dns
        } else if error.is_connect() {
            Self::Connect
        } else if error.is_builder() {
            Self::Request
        } else if error.is_decode() && find_source::<io::Error>(error).is_some_and(is_invalid_data)
        {
            Self::Undecodable
        } else {
            Self::Interrupted
        }
    }
}

/// Finds an error of type `E` in the chain of sources. `io::Error::source()` skips the error that
/// it wraps, so wrapped errors are checked separately.
fn find_source<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    // The bound stops a faulty `source()` from looping.
    for _ in 0..32 {
        let current = next?;
        if let Some(found) = current.downcast_ref::<E>() {
            return Some(found);
        }
        let wrapped = current
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(wrapped) = wrapped {
            let wrapped: &(dyn Error + 'static) = wrapped;
            if let Some(found) = find_wrapped(wrapped) {
                return Some(found);
            }
        }
        next = current.source();
    }
    None
}

fn find_wrapped<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    error.downcast_ref::<E>().or_else(|| {
        error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<E>())
    })
}

fn is_invalid_data(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    )
}

/// Why the head of a response cannot be read.
fn header_problem(error: &reqwest::Error) -> Option<TransportError> {
    if let Some(h2) = find_source::<h2::Error>(error) {
        // The library itself reset the stream, not the server: it does so for headers above its limit.
        let is_refused = h2.is_library() && h2.reason() == Some(h2::Reason::PROTOCOL_ERROR);
        return (is_refused && error.is_request()).then_some(TransportError::Headers(
            "are too large (more than 16 KiB), or are not valid",
        ));
    }
    let http1 = find_source::<hyper::Error>(error)?;
    if http1.is_parse_too_large() {
        return Some(TransportError::Headers(
            "are too large (more than 100 headers, or more than 400 KiB)",
        ));
    }
    (http1.is_parse() && error.is_request()).then_some(TransportError::Undecodable)
}

/// Why a TLS handshake failed, if the certificate is not the reason.
const fn handshake_problem(error: &rustls::Error) -> &'static str {
    use rustls::Error as E;
    match error {
        E::InvalidMessage(_) => "the server does not speak TLS on this port",
        E::AlertReceived(_) => "the server refused it",
        E::PeerIncompatible(_) => "client and server have no TLS version or cipher suite in common",
        E::NoCertificatesPresented => "the server has no certificate",
        E::NoApplicationProtocol => "client and server have no application protocol in common",
        _ => "the server broke the protocol",
    }
}

/// Formats a duration as `15 s` or `0.25 s`.
fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests;
