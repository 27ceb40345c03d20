//! Caches the metadata of Secrets and ConfigMaps, from one watch per scope and kind.
//!
//! Input: watch events, the operator's own writes, and which binding tracks which object.
//! Output: the observed metadata of an object. A change enqueues the bindings that track it.
//! Invariants: it holds no secret value, and only objects that a binding tracks or that carry the
//! operator's label. An event no newer than the cached version, such as that of an own write,
//! enqueues nothing. A Secret with a record of pool entries that no binding tracks is enqueued itself.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

pub use crate::crd::ReferenceKind;
use crate::{
    crd::BindingRef,
    secret::{DataOwnership, ObservedSecret},
    upstream::poller::Enqueue,
};

/// An object by kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ReferenceKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    fn of(kind: ReferenceKind, metadata: &ObjectMeta) -> Option<Self> {
        Some(Self {
            kind,
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
        })
    }
}

/// An object as the cache holds it.
#[derive(Clone, Debug)]
pub struct CachedObject {
    /// Its reduced metadata.
    pub observed: Arc<ObservedSecret>,
    /// Whether the operator wrote or compared the content of this version.
    pub verified: bool,
}

/// The objects that bindings track.
pub struct ObjectCache {
    index: Mutex<Index>,
    enqueue: Enqueue<BindingRef>,
}

/// Objects by key, and tracked keys by binding.
#[derive(Default)]
struct Index {
    objects: HashMap<Arc<ObjectKey>, Entry>,
    /// The operator's Secrets that no binding tracks, by the binding in their annotation.
    untracked: HashMap<BindingRef, Vec<Arc<ObjectKey>>>,
    tracked_by: HashMap<BindingRef, Box<[Arc<ObjectKey>]>>,
}

/// An object that exists, or that a binding tracks.
#[derive(Default)]
struct Entry {
    cached: Option<CachedObject>,
    /// The bindings that track it, sorted. Rarely more than one.
    trackers: Vec<BindingRef>,
    /// The binding under which it is in [`Index::untracked`].
    left_by: Option<BindingRef>,
}

impl std::fmt::Debug for ObjectCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectCache").finish_non_exhaustive()
    }
}

impl ObjectCache {
    /// Creates an empty cache. It calls `enqueue` for the bindings whose objects change.
    #[must_use]
    pub fn new(enqueue: Enqueue<BindingRef>) -> Self {
        Self {
            index: Mutex::default(),
            enqueue,
        }
    }

    /// Makes a binding track exactly these objects.
    pub fn track(&self, binding: &BindingRef, objects: HashSet<ObjectKey>) {
        let mut index = self.index.lock();
        let before = index.tracked_by.get(binding);
        let same = before.is_some_and(|before| {
            before.len() == objects.len() && before.iter().all(|object| objects.contains(&**object))
        });
        if same {
            return;
        }
        for object in index.tracked_by.remove(binding).unwrap_or_default() {
            if !objects.contains(&*object) {
                index.remove_tracker(binding, &object);
            }
        }
        let objects: Box<[Arc<ObjectKey>]> = objects
            .into_iter()
            .map(|object| index.add_tracker(binding, object))
            .collect();
        index.tracked_by.insert(binding.clone(), objects);
    }

    /// Makes a binding track nothing.
    pub fn untrack(&self, binding: &BindingRef) {
        let mut index = self.index.lock();
        for object in index.tracked_by.remove(binding).unwrap_or_default() {
            index.remove_tracker(binding, &object);
        }
    }

    /// The Secrets that a binding tracks and that have a record of pool entries.
    #[must_use]
    pub fn tracked_secrets_with_entries(&self, binding: &BindingRef) -> Vec<String> {
        let index = self.index.lock();
        let tracked = index.tracked_by.get(binding);
        let has_entries = |object: &&Arc<ObjectKey>| {
            let cached = index.cached(object);
            object.kind == ReferenceKind::Secret
                && cached.is_some_and(|cached| cached.observed.entries.is_some())
        };
        let objects = tracked.into_iter().flatten().filter(has_entries);
        objects.map(|object| object.name.clone()).collect()
    }

