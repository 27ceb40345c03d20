//! One reconcile of one binding: what its steps read, and what they leave behind.
//!
//! Input: the context, the binding, and its state from earlier reconciles.
//! Output: the values that several steps need, and when to reconcile the binding again.
//! Invariants: a pass lives for one reconcile. It sends no request.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::Resource;

use super::{
    binding_state::BindingState,
    context::Context,
    object_cache::{ObjectKey, ReferenceKind},
    requeue::Requeue,
};
use crate::{
    crd::{
        BindingRef, DopplerPrefectBinding, DopplerPrefectBindingStatus,
        injected::{InjectedEntry, injected_entries},
    },
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
    /// The entries that the binding's annotation records.
    pub entries: InjectedEntries,
    /// When to reconcile again.
    pub requeue: Requeue,
    /// The status as last written, if the store does not have it yet.
    written_status: Option<Arc<DopplerPrefectBindingStatus>>,
}

/// The entries that the binding's annotation records.
#[derive(Clone, Debug, Default)]
pub struct InjectedEntries {
    /// The entries that the annotation holds now.
    pub recorded: BTreeSet<InjectedEntry>,
    /// The entries that it must hold after this pass: a pool has them, or will have them.
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
        let states = &context.states;
        let recorded = states.read(key, |state| state.injected_entries.clone());
        let recorded = recorded.unwrap_or_else(|| injected_entries(binding));
        Self {
            context,
            key,
            binding,
            entries: InjectedEntries {
                required: recorded.clone(),
                recorded,
            },
            requeue: Requeue::default(),
            written_status,
        }
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
        let object = self.object(ReferenceKind::Secret, self.binding.secret_name());
        let cached = self.context.objects.get(&object);
        cached.is_some_and(|cached| {
            !cached.observed.terminating && cached.observed.belongs_to(self.uid())
        })
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
