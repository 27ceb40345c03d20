//! Pure: one upstream, its accounts, and its circuit breaker.
//!
//! Input: requests by account, and what came of them. Output: the waiters that may send now, and
//! when to check again.
//! Invariants: no more requests are in flight than the bound; accounts take
//! turns. It reads no clock.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use super::{
    account::{Account, Next, Waiter},
    circuit_breaker::CircuitBreaker,
    sources::Lane,
};

/// Accounts that are kept for each upstream, beyond those in use.
const MAX_ACCOUNTS: usize = 4096;

/// Digest of what an upstream's limit is counted by; none if the upstream has no limit.
pub(super) type AccountId = Option<[u8; 32]>;

/// One upstream. `E` is the error of a request without an answer, `G` what a waiter receives.
pub(super) struct Upstream<E, G> {
    pub(super) breaker: CircuitBreaker<E>,
    in_flight: [usize; Lane::COUNT],
    accounts: HashMap<AccountId, Account<G>>,
    /// Accounts with queued requests, in the order of their turns.
    round_robin: VecDeque<AccountId>,
}

impl<E: Clone, G> Default for Upstream<E, G> {
    fn default() -> Self {
        Self {
            breaker: CircuitBreaker::default(),
            in_flight: [0; Lane::COUNT],
            accounts: HashMap::new(),
            round_robin: VecDeque::new(),
        }
    }
}

/// Which waiters may send now, and when to check the queues again.
pub(super) struct Grants<G> {
    pub(super) ready: Vec<(Waiter<G>, AccountId, Lane)>,
    pub(super) checks: Vec<Instant>,
}

impl<E: Clone, G> Upstream<E, G> {
    /// The account of this digest, created if it is new.
    pub(super) fn account(
        &mut self,
        id: AccountId,
        budget: Option<u32>,
        now: Instant,
    ) -> &mut Account<G> {
        if self.accounts.len() >= MAX_ACCOUNTS && !self.accounts.contains_key(&id) {
            self.accounts.retain(|_, account| !account.is_idle(now));
        }
        // Only what an upstream counts has a limit or a budget.
        let is_limited = id.is_some();
        self.accounts
            .entry(id)
            .or_insert_with(|| Account::new(is_limited, budget))
    }

    /// The account of this digest, if there is one.
    pub(super) fn account_mut(&mut self, id: AccountId) -> Option<&mut Account<G>> {
        self.accounts.get_mut(&id)
    }

    /// Makes the account take part in the round robin. To be called when its first request is
    /// queued.
    pub(super) fn schedule(&mut self, id: AccountId) {
        self.round_robin.push_back(id);
    }

    /// Sends a request past the queues: the probe of an upstream that does not answer.
    pub(super) fn begin_probe(
        &mut self,
        id: AccountId,
        lane: Lane,
        budget: Option<u32>,
        now: Instant,
    ) {
        self.account(id, budget, now).begin(now);
        self.in_flight[lane as usize] += 1;
    }

    /// A request is done, or was never sent.
    pub(super) fn finish(&mut self, lane: Lane) {
        let in_flight = &mut self.in_flight[lane as usize];
        *in_flight = in_flight.saturating_sub(1);
    }

    /// Takes the waiters that may send now, as long as fewer than `max_in_flight` requests are in
    /// flight, and fewer of each lane than its share.
    pub(super) fn grant(&mut self, max_in_flight: usize, now: Instant) -> Grants<G> {
        let mut grants = Grants {
            ready: Vec::new(),
            checks: Vec::new(),
        };
        let max = Lane::ALL.map(|lane| self.breaker.max_in_flight(lane, max_in_flight, now));
        // Accounts in a row whose quota is used up, or whose lanes are full.
        let mut exhausted = 0;
        while self.in_flight.iter().sum::<usize>() < max_in_flight
            && exhausted < self.round_robin.len()
        {
            let Some(id) = self.round_robin.pop_front() else {
                break;
            };
            let Some(account) = self.accounts.get_mut(&id) else {
                continue;
            };
            let [proven, unproven, slow] = self.in_flight;
            let others = unproven + slow;
            let has_room = |lane: Lane| match lane {
                Lane::Proven => proven < max[lane as usize],
                Lane::Unproven => others < max[lane as usize],
                Lane::Slow => slow < max[lane as usize] && others < max[Lane::Unproven as usize],
            };
            match account.next(has_room, now) {
                Next::Empty => {}
                Next::Ready(waiter, lane) => {
                    exhausted = 0;
                    account.begin(now);
                    self.in_flight[lane as usize] += 1;
                    self.round_robin.push_back(id);
                    grants.ready.push((waiter, id, lane));
                }
                Next::Blocked => {
                    exhausted += 1;
                    self.round_robin.push_back(id);
                }
                Next::At(at) => {
                    exhausted += 1;
                    self.round_robin.push_back(id);
                    if account.plan_check(at, now) {
                        grants.checks.push(at);
                    }
                }
            }
        }
        grants
    }

    /// How many requests are queued.
    pub(super) fn queued(&self) -> usize {
        self.accounts.values().map(Account::queued).sum()
    }

    /// Takes all waiters out of the queues.
    pub(super) fn drain(&mut self) -> Vec<Waiter<G>> {
        self.round_robin.clear();
        self.accounts
            .values_mut()
            .flat_map(Account::drain)
            .collect()
    }

    /// Whether the upstream can be dropped without losing anything.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.in_flight == [0; Lane::COUNT]
            && self.breaker.is_healthy()
            && self.accounts.values().all(|account| account.is_idle(now))
    }
}
