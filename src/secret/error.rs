//! How a request about a Secret can fail.
//!
//! In: the client's error. Out: a [`WriteError`] made of status code, reason and causes only: messages and bodies of an API server may carry what
//! was sent, so that they are never kept.

use crate::reason::Reason;

/// A request about a Secret that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// POST: a Secret of that name is there.
    #[error("a Secret of that name is there already")]
    Exists,
    /// It changed since it was looked at.
    #[error("the Secret changed meanwhile")]
    Conflict,
    /// It is immutable.
    #[error(
        "the Secret is immutable, so that it cannot be updated; delete it, and it is written anew"
    )]
    Immutable,
    /// It is of another type.
    #[error(
        "the Secret has a type other than Opaque; choose another managedSecret.name, or delete it"
    )]
    WrongType,
    /// It is more than the API server or etcd takes.
    #[error(
        "the API server does not take a Secret of that size; pass on fewer values with include or exclude"
    )]
    TooLarge,
    /// The operator may not.
    #[error("the operator may not {verb} Secrets in namespace {namespace} (403)")]
    Forbidden {
        /// `get`, `create`, `patch` or `delete`.
        verb: &'static str,
        /// Namespace.
        namespace: String,
    },
    /// The namespace is going away.
    #[error("the namespace is going away")]
    NamespaceTerminating,
    /// There is no such Secret, or no such namespace.
    #[error("the Secret or its namespace is not there")]
    NotFound,
    /// No answer in time.
    #[error("the API server did not answer in time")]
    Timeout,
    /// The API server refused it for another reason.
    #[error("the API server answered {code} {reason} to {verb} of the Secret")]
    Refused {
        /// `get`, `create`, `patch` or `delete`.
        verb: &'static str,
        /// Status code.
        code: u16,
        /// Its word, such as `Invalid`.
        reason: String,
    },
    /// The API server could not be reached, or its answer could not be read.
    #[error(
        "the API server could not be reached, or its answer could not be read, at {verb} of the Secret"
    )]
    Unreachable {
        /// `get`, `create`, `patch` or `delete`.
        verb: &'static str,
    },
}

impl WriteError {
    /// The word for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Immutable => Reason::SecretImmutable,
            Self::WrongType => Reason::SecretWrongType,
            Self::TooLarge => Reason::SecretTooLarge,
            Self::Forbidden { .. } => Reason::SecretForbidden,
            Self::NamespaceTerminating => Reason::NamespaceTerminating,
            Self::Exists
            | Self::Conflict
            | Self::NotFound
            | Self::Timeout
            | Self::Refused { .. }
            | Self::Unreachable { .. } => Reason::KubernetesError,
        }
    }

    /// What the client's error says.
    #[must_use]
    pub fn from_kube(error: &kube::Error, verb: &'static str, namespace: &str) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Unreachable { verb };
        };
        let causes = status
            .details
            .as_ref()
            .map(|details| details.causes.as_slice())
            .unwrap_or_default();
        let cause = |word: &str| causes.iter().any(|cause| cause.reason == word);
        match status.code {
            409 if status.reason == "AlreadyExists" => Self::Exists,
            409 => Self::Conflict,
            404 => Self::NotFound,
            403 if cause("NamespaceTerminating") => Self::NamespaceTerminating,
            403 => Self::Forbidden {
                verb,
                namespace: namespace.to_owned(),
            },
            413 => Self::TooLarge,
            422 if causes
                .iter()
                .any(|cause| cause.reason == "FieldValueTooLong" && cause.field == "data") =>
            {
                Self::TooLarge
            }
            422 if causes.iter().any(|cause| {
                cause.reason == "FieldValueForbidden"
                    && matches!(&*cause.field, "data" | "immutable")
            }) =>
            {
                Self::Immutable
            }
            // An operation that does not fit the object, such as removing a label that is gone: the object is not the one that was looked at.
            422 if verb == "patch" && causes.is_empty() => Self::Conflict,
            code => Self::Refused {
                verb,
                code,
                // A body that is no Status ends up in the client's message, and its word is a sentence.
                reason: status
                    .reason
                    .chars()
                    .take_while(char::is_ascii_alphabetic)
                    .take(64)
                    .collect(),
            },
        }
    }
}
