//! Limits the requests to the upstreams.
//!
//! Input: requests that are about to be sent, by upstream and account, and what came of them.
//! Output: permits.
//! Invariants: each upstream has a bound on requests in flight, so that a slow one does not delay
//! the others, and one circuit breaker, which only failures of the host open. Sources that stall or
//! fail leave permits for those that are well. Each account keeps to the limit that its answers state
//! or that a flag sets; credentials that were never accepted are counted apart, so that they spend
//! nothing of it. Requests queue per account, first in first out within a priority; every
//! fourth permit goes to a poll, or every sixteenth while first reads wait. The limiter sends nothing,
//! and knows an account or a source only by a digest.

mod account;
mod circuit_breaker;
mod priority;
mod quota;
mod sources;
mod upstream;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use account::Waiter;
use circuit_breaker::Circuit;
pub use priority::{Priority, ReadRequest};
pub use quota::Rate;
use sources::Lane;
pub use sources::SourceId;
use upstream::{AccountId, Upstream};

/// Upstreams that are kept, beyond those in use.
const MAX_UPSTREAMS: usize = 1024;

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitKey {
    /// Origin of the upstream.
    pub upstream: Arc<str>,
    /// Digest of what the upstream's limit is counted by; none if the upstream has no limit.
    pub account: Option<[u8; 32]>,
    /// Digest of account and credentials, if the upstream has yet to accept them for the account.
    pub credentials: Option<[u8; 32]>,
    /// Digest of everything that decides what the request returns. What a source alone can cause
    /// counts against it, and not against the upstream.
    pub source: SourceId,
}

/// What came of a request.
#[derive(Debug)]
pub enum RequestOutcome<E> {
    /// What was requested, or that it is unchanged; and what the answer stated about the limit.
    Answered(Option<Rate>),
    /// Another answer: an error, or a body that cannot be used or does not end. It concerns the source
    /// and not the upstream.
    Refused(Option<Rate>),
    /// The upstream does not accept the credentials.
    Unauthorized,
    /// The account must not send requests for this time.
    RateLimited(Duration),
    /// No answer: the upstream may be down.
    Failed(E),
}

/// The upstream does not answer, so the request was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitOpen<E> {
    /// The error of the last requests.
    pub error: E,
    /// When to try again.
    pub retry_after: Duration,
}

/// Called with the name of an upstream that answers again.
pub type OnRecovered = Box<dyn Fn(&str) + Send + Sync>;

/// What a queued request receives.
type Grant<E> = Result<Permit<E>, CircuitOpen<E>>;

struct LimiterState<E: Clone + Send + 'static> {
    upstreams: HashMap<Arc<str>, Upstream<E, Grant<E>>>,
    last_id: u64,
}

struct LimiterInner<E: Clone + Send + 'static> {
    state: Mutex<LimiterState<E>>,
    max_in_flight: usize,
    account_budget: Option<u32>,
    on_recovered: OnRecovered,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// The limiter of all upstreams of one kind. `E` is the error of a request without an answer.
pub struct RateLimiter<E: Clone + Send + 'static>(Arc<LimiterInner<E>>);

impl<E: Clone + Send + 'static> Clone for RateLimiter<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: Clone + Send + 'static> fmt::Debug for RateLimiter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter").finish_non_exhaustive()
    }
}

/// The permit to send one request. It is dropped when the request is done.
pub struct Permit<E: Clone + Send + 'static> {
    limiter: RateLimiter<E>,
    key: LimitKey,
    /// What the request is counted by.
    account: AccountId,
    lane: Lane,
    is_probe: bool,
    sent_at: Instant,
    outcome: Option<RequestOutcome<E>>,
}

impl<E: Clone + Send + 'static> fmt::Debug for Permit<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

impl<E: Clone + Send + 'static> Permit<E> {
    /// Records what came of the request.
    pub fn record(&mut self, outcome: RequestOutcome<E>) {
        self.outcome = Some(outcome);
    }

    /// Permits one more request in front of this one, at once: a write whose turn came late reads
    /// again what it is made from. The account counts both, and may exceed its limit by one;
    /// the requests behind it wait for that. Waiting for another permit would age what was read
    /// once more, so that a write might never be sent.
    pub fn extend(&mut self) {
        self.limiter.count_sent(self);
        self.sent_at = Instant::now();
    }
}

