//! The state of a binding between two reconciles, in memory only.
//!
//! Input: what reconciles wrote, read and observed.
//! Output: the last written status and entries, the last good values, credentials for the cleanup,
//! and times since when something holds.
//! Invariants: all of it may be lost at any time. After a restart, the operator reads and waits
//! again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use kube::Resource;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    object_cache::is_newer, recorded_orphan::Orphan, repair_backoff::SecretRepairBackoff,
    resolution::LastGood, restart_state::RestartState, stored_binding::StoredBinding,
};
use crate::{
    crd::{BindingRef, DopplerPrefectBindingStatus, InjectedEntry, Uid},
    prefect::Connection,
    upstream::pace::{Pace, PaceLimit},
};

/// How often the operator writes the Secret of a binding, and how often its status.
pub const WRITES: PaceLimit = PaceLimit {
    burst: 30,
    period: Duration::from_secs(2),
};

/// The state of one binding.
#[derive(Default)]
pub struct BindingState {
    /// UID of the binding. The state of another binding of the same name is of no use.
    pub uid: Option<Uid>,
    /// The status as last written, until the watch delivers it.
    pub status: Option<WrittenStatus>,
    /// The entries that are in pools, or on their way, as of the last pass.
    pub injected_entries: BTreeSet<InjectedEntry>,
    /// Entries that are removed from their pools, while a status or a Secret may still list them.
    pub removed_entries: BTreeSet<InjectedEntry>,
    /// Further Secrets with a record of entries of this binding, such as one of an earlier name.
    pub recorded_secrets: BTreeSet<String>,
    /// The finalizer as last written, until the watch delivers it.
    pub finalizer: Option<WrittenMark>,
    /// The label of a binding that selects Jobs as last written, until the watch delivers it.
    pub jobs_label: Option<WrittenMark>,
    /// When a status last named a Secret of an earlier name for the admission policy.
    pub job_secret_since: BTreeMap<String, Instant>,
    /// Names of the Secret's keys, if a pool compares them.
    pub key_names: Option<Arc<BTreeSet<String>>>,
    /// The number of the last reported event of each pool, by its name, and whether it is of a mount.
    pub pool_events: BTreeMap<(String, bool), u64>,
    /// The last connections to Prefect servers, one per API URL.
    pub connections: Vec<Arc<Connection>>,
    /// The repairs of the Secret.
    pub repair_backoff: SecretRepairBackoff,
    /// Since when entries are removed from their pools.
    pub removed_since: BTreeMap<InjectedEntry, Instant>,
    /// Since when this process tries to remove entries that the binding gave up.
    pub withdrawing_since: BTreeMap<InjectedEntry, Instant>,
    /// Why entries whose server cannot be reached are not removed, as last reported.
    pub reported_removals: BTreeMap<InjectedEntry, String>,
    /// The last good values, shared with all bindings of the same config.
    pub last_good: Option<LastGood>,
    /// Since when this process cleans up the deleted binding.
    pub cleanup_since: Option<Instant>,
    /// Since when the Secret cannot be written.
    pub secret_failing_since: Option<Instant>,
    /// The request to refresh that this process saw last.
    pub refresh: Option<RefreshRequest>,
    /// The status that the API server refused.
    pub refused_status: Option<RefusedStatus>,
    /// What a binding that no longer exists left.
    pub orphan: Option<Box<Orphan>>,
    /// Whether the removal of its entries was reported as abandoned.
    pub abandoned: bool,
    /// Since when a referenced key cannot be resolved.
    pub key_refs_failing_since: Option<Instant>,
    /// The source of the values that this process wrote, or found in the Secret.
    pub written_from: Option<u64>,
    /// Since when content is refused that would take most keys out of the Secret.
    pub loss_since: Option<Instant>,
    /// The reports of pods that did not start, if there were any.
    pub pod_reports: Option<Box<PodReports>>,
    /// What is known of the workloads that restart with the Secret, if there are any.
    pub restarts: Option<Box<RestartState>>,
    /// The writes of the Secret.
    pub secret_writes: Pace,
    /// The writes of the status.
    pub status_writes: Pace,
    /// Since when the Secret or the status waits for the pools.
    pub waiting_since: Option<Instant>,
}

/// The reports of pods that did not start.
#[derive(Default)]
pub struct PodReports {
    /// The pods that were reported lately.
    pub pods: Vec<Uid>,
    /// How often pods were reported lately.
    pub pace: Pace,
}

/// A finalizer or a label that the operator added or removed.
#[derive(Clone)]
pub struct WrittenMark {
    /// Whether the binding has it.
    pub present: bool,
    /// The resource version of the binding with that.
    pub version: Box<str>,
}

/// A status that the operator wrote.
#[derive(Clone)]
pub struct WrittenStatus {
    /// The status.
    pub status: Arc<DopplerPrefectBindingStatus>,
    /// The resource version of the binding with it.
    pub version: Box<str>,
}

impl WrittenStatus {
    /// Whether a binding of the store has this status, or a newer one.
    fn is_in(&self, binding: &StoredBinding) -> bool {
        let version = binding.meta().resource_version.as_deref();
        version.is_some_and(|version| !is_newer(&self.version, version))
    }
}

