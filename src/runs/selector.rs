//! Which runs a binding serves. Pure.
//!
//! Input: the spec of a binding.
//! Output: its [`RunSelector`]s, at most one for each way in which the spec names runs.
//! Invariants: a binding that does not ask for it, or gives its values to no run, has none.

use std::collections::BTreeSet;

use crate::{crd::DopplerPrefectBindingSpec, prefect::PendingRun};

/// Runs that get the values of a binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunSelector {
    /// All runs of the work pool of this name.
    WorkPool(String),
}

impl RunSelector {
    /// The selectors that this run can match.
    pub(super) fn matching(run: &PendingRun) -> impl Iterator<Item = Self> {
        std::iter::once(Self::WorkPool(run.work_pool.clone()))
    }
}

/// The runs before whose start the values of a binding are read.
#[must_use]
pub fn selectors(spec: &DopplerPrefectBindingSpec) -> BTreeSet<RunSelector> {
    if spec.suspend || !spec.refresh_on_run() {
        return BTreeSet::new();
    }
    let pools = spec.inject.work_pools.iter();
    pools
        .map(|pool| RunSelector::WorkPool(pool.name.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn selected(spec: Value) -> Vec<RunSelector> {
        let spec = serde_json::from_value(spec).unwrap();
        selectors(&spec).into_iter().collect()
    }

    #[test]
    fn a_binding_serves_the_runs_of_its_pools() {
        let pools = json!([{"name": "k8s"}, {"name": "gpu", "mode": "Observe"}]);
        let of = |name: &str| RunSelector::WorkPool(name.to_owned());
        assert_eq!(
            selected(json!({"inject": {"workPools": pools}})),
            [of("gpu"), of("k8s")]
        );
        for spec in [
            json!({}),
            json!({"refreshOnRun": true}),
            json!({"inject": {"workPools": pools}, "refreshOnRun": false}),
            json!({"inject": {"workPools": pools}, "suspend": true}),
        ] {
            assert_eq!(selected(spec.clone()), [], "{spec}");
        }
    }
}