impl<E: Clone + Send + 'static> Drop for Permit<E> {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        self.limiter.release(self, outcome);
    }
}

impl<E: Clone + Send + 'static> RateLimiter<E> {
    /// At most `max_in_flight` requests to each upstream at the same time, and at most
    /// `account_budget` a minute for each account if it is given. `on_recovered` is called with
    /// each upstream that answers again.
    #[must_use]
    pub fn new(
        max_in_flight: usize,
        account_budget: Option<u32>,
        on_recovered: OnRecovered,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(LimiterInner {
            state: Mutex::new(LimiterState {
                upstreams: HashMap::new(),
                last_id: 0,
            }),
            max_in_flight: max_in_flight.max(1),
            account_budget,
            on_recovered,
            tasks: TaskTracker::new(),
            shutdown,
        }))
    }

    /// A limiter for a process that sends few requests, such as `check`.
    #[must_use]
    pub fn small() -> Self {
        Self::new(4, None, Box::new(|_| {}), CancellationToken::new())
    }

    /// Waits for the permit to send one request.
    ///
    /// # Errors
    /// If the upstream does not answer: at once, with the error of the last requests.
    pub async fn acquire(&self, key: &LimitKey, request: &ReadRequest) -> Grant<E> {
        let (id, mut granted) = self.enqueue(key, request.priority)?;
        let mut priority = request.priority;
        loop {
            tokio::select! {
                biased;
                grant = &mut granted => {
                    // This request answers every change that was reported until now.
                    request.trigger.take_pending();
                    return match grant {
                        Ok(grant) => grant,
                        // The queue ends only with the process.
                        Err(_) => std::future::pending().await,
                    };
                }
                () = request.trigger.triggered(), if !priority.is_interactive() => {
                    self.raise_priority(key, id);
                    priority = Priority::Interactive;
                }
            }
        }
    }

    fn enqueue(
        &self,
        key: &LimitKey,
        priority: Priority,
    ) -> Result<(u64, oneshot::Receiver<Grant<E>>), CircuitOpen<E>> {
        let now = Instant::now();
        let (grant, granted) = oneshot::channel();
        let mut state = self.0.state.lock();
        state.last_id += 1;
        let id = state.last_id;
        if state.upstreams.len() >= MAX_UPSTREAMS && !state.upstreams.contains_key(&key.upstream) {
            state.upstreams.retain(|_, upstream| !upstream.is_idle(now));
        }
        let upstream = state
            .upstreams
            .entry(Arc::clone(&key.upstream))
            .or_default();
        let lane = upstream.breaker.lane(key.source);
        let is_interactive = priority.is_interactive();
        match (upstream.breaker).check(key.source, is_interactive, self.0.max_in_flight, now) {
            Circuit::Closed => {}
            Circuit::Open(error, retry_after) => return Err(CircuitOpen { error, retry_after }),
            Circuit::HalfOpen => {
                // The probe passes the queues, which were emptied when the circuit opened.
                let account = upstream.begin_probe(key, lane, self.0.account_budget, now);
                drop(state);
                let _ = grant.send(Ok(self.permit(key.clone(), account, lane, true)));
                return Ok((id, granted));
            }
        }
        let waiter = Waiter {
            id,
            key: key.clone(),
            grant,
        };
        upstream.push(priority, waiter, self.0.account_budget, now);
        self.grant_permits(state, &key.upstream, now);
        Ok((id, granted))
    }

    fn raise_priority(&self, key: &LimitKey, id: u64) {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        if let Some(upstream) = state.upstreams.get_mut(&key.upstream) {
            upstream.raise_priority(key, id);
        }
        self.grant_permits(state, &key.upstream, now);
    }

    /// Grants the permits that are free, and checks again when more may be.
    fn grant_permits(
        &self,
        mut state: MutexGuard<'_, LimiterState<E>>,
        name: &Arc<str>,
        now: Instant,
    ) {
        let Some(upstream) = state.upstreams.get_mut(name) else {
            return;
        };
        let grants = upstream.grant(self.0.max_in_flight, now);
        drop(state);
        for (waiter, account, lane) in grants.ready {
            // If the caller has gone, the permit is returned as it is dropped here.
            let permit = self.permit(waiter.key, account, lane, false);
            let _ = waiter.grant.send(Ok(permit));
        }
        for at in grants.checks {
            let (limiter, name) = (self.clone(), Arc::clone(name));
            self.0.tasks.spawn(async move {
                tokio::select! {
                    () = limiter.0.shutdown.cancelled() => {}
                    () = tokio::time::sleep_until(at) => {
                        limiter.grant_permits(limiter.0.state.lock(), &name, Instant::now());
                    }
                }
            });
        }
    }

    fn permit(&self, key: LimitKey, account: AccountId, lane: Lane, is_probe: bool) -> Permit<E> {
        Permit {
            limiter: self.clone(),
            key,
            account,
            lane,
            is_probe,
            sent_at: Instant::now(),
            outcome: None,
        }
    }

    /// One more request is sent under a permit.
    fn count_sent(&self, permit: &Permit<E>) {
        let mut state = self.0.state.lock();
        let upstream = state.upstreams.get_mut(&permit.key.upstream);
        let account = upstream.and_then(|upstream| upstream.account_mut(permit.account));
        if let Some(account) = account {
            account.count_sent(Instant::now());
        }
    }

    /// A request is done, or was never sent.
    fn release(&self, permit: &Permit<E>, outcome: Option<RequestOutcome<E>>) {
        let now = Instant::now();
        let (key, is_probe) = (&permit.key, permit.is_probe);
        let mut state = self.0.state.lock();
        let Some(upstream) = state.upstreams.get_mut(&key.upstream) else {
            return;
        };
        upstream.finish(permit.lane);
        let (mut has_recovered, mut opened) = (false, None);
        if let Some(account) = upstream.account_mut(permit.account) {
            account.finish();
            match &outcome {
                Some(RequestOutcome::Answered(rate) | RequestOutcome::Refused(rate)) => {
                    account.record_answer(*rate, now);
                }
                Some(RequestOutcome::RateLimited(wait)) => account.record_rate_limit(*wait, now),
                Some(RequestOutcome::Failed(_) | RequestOutcome::Unauthorized) => {
                    account.record_answer(None, now);
                }
                None => {}
            }
        }
        match &outcome {
            Some(RequestOutcome::Answered(_)) => {
                upstream.accept(key, self.0.account_budget, now);
            }
            Some(RequestOutcome::Unauthorized) => upstream.reject(key),
            _ => {}
        }
        let breaker = &mut upstream.breaker;
        let has_outcome = outcome.is_some();
        match outcome {
            Some(RequestOutcome::Failed(error)) => {
                let has_opened = breaker.record_failure(key.source, error.clone(), is_probe, now);
                opened = has_opened.then_some(error);
            }
            Some(outcome) => {
                let is_success = matches!(outcome, RequestOutcome::Answered(_));
                has_recovered = breaker.record_answer(key.source, is_success, now);
            }
            None if is_probe => breaker.abandon_probe(key.source),
            None => {}
        }
        let elapsed = now.saturating_duration_since(permit.sent_at);
        // A request that was dropped early says nothing, unless it had stalled.
        if has_outcome || sources::is_slow(elapsed) {
            breaker.record_duration(key.source, elapsed, now);
        }
        let refused = match &opened {
            Some(_) => upstream.drain(),
            None => Vec::new(),
        };
        self.grant_permits(state, &key.upstream, now);
        if let Some(error) = opened {
            for waiter in refused {
                let refusal = CircuitOpen {
                    error: error.clone(),
                    retry_after: circuit_breaker::MIN_WAIT,
                };
                // The caller may have gone.
                let _ = waiter.grant.send(Err(refusal));
            }
        }
        if has_recovered {
            (self.0.on_recovered)(&key.upstream);
        }
    }

    /// How many requests wait for a permit.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.0
            .state
            .lock()
            .upstreams
            .values()
            .map(Upstream::queued)
            .sum()
    }
}

#[cfg(test)]
mod tests;
