//! The state of a polled value.
//!
//! Input: the results of its reads, in order.
//! Output: [`PollState`], and whether a subscriber sees a difference.
//! Invariants: pure. It reads no clock. A failed read keeps the last value.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{failure::Failure, upstream::subscription::FeedState};

/// The result of a read that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll<V> {
    /// The last value is still current.
    Unchanged,
    /// Another value.
    Changed(V),
}

/// What is known of a polled value.
pub struct PollState<V> {
    /// The last good value.
    pub value: Option<Arc<V>>,
    /// How many reads in a row gave this value.
    pub unchanged_reads: u32,
    /// Why the last read failed, if it did.
    pub failure: Option<Failure>,
    /// Since when reads have failed.
    pub failing_since: Option<Instant>,
    /// Whether the upstream reports changes.
    pub feed_state: FeedState,
    /// How stale the value may become, in whole minutes, if the upstream's rate limit delays reads
    /// beyond the interval.
    pub staleness: Option<Duration>,
    /// When the change to this value was reported, if it was.
    pub notified_at: Option<Instant>,
    /// When the value was last read.
    pub read_at: Option<Instant>,
    /// When the request was sent that the last successful read answers.
    pub sent_at: Option<Instant>,
    /// Whether the first result takes so long that the binding's status has to say so.
    pub overdue: bool,
}

impl<V> Clone for PollState<V> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            unchanged_reads: self.unchanged_reads,
            failure: self.failure.clone(),
            failing_since: self.failing_since,
            feed_state: self.feed_state.clone(),
            staleness: self.staleness,
            notified_at: self.notified_at,
            read_at: self.read_at,
            sent_at: self.sent_at,
            overdue: self.overdue,
        }
    }
}

impl<V> Default for PollState<V> {
    fn default() -> Self {
        Self {
            value: None,
            unchanged_reads: 0,
            failure: None,
            failing_since: None,
            feed_state: FeedState::Disabled,
            staleness: None,
            notified_at: None,
            read_at: None,
            sent_at: None,
            overdue: false,
        }
    }
}

/// A read that has ended, and its circumstances.
pub(super) struct ReadResult<V> {
    pub(super) result: Result<Poll<V>, Failure>,
    pub(super) sent_at: Instant,
    pub(super) feed_state: FeedState,
    pub(super) staleness: Option<Duration>,
    pub(super) notified_at: Option<Instant>,
}

impl<V> PollState<V> {
    /// How long reads have failed.
    #[must_use]
    pub fn failing_for(&self, now: Instant) -> Duration {
        self.failing_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether no read has ended yet.
    pub(super) fn awaits_first_result(&self) -> bool {
        self.value.is_none() && self.failure.is_none()
    }

    /// Applies the result of a read. True if a subscriber sees a difference.
    pub(super) fn apply(&mut self, read: ReadResult<V>, now: Instant) -> bool {
        let ReadResult {
            result,
            sent_at,
            feed_state,
            staleness,
            notified_at,
        } = read;
        // The status only shows rejections: connections come and go.
        let rejection = |state: &FeedState| match state {
            FeedState::Rejected(reason) => Some(Arc::clone(reason)),
            _ => None,
        };
        let differs =
            rejection(&self.feed_state) != rejection(&feed_state) || self.staleness != staleness;
        self.feed_state = feed_state;
        self.staleness = staleness;
        let differs = differs && self.value.is_some();
        self.overdue = false;
        match result {
            Ok(poll) => {
                let recovered = self.failure.take().is_some();
                self.failing_since = None;
                self.read_at = Some(now);
                self.sent_at = Some(sent_at);
                match poll {
                    Poll::Unchanged => {
                        self.unchanged_reads = self.unchanged_reads.saturating_add(1);
                        recovered || differs
                    }
                    Poll::Changed(value) => {
                        self.value = Some(Arc::new(value));
                        self.unchanged_reads = 1;
                        self.notified_at = notified_at;
                        true
                    }
                }
            }
            Err(failure) => {
                self.failing_since.get_or_insert(now);
                let is_known = self.failure.as_ref().is_some_and(|last| {
                    (last.reason, &last.message) == (failure.reason, &failure.message)
                });
                self.failure = Some(failure);
                !is_known
            }
        }
    }
}
