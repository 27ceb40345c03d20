//! Limits the requests to the upstreams.
//!
//! Input: requests that are about to be sent, by upstream and account, and what came of them.
//! Output: permits.
//! Invariants: each upstream has a bound on requests in flight, so that a slow one does not delay
//! the others, and one circuit breaker, however many callers there are. Each account keeps to the
//! limit that its answers state or that a flag sets. Requests queue per account, first in first out
//! within a priority; every fourth permit goes to a poll, or every sixteenth while first reads
//! wait. The limiter sends nothing, and knows an account only by a digest.

mod account;
mod circuit_breaker;
mod priority;
mod quota;
mod upstream;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use account::Waiter;
use circuit_breaker::Circuit;
pub use priority::{Priority, ReadRequest};
pub use quota::Rate;
use upstream::Upstream;

/// Upstreams that are kept, beyond those in use.
const MAX_UPSTREAMS: usize = 1024;

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitKey {
    /// Origin of the upstream.
    pub upstream: Arc<str>,
    /// Digest of what the upstream's limit is counted by; none if the upstream has no limit.
    pub account: Option<[u8; 32]>,
}

/// What came of a request.
#[derive(Debug)]
pub enum RequestOutcome<E> {
    /// An answer, and what it stated about the limit.
    Answered(Option<Rate>),
    /// The account must not send requests for this time.
    RateLimited(Duration),
    /// No answer.
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
    is_probe: bool,
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
}

impl<E: Clone + Send + 'static> Drop for Permit<E> {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        self.limiter.release(&self.key, self.is_probe, outcome);
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
        match upstream.breaker.check(priority.is_interactive(), now) {
            Circuit::Closed => {}
            Circuit::Open(error, retry_after) => return Err(CircuitOpen { error, retry_after }),
            Circuit::HalfOpen => {
                // The probe passes the queues, which were emptied when the circuit opened.
                upstream.begin_probe(key.account, self.0.account_budget, now);
                drop(state);
                let _ = grant.send(Ok(self.permit(key.clone(), true)));
                return Ok((id, granted));
            }
        }
        let account = upstream.account(key.account, self.0.account_budget, now);
        let is_first = account.queued() == 0;
        account.push(priority, Waiter { id, grant });
        if is_first {
            upstream.schedule(key.account);
        }
        self.grant_permits(state, &key.upstream, now);
        Ok((id, granted))
    }

    fn raise_priority(&self, key: &LimitKey, id: u64) {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        let upstream = state.upstreams.get_mut(&key.upstream);
        let Some(account) = upstream.and_then(|upstream| upstream.account_mut(key.account)) else {
            return;
        };
        account.raise_priority(id);
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
        for (waiter, account) in grants.ready {
            let key = LimitKey {
                upstream: Arc::clone(name),
                account,
            };
            // If the caller has gone, the permit is returned as it is dropped here.
            let _ = waiter.grant.send(Ok(self.permit(key, false)));
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

    fn permit(&self, key: LimitKey, is_probe: bool) -> Permit<E> {
        Permit {
            limiter: self.clone(),
            key,
            is_probe,
            outcome: None,
        }
    }

    /// A request is done, or was never sent.
    fn release(&self, key: &LimitKey, is_probe: bool, outcome: Option<RequestOutcome<E>>) {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        let Some(upstream) = state.upstreams.get_mut(&key.upstream) else {
            return;
        };
        upstream.finish();
        let (mut has_recovered, mut opened) = (false, None);
        if let Some(account) = upstream.account_mut(key.account) {
            account.finish();
            match outcome {
                Some(RequestOutcome::Answered(rate)) => {
                    account.record_answer(rate, now);
                    has_recovered = upstream.breaker.record_answer();
                }
                Some(RequestOutcome::RateLimited(wait)) => {
                    account.record_rate_limit(wait, now);
                    has_recovered = upstream.breaker.record_answer();
                }
                Some(RequestOutcome::Failed(error)) => {
                    account.record_answer(None, now);
                    let breaker = &mut upstream.breaker;
                    let has_opened = breaker.record_failure(error.clone(), is_probe, now);
                    opened = has_opened.then_some(error);
                }
                None if is_probe => upstream.breaker.abandon_probe(),
                None => {}
            }
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
