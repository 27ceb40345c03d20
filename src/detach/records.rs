//! What the operator recorded for each binding.
//!
//! Input: the bindings, and the metadata of the operator's Secrets.
//! Output: [`BindingEntries`] for each binding, and for each Secret whose binding no longer exists.
//! Invariants: reads metadata only. As in the controller, what authors of bindings can write does not
//! count.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt, api::ListParams, core::PartialObjectMeta};
use tokio::time::timeout;

use super::{
    DetachError,
    context::{Detacher, REQUEST_TIMEOUT},
};
use crate::{
    controller::{
        object_cache::ReferenceKind,
        recorded_entries::{self, RecordedEntries},
        recorded_orphan::Orphan,
        scope::WatchScope,
        watches::scoped_api,
    },
    crd::{DopplerPrefectBinding, MANAGED_BY, MANAGED_BY_LABEL},
    secret::ObservedSecret,
};

/// Secrets in one page of a list.
const PAGE_SIZE: u32 = 500;

/// A binding, and the pool entries that are recorded for it.
pub(super) struct BindingEntries {
    pub(super) binding: DopplerPrefectBinding,
    pub(super) recorded: RecordedEntries,
    /// Whether the binding no longer exists, and only its Secret is left.
    pub(super) is_orphan: bool,
}

impl Detacher {
    /// Reads the entries of all bindings, and of Secrets whose binding no longer exists.
    ///
    /// # Errors
    /// If the metadata of Secrets cannot be listed.
    pub(super) async fn with_entries(
        &self,
        bindings: Vec<DopplerPrefectBinding>,
        watch_namespaces: &[String],
    ) -> Result<Vec<BindingEntries>, DetachError> {
        let mut secrets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut orphans = Vec::new();
        let uids: HashSet<String> = bindings.iter().filter_map(ResourceExt::uid).collect();
        for scope in WatchScope::of(watch_namespaces) {
            for metadata in self.list_secrets(&scope).await? {
                let object = &metadata.metadata;
                self.objects.on_apply(ReferenceKind::Secret, object);
                let Some(orphan) = Orphan::of(&ObservedSecret::from_metadata(object)) else {
                    continue;
                };
                let name = metadata.name_any();
                if uids.contains(&orphan.uid) {
                    secrets.entry(orphan.uid).or_default().insert(name);
                } else {
                    let namespace = metadata.namespace().unwrap_or_default();
                    orphans.push((namespace, name, orphan));
                }
            }
        }
        let none = BTreeSet::new();
        let existing = bindings.into_iter().map(|binding| {
            let secrets = binding.uid().and_then(|uid| secrets.get(&uid));
            let status = binding.status.as_ref();
            let secrets = secrets.unwrap_or(&none);
            let recorded = recorded_entries::read(&self.objects, &binding, status, secrets);
            BindingEntries {
                binding,
                recorded,
                is_orphan: false,
            }
        });
        let orphans = orphans.into_iter().map(|(namespace, secret, orphan)| {
            let mut recorded = RecordedEntries {
                entries: orphan.record.entries().collect(),
                ..RecordedEntries::default()
            };
            let binding = orphan.deleted_binding(&namespace, &secret);
            recorded.add_servers(orphan.record);
            BindingEntries {
                binding,
                recorded,
                is_orphan: true,
            }
        });
        Ok(existing.chain(orphans).collect())
    }

    /// The metadata of the operator's Secrets in a scope.
    async fn list_secrets(
        &self,
        scope: &WatchScope,
    ) -> Result<Vec<PartialObjectMeta<Secret>>, DetachError> {
        let api: Api<Secret> = scoped_api(self.client.clone(), scope);
        let label = format!("{MANAGED_BY_LABEL}={MANAGED_BY}");
        let mut params = ListParams::default().labels(&label).limit(PAGE_SIZE);
        let mut secrets = Vec::new();
        loop {
            let page = match timeout(REQUEST_TIMEOUT, api.list_metadata(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(kube::Error::Api(status))) => {
                    let why = format!("the API server answered {}", status.code);
                    return Err(DetachError::ListSecrets(why));
                }
                Ok(Err(_)) | Err(_) => {
                    let why = "the API server could not be reached".to_owned();
                    return Err(DetachError::ListSecrets(why));
                }
            };
            secrets.extend(page.items);
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok(secrets),
            }
        }
    }
}
