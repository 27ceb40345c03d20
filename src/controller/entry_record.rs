//! Writes the record of pool entries to the Secret that they name.
//!
//! Input: a pass, with the entries that its pools have or will have.
//! Output: the record that a Secret has to carry, and at most one write.
//! Invariants: an entry is recorded before it is written to a pool, and as long as a pool has it.

use std::{collections::BTreeSet, time::Duration};

use super::{object_cache::ReferenceKind, pass::Pass, resolve::server_of};
use crate::{
    crd::{DeletionPolicy, EntryRecord, InjectedEntry, MAX_ENTRIES, ServerChoice},
    secret::{WriteError, decide::succeeds},
};

/// Longest list of entries in a status, in bytes of JSON. The record on the Secret is shorter, because
/// it names each server once.
const MAX_LISTED_BYTES: usize = 48 * 1024;
/// Wait before a record that could not be written is written again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The record that the Secret of this name has to carry.
#[must_use]
pub fn wanted(pass: &Pass<'_>, secret: &str) -> Option<EntryRecord> {
    let mut choices = pass.entries.recorded.servers.clone();
    if let Ok(Some(server)) = server_of(pass)
        && let Ok(url) = server.api_url(pass.key.namespace())
    {
        let choice = match server.shared {
            Some(name) => ServerChoice::Shared(name),
            None => ServerChoice::Own(Box::new(server.spec)),
        };
        choices.insert(url.to_string(), choice);
    }
    let required = pass.entries.required.iter();
    let entries = required.filter(|entry| entry.secret == secret);
    let retain = pass.deletion_policy(secret) == DeletionPolicy::Retain;
    EntryRecord::of(pass.key.namespace(), entries, &choices, retain)
}

/// Requires the entries that an earlier binding of the same name left, if this one is about to take
/// over its Secret. The write of the Secret then records them for this binding.
pub fn inherit(pass: &mut Pass<'_>) {
    let name = pass.binding.secret_name();
    let object = pass.object(ReferenceKind::Secret, name);
    let Some(cached) = pass.context.objects.get(&object) else {
        return;
    };
    if succeeds(&cached.observed, pass.uid(), pass.key.name())
        && let Some(record) = cached.observed.entry_record()
    {
        pass.entries.required.extend(record.entries());
        pass.entries.recorded.add_servers(record);
    }
}

/// Whether all these entries can be recorded.
#[must_use]
pub fn fit(entries: &BTreeSet<InjectedEntry>) -> bool {
    let listed = serde_json::to_string(entries).map_or(usize::MAX, |text| text.len());
    entries.len() <= MAX_ENTRIES && listed <= MAX_LISTED_BYTES
}

/// Writes the record to the Secret alone, where the write of its content has not done so: the values
/// may be unknown, or rejected. Then only what is recorded now remains required.
pub async fn write(pass: &mut Pass<'_>) {
    let name = pass.binding.secret_name().to_owned();
    if let Some(cached) = pass.own_secret(&name) {
        let text = wanted(pass, &name).as_ref().map(EntryRecord::to_text);
        let observed = &cached.observed;
        if !observed.terminating
            && observed.entries.as_deref() != text.as_deref()
            && let Err(error) = write_record(pass, &name, text.as_deref()).await
        {
            pass.requeue.after(RETRY_INTERVAL);
            if !matches!(error, WriteError::Conflict) {
                let message = format!("Secret {name}: {error}");
                let report = &pass.context.report;
                report.log(pass.binding, error.reason(), &message);
            }
        }
    }
    // An entry that is removed may still stand in a status that is not written yet.
    let required = pass.entries.required.clone();
    let before = std::mem::take(&mut pass.entries.recorded.entries);
    pass.update_state(|state| {
        state
            .injected_entries
            .retain(|entry| required.contains(entry));
        state.removed_entries.extend(before);
        state
            .removed_entries
            .retain(|entry| !required.contains(entry));
    });
    pass.read_entries();
    let recorded = &pass.entries.recorded.entries;
    pass.entries
        .required
        .retain(|entry| recorded.contains(entry));
    let required = pass.entries.required.clone();
    pass.update_state(|state| state.injected_entries = required);
}

async fn write_record(pass: &Pass<'_>, name: &str, text: Option<&str>) -> Result<(), WriteError> {
    let (context, namespace) = (pass.context, pass.key.namespace());
    let object = pass.object(ReferenceKind::Secret, name);
    let Some(cached) = context.objects.get(&object) else {
        return Ok(());
    };
    let secrets = &context.secrets;
    let written = secrets
        .record_entries(namespace, name, &cached.observed, text)
        .await;
    context.metrics.count_write("secret", written.is_ok());
    match written {
        Ok(written) => {
            let verified = cached.verified;
            context.objects.observe(&object, written.observed, verified);
            Ok(())
        }
        Err(WriteError::Conflict) => {
            if let Ok(Some(fetched)) = secrets.get(namespace, name).await {
                context.objects.observe(&object, fetched.observed, false);
            }
            Err(WriteError::Conflict)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn entries(count: usize, name: &str) -> BTreeSet<InjectedEntry> {
        let entry = |n| InjectedEntry {
            server: "http://prefect-server.prefect.svc:4200/api".to_owned(),
            pool: format!("{name}{n}"),
            secret: "s".to_owned(),
            variable: None,
            mount: false,
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn records_a_bounded_number_of_entries_and_bytes() {
        assert!(fit(&BTreeSet::new()));
        assert!(fit(&entries(MAX_ENTRIES, "k8s")));
        assert!(!fit(&entries(MAX_ENTRIES + 1, "k8s")));
        // What fits into a status fits into the record of one Secret.
        let long = |count| entries(count, &"\u{10ffff}".repeat(255));
        let count = (1..=MAX_ENTRIES).take_while(|count| fit(&long(*count)));
        let most = long(count.last().unwrap());
        assert!(most.len() >= 16, "as many as one spec can name");
        let record = EntryRecord::of("flows", &most, &BTreeMap::new(), false).unwrap();
        assert!(EntryRecord::parse(&record.to_text(), "flows", "s").is_some());
    }
}
