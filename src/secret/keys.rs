//! From the values of Doppler to the keys of the Secret. Pure.
//!
//! Input: the values of the configs in order, and the rules of the spec.
//! Output: the keys with their values, and every excluded name with the reason.
//! Invariants: the order of the steps is fixed: `metadata`, `include` and `exclude`, `prefix`, the
//! merge, `rename`, the rules for keys. So a new name is filtered as any other, and values of any text
//! are copied byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::{ExposeSecret, SecretString};

use super::{
    conflict::KeyConflict,
    key_filter::{Exclusion, ForbiddenNames, InvalidGlob, KeyFilter, MAX_VARIABLE_BYTES},
    merge::{Collision, merge},
    name_filter::NameFilter,
    rename::{InvalidRename, rename, unused_note},
};
use crate::{
    crd::{ConfigSource, DopplerSpec, ExcludedKey, ManagedSecretSpec, OnConflict},
    doppler::is_metadata,
    printable,
    reason::Reason,
};

/// The values of one config.
#[derive(Clone, Copy, Debug)]
pub struct SourceValues<'a> {
    /// Doppler project.
    pub project: &'a str,
    /// Doppler config.
    pub config: &'a str,
    /// The item of `configs` that names it, as it was when the values were read. None without
    /// `configs`.
    pub item: Option<&'a ConfigSource>,
    /// Names and values.
    pub values: &'a BTreeMap<String, SecretString>,
}

/// The keys of the Secret.
#[derive(Debug, Default)]
pub struct Keys<'a> {
    /// Names and values of the environment.
    pub data: BTreeMap<String, SecretString>,
    /// Names and values that files may use: also those that cannot be variables, but none that the
    /// operator's flags forbid.
    pub named: BTreeMap<String, &'a SecretString>,
    /// Excluded names; those that are invalid or reserved come before those that the binding itself
    /// excludes.
    pub excluded: Vec<ExcludedKey>,
    /// What to say of renames without effect.
    pub note: Option<String>,
    /// Names that a later config takes from an earlier one.
    pub collisions: Vec<Collision>,
}

/// Why there are no keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A glob has a syntax error.
    #[error(transparent)]
    Glob(#[from] InvalidGlob),
    /// A prefix is not the beginning of a name.
    #[error(
        "spec.doppler.configs[{0}].prefix is not the beginning of a name: use at most 64 letters, digits, `-`, `_` and `.`, with a letter or `_` at the beginning"
    )]
    Prefix(usize),
    /// `rename` contradicts itself.
    #[error(transparent)]
    Rename(#[from] InvalidRename),
    /// Keys meet, and the spec refuses that.
    #[error(transparent)]
    Conflict(#[from] KeyConflict),
}

impl KeysError {
    /// The reason for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Glob(_) | Self::Prefix(_) | Self::Rename(_) => Reason::InvalidSpec,
            Self::Conflict(_) => Reason::KeyConflict,
        }
    }
}

/// The keys for the values of `sources`.
///
/// # Errors
/// If a glob, a prefix or `rename` is invalid, or keys meet and the spec refuses that.
pub fn keys<'a>(
    doppler: &DopplerSpec,
    managed: &ManagedSecretSpec,
    forbidden: &ForbiddenNames,
    sources: &[SourceValues<'a>],
) -> Result<Keys<'a>, KeysError> {
    check_items(doppler)?;
    let mut excluded: Vec<(Exclusion, String)> = Vec::new();
    let mut selected = Vec::with_capacity(sources.len());
    for (at, source) in sources.iter().enumerate() {
        selected.push(select(doppler, at, source, &mut excluded)?);
    }
    let mut merged = merge(selected);
    // Every config has these, so that they always meet.
    let collisions = &mut merged.collisions;
    collisions.retain(|collision| !is_metadata(&collision.name));
    let refuses = doppler.on_conflict == Some(OnConflict::Refuse);
    if refuses && !collisions.is_empty() {
        return Err(KeyConflict::of_configs(collisions, |at| label(sources, at)).into());
    }
    let renamed = rename(merged.keys, &doppler.rename)?;
    if refuses && !renamed.replaced.is_empty() {
        return Err(KeyConflict::of_renames(&renamed.replaced).into());
    }
    let names_excluded: BTreeSet<&str> = excluded.iter().map(|(_, name)| name.as_str()).collect();
    let note = unused_note(&renamed.unused, &names_excluded);
    let replaced = renamed.replaced.into_iter();
    excluded.extend(replaced.map(|(name, _)| (Exclusion::Replaced, name)));

    let filter = KeyFilter::new(managed, forbidden);
    let mut data = BTreeMap::new();
    for (name, value) in &renamed.keys {
        let exclusion = filter.exclusion(name);
        match exclusion.or_else(|| unfit_variable(name, value)) {
            Some(why) => excluded.push((why, name.clone())),
            None => {
                data.insert(name.clone(), (*value).clone());
            }
        }
    }
    let mut named = renamed.keys;
    named.retain(|name, _| !forbidden.forbid(name));
    excluded.sort_unstable();
    let listed = excluded.into_iter().map(|(why, name)| ExcludedKey {
        reason: why.explanation(&name),
        name,
    });
    Ok(Keys {
        data,
        named,
        excluded: listed.collect(),
        note,
        collisions: merged.collisions,
    })
}

/// Checks the items of the spec. Values may have been read for earlier ones.
fn check_items(doppler: &DopplerSpec) -> Result<(), KeysError> {
    NameFilter::new(doppler, None)?;
    for (at, item) in doppler.configs.iter().enumerate() {
        NameFilter::new(doppler, Some((at, item)))?;
        if !item.prefix.as_deref().is_none_or(is_prefix) {
            return Err(KeysError::Prefix(at));
        }
    }
    Ok(())
}

/// The rule of the CRD.
fn is_prefix(prefix: &str) -> bool {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    let continues = |c: char| starts(c) || c.is_ascii_digit() || matches!(c, '-' | '.');
    prefix.len() <= 64 && prefix.starts_with(starts) && prefix.chars().all(continues)
}

/// The names of one config that the binding selects, with their prefix.
fn select<'a>(
    doppler: &DopplerSpec,
    at: usize,
    source: &SourceValues<'a>,
    excluded: &mut Vec<(Exclusion, String)>,
) -> Result<BTreeMap<String, &'a SecretString>, InvalidGlob> {
    let filter = NameFilter::new(doppler, source.item.map(|item| (at, item)))?;
    let prefix = source.item.and_then(|item| item.prefix.as_deref());
    let prefix = prefix.unwrap_or_default();
    let mut selected = BTreeMap::new();
    for (name, value) in source.values {
        match filter.exclusion(name) {
            Some(why) => excluded.push((why, name.clone())),
            None => {
                selected.insert(format!("{prefix}{name}"), value);
            }
        }
    }
    Ok(selected)
}

/// A config in a message.
fn label(sources: &[SourceValues<'_>], at: usize) -> String {
    let source = sources.get(at);
    source.map_or_else(String::new, |source| {
        let (project, config) = (
            printable::name(source.project),
            printable::name(source.config),
        );
        format!("{project}/{config}")
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
