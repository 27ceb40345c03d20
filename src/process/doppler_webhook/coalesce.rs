//! Limits how often webhooks call the handler.
//!
//! Input: webhooks, and the time.
//! Output: which webhooks to handle now, and which later.
//! Invariants: pure, it neither waits nor calls the handler. The first webhook of a burst is
//! handled at once, and one more after the interval, so no change is missed. Memory is bounded.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::doppler::webhook::Webhook;

/// The least time between two calls for one config.
pub const CONFIG_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two calls for all configs that a secret covers.
pub const SCOPE_INTERVAL: Duration = Duration::from_secs(10);
/// Configs that are tracked at the same time. Beyond them, a webhook counts as one without target.
const MAX_TRACKED: usize = 1024;

/// When webhooks with one scope and target may be handled again, and whether one is pending.
struct Slot {
    ready_at: Instant,
    pending: bool,
}

/// The webhooks that were handled recently.
#[derive(Default)]
pub struct Coalescer {
    slots: HashMap<Webhook, Slot>,
}

impl Coalescer {
    /// Offers a webhook. Returns it if it may be handled now. Otherwise [`Self::take_due`] returns
    /// it later.
    pub fn offer(&mut self, mut webhook: Webhook, now: Instant) -> Option<Webhook> {
        if !self.slots.contains_key(&webhook) && self.slots.len() >= MAX_TRACKED {
            self.slots
                .retain(|_, slot| slot.pending || slot.ready_at > now);
            if self.slots.len() >= MAX_TRACKED {
                webhook.target = None;
            }
        }
        if let Some(slot) = self.slots.get_mut(&webhook)
            && (slot.pending || slot.ready_at > now)
        {
            slot.pending = true;
            return None;
        }
        self.start_interval(webhook.clone(), now);
        Some(webhook)
    }

    /// Takes the pending webhooks whose interval has ended.
    pub fn take_due(&mut self, now: Instant) -> Vec<Webhook> {
        let due = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.pending && slot.ready_at <= now);
        let due: Vec<Webhook> = due.map(|(webhook, _)| webhook.clone()).collect();
        for webhook in &due {
            self.start_interval(webhook.clone(), now);
        }
        due
    }

    /// When [`Self::take_due`] next returns a webhook.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let pending = self.slots.values().filter(|slot| slot.pending);
        pending.map(|slot| slot.ready_at).min()
    }

    fn start_interval(&mut self, webhook: Webhook, now: Instant) {
        let interval = if webhook.target.is_some() {
            CONFIG_INTERVAL
        } else {
            SCOPE_INTERVAL
        };
        let slot = Slot {
            ready_at: now + interval,
            pending: false,
        };
        self.slots.insert(webhook, slot);
    }
}

#[cfg(test)]
mod tests;
