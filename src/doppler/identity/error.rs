//! Why an identity gives no access, and what the user can do about it.
//!
//! Input: the failures of the API server and of Doppler on the way to a token.
//! Output: [`IdentityError`], with its reason and its message.
//! Invariants: the message contains neither the token of the service account nor that of Doppler.
//! Issuer, audience and subject are no secrets, and all that is needed to correct Doppler's rules.

use super::claims::Claims;
use crate::reason::Reason;

/// The field that names the service account.
const ACCOUNT_FIELD: &str = "spec.doppler.identity.serviceAccountRef.name";

/// Why an identity gives no access.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The service account does not exist.
    #[error(
        "service account {name} does not exist: create it in namespace {namespace}, or correct {ACCOUNT_FIELD}"
    )]
    AccountMissing {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// RBAC does not permit the request of a token.
    #[error(
        "no permission to request a token of service account {name} in namespace {namespace}: add it to identities.serviceAccounts of the operator's chart, which grants create on serviceaccounts/token, or correct {ACCOUNT_FIELD}"
    )]
    TokenForbidden {
        /// The namespace of the account.
        namespace: String,
        /// The name of the account.
        name: String,
    },
    /// The API server refuses the request for another reason, such as an admission policy.
    #[error(
        "the API server refuses a token of service account {name} in namespace {namespace} ({answer}): correct {ACCOUNT_FIELD} or spec.doppler.identity.audiences"
    )]
    TokenRefused {
        /// The namespace of the account.
        namespace: String,
        /// The name of the account.
        name: String,
        /// What the API server says, as one line.
        answer: String,
    },
    /// The API server gives no answer.
    #[error(
        "the operator could not request a token of service account {name} in namespace {namespace} from the API server; it tries again"
    )]
    ApiServer {
        /// The namespace of the account.
        namespace: String,
        /// The name of the account.
        name: String,
    },
    /// A token with this audience would open the API server itself. It was not sent.
    #[error(
        "spec.doppler.identity.audiences has {audience}, which is the API server's own issuer: the operator does not send a token that opens the API server to Doppler; remove this audience"
    )]
    ApiServerAudience {
        /// The audience.
        audience: String,
    },
    /// Doppler does not accept the service account's token for this identity.
    #[error(
        "Doppler refuses identity {id} for the token that was sent ({claims}): make the claim rules of the identity in Doppler match, or correct spec.doppler.identity (id, serviceAccountRef, audiences){}", quoted(.quote.as_deref())
    )]
    Refused {
        /// The id of the identity.
        id: String,
        /// What was sent.
        claims: Claims,
        /// Doppler's messages.
        quote: Option<String>,
    },
    /// The plan of the workplace has no identities.
    #[error(
        "Doppler offers no identities to this workplace (status {status}): they need the Team or Enterprise plan; use spec.doppler.accessToken in place of spec.doppler.identity{}", quoted(.quote.as_deref())
    )]
    NotInPlan {
        /// The HTTP status.
        status: u16,
        /// Doppler's messages.
        quote: Option<String>,
    },
    /// Doppler gave a token, and rejects it.
    #[error(
        "Doppler gave identity {id} a token and rejects it (401), a renewed one as well: check the service account of the identity in Doppler{}", quoted(.quote.as_deref())
    )]
    TokenRejected {
        /// The id of the identity.
        id: String,
        /// Doppler's messages.
        quote: Option<String>,
    },
    /// The identity has no access to the config.
    #[error(
        "identity {id} has no permission to read config {config} of project {project}: give its service account in Doppler access to the project, or name another config{}", quoted(.quote.as_deref())
    )]
    NoAccess {
        /// The id of the identity.
        id: String,
        /// The Doppler project.
        project: String,
        /// The Doppler config.
        config: String,
        /// Doppler's messages.
        quote: Option<String>,
    },
    /// Doppler has no such config, or hides it from the identity. It never leads to a deletion.
    #[error(
        "Doppler has no config {config} of project {project}, or hides it from identity {id}: correct the names, or give its service account in Doppler access to the project{}", quoted(.quote.as_deref())
    )]
    ConfigMissing {
        /// The id of the identity.
        id: String,
        /// The Doppler project.
        project: String,
        /// The Doppler config.
        config: String,
        /// Doppler's messages.
        quote: Option<String>,
    },
}

impl IdentityError {
    /// The reason for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::AccountMissing { .. } => Reason::ServiceAccountMissing,
            Self::TokenForbidden { .. } | Self::TokenRefused { .. } => {
                Reason::ServiceAccountTokenRefused
            }
            Self::ApiServer { .. } => Reason::KubernetesError,
            Self::ApiServerAudience { .. } => Reason::InvalidSpec,
            Self::Refused { .. } | Self::TokenRejected { .. } => Reason::IdentityRefused,
            Self::NotInPlan { .. } => Reason::IdentityNotInPlan,
            Self::NoAccess { .. } => Reason::DopplerForbidden,
            Self::ConfigMissing { .. } => Reason::ConfigMissing,
        }
    }
}

fn quoted(quote: Option<&str>) -> String {
    quote
        .map(|quote| format!(" (Doppler says: {quote})"))
        .unwrap_or_default()
}
