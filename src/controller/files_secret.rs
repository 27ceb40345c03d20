//! Brings the Secret with the files to its desired state.
//!
//! Input: the desired Secrets of a binding, after that of the environment was written.
//! Output: what the status says of the files, and at most a few writes.
//! Invariants: it belongs to its binding by the same rules as the Secret of the environment, which
//! carries the record of its mounts. While a pool mounts it, it has no owner reference.

use std::collections::BTreeSet;

use kube::ResourceExt;

use super::{
    apply_secret::{Applied, apply_secret},
    pass::Pass,
};
use crate::{
    crd::{DeletionPolicy, FilesStatus, InjectedEntry},
    failure::Failure,
    printable::{self, count},
    reason::Reason,
    secret::Desired,
};

/// The name of the Secret with the files, if the spec has files.
#[must_use]
pub fn files_secret_name(pass: &Pass<'_>) -> Option<String> {
    let managed = &pass.binding.spec.managed_secret;
    managed.files_secret_name(pass.binding.secret_name())
}

/// The names of the Secrets with files: that of the spec, that of the last status, and those of mounts.
#[must_use]
pub fn files_secret_names(pass: &Pass<'_>) -> BTreeSet<String> {
    let status = pass.last_status();
    let last = status.and_then(|status| Some(status.files.as_ref()?.secret_name.clone()));
    let recorded = pass.entries.recorded.entries.iter();
    let mounted = recorded.filter_map(InjectedEntry::files_secret);
    files_secret_name(pass)
        .into_iter()
        .chain(last)
        .chain(mounted)
        .collect()
}

/// Writes the Secret with the files, if there are any.
///
/// # Errors
/// If the Secret is not the binding's, is contested, or cannot be written.
pub async fn write_files(
    pass: &Pass<'_>,
    desired: &Desired,
) -> Result<Option<FilesStatus>, Failure> {
    let Some(files) = desired.files.as_deref() else {
        return Ok(None);
    };
    let deletes = pass.deletion_policy(&files.name) == DeletionPolicy::Delete;
    // Garbage collection may delete the Secret with its binding only if no pool mounts it.
    let is_mounted = pass.entries.required.iter().any(|entry| entry.mount);
    let files = if deletes && !is_mounted {
        files.clone().with_owner(&pass.binding.name_any())
    } else {
        files.clone()
    };
    let status = FilesStatus {
        secret_name: printable::name(&files.name),
        file_count: i32::try_from(files.data.len()).unwrap_or(i32::MAX),
        content_hash: files.content_hash.clone(),
    };
    let last = pass.last_status().and_then(|status| status.files.as_ref());
    let written_before = last == Some(&status);
    let applied = apply_secret(pass, &files, written_before).await?;
    report(pass, &files, applied);
    Ok(Some(status))
}

fn report(pass: &Pass<'_>, files: &Desired, applied: Applied) {
    let (name, content) = (&files.name, count(files.data.len(), "file"));
    match applied {
        Applied::Unchanged | Applied::MetadataUpdated => {}
        Applied::Created => pass.emit(
            Reason::SecretCreated,
            &format!("the operator wrote Secret {name} with {content}"),
        ),
        Applied::Updated => pass.emit(
            Reason::SecretUpdated,
            &format!("the operator wrote new content to Secret {name}, which has {content}"),
        ),
        Applied::Repaired => pass.emit(
            Reason::SecretRepaired,
            &format!("another client changed or deleted Secret {name}; the operator restored it"),
        ),
    }
}
