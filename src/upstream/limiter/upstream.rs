//! Pure: one upstream, its accounts, and its circuit breaker.
//!
//! Input: requests by account, and what came of them. Output: the waiters that may send now, and
//! when to check again.
//! Invariants: no more requests are in flight than the bound; accounts take
//! turns. It reads no clock.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use super::{
    LimitKey,
    account::{Account, Next, Waiter},
    circuit_breaker::CircuitBreaker,
    priority::Priority,
    quota::Quota,
    sources::Lane,
};

/// Accounts that are kept for each upstream, beyond those in use.
const MAX_ACCOUNTS: usize = 4096;

/// Requests a minute of credentials that the upstream has not accepted: they either are accepted at
/// once, or wait for a user to correct them.
const UNACCEPTED_BUDGET: u32 = 4;

/// Digest of what an upstream's limit is counted by; none if the upstream has no limit.
pub(super) type AccountId = Option<[u8; 32]>;

/// One upstream. `E` is the error of a request without an answer, `G` what a waiter receives.
pub(super) struct Upstream<E, G> {
    pub(super) breaker: CircuitBreaker<E>,
    in_flight: [usize; Lane::COUNT],
    accounts: HashMap<AccountId, Account<G>>,
    /// Accounts with queued requests, in the order of their turns.
    round_robin: VecDeque<AccountId>,
    /// What all credentials that have yet to be accepted may send together.
    untried: Option<Quota>,
    /// Credentials that were accepted for their account, and when last.
    accepted: HashMap<[u8; 32], Instant>,
}

impl<E: Clone, G> Default for Upstream<E, G> {
    fn default() -> Self {
        Self {
            breaker: CircuitBreaker::default(),
            in_flight: [0; Lane::COUNT],
            accounts: HashMap::new(),
            round_robin: VecDeque::new(),
            untried: None,
            accepted: HashMap::new(),
        }
    }
}

/// Which waiters may send now, and when to check the queues again.
pub(super) struct Grants<G> {
    pub(super) ready: Vec<(Waiter<G>, AccountId, Lane)>,
    pub(super) checks: Vec<Instant>,
}

impl<E: Clone, G> Upstream<E, G> {
    /// What the requests of a key are counted by: its account, or its credentials alone as long as
    /// the upstream has not accepted them for the account.
    fn id_of(&self, key: &LimitKey) -> AccountId {
        match key.credentials {
            Some(credentials) if !self.accepted.contains_key(&credentials) => Some(credentials),
            _ => key.account,
        }
    }

    /// The account that counts the requests of a key, created if it is new.
    fn account(
        &mut self,
        key: &LimitKey,
        budget: Option<u32>,
        now: Instant,
    ) -> (AccountId, &mut Account<G>) {
        let id = self.id_of(key);
        if self.accounts.len() >= MAX_ACCOUNTS && !self.accounts.contains_key(&id) {
            self.accounts.retain(|_, account| !account.is_idle(now));
        }
        let is_untried = id != key.account;
        if is_untried {
            let all = || budget.map_or_else(Quota::unlimited, Quota::with_budget);
            self.untried.get_or_insert_with(all);
        }
        let account = self.accounts.entry(id).or_insert_with(|| {
            let quota = match budget {
                // Only what an upstream counts has a limit or a budget.
                _ if id.is_none() => Quota::unlimited(),
                _ if is_untried => Quota::untried(UNACCEPTED_BUDGET),
                Some(per_minute) => Quota::with_budget(per_minute),
                None => Quota::default(),
            };
            Account::new(quota, is_untried)
        });
        (id, account)
    }

    /// The account of this digest, if there is one.
    pub(super) fn account_mut(&mut self, id: AccountId) -> Option<&mut Account<G>> {
        self.accounts.get_mut(&id)
    }

    /// Queues a request.
    pub(super) fn push(
        &mut self,
        priority: Priority,
        waiter: Waiter<G>,
        budget: Option<u32>,
        now: Instant,
    ) {
        let lane = self.breaker.lane(waiter.key.source);
        let (id, account) = self.account(&waiter.key, budget, now);
        let is_first = account.queued() == 0;
        account.push(priority, lane, waiter);
        if is_first {
            self.round_robin.push_back(id);
        }
    }

    /// Moves a poll or a background request to the end of the interactive queue.
    pub(super) fn raise_priority(&mut self, key: &LimitKey, id: u64) {
        // It may have been queued before its credentials were accepted or rejected.
        for account in [key.account, key.credentials] {
            if let Some(account) = self.accounts.get_mut(&account) {
                account.raise_priority(id);
            }
        }
    }

    /// The upstream accepted the credentials of a key: its requests belong to the account, also those
    /// that are queued.
    pub(super) fn accept(&mut self, key: &LimitKey, budget: Option<u32>, now: Instant) {
        let Some(credentials) = key.credentials else {
            return;
        };
        if self.accepted.insert(credentials, now).is_some() {
            return;
        }
        if self.accepted.len() > MAX_ACCOUNTS {
            let oldest = self.accepted.iter().min_by_key(|(_, used_at)| **used_at);
            if let Some(oldest) = oldest.map(|(oldest, _)| *oldest) {
                self.accepted.remove(&oldest);
            }
        }
        let Some(mut own) = self.accounts.remove(&key.credentials) else {
            return;
        };
        self.round_robin.retain(|id| *id != key.credentials);
        let (id, account) = self.account(key, budget, now);
        // The request that was accepted belongs to the account, too.
        account.count_sent(now);
        let was_empty = account.queued() == 0;
        own.move_to(account);
        if was_empty && account.queued() > 0 {
            self.round_robin.push_back(id);
        }
    }

    /// The upstream rejected the credentials of a key: its requests are counted apart from now on.
    pub(super) fn reject(&mut self, key: &LimitKey) {
        if let Some(credentials) = key.credentials {
            self.accepted.remove(&credentials);
        }
    }

    /// Sends a request past the queues: the probe of an upstream that does not answer.
    pub(super) fn begin_probe(
        &mut self,
        key: &LimitKey,
        lane: Lane,
        budget: Option<u32>,
        now: Instant,
    ) -> AccountId {
        let (id, account) = self.account(key, budget, now);
        account.begin(now);
        self.in_flight[lane as usize] += 1;
        id
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
            let untried = self.untried.as_mut().filter(|_| account.is_untried);
            let next = match untried.map(|all| all.check(Priority::Initial, 0, now)) {
                Some(Err(at)) => Next::At(at),
                _ => account.next(has_room, now),
            };
            match next {
                Next::Empty => {}
                Next::Ready(waiter, lane) => {
                    exhausted = 0;
                    account.begin(now);
                    if let Some(all) = self.untried.as_mut().filter(|_| account.is_untried) {
                        all.record_sent(now);
                    }
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
