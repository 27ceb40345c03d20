//! How the patch of a binding's finalizer can fail.
//!
//! Input: the error of the Kubernetes client.
//! Output: a [`FinalizerError`] that names what refused the patch.
//! Invariants: pure. Names, fields and sentences are bounded lines; the values of a binding are not
//! repeated.

use kube::core::{Status, response::StatusCause};

use crate::{
    printable,
    reason::Reason,
    refusal::{Policy, Refusal, Sentence},
};

/// The maximum number of fields in a message.
const MAX_FIELDS: usize = 5;

/// The binding could not be patched.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FinalizerError {
    /// The binding changed meanwhile, or is deleted: a newer event follows.
    #[error("the binding changed while the operator wrote its finalizer; the operator tries again")]
    Conflict,
    /// The operator has no permission.
    #[error(
        "the operator has no permission to set or remove the finalizer of the binding (403): grant its service account `patch` on dopplerprefectbindings"
    )]
    Forbidden,
    /// An admission policy rejected the patch.
    #[error(
        "{policy} rejects the finalizer of the binding{}: ask the administrator of the policy to allow it, or change the binding so that it obeys the policy",
        .sentence.quoted()
    )]
    Rejected {
        /// The policy.
        policy: Policy,
        /// Its own words.
        sentence: Sentence,
    },
    /// An admission webhook cannot be called.
    #[error(
        "the API server cannot call admission webhook {0}, which has to allow the finalizer of the binding: check that the webhook's Service has a running pod"
    )]
    WebhookFailed(String),
    /// The binding does not fit the CRD, which changed since the binding was created.
    #[error(
        "the API server accepts no change of the binding, because the CRD does not allow these fields: {0}; correct them with kubectl apply"
    )]
    Invalid(String),
    /// The API server rejected the patch for another reason.
    #[error("the API server rejected the finalizer of the binding (status {0})")]
    Refused(u16),
    /// The API server did not answer.
    #[error(
        "the API server did not answer when the operator set the finalizer; the operator tries again"
    )]
    Unreachable,
}

impl FinalizerError {
    /// Its reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::KubernetesError
    }

    /// Classifies the client's error. A policy or a webhook chooses its status code itself, so that
    /// the code counts last.
    #[must_use]
    pub fn of(error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Unreachable;
        };
        match Refusal::of(status) {
            Refusal::Rbac => Self::Forbidden,
            Refusal::Policy { policy, sentence } => Self::Rejected { policy, sentence },
            Refusal::WebhookFailed { name } => Self::WebhookFailed(name),
            _ => match (status.code, invalid_fields(status)) {
                (422, Some(fields)) => Self::Invalid(fields),
                // A failed test of the patch is answered 422 without causes.
                (404 | 409 | 422, _) => Self::Conflict,
                (code, _) => Self::Refused(code),
            },
        }
    }
}

/// The fields that the API server refuses.
fn invalid_fields(status: &Status) -> Option<String> {
    let causes = &status.details.as_ref()?.causes;
    let field = |cause: &StatusCause| printable::name(&cause.field);
    let fields: Vec<String> = causes.iter().take(MAX_FIELDS).map(field).collect();
    (!fields.is_empty()).then(|| fields.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const BINDING: &str = "dopplerprefectbindings.doppler-prefect.dev \"b\"";

    fn error(code: u16, message: &str, causes: &Value) -> FinalizerError {
        let status = json!({
            "status": "Failure", "code": code, "reason": "Invalid", "message": message,
            "details": {"causes": causes},
        });
        let status: Status = serde_json::from_value(status).unwrap();
        FinalizerError::of(&kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_missing_permission_differs_from_a_policy() {
        let rbac = format!(
            "{BINDING} is forbidden: User \"system:serviceaccount:a:b\" cannot patch resource"
        );
        assert_eq!(error(403, &rbac, &json!([])), FinalizerError::Forbidden);
        // The code of a policy is 422 by default; a webhook may choose one of a conflict.
        let policy = "ValidatingAdmissionPolicy 'frozen' with binding 'all' denied request: no";
        for (code, message, name) in [
            (
                422,
                format!("{BINDING} is forbidden: {policy}"),
                "Policy frozen",
            ),
            (
                403,
                format!("{BINDING} is forbidden: {policy}"),
                "Policy frozen",
            ),
            (
                409,
                "admission webhook \"w\" denied the request: no".to_owned(),
                "webhook w",
            ),
            (
                404,
                "admission webhook \"w\" denied the request: no".to_owned(),
                "webhook w",
            ),
        ] {
            let found = error(code, &message, &json!([]));
            assert!(
                matches!(found, FinalizerError::Rejected { .. }),
                "{found:?}"
            );
            let text = found.to_string();
            assert!(text.contains(&format!("{name} rejects")), "{text}");
            assert!(
                text.contains("(\"no\")") && !text.contains("grant"),
                "{text}"
            );
        }
        let failed = "Internal error occurred: failed calling webhook \"w\": no endpoints";
        assert_eq!(
            error(500, failed, &json!([])),
            FinalizerError::WebhookFailed("w".to_owned())
        );
        assert_eq!(
            error(503, "later", &json!([])),
            FinalizerError::Refused(503)
        );
    }

    #[test]
    fn an_invalid_binding_is_no_conflict_and_names_its_fields_only() {
        let cause = |field: &str| json!({"field": field, "message": "Invalid value: canary"});
        let causes = json!([cause("spec.a"), cause("spec.b\nINFO")]);
        let text = error(422, "is invalid: canary", &causes).to_string();
        assert!(text.contains("spec.a, spec.b"), "{text}");
        assert!(
            !text.contains("canary") && text.lines().count() == 1,
            "{text}"
        );
        let many: Vec<Value> = (0..9).map(|n| cause(&format!("spec.f{n}"))).collect();
        let text = error(422, "", &json!(many)).to_string();
        assert!(
            text.contains("spec.f4") && !text.contains("spec.f5"),
            "{text}"
        );
        for code in [404, 409, 422] {
            assert_eq!(error(code, "", &json!([])), FinalizerError::Conflict);
        }
    }
}
