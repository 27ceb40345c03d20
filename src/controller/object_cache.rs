//! What is known of Secrets and ConfigMaps, from one metadata watch for each scope and kind.
//!
//! In: watch events, our own writes, and which binding cares about which object. Out: the reduced facts of an object, and wakes for those that care
//! when it changed. Only objects that somebody cares about, or that are labelled as ours, are kept. It never holds a value, and events no newer
//! than what it already knows (our own writes among them) wake nobody.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::work_queue::BindingRef;
pub use crate::crd::ReferenceKind;
use crate::secret::ObservedSecret;

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

/// What is known of an object.
#[derive(Clone, Debug)]
pub struct CachedObject {
    /// Its reduced metadata.
    pub observed: Arc<ObservedSecret>,
    /// Whether its content at this version was written, or compared, by us.
    pub verified: bool,
}

/// Wakes a binding.
pub type Enqueue = Box<dyn Fn(&BindingRef) + Send + Sync>;

/// The objects that bindings name.
pub struct ObjectCache {
    table: Mutex<Table>,
    wake: Enqueue,
}

#[derive(Default)]
struct Table {
    objects: HashMap<Arc<ObjectKey>, Slot>,
    of: HashMap<BindingRef, Box<[Arc<ObjectKey>]>>,
}

/// An object that is known, or that somebody cares about.
#[derive(Default)]
struct Slot {
    known: Option<CachedObject>,
    /// Sorted; seldom more than one.
    interested: Vec<BindingRef>,
}

impl std::fmt::Debug for ObjectCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl ObjectCache {
    /// Nothing is known yet; `wake` is called for bindings whose objects change.
    #[must_use]
    pub fn new(wake: Enqueue) -> Self {
        Self {
            table: Mutex::default(),
            wake,
        }
    }

    /// `who` cares about exactly these objects from now on.
    pub fn track(&self, who: &BindingRef, keys: HashSet<ObjectKey>) {
        let mut table = self.table();
        let before = table.of.get(who);
        let same = before.is_some_and(|before| {
            before.len() == keys.len() && before.iter().all(|key| keys.contains(&**key))
        });
        if same {
            return;
        }
        for key in table.of.remove(who).unwrap_or_default() {
            if !keys.contains(&*key) {
                table.lose_interest(who, &key);
            }
        }
        let keys: Box<[Arc<ObjectKey>]> = keys
            .into_iter()
            .map(|key| table.gain_interest(who, key))
            .collect();
        table.of.insert(who.clone(), keys);
    }

    /// `who` cares about nothing any more.
    pub fn untrack(&self, who: &BindingRef) {
        let mut table = self.table();
        for key in table.of.remove(who).unwrap_or_default() {
            table.lose_interest(who, &key);
        }
    }

    /// Whether a binding cares about the object.
    #[must_use]
    pub fn is_tracked(&self, key: &ObjectKey) -> bool {
        self.table().is_tracked(key)
    }

