//! What is remembered of a binding between two reconciles, in memory only.
//!
//! In: what reconciles came to. Out: credentials for the way back, how often a Secret had to be put back, and since when a pool entry is out.
//! All of it may be lost at any time: a restart waits again, and repairs at once again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::Resource;
use tokio::time::Instant;

use super::{
    finalizer::InjectedEntry, object_cache::is_newer, resolution::LastGood,
    stored_binding::StoredBinding, work_queue::BindingRef,
};
use crate::{
    crd::{DopplerPrefectBindingStatus, Uid},
    prefect::Connection,
};

/// A quiet time after which earlier repairs are forgotten.
const QUIET: Duration = Duration::from_mins(5);
/// Repairs in a row that are made at once.
const AT_ONCE: u32 = 3;
/// Longest wait between two repairs.
const LONGEST: Duration = Duration::from_mins(5);

/// What is remembered of one binding.
#[derive(Default)]
pub struct BindingState {
    /// UID of the binding: what is remembered of another one of the same name is of no use.
    pub uid: Option<Uid>,
    /// The status as it was last written, until the watch shows it.
    pub status: Option<WrittenStatus>,
    /// Whether a reconcile is going on.
    pub busy: bool,
    /// The note as it was last written.
    pub injected_entries: Option<BTreeSet<InjectedEntry>>,
    /// Names of the Secret's keys, if a pool is compared with them.
    pub key_names: Option<Arc<BTreeSet<String>>>,
    /// Numbers of the pools' deeds that were told, by pool.
    pub pool_events: BTreeMap<String, u64>,
    /// How the Prefect servers were last reached: one for each URL of an API.
    pub connections: Vec<Arc<Connection>>,
    /// How often the Secret was changed by others.
    pub repair_backoff: RepairBackoff,
    /// Since when entries are out of their pools.
    pub removed_since: BTreeMap<InjectedEntry, Instant>,
    /// The last good values, shared with all bindings of the same config.
    pub last_good: Option<LastGood>,
    /// Since when the values that the binding refers to cannot be read.
    pub key_refs_failing_since: Option<Instant>,
    /// Since when a new Secret waits for the first look at its pools.
    pub waiting_since: Option<Instant>,
}

/// A status that was written.
#[derive(Clone)]
pub struct WrittenStatus {
    /// What it says.
    pub status: Arc<DopplerPrefectBindingStatus>,
    /// The binding's version with it.
    pub version: Box<str>,
}

/// How often, and when last, something had to be put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairBackoff {
    repairs: u32,
    last: Option<Instant>,
}

impl RepairBackoff {
    /// How long the next repair has to wait: not at all for the first ones, then growing.
    #[must_use]
    pub fn delay(&self, now: Instant) -> Duration {
        let Some(last) = self.last else {
            return Duration::ZERO;
        };
        let since = now.saturating_duration_since(last);
        if self.repairs < AT_ONCE || since >= QUIET {
            return Duration::ZERO;
        }
        let wait = Duration::from_secs(2)
            .saturating_mul(2_u32.saturating_pow((self.repairs - AT_ONCE).min(16)));
        wait.min(LONGEST).saturating_sub(since)
    }

    /// It was put back.
    pub fn record_repair(&mut self, now: Instant) {
        let quiet = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= QUIET);
        self.repairs = if quiet {
            1
        } else {
            self.repairs.saturating_add(1)
        };
        self.last = Some(now);
    }

    /// Whether somebody keeps changing it; and if so, when it will have been quiet for long enough.
    #[must_use]
    pub fn contested_for(&self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.last?);
        (self.repairs > AT_ONCE && since < QUIET).then(|| QUIET.saturating_sub(since))
    }
}

/// What is remembered of all bindings.
#[derive(Default)]
pub struct BindingStates(Mutex<HashMap<BindingRef, Box<BindingState>>>);

impl std::fmt::Debug for BindingStates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl BindingStates {
    /// Looks at what is remembered of `binding`.
    pub fn read<T>(&self, binding: &BindingRef, look: impl FnOnce(&BindingState) -> T) -> T {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match table.get(binding) {
            Some(remembered) => look(remembered),
            None => look(&BindingState::default()),
        }
    }

