//! Removes the finalizer from the bindings and decides what becomes of their Secrets.
//!
//! Input: a scope, and the entries that are still in a work pool. Output: bindings without finalizer,
//! and Secrets that Kubernetes deletes with their binding or that have no owner.
//! Invariants: no Secret is deleted here; a Secret that a work pool still names has no owner.

use std::{collections::BTreeSet, io};

use kube::{Api, ResourceExt, api::ListParams, core::DeserializeGuard};
use tokio::time::timeout;

use crate::{
    controller::{
        finalizer::{self, FinalizerError, InjectedEntry},
        scope::WatchScope,
        watches::scoped_api,
    },
    crd::{DeletionPolicy, DopplerPrefectBinding, DopplerPrefectBindingSpec},
    secret::{WriteError, owner_reference},
};

use super::context::{Detacher, REQUEST_TIMEOUT, RETRY_INTERVAL, print_line};

/// Bindings in one page of a list.
const PAGE_SIZE: u32 = 500;
/// How often a binding that keeps changing is patched at most.
const MAX_ATTEMPTS: usize = 5;

impl Detacher {
    /// All bindings of a scope. An invalid binding has its metadata and an empty spec.
    ///
    /// # Errors
    /// If the API server rejects the list or does not respond.
    pub(super) async fn list(
        &self,
        scope: &WatchScope,
    ) -> Result<Vec<DopplerPrefectBinding>, String> {
        let api: Api<DeserializeGuard<DopplerPrefectBinding>> =
            scoped_api(self.client.clone(), scope);
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
            bindings.extend(page.items.into_iter().map(|binding| match binding.0 {
                Ok(binding) => binding,
                Err(invalid) => DopplerPrefectBinding {
                    metadata: invalid.metadata,
                    ..DopplerPrefectBinding::new("", DopplerPrefectBindingSpec::default())
                },
            }));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok(bindings),
            }
        }
    }

    /// Detaches the Secrets of a binding, then removes its finalizer. Returns false if the finalizer
    /// is still there.
    pub(super) async fn detach_binding(
        &self,
        binding: &DopplerPrefectBinding,
        uncleaned: &BTreeSet<InjectedEntry>,
    ) -> io::Result<bool> {
        let namespace = binding.namespace().unwrap_or_default();
        let entries = finalizer::injected_entries(binding);
        let secrets: BTreeSet<&str> = entries
            .iter()
            .map(|entry| entry.secret.as_str())
            .chain([binding.secret_name()])
            .collect();
        for name in secrets {
            let in_use = uncleaned
                .iter()
                .any(|entry| entries.contains(entry) && entry.secret == name);
            if let Err(error) = self.detach_secret(binding, &namespace, name, in_use).await {
                print_line(&format!("warning: Secret {namespace}/{name}: {error}"))?;
            }
        }
        if !finalizer::has_finalizer(binding) {
            return Ok(true);
        }
        let mut current = binding.clone();
        for _ in 0..MAX_ATTEMPTS {
            match finalizer::patch_finalizer(
                self.client.clone(),
                &current,
                &BTreeSet::new(),
                REQUEST_TIMEOUT,
            )
            .await
            {
                Ok(()) => return Ok(true),
                Err(FinalizerError::Conflict) => {
                    let api: Api<DopplerPrefectBinding> =
                        Api::namespaced(self.client.clone(), &namespace);
                    match timeout(REQUEST_TIMEOUT, api.get_opt(&binding.name_any())).await {
                        Ok(Ok(Some(latest))) => current = latest,
                        Ok(Ok(None)) => return Ok(true),
                        _ => tokio::time::sleep(RETRY_INTERVAL).await,
                    }
                }
                Err(error) => {
                    print_line(&format!(
                        "warning: binding {namespace}/{}: {error}",
                        binding.name_any()
                    ))?;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
        Ok(false)
    }

    /// Keeps the Secret. From now on Kubernetes deletes it with its binding; if it is kept or still in
    /// use, it has no owner.
    async fn detach_secret(
        &self,
        binding: &DopplerPrefectBinding,
        namespace: &str,
        name: &str,
        in_use: bool,
    ) -> Result<(), WriteError> {
        let uid = binding.metadata.uid.as_deref().unwrap_or_default();
        let Some(found) = self.secrets.get(namespace, name).await? else {
            return Ok(());
        };
        if !found.observed.belongs_to(uid) {
            return Ok(());
        }
        let keep = self.keep_secrets
            || in_use
            || binding.spec.managed_secret.deletion_policy == DeletionPolicy::Retain;
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
