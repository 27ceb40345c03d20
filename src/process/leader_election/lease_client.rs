//! Requests about the Lease of the leader election.
//!
//! Input: a Lease of `coordination.k8s.io`.
//! Output: the Lease as the API server stores it, and the address at which the leader receives
//! webhooks.
//! Invariants: each request has a time limit. A write carries the resourceVersion of the last read, so
//! two replicas cannot both succeed. An error repeats nothing that the API server sent.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, ResourceExt, api::PostParams};
use parking_lot::Mutex;
use tokio::time::timeout;

/// The annotation of the Lease with the address at which the leader receives webhooks.
pub const WEBHOOK_ADDRESS: &str = "doppler-prefect.dev/webhook-address";
/// Time limit of a request, well below the renew interval.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a request about the Lease failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Another client changed it since it was read.
    #[error("another client changed it")]
    Conflict,
    /// It does not exist.
    #[error("it does not exist")]
    NotFound,
    /// The API server rejected the request.
    #[error("status {0}")]
    Rejected(u16),
    /// No answer.
    #[error("the API server did not answer")]
    Unreachable,
}

/// The client of one Lease. Clones share the last known address of the leader.
#[derive(Clone)]
pub struct LeaseClient {
    api: Api<Lease>,
    name: String,
    leader_address: Arc<Mutex<Option<SocketAddr>>>,
}

impl LeaseClient {
    /// The client of the Lease with this name.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            leader_address: Arc::default(),
        }
    }

    /// The name of the Lease.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The address at which the leader receives webhooks, as of the last request.
    #[must_use]
    pub fn leader_address(&self) -> Option<SocketAddr> {
        *self.leader_address.lock()
    }

    /// Reads the address at which the leader receives webhooks. After a failure it returns the last
    /// known one.
    pub async fn fetch_leader_address(&self) -> Option<SocketAddr> {
        let _ = self.get().await;
        self.leader_address()
    }

    pub(super) async fn get(&self) -> Result<Option<Lease>, LeaseError> {
        match with_timeout(self.api.get(&self.name)).await {
            Ok(lease) => Ok(Some(self.observe(lease))),
            Err(LeaseError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn create(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let created = with_timeout(self.api.create(&PostParams::default(), lease)).await;
        created.map(|lease| self.observe(lease))
    }

    pub(super) async fn replace(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let params = PostParams::default();
        let replaced = with_timeout(self.api.replace(&self.name, &params, lease)).await;
        replaced.map(|lease| self.observe(lease))
    }

    fn observe(&self, lease: Lease) -> Lease {
        *self.leader_address.lock() = webhook_address(&lease);
        lease
    }
}

async fn with_timeout<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(lease)) => Ok(lease),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 => LeaseError::NotFound,
            409 => LeaseError::Conflict,
            code => LeaseError::Rejected(code),
        }),
        Ok(Err(_)) | Err(_) => Err(LeaseError::Unreachable),
    }
}

/// The identity of the replica that holds the Lease.
pub(super) fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

fn webhook_address(lease: &Lease) -> Option<SocketAddr> {
    holder(lease)?;
    lease.annotations().get(WEBHOOK_ADDRESS)?.parse().ok()
}
