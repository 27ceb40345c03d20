//! How a request about a Secret can fail.
//!
//! Input: the error of the Kubernetes client.
//! Output: a [`WriteError`] with status code, reason, and the name of what refused the request.
//! Invariants: never keeps a message or a body of the API server, because they may repeat values
//! from the request. Of a policy's sentence, the values that the request held are removed; without
//! these values, the sentence is not kept.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretSlice};

use crate::{
    reason::Reason,
    refusal::{Policy, Refusal, Sentence},
};

/// A request about a Secret that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// POST: a Secret of that name exists.
    #[error("a Secret of that name already exists")]
    Exists,
    /// It changed since it was read.
    #[error("the Secret changed in the meantime")]
    Conflict,
    /// It is immutable.
    #[error(
        "the Secret is immutable and cannot be updated: delete it, and the operator creates it again"
    )]
    Immutable,
    /// It has another type.
    #[error(
        "the Secret has another type than spec.managedSecret.type says, and Kubernetes never changes the type of a Secret: delete the Secret, and the operator creates it again, or set spec.managedSecret.name to another name"
    )]
    WrongType,
    /// It exceeds the size limit of the API server or etcd.
    #[error(
        "the API server rejects a Secret of this size: select fewer values with spec.doppler.include or exclude"
    )]
    TooLarge,
    /// The operator has no permission.
    #[error(
        "the operator has no permission to {verb} Secrets in namespace {namespace} (403): bind the chart's Role there to its service account"
    )]
    Forbidden {
        /// `get`, `create`, `patch` or `delete`.
        verb: &'static str,
        /// Namespace.
        namespace: String,
    },
    /// An admission policy rejected it.
    #[error(
        "{policy} rejects the request to {verb} the Secret{}: change the binding, or ask the administrator of the policy to allow it",
        .sentence.quoted()
    )]
    Rejected {
        /// `create`, `patch` or `delete`.
        verb: &'static str,
        /// The policy.
        policy: Policy,
        /// Its own words.
        sentence: Sentence,
    },
    /// A `ResourceQuota` is used up.
    #[error(
        "ResourceQuota {name} allows no further Secret in namespace {namespace}{}: delete Secrets there, or raise the quota",
        .sentence.quoted()
    )]
    QuotaExceeded {
        /// Name of the `ResourceQuota`.
        name: String,
        /// Namespace.
        namespace: String,
        /// What was requested, used and allowed.
        sentence: Sentence,
    },
    /// An admission webhook cannot be called.
    #[error(
        "the API server cannot call admission webhook {webhook}, which has to allow the request to {verb} the Secret: check that the webhook's Service has a running pod"
    )]
    WebhookFailed {
        /// `create`, `patch` or `delete`.
        verb: &'static str,
        /// Name of the webhook.
        webhook: String,
    },
    /// An admission webhook cannot answer a dry run.
    #[error("admission webhook {webhook} does not support dry run")]
    NoDryRun {
        /// Name of the webhook.
        webhook: String,
    },
    /// The namespace is terminating.
    #[error("the namespace is terminating")]
    NamespaceTerminating,
    /// The Secret or the namespace does not exist.
    #[error("the Secret or its namespace does not exist")]
    NotFound,
    /// The API server did not respond in time.
    #[error("the API server did not respond in time")]
    Timeout,
    /// The API server rejected it for another reason.
    #[error("the API server rejected the request to {verb} the Secret ({code} {reason})")]
    Refused {
        /// `get`, `create`, `patch` or `delete`.
        verb: &'static str,
        /// Status code.
        code: u16,
        /// The reason in the Status, such as `Invalid`.
        reason: String,
    },
    /// The API server could not be reached, or its response could not be parsed.
    #[error(
        "the request to {verb} the Secret failed: the API server could not be reached, or its response could not be parsed"
    )]
    Unreachable {
        /// `get`, `create`, `patch` or `delete`.
        verb: &'static str,
    },
}

impl WriteError {
    /// The reason for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Immutable => Reason::SecretImmutable,
            Self::WrongType => Reason::SecretWrongType,
            Self::TooLarge => Reason::SecretTooLarge,
            Self::Forbidden { .. } => Reason::SecretForbidden,
            Self::Rejected { .. } => Reason::SecretRejected,
            Self::QuotaExceeded { .. } => Reason::QuotaExceeded,
            Self::NamespaceTerminating => Reason::NamespaceTerminating,
            Self::WebhookFailed { .. }
            | Self::NoDryRun { .. }
            | Self::Exists
            | Self::Conflict
            | Self::NotFound
            | Self::Timeout
            | Self::Refused { .. }
            | Self::Unreachable { .. } => Reason::KubernetesError,
        }
    }

    /// Classifies the client's error. `sent` are the values that the request held. Without them, a
    /// policy's sentence is not kept, because it may repeat values of the Secret that exists.
    #[must_use]
    pub fn from_kube(
        error: &kube::Error,
        verb: &'static str,
        namespace: &str,
        sent: Option<&BTreeMap<String, SecretSlice<u8>>>,
    ) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Unreachable { verb };
        };
        match Refusal::of(status) {
            Refusal::NamespaceTerminating => return Self::NamespaceTerminating,
            Refusal::Rbac => {
                return Self::Forbidden {
                    verb,
                    namespace: namespace.to_owned(),
                };
            }
            Refusal::Quota { name, sentence } => {
                return Self::QuotaExceeded {
                    name,
                    namespace: namespace.to_owned(),
                    sentence,
                };
            }
            Refusal::Policy { policy, sentence } => {
                let sentence = match sent {
                    Some(sent) => {
                        let values = sent.values();
                        let texts =
                            values.filter_map(|value| str::from_utf8(value.expose_secret()).ok());
                        sentence.without(texts)
                    }
                    None => sentence.hidden(),
                };
                return Self::Rejected {
                    verb,
                    policy,
                    sentence,
                };
            }
            Refusal::WebhookFailed { name } => {
                return Self::WebhookFailed {
                    verb,
                    webhook: name,
                };
            }
            Refusal::NoDryRun { name } => return Self::NoDryRun { webhook: name },
            Refusal::TooLarge => return Self::TooLarge,
            Refusal::Other => {}
        }
        let causes = status
            .details
            .as_ref()
            .map(|details| details.causes.as_slice())
            .unwrap_or_default();
        match status.code {
            409 if status.reason == "AlreadyExists" => Self::Exists,
            409 => Self::Conflict,
            404 => Self::NotFound,
            422 if causes
                .iter()
                .any(|cause| cause.reason == "FieldValueTooLong" && cause.field == "data") =>
            {
                Self::TooLarge
            }
            422 if causes.iter().any(|cause| cause.field == "type") => Self::WrongType,
            422 if causes.iter().any(|cause| {
                cause.reason == "FieldValueForbidden"
                    && matches!(&*cause.field, "data" | "immutable")
            }) =>
            {
                Self::Immutable
            }
            // An operation does not fit the object, such as the removal of a label that no longer
            // exists: the object changed since it was read.
            422 if verb == "patch" && causes.is_empty() => Self::Conflict,
            code => Self::Refused {
                verb,
                code,
                // If the body is not a Status, the client puts a sentence here.
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
