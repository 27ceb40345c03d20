//! Pure: how many requests an account may still send.
//!
//! In: what answers said of the limit, the budget that a flag sets, and what was sent. Out: whether one more may go, or when. It reads no clock.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::Priority;

/// A budget is counted over a minute, as the limits of both upstreams are.
const MINUTE: Duration = Duration::from_mins(1);
/// Clocks differ, and answers take their time: a window that has ended may go on for as long as this.
const MARGIN: Duration = Duration::from_millis(100);
/// Two ends of a window that are no further apart than this are of the same window.
const SAME_WINDOW: Duration = Duration::from_secs(3);

/// What an answer said of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests in a window.
    pub limit: u32,
    /// Requests left in this one.
    pub remaining: u32,
    /// When the next one begins.
    pub resets_in: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    limit: u32,
    /// Answered in this window, by the other side's count or ours, whichever is higher.
    used: u32,
    resets_at: Instant,
}

/// What one account may send.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// Whether there was an answer, or none in time. Until then one request goes alone, so that a limit that is used up is met once.
    met: bool,
    window: Option<Window>,
    closed_until: Option<Instant>,
    /// Requests a minute that a flag allows, and when those of the last minute were sent.
    budget: Option<(u32, VecDeque<Instant>)>,
}

impl Allowance {
    /// One of an upstream that counts nothing.
    pub(super) fn uncounted() -> Self {
        Self {
            met: true,
            ..Self::default()
        }
    }

    /// One that a flag bounds, beside what answers say.
    pub(super) fn with_budget(a_minute: u32) -> Self {
        Self {
            met: true,
            budget: Some((a_minute, VecDeque::new())),
            ..Self::default()
        }
    }

    /// When the next request of this rank may go: now, or not before an instant. `in_flight` of this account are on their way.
    pub(super) fn next(
        &mut self,
        rank: Priority,
        in_flight: u32,
        now: Instant,
    ) -> Result<(), Instant> {
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Err(until);
        }
        if let Some((a_minute, sent)) = &mut self.budget {
            while sent
                .front()
                .is_some_and(|at| now.duration_since(*at) >= MINUTE)
            {
                sent.pop_front();
            }
            let kept = kept_back(*a_minute, rank);
            let most = usize::try_from(a_minute.saturating_sub(kept).max(1)).unwrap_or(usize::MAX);
            if sent.len() >= most {
                // As many as are too many have to be a minute old.
                let at = sent.len() - most;
                return Err(sent.get(at).map_or(now + MINUTE, |at| *at + MINUTE));
            }
        }
        if !self.met && in_flight > 0 {
            // Not later than any request takes; its answer has the queue looked at.
            return Err(now + MINUTE);
        }
        let Some(window) = &mut self.window else {
            return Ok(());
        };
        if window.resets_at <= now {
            window.used = 0;
            window.resets_at = now + MINUTE;
        }
        let kept = kept_back(window.limit, rank);
        let most = window.limit.saturating_sub(kept).max(1);
        if window.used.saturating_add(in_flight) < most {
            Ok(())
        } else {
            Err(window.resets_at)
        }
    }

    /// A request goes.
    pub(super) fn sent(&mut self, now: Instant) {
        if let Some((_, sent)) = &mut self.budget {
            sent.push_back(now);
        }
    }

    /// A request was answered.
    pub(super) fn answered(&mut self, rate: Option<Rate>, now: Instant) {
        self.met = true;
        let Some(rate) = rate.filter(|rate| rate.limit > 0) else {
            if let Some(window) = &mut self.window {
                window.used = window.used.saturating_add(1);
            }
            return;
        };
        let used = rate.limit.saturating_sub(rate.remaining);
        let resets_at = now + rate.resets_in + MARGIN;
        match &mut self.window {
            Some(window) if apart(window.resets_at, resets_at) <= SAME_WINDOW => {
                window.limit = rate.limit;
                // Answers may overtake each other.
                window.used = window.used.max(used);
                window.resets_at = window.resets_at.max(resets_at);
            }
            // An answer from a window that has ended says nothing of this one.
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

    /// The other side refused for a while. A refusal that holds already is never shortened.
    pub(super) fn limited(&mut self, wait: Duration, now: Instant) {
        let until = now + wait;
        self.closed_until = Some(self.closed_until.map_or(until, |before| before.max(until)));
    }

    /// Whether nothing would be lost by forgetting it.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.closed_until.is_none_or(|until| until <= now)
            && self.window.is_none_or(|window| window.resets_at <= now)
            && self.budget.as_ref().is_none_or(|(_, sent)| {
                sent.back()
                    .is_none_or(|at| now.duration_since(*at) >= MINUTE)
            })
    }
}

