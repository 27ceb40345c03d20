//! Leader election: one of several replicas works, the others are on standby.
//!
//! Input: a Lease in the operator's namespace.
//! Output: a [`LeaderLease`] once this replica holds it ([`LeaderElector::acquire`]); its renewals while
//! the work runs ([`LeaderLease::run_while_held`]), and its release.
//! Invariants: no replica works without the Lease. When a replica loses it, the work is dropped and
//! the process ends with an error, so that it starts with an empty state. `decide` says what to do
//! next; `lease_client` sends the requests.

mod decide;
mod lease_client;

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{ResourceExt, api::ObjectMeta};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

pub use lease_client::{LeaseClient, LeaseError, WEBHOOK_ADDRESS};

use crate::crd::{MANAGED_BY, MANAGED_BY_LABEL};
use decide::{
    Candidate, LEASE_DURATION, ObservedLease, RENEW_DEADLINE, RETRY_PERIOD, Step, decide,
};
use lease_client::holder;

/// Delay after a write that failed.
const WRITE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the lease was lost: another replica holds it, or no renewal succeeded within {} s; this replica exits, so that Kubernetes starts it again", RENEW_DEADLINE.as_secs()
)]
pub struct LeaseLost;

/// A replica that competes for the lease.
pub struct LeaderElector {
    leases: LeaseClient,
    identity: String,
    webhook_address: Option<SocketAddr>,
}

impl LeaderElector {
    /// A replica of this name. Its identity has a random suffix, so that a restarted process is
    /// another candidate. As the leader it receives webhooks at `webhook_address`.
    #[must_use]
    pub fn new(leases: LeaseClient, name: &str, webhook_address: Option<SocketAddr>) -> Self {
        Self {
            leases,
            identity: format!("{name}_{:016x}", rand::random::<u64>()),
            webhook_address,
        }
    }

    /// Waits until this replica holds the lease. `on_standby` is called after each read that shows
    /// another holder.
    pub async fn acquire(self, on_standby: impl Fn()) -> LeaderLease {
        let mut observed: Option<ObservedLease> = None;
        let mut logged = None;
        loop {
            let (now, lease) = match self.leases.get().await {
                Ok(lease) => (Instant::now(), lease),
                Err(error) => {
                    if logged.replace(error) != Some(error) {
                        warn!(lease = self.leases.name(), %error, "cannot read the lease; retrying");
                    }
                    sleep(RETRY_PERIOD).await;
                    continue;
                }
            };
            let last = observed.take();
            observed = lease.as_ref().map(|lease| observe(last.as_ref(), lease));
            let candidate = Candidate {
                identity: &self.identity,
                renewed_at: None,
            };
            let sent_at = Instant::now();
            let written = match decide(now, observed.as_ref(), &candidate) {
                Step::Create => self.leases.create(&self.claim(None)).await,
                Step::Acquire => self.leases.replace(&self.claim(lease.as_ref())).await,
                Step::Wait(delay) => {
                    on_standby();
                    sleep(delay).await;
                    continue;
                }
                Step::Renew | Step::Resign => continue,
            };
            match written {
                Ok(lease) => {
                    info!(
                        lease = self.leases.name(),
                        identity = self.identity,
                        "acquired the lease; this replica is the leader"
                    );
                    return LeaderLease {
                        elector: self,
                        lease: Some(lease),
                        renewed_at: sent_at,
                    };
                }
                Err(LeaseError::Conflict) => debug!("another replica acquired the lease first"),
                Err(error) if logged.replace(error) != Some(error) => {
                    warn!(lease = self.leases.name(), %error, "cannot write the lease; retrying");
                }
                Err(_) => {}
            }
            sleep(WRITE_RETRY_DELAY).await;
        }
    }

