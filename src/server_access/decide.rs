//! Whether a binding may use a `ClusterPrefectServer`. Pure.
//!
//! Input: the lists of the server; namespace, labels of the namespace, block and work pools of a
//! binding.
//! Output: nothing, or the first thing that is not listed.
//! Invariants: an absent or empty list allows nothing. Without its labels, a namespace is allowed by its
//! name only.

use std::{collections::BTreeMap, fmt};

use kube::core::{Selector, SelectorExt};

use super::pattern::{for_namespace, matches};
use crate::{
    crd::{ClusterPrefectServerSpec, DopplerPrefectBindingSpec, DopplerSpec},
    printable,
};

/// Patterns that a message lists.
const MAX_LISTED: usize = 10;

/// The labels of a namespace.
pub type Labels = BTreeMap<String, String>;

/// What a binding asks of a server.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Namespace of the binding.
    pub namespace: &'a str,
    /// Labels of that namespace. None if they are not known.
    pub labels: Option<&'a Labels>,
    /// The spec of the binding.
    pub spec: &'a DopplerPrefectBindingSpec,
}

/// What a server does not list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    /// The namespace of the binding.
    Namespace(String),
    /// The block that the binding names, and the patterns for its namespace.
    Block(String, Vec<String>),
    /// A work pool that the binding names, and the patterns for its namespace.
    WorkPool(String, Vec<String>),
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(namespace) => write!(
                f,
                "its spec.namespaces does not list namespace {namespace}: ask its owner to add the namespace"
            ),
            Self::Block(name, patterns) => write!(
                f,
                "its spec.blocks does not list block {} ({}): correct spec.prefect.block.name, or ask its owner to add the block",
                printable::name(name),
                listed(patterns)
            ),
            Self::WorkPool(name, patterns) => write!(
                f,
                "its spec.workPools does not list work pool {} ({}): correct spec.inject.workPools, or ask its owner to add the pool",
                printable::name(name),
                listed(patterns)
            ),
        }
    }
}

/// The patterns in a message.
fn listed(patterns: &[String]) -> String {
    if patterns.is_empty() {
        return "it lists none".to_owned();
    }
    let shown = patterns.iter().take(MAX_LISTED);
    let shown: Vec<String> = shown.map(|pattern| printable::name(pattern)).collect();
    let more = patterns.len().saturating_sub(MAX_LISTED);
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    format!("it lists {}{more}", shown.join(", "))
}

/// Whether some namespaces are allowed by their labels.
#[must_use]
pub const fn selects_by_label(server: &ClusterPrefectServerSpec) -> bool {
    server.namespaces.selector.is_some()
}

/// Checks the namespace, the block and the work pools of a binding.
///
/// # Errors
/// The first one that is not listed.
pub fn check_request(
    server: &ClusterPrefectServerSpec,
    request: &Request<'_>,
) -> Result<(), NotAllowed> {
    check_namespace(server, request.namespace, request.labels)?;
    if let Some(block) = block_of(request.spec) {
        check_block(server, request.namespace, block)?;
    }
    for pool in &request.spec.inject.work_pools {
        check_pool(server, request.namespace, &pool.name)?;
    }
    Ok(())
}

/// Checks whether entries may be removed from a work pool for a binding of a namespace.
///
/// # Errors
/// If the namespace or the pool is not listed.
pub fn check_entry(
    server: &ClusterPrefectServerSpec,
    namespace: &str,
    labels: Option<&Labels>,
    pool: &str,
) -> Result<(), NotAllowed> {
    check_namespace(server, namespace, labels)?;
    check_pool(server, namespace, pool)
}

/// Checks a namespace.
///
/// # Errors
/// If it is not listed.
pub fn check_namespace(
    server: &ClusterPrefectServerSpec,
    namespace: &str,
    labels: Option<&Labels>,
) -> Result<(), NotAllowed> {
    let allowed = &server.namespaces;
    let is_selected = || {
        let selector = Selector::try_from(allowed.selector.clone()?).ok()?;
        Some(selector.matches(labels?))
    };
    let is_named = allowed.names.iter().any(|name| name == namespace);
    if is_named || is_selected() == Some(true) {
        Ok(())
    } else {
        Err(NotAllowed::Namespace(namespace.to_owned()))
    }
}

/// Checks a block, right before it is read.
///
/// # Errors
/// If it is not listed.
pub fn check_block(
    server: &ClusterPrefectServerSpec,
    namespace: &str,
    block: &str,
) -> Result<(), NotAllowed> {
    check_name(&server.blocks, namespace, block, NotAllowed::Block)
}

fn check_pool(
    server: &ClusterPrefectServerSpec,
    namespace: &str,
    pool: &str,
) -> Result<(), NotAllowed> {
    check_name(&server.work_pools, namespace, pool, NotAllowed::WorkPool)
}

fn check_name(
    patterns: &[String],
    namespace: &str,
    name: &str,
    refused: impl FnOnce(String, Vec<String>) -> NotAllowed,
) -> Result<(), NotAllowed> {
    let patterns = patterns.iter();
    let patterns: Vec<String> = patterns
        .map(|pattern| for_namespace(pattern, namespace))
        .collect();
    if patterns.iter().any(|pattern| matches(pattern, name)) {
        Ok(())
    } else {
        Err(refused(name.to_owned(), patterns))
    }
}

/// The block that a binding reads. None if it sets everything that a block would give.
fn block_of(spec: &DopplerPrefectBindingSpec) -> Option<&str> {
    let prefect = spec.prefect.as_ref()?;
    (!is_complete(&spec.doppler)).then_some(prefect.block.name.as_str())
}

/// Whether the binding sets project, config and credential of each config. An empty text counts as
/// absent. The Secret of a token may still be empty, so the read of a block is checked again.
fn is_complete(doppler: &DopplerSpec) -> bool {
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let identity = doppler.identity.as_ref();
    let has_id = identity.is_some_and(|identity| is_set(&identity.id));
    let has_credential = has_id || doppler.access_token.is_some();
    if doppler.configs.is_empty() {
        has_credential && is_set(&doppler.project) && is_set(&doppler.config)
    } else {
        let mut items = doppler.configs.iter();
        has_credential || items.all(|item| item.access_token.is_some())
    }
}

#[cfg(test)]
mod tests;
