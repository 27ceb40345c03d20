//! How a Secret gets into job pods: the seam behind which work pools and the admission policy for Jobs
//! live. No other module of the controller knows what they are.
//!
//! Input: a pass, its resolution, the desired Secret, and the pods that do not start because of it.
//! Output: claims on the pools of the spec, the entries to record, the Secret for the admission
//! policy, the condition `Injected`, and `status.workPools`.
//! Invariants: an entry is observed, recorded on the Secret, guarded by the finalizer, and then
//! injected. In reverse, the entry is removed, the workers reload the template, the Secret is deleted,
//! and then the finalizer.

mod injected_condition;
mod jobs;
mod jobs_label;
mod pending_removal;
mod pool_claims;
mod recorded_connections;
mod troubled_pods;
mod withdrawal;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{entry_record, pass::Pass, resolution::Resolution, run_pods::troubles::TroubledPod};
use crate::{
    crd::{InjectMode, WorkPoolSpec, WorkPoolStatus},
    failure::Failure,
    inject::template::EntryKey,
    prefect::Connection,
    reason::Reason,
    secret::Desired,
    status::{ConditionUpdate, INJECTED},
};
use injected_condition::{InjectionState, injected_condition};
use jobs::JobInjection;
use pool_claims::{ObservedClaim, PoolClaims, declare_claims, prune_claims};
use withdrawal::withdraw_stale_entries;

pub use jobs::{holds_secret, job_files, job_secret, recorded_job_files, recorded_job_secret};
pub use pending_removal::PendingRemoval;
pub use recorded_connections::connect_recorded;
pub use withdrawal::{Withdrawal, remaining_wait, report_removed, withdraw_all};

/// How long a new Secret waits for the first read of its pools, so that it is written once, with the
/// right owner.
pub const FIRST_READ_WAIT: Duration = Duration::from_secs(3);
/// How long the status waits for an injection in progress. A pool waits for the Secrets of all
/// bindings that arrive together.
pub const PROGRESS_WAIT: Duration = Duration::from_secs(30);

/// Deployments that the status lists for one pool.
const MAX_USED_BY: usize = 20;

/// The injection of a binding's Secret, in one pass.
pub struct Injection {
    connection: Option<Arc<Connection>>,
    key_names: Arc<BTreeSet<String>>,
    claims: PoolClaims,
    jobs: JobInjection,
    /// Whether the binding has too many entries to record another one.
    is_full: bool,
    /// Why the pools are not read at all.
    unread: Option<Failure>,
    /// What the binding no longer offers, while deployments choose it.
    in_use: Vec<PendingRemoval>,
    /// Whether the Secret sets `PATH`.
    sets_path: bool,
    /// The pods that do not start because of the Secret, and why.
    pods: Vec<(TroubledPod, String)>,
}

impl Injection {
    /// Claims the pools that the spec names, as far as the recorded entries and the Secret allow it.
    /// Marks the entries that are to be recorded as required.
    #[must_use]
    pub fn observe(
        pass: &mut Pass<'_>,
        resolution: &Resolution,
        desired: Option<&Desired>,
    ) -> Self {
        let connection = resolution.connection.clone();
        let key_names = key_names(pass, desired);
        let mut claims = declare_claims(pass, connection.as_ref(), &key_names);
        let recorded = &pass.entries.recorded.entries;
        let all: BTreeSet<_> = recorded.union(&claims.to_record).cloned().collect();
        let is_full = !entry_record::fit(&all);
        if is_full {
            claims.refuse_to_record();
        } else {
            pass.entries.required = all;
        }
        let failed = resolution.failure.as_ref();
        let unread = failed
            .filter(|failed| connection.is_none() && failed.persistent)
            .map(|failed| failed.failure.clone());
        Self {
            connection,
            key_names,
            claims,
            jobs: JobInjection::default(),
            is_full,
            unread,
            in_use: Vec::new(),
            sets_path: desired.is_some_and(|desired| desired.data.contains_key("PATH")),
            pods: Vec::new(),
        }
    }

    /// Whether a new Secret should wait for the first read of its pools.
    #[must_use]
    pub fn awaits_first_read(&self, pass: &Pass<'_>) -> bool {
        let pools = &pass.binding.spec.inject.work_pools;
        if !pools.iter().any(|pool| pool.mode() == InjectMode::Patch)
            || !self.claims.awaits_first_read()
        {
            return false;
        }
        let since =
            pass.update_state(|state| *state.waiting_since.get_or_insert_with(Instant::now));
        since.elapsed() < FIRST_READ_WAIT
    }

    /// Removes the entries that the spec no longer asks for, and unmarks those that are gone.
    pub fn withdraw_stale(&mut self, pass: &mut Pass<'_>) {
        self.in_use = withdraw_stale_entries(pass, self.connection.as_ref(), &self.claims);
    }

    /// Claims the recorded entries once the Secret exists, drops other claims, and reports what the
    /// pools did. Prepares the binding for the admission policy.
    pub async fn ensure(&mut self, pass: &mut Pass<'_>) {
        self.jobs = JobInjection::ensure(pass).await;
        if pass.secret_exists() {
            self.claims = declare_claims(pass, self.connection.as_ref(), &self.key_names);
            if self.is_full {
                self.claims.refuse_to_record();
            }
        }
        prune_claims(pass, self.connection.as_ref());
        self.report_events(pass);
        self.pods = troubled_pods::find(pass, self.sets_path);
        troubled_pods::report(pass, &self.pods);
    }

