//! How often hooks may wake.
//!
//! In: hooks, and the time. Out: which to act on now, and which later. The first of a burst counts at once, the last of it after the pause, so that
//! no change is missed. Pure: it neither waits nor wakes. What it remembers is bounded.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::doppler::webhook::Hook;

/// Between two wakes of one config.
pub const NAMED_PAUSE: Duration = Duration::from_secs(1);
/// Between two wakes of everything that a secret speaks for.
pub const WHOLE_PAUSE: Duration = Duration::from_secs(10);
/// Configs that are remembered at the same time; beyond them, a hook counts as one without a config.
const MOST: usize = 1024;

/// When what a hook names may be woken again, and whether it is to be.
struct Slot {
    free_at: Instant,
    waiting: bool,
}

/// What was woken lately.
#[derive(Default)]
pub struct Pace {
    slots: HashMap<Hook, Slot>,
}

impl Pace {
    /// Takes in a hook; gives it back if it may be acted upon now. Otherwise [`Pace::due`] gives it later.
    pub fn take(&mut self, mut hook: Hook, now: Instant) -> Option<Hook> {
        if !self.slots.contains_key(&hook) && self.slots.len() >= MOST {
            self.slots
                .retain(|_, slot| slot.waiting || slot.free_at > now);
            if self.slots.len() >= MOST {
                hook.place = None;
            }
        }
        if let Some(slot) = self.slots.get_mut(&hook)
            && (slot.waiting || slot.free_at > now)
        {
            slot.waiting = true;
            return None;
        }
        self.pause(hook.clone(), now);
        Some(hook)
    }

    /// Those that waited and may be acted upon now.
    pub fn due(&mut self, now: Instant) -> Vec<Hook> {
        let due = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.waiting && slot.free_at <= now);
        let due: Vec<Hook> = due.map(|(hook, _)| hook.clone()).collect();
        for hook in &due {
            self.pause(hook.clone(), now);
        }
        due
    }

    /// When [`Pace::due`] gives something.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let waiting = self.slots.values().filter(|slot| slot.waiting);
        waiting.map(|slot| slot.free_at).min()
    }

    fn pause(&mut self, hook: Hook, now: Instant) {
        let pause = if hook.place.is_some() {
            NAMED_PAUSE
        } else {
            WHOLE_PAUSE
        };
        let slot = Slot {
            free_at: now + pause,
            waiting: false,
        };
        self.slots.insert(hook, slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doppler::webhook::Scope;

    fn named(config: &str) -> Hook {
        Hook {
            scope: Scope::All,
            place: Some(("backend".to_owned(), config.to_owned())),
        }
    }

    fn whole() -> Hook {
        Hook {
            scope: Scope::All,
            place: None,
        }
    }

    #[test]
    fn a_burst_wakes_at_its_start_and_once_after_the_pause() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.take(whole(), start), Some(whole()));
        assert_eq!(pace.next(), None);
        for after in 1..10 {
            let now = start + Duration::from_secs(after);
            assert_eq!(pace.take(whole(), now), None);
            assert_eq!(pace.due(now), []);
        }
        let end = start + WHOLE_PAUSE;
        assert_eq!(pace.next(), Some(end));
        assert_eq!(pace.due(end), [whole()], "the last of the burst");
        assert_eq!(pace.next(), None);
        assert_eq!(pace.take(whole(), end), None, "and then a pause again");
        assert_eq!(pace.due(end + WHOLE_PAUSE), [whole()]);
        let later = end + WHOLE_PAUSE * 3;
        assert_eq!(pace.take(whole(), later), Some(whole()));
    }

    #[test]
    fn each_config_has_a_pause_of_its_own() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(pace.take(named("dev"), start).is_some());
        assert!(pace.take(named("prd"), start).is_some());
        assert!(pace.take(whole(), start).is_some());
        assert!(pace.take(named("dev"), start).is_none());
        assert_eq!(pace.due(start + NAMED_PAUSE), [named("dev")]);
    }

    #[test]
    fn one_that_waits_is_not_overtaken_when_its_pause_is_over() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.take(whole(), start);
        pace.take(whole(), start);
        let late = start + WHOLE_PAUSE * 2;
        assert_eq!(pace.take(whole(), late), None, "one wake is due already");
        assert_eq!(pace.due(late), [whole()]);
    }

    #[test]
    fn too_many_configs_at_once_become_one_wake_of_all() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for number in 0..MOST {
            assert!(pace.take(named(&number.to_string()), start).is_some());
        }
        assert_eq!(pace.take(named("more"), start), Some(whole()));
        assert_eq!(pace.take(named("and more"), start), None);
        assert!(pace.slots.len() <= MOST + 1);
        let later = start + NAMED_PAUSE;
        assert_eq!(pace.take(named("more"), later), Some(named("more")));
        assert!(pace.slots.len() <= 3, "what is over is forgotten");
    }
}
