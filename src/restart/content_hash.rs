//! The hash of the content that restarts workloads.
//!
//! Input: the desired Secret with its files, and the globs of keys that restart nothing.
//! Output: a keyed hash.
//! Invariants: pure. Without globs and files it equals the content hash of the Secret.

use std::collections::BTreeMap;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::{
    crd::RestartSpec,
    failure::Failure,
    reason::Reason,
    secret::{Desired, HashKey},
};

/// Comes before the names of files, which may equal those of keys. No key contains it.
const FILE: &str = "file/";

/// The hash of all keys and files that `spec` does not ignore.
///
/// # Errors
/// If a glob has a syntax error.
pub fn restart_hash(
    spec: &RestartSpec,
    desired: &Desired,
    key: &HashKey,
) -> Result<String, Failure> {
    if spec.ignore.is_empty() && desired.files.is_none() {
        return Ok(desired.content_hash.clone());
    }
    let ignored = globs(&spec.ignore)?;
    let keys = desired.data.iter().map(|(name, value)| ("", name, value));
    let files = desired.files.iter().flat_map(|files| &files.data);
    let files = files.map(|(name, value)| (FILE, name, value));
    let counted: BTreeMap<_, _> = keys
        .chain(files)
        .filter(|(_, name, _)| !ignored.is_match(name))
        .map(|(kind, name, value)| (format!("{kind}{name}"), value.clone()))
        .collect();
    Ok(key.content_hash(&desired.binding_uid, desired.type_, &counted))
}

fn globs(texts: &[String]) -> Result<GlobSet, Failure> {
    let invalid = |glob: &str| {
        let message = format!(
            "`{glob}` in spec.managedSecret.restart.ignore is not a glob: use one such as `FLAG_*`"
        );
        Failure::new(Reason::InvalidSpec, message)
    };
    let mut globs = GlobSetBuilder::new();
    for glob in texts {
        globs.add(Glob::new(glob).map_err(|_| invalid(glob))?);
    }
    globs.build().map_err(|_| invalid(&texts.join(",")))
}
