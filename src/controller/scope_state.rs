//! Whether the operator can serve a scope: what it has listed there, and why it may not list.
//!
//! Input: the results of lists, and the namespace as the API server has it.
//! Output: [`Unavailable`], as a metric, one line of the log for each change, and a signal.
//! Invariants: a namespace that is being deleted, does not exist or is forbidden delays no other
//! namespace. Only a whole list ends that state.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use tokio::sync::watch;
use tracing::{info, warn};

use super::scope::WatchScope;
use crate::metrics::{Metrics, NamespaceLabels};

/// What is listed in a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bindings.
    Bindings,
    /// Metadata of Secrets.
    Secrets,
    /// Metadata of ConfigMaps.
    ConfigMaps,
}

/// Why the operator cannot serve a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It is being deleted, and its Roles are deleted already.
    Terminating,
    /// It does not exist.
    Gone,
    /// The operator has no permission.
    Forbidden,
}

impl Unavailable {
    /// Why a list in a namespace was refused, from the answer to a read of the namespace. `None` if
    /// the answer does not say.
    #[must_use]
    pub fn of(answer: &Result<PartialObjectMeta<Namespace>, kube::Error>) -> Option<Self> {
        match answer {
            Ok(namespace) if namespace.metadata.deletion_timestamp.is_some() => {
                Some(Self::Terminating)
            }
            Ok(_) => Some(Self::Forbidden),
            Err(kube::Error::Api(status)) => match status.code {
                404 => Some(Self::Gone),
                // Without `rbac.terminatingNamespaces`, the Role of the namespace grants this read.
                403 => Some(Self::Forbidden),
                _ => None,
            },
            Err(_) => None,
        }
    }

    /// The label of the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminating => "terminating",
            Self::Gone => "gone",
            Self::Forbidden => "forbidden",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Terminating => {
                "the namespace is being deleted: the operator only removes pool entries and finalizers of its bindings"
            }
            Self::Gone => {
                "the namespace does not exist: the operator serves it once it exists and `helm upgrade` has created the Role there"
            }
            Self::Forbidden => {
                "the operator may not list Secrets, ConfigMaps or bindings in the namespace: create the chart's Role there again with `helm upgrade`"
            }
        }
    }
}

/// How far the lists of a scope are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Parts that were listed at least once.
    listed_once: [bool; 3],
    /// Parts whose last list was not refused.
    listed: [bool; 3],
    /// How many lists were refused.
    pub refusals: u64,
    /// Why the scope cannot be served.
    pub unavailable: Option<Unavailable>,
}

impl Progress {
    /// Whether all parts were listed, so that the caches show what exists.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.listed_once == [true; 3]
    }

    /// Whether nothing more is to be expected before the replica is ready.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_complete() || self.unavailable.is_some()
    }
}

/// The state of one scope.
#[derive(Debug)]
pub struct ScopeState {
    scope: WatchScope,
    progress: watch::Sender<Progress>,
    metrics: Arc<Metrics>,
}

impl ScopeState {
    /// Nothing is listed yet.
    #[must_use]
    pub fn new(scope: WatchScope, metrics: Arc<Metrics>) -> Self {
        Self {
            scope,
            progress: watch::Sender::default(),
            metrics,
        }
    }

    /// The scope.
    #[must_use]
    pub const fn scope(&self) -> &WatchScope {
        &self.scope
    }

