//! Which of the Secrets that a work pool offers a run chose. Pure.
//!
//! Input: runs and the bindings that serve them; what runs and deployments set in variables.
//! Output: the bindings whose Secret each run got.
//! Invariants: what a run sets wins over its deployment, as Prefect's worker has it. A variable that
//! neither sets has its default, which chooses no Secret.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::registry::Serving;
use crate::prefect::FlowRun;

/// The short texts to which runs or deployments set variables, by id.
pub(super) type Texts = HashMap<String, BTreeMap<String, String>>;

/// What has to be read to know what these runs chose.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Questions {
    /// Ids of runs.
    pub(super) runs: BTreeSet<String>,
    /// Ids of their deployments.
    pub(super) deployments: BTreeSet<String>,
    /// Names of variables.
    pub(super) variables: BTreeSet<String>,
}

impl Questions {
    /// Adds what has to be read for a run. Nothing if it gets every Secret without a choice.
    pub(super) fn add(&mut self, run: &FlowRun, serving: &[Serving]) {
        let variables = serving.iter().flat_map(|serving| &serving.variables);
        let variables: BTreeSet<_> = variables.cloned().collect();
        if variables.is_empty() {
            return;
        }
        self.variables.extend(variables);
        self.runs.insert(run.run.id.clone());
        let deployment = run.deployment.as_ref().map(|deployment| &deployment.id);
        let deployment = deployment.filter(|id| !id.is_empty());
        self.deployments.extend(deployment.cloned());
    }
}

/// Whether the run got the Secret of the binding.
pub(super) fn got_secret(
    run: &FlowRun,
    serving: &Serving,
    by_run: &Texts,
    by_deployment: &Texts,
) -> bool {
    let chosen = |variable: &String| {
        let of_run = by_run.get(&run.run.id);
        let of_deployment = || {
            let deployment = run.deployment.as_ref()?;
            by_deployment.get(&deployment.id)?.get(variable)
        };
        of_run
            .and_then(|of| of.get(variable))
            .or_else(of_deployment)
    };
    let mut variables = serving.variables.iter();
    serving.variables.is_empty()
        || variables.any(|variable| chosen(variable) == Some(&serving.content.secret))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{crd::BindingRef, runs::registry::Content, runs::tests::run};

    fn serving(variables: &[&str]) -> Serving {
        Serving {
            binding: BindingRef::new("flows", "b"),
            content: Arc::new(Content {
                secret: "etl-prd".to_owned(),
                hash: "h".to_owned(),
                since: None,
            }),
            variables: variables.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn texts(id: &str, texts: &[(&str, &str)]) -> Texts {
        let texts = texts.iter();
        let texts = texts.map(|&(key, value)| (key.to_owned(), value.to_owned()));
        Texts::from([(id.to_owned(), texts.collect())])
    }

    #[test]
    fn a_run_wins_over_its_deployment() {
        let run = run("k8s");
        let deployment = &run.deployment.as_ref().unwrap().id;
        let none = Texts::new();
        let prd = [("v", "etl-prd")];
        for (by_run, by_deployment, got) in [
            (&prd[..], &[][..], true),
            (&[], &prd, true),
            (&[("v", "none")], &prd, false),
            (&prd, &[("v", "none")], true),
            (&[("v", "etl-dev")], &[], false),
            (&[("other", "etl-prd")], &[], false),
            (&[], &[], false),
        ] {
            let (by_run, by_deployment) =
                (texts(&run.run.id, by_run), texts(deployment, by_deployment));
            let result = got_secret(&run, &serving(&["v"]), &by_run, &by_deployment);
            assert_eq!(result, got, "{by_run:?} {by_deployment:?}");
        }
        assert!(got_secret(&run, &serving(&[]), &none, &none));
        assert!(!got_secret(&run, &serving(&["v"]), &none, &none));
        let either = texts(&run.run.id, &[("w", "etl-prd")]);
        assert!(got_secret(&run, &serving(&["v", "w"]), &either, &none));
    }

    #[test]
    fn only_runs_with_a_choice_are_asked_about() {
        let mut questions = Questions::default();
        let mut run = run("k8s");
        questions.add(&run, &[serving(&[])]);
        assert_eq!(questions, Questions::default());
        questions.add(&run, &[serving(&[]), serving(&["v"])]);
        assert!(questions.runs.contains(&run.run.id));
        assert_eq!(questions.deployments.len(), 1);
        assert!(questions.variables.contains("v"));
        run.deployment = None;
        let mut questions = Questions::default();
        questions.add(&run, &[serving(&["v"])]);
        assert_eq!((questions.runs.len(), questions.deployments.len()), (1, 0));
    }
}
