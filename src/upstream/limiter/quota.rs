//! Pure: how many requests an account may still send.
//!
//! Input: what answers stated about the limit, the budget that a flag sets, and the requests that
//! were sent. Output: whether one more request may be sent, or when. Invariants: it reads no clock.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::priority::Priority;

/// A budget is counted over a minute, as the limits of both upstreams are.
const MINUTE: Duration = Duration::from_mins(1);
/// Clocks differ and answers take time: a window is taken to end later by this.
const MARGIN: Duration = Duration::from_millis(100);
/// Two ends of a window whose distance is at most this are ends of the same window.
const SAME_WINDOW: Duration = Duration::from_secs(3);

/// The limit as an answer states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests in one window.
    pub limit: u32,
    /// Requests left in this window.
    pub remaining: u32,
    /// How long until the next window begins.
    pub resets_in: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    limit: u32,
    /// Requests answered in this window: the upstream's count or ours, whichever is higher.
    used: u32,
    resets_at: Instant,
}

/// What one account may send.
#[derive(Debug, Default)]
pub(super) struct Quota {
    /// Whether a first request has ended. Until then only one request is sent, so that an exhausted
    /// limit is hit once.
    is_known: bool,
    window: Option<Window>,
    paused_until: Option<Instant>,
    /// Requests a minute that a flag allows, and the times of those of the last minute.
    budget: Option<(u32, VecDeque<Instant>)>,
}

impl Quota {
    /// The quota of an upstream without a limit.
    pub(super) fn unlimited() -> Self {
        Self {
            is_known: true,
            ..Self::default()
        }
    }

    /// A quota that a flag bounds, in addition to what answers state.
    pub(super) fn with_budget(per_minute: u32) -> Self {
        Self {
            is_known: true,
            budget: Some((per_minute, VecDeque::new())),
            ..Self::default()
        }
    }

    /// A quota of credentials that have yet to be accepted: one request is sent before any other.
    pub(super) fn untried(per_minute: u32) -> Self {
        Self {
            budget: Some((per_minute, VecDeque::new())),
            ..Self::default()
        }
    }

    /// Whether the next request of this priority may be sent now; otherwise the time to check
    /// again. `in_flight` requests of this account are not answered yet.
    pub(super) fn check(
        &mut self,
        priority: Priority,
        in_flight: u32,
        now: Instant,
    ) -> Result<(), Instant> {
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Err(until);
        }
        if let Some((per_minute, sent)) = &mut self.budget {
            while sent
                .front()
                .is_some_and(|at| now.duration_since(*at) >= MINUTE)
            {
                sent.pop_front();
            }
            let reserve = reserved(*per_minute, priority);
            let max =
                usize::try_from(per_minute.saturating_sub(reserve).max(1)).unwrap_or(usize::MAX);
            // So many requests were sent since this one; it has to be a minute old.
            if let Some(at) = sent.iter().nth_back(max - 1) {
                return Err(*at + MINUTE);
            }
        }
        if !self.is_known && in_flight > 0 {
            // No request takes longer; its answer triggers a check before that.
            return Err(now + MINUTE);
        }
        let Some(window) = &mut self.window else {
            return Ok(());
        };
        if window.resets_at <= now {
            window.used = 0;
            window.resets_at = now + MINUTE;
        }
        let reserve = reserved(window.limit, priority);
        let max = window.limit.saturating_sub(reserve).max(1);
        if window.used.saturating_add(in_flight) < max {
            Ok(())
        } else {
            Err(window.resets_at)
        }
    }

    /// A request is about to be sent.
    pub(super) fn record_sent(&mut self, now: Instant) {
        if let Some((_, sent)) = &mut self.budget {
            sent.push_back(now);
        }
    }

    /// A request was answered.
    pub(super) fn record_answer(&mut self, rate: Option<Rate>, now: Instant) {
        self.is_known = true;
        let Some(rate) = rate.filter(|rate| rate.limit > 0) else {
            if let Some(window) = &mut self.window {
                window.used = window.used.saturating_add(1);
            }
            return;
        };
        let used = rate.limit.saturating_sub(rate.remaining);
        let resets_at = now + rate.resets_in + MARGIN;
        match &mut self.window {
            Some(window) if distance(window.resets_at, resets_at) <= SAME_WINDOW => {
                window.limit = rate.limit;
                // Answers may arrive out of order.
                window.used = window.used.max(used);
                window.resets_at = window.resets_at.max(resets_at);
            }
            // An answer of a window that has ended does not describe this one.
            Some(window) if resets_at < window.resets_at && window.used > 0 => {}
            window => {
                *window = Some(Window {
                    limit: rate.limit,
                    used,
                    resets_at,
                });
            }
        }
    }

    /// The upstream refuses requests for the time `wait`. A longer pause that is in effect stays.
    pub(super) fn pause(&mut self, wait: Duration, now: Instant) {
        let until = now + wait;
        self.paused_until = Some(self.paused_until.map_or(until, |before| before.max(until)));
    }

    /// Whether it can be dropped without losing anything.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.paused_until.is_none_or(|until| until <= now)
            && self.window.is_none_or(|window| window.resets_at <= now)
            && self.budget.as_ref().is_none_or(|(_, sent)| {
                sent.back()
                    .is_none_or(|at| now.duration_since(*at) >= MINUTE)
            })
    }
}

