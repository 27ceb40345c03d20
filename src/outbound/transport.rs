//! What went wrong on the way, in a few words.
//!
//! In: an error of the HTTP client. Out: a [`TransportError`] that reads on after a host's name ("api.doppler.com did not answer within 15 s"). It
//! keeps nothing of the original error, since that may hold the URL with its query.

use std::{error::Error, io, time::Duration};

use super::client::AddressRefused;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The whole exchange took longer than allowed.
    #[error("did not answer within {}", seconds(*.0))]
    Timeout(Duration),
    /// The name is not known.
    #[error("could not be found: its name does not resolve")]
    Dns,
    /// The name resolves to addresses that are never asked.
    #[error(
        "is refused: its name resolves to link-local, multicast or instance metadata addresses only"
    )]
    AddressRefused,
    /// No connection.
    #[error("could not be reached: the connection was refused or failed")]
    Connect,
    /// The server's certificate is not accepted.
    #[error("could not be trusted: {0}")]
    Certificate(&'static str),
    /// Something else of TLS.
    #[error("could not be reached: TLS could not be agreed upon")]
    Tls,
    /// The answer ended early.
    #[error("broke off in the middle of its answer")]
    Interrupted,
    /// The answer's compression or framing is broken.
    #[error("gave an answer that cannot be decoded")]
    Undecodable,
    /// The request itself could not be made.
    #[error("could not be asked: the request is not valid")]
    Request,
}

impl TransportError {
    /// Reads the error of a client whose time limit is `timeout`.
    #[must_use]
    pub fn new(error: &reqwest::Error, timeout: Duration) -> Self {
        if find_source::<AddressRefused>(error).is_some() {
            Self::AddressRefused
        } else if let Some(tls) = find_source::<rustls::Error>(error) {
            certificate_problem(tls).map_or(Self::Tls, Self::Certificate)
        } else if error.is_timeout() {
            Self::Timeout(timeout)
        } else if error.is_dns() {
            Self::Dns
        } else if error.is_connect() {
            Self::Connect
        } else if error.is_builder() {
            Self::Request
        } else if error.is_decode() && find_source::<io::Error>(error).is_some_and(is_garbled) {
            Self::Undecodable
        } else {
            Self::Interrupted
        }
    }
}

/// Looks for an error of one kind among the sources. An `io::Error` hides the error that it wraps from `source()`, hence the second look.
fn find_source<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    // No chain of errors is that long; the bound keeps a faulty `source()` from looping.
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

fn is_garbled(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    )
}

fn certificate_problem(error: &rustls::Error) -> Option<&'static str> {
    use rustls::CertificateError as C;
    let rustls::Error::InvalidCertificate(error) = error else {
        return None;
    };
    Some(match error {
        C::Expired | C::ExpiredContext { .. } => "its certificate has expired",
        C::NotValidYet | C::NotValidYetContext { .. } => "its certificate is not valid yet",
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            "its certificate is for another name"
        }
        C::UnknownIssuer => "no certificate authority that is known signed its certificate",
        _ => "its certificate is not valid",
    })
}

/// `15 s`, `0.25 s`.
fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_on_after_a_host_name() {
        assert_eq!(
            TransportError::Timeout(Duration::from_secs(15)).to_string(),
            "did not answer within 15 s"
        );
        assert_eq!(
            TransportError::Timeout(Duration::from_millis(250)).to_string(),
            "did not answer within 0.25 s"
        );
    }

    #[test]
    fn finds_a_certificate_error_inside_io_errors() {
        let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = io::Error::other(io::Error::other(inner));
        assert_eq!(
            find_source::<rustls::Error>(&error).and_then(certificate_problem),
            Some("no certificate authority that is known signed its certificate")
        );
    }

    #[tokio::test]
    async fn reports_a_name_that_resolves_to_a_refused_address() {
        struct Refusing;
        impl reqwest::dns::Resolve for Refusing {
            fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
                Box::pin(async { Err(AddressRefused.into()) })
            }
        }
        crate::outbound::install_crypto_provider();
        let client = reqwest::Client::builder()
            .dns_resolver(Refusing)
            .no_proxy()
            .build()
            .unwrap();
        let error = client.get("http://x.example").send().await.unwrap_err();
        assert_eq!(
            TransportError::new(&error, Duration::ZERO),
            TransportError::AddressRefused
        );
    }
}
