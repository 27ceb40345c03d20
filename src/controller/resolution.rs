//! Pure: how far the way of a value was followed, and what the conditions are to say of that.
//!
//! In: readings of the sources, and what stopped the way. Out: [`Resolution`], and the steps of `BlockResolved` and `SecretSynced`. It asks nobody
//! anything: a failure that may pass is told apart here from one that has lasted.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    doppler::Snapshot,
    failure::Failure,
    prefect::Connection,
    reason::{Class, Reason},
    status::ConditionUpdate,
    upstream::poller::PollState,
    upstream::subscription::FeedState,
};

/// The last good values of a binding.
#[derive(Clone)]
pub struct LastGood {
    /// Doppler project.
    pub project: String,
    /// Doppler config.
    pub config: String,
    /// Its values.
    pub snapshot: Arc<Snapshot>,
}

/// The step at which newer values are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// On the way to project, config and token.
    Block,
    /// On the way to the values.
    Config,
}

/// What stands in the way of newer values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamFailure {
    /// Where.
    pub stage: Stage,
    /// What.
    pub failure: Failure,
    /// Whether it has lasted for so long, or is of a kind, that the binding is to be told not Ready.
    pub persistent: bool,
}

/// How far the way was followed.
#[derive(Default)]
pub struct Resolution {
    /// How the Prefect server is reached, if the binding names one and all it refers to is there.
    pub connection: Option<Arc<Connection>>,
    /// The first answer of an upstream is awaited: the binding is woken when it comes, and when it is overdue.
    pub pending: bool,
    /// It is overdue.
    pub overdue: bool,
    /// What was resolved just now, and from where.
    pub resolved_from: Option<String>,
    /// The last good values.
    pub last_good: Option<LastGood>,
    /// How many reads in a row gave them.
    pub consecutive_reads: u32,
    /// What stands in the way of newer ones.
    pub failure: Option<UpstreamFailure>,
    /// What is to be said of the block beside that all is well.
    pub block_note: Option<String>,
    /// What is to be said of the values beside that all is well.
    pub values_note: Option<String>,
    /// When somebody told of the change that led to these values.
    pub notified_at: Option<Instant>,
    /// When to look again, if nothing happens before.
    pub requeue_after: Option<Duration>,
}

impl Resolution {
    /// Takes what a source knows: its value, if there is one; and its trouble.
    pub(super) fn record_poll<V>(
        &mut self,
        stage: Stage,
        reading: &PollState<V>,
        patience: Duration,
    ) -> Option<Arc<V>> {
        match &reading.failure {
            Some(fault) => self.record_failure(
                stage,
                fault.clone(),
                reading.failing_for(Instant::now()),
                patience,
            ),
            None if reading.value.is_none() => {
                self.pending = true;
                self.overdue |= reading.overdue;
            }
            None => {}
        }
        let aside = match stage {
            Stage::Block => &mut self.block_note,
            Stage::Config => &mut self.values_note,
        };
        *aside = note_of(reading);
        if reading.unchanged_reads <= 1 {
            self.notified_at = reading.notified_at.or(self.notified_at);
        }
        reading.value.clone()
    }

    /// Notes trouble; the first one on the way counts.
    pub(super) fn record_failure(
        &mut self,
        stage: Stage,
        fault: Failure,
        failing_for: Duration,
        patience: Duration,
    ) {
        let lasting =
            matches!(fault.reason.class(), Class::WaitForChange) || failing_for >= patience;
        if !lasting {
            let wait = patience.saturating_sub(failing_for);
            self.requeue_after = Some(self.requeue_after.map_or(wait, |again| again.min(wait)));
        }
        if self.failure.is_none() {
            self.failure = Some(UpstreamFailure {
                stage,
                failure: fault,
                persistent: lasting,
            });
        }
    }

    /// What the condition `BlockResolved` is to say.
    #[must_use]
    pub fn block_condition(&self, was_true: bool) -> ConditionUpdate {
        match (&self.failure, &self.resolved_from) {
            (Some(trouble), _) if trouble.stage == Stage::Block && trouble.persistent => {
                failed(&trouble.failure)
            }
            (_, Some(resolved)) => ConditionUpdate::True(
                Reason::Resolved,
                with_note(resolved, self.block_note.as_deref()),
            ),
            (Some(trouble), None) if trouble.stage == Stage::Config => failed(&trouble.failure),
            (Some(_), None) if was_true => ConditionUpdate::Unchanged,
            (Some(trouble), None) => failed(&trouble.failure),
            (None, None) => ConditionUpdate::Unchanged,
        }
    }

