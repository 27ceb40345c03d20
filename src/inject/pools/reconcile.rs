//! One look at one pool, and what is remembered from look to look.
//!
//! In: the claims, the pool's client. Out: what the template means for each claim, after it was edited and read again where that was needed. Every
//! PATCH is computed from a GET made for it, and only the GET after it tells what came of it. It never waits for a next look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::repair_backoff::RepairBackoff;
use crate::crd::{BindingRef, InjectMode};
use crate::inject::claim::{Claim, Observation, Phase, Want};
use crate::inject::plan::{History, Plan, PoolView, plan};
use crate::inject::pool_owner::ManagedPool;
use crate::inject::template::{EntryState, entry_states};
use crate::metrics::{Metrics, ReadLabels};
use crate::prefect::{Client, DeploymentNamespaces, PrefectError, WorkPool};
use crate::reason::Reason;
use crate::upstream::limiter::Priority;

/// How often one look writes.
const MAX_WRITES: u32 = 2;
/// A template that was read longer ago is read again before it is edited.
const MAX_TEMPLATE_AGE: Duration = Duration::from_secs(1);
/// Deployments are listed at each look with this number.
const LIST_EVERY: u32 = 5;

/// One claim as it was when the look began.
pub(super) struct ClaimSnapshot {
    pub(super) key: BindingRef,
    pub(super) revision: u64,
    pub(super) claim: Claim,
    pub(super) last_observation: Option<Observation>,
}

/// The claims on a pool as they were when the look began.
pub(super) struct PoolSnapshot {
    pub(super) claims: Vec<ClaimSnapshot>,
    /// Grows when claims come, go, or want something else.
    pub(super) version: u64,
    pub(super) owner: Option<ManagedPool>,
    pub(super) interval: Duration,
}

/// What was found.
pub(super) struct Reconciled {
    /// For each claim, in their order.
    pub(super) observations: Vec<Observation>,
    /// What was done to the entry of a Secret.
    pub(super) actions: BTreeMap<String, Reason>,
    /// When a repair that has to wait may be made.
    pub(super) repair_at: Option<Instant>,
}

/// Why nothing was found.
pub(super) struct ReconcileError {
    pub(super) error: PrefectError,
    /// What the template meant before it could not be written.
    pub(super) planned: Option<Vec<Observation>>,
}

impl From<PrefectError> for ReconcileError {
    fn from(error: PrefectError) -> Self {
        let planned = None;
        Self { error, planned }
    }
}

/// A pool and the way to it.
pub(super) struct PoolClient<'a> {
    pub(super) client: Arc<Client>,
    pub(super) pool: &'a str,
    pub(super) priority: Priority,
    pub(super) metrics: &'a Metrics,
}

impl PoolClient<'_> {
    async fn get(&self) -> Result<WorkPool, PrefectError> {
        let result = self.client.work_pool(self.pool, self.priority).await;
        self.count("pool-read", result)
    }

    async fn patch(&self, template: &RawValue) -> Result<(), PrefectError> {
        let result = self.client.patch_work_pool(self.pool, template).await;
        self.count("pool-write", result)
    }

    async fn deployment_namespaces(&self) -> Result<DeploymentNamespaces, PrefectError> {
        let result = self
            .client
            .deployment_namespaces(self.pool, self.priority)
            .await;
        self.count("deployments-read", result)
    }

    fn count<T>(
        &self,
        success: &'static str,
        result: Result<T, PrefectError>,
    ) -> Result<T, PrefectError> {
        let outcome = result
            .as_ref()
            .map_or_else(|error| error.reason().as_str(), |_| success);
        let upstream = "prefect";
        let labels = ReadLabels { upstream, outcome };
        self.metrics.reads.get_or_create(&labels).inc();
        result
    }
}

struct DeploymentListing {
    version: u64,
    age: u32,
    /// `None` if they may not be listed.
    deployments: Option<DeploymentNamespaces>,
}

