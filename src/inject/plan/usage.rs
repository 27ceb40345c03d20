//! Who chooses a Secret in the variable of a pool.
//!
//! Input: the pool, its deployments, and a name that a variable offers.
//! Output: [`Usage`].
//! Invariants: pure. A run that chooses the name itself (`-jv`) is not seen. Where the deployments
//! are not known, the name counts as used.

use super::view::{ParsedTemplate, PoolView};
use crate::crd::NO_CONFIG;
use crate::inject::template::EntryKey;
use crate::printable;

/// Deployments that a status lists.
const MAX_LISTED: usize = 20;
/// Deployments that a message names.
const MAX_NAMED: usize = 5;

/// Who chooses a Secret in the variable of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Some of the deployments.
    pub(super) deployments: Vec<String>,
    /// Whether it is the default of the variable.
    is_default: bool,
    /// Why others may choose it, in one clause.
    unknown: Option<String>,
}

impl Usage {
    /// Who chooses the Secret. Without a variable that offers it, no deployment does.
    pub(super) fn of(view: &PoolView<'_>, parsed: &ParsedTemplate<'_>, key: &EntryKey) -> Self {
        let Some(variable) = &key.variable else {
            return Self::default();
        };
        let Some(declared) = parsed.declared(variable) else {
            return Self::default();
        };
        if !declared.offers(&key.secret) {
            return Self::default();
        }
        let values = view.deployments.and_then(|all| all.by_text.get(variable));
        let names = |value: &str| values.and_then(|values| values.get(value)).cloned();
        let mut deployments = names(&key.secret).unwrap_or_default();
        if parsed.refuses_undeclared {
            // Prefect would refuse them without the variable, whatever they choose.
            deployments.extend(names(NO_CONFIG).unwrap_or_default());
        }
        deployments.sort();
        deployments.dedup();
        deployments.truncate(MAX_LISTED);
        Self {
            deployments,
            is_default: declared.default.as_ref() == Some(&key.secret),
            unknown: unknown(view),
        }
    }

    pub(super) const fn is_used(&self) -> bool {
        !self.deployments.is_empty() || self.is_default || self.unknown.is_some()
    }

    /// What to change, so that the name can go.
    pub(super) fn message(&self, pool: &str, variable: &str, secret: &str) -> String {
        let mut clauses = Vec::new();
        if !self.deployments.is_empty() {
            let shown = self.deployments.iter().take(MAX_NAMED);
            let shown: Vec<String> = shown.map(|name| printable::name(name)).collect();
            let more = match self.deployments.len().saturating_sub(MAX_NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            clauses.push(format!(
                "deployments {}{more} of work pool {pool} choose Secret {secret}: change {variable} in their job_variables",
                shown.join(", ")
            ));
        }
        if self.is_default {
            clauses.push(format!(
                "Secret {secret} is the default of variable {variable} of work pool {pool}: set the default to {NO_CONFIG}"
            ));
        }
        if let Some(unknown) = &self.unknown {
            clauses.push(format!(
                "{unknown}, so that some may choose Secret {secret} in variable {variable}"
            ));
        }
        clauses.join("; ")
    }
}

/// Why not all deployments are known.
fn unknown(view: &PoolView<'_>) -> Option<String> {
    let pool = view.pool;
    let Some(deployments) = view.deployments else {
        return Some(format!(
            "the credentials have no permission to list the deployments of work pool {pool} (\"View deployments\")"
        ));
    };
    if let Some(first) = deployments.truncated_at {
        return Some(format!(
            "the operator listed only the first {first} deployments of work pool {pool}"
        ));
    }
    deployments.more_values.then(|| {
        format!("the operator compared only some of the many values that deployments of work pool {pool} set")
    })
}
