//! Which of several replicas leads.
//!
//! In: a Lease of coordination.k8s.io in the operator's namespace. Out: the lease, once it is had ([`LeaderElector::acquire`]); its renewals while
//! work is done ([`LeaderLease::while_held`]), and its return; the address at which the leader takes hooks. Every write carries the resourceVersion that was seen last, so
//! two replicas cannot both succeed. What to do when is decided in [`decide`]; here are the requests, each with a time limit. No replica leads
//! without the lease: when it is lost, the work is dropped, and the process ends with an error, to start again clean.

mod decide;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::crd::{MANAGED_BY, MANAGED_BY_LABEL};
use decide::{GIVE_UP, LASTS, LOOK_EVERY, Mine, Seen, Step, decide};

/// Where the leader takes hooks: an annotation of the Lease.
pub const WEBHOOK_ADDRESS: &str = "doppler-prefect.dev/webhook-address";
/// Time limit of a request about the lease, well below [`decide::RENEW_EVERY`].
const LIMIT: Duration = Duration::from_secs(3);
/// Wait after a renewal that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// The lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the lease was lost: another replica holds it, or the API server did not take a renewal in {} s; this one ends, to start again", GIVE_UP.as_secs()
)]
pub struct LeaseLost;

/// Why a request about the lease failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Another client was faster.
    #[error("it has changed meanwhile")]
    Conflict,
    /// There is none.
    #[error("there is none")]
    NotFound,
    /// Refused.
    #[error("status {0}")]
    Refused(u16),
    /// No answer.
    #[error("the API server could not be reached")]
    Unreachable,
}

/// The Lease object. Clones share what was seen of it.
#[derive(Clone)]
pub struct LeaseClient {
    api: Api<Lease>,
    name: String,
    leader: Arc<Mutex<Option<SocketAddr>>>,
}