/// What requests that can wait leave for those that cannot.
const fn kept_back(limit: u32, rank: Priority) -> u32 {
    match rank {
        Priority::Initial | Priority::Interactive => 0,
        Priority::Poll => limit / 10,
        Priority::Background => limit / 4,
    }
}

fn apart(a: Instant, b: Instant) -> Duration {
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
    fn one_goes_ahead_and_if_no_limit_is_known_then_all_may_go() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        assert_eq!(allowance.next(Priority::Background, 0, now), Ok(()));
        assert!(allowance.next(Priority::Initial, 1, now).is_err());
        allowance.answered(None, now);
        assert_eq!(allowance.next(Priority::Background, 1000, now), Ok(()));
    }

    #[test]
    fn what_is_on_its_way_counts_until_its_answer_does() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        allowance.answered(Some(rate(32, 40)), now);
        assert_eq!(allowance.next(Priority::Interactive, 31, now), Ok(()));
        let ends = now + Duration::from_secs(40) + MARGIN;
        assert_eq!(allowance.next(Priority::Interactive, 32, now), Err(ends));
        allowance.answered(Some(rate(0, 40)), now);
        assert_eq!(allowance.next(Priority::Interactive, 0, now), Err(ends));
        assert_eq!(
            allowance.next(Priority::Interactive, 0, ends),
            Ok(()),
            "a new window"
        );
        assert_eq!(
            allowance.next(Priority::Interactive, 120, ends),
            Err(ends + MINUTE),
            "has the same limit until an answer says otherwise"
        );
    }

    #[test]
    fn an_answer_that_was_overtaken_gives_nothing_back() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        allowance.answered(Some(rate(0, 40)), now);
        allowance.answered(Some(rate(9, 40)), now);
        assert!(allowance.next(Priority::Interactive, 0, now).is_err());
        let next = now + Duration::from_secs(45);
        assert_eq!(allowance.next(Priority::Interactive, 0, next), Ok(()));
        allowance.answered(Some(rate(100, 55)), next);
        assert_eq!(allowance.next(Priority::Interactive, 99, next), Ok(()));
        assert!(allowance.next(Priority::Interactive, 100, next).is_err());
    }

    #[test]
    fn polls_leave_something_for_pushes() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        allowance.answered(Some(rate(12, 40)), now);
        assert!(allowance.next(Priority::Background, 0, now).is_err());
        assert!(allowance.next(Priority::Poll, 0, now).is_err());
        assert_eq!(allowance.next(Priority::Interactive, 0, now), Ok(()));
    }

    #[test]
    fn a_refusal_holds_for_all_ranks_and_is_never_shortened() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        allowance.limited(Duration::from_secs(9), now);
        allowance.limited(Duration::from_secs(1), now);
        let until = now + Duration::from_secs(9);
        assert_eq!(allowance.next(Priority::Interactive, 0, now), Err(until));
        assert_eq!(allowance.next(Priority::Interactive, 0, until), Ok(()));
    }

    #[test]
    fn no_minute_has_more_than_the_budget() {
        let (mut allowance, start) = (Allowance::with_budget(6), Instant::now());
        let mut sent = Vec::new();
        let mut now = start;
        while sent.len() < 20 {
            match allowance.next(Priority::Interactive, 0, now) {
                Ok(()) => {
                    allowance.sent(now);
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
        assert!(!allowance.is_stale(now));
        assert!(allowance.is_stale(now + MINUTE * 2));
    }

    #[test]
    fn a_limit_of_one_still_lets_one_through() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        let one = Rate {
            limit: 1,
            remaining: 1,
            resets_in: MINUTE,
        };
        allowance.answered(Some(one), now);
        assert_eq!(allowance.next(Priority::Background, 0, now), Ok(()));
    }
}
