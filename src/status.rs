//! Computes a binding's status from the outcome of a reconcile. Pure.
//!
//! Input: the outcome, the previous status, and the current time.
//! Output: the new status. It equals the previous one if nothing changed.
//! Invariants: it reads no clock and sends no request. The JSON of a status takes at most 64 KiB,
//! whatever names upstreams and authors choose.

mod progress;

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::Serialize;

use crate::{
    crd::{
        DopplerPrefectBindingStatus, ExcludedKey, FilesStatus, InjectedEntry, JobFiles,
        ResolvedConfig, WorkPoolStatus,
    },
    failure::Failure,
    printable::{self, MAX_MESSAGE_BYTES, one_line},
    reason::Reason,
};

/// Condition: the block provided project, config and token.
pub const BLOCK_RESOLVED: &str = "BlockResolved";
/// Condition: the Secret holds the values that Doppler last returned.
pub const SECRET_SYNCED: &str = "SecretSynced";
/// Condition: every work pool in the spec references the Secret, the admission policy adds it to
/// Jobs, and no pod of a flow run fails to start because of it.
pub const INJECTED: &str = "Injected";
/// Condition: the workloads that restart with the Secret have its content. It does not count for
/// [`READY`].
pub const RESTARTED: &str = "Restarted";
/// Condition: the first three hold for this generation.
pub const READY: &str = "Ready";

use progress::progress;
pub use progress::{RECONCILING, STALLED};

/// Maximum number of names in one list of the status.
pub const MAX_LISTED: usize = 50;
/// Length of all names of one such list, in bytes.
const MAX_LISTED_BYTES: usize = 4096;
/// Longest explanation of an excluded key, in bytes.
const MAX_EXPLANATION_BYTES: usize = 1024;
/// What all lists of a status take together, in bytes of JSON. Conditions and fields take at most
/// about 44 KiB.
const MAX_LISTS_BYTES: usize = 20 * 1024;

/// How a reconcile changes a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionUpdate {
    /// The condition becomes True.
    True(Reason, String),
    /// The condition becomes False.
    False(Reason, String),
    /// The condition becomes Unknown.
    Unknown(Reason, String),
    /// The condition stays as it is. A condition that does not exist yet becomes Unknown.
    Unchanged,
}

impl ConditionUpdate {
    /// Maps a failure to a condition, the only place that does so. `persistent` says whether the
    /// failure needs a change or has lasted too long, `was_true` what the condition's status was.
    #[must_use]
    pub fn of_failure(failure: &Failure, persistent: bool, was_true: bool) -> Self {
        match (persistent, was_true) {
            (false, true) => Self::Unchanged,
            (true, _) | (false, false) => Self::False(failure.reason, failure.message.clone()),
        }
    }
}

/// The content of the Secret, as the status describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretContent {
    /// Number of its keys.
    pub key_count: usize,
    /// Doppler keys that are not in the Secret.
    pub excluded_keys: Vec<ExcludedKey>,
    /// Keyed hash of the content.
    pub hash: String,
    /// The Secret with the files, if there are any.
    pub files: Option<FilesStatus>,
}

/// The outcome of a reconcile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The condition `BlockResolved`.
    pub block: ConditionUpdate,
    /// The condition `SecretSynced`.
    pub secret: ConditionUpdate,
    /// The condition `Injected`. None if the spec names no work pool and no Jobs, and no pod of a flow
    /// run fails to start because of the Secret.
    pub injected: Option<ConditionUpdate>,
    /// The condition `Restarted`. None if the binding restarts no workload.
    pub restarted: Option<ConditionUpdate>,
    /// Whether the binding is suspended.
    pub suspended: bool,
    /// The resolved configs. None if they were not resolved.
    pub resolved: Option<ResolvedConfigs>,
    /// Name of the Secret.
    pub secret_name: String,
    /// The Secret that the admission policy adds to Jobs, if any.
    pub job_secret: Option<String>,
    /// The Secret with files that the admission policy mounts in Jobs, if any.
    pub job_files: Option<JobFiles>,
    /// The content of the Secret. None if the Secret was not compared.
    pub content: Option<SecretContent>,
    /// The version of the Prefect server, if it is known.
    pub prefect_version: Option<String>,
    /// The request to refresh that is answered. None leaves the last answer.
    pub refreshed: Option<String>,
    /// The work pools of the spec.
    pub pools: Vec<WorkPoolStatus>,
    /// The entries that are recorded for the binding.
    pub entries: Vec<InjectedEntry>,
    /// What a binding that is being deleted waits for.
    pub deleting: Option<String>,
}

/// The configs whose values the Secret holds, each with project and config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedConfigs {
    /// In the order of the spec. Project and config of the status are those of the last one.
    pub configs: Vec<(String, String)>,
    /// Whether the status lists them.
    pub are_listed: bool,
}

impl fmt::Display for ResolvedConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.configs.iter().map(|(project, config)| {
            let (project, config) = (printable::name(project), printable::name(config));
            format!("{project}/{config}")
        });
        f.write_str(&names.collect::<Vec<_>>().join(", "))
    }
}

