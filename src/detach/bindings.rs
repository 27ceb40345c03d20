//! Removes the finalizer from the bindings and decides what becomes of their Secrets.
//!
//! Input: a scope, and the entries that are still in a work pool. Output: bindings without finalizer,
//! and Secrets that Kubernetes deletes with their binding or that have no owner.
//! Invariants: no Secret is deleted here; a Secret that a work pool still names has no owner.

use std::{collections::BTreeSet, io};

use kube::{Api, ResourceExt, api::ListParams};
use tokio::time::timeout;

use crate::{
    controller::{
        finalizer,
        finalizer_error::FinalizerError,
        patch_status::{now, write_status},
        scope::WatchScope,
        stored_binding::StoredBinding,
        watches::scoped_api,
    },
    crd::{DeletionPolicy, DopplerPrefectBinding, InjectedEntry, finalizer::has_finalizer},
    secret::{WriteError, owner_reference},
};

use super::{
    context::{Detacher, REQUEST_TIMEOUT, RETRY_INTERVAL, print_line},
    records::BindingEntries,
    status::detached_status,
};

/// Bindings in one page of a list.
const PAGE_SIZE: u32 = 500;
/// How often a binding that keeps changing is patched at most.
const MAX_ATTEMPTS: usize = 5;

impl Detacher {
    /// All bindings of a scope. Of an invalid one, the fields that can be parsed.
    ///
    /// # Errors
    /// If the API server rejects the list or does not respond.
    pub(super) async fn list(
        &self,
        scope: &WatchScope,
    ) -> Result<Vec<DopplerPrefectBinding>, String> {
        let api: Api<StoredBinding> = scoped_api(self.client.clone(), scope);
        let mut params = ListParams::default().limit(PAGE_SIZE);
        let mut bindings = Vec::new();
        loop {
            let page = match timeout(REQUEST_TIMEOUT, api.list(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(bindings),
                Ok(Err(kube::Error::Api(status))) => {
                    return Err(format!("the API server answered {}", status.code));
                }
                Ok(Err(_)) | Err(_) => {
                    return Err("the API server could not be reached".to_owned());
                }
            };
            let items = page.items.iter();
            bindings
                .extend(items.map(|item| item.parse().unwrap_or_else(|_| item.parsable_part())));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok(bindings),
            }
        }
    }

    /// Detaches the Secrets of a binding, removes its finalizer, and writes a status that says so.
    /// Returns false if the finalizer is still there.
    pub(super) async fn detach_binding(
        &self,
        binding: &BindingEntries,
        uncleaned: &BTreeSet<InjectedEntry>,
    ) -> io::Result<bool> {
        let BindingEntries {
            binding, recorded, ..
        } = binding;
        let namespace = binding.namespace().unwrap_or_default();
        let left: Vec<InjectedEntry> = recorded.entries.intersection(uncleaned).cloned().collect();
        let managed = &binding.spec.managed_secret;
        let files = managed.files_secret_name(binding.secret_name());
        let entries = recorded.entries.iter();
        let mounted: Vec<String> = entries.filter_map(InjectedEntry::files_secret).collect();
        let secrets: BTreeSet<&str> = recorded
            .entries
            .iter()
            .map(|entry| entry.secret.as_str())
            .chain([binding.secret_name()])
            .chain(files.as_deref())
            .chain(mounted.iter().map(String::as_str))
            .collect();
        for name in secrets {
            // The record of an entry that is still there stays on its Secret.
            if left.iter().any(|entry| entry.needs(name)) {
                continue;
            }
            if let Err(error) = self.detach_secret(binding, &namespace, name).await {
                print_line(&format!("warning: Secret {namespace}/{name}: {error}"))?;
            }
        }
        if has_finalizer(binding) && !self.remove_finalizer(binding).await? {
            return Ok(false);
        }
        self.report_detached(binding, &left).await?;
        Ok(true)
    }