/// What is remembered from look to look.
#[derive(Default)]
pub(super) struct PoolState {
    history: History,
    /// Secrets that the last PATCH should have brought in, until a GET says whether it did.
    attempted: BTreeSet<String>,
    /// Secrets whose entry was in, or was written, and is to be kept.
    verified: BTreeSet<String>,
    /// For which claims, and which Secrets to keep, the template was as wanted.
    converged: Option<(u64, BTreeSet<String>)>,
    repair_backoff: RepairBackoff,
    deployments: Option<DeploymentListing>,
    /// Whether each look lists deployments.
    pub(super) list_every_time: bool,
}

impl PoolState {
    pub(super) async fn reconcile(
        &mut self,
        client: &PoolClient<'_>,
        snapshot: &PoolSnapshot,
    ) -> Result<Reconciled, ReconcileError> {
        let interval = snapshot.interval;
        let mut actions = BTreeMap::new();
        let mut read_at = Instant::now();
        let mut pool = client.get().await?;
        self.list_deployments(client, snapshot.version).await?;
        let mut plan = self.plan(client.pool, &pool, snapshot, &mut actions);
        if plan.edit.is_some() && read_at.elapsed() > MAX_TEMPLATE_AGE {
            read_at = Instant::now();
            pool = client.get().await?;
            plan = self.plan(client.pool, &pool, snapshot, &mut actions);
        }
        let drifted = plan.edit.is_some() && self.is_drift(&plan, snapshot.version);
        let urgent = self.is_urgent(&plan, snapshot);
        let repair_at = self
            .repair_backoff
            .blocked_until(read_at)
            .filter(|_| drifted && !urgent);
        if plan.edit.is_none() {
            self.repair_backoff.record_unchanged(read_at, interval);
        }
        let mut wrote = false;
        for _ in 0..MAX_WRITES {
            let Some(edit) = plan.edit.as_ref().filter(|_| repair_at.is_none()) else {
                break;
            };
            self.attempted = plan.required.difference(&plan.present).cloned().collect();
            if let Err(error) = client.patch(edit).await {
                // Only an answer that did not come, or a fault, leaves open whether the PATCH was taken.
                use PrefectError::{ServerFault, Transport};
                if !matches!(error, Transport { .. } | ServerFault { .. }) {
                    self.attempted.clear();
                }
                let planned = Some(plan.observations);
                return Err(ReconcileError { error, planned });
            }
            if drifted && !wrote {
                self.repair_backoff.record_repair(Instant::now(), interval);
            }
            wrote = true;
            let before = pool;
            pool = client.get().await?;
            actions.extend(changed_entries(
                &before.base_job_template,
                &pool.base_job_template,
            ));
            plan = self.plan(client.pool, &pool, snapshot, &mut actions);
        }
        if wrote && plan.edit.is_some() && !drifted {
            // Somebody wrote between our PATCH and our GET, each time.
            self.repair_backoff.record_repair(Instant::now(), interval);
        }
        if wrote {
            self.verified.clone_from(&plan.required);
        } else {
            self.verified.extend(plan.present.iter().cloned());
            self.verified
                .retain(|secret| plan.required.contains(secret));
        }
        self.converged = Some((snapshot.version, plan.required.clone()));
        let contested = self.repair_backoff.is_contested() || repair_at.is_some();
        if self.history.contested != contested {
            self.history.contested = contested;
            plan = self.plan(client.pool, &pool, snapshot, &mut actions);
        }
        Ok(Reconciled {
            observations: plan.observations,
            actions,
            repair_at,
        })
    }