/// The configs of the last status, as [`ResolvedConfigs`] displays them. None if they were not
/// resolved.
#[must_use]
pub fn resolved_before(status: &DopplerPrefectBindingStatus) -> Option<String> {
    let last = format!(
        "{}/{}",
        status.project.as_deref()?,
        status.config.as_deref()?
    );
    let listed = status.configs.iter();
    let listed: Vec<String> = listed
        .map(|of| format!("{}/{}", of.project, of.config))
        .collect();
    Some(if listed.is_empty() {
        last
    } else {
        listed.join(", ")
    })
}

/// Whether the condition `type_` is True.
#[must_use]
pub fn is_true(status: &DopplerPrefectBindingStatus, type_: &str) -> bool {
    status
        .conditions
        .iter()
        .any(|condition| condition.type_ == type_ && condition.status == "True")
}

/// Computes the status for `outcome`.
#[must_use]
pub fn status(
    before: Option<&DopplerPrefectBindingStatus>,
    generation: Option<i64>,
    outcome: &Outcome,
    now: &Time,
) -> DopplerPrefectBindingStatus {
    let mut after = before.cloned().unwrap_or_default();
    after.observed_generation = generation;
    let mut conditions = Vec::with_capacity(4);
    let updated = |type_: &str, update: &ConditionUpdate| {
        let old = before.and_then(|status| status.conditions.iter().find(|c| c.type_ == type_));
        condition(type_, update, old, generation, now)
    };
    conditions.push(updated(BLOCK_RESOLVED, &outcome.block));
    conditions.push(updated(SECRET_SYNCED, &outcome.secret));
    if let Some(injected) = &outcome.injected {
        conditions.push(updated(INJECTED, injected));
    }
    let ready = updated(READY, &ready(outcome, &conditions));
    let progress = progress(&ready).map(|(type_, reason)| {
        updated(type_, &ConditionUpdate::True(reason, ready.message.clone()))
    });
    conditions.push(ready);
    if let Some(restarted) = &outcome.restarted {
        conditions.push(updated(RESTARTED, restarted));
    }
    conditions.extend(progress);
    after.conditions = conditions;
    let mut room = Room(MAX_LISTS_BYTES);
    if let Some(resolved) = &outcome.resolved {
        let last = resolved.configs.last();
        after.project = last.map(|(project, _)| printable::name(project));
        after.config = last.map(|(_, config)| printable::name(config));
        after.configs = listed_configs(resolved);
    }
    // At most 16, so that all of them fit.
    after.configs.retain(|config| room.take(config));
    after.secret_name = Some(printable::name(&outcome.secret_name));
    after.job_secret_name.clone_from(&outcome.job_secret);
    after.job_files.clone_from(&outcome.job_files);
    after.work_pools = listed_pools(&outcome.pools, &mut room);
    if let Some(content) = &outcome.content {
        if after.content_hash.as_ref() != Some(&content.hash) {
            after.last_change_time = Some(now.clone());
        }
        after.key_count = i32::try_from(content.key_count).ok();
        after.content_hash = Some(content.hash.clone());
        after.files.clone_from(&content.files);
    }
    after.prefect_version = outcome.prefect_version.as_deref().map(printable::name);
    if let Some(text) = &outcome.refreshed {
        after.refreshed = Some(text.clone());
    }
    // Without new content, the keys of the last status, which another version may have written.
    let content = outcome.content.as_ref();
    let keys = content.map_or(&after.excluded_keys, |content| &content.excluded_keys);
    after.excluded_keys = listed_keys(keys, &mut room);
    list_names(&mut after.work_pools, &outcome.pools, &mut room);
    after.injected_entries.clone_from(&outcome.entries);
    after
}

/// The status without its lists, which the API server may accept if it refuses the whole one.
#[must_use]
pub fn conditions_only(status: DopplerPrefectBindingStatus) -> DopplerPrefectBindingStatus {
    DopplerPrefectBindingStatus {
        excluded_keys: Vec::new(),
        work_pools: Vec::new(),
        ..status
    }
}

/// The configs that the status lists.
fn listed_configs(resolved: &ResolvedConfigs) -> Vec<ResolvedConfig> {
    let configs = resolved.configs.iter().filter(|_| resolved.are_listed);
    let listed = configs.map(|(project, config)| ResolvedConfig {
        project: printable::name(project),
        config: printable::name(config),
    });
    listed.collect()
}

/// What is left for the lists of a status, in bytes of JSON.
struct Room(usize);

impl Room {
    /// Takes the room of one item with its comma. False if there is too little.
    fn take(&mut self, item: &impl Serialize) -> bool {
        let bytes =
            serde_json::to_vec(item).map_or(usize::MAX, |json| json.len().saturating_add(1));
        let fits = bytes <= self.0;
        if fits {
            self.0 -= bytes;
        }
        fits
    }
}