    /// The Lease with this replica as its holder. Labels and annotations of other clients stay.
    fn claim(&self, current: Option<&Lease>) -> Lease {
        let mut lease = current.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.leases.name().to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let is_holder = holder(&lease) == Some(&self.identity);
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if !is_holder {
            spec.acquire_time = Some(now.clone());
            let transitions = spec.lease_transitions.unwrap_or(0);
            spec.lease_transitions = Some(transitions.saturating_add(i32::from(current.is_some())));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = LEASE_DURATION.as_secs().try_into().ok();
        spec.renew_time = Some(now);
        lease
            .labels_mut()
            .insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
        let annotations = lease.annotations_mut();
        match self.webhook_address {
            Some(address) => {
                annotations.insert(WEBHOOK_ADDRESS.to_owned(), address.to_string());
            }
            None => drop(annotations.remove(WEBHOOK_ADDRESS)),
        }
        lease
    }
}

/// The lease while this replica holds it.
pub struct LeaderLease {
    elector: LeaderElector,
    lease: Option<Lease>,
    renewed_at: Instant,
}

impl LeaderLease {
    /// Runs `work` and renews the lease meanwhile.
    ///
    /// # Errors
    /// If the lease is lost. The work has then been dropped.
    pub async fn run_while_held<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, LeaseLost> {
        tokio::select! {
            output = work => Ok(output),
            lost = self.renew() => Err(lost),
        }
    }

    /// Renews the lease until it is lost.
    async fn renew(&mut self) -> LeaseLost {
        let mut observed = self.lease.as_ref().map(|lease| observe(None, lease));
        loop {
            let candidate = Candidate {
                identity: &self.elector.identity,
                renewed_at: Some(self.renewed_at),
            };
            let sent_at = Instant::now();
            let claim = self.elector.claim(self.lease.as_ref());
            let leases = &self.elector.leases;
            // A request that is still in flight at the deadline does not count.
            let time_left = (self.renewed_at + RENEW_DEADLINE).saturating_duration_since(sent_at);
            let renewal = match decide(sent_at, observed.as_ref(), &candidate) {
                Step::Create => timeout(time_left, leases.create(&claim)).await,
                Step::Renew | Step::Acquire => timeout(time_left, leases.replace(&claim)).await,
                Step::Wait(delay) => {
                    sleep(delay).await;
                    continue;
                }
                Step::Resign => return LeaseLost,
            };
            let current = match renewal {
                Ok(Ok(lease)) => {
                    self.renewed_at = sent_at;
                    Some(Some(lease))
                }
                // Another client changed it, or the answer to an earlier renewal was lost: the
                // holder in the Lease decides.
                Ok(Err(LeaseError::Conflict | LeaseError::NotFound)) => {
                    match timeout(time_left, leases.get()).await {
                        Ok(Ok(lease)) => Some(lease),
                        Ok(Err(_)) | Err(_) => None,
                    }
                }
                Ok(Err(error)) => {
                    warn!(%error, "cannot renew the lease; retrying");
                    None
                }
                Err(_) => None,
            };
            match current {
                Some(lease) => {
                    let last = observed.take();
                    observed = lease.as_ref().map(|lease| observe(last.as_ref(), lease));
                    self.lease = lease;
                }
                None => sleep(WRITE_RETRY_DELAY.min(time_left)).await,
            }
        }
    }

    /// Releases the lease, so that another replica acquires it at once instead of waiting until it
    /// expires.
    pub async fn release(self) {
        let leases = &self.elector.leases;
        let Some(lease) = self.lease else { return };
        let mut released = leases.replace(&without_holder(lease)).await;
        // A renewal was in flight when the work ended.
        if released == Err(LeaseError::Conflict)
            && let Ok(Some(lease)) = leases.get().await
            && holder(&lease) == Some(&self.elector.identity)
        {
            released = leases.replace(&without_holder(lease)).await;
        }
        match released {
            Ok(_) => info!("released the lease"),
            Err(error) => {
                warn!(%error, "cannot release the lease; another replica acquires it when it expires");
            }
        }
    }
}

/// The state of the Lease, as `decide` needs it.
fn observe(last: Option<&ObservedLease>, lease: &Lease) -> ObservedLease {
    let duration = lease.spec.as_ref();
    let duration = duration.and_then(|spec| spec.lease_duration_seconds);
    let duration = duration.and_then(|seconds| seconds.try_into().ok());
    let observed = ObservedLease {
        holder: holder(lease).map(ToOwned::to_owned),
        version: lease.resource_version().unwrap_or_default(),
        duration: Duration::from_secs(duration.unwrap_or(0)),
        observed_at: Instant::now(),
    };
    observed.or_first_seen(last)
}

fn without_holder(mut lease: Lease) -> Lease {
    lease.annotations_mut().remove(WEBHOOK_ADDRESS);
    if let Some(spec) = lease.spec.as_mut() {
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
    }
    lease
}

#[cfg(test)]
mod tests;