/// How many requests of the limit are reserved for more urgent priorities.
const fn reserved(limit: u32, priority: Priority) -> u32 {
    match priority {
        Priority::Initial | Priority::Interactive => 0,
        Priority::Poll => limit / 10,
        Priority::Background => limit / 4,
    }
}

fn distance(a: Instant, b: Instant) -> Duration {
    a.max(b).duration_since(a.min(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(remaining: u32, resets_in: u64) -> Rate {
        Rate {
            limit: 120,
            remaining,
            resets_in: Duration::from_secs(resets_in),
        }
    }

    #[test]
    fn first_request_is_sent_alone_until_the_limit_is_known() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        assert_eq!(quota.check(Priority::Background, 0, now), Ok(()));
        assert_eq!(quota.check(Priority::Initial, 1, now), Err(now + MINUTE));
        quota.record_answer(None, now);
        assert_eq!(quota.check(Priority::Background, 1000, now), Ok(()));
    }

    #[test]
    fn requests_in_flight_count_against_the_limit() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        quota.record_answer(Some(rate(32, 40)), now);
        assert_eq!(quota.check(Priority::Interactive, 31, now), Ok(()));
        let ends = now + Duration::from_secs(40) + MARGIN;
        assert_eq!(quota.check(Priority::Interactive, 32, now), Err(ends));
        quota.record_answer(Some(rate(0, 40)), now);
        assert_eq!(quota.check(Priority::Interactive, 0, now), Err(ends));
        assert_eq!(
            quota.check(Priority::Interactive, 0, ends),
            Ok(()),
            "a new window"
        );
        assert_eq!(
            quota.check(Priority::Interactive, 120, ends),
            Err(ends + MINUTE),
            "has the same limit until an answer says otherwise"
        );
    }

    #[test]
    fn late_answer_does_not_raise_the_remaining_quota() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        quota.record_answer(Some(rate(0, 40)), now);
        quota.record_answer(Some(rate(9, 40)), now);
        assert!(quota.check(Priority::Interactive, 0, now).is_err());
        let next = now + Duration::from_secs(45);
        assert_eq!(quota.check(Priority::Interactive, 0, next), Ok(()));
        quota.record_answer(Some(rate(100, 55)), next);
        assert_eq!(quota.check(Priority::Interactive, 99, next), Ok(()));
        assert!(quota.check(Priority::Interactive, 100, next).is_err());
    }

    #[test]
    fn polls_leave_a_reserve_for_interactive_requests() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        quota.record_answer(Some(rate(12, 40)), now);
        assert!(quota.check(Priority::Background, 0, now).is_err());
        assert!(quota.check(Priority::Poll, 0, now).is_err());
        assert_eq!(quota.check(Priority::Interactive, 0, now), Ok(()));
    }

    #[test]
    fn each_priority_leaves_its_reserve() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        quota.record_answer(Some(rate(120, 40)), now);
        for (priority, max) in [
            (Priority::Initial, 120),
            (Priority::Interactive, 120),
            (Priority::Poll, 108),
            (Priority::Background, 90),
        ] {
            assert_eq!(quota.check(priority, max - 1, now), Ok(()));
            assert!(quota.check(priority, max, now).is_err());
        }
    }

    #[test]
    fn an_answer_counts_for_its_own_window() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        quota.record_answer(Some(rate(0, 10)), now);
        // The next window has begun.
        let next = now + Duration::from_secs(11);
        quota.record_answer(Some(rate(110, 59)), next);
        assert_eq!(quota.check(Priority::Interactive, 109, next), Ok(()));
        // An answer of the window before was late.
        quota.record_answer(Some(rate(0, 1)), next);
        assert_eq!(quota.check(Priority::Interactive, 109, next), Ok(()));
        let ends = next + Duration::from_secs(59) + MARGIN;
        assert_eq!(quota.check(Priority::Interactive, 110, next), Err(ends));
    }

    #[test]
    fn an_answer_without_a_limit_counts_as_one_request() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        let none = Rate {
            limit: 0,
            ..rate(0, 40)
        };
        quota.record_answer(Some(none), now);
        assert_eq!(quota.check(Priority::Background, 1000, now), Ok(()));
        quota.record_answer(Some(rate(2, 40)), now);
        quota.record_answer(Some(none), now);
        assert_eq!(quota.check(Priority::Interactive, 0, now), Ok(()));
        quota.record_answer(None, now);
        assert!(quota.check(Priority::Interactive, 0, now).is_err());
    }

    #[test]
    fn a_quota_is_stale_once_nothing_of_it_has_an_effect() {
        let now = Instant::now();
        let at = |second| now + Duration::from_secs(second);
        let mut quota = Quota::default();
        assert!(quota.is_stale(now));
        quota.pause(Duration::from_secs(9), now);
        assert!(!quota.is_stale(at(8)) && quota.is_stale(at(9)));
        quota.record_answer(Some(rate(5, 40)), now);
        assert!(!quota.is_stale(at(40)) && quota.is_stale(at(40) + MARGIN));
        let mut quota = Quota::with_budget(2);
        quota.record_sent(now);
        assert!(!quota.is_stale(at(59)) && quota.is_stale(at(60)));
    }

    #[test]
    fn a_pause_holds_for_all_priorities_and_is_never_shortened() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        quota.pause(Duration::from_secs(9), now);
        quota.pause(Duration::from_secs(1), now);
        let until = now + Duration::from_secs(9);
        assert_eq!(quota.check(Priority::Interactive, 0, now), Err(until));
        assert_eq!(quota.check(Priority::Interactive, 0, until), Ok(()));
    }

    #[test]
    fn no_minute_exceeds_the_budget() {
        let (mut quota, start) = (Quota::with_budget(6), Instant::now());
        let mut sent = Vec::new();
        let mut now = start;
        while sent.len() < 20 {
            match quota.check(Priority::Interactive, 0, now) {
                Ok(()) => {
                    quota.record_sent(now);
                    sent.push(now);
                    now += Duration::from_millis(700);
                }
                Err(until) => now = until,
            }
        }
        for window in sent.windows(7) {
            assert!(window[6].duration_since(window[0]) >= MINUTE);
        }
        assert!(now.duration_since(start) <= MINUTE * 4);
        assert!(!quota.is_stale(now));
        assert!(quota.is_stale(now + MINUTE * 2));
    }

    #[test]
    fn an_unlimited_or_budgeted_upstream_has_no_first_request() {
        let now = Instant::now();
        for mut quota in [Quota::unlimited(), Quota::with_budget(100)] {
            assert_eq!(quota.check(Priority::Background, 1000, now), Ok(()));
        }
        let mut untried = Quota::untried(100);
        assert_eq!(untried.check(Priority::Initial, 0, now), Ok(()));
        assert_eq!(untried.check(Priority::Initial, 1, now), Err(now + MINUTE));
        let mut untried = Quota::untried(1);
        untried.record_sent(now);
        untried.record_answer(None, now);
        let ends = Err(now + MINUTE);
        assert_eq!(untried.check(Priority::Initial, 0, now), ends, "its budget");
    }

    #[test]
    fn a_budget_waits_until_enough_requests_are_a_minute_old() {
        let (mut quota, start) = (Quota::with_budget(8), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        for second in 0..8 {
            assert_eq!(quota.check(Priority::Initial, 0, at(second)), Ok(()));
            quota.record_sent(at(second));
        }
        let now = at(20);
        assert_eq!(quota.check(Priority::Initial, 0, now), Err(at(60)));
        // Two of the eight are reserved, so that two more have to be a minute old.
        assert_eq!(quota.check(Priority::Background, 0, now), Err(at(62)));
        assert!(quota.check(Priority::Initial, 0, at(60) - MARGIN).is_err());
        assert_eq!(quota.check(Priority::Initial, 0, at(60)), Ok(()));
        assert_eq!(quota.check(Priority::Background, 0, at(61)), Err(at(62)));
        assert_eq!(quota.check(Priority::Background, 0, at(62)), Ok(()));
    }

    #[test]
    fn a_limit_of_one_still_allows_one_request() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        let one = Rate {
            limit: 1,
            remaining: 1,
            resets_in: MINUTE,
        };
        quota.record_answer(Some(one), now);
        assert_eq!(quota.check(Priority::Background, 0, now), Ok(()));
    }
}
