//! What a Prefect server refuses, and what to do about it.
//!
//! In: a status and an answer that is not the one hoped for. Out: a [`PrefectError`] with its reason. An upstream body is looked at here to tell two
//! refusals apart, and never kept: a 422 echoes what was sent.

use std::time::Duration;

use reqwest::StatusCode;
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    outbound::{ClientError, TransportError},
    reason::Reason,
    upstream::limiter::CircuitOpen,
};

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    /// A block document.
    Block { slug: &'a str, name: &'a str },
    /// A work pool, to read it.
    Pool(&'a str),
    /// A work pool, to edit it.
    PoolEdit(&'a str),
    /// The deployments of a work pool.
    Deployments(&'a str),
    /// A CSRF token.
    CsrfToken,
}

/// Why there is no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefectError {
    /// No HTTP client can be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No answer.
    #[error("the Prefect server {host} {error}")]
    Transport {
        /// The server.
        host: String,
        /// What went wrong.
        error: TransportError,
    },
    /// Not asked, since the server gave no answer to others just now.
    #[error("{}", .0.error)]
    CircuitOpen(Box<CircuitOpen<Self>>),
    /// 5xx.
    #[error(
        "the Prefect server {host} answered with a fault of its own ({status}): look at its log, and at what is before it"
    )]
    ServerFault {
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// 401.
    #[error(
        "the Prefect server {host} refused the credentials (401): self-hosted servers take spec.prefect.server.basicAuth, Prefect Cloud takes apiKey; look whether the value is still valid"
    )]
    Unauthorized {
        /// The server.
        host: String,
    },
    /// 403 on a block.
    #[error(
        "the credentials may not read the block {name} of type {slug} (403): give the API key's role \"View secret block data\""
    )]
    BlockForbidden {
        /// The block type's slug.
        slug: String,
        /// The block document's name.
        name: String,
    },
    /// 403 on a work pool or its deployments.
    #[error(
        "the credentials may not {action} of the work pool {pool} (403): give the API key's role \"{permission}\""
    )]
    PoolForbidden {
        /// The work pool.
        pool: String,
        /// What was tried.
        action: &'static str,
        /// What the role lacks.
        permission: &'static str,
    },
    /// 403 of CSRF protection, with a new token too.
    #[error(
        "the Prefect server {host} refused its own CSRF token twice (403): look whether several servers without a common database answer under this name"
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
    /// 429.
    #[error(
        "the Prefect server {host} asks for fewer requests (429): raise spec.refreshInterval, or the account's limit"
    )]
    RateLimited {
        /// The server.
        host: String,
        /// When it may be asked again.
        retry_after: Option<Duration>,
    },
    /// 3xx.
    #[error(
        "the Prefect server {host} redirects ({status}), and credentials do not follow: write the URL that it redirects to (often https:// for http://) into spec.prefect.server.remoteApiUrl"
    )]
    Redirect {
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// The answer is not that of a Prefect API.
    #[error(
        "what answers at {host} is not the Prefect API ({status}): correct spec.prefect.server, whose URL must be that of the API (it ends in /api on a server of your own), or look at the proxy before it"
    )]
    NotPrefect {
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// The answer is larger than what is read.
    #[error(
        "the Prefect server {host} gave an answer of more than {limit} bytes, which is not read"
    )]
    TooLarge {
        /// The server.
        host: String,
        /// The bound, in bytes.
        limit: usize,
    },
    /// Any other status: the request is one that this server does not take.
    #[error(
        "the Prefect server {host} did not accept the request ({status}): look at its log, and whether its version is supported"
    )]
    RequestRejected {
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// A success without what it should hold.
    #[error(
        "the Prefect server {host} gave an answer without {missing}: look whether its version is supported"
    )]
    UnexpectedBody {
        /// The server.
        host: String,
        /// What is not in it.
        missing: &'static str,
    },
}

impl PrefectError {
    /// The word for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Client(error) => error.reason(),
            Self::Transport { .. } | Self::ServerFault { .. } => Reason::PrefectUnreachable,
            Self::Unauthorized { .. } => Reason::PrefectUnauthorized,
            Self::BlockForbidden { .. } => Reason::PrefectForbidden,
            Self::PoolForbidden { .. } => Reason::PoolForbidden,
            Self::BlockMissing { .. } => Reason::BlockMissing,
            Self::PoolMissing { .. } => Reason::PoolMissing,
            Self::RateLimited { .. } => Reason::PrefectRateLimited,
            Self::Redirect { .. } | Self::NotPrefect { .. } => Reason::PrefectWrongUrl,
            Self::TooLarge { .. } => Reason::AnswerTooLarge,
            Self::CsrfRejected { .. }
            | Self::RequestRejected { .. }
            | Self::UnexpectedBody { .. } => Reason::PrefectError,
            Self::CircuitOpen(shut) => shut.error.reason(),
        }
    }

    /// Whether the server is to blame, so that other requests would meet the same.
    pub(super) const fn is_host_failure(&self) -> bool {
        matches!(self, Self::Transport { .. } | Self::ServerFault { .. })
    }

    /// How long the server wants to be left alone, if it said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => *retry_after,
            Self::CircuitOpen(shut) => Some(shut.retry_after),
            _ => None,
        }
    }
}

/// The error that a status other than success means for what was asked.
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
        // A page of HTML is that of a proxy or of an access gateway, and no word about permissions.
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

/// The 404 of Prefect itself about the thing asked for, as against that of a path that is not there.
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

/// The sentence in a refusal of Prefect's, to tell refusals apart; not to be shown.
pub(super) fn detail(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        detail: String,
    }
    serde_json::from_slice(body)
        .ok()
        .map(|refusal: Refusal| refusal.detail)
}

pub(super) fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(body).is_ok()
}
