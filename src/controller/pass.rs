//! One reconcile of one binding: what its steps read, and what they leave behind.
//!
//! Input: the context, the binding, and its state from earlier reconciles.
//! Output: the values that several steps need, and when to reconcile the binding again.
//! Invariants: a pass lives for one reconcile. It sends no request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::Resource;

use super::{
    binding_state::BindingState,
    context::Context,
    object_cache::{CachedObject, ObjectKey, ReferenceKind, is_newer},
    recorded_entries::{self, RecordedConnection, RecordedEntries},
    requeue::Requeue,
};
use crate::{
    crd::{
        BindingRef, DeletionPolicy, DopplerPrefectBinding, DopplerPrefectBindingStatus,
        InjectedEntry, finalizer::has_finalizer,
    },
    failure::Failure,
    reason::Reason,
    status::is_true,
};

/// One reconcile of one binding.
pub struct Pass<'a> {
    /// What all reconciles share.
    pub context: &'a Context,
    /// Namespace and name of the binding.
    pub key: &'a BindingRef,
    /// The binding.
    pub binding: &'a DopplerPrefectBinding,
    /// The entries that are recorded for the binding.
    pub entries: InjectedEntries,
    /// How to reach the servers of recorded entries that the spec no longer names, by URL.
    pub recorded_connections: BTreeMap<String, RecordedConnection>,
    /// Why the finalizer could not be written in this pass.
    pub finalizer_failure: Option<Failure>,
    /// When to reconcile again.
    pub requeue: Requeue,
    /// The status as last written, if the store does not have it yet.
    written_status: Option<Arc<DopplerPrefectBindingStatus>>,
}

/// The entries that are recorded for a binding.
#[derive(Clone, Debug, Default)]
pub struct InjectedEntries {
    /// The entries that are recorded now, and how their servers are reached.
    pub recorded: RecordedEntries,
    /// The entries that must be recorded after this pass: a pool has them, or will have them.
    pub required: BTreeSet<InjectedEntry>,
}

impl<'a> Pass<'a> {
    /// Starts a pass.
    #[must_use]
    pub fn new(
        context: &'a Context,
        key: &'a BindingRef,
        binding: &'a DopplerPrefectBinding,
        written_status: Option<Arc<DopplerPrefectBindingStatus>>,
    ) -> Self {
        let mut pass = Self {
            context,
            key,
            binding,
            entries: InjectedEntries::default(),
            recorded_connections: BTreeMap::new(),
            finalizer_failure: None,
            requeue: Requeue::default(),
            written_status,
        };
        pass.read_entries();
        pass.entries
            .required
            .clone_from(&pass.entries.recorded.entries);
        pass
    }

    /// Reads which entries are recorded now.
    pub fn read_entries(&mut self) {
        let (injected, removed, mut secrets) = self.read_state(|state| {
            let injected = state.injected_entries.clone();
            let removed = state.removed_entries.clone();
            (injected, removed, state.recorded_secrets.clone())
        });
        secrets.extend(injected.iter().map(|entry| entry.secret.clone()));
        let objects = &self.context.objects;
        let mut recorded =
            recorded_entries::read(objects, self.binding, self.last_status(), &secrets);
        recorded.entries.extend(injected);
        recorded.entries.retain(|entry| !removed.contains(entry));
        self.entries.recorded = recorded;
    }

    /// Whether the binding has the operator's finalizer.
    #[must_use]
    pub fn has_finalizer(&self) -> bool {
        let stored = self.binding.meta().resource_version.as_deref();
        let written = self.read_state(|state| state.finalizer.clone());
        let newer = written
            .filter(|written| stored.is_none_or(|stored| is_newer(&written.version, stored)));
        newer.map_or_else(|| has_finalizer(self.binding), |written| written.present)
    }

    /// The binding's UID.
    #[must_use]
    pub fn uid(&self) -> &'a str {
        self.binding.meta().uid.as_deref().unwrap_or_default()
    }

    /// The binding's poll interval, or the default of `--refresh-interval`.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let interval = self.binding.spec.interval();
        interval.unwrap_or(self.context.settings.refresh_interval)
    }

    /// How long a failing upstream leaves a condition True: `--stale-after`, and at least two polls.
    #[must_use]
    pub fn grace_period(&self) -> Duration {
        self.context.settings.stale_after.max(self.interval() * 2)
    }

    /// The status as last written.
    #[must_use]
    pub fn last_status(&self) -> Option<&DopplerPrefectBindingStatus> {
        let written = self.written_status.as_deref();
        written.or(self.binding.status.as_ref())
    }

    /// Whether the condition `type_` was True after the last reconcile.
    #[must_use]
    pub fn was_true(&self, type_: &str) -> bool {
        self.last_status()
            .is_some_and(|status| is_true(status, type_))
    }

    /// An object in the binding's namespace.
    #[must_use]
    pub fn object(&self, kind: ReferenceKind, name: impl Into<String>) -> ObjectKey {
        ObjectKey {
            kind,
            namespace: self.key.namespace().to_owned(),
            name: name.into(),
        }
    }

    /// Whether the Secret that the spec names exists and belongs to this binding.
    #[must_use]
    pub fn secret_exists(&self) -> bool {
        self.own_secret(self.binding.secret_name())
            .is_some_and(|cached| !cached.observed.terminating)
    }

    /// The Secret of this name, if it belongs to this binding.
    #[must_use]
    pub fn own_secret(&self, name: &str) -> Option<CachedObject> {
        let object = self.object(ReferenceKind::Secret, name);
        let cached = self.context.objects.get(&object);
        cached.filter(|cached| cached.observed.belongs_to(self.uid()))
    }

    /// What happens to the Secret of this name when the binding is deleted. A Secret that is not the
    /// binding's yet would be adopted.
    #[must_use]
    pub fn deletion_policy(&self, name: &str) -> DeletionPolicy {
        let object = self.object(ReferenceKind::Secret, name);
        let adopted = self.context.objects.get(&object).is_some_and(|cached| {
            let observed = &cached.observed;
            let left_by_us = observed.entries.is_some();
            observed.is_adopted() || !(observed.belongs_to(self.uid()) || left_by_us)
        });
        self.binding.spec.managed_secret.deletion_policy(adopted)
    }

    /// Reads the state that outlives the pass.
    pub fn read_state<T>(&self, read: impl FnOnce(&BindingState) -> T) -> T {
        self.context.states.read(self.key, read)
    }

    /// Updates the state that outlives the pass.
    pub fn update_state<T>(&self, update: impl FnOnce(&mut BindingState) -> T) -> T {
        self.context.states.update(self.key, update)
    }

    /// Reports an outcome: a log line, a count and an Event.
    pub fn emit(&self, reason: Reason, message: &str) {
        self.context.report.emit(self.binding, reason, message);
    }
}
