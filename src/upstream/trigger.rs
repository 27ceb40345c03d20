//! A signal that a polled value has to be read again now.
//!
//! Input: change notifications with their time, requests for a read without one, and demands of
//! callers that want the current value. Output: one wake-up of the reader, the time of the first
//! notification that the next read answers, and when the last request was sent.
//! Invariants: signals that arrive before a request is sent are coalesced into that request. A demand
//! alone is no sign of a change, so the reader may pace it.

use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// Shared by the feeds that report changes and by the reader of one value.
#[derive(Clone, Debug, Default)]
pub struct Trigger(Arc<TriggerInner>);

#[derive(Debug, Default)]
struct TriggerInner {
    notify: Notify,
    signals: Mutex<Signals>,
}

#[derive(Debug, Default)]
struct Signals {
    notified_at: Option<Instant>,
    /// Whether a signal other than a demand waits for a request.
    is_urgent: bool,
    sent_at: Option<Instant>,
}

impl Trigger {
    /// A change was reported at `at`.
    pub fn notify(&self, at: Instant) {
        let mut signals = self.0.signals.lock();
        signals.notified_at.get_or_insert(at);
        signals.is_urgent = true;
        self.0.notify.notify_one();
    }

    /// Requests a read for another reason than a change notification.
    pub fn request_read(&self) {
        self.0.signals.lock().is_urgent = true;
        self.0.notify.notify_one();
    }

    /// Requests the current value, although nothing says that it has changed.
    pub fn demand(&self) {
        self.0.notify.notify_one();
    }

    /// Waits until a read is requested.
    pub async fn triggered(&self) {
        self.0.notify.notified().await;
    }

    /// Whether a read is requested by more than demands.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.0.signals.lock().is_urgent
    }

    /// Consumes a signal that has already arrived. True if there was one.
    #[allow(clippy::must_use_candidate)] // the signal is consumed whether or not the caller looks at the answer
    pub fn take_pending(&self) -> bool {
        let mut signals = self.0.signals.lock();
        signals.is_urgent = false;
        self.0.notify.notified().now_or_never().is_some()
    }

    /// A request is sent now: consumes the signals that it answers.
    pub fn record_sent(&self) {
        let mut signals = self.0.signals.lock();
        signals.is_urgent = false;
        signals.sent_at = Some(Instant::now());
        let _ = self.0.notify.notified().now_or_never();
    }

    /// When the last request was sent. The answer to it is at least as current.
    #[must_use]
    pub fn sent_at(&self) -> Option<Instant> {
        self.0.signals.lock().sent_at
    }

    /// Takes the time of the first change notification that no read has answered yet.
    #[must_use]
    pub fn take_notified_at(&self) -> Option<Instant> {
        self.0.signals.lock().notified_at.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_signal(trigger: &Trigger) -> bool {
        trigger.triggered().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_answers_the_signals_before_it() {
        let (trigger, now) = (Trigger::default(), Instant::now());
        trigger.demand();
        assert!(!trigger.is_urgent());
        trigger.notify(now);
        assert!(trigger.is_urgent());
        trigger.record_sent();
        assert!(!trigger.is_urgent() && !has_signal(&trigger));
        assert_eq!(trigger.sent_at(), Some(now));
        trigger.demand();
        assert!(has_signal(&trigger), "it came after the request");
    }
}