/// The excluded keys that the status lists. The list is a map by name, and the API server rejects a
/// name that occurs twice, so two names that look alike are listed once.
fn listed_keys(keys: &[ExcludedKey], room: &mut Room) -> Vec<ExcludedKey> {
    let mut listed: Vec<ExcludedKey> = Vec::new();
    for key in keys.iter().take(MAX_LISTED) {
        let name = printable::name(&key.name);
        if listed.iter().any(|other| other.name == name) {
            continue;
        }
        let reason = one_line(&key.reason, MAX_EXPLANATION_BYTES);
        let key = ExcludedKey { name, reason };
        if !room.take(&key) {
            break;
        }
        listed.push(key);
    }
    listed
}

/// The first names of a list of the status, as far as they fit.
#[must_use]
pub fn listed_names(names: &[String]) -> Vec<String> {
    let mut bytes = 0;
    let names = names.iter().take(MAX_LISTED);
    names
        .map(|name| printable::name(name))
        .take_while(|name| {
            bytes += name.len();
            bytes <= MAX_LISTED_BYTES
        })
        .collect()
}

/// The work pools that the status lists, also a map by name, with their states.
fn listed_pools(pools: &[WorkPoolStatus], room: &mut Room) -> Vec<WorkPoolStatus> {
    let mut listed: Vec<WorkPoolStatus> = Vec::with_capacity(pools.len().min(MAX_LISTED));
    for pool in pools.iter().take(MAX_LISTED) {
        let name = printable::name(&pool.name);
        if listed.iter().any(|other| other.name == name) {
            continue;
        }
        let pool = WorkPoolStatus {
            name,
            state: pool.state,
            ..WorkPoolStatus::default()
        };
        if !room.take(&pool) {
            break;
        }
        listed.push(pool);
    }
    listed
}

/// Fills in the names that belong to the listed pools, as far as they fit.
fn list_names(listed: &mut [WorkPoolStatus], pools: &[WorkPoolStatus], room: &mut Room) {
    for pool in listed {
        let named = |of: &&WorkPoolStatus| printable::name(&of.name) == pool.name;
        let Some(of) = pools.iter().find(named) else {
            continue;
        };
        for (list, names) in [
            (&mut pool.shadowed_keys, &of.shadowed_keys),
            (&mut pool.unserved_namespaces, &of.unserved_namespaces),
            (&mut pool.used_by, &of.used_by),
        ] {
            // The name of the list counts too.
            if names.is_empty() || !room.take(&"unservedNamespaces: []") {
                continue;
            }
            let mut fitting = listed_names(names);
            let fits = fitting.iter().take_while(|name| room.take(name)).count();
            fitting.truncate(fits);
            *list = fitting;
        }
    }
}

/// The condition `Ready`. The first condition that is not True gives its reason and message.
fn ready(outcome: &Outcome, conditions: &[Condition]) -> ConditionUpdate {
    if let Some(message) = &outcome.deleting {
        return ConditionUpdate::False(Reason::Deleting, message.clone());
    }
    if outcome.suspended {
        return ConditionUpdate::Unknown(
            Reason::Suspended,
            "the binding is suspended; set spec.suspend to false to resume it".to_owned(),
        );
    }
    let updates = [
        Some(&outcome.block),
        Some(&outcome.secret),
        outcome.injected.as_ref(),
    ];
    for (update, condition) in updates.into_iter().flatten().zip(conditions) {
        match update {
            ConditionUpdate::False(..) | ConditionUpdate::Unknown(..) => return update.clone(),
            ConditionUpdate::Unchanged if condition.status != "True" => {
                return ConditionUpdate::Unchanged;
            }
            ConditionUpdate::True(..) | ConditionUpdate::Unchanged => {}
        }
    }
    let pools = outcome.pools.len();
    let message = match pools {
        0 => format!("Secret {} is in place", outcome.secret_name),
        1 => format!(
            "Secret {} is in place and in 1 work pool",
            outcome.secret_name
        ),
        _ => format!(
            "Secret {} is in place and in {pools} work pools",
            outcome.secret_name
        ),
    };
    ConditionUpdate::True(Reason::Ready, message)
}

/// A condition after an update. Its transition time stays if its status does.
#[must_use]
pub fn condition(
    type_: &str,
    update: &ConditionUpdate,
    old: Option<&Condition>,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    let (status, reason, message) = match update {
        ConditionUpdate::True(reason, message) => ("True", reason.as_str(), message.as_str()),
        ConditionUpdate::False(reason, message) => ("False", reason.as_str(), message.as_str()),
        ConditionUpdate::Unknown(reason, message) => ("Unknown", reason.as_str(), message.as_str()),
        ConditionUpdate::Unchanged => match old {
            Some(old) => (
                old.status.as_str(),
                old.reason.as_str(),
                old.message.as_str(),
            ),
            None => (
                "Unknown",
                Reason::Pending.as_str(),
                "waiting for the first answer",
            ),
        },
    };
    let last_transition_time = old
        .filter(|old| old.status == status)
        .map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: one_line(message, MAX_MESSAGE_BYTES),
        observed_generation: generation,
        last_transition_time,
    }
}

#[cfg(test)]
mod tests;
