//! Why a request to a Prefect server failed, and what the user can do about it.
//!
//! Input: the status and the body of an answer.
//! Output: [`PrefectError`], with its reason, its message and the wait that the server asks for.
//! Invariants: the body only distinguishes answers of equal status and is never kept, because a 422
//! echoes the request. Only the sentence about a refused template is shown, without values.

use std::time::Duration;

use reqwest::StatusCode;
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    outbound::{ClientError, TransportError},
    reason::Reason,
    upstream::limiter::CircuitOpen,
};

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    /// A block document.
    Block { slug: &'a str, name: &'a str },
    /// A read of a work pool.
    Pool(&'a str),
    /// A write of a work pool.
    PoolEdit(&'a str),
    /// The deployments of a work pool.
    Deployments(&'a str),
    /// The job variables of flow runs and of their deployments.
    Runs,
    /// Events that the operator sends.
    Events,
    /// A CSRF token.
    CsrfToken,
    /// The version of the server.
    Version,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefectError {
    /// The TLS backend cannot build an HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No answer.
    #[error(
        "the Prefect server {host} {error}: check the server, its Service, certificates and the network path to it"
    )]
    Transport {
        /// The server.
        host: String,
        /// What failed during the request.
        error: TransportError,
    },
    /// The request was not sent, because the server just failed to answer other requests.
    #[error("{}", .0.error)]
    CircuitOpen(Box<CircuitOpen<Self>>),
    /// 5xx.
    #[error(
        "the Prefect server {host} answered with a server error ({status}): check its log, and the proxies in front of it"
    )]
    ServerFault {
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// 401.
    #[error(
        "the Prefect server {host} rejected the credentials (401): self-hosted servers take spec.prefect.server.basicAuth, Prefect Cloud takes apiKey; check that the value is still valid"
    )]
    Unauthorized {
        /// The server.
        host: String,
    },
    /// 403 on a block.
    #[error(
        "the credentials have no permission to read the block {name} of type {slug} (403): add the permission \"View secret block data\" to the API key's role"
    )]
    BlockForbidden {
        /// The block type's slug.
        slug: String,
        /// The block document's name.
        name: String,
    },
    /// 403 on a work pool or its deployments.
    #[error(
        "the credentials have no permission to {action} of the work pool {pool} (403): add the permission \"{permission}\" to the API key's role"
    )]
    PoolForbidden {
        /// The work pool.
        pool: String,
        /// What was tried.
        action: &'static str,
        /// The permission that the role lacks.
        permission: &'static str,
    },
    /// 403 of CSRF protection, also with a new token.
    #[error(
        "the Prefect server {host} rejected its own CSRF token twice (403): check whether several servers without a common database answer under this name"
    )]
    CsrfRejected {
        /// The server.
        host: String,
    },
    /// 404 of a block.
    #[error(
        "the Prefect server {host} has no block {name} of type {slug}: create it, or correct spec.prefect.block"
    )]
    BlockMissing {
        /// The server.
        host: String,
        /// The block type's slug.
        slug: String,
        /// The block document's name.
        name: String,
    },
    /// 404 of a work pool.
    #[error(
        "the Prefect server {host} has no work pool {pool}: create it, or correct its name under spec.inject.workPools"
    )]
    PoolMissing {
        /// The server.
        host: String,
        /// The work pool.
        pool: String,
    },
    /// 400, 409, 413 or 422 for the template of a work pool.
    #[error(
        "the Prefect server {host} refuses every update of the template of work pool {pool} ({status}){}: correct the template, for example in the web UI; the operator then adds the entry",
        .detail.as_ref().map(|detail| format!(": \"{detail}\"")).unwrap_or_default()
    )]
    TemplateRefused {
        /// The server.
        host: String,
        /// The work pool.
        pool: String,
        /// The status.
        status: u16,
        /// The server's own sentence.
        detail: Option<String>,
    },
    /// 429.
    #[error(
        "the Prefect server {host} limits the request rate (429): raise spec.refreshInterval, or the limit of the account"
    )]
    RateLimited {
        /// The server.
        host: String,
        /// How long to wait before the next request.
        retry_after: Option<Duration>,
    },
    /// 3xx.
    #[error(
        "the Prefect server {host} answered with a redirect ({status}), which the operator does not follow with credentials: set spec.prefect.server.remoteApiUrl to the final URL (often https:// instead of http://)"
    )]
    Redirect {
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// The answer does not come from a Prefect API.
    #[error(
        "the answer of {host} does not come from the Prefect API ({status}): correct the URL in spec.prefect.server (that of a self-hosted server ends in /api), or check the proxy in front of it"
    )]
    NotPrefect {
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// The body is larger than the limit.
    #[error(
        "the answer of the Prefect server {host} is larger than {limit} bytes: make the block, the template or the deployments smaller"
    )]
    TooLarge {
        /// The server.
        host: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body has more JSON values than the limit, or is nested too deeply.
    #[error(
        "the Prefect server {host} sent {content} with more than {limit} JSON values: remove what is not needed"
    )]
    TooManyValues {
        /// The server.
        host: String,
        /// What the body contains.
        content: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Any other status: the server does not accept the request.
    #[error(
        "the Prefect server {host} did not accept the request ({status}): check its log, and that its version is supported"
    )]
    RequestRejected {
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// A success without the expected content.
    #[error(
        "the Prefect server {host} sent an answer without {missing}: check that its version is supported"
    )]
    UnexpectedBody {
        /// The server.
        host: String,
        /// The missing content.
        missing: &'static str,
    },
}

