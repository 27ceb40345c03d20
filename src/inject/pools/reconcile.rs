//! One look at one pool, and what is remembered from look to look.
//!
//! In: the claims, the pool's client. Out: what the template means for each claim, after it was edited and read again where that was needed. Every
//! PATCH is computed from a GET made for it, and only the GET after it tells what came of it. It never waits for a next look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::repair_backoff::Drift;
use crate::crd::{BindingRef, InjectMode};
use crate::inject::claim::{Claim, Finding, Phase, Want};
use crate::inject::plan::{History, Plan, View, plan};
use crate::inject::pool_owner::ManagedPool;
use crate::inject::template::{EntryState, entry_states};
use crate::metrics::{Metrics, ReadLabels};
use crate::prefect::{Client, Elsewhere, PrefectError, WorkPool};
use crate::reason::Reason;
use crate::upstream::limiter::Rank;

/// How often one look writes.
const ROUNDS: u32 = 2;
/// A template that was read longer ago is read again before it is edited.
const FRESH: Duration = Duration::from_secs(1);
/// Deployments are listed at each look with this number.
const LISTED_EVERY: u32 = 5;

/// One claim as it was when the look began.
pub(super) struct Asked {
    pub(super) who: BindingRef,
    pub(super) revision: u64,
    pub(super) claim: Claim,
    pub(super) last: Option<Finding>,
}

/// The claims on a pool as they were when the look began.
pub(super) struct Snapshot {
    pub(super) asked: Vec<Asked>,
    /// Grows when claims come, go, or want something else.
    pub(super) version: u64,
    pub(super) owner: Option<ManagedPool>,
    pub(super) interval: Duration,
}

/// What was found.
pub(super) struct Found {
    /// For each claim, in their order.
    pub(super) findings: Vec<Finding>,
    /// What was done to the entry of a Secret.
    pub(super) done: BTreeMap<String, Reason>,
    /// When a repair that has to wait may be made.
    pub(super) held_until: Option<Instant>,
}

/// Why nothing was found.
pub(super) struct Failed {
    pub(super) error: PrefectError,
    /// What the template meant before it could not be written.
    pub(super) planned: Option<Vec<Finding>>,
}

impl From<PrefectError> for Failed {
    fn from(error: PrefectError) -> Self {
        let planned = None;
        Self { error, planned }
    }
}

/// A pool and the way to it.
pub(super) struct Door<'a> {
    pub(super) client: Arc<Client>,
    pub(super) pool: &'a str,
    pub(super) rank: Rank,
    pub(super) metrics: &'a Metrics,
}

impl Door<'_> {
    async fn get(&self) -> Result<WorkPool, PrefectError> {
        let result = self.client.work_pool(self.pool, self.rank).await;
        self.count("pool-read", result)
    }

    async fn patch(&self, template: &RawValue) -> Result<(), PrefectError> {
        let result = self.client.patch_work_pool(self.pool, template).await;
        self.count("pool-write", result)
    }

    async fn elsewhere(&self) -> Result<Elsewhere, PrefectError> {
        let result = self
            .client
            .deployment_namespaces(self.pool, self.rank)
            .await;
        self.count("deployments-read", result)
    }

    fn count<T>(
        &self,
        good: &'static str,
        result: Result<T, PrefectError>,
    ) -> Result<T, PrefectError> {
        let outcome = result
            .as_ref()
            .map_or_else(|error| error.reason().as_str(), |_| good);
        let upstream = "prefect";
        let labels = ReadLabels { upstream, outcome };
        self.metrics.reads.get_or_create(&labels).inc();
        result
    }
}

struct Listed {
    version: u64,
    age: u32,
    /// `None` if they may not be listed.
    elsewhere: Option<Elsewhere>,
}

/// What is remembered from look to look.
#[derive(Default)]
pub(super) struct Memory {
    history: History,
    /// Secrets that the last PATCH should have brought in, until a GET says whether it did.
    attempted: BTreeSet<String>,
    /// Secrets whose entry was in, or was written, and is to be kept.
    verified: BTreeSet<String>,
    /// For which claims, and which Secrets to keep, the template was as wanted.
    settled: Option<(u64, BTreeSet<String>)>,
    drift: Drift,
    listed: Option<Listed>,
    /// Whether each look lists deployments.
    pub(super) lists_each_time: bool,
}

