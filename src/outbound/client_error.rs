//! Why an HTTP client could not be created.
//!
//! Input: none. Output: [`ClientError`], with its reason.
//! Invariants: the message never quotes the CA bundle.

use crate::reason::Reason;

/// Why a client could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The certificate authorities cannot be parsed.
    #[error(
        "the CA bundle is not a list of certificates in PEM: use whole blocks from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
    )]
    CaBundle,
    /// The client cannot be created: the image has no certificate authorities or no crypto
    /// provider.
    #[error(
        "the HTTP client cannot be created: check that the image has certificate authorities under /etc/ssl, or set SSL_CERT_FILE"
    )]
    Build,
}

impl ClientError {
    /// The reason for the condition, the Event, the metric and the log.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::CaBundle => Reason::ReferenceInvalid,
            Self::Build => Reason::KubernetesError,
        }
    }
}