impl PrefectError {
    /// The reason for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Client(error) => error.reason(),
            Self::Transport {
                error: TransportError::Headers(_),
                ..
            }
            | Self::TooLarge { .. }
            | Self::TooManyValues { .. } => Reason::AnswerTooLarge,
            Self::Transport { .. } | Self::ServerFault { .. } => Reason::PrefectUnreachable,
            Self::Unauthorized { .. } => Reason::PrefectUnauthorized,
            Self::BlockForbidden { .. } => Reason::PrefectForbidden,
            Self::PoolForbidden { .. } => Reason::PoolForbidden,
            Self::BlockMissing { .. } => Reason::BlockMissing,
            Self::PoolMissing { .. } => Reason::PoolMissing,
            Self::TemplateRefused { .. } => Reason::PoolNotEditable,
            Self::RateLimited { .. } => Reason::PrefectRateLimited,
            Self::Redirect { .. } | Self::NotPrefect { .. } => Reason::PrefectWrongUrl,
            Self::CsrfRejected { .. }
            | Self::RequestRejected { .. }
            | Self::UnexpectedBody { .. } => Reason::PrefectError,
            Self::CircuitOpen(open) => open.error.reason(),
        }
    }

    /// How long to wait before the next request, if the server or the circuit breaker says so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => *retry_after,
            Self::CircuitOpen(open) => Some(open.retry_after),
            _ => None,
        }
    }
}

/// The error of a status other than success.
pub(super) fn error_for_status(
    host: &str,
    subject: Subject<'_>,
    status: StatusCode,
    body: &[u8],
    retry_after: Option<Duration>,
) -> PrefectError {
    let host = host.to_owned();
    let code = status.as_u16();
    let not_prefect = PrefectError::NotPrefect {
        host: host.clone(),
        status: code,
    };
    match code {
        300..=399 => PrefectError::Redirect { host, status: code },
        401 => PrefectError::Unauthorized { host },
        // An HTML page comes from a proxy or an access gateway, and says nothing about permissions.
        403 if !is_json(body) => not_prefect,
        403 => error_for_403(host, subject),
        404 => error_for_404(&host, subject, body).unwrap_or(not_prefect),
        429 => PrefectError::RateLimited { host, retry_after },
        500.. => PrefectError::ServerFault { host, status: code },
        _ => PrefectError::RequestRejected { host, status: code },
    }
}

fn error_for_403(host: String, subject: Subject<'_>) -> PrefectError {
    let (pool, action, permission) = match subject {
        Subject::Block { slug, name } => {
            return PrefectError::BlockForbidden {
                slug: slug.to_owned(),
                name: name.to_owned(),
            };
        }
        Subject::CsrfToken => return PrefectError::CsrfRejected { host },
        Subject::Version | Subject::Runs | Subject::Events => {
            return PrefectError::RequestRejected { host, status: 403 };
        }
        Subject::Pool(pool) => (pool, "read the template", "View work pools"),
        Subject::PoolEdit(pool) => (pool, "edit the template", "Edit work pools"),
        Subject::Deployments(pool) => (pool, "list the deployments", "View deployments"),
    };
    PrefectError::PoolForbidden {
        pool: pool.to_owned(),
        action,
        permission,
    }
}

/// Prefect's own 404 about the object, unlike the 404 of a path that does not exist.
fn error_for_404(host: &str, subject: Subject<'_>, body: &[u8]) -> Option<PrefectError> {
    let detail = detail(body)?.to_ascii_lowercase();
    match subject {
        Subject::Block { slug, name } if detail.contains("block") => {
            Some(PrefectError::BlockMissing {
                host: host.to_owned(),
                slug: slug.to_owned(),
                name: name.to_owned(),
            })
        }
        Subject::Pool(pool) | Subject::PoolEdit(pool) if detail.contains("work pool") => {
            Some(PrefectError::PoolMissing {
                host: host.to_owned(),
                pool: pool.to_owned(),
            })
        }
        _ => None,
    }
}

/// The `detail` of Prefect's error body. It distinguishes errors, and is never shown.
pub(super) fn detail(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct ErrorBody {
        detail: String,
    }
    serde_json::from_slice(body)
        .ok()
        .map(|body: ErrorBody| body.detail)
}

pub(super) fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(body).is_ok()
}
