//! How often hooks may wake.
//!
//! In: hooks, and the time. Out: which to act on now, and which later. The first of a burst counts at once, the last of it after the pause, so that
//! no change is missed. Pure: it neither waits nor wakes. What it remembers is bounded.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::doppler::webhook::Webhook;

/// Between two wakes of one config.
pub const CONFIG_INTERVAL: Duration = Duration::from_secs(1);
/// Between two wakes of everything that a secret speaks for.
pub const SCOPE_INTERVAL: Duration = Duration::from_secs(10);
/// Configs that are remembered at the same time; beyond them, a hook counts as one without a config.
const MAX_TRACKED: usize = 1024;

/// When what a hook names may be woken again, and whether it is to be.
struct Slot {
    ready_at: Instant,
    pending: bool,
}

/// What was woken lately.
#[derive(Default)]
pub struct Coalescer {
    slots: HashMap<Webhook, Slot>,
}

impl Coalescer {
    /// Takes in a hook; gives it back if it may be acted upon now. Otherwise [`Coalescer::take_due`] gives it later.
    pub fn offer(&mut self, mut hook: Webhook, now: Instant) -> Option<Webhook> {
        if !self.slots.contains_key(&hook) && self.slots.len() >= MAX_TRACKED {
            self.slots
                .retain(|_, slot| slot.pending || slot.ready_at > now);
            if self.slots.len() >= MAX_TRACKED {
                hook.target = None;
            }
        }
        if let Some(slot) = self.slots.get_mut(&hook)
            && (slot.pending || slot.ready_at > now)
        {
            slot.pending = true;
            return None;
        }
        self.start_interval(hook.clone(), now);
        Some(hook)
    }

    /// Those that waited and may be acted upon now.
    pub fn take_due(&mut self, now: Instant) -> Vec<Webhook> {
        let due = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.pending && slot.ready_at <= now);
        let due: Vec<Webhook> = due.map(|(hook, _)| hook.clone()).collect();
        for hook in &due {
            self.start_interval(hook.clone(), now);
        }
        due
    }

    /// When [`Coalescer::take_due`] gives something.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let waiting = self.slots.values().filter(|slot| slot.pending);
        waiting.map(|slot| slot.ready_at).min()
    }

    fn start_interval(&mut self, hook: Webhook, now: Instant) {
        let pause = if hook.target.is_some() {
            CONFIG_INTERVAL
        } else {
            SCOPE_INTERVAL
        };
        let slot = Slot {
            ready_at: now + pause,
            pending: false,
        };
        self.slots.insert(hook, slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doppler::webhook::Scope;

    fn named(config: &str) -> Webhook {
        Webhook {
            scope: Scope::All,
            target: Some(("backend".to_owned(), config.to_owned())),
        }
    }

    fn whole() -> Webhook {
        Webhook {
            scope: Scope::All,
            target: None,
        }
    }

    #[test]
    fn a_burst_fires_at_its_start_and_once_after_the_interval() {
        let (mut pace, start) = (Coalescer::default(), Instant::now());
        assert_eq!(pace.offer(whole(), start), Some(whole()));
        assert_eq!(pace.next_due(), None);
        for after in 1..10 {
            let now = start + Duration::from_secs(after);
            assert_eq!(pace.offer(whole(), now), None);
            assert_eq!(pace.take_due(now), []);
        }
        let end = start + SCOPE_INTERVAL;
        assert_eq!(pace.next_due(), Some(end));
        assert_eq!(pace.take_due(end), [whole()], "the last of the burst");
        assert_eq!(pace.next_due(), None);
        assert_eq!(pace.offer(whole(), end), None, "and then a pause again");
        assert_eq!(pace.take_due(end + SCOPE_INTERVAL), [whole()]);
        let later = end + SCOPE_INTERVAL * 3;
        assert_eq!(pace.offer(whole(), later), Some(whole()));
    }

    #[test]
    fn each_config_has_its_own_interval() {
        let (mut pace, start) = (Coalescer::default(), Instant::now());
        assert!(pace.offer(named("dev"), start).is_some());
        assert!(pace.offer(named("prd"), start).is_some());
        assert!(pace.offer(whole(), start).is_some());
        assert!(pace.offer(named("dev"), start).is_none());
        assert_eq!(pace.take_due(start + CONFIG_INTERVAL), [named("dev")]);
    }

    #[test]
    fn a_deferred_webhook_absorbs_later_ones_until_it_is_taken() {
        let (mut pace, start) = (Coalescer::default(), Instant::now());
        pace.offer(whole(), start);
        pace.offer(whole(), start);
        let late = start + SCOPE_INTERVAL * 2;
        assert_eq!(pace.offer(whole(), late), None, "one wake is due already");
        assert_eq!(pace.take_due(late), [whole()]);
    }

    #[test]
    fn too_many_configs_collapse_into_their_scope() {
        let (mut pace, start) = (Coalescer::default(), Instant::now());
        for number in 0..MAX_TRACKED {
            assert!(pace.offer(named(&number.to_string()), start).is_some());
        }
        assert_eq!(pace.offer(named("more"), start), Some(whole()));
        assert_eq!(pace.offer(named("and more"), start), None);
        assert!(pace.slots.len() <= MAX_TRACKED + 1);
        let later = start + CONFIG_INTERVAL;
        assert_eq!(pace.offer(named("more"), later), Some(named("more")));
        assert!(pace.slots.len() <= 3, "what is over is forgotten");
    }
}
