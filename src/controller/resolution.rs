//! Pure: how far the way of a value was followed, and what the conditions are to say of that.
//!
//! In: readings of the sources, and what stopped the way. Out: [`Followed`], and the steps of `BlockResolved` and `SecretSynced`. It asks nobody
//! anything: a failure that may pass is told apart here from one that has lasted.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    doppler::Snapshot,
    prefect::Connection,
    reason::{Class, Reason},
    status::Step,
    upstream::poller::{Fault, Reading},
    upstream::subscription::Push,
};

/// The last good values of a binding.
#[derive(Clone)]
pub struct Last {
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
pub struct Trouble {
    /// Where.
    pub stage: Stage,
    /// What.
    pub fault: Fault,
    /// Whether it has lasted for so long, or is of a kind, that the binding is to be told not Ready.
    pub lasting: bool,
}

/// How far the way was followed.
#[derive(Default)]
pub struct Followed {
    /// How the Prefect server is reached, if the binding names one and all it refers to is there.
    pub connection: Option<Arc<Connection>>,
    /// The first answer of an upstream is awaited: the binding is woken when it comes, and when it is overdue.
    pub awaited: bool,
    /// It is overdue.
    pub overdue: bool,
    /// What was resolved just now, and from where.
    pub resolved: Option<String>,
    /// The last good values.
    pub last: Option<Last>,
    /// How many reads in a row gave them.
    pub seen: u32,
    /// What stands in the way of newer ones.
    pub trouble: Option<Trouble>,
    /// What is to be said of the block beside that all is well.
    pub of_block: Option<String>,
    /// What is to be said of the values beside that all is well.
    pub of_values: Option<String>,
    /// When somebody told of the change that led to these values.
    pub told_at: Option<Instant>,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
}

impl Followed {
    /// Takes what a source knows: its value, if there is one; and its trouble.
    pub(super) fn take<V>(
        &mut self,
        stage: Stage,
        reading: &Reading<V>,
        patience: Duration,
    ) -> Option<Arc<V>> {
        match &reading.fault {
            Some(fault) => self.stopped(
                stage,
                fault.clone(),
                reading.failing_for(Instant::now()),
                patience,
            ),
            None if reading.value.is_none() => {
                self.awaited = true;
                self.overdue |= reading.overdue;
            }
            None => {}
        }
        let aside = match stage {
            Stage::Block => &mut self.of_block,
            Stage::Config => &mut self.of_values,
        };
        *aside = aside_of(reading);
        if reading.seen <= 1 {
            self.told_at = reading.told_at.or(self.told_at);
        }
        reading.value.clone()
    }

    /// Notes trouble; the first one on the way counts.
    pub(super) fn stopped(
        &mut self,
        stage: Stage,
        fault: Fault,
        failing_for: Duration,
        patience: Duration,
    ) {
        let lasting =
            matches!(fault.reason.class(), Class::WaitForChange) || failing_for >= patience;
        if !lasting {
            let wait = patience.saturating_sub(failing_for);
            self.again = Some(self.again.map_or(wait, |again| again.min(wait)));
        }
        if self.trouble.is_none() {
            self.trouble = Some(Trouble {
                stage,
                fault,
                lasting,
            });
        }
    }

    /// What the condition `BlockResolved` is to say.
    #[must_use]
    pub fn block_step(&self, was_true: bool) -> Step {
        match (&self.trouble, &self.resolved) {
            (Some(trouble), _) if trouble.stage == Stage::Block && trouble.lasting => {
                failed(&trouble.fault)
            }
            (_, Some(resolved)) => Step::Done(
                Reason::Resolved,
                with_aside(resolved, self.of_block.as_deref()),
            ),
            (Some(trouble), None) if trouble.stage == Stage::Config => failed(&trouble.fault),
            (Some(_), None) if was_true => Step::AsBefore,
            (Some(trouble), None) => failed(&trouble.fault),
            (None, None) => Step::AsBefore,
        }
    }