    /// What the condition `SecretSynced` is to say instead of that all is well, if anything.
    #[must_use]
    pub fn upstream_condition(&self, was_true: bool) -> Option<ConditionUpdate> {
        let trouble = self.failure.as_ref()?;
        if trouble.persistent {
            let kept = if self.last_good.is_some() || was_true {
                "; the Secret keeps its last good values"
            } else {
                ""
            };
            return Some(ConditionUpdate::False(
                trouble.failure.reason,
                format!("{}{kept}", trouble.failure.message),
            ));
        }
        if self.last_good.is_some() {
            return None;
        }
        Some(if was_true {
            ConditionUpdate::Unchanged
        } else {
            failed(&trouble.failure)
        })
    }
}

/// What a reading has to say beside its value: why nobody tells of changes, if that is not to pass, and how old it may be, if it is older than asked.
fn note_of<V>(reading: &PollState<V>) -> Option<String> {
    let refused = match &reading.feed_state {
        FeedState::Rejected(why) => Some(why.to_string()),
        _ => None,
    };
    let lag = reading.staleness.map(|lag| {
        format!(
            "they may be {} min old, since requests wait for the limit that others share: use fewer configs with one token, or ask for a higher limit",
            lag.as_secs() / 60
        )
    });
    let asides: Vec<String> = refused.into_iter().chain(lag).collect();
    (!asides.is_empty()).then(|| asides.join("; "))
}

/// A message, and what is to be said beside it.
pub(super) fn with_note(message: &str, aside: Option<&str>) -> String {
    aside.map_or_else(|| message.to_owned(), |aside| format!("{message}; {aside}"))
}

fn failed(fault: &Failure) -> ConditionUpdate {
    ConditionUpdate::False(fault.reason, fault.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(5);

    fn unreachable() -> Failure {
        Failure {
            reason: Reason::DopplerUnreachable,
            message: "down".to_owned(),
            retry_after: None,
        }
    }

    fn last() -> LastGood {
        LastGood {
            project: "p".to_owned(),
            config: "c".to_owned(),
            snapshot: Arc::new(Snapshot::new(std::collections::BTreeMap::default(), None)),
        }
    }

    #[test]
    fn a_failure_that_may_pass_changes_nothing_until_it_has_lasted() {
        let mut followed = Resolution {
            resolved_from: Some("block".to_owned()),
            last_good: Some(last()),
            ..Resolution::default()
        };
        followed.record_failure(
            Stage::Config,
            unreachable(),
            Duration::from_mins(1),
            PATIENCE,
        );
        assert_eq!(followed.upstream_condition(true), None);
        assert_eq!(
            followed.requeue_after,
            Some(Duration::from_mins(4)),
            "and is looked at again when it has lasted"
        );
        let mut followed = Resolution {
            resolved_from: Some("block".to_owned()),
            last_good: Some(last()),
            ..Resolution::default()
        };
        followed.record_failure(Stage::Config, unreachable(), PATIENCE, PATIENCE);
        let Some(ConditionUpdate::False(reason, message)) = followed.upstream_condition(true)
        else {
            panic!("not failed")
        };
        assert_eq!(reason, Reason::DopplerUnreachable);
        assert!(message.contains("keeps its last good values"), "{message}");
        assert!(matches!(
            followed.block_condition(true),
            ConditionUpdate::True(..)
        ));
    }

    #[test]
    fn a_refused_token_is_told_at_once() {
        let mut followed = Resolution {
            last_good: Some(last()),
            ..Resolution::default()
        };
        followed.record_failure(
            Stage::Config,
            Failure {
                reason: Reason::DopplerUnauthorized,
                ..unreachable()
            },
            Duration::ZERO,
            PATIENCE,
        );
        assert!(matches!(
            followed.upstream_condition(true),
            Some(ConditionUpdate::False(Reason::DopplerUnauthorized, _))
        ));
    }

    #[test]
    fn a_restart_while_doppler_is_down_leaves_the_conditions_as_they_are() {
        let mut followed = Resolution {
            resolved_from: Some("block".to_owned()),
            ..Resolution::default()
        };
        followed.record_failure(Stage::Config, unreachable(), Duration::ZERO, PATIENCE);
        assert_eq!(
            followed.upstream_condition(true),
            Some(ConditionUpdate::Unchanged)
        );
        assert!(
            matches!(
                followed.upstream_condition(false),
                Some(ConditionUpdate::False(..))
            ),
            "a new binding is told at once"
        );
    }

    #[test]
    fn trouble_with_the_block_is_not_told_as_trouble_with_doppler() {
        let mut followed = Resolution::default();
        followed.record_failure(
            Stage::Block,
            Failure {
                reason: Reason::BlockMissing,
                ..unreachable()
            },
            Duration::ZERO,
            PATIENCE,
        );
        followed.record_failure(Stage::Config, unreachable(), PATIENCE, PATIENCE);
        assert!(matches!(
            followed.block_condition(true),
            ConditionUpdate::False(Reason::BlockMissing, _)
        ));
        assert!(matches!(
            followed.upstream_condition(true),
            Some(ConditionUpdate::False(Reason::BlockMissing, _))
        ));
    }
}
