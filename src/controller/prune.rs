//! Deletes the Secret of an earlier name, after a binding was renamed to another Secret, and the Secret
//! with the files of a binding that has no files any more.
//!
//! Input: the names that the status and the recorded entries hold, and Secrets with the binding's UID
//! that no binding tracks: the status may not have been written under the earlier name.
//! Output: at most one deletion per name.
//! Invariants: the new Secret exists before the old one is deleted, and no pool entry and no
//! Job that was just created refers to the old one any more.

use std::{collections::BTreeSet, time::Duration};

use crate::crd::InjectedEntry;

use super::{
    delete_secret::delete_secret,
    files_secret::{files_secret_name, files_secret_names},
    injection::holds_secret,
    pass::Pass,
};

/// Wait before a failed deletion is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Deletes Secrets of earlier names that no required entry refers to.
pub async fn delete_renamed_secret(pass: &mut Pass<'_>) {
    if !pass.secret_exists() {
        return;
    }
    let required = |name: &str| {
        let entries = &pass.entries.required;
        entries.iter().any(|entry| entry.needs(name))
    };
    let recorded = pass.entries.recorded.entries.iter();
    let removed = pass.read_state(|state| state.removed_entries.clone());
    let unmounted: Vec<String> = removed
        .iter()
        .filter_map(InjectedEntry::files_secret)
        .collect();
    let uid = pass.binding.metadata.uid.as_deref().unwrap_or_default();
    let left = pass.context.objects.left_secrets(pass.key, uid);
    let files = files_secret_name(pass);
    let names: BTreeSet<String> = pass
        .last_status()
        .and_then(|status| status.secret_name.as_deref())
        .into_iter()
        .chain(left.iter().map(String::as_str))
        .chain(recorded.chain(&removed).map(|entry| entry.secret.as_str()))
        .map(str::to_owned)
        .chain(files_secret_names(pass))
        .chain(unmounted)
        .filter(|name| name != pass.binding.secret_name() && !required(name))
        .filter(|name| files.as_ref() != Some(name))
        .collect();
    for name in names {
        if holds_secret(pass, &name) {
            continue;
        }
        if delete_secret(pass, &name).await.is_err() {
            pass.requeue.after(RETRY_INTERVAL);
        }
    }
}