    /// The Secrets that the operator wrote for a binding with this UID, and that no binding tracks,
    /// such as one of an earlier name.
    #[must_use]
    pub fn left_secrets(&self, binding: &BindingRef, uid: &str) -> Vec<String> {
        let index = self.index.lock();
        let left = index.untracked.get(binding).into_iter().flatten();
        let was_written_for = |object: &&Arc<ObjectKey>| {
            let cached = index.cached(object);
            cached.is_some_and(|cached| {
                let owner = cached.observed.binding_uid.as_ref();
                // A user's copy has the same annotations, but another client wrote its data.
                let is_ours = matches!(cached.observed.data, DataOwnership::Ours(_));
                is_ours && owner.is_some_and(|owner| *owner == *uid)
            })
        };
        left.filter(was_written_for)
            .map(|object| object.name.clone())
            .collect()
    }

    /// Whether a binding tracks the object.
    #[must_use]
    pub fn is_tracked(&self, object: &ObjectKey) -> bool {
        self.index.lock().is_tracked(object)
    }

    /// The cached object. None if it does not exist, or no watch has delivered it.
    #[must_use]
    pub fn get(&self, object: &ObjectKey) -> Option<CachedObject> {
        self.index.lock().objects.get(object)?.cached.clone()
    }

    /// Caches an object that the operator wrote or read itself, unless the cache has a newer version.
    pub fn observe(&self, object: &ObjectKey, observed: ObservedSecret, verified: bool) {
        let mut index = self.index.lock();
        let is_newer = index.cached(object).is_some_and(|cached| {
            is_newer(
                &cached.observed.resource_version,
                &observed.resource_version,
            )
        });
        if !is_newer {
            let observed = Arc::new(observed);
            index.insert(object, CachedObject { observed, verified });
        }
    }

    /// Marks the content of the object at this version as verified.
    pub fn mark_verified(&self, object: &ObjectKey, resource_version: &str) {
        if let Some(entry) = self.index.lock().objects.get_mut(object)
            && let Some(cached) = &mut entry.cached
            && *cached.observed.resource_version == *resource_version
        {
            cached.verified = true;
        }
    }

    /// Evicts an object that does not exist any more, as the API server answered.
    pub fn evict(&self, object: &ObjectKey) {
        self.index.lock().evict(object);
    }

    /// Handles a watch event: the object exists.
    pub fn on_apply(&self, kind: ReferenceKind, metadata: &ObjectMeta) {
        let Some(object) = ObjectKey::of(kind, metadata) else {
            return;
        };
        let observed = ObservedSecret::from_metadata(metadata);
        let trackers = {
            let mut index = self.index.lock();
            let is_ours = kind == ReferenceKind::Secret && observed.has_managed_by_label;
            if !is_ours && !index.is_tracked(&object) {
                index.evict(&object);
                return;
            }
            if let Some(cached) = index.cached(&object)
                && !is_newer(
                    &observed.resource_version,
                    &cached.observed.resource_version,
                )
            {
                return;
            }
            let has_entries = kind == ReferenceKind::Secret && observed.entries.is_some();
            let observed = Arc::new(observed);
            let verified = false;
            index.insert(&object, CachedObject { observed, verified });
            let trackers = index.trackers(&object).to_vec();
            if trackers.is_empty() && has_entries {
                // Its binding may no longer exist.
                vec![BindingRef::orphan(&object.namespace, &object.name)]
            } else {
                trackers
            }
        };
        self.enqueue_all(&trackers);
    }

    /// Handles a watch event: the object is deleted.
    pub fn on_delete(&self, kind: ReferenceKind, metadata: &ObjectMeta) {
        let Some(object) = ObjectKey::of(kind, metadata) else {
            return;
        };
        let trackers = {
            let mut index = self.index.lock();
            // Ignore the deletion of an earlier incarnation (different UID).
            let is_earlier = index.cached(&object).is_some_and(|cached| {
                let uid = metadata.uid.as_deref();
                uid.is_some_and(|uid| cached.observed.uid != *uid)
            });
            if is_earlier {
                return;
            }
            let trackers = index.trackers(&object).to_vec();
            index.evict(&object);
            trackers
        };
        self.enqueue_all(&trackers);
    }

    /// Handles the end of a list of `kind` in `namespace` (or in all): objects that are not in
    /// `listed` are deleted.
    pub fn on_relist(
        &self,
        kind: ReferenceKind,
        namespace: Option<&str>,
        listed: &HashSet<(String, String)>,
    ) {
        let trackers: HashSet<BindingRef> = {
            let mut index = self.index.lock();
            let deleted = index.objects.iter().filter(|(object, entry)| {
                entry.cached.is_some()
                    && object.kind == kind
                    && namespace.is_none_or(|namespace| object.namespace == namespace)
                    && !listed.contains(&(object.namespace.clone(), object.name.clone()))
            });
            let deleted: Vec<Arc<ObjectKey>> =
                deleted.map(|(object, _)| Arc::clone(object)).collect();
            let mut trackers = HashSet::new();
            for object in &deleted {
                trackers.extend(index.trackers(object).iter().cloned());
                index.evict(object);
            }
            trackers
        };
        self.enqueue_all(&trackers);
    }

