//! One reconcile of one pool, and what the operator remembers between reconciles.
//!
//! Input: the claims, and the pool's client.
//! Output: what the template means for each claim, after the operator wrote it and read it again.
//! Invariants: a fresh GET precedes every PATCH, also one that has to wait for its turn, and only
//! the GET after it shows its result. Never waits for the next reconcile.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::deployment_listing::DeploymentListing;
use super::pool_client::PoolClient;
use super::repair_backoff::PoolRepairBackoff;
use super::snapshot::PoolSnapshot;
use crate::crd::InjectMode;
use crate::inject::claim::{Claim, Observation, Phase, Want};
use crate::inject::plan::{History, Plan, PoolView, destination_variables, plan};
use crate::inject::template::{EntryKey, EntryState, entry_states};
use crate::prefect::{PrefectError, WorkPool};
use crate::reason::Reason;

/// How often one reconcile writes at most.
const MAX_WRITES: u32 = 2;
/// How long a template that the server refused is not sent again.
const REFUSAL_HOLDS: Duration = Duration::from_mins(10);

/// The result of a reconcile.
pub(super) struct Reconciled {
    /// For each claim, in their order.
    pub(super) observations: Vec<Observation>,
    /// By entry, what was done to it.
    pub(super) actions: BTreeMap<EntryKey, Reason>,
    /// When the repair backoff allows the next repair.
    pub(super) repair_at: Option<Instant>,
    /// When the pool was read: what was observed is no older.
    pub(super) read_at: Instant,
}

/// Why a reconcile failed.
pub(super) struct ReconcileError {
    pub(super) error: PrefectError,
    /// The observations of the plan that could not be written.
    pub(super) planned: Option<Vec<Observation>>,
}

impl From<PrefectError> for ReconcileError {
    fn from(error: PrefectError) -> Self {
        let planned = None;
        Self { error, planned }
    }
}

/// A pool as it was last read, and what the plan makes of it.
struct Look {
    pool: WorkPool,
    plan: Plan,
}

/// A template that the server refused to update.
struct RefusedTemplate {
    hash: u64,
    at: Instant,
    error: PrefectError,
}

/// What the operator remembers of a pool between reconciles.
#[derive(Default)]
pub(super) struct PoolState {
    history: History,
    /// Secrets that the last PATCH should have added, until a GET shows whether it did.
    attempted: BTreeSet<EntryKey>,
    /// Required Secrets whose entry a GET showed, or a PATCH wrote.
    verified: BTreeSet<EntryKey>,
    /// The version of the claims, and the required Secrets, for which the template was as wanted.
    converged: Option<(u64, BTreeSet<EntryKey>)>,
    repair_backoff: PoolRepairBackoff,
    /// The last template that the server refused to update.
    refused: Option<RefusedTemplate>,
    pub(super) deployments: DeploymentListing,
}

