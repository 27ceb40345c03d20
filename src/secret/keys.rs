//! From the values of Doppler to the keys of the Secret. Pure.
//!
//! Input: the values of a config, and the rules of the spec.
//! Output: the keys with their values, and every excluded name with the reason.
//! Invariants: the order of the steps is fixed: `metadata`, then `include` and `exclude`, then
//! `rename`, then the rules for keys. So a new name is filtered as any other, and values of any text
//! are copied byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::{ExposeSecret, SecretString};

use super::{
    key_filter::{Exclusion, ForbiddenNames, InvalidGlob, KeyFilter, MAX_VARIABLE_BYTES},
    name_filter::NameFilter,
    rename::{InvalidRename, rename, unused_note},
};
use crate::crd::{DopplerSpec, ExcludedKey, ManagedSecretSpec};

/// The keys of the Secret.
#[derive(Debug, Default)]
pub struct Keys {
    /// Names and values.
    pub data: BTreeMap<String, SecretString>,
    /// Excluded names; those that are invalid or reserved come before those that the binding itself
    /// excludes.
    pub excluded: Vec<ExcludedKey>,
    /// What to say of renames without effect.
    pub note: Option<String>,
}

/// Why there are no keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A glob has a syntax error.
    #[error(transparent)]
    Glob(#[from] InvalidGlob),
    /// `rename` contradicts itself.
    #[error(transparent)]
    Rename(#[from] InvalidRename),
}

/// The keys for `values`.
///
/// # Errors
/// If a glob or `rename` is invalid.
pub fn keys(
    doppler: &DopplerSpec,
    managed: &ManagedSecretSpec,
    forbidden: &ForbiddenNames,
    values: &BTreeMap<String, SecretString>,
) -> Result<Keys, KeysError> {
    let names = NameFilter::new(doppler)?;
    let mut excluded: Vec<(Exclusion, String)> = Vec::new();
    let mut selected: BTreeMap<String, &SecretString> = BTreeMap::new();
    for (name, value) in values {
        match names.exclusion(name) {
            Some(why) => excluded.push((why, name.clone())),
            None => {
                selected.insert(name.clone(), value);
            }
        }
    }
    let renamed = rename(selected, &doppler.rename)?;
    let names_excluded: BTreeSet<&str> = excluded.iter().map(|(_, name)| name.as_str()).collect();
    let note = unused_note(&renamed.unused, &names_excluded);
    let replaced = renamed.replaced.into_iter();
    excluded.extend(replaced.map(|(name, _)| (Exclusion::Replaced, name)));

    let filter = KeyFilter::new(managed, forbidden);
    let mut data = BTreeMap::new();
    for (name, value) in renamed.keys {
        let exclusion = filter.exclusion(&name);
        match exclusion.or_else(|| unfit_variable(&name, value)) {
            Some(why) => excluded.push((why, name)),
            None => {
                data.insert(name, value.clone());
            }
        }
    }
    excluded.sort_unstable();
    let listed = excluded.into_iter().map(|(why, name)| ExcludedKey {
        reason: why.explanation(&name),
        name,
    });
    Ok(Keys {
        data,
        excluded: listed.collect(),
        note,
    })
}

/// Why no container starts with this variable.
fn unfit_variable(name: &str, value: &SecretString) -> Option<Exclusion> {
    let value = value.expose_secret();
    if value.contains('\0') {
        Some(Exclusion::NulByte)
    } else if name.len() + value.len() + 2 > MAX_VARIABLE_BYTES {
        Some(Exclusion::TooLong)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