    /// Enqueues bindings. The caller holds no lock.
    fn enqueue_all<'a>(&self, bindings: impl IntoIterator<Item = &'a BindingRef>) {
        for binding in bindings {
            (self.enqueue)(binding);
        }
    }
}

impl Index {
    fn cached(&self, object: &ObjectKey) -> Option<&CachedObject> {
        self.objects.get(object)?.cached.as_ref()
    }

    fn trackers(&self, object: &ObjectKey) -> &[BindingRef] {
        let entry = self.objects.get(object);
        entry.map_or(&[], |entry| &entry.trackers)
    }

    fn is_tracked(&self, object: &ObjectKey) -> bool {
        !self.trackers(object).is_empty()
    }

    fn insert(&mut self, object: &ObjectKey, cached: CachedObject) {
        if let Some(entry) = self.objects.get_mut(object) {
            entry.cached = Some(cached);
        } else {
            let entry = Entry {
                cached: Some(cached),
                ..Entry::default()
            };
            self.objects.insert(Arc::new(object.clone()), entry);
        }
        self.index_untracked(object);
    }

    /// Brings [`Index::untracked`] up to date for one object.
    fn index_untracked(&mut self, object: &ObjectKey) {
        let Some((shared, _)) = self.objects.get_key_value(object) else {
            return;
        };
        let shared = Arc::clone(shared);
        let Some(entry) = self.objects.get_mut(object) else {
            return;
        };
        let cached = entry.cached.as_ref().filter(|_| entry.trackers.is_empty());
        let observed = cached.map(|cached| &*cached.observed);
        let observed = observed.filter(|observed| observed.has_managed_by_label);
        let binding = observed.and_then(|observed| observed.binding.as_deref());
        let now = binding.map(|binding| BindingRef::new(&object.namespace, binding));
        if entry.left_by == now {
            return;
        }
        let before = std::mem::replace(&mut entry.left_by, now.clone());
        if let Some(before) = before
            && let Some(left) = self.untracked.get_mut(&before)
        {
            left.retain(|other| **other != *object);
            if left.is_empty() {
                self.untracked.remove(&before);
            }
        }
        if let Some(now) = now {
            self.untracked.entry(now).or_default().push(shared);
        }
    }

    fn evict(&mut self, object: &ObjectKey) {
        if let Some(entry) = self.objects.get_mut(object) {
            entry.cached = None;
            let is_unused = entry.trackers.is_empty();
            self.index_untracked(object);
            if is_unused {
                self.objects.remove(object);
            }
        }
    }

    /// Adds a tracker, and returns the key that all trackers share.
    fn add_tracker(&mut self, binding: &BindingRef, object: ObjectKey) -> Arc<ObjectKey> {
        let shared = self.objects.get_key_value(&object);
        let object = shared.map_or_else(|| Arc::new(object), |(shared, _)| Arc::clone(shared));
        let entry = self.objects.entry(Arc::clone(&object)).or_default();
        if let Err(at) = entry.trackers.binary_search(binding) {
            if entry.trackers.is_empty() {
                entry.trackers.reserve_exact(1);
            }
            entry.trackers.insert(at, binding.clone());
        }
        self.index_untracked(&object);
        object
    }

    fn remove_tracker(&mut self, binding: &BindingRef, object: &ObjectKey) {
        let Some(entry) = self.objects.get_mut(object) else {
            return;
        };
        if let Ok(at) = entry.trackers.binary_search(binding) {
            entry.trackers.remove(at);
        }
        let cached = entry.cached.as_ref();
        let is_ours = cached.is_some_and(|cached| cached.observed.has_managed_by_label);
        let is_unused = entry.trackers.is_empty() && !is_ours;
        self.index_untracked(object);
        if is_unused {
            self.objects.remove(object);
        }
    }
}

/// Whether version `a` is newer than `b`. Every API server counts versions as numbers. If one does
/// not, a different version counts as newer.
pub(super) fn is_newer(a: &str, b: &str) -> bool {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a > b,
        _ => a != b,
    }
}

#[cfg(test)]
mod tests;
