//! Pure: the queues of one account, and which of its requests goes next.
//!
//! Input: waiters with their priorities and lanes, the account's quota, the time. Output: the next
//! waiter that may send, or when to check again.
//! Invariants: waiters of one priority are served first in, first out, unless their lane is full; no
//! priority is starved. It reads no clock.

use std::collections::VecDeque;

use tokio::{sync::oneshot, time::Instant};

use super::{
    LimitKey,
    priority::Priority,
    quota::{Quota, Rate},
    sources::Lane,
};

/// One permit of this many goes to a poll, even if interactive requests wait.
const POLL_EVERY: u32 = 4;
/// The same while first reads wait: these come to an end, and until then a binding has no value at
/// all.
const POLL_EVERY_DURING_INITIAL: u32 = 16;
/// One permit of this many goes to a background request, whatever else waits.
const BACKGROUND_EVERY: u32 = 16;

/// A queued request. `G` is what it receives once it is granted or refused.
pub(super) struct Waiter<G> {
    pub(super) id: u64,
    pub(super) key: LimitKey,
    pub(super) grant: oneshot::Sender<G>,
}

/// Who is next in an account.
pub(super) enum Next<G> {
    /// No request is queued.
    Empty,
    /// This request may be sent now, in this lane.
    Ready(Waiter<G>, Lane),
    /// The lanes of all queued requests are full.
    Blocked,
    /// The quota allows none before this time.
    At(Instant),
}

/// One account: what it may send, and what waits to be sent.
pub(super) struct Account<G> {
    quota: Quota,
    /// Whether these are the requests of credentials that have yet to be accepted.
    pub(super) is_untried: bool,
    in_flight: u32,
    queues: [[VecDeque<Waiter<G>>; Lane::COUNT]; Priority::COUNT],
    /// Permits that were granted.
    granted: u32,
    /// When a task checks the queues again, if one waits to do so.
    next_check: Option<Instant>,
}

impl<G> Account<G> {
    /// An account without requests, with this quota.
    pub(super) fn new(quota: Quota, is_untried: bool) -> Self {
        Self {
            quota,
            is_untried,
            in_flight: 0,
            queues: [const { [const { VecDeque::new() }; Lane::COUNT] }; Priority::COUNT],
            granted: 0,
            next_check: None,
        }
    }

    /// Adds a waiter at the end of its priority's queue.
    pub(super) fn push(&mut self, priority: Priority, lane: Lane, waiter: Waiter<G>) {
        self.queues[priority as usize][lane as usize].push_back(waiter);
    }

    /// Moves a poll or a background request to the end of the interactive queue.
    pub(super) fn raise_priority(&mut self, id: u64) {
        for priority in [Priority::Poll, Priority::Background] {
            for lane in Lane::ALL {
                let queue = &mut self.queues[priority as usize][lane as usize];
                let at = queue.iter().position(|waiter| waiter.id == id);
                if let Some(waiter) = at.and_then(|at| queue.remove(at)) {
                    self.push(Priority::Interactive, lane, waiter);
                }
            }
        }
    }

    /// Takes the next waiter that may send, of a lane in which `has_room`.
    pub(super) fn next(&mut self, has_room: impl Fn(Lane) -> bool, now: Instant) -> Next<G> {
        let mut earliest: Option<Instant> = None;
        let mut is_blocked = false;
        for priority in self.order() {
            let lanes = &mut self.queues[priority as usize];
            for queue in lanes.iter_mut() {
                while queue.front().is_some_and(|waiter| waiter.grant.is_closed()) {
                    queue.pop_front();
                }
            }
            let front = |lane: &Lane| lanes[*lane as usize].front().map(|waiter| waiter.id);
            let waiting = Lane::ALL.into_iter().filter(|lane| front(lane).is_some());
            let Some(lane) = waiting
                .clone()
                .filter(|lane| has_room(*lane))
                .min_by_key(front)
            else {
                is_blocked |= waiting.count() > 0;
                continue;
            };
            match self.quota.check(priority, self.in_flight, now) {
                Ok(()) => {
                    if let Some(waiter) = lanes[lane as usize].pop_front() {
                        self.granted = self.granted.wrapping_add(1);
                        return Next::Ready(waiter, lane);
                    }
                }
                Err(at) => earliest = Some(earliest.map_or(at, |earliest| earliest.min(at))),
            }
        }
        match earliest {
            Some(at) => Next::At(at),
            None if is_blocked => Next::Blocked,
            None => Next::Empty,
        }
    }

    /// The order in which the queues are asked for the next permit.
    fn order(&self) -> [Priority; Priority::COUNT] {
        use Priority::{Background, Initial, Interactive, Poll};
        let initial = &self.queues[Initial as usize];
        let poll_every = if initial.iter().all(VecDeque::is_empty) {
            POLL_EVERY
        } else {
            POLL_EVERY_DURING_INITIAL
        };
        if self.granted % BACKGROUND_EVERY == BACKGROUND_EVERY - 1 {
            [Background, Poll, Initial, Interactive]
        } else if self.granted % poll_every == poll_every / 2 {
            [Poll, Initial, Interactive, Background]
        } else if self.granted.is_multiple_of(2) {
            [Initial, Interactive, Poll, Background]
        } else {
            [Interactive, Initial, Poll, Background]
        }
    }

    /// A request is about to be sent.
    pub(super) fn begin(&mut self, now: Instant) {
        self.quota.record_sent(now);
        self.in_flight += 1;
    }

    /// A request was sent that another account had counted, or that shares the permit of another one.
    pub(super) fn count_sent(&mut self, now: Instant) {
        self.quota.record_sent(now);
    }

    /// A request is done, or was never sent.
    pub(super) fn finish(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// What the upstream answered.
    pub(super) fn record_answer(&mut self, rate: Option<Rate>, now: Instant) {
        self.quota.record_answer(rate, now);
    }

    /// The upstream refused requests for the time `wait`.
    pub(super) fn record_rate_limit(&mut self, wait: std::time::Duration, now: Instant) {
        self.quota.record_answer(None, now);
        self.quota.pause(wait, now);
    }

    /// Plans a check of the queues at `at`. True if no earlier one is planned, so that a task has
    /// to do it.
    pub(super) fn plan_check(&mut self, at: Instant, now: Instant) -> bool {
        let is_needed = self
            .next_check
            .is_none_or(|planned| planned <= now || planned > at);
        if is_needed {
            self.next_check = Some(at);
        }
        is_needed
    }

    /// How many requests are queued.
    pub(super) fn queued(&self) -> usize {
        self.queues.iter().flatten().map(VecDeque::len).sum()
    }

    /// Moves all waiters to the ends of the queues of another account.
    pub(super) fn move_to(&mut self, other: &mut Self) {
        let queues = self.queues.iter_mut().flatten();
        for (from, to) in queues.zip(other.queues.iter_mut().flatten()) {
            to.append(from);
        }
    }

    /// Takes all waiters out of the queues.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiter<G>> {
        self.queues.iter_mut().flatten().flat_map(std::mem::take)
    }

    /// Whether the account can be dropped without losing anything.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.in_flight == 0 && self.queued() == 0 && self.quota.is_stale(now)
    }
}
