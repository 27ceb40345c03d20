//! Whether the API server has the admission policy that adds Secrets to Jobs.
//!
//! Input: the metadata of the policy and of its binding, by name.
//! Output: [`Availability`].
//! Invariants: both are read once for all bindings, and only if one selects Jobs. What was read counts
//! for ten minutes, and for one minute if the policy is missing. An API server that does not answer
//! takes nothing back.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    core::Status,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::crd::JOBS_POLICY;

/// How long a policy that was read counts.
const VALID_FOR: Duration = Duration::from_mins(10);
/// How long it counts that the policy is missing.
const MISSING_FOR: Duration = Duration::from_mins(1);
/// The versions of the API, newest first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// The policy and its binding.
const KINDS: [(&str, &str); 2] = [
    ("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
    (
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
    ),
];

/// Whether the policy adds Secrets to Jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The API server has the policy and its binding.
    Installed,
    /// The API server does not serve the API.
    NotServed,
    /// The API server serves the API, and the policy or its binding does not exist.
    NotInstalled,
    /// The operator has no permission to read them.
    Forbidden,
    /// The API server did not answer.
    Unknown,
}

impl Availability {
    /// What the user has to do, for each state in which the policy adds nothing.
    #[must_use]
    pub const fn correction(self) -> Option<&'static str> {
        match self {
            Self::Installed | Self::Unknown => None,
            Self::NotServed => Some(
                "the API server does not serve MutatingAdmissionPolicy: use Kubernetes 1.36 or newer, or on 1.34 and 1.35 start the API server with --feature-gates=MutatingAdmissionPolicy=true --runtime-config=admissionregistration.k8s.io/v1beta1=true and set admission.enabled of the chart to true",
            ),
            Self::NotInstalled => Some(
                "the MutatingAdmissionPolicy doppler-prefect-jobs or its binding does not exist: set admission.enabled of the chart to true, or apply deploy/admission.yaml",
            ),
            Self::Forbidden => Some(
                "the operator has no permission to get the MutatingAdmissionPolicy doppler-prefect-jobs and its binding, so it cannot tell whether they exist: set rbac.admission of the chart to true, or grant it `get` on both (docs/security.md)",
            ),
        }
    }

    /// How long it counts.
    const fn valid_for(self) -> Duration {
        match self {
            Self::Installed => VALID_FOR,
            _ => MISSING_FOR,
        }
    }
}

/// Reads whether the policy exists.
pub struct AdmissionPolicy {
    client: Client,
    limit: Duration,
    read: Mutex<Option<(Instant, Availability)>>,
}

impl std::fmt::Debug for AdmissionPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdmissionPolicy").finish_non_exhaustive()
    }
}

impl AdmissionPolicy {
    /// Has read nothing. Each request may take `limit`.
    #[must_use]
    pub fn new(client: Client, limit: Duration) -> Self {
        Self {
            client,
            limit,
            read: Mutex::default(),
        }
    }

    /// Whether the policy exists, and how long that counts. Concurrent callers share one read.
    pub async fn availability(&self) -> (Availability, Duration) {
        let mut read = self.read.lock().await;
        if let Some((at, availability)) = *read {
            let left = availability.valid_for().saturating_sub(at.elapsed());
            if !left.is_zero() {
                return (availability, left);
            }
        }
        let found = match (self.fetch().await, *read) {
            (Availability::Unknown, Some((_, before))) => before,
            (found, _) => found,
        };
        *read = Some((Instant::now(), found));
        (found, found.valid_for())
    }

    async fn fetch(&self) -> Availability {
        let mut found = Availability::NotServed;
        for version in VERSIONS {
            found = self.fetch_version(version).await;
            if found != Availability::NotServed {
                break;
            }
        }
        found
    }

    async fn fetch_version(&self, version: &str) -> Availability {
        for (kind, plural) in KINDS {
            let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", version, kind);
            let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
            let found = match timeout(self.limit, api.get_metadata(JOBS_POLICY)).await {
                Ok(Ok(_)) => Availability::Installed,
                Ok(Err(kube::Error::Api(status))) => missing(&status),
                Ok(Err(_)) | Err(_) => Availability::Unknown,
            };
            if found != Availability::Installed {
                return found;
            }
        }
        Availability::Installed
    }
}

/// What a refused read means. Only the answer about an object names it.
fn missing(status: &Status) -> Availability {
    let names_object = status
        .details
        .as_ref()
        .is_some_and(|details| details.name == JOBS_POLICY);
    match status.code {
        404 if names_object => Availability::NotInstalled,
        404 => Availability::NotServed,
        403 => Availability::Forbidden,
        _ => Availability::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(code: u16, details: &Value) -> Availability {
        let status = json!({"status": "Failure", "message": "", "reason": "", "code": code, "details": details});
        missing(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_missing_policy_differs_from_a_missing_api() {
        let policy = json!({"name": JOBS_POLICY, "kind": "mutatingadmissionpolicies"});
        assert_eq!(refused(404, &policy), Availability::NotInstalled);
        assert_eq!(refused(404, &json!({})), Availability::NotServed);
        assert_eq!(refused(403, &policy), Availability::Forbidden);
        assert_eq!(refused(500, &json!({})), Availability::Unknown);
    }

    #[test]
    fn corrections_name_the_policy_and_its_switch() {
        assert_eq!(Availability::Installed.correction(), None);
        let text = |of: Availability| of.correction().unwrap();
        assert!(text(Availability::NotServed).contains("1.36"));
        let missing = text(Availability::NotInstalled);
        assert!(missing.contains(JOBS_POLICY) && missing.contains("admission.enabled"));
        assert!(text(Availability::Forbidden).contains(JOBS_POLICY));
    }
}
