//! Which runs a binding serves. Pure.
//!
//! Input: the spec of a binding.
//! Output: its [`RunSelector`]s, at most one for each way in which the spec names runs.
//! Invariants: a binding that is suspended or gives its values to no run has none. Labels that events
//! do not tell select no run here, although the admission policy sees them.

use std::collections::{BTreeMap, BTreeSet};

use super::job_labels::{is_reported, job_labels};
use crate::{crd::DopplerPrefectBindingSpec, prefect::FlowRun};

/// Runs that get the values of a binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunSelector {
    /// All runs of the work pool of this name.
    WorkPool(String),
    /// The runs of the work pool that choose the Secret in this variable.
    Choice {
        /// Name of the work pool.
        work_pool: String,
        /// Name of the variable.
        variable: String,
    },
    /// The runs whose Jobs have these labels.
    Labels(BTreeMap<String, String>),
}

/// By which a selector is found: a part of what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum IndexKey {
    WorkPool(String),
    Label(String, String),
}

impl RunSelector {
    /// The key under which the selector is found.
    pub(super) fn index_key(&self) -> Option<IndexKey> {
        Some(match self {
            Self::WorkPool(name)
            | Self::Choice {
                work_pool: name, ..
            } => IndexKey::WorkPool(name.clone()),
            Self::Labels(labels) => {
                let (key, value) = labels.first_key_value()?;
                IndexKey::Label(key.clone(), value.clone())
            }
        })
    }

    /// Whether the run may be one of these. Of a choice, only the run itself can tell.
    pub(super) fn may_match(&self, run: &FlowRun) -> bool {
        match self {
            Self::WorkPool(name)
            | Self::Choice {
                work_pool: name, ..
            } => *name == run.work_pool.name,
            Self::Labels(labels) => {
                let reported: BTreeMap<_, _> = job_labels(run).collect();
                let has = |(key, value): (&String, &String)| reported.get(&**key) == Some(value);
                labels.iter().all(has)
            }
        }
    }
}

/// The keys under which selectors of this run are found.
pub(super) fn index_keys(run: &FlowRun) -> impl Iterator<Item = IndexKey> {
    let pool = IndexKey::WorkPool(run.work_pool.name.clone());
    let labels = job_labels(run);
    std::iter::once(pool).chain(labels.map(|(key, value)| IndexKey::Label(key.to_owned(), value)))
}

/// The runs to which a binding gives its values.
#[must_use]
pub fn selectors(spec: &DopplerPrefectBindingSpec) -> BTreeSet<RunSelector> {
    if spec.suspend {
        return BTreeSet::new();
    }
    let pools = spec.inject.work_pools.iter().map(|pool| {
        let work_pool = pool.name.clone();
        match pool.variable() {
            None => RunSelector::WorkPool(work_pool),
            Some(variable) => RunSelector::Choice {
                work_pool,
                variable: variable.to_owned(),
            },
        }
    });
    let jobs = spec.inject.jobs.iter();
    let reported = jobs.filter(|job| job.match_labels.keys().all(|key| is_reported(key)));
    let labels = reported.map(|job| RunSelector::Labels(job.match_labels.clone()));
    pools.chain(labels).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::tests::run;
    use serde_json::{Value, json};

    fn selected(spec: Value) -> Vec<RunSelector> {
        let spec = serde_json::from_value(spec).unwrap();
        selectors(&spec).into_iter().collect()
    }

    fn labels(labels: &[(&str, &str)]) -> RunSelector {
        let labels = labels.iter();
        let labels = labels.map(|&(key, value)| (key.to_owned(), value.to_owned()));
        RunSelector::Labels(labels.collect())
    }

    #[test]
    fn a_binding_serves_the_runs_of_its_pools_and_labels() {
        let pools = json!([
            {"name": "k8s"},
            {"name": "gpu", "mode": "Observe"},
            {"name": "all", "runs": "Selected"},
            {"name": "all", "runs": "Selected", "variable": "v"},
        ]);
        let jobs = json!([
            {"matchLabels": {"prefect.io/flow-name": "etl"}},
            {"matchLabels": {"prefect.io/flow-name": "etl", "team": "a"}},
        ]);
        let of = |name: &str| RunSelector::WorkPool(name.to_owned());
        let choice = |variable: &str| RunSelector::Choice {
            work_pool: "all".to_owned(),
            variable: variable.to_owned(),
        };
        assert_eq!(
            selected(json!({"inject": {"workPools": pools, "jobs": jobs}})),
            [
                of("gpu"),
                of("k8s"),
                choice("doppler_config"),
                choice("v"),
                labels(&[("prefect.io/flow-name", "etl")]),
            ]
        );
        for spec in [
            json!({}),
            json!({"inject": {"workPools": pools, "jobs": jobs}, "suspend": true}),
        ] {
            assert_eq!(selected(spec.clone()), [], "{spec}");
        }
    }

    #[test]
    fn a_selector_is_found_by_a_key_of_each_run_that_it_matches() {
        let run = run("k8s");
        let keys: Vec<_> = index_keys(&run).collect();
        let flow = ("prefect.io/flow-name", "etl");
        for (selector, matches) in [
            (RunSelector::WorkPool("k8s".to_owned()), true),
            (RunSelector::WorkPool("gpu".to_owned()), false),
            (labels(&[flow]), true),
            (labels(&[flow, ("prefect.io/work-pool-name", "k8s")]), true),
            (labels(&[flow, ("prefect.io/work-pool-name", "gpu")]), false),
            (labels(&[("prefect.io/flow-name", "other")]), false),
            (labels(&[("team", "a")]), false),
        ] {
            let found = keys.contains(&selector.index_key().unwrap());
            assert_eq!(selector.may_match(&run), matches, "{selector:?}");
            assert!(found || !matches, "{selector:?}");
        }
    }
}
