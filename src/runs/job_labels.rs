//! The labels that Prefect's worker gives the Job of a flow run, as far as an event tells them. Pure.
//!
//! Input: a [`FlowRun`].
//! Output: its labels.
//! Invariants: a label that an event does not tell, such as one of a template, is absent.

use crate::{
    inject::job_labels::slug,
    prefect::{FlowRun, Named},
};

/// The labels with ids or names of the objects that a run belongs to.
const LABELS: [&str; 8] = [
    "prefect.io/deployment-id",
    "prefect.io/deployment-name",
    "prefect.io/flow-id",
    "prefect.io/flow-name",
    "prefect.io/flow-run-id",
    "prefect.io/flow-run-name",
    "prefect.io/work-pool-id",
    "prefect.io/work-pool-name",
];

/// whether events report the label with this key.
#[must_use]
pub fn is_reported(key: &str) -> bool {
    LABELS.contains(&key)
}

/// The labels of the run's Job that its event tells.
pub fn job_labels(run: &FlowRun) -> impl Iterator<Item = (&'static str, String)> {
    let label = |key| value(run, key).map(|value| (key, value));
    LABELS.into_iter().filter_map(label)
}

fn value(run: &FlowRun, key: &str) -> Option<String> {
    let (object, part) = key.strip_prefix("prefect.io/")?.rsplit_once('-')?;
    let named: &Named = match object {
        "deployment" => run.deployment.as_ref()?,
        "flow" => run.flow.as_ref()?,
        "flow-run" => &run.run,
        _ => &run.work_pool,
    };
    slug(if part == "id" { &named.id } else { &named.name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::tests::run;

    #[test]
    fn labels_are_those_of_the_worker() {
        let mut run = run("k8s");
        run.flow.as_mut().unwrap().name = "Größe".to_owned();
        run.deployment.as_mut().unwrap().name = "Nightly Job (prod)!".to_owned();
        let labels: Vec<_> = job_labels(&run).collect();
        let expected = [
            (
                "prefect.io/deployment-id",
                "00000000-0000-4000-8000-00000000000d",
            ),
            ("prefect.io/deployment-name", "Nightly-Job-prod"),
            ("prefect.io/flow-id", "00000000-0000-4000-8000-00000000000f"),
            (
                "prefect.io/flow-run-id",
                "00000000-0000-4000-8000-00000000000a",
            ),
            ("prefect.io/flow-run-name", "red-fox"),
            (
                "prefect.io/work-pool-id",
                "00000000-0000-4000-8000-00000000000b",
            ),
            ("prefect.io/work-pool-name", "k8s"),
        ];
        assert_eq!(
            labels,
            expected.map(|(key, value)| (key, value.to_owned())),
            "the worker transliterates the name of the flow"
        );
        for key in LABELS {
            assert!(is_reported(key));
        }
        assert!(!is_reported("team"));
        run.deployment = None;
        assert_eq!(job_labels(&run).count(), 5);
    }
}
