//! What was resolved for a binding, and the two conditions that follow from it. Pure.
//!
//! Input: the poll states of block and config, and the failures on the way.
//! Output: [`Resolution`], and the conditions `BlockResolved` and `SecretSynced`.
//! Invariants: the first failure counts. A transient failure becomes a condition only after the
//! grace period.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::requeue::Requeue;
use crate::{
    crd::ConfigSource,
    doppler::Snapshot,
    failure::Failure,
    prefect::Connection,
    reason::{Class, Reason},
    secret::SourceValues,
    status::{ConditionUpdate, ResolvedConfigs},
    upstream::{poller::PollState, subscription::FeedState},
};

/// The last good values of a binding.
#[derive(Clone)]
pub struct LastGood {
    /// The configs from which they were read, in the order of the spec: at least one.
    pub configs: Arc<[ConfigValues]>,
    /// Distinguishes the source from which they were read: the configs, their tokens and the
    /// transformer.
    pub source: u64,
}

/// The last good values of one config.
pub struct ConfigValues {
    /// Doppler project.
    pub project: String,
    /// Doppler config.
    pub config: String,
    /// The item of `spec.doppler.configs` for which they were read. Most bindings have none.
    pub item: Option<Box<ConfigSource>>,
    /// The values.
    pub snapshot: Arc<Snapshot>,
}

impl LastGood {
    /// What the Secret is built from.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceValues<'_>> {
        let configs = self.configs.iter();
        let sources = configs.map(|of| SourceValues {
            project: &of.project,
            config: &of.config,
            item: of.item.as_deref(),
            values: of.snapshot.values(),
        });
        sources.collect()
    }

    /// What the status says of the configs.
    #[must_use]
    pub fn resolved(&self) -> ResolvedConfigs {
        let configs = self.configs.iter();
        ResolvedConfigs {
            configs: configs
                .map(|of| (of.project.clone(), of.config.clone()))
                .collect(),
            are_listed: self.configs.iter().any(|of| of.item.is_some()),
        }
    }

    /// Whether a later read confirmed of each config that most of its names are gone.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.configs.iter().all(|of| of.snapshot.is_confirmed())
    }
}

/// The stage at which the resolution of newer values fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the spec to project, config and token.
    Block,
    /// From project, config and token to the values.
    Config,
}

/// Why there are no newer values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamFailure {
    /// Where the resolution failed.
    pub stage: Stage,
    /// Why it failed.
    pub failure: Failure,
    /// Whether it waits for a change, or has lasted for the grace period.
    pub persistent: bool,
}

impl UpstreamFailure {
    fn condition(&self, was_true: bool) -> ConditionUpdate {
        ConditionUpdate::of_failure(&self.failure, self.persistent, was_true)
    }
}

/// What was resolved for a binding.
pub struct Resolution {
    /// How to reach the Prefect server. None if the spec names none, or a key reference failed.
    pub connection: Option<Arc<Connection>>,
    /// Whether the first answer of an upstream is pending. The answer enqueues the binding, and so
    /// does the poller if the answer is overdue.
    pub pending: bool,
    /// Whether the pending answer is overdue.
    pub overdue: bool,
    /// What was resolved, and from where.
    pub resolved_from: Option<String>,
    /// The last good values.
    pub last_good: Option<LastGood>,
    /// How many consecutive reads returned them.
    pub consecutive_reads: u32,
    /// Why there are no newer values.
    pub failure: Option<UpstreamFailure>,
    /// An addition to the message of a True condition `BlockResolved`.
    pub block_note: Option<String>,
    /// An addition to the message of a True condition `SecretSynced`.
    pub values_note: Option<String>,
    /// When the change notification arrived that led to these values.
    pub notified_at: Option<Instant>,
    /// The values are at least as current as this: when the older of the requests was sent that block
    /// and config answer.
    pub current_as_of: Option<Instant>,
    /// When to reconcile again.
    pub requeue: Requeue,
    grace_period: Duration,
}

impl Resolution {
    /// Nothing is resolved yet. Transient failures become conditions after `grace_period`.
    #[must_use]
    pub fn new(grace_period: Duration) -> Self {
        Self {
            connection: None,
            pending: false,
            overdue: false,
            resolved_from: None,
            last_good: None,
            consecutive_reads: 0,
            failure: None,
            block_note: None,
            values_note: None,
            notified_at: None,
            current_as_of: None,
            requeue: Requeue::default(),
            grace_period,
        }
    }

    /// Whether the reconcile can do nothing before the first answer of an upstream.
    #[must_use]
    pub const fn waits_for_first_answer(&self) -> bool {
        self.pending && self.failure.is_none() && !self.overdue
    }

