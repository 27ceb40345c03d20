//! The pods of flow runs that do not start because of a managed Secret, by Secret.
//!
//! Input: the pods that [`watch`] delivers, and which binding manages which Secret.
//! Output: the pods to report of a binding. A binding is enqueued when they change.
//! Invariants: a pod concerns only bindings of its own namespace. Memory is bounded: a few pods for
//! each managed Secret, and a few Secrets in each namespace that no binding manages yet.

pub mod pod;
pub mod pod_state;
pub mod troubles;
pub mod watch;

use std::collections::{BTreeSet, HashMap};

use kube::Resource;
use parking_lot::Mutex;

use self::{
    pod::RunPod,
    pod_state::PodState,
    troubles::{PodTroubles, SeenPod, TroubledPod},
};
use crate::{
    crd::{BindingRef, Uid},
    upstream::poller::Enqueue,
};

/// Secrets of one namespace that no binding manages, and that pods wait for. Their binding may follow.
const MAX_UNMANAGED: usize = 16;

/// The pods of flow runs that do not start because of a managed Secret.
pub struct RunPods {
    index: Mutex<Index>,
    enqueue: Enqueue<BindingRef>,
}

#[derive(Default)]
struct Index {
    namespaces: HashMap<Box<str>, HashMap<Box<str>, SecretPods>>,
    managed: HashMap<BindingRef, Box<str>>,
}

/// The pods that load one Secret.
#[derive(Default)]
struct SecretPods {
    /// The bindings that manage the Secret, or want to. Rarely more than one.
    bindings: Vec<BindingRef>,
    troubles: PodTroubles,
}

impl std::fmt::Debug for RunPods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunPods").finish_non_exhaustive()
    }
}

impl RunPods {
    /// Knows no pod yet. It calls `enqueue` for the bindings whose pods to report change.
    #[must_use]
    pub fn new(enqueue: Enqueue<BindingRef>) -> Self {
        Self {
            index: Mutex::default(),
            enqueue,
        }
    }

    /// Sets the Secret that a binding manages, instead of an earlier one.
    pub fn track(&self, binding: &BindingRef, secret: &str) {
        let mut index = self.index.lock();
        if index.managed.get(binding).map(|name| &**name) == Some(secret) {
            return;
        }
        index.untrack(binding);
        index.managed.insert(binding.clone(), secret.into());
        let of_secret = index.secret(binding.namespace(), secret);
        of_secret.bindings.push(binding.clone());
    }

    /// Drops what a deleted binding managed.
    pub fn untrack(&self, binding: &BindingRef) {
        self.index.lock().untrack(binding);
    }

    /// The pods that do not start because of the Secret of a binding, the newest first.
    #[must_use]
    pub fn troubled(&self, binding: &BindingRef) -> Vec<TroubledPod> {
        let index = self.index.lock();
        let secret = index.managed.get(binding);
        let secrets = index.namespaces.get(binding.namespace());
        let found = secret.and_then(|secret| secrets?.get(secret));
        found.map_or_else(Vec::new, |found| found.troubles.pods().to_vec())
    }

    /// Handles a pod that exists. `seen` is the number of the list or watch that shows it.
    pub fn on_apply(&self, pod: &RunPod, seen: u64) {
        if pod.is_terminating() {
            return self.on_delete(pod);
        }
        let uid = uid(pod);
        let seen = SeenPod {
            name: pod.meta().name.as_deref().unwrap_or_default(),
            uid: &uid,
            run: pod.run.as_deref(),
            created: pod.created,
            seen,
        };
        let states = pod.states.iter();
        self.update(namespace(pod), states, |secret, state| {
            secret.troubles.observe(seen, *state)
        });
    }

    /// Handles a pod that no longer exists, or is about to end.
    pub fn on_delete(&self, pod: &RunPod) {
        let uid = uid(pod);
        let states = pod.states.iter();
        self.update(namespace(pod), states, |secret, _| {
            secret.troubles.remove(&uid)
        });
    }

