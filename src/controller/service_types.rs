//! Whether a Service stays inside this cluster.
//!
//! Input: the Service that a binding names as its Prefect server.
//! Output: `Ok`, or why the operator sends nothing to it.
//! Invariants: a Service of type `ExternalName` is refused, and so is one whose type the operator
//! cannot read. A type is read again after ten minutes, at the next reconcile; nothing is read at
//! rest.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::{failure::Failure, outbound::ServiceName, reason::Reason};

/// How long a type that was read counts.
const VALID_FOR: Duration = Duration::from_mins(10);
/// Services whose type is remembered.
const MAX_SERVICES: usize = 1024;

/// Why the operator sends nothing to a Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// It leads out of the cluster.
    #[error(
        "spec.prefect.server: Service {0} has the type ExternalName, which leads out of the cluster: use remoteApiUrl with the URL of the server"
    )]
    ExternalName(ServiceName),
    /// It does not exist.
    #[error(
        "spec.prefect.server: Service {0} does not exist: create it, or correct name and namespace"
    )]
    Missing(ServiceName),
    /// The operator may not read it.
    #[error(
        "the operator has no permission to get Service {0}, so it cannot rule out that it leads out of the cluster: grant it `get` on Services in that namespace (docs/security.md)"
    )]
    Forbidden(ServiceName),
    /// The API server did not answer.
    #[error("the operator could not read Service {0} from the API server; it tries again")]
    Unreachable(ServiceName),
}

impl ServiceError {
    /// Its reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::ExternalName(_) => Reason::HostNotAllowed,
            Self::Missing(_) => Reason::ReferenceMissing,
            Self::Forbidden(_) => Reason::ServiceForbidden,
            Self::Unreachable(_) => Reason::KubernetesError,
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

/// When a Service was last seen to stay inside the cluster.
type Slot = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// The types of Services, read once for all bindings.
pub struct ServiceTypes {
    client: Client,
    limit: Duration,
    slots: Mutex<HashMap<ServiceName, Slot>>,
}

impl std::fmt::Debug for ServiceTypes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceTypes").finish_non_exhaustive()
    }
}

impl ServiceTypes {
    /// Remembers no type. Each read may take `limit`.
    #[must_use]
    pub fn new(client: Client, limit: Duration) -> Self {
        Self {
            client,
            limit,
            slots: Mutex::default(),
        }
    }

    /// Checks that a Service stays inside the cluster. Concurrent callers share one read.
    ///
    /// # Errors
    /// If it does not, or its type cannot be read.
    pub async fn check(&self, service: &ServiceName) -> Result<(), ServiceError> {
        let slot = self.slot(service);
        let mut seen = slot.lock().await;
        if seen.is_some_and(|at| at.elapsed() < VALID_FOR) {
            return Ok(());
        }
        let api: Api<Service> = Api::namespaced(self.client.clone(), &service.namespace);
        let read = timeout(self.limit, api.get_opt(&service.name)).await;
        match judge(service, read.unwrap_or_else(|_| Err(timed_out()))) {
            Ok(()) => *seen = Some(Instant::now()),
            // An API server that does not answer takes nothing back.
            Err(ServiceError::Unreachable(_)) if seen.is_some() => {}
            Err(error) => {
                *seen = None;
                return Err(error);
            }
        }
        Ok(())
    }

    fn slot(&self, service: &ServiceName) -> Slot {
        let mut slots = self.slots.lock();
        if slots.len() >= MAX_SERVICES && !slots.contains_key(service) {
            slots.clear();
        }
        Arc::clone(slots.entry(service.clone()).or_default())
    }
}

fn timed_out() -> kube::Error {
    kube::Error::Service("the request timed out".into())
}

/// What the answer of the API server means.
fn judge(
    service: &ServiceName,
    answer: Result<Option<Service>, kube::Error>,
) -> Result<(), ServiceError> {
    let service = || service.clone();
    match answer {
        Ok(Some(found)) => {
            let spec = found.spec.unwrap_or_default();
            let is_external =
                spec.type_.as_deref() == Some("ExternalName") || spec.external_name.is_some();
            if is_external {
                Err(ServiceError::ExternalName(service()))
            } else {
                Ok(())
            }
        }
        Ok(None) => Err(ServiceError::Missing(service())),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            Err(ServiceError::Forbidden(service()))
        }
        Err(_) => Err(ServiceError::Unreachable(service())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name() -> ServiceName {
        ServiceName {
            namespace: "flows".to_owned(),
            name: "prefect-server".to_owned(),
        }
    }

    fn service(spec: &serde_json::Value) -> Option<Service> {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn only_services_inside_the_cluster_pass() {
        for spec in [
            json!({"type": "ClusterIP"}),
            json!({"type": "NodePort"}),
            json!({"clusterIP": "None"}),
            json!({}),
        ] {
            assert_eq!(judge(&name(), Ok(service(&spec))), Ok(()), "{spec}");
        }
        for spec in [
            json!({"type": "ExternalName", "externalName": "evil.example.com"}),
            json!({"type": "ExternalName"}),
            json!({"externalName": "evil.example.com"}),
        ] {
            let refused = judge(&name(), Ok(service(&spec))).unwrap_err();
            assert_eq!(refused, ServiceError::ExternalName(name()), "{spec}");
            assert_eq!(refused.reason(), Reason::HostNotAllowed);
        }
    }

    #[test]
    fn an_unreadable_service_is_refused() {
        let api_error = |code: u16| {
            let status = json!({"status": "Failure", "message": "", "reason": "", "code": code});
            Err(kube::Error::Api(serde_json::from_value(status).unwrap()))
        };
        assert_eq!(judge(&name(), Ok(None)), Err(ServiceError::Missing(name())));
        let forbidden = judge(&name(), api_error(403)).unwrap_err();
        assert_eq!(forbidden.reason(), Reason::ServiceForbidden);
        let unreachable = judge(&name(), api_error(500)).unwrap_err();
        assert_eq!(unreachable.reason(), Reason::KubernetesError);
        assert_eq!(
            judge(&name(), Err(timed_out())),
            Err(ServiceError::Unreachable(name()))
        );
    }
}
