//! The watches: bindings into their store, metadata of Secrets and ConfigMaps into [`ObjectCache`].
//!
//! Input: the API server's watches of one scope.
//! Output: [`BindingEvent`]s, and calls of [`ObjectCache`].
//! Invariants: an event is passed on once the store shows it.
//! A watch that is interrupted or refused is logged, and started again with backoff. The backoff grows
//! until a list or a watch works.

use std::{collections::HashSet, fmt::Debug, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    object_cache::{ObjectCache, ReferenceKind},
    scope::WatchScope,
    scope_state::{Part, ScopeState},
    stored_binding::StoredBinding,
};
use crate::{
    crd::BindingRef,
    upstream::backoff::{Backoff, jittered},
};

/// Waits before an interrupted or refused watch is opened again.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

/// What the watch of bindings reports.
#[derive(Debug)]
pub enum BindingEvent<'a> {
    /// The store has a new version of this binding.
    Stored(&'a StoredBinding),
    /// The binding is new, or a user changed its spec or asks for a refresh. A write of the status does
    /// not count.
    SpecChanged(BindingRef),
    /// The binding was deleted.
    Deleted(BindingRef),
}

/// The bindings of a scope, and the task that keeps them current until `shutdown`.
pub fn watch_bindings<F: Fn(BindingEvent<'_>) + Send + 'static>(
    client: Client,
    scope: Arc<ScopeState>,
    on_event: F,
    shutdown: CancellationToken,
) -> (
    Store<StoredBinding>,
    impl Future<Output = ()> + Send + use<F>,
) {
    let (store, mut writer) = reflector::store();
    let stored = store.clone();
    let api: Api<StoredBinding> = scoped_api(client, scope.scope());
    let events = with_backoff(kube::runtime::watcher(api, watcher::Config::default()));
    let watch = async move {
        let mut events = std::pin::pin!(events.take_until(shutdown.cancelled_owned()));
        let mut changed_in_list = Vec::new();
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    on_error(&scope, Part::Bindings, &error);
                    continue;
                }
            };
            let changed = match &event {
                Event::Apply(binding) | Event::InitApply(binding) => spec_changed(&stored, binding),
                Event::Init | Event::InitDone | Event::Delete(_) => false,
            };
            let before_list = match &event {
                Event::InitDone => stored.state(),
                _ => Vec::new(),
            };
            writer.apply_watcher_event(&event);
            match event {
                Event::Init => changed_in_list.clear(),
                Event::InitApply(binding) if changed => {
                    changed_in_list.push(BindingRef::of(&binding));
                }
                Event::InitApply(_) => {}
                Event::InitDone => {
                    // The API server does not report deletions that fall between two lists.
                    let is_gone = |binding: &Arc<StoredBinding>| {
                        stored.get(&ObjectRef::from_obj(&**binding)).is_none()
                    };
                    for binding in before_list.into_iter().filter(is_gone) {
                        on_event(BindingEvent::Deleted(BindingRef::of(&*binding)));
                    }
                    for key in std::mem::take(&mut changed_in_list) {
                        on_event(BindingEvent::SpecChanged(key));
                    }
                    scope.on_listed(Part::Bindings);
                }
                Event::Apply(binding) => {
                    on_event(BindingEvent::Stored(&binding));
                    if changed {
                        on_event(BindingEvent::SpecChanged(BindingRef::of(&binding)));
                    }
                }
                Event::Delete(binding) => {
                    on_event(BindingEvent::Deleted(BindingRef::of(&binding)));
                }
            }
        }
    };
    (store, watch)
}

/// Reports an interrupted or refused watch. A refusal in one namespace becomes a state of its scope,
/// which is reported once.
fn on_error(scope: &ScopeState, part: Part, error: &watcher::Error) {
    let reason = error_text(error);
    if scope.namespace().is_some() && status_code(error) == Some(403) {
        debug!(?part, reason, "a list or watch is refused");
        scope.on_refused(part);
    } else {
        warn!(
            ?part,
            reason, "a watch was interrupted; the operator opens it again"
        );
    }
}

/// The events of a watch, with a growing wait after each error. An [`Event::Init`] only says that a
/// list begins, so it does not end the backoff, as it does with the backoff of kube.
pub(super) fn with_backoff<K: Send>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let state = (Box::pin(events), 0_u32, Duration::ZERO);
    stream::unfold(state, |(mut events, mut failures, wait)| async move {
        tokio::time::sleep(wait).await;
        let event = events.next().await?;
        let wait = match &event {
            Err(_) => {
                failures = failures.saturating_add(1);
                jittered(BACKOFF.delay(failures), 0.2)
            }
            Ok(Event::Init) => Duration::ZERO,
            Ok(_) => {
                failures = 0;
                Duration::ZERO
            }
        };
        Some((event, (events, failures, wait)))
    })
}