    /// The pool is gone: one of the same name would be another.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Lists deployments, if it is time to.
    async fn list_deployments(
        &mut self,
        client: &PoolClient<'_>,
        version: u64,
    ) -> Result<(), PrefectError> {
        if let Some(known) = self.deployments.as_mut()
            && known.version == version
            && known.age + 1 < LIST_EVERY
            && !self.list_every_time
        {
            known.age += 1;
            return Ok(());
        }
        let deployments = match client.deployment_namespaces().await {
            Ok(deployments) => Some(deployments),
            Err(PrefectError::PoolForbidden { .. }) => None,
            Err(error) => return Err(error),
        };
        self.deployments = Some(DeploymentListing {
            version,
            age: 0,
            deployments,
        });
        Ok(())
    }

    /// What to do with the pool as it was just read.
    fn plan(
        &mut self,
        name: &str,
        pool: &WorkPool,
        snapshot: &PoolSnapshot,
        actions: &mut BTreeMap<String, Reason>,
    ) -> Plan {
        let listing = self.deployments.as_ref();
        let view = PoolView {
            pool: name,
            pool_type: &pool.pool_type,
            template: &pool.base_job_template,
            deployments: listing.and_then(|listing| listing.deployments.as_ref()),
            owner: snapshot.owner.as_ref(),
        };
        let claims: Vec<&Claim> = snapshot.claims.iter().map(|item| &item.claim).collect();
        let mut first = plan(&view, &claims, &self.history);
        let mut attempted = std::mem::take(&mut self.attempted);
        attempted.retain(|secret| first.present.contains(secret));
        actions.extend(
            attempted
                .iter()
                .map(|secret| (secret.clone(), Reason::PoolPatched)),
        );
        let landed = attempted
            .into_iter()
            .filter(|secret| self.history.written.insert(secret.clone()))
            .count();
        // What we took out and somebody puts in later is theirs.
        let history = &mut self.history;
        history
            .written
            .retain(|secret| first.required.contains(secret) || first.present.contains(secret));
        if landed > 0 {
            first = plan(&view, &claims, &self.history);
        }
        first
    }

    /// Whether there is something to write that no claim's change explains.
    fn is_drift(&self, plan: &Plan, version: u64) -> bool {
        let settled = self.converged.as_ref();
        settled.is_some_and(|(before, kept)| *before == version && *kept == plan.required)
            || plan
                .required
                .iter()
                .any(|secret| self.verified.contains(secret) && !plan.present.contains(secret))
    }

    /// Whether bindings ask for something new: an entry that was never in, or one to be taken out. That waits for no fight over the others.
    fn is_urgent(&self, plan: &Plan, snapshot: &PoolSnapshot) -> bool {
        let settled = self.converged.as_ref();
        if settled.is_some_and(|(version, _)| *version == snapshot.version) {
            return false;
        }
        let new = plan
            .required
            .iter()
            .any(|secret| !plan.present.contains(secret) && !self.verified.contains(secret));
        let mut claims = snapshot.claims.iter().zip(&plan.observations);
        new || claims.any(|(item, observation)| {
            item.claim.want == Want::Absent && observation.phase == Phase::InProgress
        })
    }
}

/// What became of the entries between two templates.
fn changed_entries(before: &RawValue, after: &RawValue) -> BTreeMap<String, Reason> {
    let (Ok(before), Ok(after)) = (entry_states(before), entry_states(after)) else {
        return BTreeMap::new();
    };
    let removed = before.keys().filter(|secret| !after.contains_key(*secret));
    let removed = removed.map(|secret| (secret.clone(), Reason::PoolReleased));
    let added = after
        .iter()
        .filter(|(secret, state)| before.get(*secret) != Some(*state))
        .filter(|(_, state)| matches!(state, EntryState::Exact { .. }));
    let added = added.map(|(secret, _)| (secret.clone(), Reason::PoolPatched));
    removed.chain(added).collect()
}

/// What was done for a claim.
pub(super) fn action_for(claim: &Claim, actions: &BTreeMap<String, Reason>) -> Option<Reason> {
    let writes = claim.mode == InjectMode::Patch && claim.recorded;
    actions.get(&claim.secret).copied().filter(|_| writes)
}