    /// What is known of an object. Nothing means that it is not there, or was never seen.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<CachedObject> {
        self.table().objects.get(key)?.known.clone()
    }

    /// We wrote or read the object: its content at this version is as `verified` says.
    pub fn observe(&self, key: &ObjectKey, facts: ObservedSecret, verified: bool) {
        let mut table = self.table();
        let known = table.known(key);
        let older = known.is_some_and(|known| {
            is_newer(&known.observed.resource_version, &facts.resource_version)
        });
        if !older {
            let facts = Arc::new(facts);
            table.know(
                key,
                CachedObject {
                    observed: facts,
                    verified,
                },
            );
        }
    }

    /// The content of the object at this version was compared and is as it should be.
    pub fn mark_verified(&self, key: &ObjectKey, resource_version: &str) {
        if let Some(slot) = self.table().objects.get_mut(key)
            && let Some(known) = &mut slot.known
            && *known.observed.resource_version == *resource_version
        {
            known.verified = true;
        }
    }

    /// The object is gone, as we were told by the API server.
    pub fn evict(&self, key: &ObjectKey) {
        self.table().evict(key);
    }

    /// A watch says that the object is there.
    pub fn on_apply(&self, kind: ReferenceKind, metadata: &ObjectMeta) {
        let Some(key) = key_of(kind, metadata) else {
            return;
        };
        let facts = ObservedSecret::from_metadata(metadata);
        let woken = {
            let mut table = self.table();
            let wanted = table.is_tracked(&key)
                || (kind == ReferenceKind::Secret && facts.has_managed_by_label);
            if !wanted {
                table.evict(&key);
                return;
            }
            if let Some(known) = table.known(&key)
                && !is_newer(&facts.resource_version, &known.observed.resource_version)
            {
                return;
            }
            let facts = Arc::new(facts);
            let verified = false;
            table.know(
                &key,
                CachedObject {
                    observed: facts,
                    verified,
                },
            );
            table.interested(&key).to_vec()
        };
        for who in &woken {
            (self.wake)(who);
        }
    }

    /// A watch says that the object is gone.
    pub fn on_delete(&self, kind: ReferenceKind, metadata: &ObjectMeta) {
        let Some(key) = key_of(kind, metadata) else {
            return;
        };
        let woken = {
            let mut table = self.table();
            // A late word of an object that we have written again since is no news.
            let again = table.known(&key).is_some_and(|known| {
                let uid = metadata.uid.as_deref();
                uid.is_some_and(|uid| known.observed.uid != *uid)
            });
            if again {
                return;
            }
            let woken = table.interested(&key).to_vec();
            table.evict(&key);
            woken
        };
        for who in &woken {
            (self.wake)(who);
        }
    }

    /// A watch listed everything of `kind` in `namespace` (or everywhere): what is not in `seen` is gone.
    pub fn on_relist(
        &self,
        kind: ReferenceKind,
        namespace: Option<&str>,
        seen: &HashSet<(String, String)>,
    ) {
        let woken: HashSet<BindingRef> = {
            let mut table = self.table();
            let gone = table.objects.iter().filter(|(key, slot)| {
                slot.known.is_some()
                    && key.kind == kind
                    && namespace.is_none_or(|namespace| key.namespace == namespace)
                    && !seen.contains(&(key.namespace.clone(), key.name.clone()))
            });
            let gone: Vec<Arc<ObjectKey>> = gone.map(|(key, _)| Arc::clone(key)).collect();
            let mut woken = HashSet::new();
            for key in &gone {
                woken.extend(table.interested(key).iter().cloned());
                table.evict(key);
            }
            woken
        };
        for who in &woken {
            (self.wake)(who);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn known(&self, key: &ObjectKey) -> Option<&CachedObject> {
        self.objects.get(key)?.known.as_ref()
    }

    fn interested(&self, key: &ObjectKey) -> &[BindingRef] {
        let slot = self.objects.get(key);
        slot.map_or(&[], |slot| &slot.interested)
    }

    fn is_tracked(&self, key: &ObjectKey) -> bool {
        !self.interested(key).is_empty()
    }

    fn know(&mut self, key: &ObjectKey, known: CachedObject) {
        if let Some(slot) = self.objects.get_mut(key) {
            slot.known = Some(known);
        } else {
            let slot = Slot {
                known: Some(known),
                interested: Vec::new(),
            };
            self.objects.insert(Arc::new(key.clone()), slot);
        }
    }

    /// Nothing is known of the object any more.
    fn evict(&mut self, key: &ObjectKey) {
        if let Some(slot) = self.objects.get_mut(key) {
            slot.known = None;
            if slot.interested.is_empty() {
                self.objects.remove(key);
            }
        }
    }

    /// `who` cares about the object. Gives its key, which all who do share.
    fn gain_interest(&mut self, who: &BindingRef, key: ObjectKey) -> Arc<ObjectKey> {
        let known = self.objects.get_key_value(&key);
        let key = known.map_or_else(|| Arc::new(key), |(known, _)| Arc::clone(known));
        let slot = self.objects.entry(Arc::clone(&key)).or_default();
        if let Err(at) = slot.interested.binary_search(who) {
            if slot.interested.is_empty() {
                slot.interested.reserve_exact(1);
            }
            slot.interested.insert(at, who.clone());
        }
        key
    }

    fn lose_interest(&mut self, who: &BindingRef, key: &ObjectKey) {
        let Some(slot) = self.objects.get_mut(key) else {
            return;
        };
        if let Ok(at) = slot.interested.binary_search(who) {
            slot.interested.remove(at);
        }
        let kept = slot
            .known
            .as_ref()
            .is_some_and(|known| known.observed.has_managed_by_label);
        if slot.interested.is_empty() && !kept {
            self.objects.remove(key);
        }
    }
}

fn key_of(kind: ReferenceKind, metadata: &ObjectMeta) -> Option<ObjectKey> {
    Some(ObjectKey {
        kind,
        namespace: metadata.namespace.clone()?,
        name: metadata.name.clone()?,
    })
}

/// Whether version `a` is newer than `b`. Versions are numbers in every API server there is; where they are not, another one counts as newer.
pub(super) fn is_newer(a: &str, b: &str) -> bool {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a > b,
        _ => a != b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn objects() -> (ObjectCache, Arc<Mutex<Vec<String>>>) {
        let woken = Arc::new(Mutex::new(vec![]));
        let list = Arc::clone(&woken);
        (
            ObjectCache::new(Box::new(move |who| {
                list.lock().unwrap().push(who.name().to_owned());
            })),
            woken,
        )
    }

    fn secret(name: &str, version: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("flows".to_owned()),
            uid: Some(format!("uid-{name}")),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey {
            kind: ReferenceKind::Secret,
            namespace: "flows".to_owned(),
            name: name.to_owned(),
        }
    }

    fn binding(name: &str) -> BindingRef {
        BindingRef::new("flows", name)
    }

    #[test]
    fn our_own_write_is_not_drift() {
        let (objects, woken) = objects();
        objects.track(&binding("b"), HashSet::from([key("s")]));
        objects.observe(
            &key("s"),
            ObservedSecret::from_metadata(&secret("s", "10")),
            true,
        );
        objects.on_apply(ReferenceKind::Secret, &secret("s", "9"));
        objects.on_apply(ReferenceKind::Secret, &secret("s", "10"));
        assert!(woken.lock().unwrap().is_empty());
        assert!(objects.get(&key("s")).unwrap().verified);
        objects.on_apply(ReferenceKind::Secret, &secret("s", "11"));
        assert_eq!(*woken.lock().unwrap(), ["b"]);
        assert!(!objects.get(&key("s")).unwrap().verified);
    }

    #[test]
    fn a_deleted_object_wakes_all_who_care_and_nobody_else() {
        let (objects, woken) = objects();
        objects.track(&binding("a"), HashSet::from([key("s")]));
        objects.track(&binding("b"), HashSet::from([key("s")]));
        objects.track(&binding("c"), HashSet::from([key("t")]));
        objects.observe(
            &key("s"),
            ObservedSecret::from_metadata(&secret("s", "10")),
            true,
        );
        objects.on_delete(ReferenceKind::Secret, &secret("s", "12"));
        let mut names = woken.lock().unwrap().clone();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        assert!(objects.get(&key("s")).is_none());
    }

    #[test]
    fn a_late_word_of_an_object_that_was_written_again_is_no_news() {
        let (objects, woken) = objects();
        objects.track(&binding("a"), HashSet::from([key("s")]));
        let again = ObjectMeta {
            uid: Some("another".to_owned()),
            ..secret("s", "20")
        };
        objects.observe(&key("s"), ObservedSecret::from_metadata(&again), true);
        objects.on_delete(ReferenceKind::Secret, &secret("s", "15"));
        assert!(woken.lock().unwrap().is_empty());
        assert!(objects.get(&key("s")).is_some());
    }

    #[test]
    fn what_nobody_cares_about_is_not_kept() {
        let (objects, _) = objects();
        objects.on_apply(ReferenceKind::Secret, &secret("s", "1"));
        assert!(objects.get(&key("s")).is_none());
        objects.track(&binding("a"), HashSet::from([key("s")]));
        objects.on_apply(ReferenceKind::Secret, &secret("s", "1"));
        objects.track(&binding("a"), HashSet::new());
        assert!(objects.get(&key("s")).is_none());
        let ours = ObjectMeta {
            labels: Some(BTreeMap::from([(
                crate::crd::MANAGED_BY_LABEL.to_owned(),
                crate::crd::MANAGED_BY.to_owned(),
            )])),
            ..secret("ours", "1")
        };
        objects.on_apply(ReferenceKind::Secret, &ours);
        assert!(objects.get(&key("ours")).is_some());
    }

    #[test]
    fn what_a_list_does_not_hold_any_more_is_gone() {
        let (objects, woken) = objects();
        objects.track(&binding("a"), HashSet::from([key("s"), key("t")]));
        objects.on_apply(ReferenceKind::Secret, &secret("s", "1"));
        objects.on_apply(ReferenceKind::Secret, &secret("t", "2"));
        woken.lock().unwrap().clear();
        objects.on_relist(
            ReferenceKind::Secret,
            None,
            &HashSet::from([("flows".to_owned(), "t".to_owned())]),
        );
        assert!(objects.get(&key("s")).is_none());
        assert!(objects.get(&key("t")).is_some());
        assert_eq!(*woken.lock().unwrap(), ["a"]);
    }
}