    /// What the condition `SecretSynced` is to say instead of that all is well, if anything.
    #[must_use]
    pub fn secret_step(&self, was_true: bool) -> Option<Step> {
        let trouble = self.trouble.as_ref()?;
        if trouble.lasting {
            let kept = if self.last.is_some() || was_true {
                "; the Secret keeps its last good values"
            } else {
                ""
            };
            return Some(Step::Failed(
                trouble.fault.reason,
                format!("{}{kept}", trouble.fault.message),
            ));
        }
        if self.last.is_some() {
            return None;
        }
        Some(if was_true {
            Step::AsBefore
        } else {
            failed(&trouble.fault)
        })
    }
}

/// What a reading has to say beside its value: why nobody tells of changes, if that is not to pass, and how old it may be, if it is older than asked.
fn aside_of<V>(reading: &Reading<V>) -> Option<String> {
    let refused = match &reading.push {
        Push::Refused(why) => Some(why.to_string()),
        _ => None,
    };
    let lag = reading.lag.map(|lag| {
        format!(
            "they may be {} min old, since requests wait for the limit that others share: use fewer configs with one token, or ask for a higher limit",
            lag.as_secs() / 60
        )
    });
    let asides: Vec<String> = refused.into_iter().chain(lag).collect();
    (!asides.is_empty()).then(|| asides.join("; "))
}

/// A message, and what is to be said beside it.
pub(super) fn with_aside(message: &str, aside: Option<&str>) -> String {
    aside.map_or_else(|| message.to_owned(), |aside| format!("{message}; {aside}"))
}

fn failed(fault: &Fault) -> Step {
    Step::Failed(fault.reason, fault.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(5);

    fn unreachable() -> Fault {
        Fault {
            reason: Reason::DopplerUnreachable,
            message: "down".to_owned(),
            retry_after: None,
        }
    }

    fn last() -> Last {
        Last {
            project: "p".to_owned(),
            config: "c".to_owned(),
            snapshot: Arc::new(Snapshot::new(std::collections::BTreeMap::default(), None)),
        }
    }

    #[test]
    fn a_failure_that_may_pass_changes_nothing_until_it_has_lasted() {
        let mut followed = Followed {
            resolved: Some("block".to_owned()),
            last: Some(last()),
            ..Followed::default()
        };
        followed.stopped(
            Stage::Config,
            unreachable(),
            Duration::from_mins(1),
            PATIENCE,
        );
        assert_eq!(followed.secret_step(true), None);
        assert_eq!(
            followed.again,
            Some(Duration::from_mins(4)),
            "and is looked at again when it has lasted"
        );
        let mut followed = Followed {
            resolved: Some("block".to_owned()),
            last: Some(last()),
            ..Followed::default()
        };
        followed.stopped(Stage::Config, unreachable(), PATIENCE, PATIENCE);
        let Some(Step::Failed(reason, message)) = followed.secret_step(true) else {
            panic!("not failed")
        };
        assert_eq!(reason, Reason::DopplerUnreachable);
        assert!(message.contains("keeps its last good values"), "{message}");
        assert!(matches!(followed.block_step(true), Step::Done(..)));
    }

    #[test]
    fn a_refused_token_is_told_at_once() {
        let mut followed = Followed {
            last: Some(last()),
            ..Followed::default()
        };
        followed.stopped(
            Stage::Config,
            Fault {
                reason: Reason::DopplerUnauthorized,
                ..unreachable()
            },
            Duration::ZERO,
            PATIENCE,
        );
        assert!(matches!(
            followed.secret_step(true),
            Some(Step::Failed(Reason::DopplerUnauthorized, _))
        ));
    }

    #[test]
    fn a_restart_while_doppler_is_down_leaves_the_conditions_as_they_are() {
        let mut followed = Followed {
            resolved: Some("block".to_owned()),
            ..Followed::default()
        };
        followed.stopped(Stage::Config, unreachable(), Duration::ZERO, PATIENCE);
        assert_eq!(followed.secret_step(true), Some(Step::AsBefore));
        assert!(
            matches!(followed.secret_step(false), Some(Step::Failed(..))),
            "a new binding is told at once"
        );
    }

    #[test]
    fn trouble_with_the_block_is_not_told_as_trouble_with_doppler() {
        let mut followed = Followed::default();
        followed.stopped(
            Stage::Block,
            Fault {
                reason: Reason::BlockMissing,
                ..unreachable()
            },
            Duration::ZERO,
            PATIENCE,
        );
        followed.stopped(Stage::Config, unreachable(), PATIENCE, PATIENCE);
        assert!(matches!(
            followed.block_step(true),
            Step::Failed(Reason::BlockMissing, _)
        ));
        assert!(matches!(
            followed.secret_step(true),
            Some(Step::Failed(Reason::BlockMissing, _))
        ));
    }
}