impl PoolState {
    /// Reads the pool, writes it if the claims ask for it, and reads it again.
    ///
    /// # Errors
    /// If a request fails. The error carries the plan if only the write failed.
    pub(super) async fn reconcile(
        &mut self,
        client: &PoolClient<'_>,
        snapshot: &PoolSnapshot,
    ) -> Result<Reconciled, ReconcileError> {
        let interval = snapshot.interval;
        self.history.elsewhere.clone_from(&snapshot.elsewhere);
        self.deployments.start_reconcile();
        let mut actions = BTreeMap::new();
        let pool = self.read(client, snapshot).await?;
        let plan = self.plan(client.pool, &pool, snapshot, &mut actions);
        let read_at = pool.read_at;
        let mut look = Look { pool, plan };
        let drifted = look.plan.edit.is_some() && self.is_drift(&look.plan, snapshot.version);
        let urgent = self.is_urgent(&look.plan, snapshot);
        let repair_at = self
            .repair_backoff
            .blocked_until(read_at)
            .filter(|_| drifted && !urgent);
        if look.plan.edit.is_none() {
            self.repair_backoff.record_unchanged(read_at, interval);
        }
        let mut wrote = false;
        for _ in 0..MAX_WRITES {
            if look.plan.edit.is_none() || repair_at.is_some() {
                break;
            }
            let before = self
                .write(client, snapshot, &mut look, &mut actions)
                .await?;
            if before.is_some() && drifted && !wrote {
                self.repair_backoff.record_repair(Instant::now(), interval);
            }
            wrote |= before.is_some();
            look.pool = self.read(client, snapshot).await?;
            if let Some(before) = before {
                actions.extend(changed_entries(&before, &look.pool.base_job_template));
            }
            look.plan = self.plan(client.pool, &look.pool, snapshot, &mut actions);
        }
        let Look { pool, mut plan } = look;
        if wrote && plan.edit.is_some() && !drifted {
            // Another writer wrote between our PATCH and our GET, each time.
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
            read_at: pool.read_at,
        })
    }

    /// Writes the planned template. If the PATCH has to wait for its turn, the pool is read again
    /// and planned again first. The result is the template that was replaced; none if nothing was
    /// written, because the pool has changed meanwhile.
    async fn write(
        &mut self,
        client: &PoolClient<'_>,
        snapshot: &PoolSnapshot,
        look: &mut Look,
        actions: &mut BTreeMap<EntryKey, Reason>,
    ) -> Result<Option<Box<RawValue>>, ReconcileError> {
        let Look { pool, plan } = look;
        let result = match self.start_write(pool, plan) {
            Ok(None) => Ok(false),
            Ok(Some(template)) => {
                let variables = destination_variables(&pool.base_job_template);
                let replan = |pool: &WorkPool| {
                    // Other deployments would have to be listed.
                    if destination_variables(&pool.base_job_template) != variables {
                        return Ok(None);
                    }
                    *plan = self.plan(client.pool, pool, snapshot, actions);
                    self.start_write(pool, plan)
                };
                client.edit(pool, template, replan).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(written) => Ok(written.then(|| pool.base_job_template.clone())),
            Err(error) => {
                // Only a missing answer or a server fault leaves open whether the PATCH took effect.
                use PrefectError::{ServerFault, Transport};
                if !matches!(error, Transport { .. } | ServerFault { .. }) {
                    self.attempted.clear();
                }
                self.remember_refusal(pool, &error);
                let planned = Some(std::mem::take(&mut plan.observations));
                Err(ReconcileError { error, planned })
            }
        }
    }

    /// The template to write, if the plan has one and the server did not refuse the present one.
    fn start_write(
        &mut self,
        pool: &WorkPool,
        plan: &Plan,
    ) -> Result<Option<Box<RawValue>>, PrefectError> {
        let edit = plan.edit.clone();
        if edit.is_some() {
            if let Some(error) = self.refusal(pool) {
                return Err(error);
            }
            self.attempted = plan.required.difference(&plan.present).cloned().collect();
        }
        Ok(edit)
    }

    /// Reads the pool, and the deployments that set a variable which its template uses.
    async fn read(
        &mut self,
        client: &PoolClient<'_>,
        snapshot: &PoolSnapshot,
    ) -> Result<WorkPool, PrefectError> {
        let pool = client.get().await?;
        let variables = destination_variables(&pool.base_job_template);
        self.deployments
            .refresh(client, snapshot.version, variables)
            .await?;
        Ok(pool)
    }

    /// Why a PATCH of this template would fail: the server has refused it before. It is tried again
    /// after a while, because the server may be another version then.
    fn refusal(&self, pool: &WorkPool) -> Option<PrefectError> {
        let refused = self.refused.as_ref()?;
        let is_same = refused.hash == hash_of(&pool.base_job_template);
        (is_same && refused.at.elapsed() < REFUSAL_HOLDS).then(|| refused.error.clone())
    }

    fn remember_refusal(&mut self, pool: &WorkPool, error: &PrefectError) {
        let is_refusal = matches!(error, PrefectError::TemplateRefused { .. });
        self.refused = is_refusal.then(|| RefusedTemplate {
            hash: hash_of(&pool.base_job_template),
            at: Instant::now(),
            error: error.clone(),
        });
    }

    /// Forgets the pool, which is missing. A later pool of the same name is another one.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Plans for the pool as it was just read.
    fn plan(
        &mut self,
        name: &str,
        pool: &WorkPool,
        snapshot: &PoolSnapshot,
        actions: &mut BTreeMap<EntryKey, Reason>,
    ) -> Plan {
        let view = PoolView {
            pool: name,
            pool_type: &pool.pool_type,
            template: &pool.base_job_template,
            deployments: self.deployments.overrides(),
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
        // An entry that we removed and another writer adds later is theirs.
        let history = &mut self.history;
        history
            .written
            .retain(|secret| first.required.contains(secret) || first.present.contains(secret));
        if landed > 0 {
            first = plan(&view, &claims, &self.history);
        }
        first
    }

    /// Whether no change of a claim explains the planned write.
    fn is_drift(&self, plan: &Plan, version: u64) -> bool {
        let converged = self.converged.as_ref();
        converged.is_some_and(|(before, required)| *before == version && *required == plan.required)
            || plan
                .required
                .iter()
                .any(|secret| self.verified.contains(secret) && !plan.present.contains(secret))
    }

    /// Whether a binding wants something new: an entry that the pool never had, or a removal. Such
    /// a write does not wait for the repair backoff of other entries.
    fn is_urgent(&self, plan: &Plan, snapshot: &PoolSnapshot) -> bool {
        let converged = self.converged.as_ref();
        if converged.is_some_and(|(version, _)| *version == snapshot.version) {
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

fn hash_of(template: &RawValue) -> u64 {
    let mut hasher = DefaultHasher::new();
    template.get().hash(&mut hasher);
    hasher.finish()
}

/// How the entries differ between two templates.
fn changed_entries(before: &RawValue, after: &RawValue) -> BTreeMap<EntryKey, Reason> {
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

/// What was done for a claim, if its binding writes.
pub(super) fn action_for(claim: &Claim, actions: &BTreeMap<EntryKey, Reason>) -> Option<Reason> {
    let writes = claim.mode == InjectMode::Patch && claim.recorded;
    actions.get(&claim.key()).copied().filter(|_| writes)
}