impl LeaseClient {
    /// The lease of this name.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            leader: Arc::default(),
        }
    }

    /// Where the leader takes hooks, as it was seen last.
    #[must_use]
    pub fn leader_address(&self) -> Option<SocketAddr> {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the leader takes hooks, by a look made now.
    pub async fn fetch_leader_address(&self) -> Option<SocketAddr> {
        // Whatever failed, what was seen last is as good as anything.
        let _ = self.look().await;
        self.leader_address()
    }

    async fn look(&self) -> Result<Option<Lease>, LeaseError> {
        let found = within(self.api.get(&self.name)).await;
        match found {
            Ok(lease) => Ok(Some(self.note(lease))),
            Err(LeaseError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        within(self.api.create(&PostParams::default(), lease))
            .await
            .map(|lease| self.note(lease))
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        within(self.api.replace(&self.name, &PostParams::default(), lease))
            .await
            .map(|lease| self.note(lease))
    }

    fn note(&self, lease: Lease) -> Lease {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = hooks_address(&lease);
        lease
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
    match timeout(LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 => LeaseError::NotFound,
            409 => LeaseError::Conflict,
            code => LeaseError::Refused(code),
        }),
        Ok(Err(_)) | Err(_) => Err(LeaseError::Unreachable),
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

fn hooks_address(lease: &Lease) -> Option<SocketAddr> {
    holder(lease)?;
    lease.annotations().get(WEBHOOK_ADDRESS)?.parse().ok()
}

fn seen(before: Option<&Seen>, lease: &Lease) -> Seen {
    let lasts = lease.spec.as_ref().and_then(|it| it.lease_duration_seconds);
    let now = Seen {
        holder: holder(lease).map(ToOwned::to_owned),
        version: lease.resource_version().unwrap_or_default(),
        lasts: Duration::from_secs(lasts.and_then(|it| it.try_into().ok()).unwrap_or(0)),
        since: Instant::now(),
    };
    Seen::or_newer(before, now)
}

/// A replica that would lead.
pub struct LeaderElector {
    leases: LeaseClient,
    identity: String,
    hooks: Option<SocketAddr>,
}

impl LeaderElector {
    /// A replica under this name, made unique, and the address at which it would take hooks as the leader.
    #[must_use]
    pub fn new(leases: LeaseClient, name: &str, hooks: Option<SocketAddr>) -> Self {
        Self {
            leases,
            identity: format!("{name}_{:016x}", rand::random::<u64>()),
            hooks,
        }
    }

    /// Waits until this replica holds the lease. `standing_by` is called at each look that shows that another one does.
    pub async fn acquire(self, standing_by: impl Fn()) -> LeaderLease {
        let mut last: Option<Seen> = None;
        let mut logged = None;
        loop {
            let (now, lease) = match self.leases.look().await {
                Ok(lease) => (Instant::now(), lease),
                Err(error) => {
                    if logged.replace(error) != Some(error) {
                        warn!(lease = self.leases.name, %error, "the lease cannot be read; it is tried again");
                    }
                    sleep(LOOK_EVERY).await;
                    continue;
                }
            };
            last = lease.as_ref().map(|lease| seen(last.as_ref(), lease));
            let mine = Mine {
                identity: &self.identity,
                renewed: None,
            };
            let sent = Instant::now();
            let taken = match decide(now, last.as_ref(), &mine) {
                Step::Create => self.leases.create(&self.claim(None)).await,
                Step::Take => self.leases.replace(&self.claim(lease.as_ref())).await,
                Step::Wait(rest) => {
                    standing_by();
                    sleep(rest).await;
                    continue;
                }
                Step::Renew | Step::Lose => continue,
            };
            match taken {
                Ok(lease) => {
                    info!(
                        lease = self.leases.name,
                        identity = self.identity,
                        "leading"
                    );
                    return LeaderLease {
                        candidate: self,
                        lease: Some(lease),
                        renewed: sent,
                    };
                }
                Err(LeaseError::Conflict) => debug!("another replica took the lease first"),
                Err(error) if logged.replace(error) != Some(error) => {
                    warn!(lease = self.leases.name, %error, "the lease cannot be written; it is tried again");
                }
                Err(_) => {}
            }
            sleep(AGAIN).await;
        }
    }

    /// The lease with this replica as its holder. What others wrote into it stays.
    fn claim(&self, before: Option<&Lease>) -> Lease {
        let mut lease = before.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.leases.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let is_mine = holder(&lease) == Some(&self.identity);
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if !is_mine {
            spec.acquire_time = Some(now.clone());
            let transitions = spec.lease_transitions.unwrap_or(0);
            spec.lease_transitions = Some(transitions.saturating_add(i32::from(before.is_some())));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = LASTS.as_secs().try_into().ok();
        spec.renew_time = Some(now);
        lease
            .labels_mut()
            .insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
        let annotations = lease.annotations_mut();
        match self.hooks {
            Some(address) => {
                annotations.insert(WEBHOOK_ADDRESS.to_owned(), address.to_string());
            }
            None => drop(annotations.remove(WEBHOOK_ADDRESS)),
        }
        lease
    }
}

/// The lease is this replica's.
pub struct LeaderLease {
    candidate: LeaderElector,
    lease: Option<Lease>,
    renewed: Instant,
}

impl LeaderLease {
    /// Does `work` and renews the lease meanwhile.
    ///
    /// # Errors
    /// If the lease is lost: the work has then been dropped.
    pub async fn run_while_held<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, LeaseLost> {
        tokio::select! {
            done = work => Ok(done),
            lost = self.renew() => Err(lost),
        }
    }

    /// Renews until the lease is lost.
    async fn renew(&mut self) -> LeaseLost {
        let mut last = self.lease.as_ref().map(|lease| seen(None, lease));
        loop {
            let mine = Mine {
                identity: &self.candidate.identity,
                renewed: Some(self.renewed),
            };
            let sent = Instant::now();
            let claim = self.candidate.claim(self.lease.as_ref());
            let leases = &self.candidate.leases;
            // A request that is still under way when it is time to give up does not count.
            let rest = (self.renewed + GIVE_UP).saturating_duration_since(sent);
            let renewal = match decide(sent, last.as_ref(), &mine) {
                Step::Create => timeout(rest, leases.create(&claim)).await,
                Step::Renew | Step::Take => timeout(rest, leases.replace(&claim)).await,
                Step::Wait(rest) => {
                    sleep(rest).await;
                    continue;
                }
                Step::Lose => return LeaseLost,
            };
            let looked = match renewal {
                Ok(Ok(lease)) => {
                    self.renewed = sent;
                    Some(Some(lease))
                }
                // Another client changed it, or an answer to an earlier renewal was lost: its holder decides.
                Ok(Err(LeaseError::Conflict | LeaseError::NotFound)) => {
                    match timeout(rest, leases.look()).await {
                        Ok(Ok(looked)) => Some(looked),
                        Ok(Err(_)) | Err(_) => None,
                    }
                }
                Ok(Err(error)) => {
                    warn!(%error, "the lease could not be renewed");
                    None
                }
                Err(_) => None,
            };
            match looked {
                Some(lease) => {
                    last = lease.as_ref().map(|lease| seen(last.as_ref(), lease));
                    self.lease = lease;
                }
                None => sleep(AGAIN.min(rest)).await,
            }
        }
    }

    /// Gives the lease back: the next takes over at once and need not wait until it is over.
    pub async fn release(self) {
        let leases = &self.candidate.leases;
        let Some(lease) = self.lease else { return };
        let mut given = leases.replace(&without_holder(lease)).await;
        // A renewal was under way when the work ended.
        if given == Err(LeaseError::Conflict)
            && let Ok(Some(lease)) = leases.look().await
            && holder(&lease) == Some(&self.candidate.identity)
        {
            given = leases.replace(&without_holder(lease)).await;
        }
        match given {
            Ok(_) => info!("the lease is given back"),
            Err(error) => {
                warn!(%error, "the lease could not be given back; the next takes over when it is over");
            }
        }
    }
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