    /// Handles the end of a list in `namespace`, or in all: pods that neither it nor the watch since
    /// its begin showed no longer exist.
    pub fn on_listed(&self, namespace: Option<&str>, seen: u64) {
        let changed: Vec<BindingRef> = {
            let mut index = self.index.lock();
            let namespaces = index.namespaces.iter_mut();
            let listed = namespaces.filter(|(name, _)| namespace.is_none_or(|own| own == &***name));
            let secrets = listed.flat_map(|(_, secrets)| secrets.values_mut());
            let changed = secrets.filter_map(|secret| {
                let changed = secret.troubles.remove_unseen(seen);
                changed.then(|| secret.bindings.clone())
            });
            let changed = changed.flatten().collect();
            index.drop_unused();
            changed
        };
        for binding in &changed {
            (self.enqueue)(binding);
        }
    }

    /// Updates the Secrets that a pod loads, and enqueues the bindings whose pods to report change.
    fn update<'a>(
        &self,
        namespace: &str,
        states: impl Iterator<Item = (&'a Box<str>, &'a PodState)>,
        mut update: impl FnMut(&mut SecretPods, &PodState) -> bool,
    ) {
        let mut changed = BTreeSet::new();
        {
            let mut index = self.index.lock();
            for (secret, state) in states {
                if !index.keeps(namespace, secret, *state) {
                    continue;
                }
                let of_secret = index.secret(namespace, secret);
                if update(of_secret, state) {
                    changed.extend(of_secret.bindings.iter().cloned());
                }
                index.drop_if_unused(namespace, secret);
            }
        }
        for binding in &changed {
            (self.enqueue)(binding);
        }
    }
}

impl Index {
    /// Whether a pod with this state is kept for the Secret: if a binding manages it, or else if the
    /// pod waits for it and there is room.
    fn keeps(&self, namespace: &str, secret: &str, state: PodState) -> bool {
        let secrets = self.namespaces.get(namespace);
        if secrets.is_some_and(|secrets| secrets.contains_key(secret)) {
            return true;
        }
        let waits = matches!(state, PodState::Troubled(trouble) if trouble.is_wait());
        waits && self.unmanaged(namespace) < MAX_UNMANAGED
    }

    /// How many Secrets of a namespace no binding manages.
    fn unmanaged(&self, namespace: &str) -> usize {
        let secrets = self.namespaces.get(namespace);
        let secrets = secrets.into_iter().flat_map(HashMap::values);
        secrets.filter(|secret| secret.bindings.is_empty()).count()
    }

    fn secret(&mut self, namespace: &str, secret: &str) -> &mut SecretPods {
        let secrets = self.namespaces.entry(namespace.into()).or_default();
        secrets.entry(secret.into()).or_default()
    }

    fn untrack(&mut self, binding: &BindingRef) {
        let Some(secret) = self.managed.remove(binding) else {
            return;
        };
        let has_room = self.unmanaged(binding.namespace()) < MAX_UNMANAGED;
        let of_secret = self.secret(binding.namespace(), &secret);
        of_secret.bindings.retain(|other| other != binding);
        if of_secret.bindings.is_empty() && !has_room {
            of_secret.troubles = PodTroubles::default();
        }
        self.drop_if_unused(binding.namespace(), &secret);
    }

    fn drop_if_unused(&mut self, namespace: &str, secret: &str) {
        let Some(secrets) = self.namespaces.get_mut(namespace) else {
            return;
        };
        if secrets.get(secret).is_some_and(SecretPods::is_unused) {
            secrets.remove(secret);
        }
        if secrets.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    fn drop_unused(&mut self) {
        self.namespaces.retain(|_, secrets| {
            secrets.retain(|_, secret| !secret.is_unused());
            !secrets.is_empty()
        });
    }
}

impl SecretPods {
    fn is_unused(&self) -> bool {
        self.bindings.is_empty() && self.troubles.pods().is_empty()
    }
}

fn namespace(pod: &RunPod) -> &str {
    pod.meta().namespace.as_deref().unwrap_or_default()
}

fn uid(pod: &RunPod) -> Uid {
    Uid::from(pod.meta().uid.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests;
