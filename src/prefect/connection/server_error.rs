//! Why a `server` field cannot be used, and what the user can do about it.
//!
//! Input: the failures that the parser of the `server` field finds.
//! Output: [`ServerError`], with its reason and its message.
//! Invariants: the message names the field, and never contains its value.

use super::references::Purpose;
use crate::{failure::Failure, outbound::HostRefused, reason::Reason};

/// Prefect Cloud's API.
pub(super) const CLOUD_API_URL: &str = "https://api.prefect.cloud/api";

/// Why a `server` field cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// No field names the server.
    #[error(
        "spec.prefect.server names no server: set name for a server in this cluster, remoteApiUrl for any other server, or accountId and workspaceId for Prefect Cloud"
    )]
    MissingAddress,
    /// `remoteApiUrl` is not the URL of an API.
    #[error(
        "spec.prefect.server.remoteApiUrl is not the URL of an API: use a URL such as https://prefect.example.com/api, without a query"
    )]
    InvalidUrl,
    /// `remoteApiUrl` is the address of a page of Prefect Cloud's web UI.
    #[error(
        "spec.prefect.server.remoteApiUrl is the address of a page of Prefect Cloud: use {CLOUD_API_URL}/accounts/{account}/workspaces/{workspace}, or set accountId: {account} and workspaceId: {workspace} and remove remoteApiUrl"
    )]
    CloudPage {
        /// The account id in the address.
        account: String,
        /// The workspace id in the address.
        workspace: String,
    },
    /// `remoteApiUrl` is such an address, and does not show both ids.
    #[error(
        "spec.prefect.server.remoteApiUrl is the address of a page of Prefect Cloud: remove it, and set accountId and workspaceId to the ids after /account/ and /workspace/ in the address of the workspace's dashboard"
    )]
    CloudPageWithoutIds,
    /// A name, a namespace or an id cannot be part of a URL.
    #[error(
        "spec.prefect.server.{field} cannot be part of a URL: use letters, digits and dashes only"
    )]
    InvalidUrlPart {
        /// The name of the field.
        field: &'static str,
    },
    /// The operator's flags do not allow the server.
    #[error("{field}: {refused}")]
    HostNotAllowed {
        /// The field that names the server.
        field: &'static str,
        /// Why it is refused.
        refused: HostRefused,
    },
    /// The client cannot send a header of that name, or sets it itself.
    #[error(
        "spec.prefect.server.headers[{index}] has a name that cannot be used: name an extra header, such as CF-Access-Client-Id"
    )]
    InvalidHeaderName {
        /// Its index in the list.
        index: usize,
    },
    /// A field has neither a value nor a resolved reference.
    #[error("{purpose} has no value: set value, or valueFrom with an object and a key that exist")]
    MissingValue {
        /// The field of the binding.
        purpose: Purpose,
    },
    /// A value is empty.
    #[error("{purpose} is empty: store a value under the key that it references")]
    EmptyValue {
        /// The field of the binding.
        purpose: Purpose,
    },
    /// A value cannot be sent in a header.
    #[error(
        "{purpose} cannot be sent in a header: use a value of one line of printable characters"
    )]
    InvalidHeaderValue {
        /// The field of the binding.
        purpose: Purpose,
    },
    /// The value is not `user:password`.
    #[error(
        "{} has a value without a colon: use user:password, as in PREFECT_SERVER_API_AUTH_STRING, or set spec.prefect.server.apiKey for an API key",
        Purpose::BasicAuth
    )]
    NotUserPassword,
    /// The certificate authorities are not PEM.
    #[error(
        "{} contains no certificate in PEM: use a value with BEGIN CERTIFICATE and END CERTIFICATE lines",
        Purpose::CaBundle
    )]
    NotPem,
}

impl ServerError {
    /// The reason for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::MissingAddress
            | Self::InvalidUrl
            | Self::CloudPage { .. }
            | Self::CloudPageWithoutIds
            | Self::InvalidUrlPart { .. }
            | Self::InvalidHeaderName { .. } => Reason::InvalidSpec,
            Self::HostNotAllowed { refused, .. } => refused.reason(),
            Self::MissingValue { .. } => Reason::ReferenceMissing,
            Self::EmptyValue { .. }
            | Self::InvalidHeaderValue { .. }
            | Self::NotUserPassword
            | Self::NotPem => Reason::ReferenceInvalid,
        }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}
