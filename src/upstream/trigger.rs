//! A signal that a polled value has to be read again now.
//!
//! Input: change notifications with their time, and requests for a read without one. Output: one
//! wake-up of the reader, and the time of the first notification that the next read answers.
//! Invariants: signals that arrive before a request is sent are coalesced into that request.

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
    notified_at: Mutex<Option<Instant>>,
}

impl Trigger {
    /// A change was reported at `at`.
    pub fn notify(&self, at: Instant) {
        self.0.notified_at.lock().get_or_insert(at);
        self.0.notify.notify_one();
    }

    /// Requests a read for another reason than a change notification.
    pub fn request_read(&self) {
        self.0.notify.notify_one();
    }

    /// Waits until a read is requested.
    pub async fn triggered(&self) {
        self.0.notify.notified().await;
    }

    /// Consumes a signal that has already arrived. True if there was one.
    #[allow(clippy::must_use_candidate)] // the signal is consumed whether or not the caller looks at the answer
    pub fn take_pending(&self) -> bool {
        self.0.notify.notified().now_or_never().is_some()
    }

    /// Takes the time of the first change notification that no read has answered yet.
    #[must_use]
    pub fn take_notified_at(&self) -> Option<Instant> {
        self.0.notified_at.lock().take()
    }
}