    /// Whether a pool will answer soon. Then its answer enqueues the binding, and the status waits
    /// for it, up to [`PROGRESS_WAIT`].
    #[must_use]
    pub fn is_in_progress(&self, pass: &Pass<'_>) -> bool {
        let in_progress = self.claims.awaits_first_read() || self.claims.in_progress();
        pass.update_state(|state| {
            if !in_progress {
                state.waiting_since = None;
                return false;
            }
            let since = state.waiting_since.get_or_insert_with(Instant::now);
            since.elapsed() < PROGRESS_WAIT
        })
    }

    /// The condition `Injected`, and the pools of the status.
    #[must_use]
    pub fn condition(&self, pass: &Pass<'_>) -> (Option<ConditionUpdate>, Vec<WorkPoolStatus>) {
        let pools = pass.last_status().map(|status| &*status.work_pools);
        let secret = pass.binding.secret_name();
        let in_use = self.in_use.first();
        let state = InjectionState {
            in_use: in_use
                .map(|pending| Failure::new(Reason::PoolConfigInUse, pending.in_use_message(pass))),
            unread: self.unread.as_ref(),
            unguarded: pass.finalizer_failure.as_ref(),
            missing_secret: (!pass.secret_exists()).then_some(secret),
            was_true: pass.was_true(INJECTED),
            grace_period: pass.grace_period(),
        };
        let before = pools.unwrap_or_default();
        let (condition, mut pools) = injected_condition(&self.claims, before, &state);
        for (name, used_by) in self.in_use.iter().filter_map(PendingRemoval::in_use) {
            add_used_by(&mut pools, name, used_by);
        }
        let jobs = self.jobs.condition(pass, pass.was_true(INJECTED));
        let condition = jobs::join(condition, jobs);
        (troubled_pods::join(condition, &self.pods), pools)
    }

    /// Reports what the workers of the pools did since the last pass.
    fn report_events(&self, pass: &Pass<'_>) {
        for ObservedClaim {
            pool,
            is_mount,
            observation,
        } in &self.claims.observations
        {
            let event = observation
                .as_ref()
                .and_then(|observation| observation.event);
            let Some((number, reason)) = event else {
                continue;
            };
            let is_new = pass.update_state(|state| {
                let key = (pool.clone(), *is_mount);
                state.pool_events.insert(key, number) != Some(number)
            });
            if is_new {
                let secret = pass.binding.secret_name();
                let mut specs = pass.binding.spec.inject.work_pools.iter();
                let spec = specs.find(|spec| spec.name == *pool);
                let entry = EntryKey {
                    secret: secret.to_owned(),
                    variable: spec.and_then(WorkPoolSpec::variable).map(str::to_owned),
                    mount: *is_mount,
                };
                let message = match (reason, &entry.variable) {
                    (Reason::PoolPatched, None) => format!(
                        "the operator added {} to the template of work pool {pool}",
                        entry.description()
                    ),
                    (Reason::PoolPatched, Some(variable)) => format!(
                        "runs of work pool {pool} can choose Secret {secret} in variable {variable}"
                    ),
                    _ => withdrawal::removed_message(&entry, pool),
                };
                pass.emit(reason, &message);
            }
        }
    }
}

/// Adds the deployments that choose a Secret which the binding no longer offers.
fn add_used_by(pools: &mut Vec<WorkPoolStatus>, name: &str, used_by: &[String]) {
    let at = pools.iter().position(|pool| pool.name == name);
    let at = at.unwrap_or_else(|| {
        pools.push(WorkPoolStatus {
            name: name.to_owned(),
            ..WorkPoolStatus::default()
        });
        pools.len() - 1
    });
    let listed = &mut pools[at].used_by;
    listed.extend(used_by.iter().cloned());
    listed.sort();
    listed.dedup();
    listed.truncate(MAX_USED_BY);
}

/// Drops all claims of a suspended binding. Returns the condition and the pools, which stay as they
/// are.
#[must_use]
pub fn suspend(pass: &Pass<'_>) -> (Option<ConditionUpdate>, Vec<WorkPoolStatus>) {
    pass.context.pools.remove_binding(pass.key);
    let Some(status) = pass.last_status() else {
        return (None, Vec::new());
    };
    let has_condition = status.conditions.iter().any(|c| c.type_ == INJECTED);
    let condition = has_condition.then_some(ConditionUpdate::Unchanged);
    (condition, status.work_pools.clone())
}

/// The names of the Secret's keys, as a set that all passes share. Without a desired Secret, those
/// of the last one.
fn key_names(pass: &Pass<'_>, desired: Option<&Desired>) -> Arc<BTreeSet<String>> {
    if pass.binding.spec.inject.work_pools.is_empty() {
        // Only pools compare the names.
        return Arc::default();
    }
    let last = pass.read_state(|state| state.key_names.clone());
    let last = last.unwrap_or_default();
    let Some(desired) = desired else {
        return last;
    };
    if desired.data.keys().eq(last.iter()) {
        return last;
    }
    let names: Arc<BTreeSet<String>> = Arc::new(desired.data.keys().cloned().collect());
    pass.update_state(|state| state.key_names = Some(Arc::clone(&names)));
    names
}