    /// Records the poll state of a source, and returns its value.
    pub fn record_poll<V>(&mut self, stage: Stage, poll_state: &PollState<V>) -> Option<Arc<V>> {
        if let Some(failure) = &poll_state.failure {
            let failing_for = poll_state.failing_for(Instant::now());
            self.record_failure(stage, failure.clone(), failing_for);
        }
        self.record_answer(stage, poll_state)
    }

    /// Like [`Self::record_poll`], without the failure.
    pub fn record_answer<V>(&mut self, stage: Stage, poll_state: &PollState<V>) -> Option<Arc<V>> {
        if poll_state.failure.is_none() && poll_state.value.is_none() {
            self.pending = true;
            self.overdue |= poll_state.overdue;
        }
        let note = match stage {
            Stage::Block => &mut self.block_note,
            Stage::Config => &mut self.values_note,
        };
        if let Some(more) = note_of(poll_state) {
            match note {
                // Configs of one token have the same note.
                Some(note) if note.contains(&more) => {}
                Some(note) => *note = format!("{note}; {more}"),
                None => *note = Some(more),
            }
        }
        if let Some(sent_at) = poll_state.sent_at {
            let others = self.current_as_of.unwrap_or(sent_at);
            self.current_as_of = Some(others.min(sent_at));
        }
        if poll_state.unchanged_reads <= 1 {
            self.notified_at = poll_state.notified_at.or(self.notified_at);
        }
        poll_state.value.clone()
    }

    /// Whether the values are at least as current as `since`, and nothing fails.
    #[must_use]
    pub fn is_current(&self, since: Instant) -> bool {
        self.failure.is_none()
            && !self.pending
            && self.last_good.is_some()
            && self.current_as_of.is_some_and(|at| at >= since)
    }

    /// Adds to the message of a True condition `BlockResolved`.
    pub fn add_block_note(&mut self, note: Option<String>) {
        let notes: Vec<String> = self.block_note.take().into_iter().chain(note).collect();
        self.block_note = (!notes.is_empty()).then(|| notes.join("; "));
    }

    /// Records a failure that has lasted for `failing_for`. The first one counts.
    pub fn record_failure(&mut self, stage: Stage, failure: Failure, failing_for: Duration) {
        let persistent = matches!(failure.reason.class(), Class::WaitForChange)
            || failing_for >= self.grace_period;
        if !persistent {
            let remaining = self.grace_period.saturating_sub(failing_for);
            self.requeue.after(remaining);
        }
        self.failure.get_or_insert(UpstreamFailure {
            stage,
            failure,
            persistent,
        });
    }

    /// The condition `BlockResolved`. `was_true` is its last status.
    #[must_use]
    pub fn block_condition(&self, was_true: bool) -> ConditionUpdate {
        match (&self.failure, &self.resolved_from) {
            (Some(failed), _) if failed.stage == Stage::Block && failed.persistent => {
                failed.condition(was_true)
            }
            (_, Some(resolved)) => ConditionUpdate::True(
                Reason::Resolved,
                with_note(resolved, self.block_note.as_deref()),
            ),
            (Some(failed), None) => failed.condition(was_true),
            (None, None) => ConditionUpdate::Unchanged,
        }
    }

    /// The condition `SecretSynced`, as far as the upstreams decide it. `was_true` is its last
    /// status. None if the Secret decides it.
    #[must_use]
    pub fn upstream_condition(
        &self,
        was_true: bool,
        secret_exists: bool,
    ) -> Option<ConditionUpdate> {
        let failed = self.failure.as_ref()?;
        let update = failed.condition(was_true);
        if !failed.persistent {
            // Values that were read before keep the Secret in sync during the grace period.
            return self.last_good.is_none().then_some(update);
        }
        Some(match update {
            ConditionUpdate::False(reason, message)
                if self.last_good.is_some() || secret_exists =>
            {
                let message = format!("{message}; the Secret keeps its last good values");
                ConditionUpdate::False(reason, message)
            }
            update => update,
        })
    }
}

/// What to add to the message of a True condition: why there are no change notifications, and how
/// stale the value may be.
fn note_of<V>(state: &PollState<V>) -> Option<String> {
    let rejected = match &state.feed_state {
        FeedState::Rejected(why) => Some(why.to_string()),
        _ => None,
    };
    let staleness_note = state.staleness.map(|staleness| {
        format!(
            "the values may be {} min old, because requests wait for a rate limit that other configs share: use fewer configs with one token, or ask for a higher limit",
            staleness.as_secs() / 60
        )
    });
    let notes: Vec<String> = rejected.into_iter().chain(staleness_note).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// A message with an addition.
pub(super) fn with_note(message: &str, note: Option<&str>) -> String {
    note.map_or_else(|| message.to_owned(), |note| format!("{message}; {note}"))
}

#[cfg(test)]
mod tests;
