//! The pool entries that are recorded for a binding, in places that its author cannot write.
//!
//! Input: the metadata of Secrets with the binding's UID, and the binding's status.
//! Output: the entries, and how their servers are reached.
//! Invariants: the union of both places counts, so that the loss of one of them loses no entry.
//! Annotations and labels of a binding are never read: a user who may create a binding can write them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::ResourceExt;

use super::object_cache::{ObjectCache, ObjectKey, ReferenceKind};
use crate::{
    crd::{
        DopplerPrefectBinding, DopplerPrefectBindingStatus, EntryRecord, InjectMode, InjectedEntry,
        MAX_ENTRIES, ServerChoice, WorkPoolSpec, WorkPoolState,
    },
    failure::Failure,
    prefect::{Connection, connection::api_url_of},
};

/// How to reach the server of an entry.
#[derive(Clone, Debug, Default)]
pub struct RecordedConnection {
    /// The connection. Without its credentials, if they are missing: most self-hosted servers need
    /// none.
    pub connection: Option<Arc<Connection>>,
    /// Why the credentials are missing, or why no request is sent to the server.
    pub failure: Option<Failure>,
}

impl From<Arc<Connection>> for RecordedConnection {
    fn from(connection: Arc<Connection>) -> Self {
        Self {
            connection: Some(connection),
            failure: None,
        }
    }
}

/// The entries that are recorded for a binding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordedEntries {
    /// The entries.
    pub entries: BTreeSet<InjectedEntry>,
    /// How the servers are reached, by URL, as far as a Secret records it.
    pub servers: BTreeMap<String, ServerChoice>,
}

/// Reads the entries that are recorded for a binding. `secrets` are names of Secrets that neither
/// the spec nor the status holds.
#[must_use]
pub fn read(
    objects: &ObjectCache,
    binding: &DopplerPrefectBinding,
    status: Option<&DopplerPrefectBindingStatus>,
    secrets: &BTreeSet<String>,
) -> RecordedEntries {
    let mut recorded = RecordedEntries::default();
    let uid = binding.metadata.uid.as_deref().unwrap_or_default();
    if uid.is_empty() {
        return recorded;
    }
    if let Some(status) = status {
        let entries = status.injected_entries.iter().take(MAX_ENTRIES);
        recorded.entries.extend(entries.cloned());
        recorded
            .entries
            .extend(patched_before_records(binding, status));
    }
    let in_status = recorded.entries.iter().map(|entry| entry.secret.clone());
    let names: BTreeSet<String> = in_status
        .chain(secrets.iter().cloned())
        .chain(status.and_then(|status| status.secret_name.clone()))
        .chain([binding.secret_name().to_owned()])
        .collect();
    for name in names {
        let object = ObjectKey {
            kind: ReferenceKind::Secret,
            namespace: binding.namespace().unwrap_or_default(),
            name,
        };
        let cached = objects.get(&object);
        let cached = cached.filter(|cached| cached.observed.belongs_to(uid));
        let Some(record) = cached.and_then(|cached| cached.observed.entry_record()) else {
            continue;
        };
        recorded.entries.extend(record.entries());
        recorded.add_servers(record);
    }
    recorded
}

impl RecordedEntries {
    /// Adds how the servers of a record are reached.
    pub fn add_servers(&mut self, record: EntryRecord) {
        for server in record.servers {
            if let Some(choice) = server.choice() {
                self.servers.insert(server.url, choice);
            }
        }
    }
}

/// The entries of a binding whose status an earlier version wrote, which recorded entries in an
/// annotation that authors can write. Its status says which pools it had patched, and the server is
/// the one of the spec if the spec has not changed since then. A deletion counts as a change.
fn patched_before_records(
    binding: &DopplerPrefectBinding,
    status: &DopplerPrefectBindingStatus,
) -> Vec<InjectedEntry> {
    let deletion = i64::from(binding.metadata.deletion_timestamp.is_some());
    let observed = status.observed_generation;
    let same_spec = observed.is_some_and(|observed| {
        let generation = binding.metadata.generation;
        generation == Some(observed) || generation == Some(observed + deletion)
    });
    if !status.injected_entries.is_empty() || !same_spec {
        return Vec::new();
    }
    let namespace = binding.namespace().unwrap_or_default();
    // Those versions knew no other server than the binding's own.
    let server = binding.spec.prefect.as_ref();
    let server = server.and_then(|prefect| prefect.server.as_ref());
    let url = server.and_then(|server| api_url_of(server, &namespace).ok());
    let (Some(url), Some(secret)) = (url, &status.secret_name) else {
        return Vec::new();
    };
    let patched = |pool: &&WorkPoolSpec| {
        let mut pools = status.work_pools.iter();
        pool.mode() == InjectMode::Patch
            && pool.variable().is_none()
            && pools.any(|reported| {
                reported.name == pool.name && reported.state == Some(WorkPoolState::Patched)
            })
    };
    let pools = binding.spec.inject.work_pools.iter().filter(patched);
    pools
        .map(|pool| InjectedEntry {
            server: url.to_string(),
            pool: pool.name.clone(),
            secret: secret.clone(),
            variable: None,
            mount: false,
        })
        .collect()
}

#[cfg(test)]
mod tests;