/// A request of a user to read block and config now.
#[derive(Clone)]
pub struct RefreshRequest {
    /// The value of the annotation.
    pub text: Box<str>,
    /// When this process saw it.
    pub since: Instant,
}

/// A status that could not be written.
#[derive(Clone, Copy, Debug)]
pub struct RefusedStatus {
    /// Fingerprint of the outcome that it showed.
    pub outcome: u64,
    /// How many writes failed in a row.
    pub failures: u32,
    /// When the same outcome is written again.
    pub retry_at: Instant,
}

/// The states of all bindings.
#[derive(Default)]
pub struct BindingStates(Mutex<HashMap<BindingRef, Box<BindingState>>>);

impl std::fmt::Debug for BindingStates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BindingStates").finish_non_exhaustive()
    }
}

impl BindingStates {
    /// Reads the state of a binding.
    pub fn read<T>(&self, key: &BindingRef, read: impl FnOnce(&BindingState) -> T) -> T {
        match self.0.lock().get(key) {
            Some(state) => read(state),
            None => read(&BindingState::default()),
        }
    }

    /// Updates the state of a binding.
    pub fn update<T>(&self, key: &BindingRef, update: impl FnOnce(&mut BindingState) -> T) -> T {
        update(self.0.lock().entry(key.clone()).or_default())
    }

    /// Returns an equal key, whose text all maps share.
    #[must_use]
    pub fn intern(&self, key: BindingRef) -> BindingRef {
        let states = self.0.lock();
        let known = states.get_key_value(&key);
        known.map_or(key, |(known, _)| known.clone())
    }

    /// Reads a binding from the store, and the status that the operator wrote last if the store does
    /// not have it yet.
    ///
    /// The written status is read before the store: [`Self::observe_stored`] drops it once the store
    /// has it, so a read in the other order could find neither.
    pub fn with_written_status(
        &self,
        key: &BindingRef,
        read_store: impl FnOnce() -> Option<Arc<StoredBinding>>,
    ) -> Option<(Arc<StoredBinding>, Option<Arc<DopplerPrefectBindingStatus>>)> {
        let written = self.read(key, |state| state.status.clone());
        let stored = read_store()?;
        let written = written.filter(|written| !written.is_in(&stored));
        Some((stored, written.map(|written| written.status)))
    }

    /// Resets the state if it is not that of the binding with this UID. Returns whether it was that
    /// of another one.
    pub fn retain_uid(&self, key: &BindingRef, uid: &str) -> bool {
        self.update(key, |state| {
            let uid = Some(Uid::from(uid));
            let differs = state.uid != uid;
            let replaced = differs && state.uid.is_some();
            if differs {
                *state = BindingState {
                    uid,
                    ..BindingState::default()
                };
            }
            replaced
        })
    }

    /// Drops the written status once the store has it.
    pub fn observe_stored(&self, binding: &StoredBinding) {
        if let Some(state) = self.0.lock().get_mut(&BindingRef::of(binding))
            && let Some(written) = &state.status
            && written.is_in(binding)
        {
            state.status = None;
        }
    }

    /// Removes the state of a deleted binding.
    pub fn remove(&self, key: &BindingRef) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(version: &str) -> StoredBinding {
        let metadata =
            serde_json::json!({"name": "b", "namespace": "flows", "resourceVersion": version});
        serde_json::from_value(serde_json::json!({"metadata": metadata, "spec": {}})).unwrap()
    }

    fn with_status_of_version(version: &str) -> (BindingStates, BindingRef) {
        let states = BindingStates::default();
        let key = BindingRef::new("flows", "b");
        states.update(&key, |state| {
            state.status = Some(WrittenStatus {
                status: Arc::default(),
                version: version.into(),
            });
        });
        (states, key)
    }

    #[test]
    fn written_status_is_kept_until_the_store_has_it() {
        let (states, key) = with_status_of_version("9");
        let is_kept = || states.read(&key, |state| state.status.is_some());
        states.observe_stored(&stored("8"));
        assert!(is_kept(), "the store has an older version");
        states.observe_stored(&stored("9"));
        assert!(!is_kept());
    }

    #[test]
    fn the_newer_of_written_and_stored_status_counts() {
        for (version, counts) in [("8", true), ("9", false), ("10", false)] {
            let (states, key) = with_status_of_version("9");
            let read = states.with_written_status(&key, || Some(Arc::new(stored(version))));
            let (_, written) = read.unwrap();
            assert_eq!(written.is_some(), counts, "the store has version {version}");
        }
    }

    #[test]
    fn finds_a_status_that_arrives_while_the_store_is_read() {
        let (states, key) = with_status_of_version("9");
        let read = states.with_written_status(&key, || {
            let binding = Arc::new(stored("8"));
            // The watch delivers the written status right after the store was read.
            states.observe_stored(&stored("9"));
            Some(binding)
        });
        let (_, written) = read.unwrap();
        assert!(written.is_some(), "neither the state nor the store had it");
    }
}