    /// Removes the finalizer. Returns false if it is still there.
    async fn remove_finalizer(&self, binding: &DopplerPrefectBinding) -> io::Result<bool> {
        let (namespace, name) = (binding.namespace().unwrap_or_default(), binding.name_any());
        let mut current = binding.clone();
        for _ in 0..MAX_ATTEMPTS {
            let patched =
                finalizer::patch_finalizer(&self.client, &current, false, REQUEST_TIMEOUT).await;
            match patched {
                Ok(_) => return Ok(true),
                Err(FinalizerError::Conflict) => {
                    let api: Api<StoredBinding> = Api::namespaced(self.client.clone(), &namespace);
                    match timeout(REQUEST_TIMEOUT, api.get_opt(&name)).await {
                        Ok(Ok(Some(latest))) => current = latest.parsable_part(),
                        Ok(Ok(None)) => return Ok(true),
                        _ => tokio::time::sleep(RETRY_INTERVAL).await,
                    }
                }
                Err(error) => {
                    print_line(&format!("warning: binding {namespace}/{name}: {error}"))?;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
        Ok(false)
    }

    /// Writes a status that says that the binding was detached. A binding without a status was never
    /// served, and one that is being deleted may have ceased to exist.
    async fn report_detached(
        &self,
        binding: &DopplerPrefectBinding,
        left: &[InjectedEntry],
    ) -> io::Result<()> {
        let Some(before) = &binding.status else {
            return Ok(());
        };
        let after = detached_status(before, binding.secret_name(), left, &now());
        let written = write_status(&self.client, binding, &after, REQUEST_TIMEOUT).await;
        if written.is_err() && binding.metadata.deletion_timestamp.is_none() {
            let namespace = binding.namespace().unwrap_or_default();
            print_line(&format!(
                "warning: binding {namespace}/{}: detach could not write its status, which still says what the operator wrote last",
                binding.name_any()
            ))?;
        }
        Ok(())
    }

    /// Leaves the Secret of a binding that no longer exists without an owner and without a record.
    pub(super) async fn detach_orphan(
        &self,
        orphan: &BindingEntries,
        uncleaned: &BTreeSet<InjectedEntry>,
    ) -> io::Result<()> {
        let binding = &orphan.binding;
        let (namespace, name) = (
            binding.namespace().unwrap_or_default(),
            binding.secret_name(),
        );
        let is_left = orphan
            .recorded
            .entries
            .intersection(uncleaned)
            .next()
            .is_some();
        let uid = binding.metadata.uid.as_deref().unwrap_or_default();
        let entries = orphan.recorded.entries.iter();
        let mounted = entries.filter_map(InjectedEntry::files_secret);
        let secrets: BTreeSet<String> = mounted.chain([name.to_owned()]).collect();
        for name in secrets.iter().filter(|_| !is_left) {
            let disowned = async {
                let found = self.secrets.get(&namespace, name).await?;
                if let Some(found) = found.filter(|found| found.observed.belongs_to(uid)) {
                    let observed = &found.observed;
                    self.secrets.disown(&namespace, name, observed, uid).await?;
                }
                Ok::<_, WriteError>(())
            };
            if let Err(error) = disowned.await {
                print_line(&format!("warning: Secret {namespace}/{name}: {error}"))?;
            }
        }
        print_line(&format!(
            "warning: the deleted binding {} left Secret {namespace}/{name}: delete it if nothing uses it",
            binding.name_any()
        ))
    }

    /// Keeps the Secret. From now on Kubernetes deletes it with its binding; if it is kept, it has no
    /// owner.
    async fn detach_secret(
        &self,
        binding: &DopplerPrefectBinding,
        namespace: &str,
        name: &str,
    ) -> Result<(), WriteError> {
        let uid = binding.metadata.uid.as_deref().unwrap_or_default();
        let Some(found) = self.secrets.get(namespace, name).await? else {
            return Ok(());
        };
        if !found.observed.belongs_to(uid) {
            return Ok(());
        }
        let managed = &binding.spec.managed_secret;
        let policy = managed.deletion_policy(found.observed.is_adopted());
        let keep = self.keep_secrets || policy == DeletionPolicy::Retain;
        if keep {
            self.secrets
                .disown(namespace, name, &found.observed, uid)
                .await?;
        } else {
            self.secrets
                .set_owner(
                    namespace,
                    name,
                    &found.observed,
                    &owner_reference(&binding.name_any(), uid),
                )
                .await?;
        }
        Ok(())
    }
}