impl Memory {
    pub(super) async fn look(
        &mut self,
        door: &Door<'_>,
        snapshot: &Snapshot,
    ) -> Result<Found, Failed> {
        let interval = snapshot.interval;
        let mut done = BTreeMap::new();
        let mut read_at = Instant::now();
        let mut pool = door.get().await?;
        self.list(door, snapshot.version).await?;
        let mut plan = self.plan(door.pool, &pool, snapshot, &mut done);
        if plan.edit.is_some() && read_at.elapsed() > FRESH {
            read_at = Instant::now();
            pool = door.get().await?;
            plan = self.plan(door.pool, &pool, snapshot, &mut done);
        }
        let foreign = plan.edit.is_some() && self.is_foreign(&plan, snapshot.version);
        let urgent = self.is_urgent(&plan, snapshot);
        let held_until = self
            .drift
            .held_until(read_at)
            .filter(|_| foreign && !urgent);
        if plan.edit.is_none() {
            self.drift.quiet(read_at, interval);
        }
        let mut wrote = false;
        for _ in 0..ROUNDS {
            let Some(edit) = plan.edit.as_ref().filter(|_| held_until.is_none()) else {
                break;
            };
            self.attempted = plan.kept.difference(&plan.present).cloned().collect();
            if let Err(error) = door.patch(edit).await {
                // Only an answer that did not come, or a fault, leaves open whether the PATCH was taken.
                use PrefectError::{Fault, Transport};
                if !matches!(error, Transport { .. } | Fault { .. }) {
                    self.attempted.clear();
                }
                let planned = Some(plan.findings);
                return Err(Failed { error, planned });
            }
            if foreign && !wrote {
                self.drift.repaired(Instant::now(), interval);
            }
            wrote = true;
            let before = pool;
            pool = door.get().await?;
            done.extend(changes(&before.base_job_template, &pool.base_job_template));
            plan = self.plan(door.pool, &pool, snapshot, &mut done);
        }
        if wrote && plan.edit.is_some() && !foreign {
            // Somebody wrote between our PATCH and our GET, each time.
            self.drift.repaired(Instant::now(), interval);
        }
        if wrote {
            self.verified.clone_from(&plan.kept);
        } else {
            self.verified.extend(plan.present.iter().cloned());
            self.verified.retain(|secret| plan.kept.contains(secret));
        }
        self.settled = Some((snapshot.version, plan.kept.clone()));
        let contested = self.drift.contested() || held_until.is_some();
        if self.history.contested != contested {
            self.history.contested = contested;
            plan = self.plan(door.pool, &pool, snapshot, &mut done);
        }
        Ok(Found {
            findings: plan.findings,
            done,
            held_until,
        })
    }

    /// The pool is gone: one of the same name would be another.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Lists deployments, if it is time to.
    async fn list(&mut self, door: &Door<'_>, version: u64) -> Result<(), PrefectError> {
        if let Some(known) = self.listed.as_mut()
            && known.version == version
            && known.age + 1 < LISTED_EVERY
            && !self.lists_each_time
        {
            known.age += 1;
            return Ok(());
        }
        let elsewhere = match door.elsewhere().await {
            Ok(elsewhere) => Some(elsewhere),
            Err(PrefectError::PoolForbidden { .. }) => None,
            Err(error) => return Err(error),
        };
        self.listed = Some(Listed {
            version,
            age: 0,
            elsewhere,
        });
        Ok(())
    }

    /// What to do with the pool as it was just read.
    fn plan(
        &mut self,
        name: &str,
        pool: &WorkPool,
        snapshot: &Snapshot,
        done: &mut BTreeMap<String, Reason>,
    ) -> Plan {
        let listed = self.listed.as_ref();
        let view = View {
            pool: name,
            pool_type: &pool.pool_type,
            template: &pool.base_job_template,
            elsewhere: listed.and_then(|listed| listed.elsewhere.as_ref()),
            owner: snapshot.owner.as_ref(),
        };
        let claims: Vec<&Claim> = snapshot.asked.iter().map(|asked| &asked.claim).collect();
        let mut first = plan(&view, &claims, &self.history);
        let mut attempted = std::mem::take(&mut self.attempted);
        attempted.retain(|secret| first.present.contains(secret));
        done.extend(
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
            .retain(|secret| first.kept.contains(secret) || first.present.contains(secret));
        if landed > 0 {
            first = plan(&view, &claims, &self.history);
        }
        first
    }

    /// Whether there is something to write that no claim's change explains.
    fn is_foreign(&self, plan: &Plan, version: u64) -> bool {
        let settled = self.settled.as_ref();
        settled.is_some_and(|(before, kept)| *before == version && *kept == plan.kept)
            || plan
                .kept
                .iter()
                .any(|secret| self.verified.contains(secret) && !plan.present.contains(secret))
    }

    /// Whether bindings ask for something new: an entry that was never in, or one to be taken out. That waits for no fight over the others.
    fn is_urgent(&self, plan: &Plan, snapshot: &Snapshot) -> bool {
        let settled = self.settled.as_ref();
        if settled.is_some_and(|(version, _)| *version == snapshot.version) {
            return false;
        }
        let new = plan
            .kept
            .iter()
            .any(|secret| !plan.present.contains(secret) && !self.verified.contains(secret));
        let mut claims = snapshot.asked.iter().zip(&plan.findings);
        new || claims.any(|(asked, finding)| {
            asked.claim.want == Want::Absent && finding.phase == Phase::Underway
        })
    }
}

/// What became of the entries between two templates.
fn changes(before: &RawValue, after: &RawValue) -> BTreeMap<String, Reason> {
    let (Ok(before), Ok(after)) = (entry_states(before), entry_states(after)) else {
        return BTreeMap::new();
    };
    let gone = before.keys().filter(|secret| !after.contains_key(*secret));
    let gone = gone.map(|secret| (secret.clone(), Reason::PoolReleased));
    let put = after
        .iter()
        .filter(|(secret, state)| before.get(*secret) != Some(*state))
        .filter(|(_, state)| matches!(state, EntryState::Exact { .. }));
    let put = put.map(|(secret, _)| (secret.clone(), Reason::PoolPatched));
    gone.chain(put).collect()
}

/// What was done for a claim.
pub(super) fn done_for(claim: &Claim, done: &BTreeMap<String, Reason>) -> Option<Reason> {
    let writes = claim.mode == InjectMode::Patch && claim.noted;
    done.get(&claim.secret).copied().filter(|_| writes)
}