    /// The namespace of the scope. `None` if it is the whole cluster.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match &self.scope {
            WatchScope::All => None,
            WatchScope::Namespace(namespace) => Some(namespace),
        }
    }

    /// Whether a namespace belongs to the scope.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        self.namespace().is_none_or(|own| own == namespace)
    }

    /// Follows the progress.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The progress.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// A part was listed. The scope is served again once all parts are.
    pub fn on_listed(&self, part: Part) {
        let mut recovered = None;
        self.progress.send_modify(|progress| {
            progress.listed[part as usize] = true;
            progress.listed_once[part as usize] = true;
            if progress.listed == [true; 3] {
                recovered = progress.unavailable.take();
            }
        });
        if let (Some(was), Some(namespace)) = (recovered, self.namespace()) {
            let labels = |reason: Unavailable| labels(namespace, reason);
            self.metrics.namespace_unavailable.remove(&labels(was));
            info!(namespace, "the operator serves the namespace");
        }
    }

    /// A list was refused.
    pub fn on_refused(&self, part: Part) {
        self.progress.send_modify(|progress| {
            progress.listed[part as usize] = false;
            progress.refusals += 1;
        });
    }

    /// The reason of the last refusals.
    pub fn on_unavailable(&self, why: Unavailable) {
        let Some(namespace) = self.namespace() else {
            return;
        };
        let mut before = Some(why);
        self.progress.send_if_modified(|progress| {
            // Everything may have been listed meanwhile.
            if progress.listed == [true; 3] || progress.unavailable == Some(why) {
                return false;
            }
            before = progress.unavailable.replace(why);
            true
        });
        if before == Some(why) {
            return;
        }
        let gauge = &self.metrics.namespace_unavailable;
        if let Some(before) = before {
            gauge.remove(&labels(namespace, before));
        }
        gauge.get_or_create(&labels(namespace, why)).set(1);
        warn!(namespace, reason = why.as_str(), "{}", why.message());
    }
}

fn labels(namespace: &str, reason: Unavailable) -> NamespaceLabels {
    NamespaceLabels {
        namespace: namespace.to_owned(),
        reason: reason.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    const PARTS: [Part; 3] = [Part::Bindings, Part::Secrets, Part::ConfigMaps];

    fn state() -> (ScopeState, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let scope = WatchScope::Namespace("flows".to_owned());
        (ScopeState::new(scope, Arc::clone(&metrics)), metrics)
    }

    fn answer(code: u16) -> Result<PartialObjectMeta<Namespace>, kube::Error> {
        let status: Status = serde_json::from_value(json!({"code": code})).unwrap();
        Err(kube::Error::Api(Box::new(status)))
    }

    fn namespace(metadata: &serde_json::Value) -> PartialObjectMeta<Namespace> {
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn reason_of_a_refusal_follows_from_the_namespace() {
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        for (answer, why) in [
            (Ok(namespace(&deleted)), Some(Unavailable::Terminating)),
            (Ok(namespace(&json!({}))), Some(Unavailable::Forbidden)),
            (answer(404), Some(Unavailable::Gone)),
            (answer(403), Some(Unavailable::Forbidden)),
            (answer(500), None),
        ] {
            assert_eq!(Unavailable::of(&answer), why);
        }
    }

    #[test]
    fn unavailable_scope_is_settled_and_recovers_with_a_whole_list() {
        let (state, metrics) = state();
        assert!(!state.progress().is_settled());
        state.on_listed(Part::Bindings);
        state.on_refused(Part::Secrets);
        state.on_unavailable(Unavailable::Terminating);
        assert!(state.progress().is_settled() && !state.progress().is_complete());
        let line = |reason: &str| {
            format!("namespace_unavailable{{namespace=\"flows\",reason=\"{reason}\"}} 1")
        };
        assert!(metrics.text().contains(&line("terminating")));
        state.on_unavailable(Unavailable::Gone);
        assert!(!metrics.text().contains(&line("terminating")));
        assert!(metrics.text().contains(&line("gone")));
        for part in PARTS {
            assert!(state.progress().unavailable.is_some());
            state.on_listed(part);
        }
        assert_eq!(state.progress().unavailable, None);
        assert!(state.progress().is_complete());
        assert!(!metrics.text().contains(&line("gone")));
    }

    #[test]
    fn late_answer_does_not_hide_a_list_that_worked() {
        let (state, _) = state();
        state.on_refused(Part::Secrets);
        for part in PARTS {
            state.on_listed(part);
        }
        state.on_unavailable(Unavailable::Forbidden);
        assert_eq!(state.progress().unavailable, None);
    }

    #[test]
    fn whole_cluster_waits_for_its_lists() {
        let state = ScopeState::new(WatchScope::All, Arc::new(Metrics::new()));
        state.on_refused(Part::Secrets);
        state.on_unavailable(Unavailable::Forbidden);
        assert!(!state.progress().is_settled());
        assert!(state.contains("any"));
    }
}
