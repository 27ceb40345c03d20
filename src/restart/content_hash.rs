//! The hash of the content that restarts workloads.
//!
//! Input: the desired Secret, and the globs of keys that restart nothing.
//! Output: a keyed hash.
//! Invariants: pure. Without globs it equals the content hash of the Secret.

use std::collections::BTreeMap;

use globset::{Glob, GlobSetBuilder};

use crate::{
    crd::RestartSpec,
    failure::Failure,
    reason::Reason,
    secret::{Desired, HashKey},
};

/// The hash of all keys that `spec` does not ignore.
///
/// # Errors
/// If a glob has a syntax error.
pub fn restart_hash(
    spec: &RestartSpec,
    desired: &Desired,
    key: &HashKey,
) -> Result<String, Failure> {
    if spec.ignore.is_empty() {
        return Ok(desired.content_hash.clone());
    }
    let invalid = |glob: &str| {
        let message = format!(
            "`{glob}` in spec.managedSecret.restart.ignore is not a glob: use one such as `FLAG_*`"
        );
        Failure::new(Reason::InvalidSpec, message)
    };
    let mut globs = GlobSetBuilder::new();
    for glob in &spec.ignore {
        globs.add(Glob::new(glob).map_err(|_| invalid(glob))?);
    }
    let globs = globs.build().map_err(|_| invalid(&spec.ignore.join(",")))?;
    let counted: BTreeMap<_, _> = desired
        .data
        .iter()
        .filter(|(name, _)| !globs.is_match(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Ok(key.content_hash(&desired.binding_uid, &counted))
}