    /// The same name, in the text that all tables share.
    #[must_use]
    pub fn intern(&self, binding: BindingRef) -> BindingRef {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = table.get_key_value(&binding);
        known.map_or(binding, |(known, _)| known.clone())
    }

    /// A reconcile begins. Until it ends, the status that was written last is not forgotten.
    pub fn begin(&self, binding: &BindingRef) {
        self.update(binding, |remembered| remembered.busy = true);
    }

    /// Keeps only what is remembered of the binding with this UID.
    pub fn retain_uid(&self, binding: &BindingRef, uid: &str) {
        self.update(binding, |remembered| {
            let uid = Some(Uid::from(uid));
            if remembered.uid != uid {
                *remembered = BindingState {
                    uid,
                    busy: remembered.busy,
                    ..BindingState::default()
                };
            }
        });
    }

    /// The reconcile is done.
    pub fn end(&self, binding: &BindingRef) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is gone has been forgotten.
        if let Some(remembered) = table.get_mut(binding) {
            remembered.busy = false;
        }
    }

    /// The store has this version. If the status that was written last is in it, it need not be remembered beside. A reconcile that is going on may
    /// have an older one in hand.
    pub fn observe_stored(&self, binding: &StoredBinding) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remembered) = table.get_mut(&BindingRef::of(binding))
            && !remembered.busy
            && let Some(said) = &remembered.status
            && let Some(version) = &binding.meta().resource_version
            && !is_newer(&said.version, version)
        {
            remembered.status = None;
        }
    }

    /// Changes what is remembered of `binding`.
    pub fn update<T>(
        &self,
        binding: &BindingRef,
        change: impl FnOnce(&mut BindingState) -> T,
    ) -> T {
        change(
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(binding.clone())
                .or_default(),
        )
    }

    /// All bindings of which something is remembered.
    #[must_use]
    pub fn keys(&self) -> Vec<BindingRef> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.keys().cloned().collect()
    }

    /// The binding is gone.
    pub fn remove(&self, binding: &BindingRef) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(binding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_remembered_until_the_store_has_it_and_no_reconcile_goes_on() {
        let memory = BindingStates::default();
        let who = BindingRef::new("flows", "b");
        let kept = |version: &str| -> StoredBinding {
            let metadata =
                serde_json::json!({"name": "b", "namespace": "flows", "resourceVersion": version});
            serde_json::from_value(serde_json::json!({"metadata": metadata, "spec": {}})).unwrap()
        };
        let remembered = || memory.read(&who, |remembered| remembered.status.is_some());
        memory.begin(&who);
        memory.update(&who, |remembered| {
            remembered.status = Some(WrittenStatus {
                status: Arc::default(),
                version: "9".into(),
            });
        });
        memory.observe_stored(&kept("10"));
        assert!(remembered(), "a reconcile goes on");
        memory.end(&who);
        memory.observe_stored(&kept("8"));
        assert!(remembered(), "the store has an older one");
        memory.observe_stored(&kept("9"));
        assert!(!remembered());
    }

    #[test]
    fn the_first_repairs_are_made_at_once_and_later_ones_wait_longer_and_longer() {
        let mut drift = RepairBackoff::default();
        let mut now = Instant::now();
        let mut waits = vec![];
        for _ in 0..10 {
            let wait = drift.delay(now);
            waits.push(wait.as_secs());
            now += wait;
            drift.record_repair(now);
        }
        assert_eq!(waits, [0, 0, 0, 2, 4, 8, 16, 32, 64, 128]);
        assert!(drift.contested_for(now).is_some());
    }

    #[test]
    fn a_quiet_time_forgives() {
        let mut drift = RepairBackoff::default();
        let mut now = Instant::now();
        for _ in 0..6 {
            drift.record_repair(now);
        }
        assert!(drift.contested_for(now).is_some());
        now += QUIET;
        assert_eq!(drift.contested_for(now), None);
        assert_eq!(drift.delay(now), Duration::ZERO);
        drift.record_repair(now);
        assert_eq!(drift.contested_for(now), None);
    }
}