/// Whether a user changed what the binding asks for since the version in the store.
fn spec_changed(store: &Store<StoredBinding>, binding: &StoredBinding) -> bool {
    let relevant = |binding: &StoredBinding| {
        let meta = binding.meta();
        // A deletion changes the generation; a removed finalizer or label and an annotation do not.
        let marks = (
            meta.finalizers.clone(),
            meta.labels.clone(),
            meta.annotations.clone(),
        );
        (meta.uid.clone(), meta.generation, marks)
    };
    store
        .get(&ObjectRef::from_obj(binding))
        .is_none_or(|stored| relevant(&stored) != relevant(binding))
}

/// Keeps [`ObjectCache`] current with the metadata of one kind in one scope.
pub struct MetadataWatch {
    /// The API server.
    pub client: Client,
    /// Where the objects are, and how far their lists are.
    pub scope: Arc<ScopeState>,
    /// The cache that is kept current.
    pub objects: Arc<ObjectCache>,
}

impl std::fmt::Debug for MetadataWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataWatch")
            .field("scope", self.scope.scope())
            .finish_non_exhaustive()
    }
}

impl MetadataWatch {
    /// Watches Secrets until `shutdown`.
    pub async fn secrets(self, shutdown: CancellationToken) {
        let events = metadata_events::<Secret>(self.client.clone(), self.scope.scope(), shutdown);
        self.follow(ReferenceKind::Secret, events).await;
    }

    /// Watches ConfigMaps until `shutdown`.
    pub async fn config_maps(self, shutdown: CancellationToken) {
        let events =
            metadata_events::<ConfigMap>(self.client.clone(), self.scope.scope(), shutdown);
        self.follow(ReferenceKind::ConfigMap, events).await;
    }

    async fn follow<K: Debug>(self, kind: ReferenceKind, mut events: MetadataEvents<K>) {
        let namespace = self.scope.namespace();
        let part = match kind {
            ReferenceKind::Secret => Part::Secrets,
            ReferenceKind::ConfigMap => Part::ConfigMaps,
        };
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    let PartialObjectMeta { metadata, .. } = object;
                    listed.insert((
                        metadata.namespace.clone().unwrap_or_default(),
                        metadata.name.clone().unwrap_or_default(),
                    ));
                    self.objects.on_apply(kind, &metadata);
                }
                Ok(Event::InitDone) => {
                    self.objects.on_relist(kind, namespace, &listed);
                    listed = HashSet::new();
                    self.scope.on_listed(part);
                }
                Ok(Event::Apply(object)) => self.objects.on_apply(kind, &object.metadata),
                Ok(Event::Delete(object)) => self.objects.on_delete(kind, &object.metadata),
                Err(error) => on_error(&self.scope, part, &error),
            }
        }
    }
}

type MetadataEvents<K> = BoxStream<'static, watcher::Result<Event<PartialObjectMeta<K>>>>;

fn metadata_events<K>(
    client: Client,
    scope: &WatchScope,
    shutdown: CancellationToken,
) -> MetadataEvents<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    let api: Api<PartialObjectMeta<K>> = scoped_api(client, scope);
    with_backoff(kube::runtime::watcher(api, watcher::Config::default()))
        .take_until(shutdown.cancelled_owned())
        .boxed()
}

/// An API in a scope.
#[must_use]
pub fn scoped_api<K>(client: Client, scope: &WatchScope) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match scope {
        WatchScope::All => Api::all(client),
        WatchScope::Namespace(namespace) => Api::namespaced(client, namespace),
    }
}

/// Why a watch was interrupted. The text holds nothing of an object.
#[must_use]
pub fn error_text(error: &watcher::Error) -> String {
    let text = |error: &kube::Error| match error {
        kube::Error::Api(status) => {
            format!("the API server answered {} {}", status.code, status.reason)
        }
        _ => "the API server could not be reached".to_owned(),
    };
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => text(error),
        watcher::Error::WatchError(error) => {
            format!("the API server answered {} {}", error.code, error.reason)
        }
        watcher::Error::NoResourceVersion => {
            "the API server returned no resourceVersion".to_owned()
        }
    }
}

/// The status that the API server answered, if it did.
pub(super) fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
