//! Who may ask an upstream now.
//!
//! In: requests that want to be sent, by upstream and account, and what came of them. Out: turns. Each upstream has a bound on what is in flight, so
//! that a slow one holds up nobody else, and one backoff, however many ask; each account keeps to the limit that its answers state or a flag sets.
//! Within an account it is first come, first served, first reads and urgent ones before polls but never only those, so that nobody starves. It sends
//! nothing itself, and knows an account by a digest only.

mod circuit_breaker;
mod quota;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use circuit_breaker::{Door, Health};
use quota::Allowance;
pub use quota::Rate;

/// Accounts that are remembered for each upstream, beyond those that are in use.
const MOST_ACCOUNTS: usize = 4096;
/// Upstreams that are remembered, beyond those that are in use.
const MOST_UPSTREAMS: usize = 1024;
/// Of so many turns one is a poll's, even if urgent requests wait.
const POLL_EACH: u32 = 4;
/// The same while first reads wait: there is an end to those, and until then somebody has nothing at all.
const POLL_EACH_FIRST: u32 = 16;
/// Of so many turns one is that of a request that can wait, whatever else does.
const LATE_EACH: u32 = 16;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Somebody has nothing yet: a first read.
    Initial,
    /// Somebody waits: a push, a write.
    Interactive,
    /// A poll.
    Poll,
    /// Only worth it if there is room.
    Background,
}

impl Priority {
    /// Whether somebody waits for the answer.
    const fn is_urgent(self) -> bool {
        matches!(self, Self::Initial | Self::Interactive)
    }
}

/// Whoever is told of a change pokes; whoever reads is poked, and reads again. Pokes before a request is sent are answered by it.
#[derive(Clone, Debug, Default)]
pub struct Trigger(Arc<Poked>);

#[derive(Debug, Default)]
struct Poked {
    notify: Notify,
    since: Mutex<Option<Instant>>,
}

impl Trigger {
    /// Somebody was told of a change at `at`.
    pub fn notify(&self, at: Instant) {
        self.since().get_or_insert(at);
        self.0.notify.notify_one();
    }

    /// To be looked at again, for another reason than a push.
    pub fn request_read(&self) {
        self.0.notify.notify_one();
    }

    /// Waits until poked.
    pub async fn triggered(&self) {
        self.0.notify.notified().await;
    }

    /// Takes a poke that is there already.
    #[allow(clippy::must_use_candidate)] // it is taken whether or not the answer is looked at
    pub fn take_pending(&self) -> bool {
        self.0.notify.notified().now_or_never().is_some()
    }

    /// Since when a push waits for an answer, if one does.
    #[must_use]
    pub fn take_notified_at(&self) -> Option<Instant> {
        self.since().take()
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What wants to be read, and how urgently: a poke makes it urgent while it waits.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// How urgent it is.
    pub priority: Priority,
    /// Where it is poked.
    pub trigger: Trigger,
}

impl ReadRequest {
    /// An urgent one, which nobody pokes.
    #[must_use]
    pub fn interactive() -> Self {
        Self::with_priority(Priority::Interactive)
    }

    /// One of this rank, which nobody pokes.
    #[must_use]
    pub fn with_priority(rank: Priority) -> Self {
        Self {
            priority: rank,
            trigger: Trigger::default(),
        }
    }
}

/// By what requests are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitKey {
    /// Origin of the upstream.
    pub upstream: Arc<str>,
    /// Digest of what its limits are counted by; nothing if it has none.
    pub account: Option<[u8; 32]>,
}

/// What came of a request.
#[derive(Debug)]
pub enum RequestOutcome<E> {
    /// An answer, and what it said of the limit.
    Answered(Option<Rate>),
    /// The account is to rest.
    RateLimited(Duration),
    /// No answer.
    Failed(E),
}

/// The upstream is dead: this is what the last ones met, and when it is worth trying again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitOpen<E> {
    /// What the last ones met.
    pub error: E,
    /// When to try again.
    pub retry_after: Duration,
}

/// Hears that an upstream that was dead has answered.
pub type OnRecovered = Box<dyn Fn(&str) + Send + Sync>;

/// Where a turn comes.
type Granted<E> = oneshot::Receiver<Result<Permit<E>, CircuitOpen<E>>>;

struct Ticket<E: Clone + Send + 'static> {
    number: u64,
    grant: oneshot::Sender<Result<Permit<E>, CircuitOpen<E>>>,
}

struct Account<E: Clone + Send + 'static> {
    allowance: Allowance,
    in_flight: u32,
    waiting: [VecDeque<Ticket<E>>; 4],
    turns: u32,
    /// When the queue is looked at again, if a task waits to.
    alarm: Option<Instant>,
}

struct Upstream<E: Clone + Send + 'static> {
    health: Health<E>,
    in_flight: usize,
    accounts: HashMap<Option<[u8; 32]>, Account<E>>,
    /// Accounts with somebody waiting, in the order of their turns.
    order: VecDeque<Option<[u8; 32]>>,
}

impl<E: Clone + Send + 'static> Default for Upstream<E> {
    fn default() -> Self {
        Self {
            health: Health::default(),
            in_flight: 0,
            accounts: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

struct Table<E: Clone + Send + 'static> {
    upstreams: HashMap<Arc<str>, Upstream<E>>,
    number: u64,
}

struct Shared<E: Clone + Send + 'static> {
    table: Mutex<Table<E>>,
    in_flight: usize,
    budget: Option<u32>,
    reopened: OnRecovered,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// The turns of all upstreams of one kind. `E` is what a request that got no answer ends in.
pub struct RateLimiter<E: Clone + Send + 'static>(Arc<Shared<E>>);

impl<E: Clone + Send + 'static> Clone for RateLimiter<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: Clone + Send + 'static> fmt::Debug for RateLimiter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

/// Leave to send one request. Dropped when the request is done.
pub struct Permit<E: Clone + Send + 'static> {
    shared: Arc<Shared<E>>,
    lane: LimitKey,
    tries: bool,
    said: Option<RequestOutcome<E>>,
}

impl<E: Clone + Send + 'static> fmt::Debug for Permit<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").finish_non_exhaustive()
    }
}

impl<E: Clone + Send + 'static> Permit<E> {
    /// What came of the request.
    pub fn record(&mut self, said: RequestOutcome<E>) {
        self.said = Some(said);
    }
}

impl<E: Clone + Send + 'static> Drop for Permit<E> {
    fn drop(&mut self) {
        let said = self.said.take();
        RateLimiter(Arc::clone(&self.shared)).done(&self.lane, self.tries, said);
    }
}

impl<E: Clone + Send + 'static> RateLimiter<E> {
    /// At most `in_flight` requests to each upstream at the same time, and at most `budget` a minute for each account if that is given. `reopened`
    /// hears of upstreams that are back.
    #[must_use]
    pub fn new(
        in_flight: usize,
        budget: Option<u32>,
        reopened: OnRecovered,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            table: Mutex::new(Table {
                upstreams: HashMap::new(),
                number: 0,
            }),
            in_flight: in_flight.max(1),
            budget,
            reopened,
            tasks: TaskTracker::new(),
            shutdown,
        }))
    }

    /// One that lets everybody through one by one for each upstream, for a process that asks little.
    #[must_use]
    pub fn small() -> Self {
        Self::new(4, None, Box::new(|_| {}), CancellationToken::new())
    }

    /// Waits for leave to send one request.
    ///
    /// # Errors
    /// If the upstream is dead, at once, with the error that others met.
    pub async fn acquire(
        &self,
        lane: &LimitKey,
        wish: &ReadRequest,
    ) -> Result<Permit<E>, CircuitOpen<E>> {
        let (number, mut granted) = self.queue(lane, wish.priority)?;
        let mut rank = wish.priority;
        loop {
            tokio::select! {
                biased;
                turn = &mut granted => {
                    // What was poked for until here is answered by this request.
                    wish.trigger.take_pending();
                    return match turn {
                        Ok(turn) => turn,
                        // The queue is gone only with the process.
                        Err(_) => std::future::pending().await,
                    };
                }
                () = wish.trigger.triggered(), if !rank.is_urgent() => {
                    self.hurry(lane, number);
                    rank = Priority::Interactive;
                }
            }
        }
    }

    fn queue(&self, lane: &LimitKey, rank: Priority) -> Result<(u64, Granted<E>), CircuitOpen<E>> {
        let now = Instant::now();
        let (grant, granted) = oneshot::channel();
        let mut table = self.table();
        table.number += 1;
        let number = table.number;
        if table.upstreams.len() >= MOST_UPSTREAMS && !table.upstreams.contains_key(&lane.upstream)
        {
            table.upstreams.retain(|_, upstream| !upstream.is_idle(now));
        }
        let upstream = table
            .upstreams
            .entry(Arc::clone(&lane.upstream))
            .or_default();
        match upstream.health.door(rank.is_urgent(), now) {
            Door::Open => {}
            Door::Shut(error, retry_after) => return Err(CircuitOpen { error, retry_after }),
            Door::Try => {
                // It goes past the queue, which is empty: whoever waited has been told.
                let account = upstream.account(lane.account, self.0.budget, now);
                account.allowance.sent(now);
                account.in_flight += 1;
                upstream.in_flight += 1;
                drop(table);
                let _ = grant.send(Ok(self.grant(lane.clone(), true)));
                return Ok((number, granted));
            }
        }
        let account = upstream.account(lane.account, self.0.budget, now);
        let idle = account.waiting.iter().all(VecDeque::is_empty);
        account.waiting[rank as usize].push_back(Ticket { number, grant });
        if idle {
            upstream.order.push_back(lane.account);
        }
        self.pump(table, &lane.upstream, now);
        Ok((number, granted))
    }

    fn hurry(&self, lane: &LimitKey, number: u64) {
        let now = Instant::now();
        let mut table = self.table();
        let account = table
            .upstreams
            .get_mut(&lane.upstream)
            .and_then(|upstream| upstream.accounts.get_mut(&lane.account));
        let Some(account) = account else { return };
        for rank in [Priority::Poll, Priority::Background] {
            let queue = &mut account.waiting[rank as usize];
            let at = queue.iter().position(|ticket| ticket.number == number);
            if let Some(ticket) = at.and_then(|at| queue.remove(at)) {
                account.waiting[Priority::Interactive as usize].push_back(ticket);
            }
        }
        self.pump(table, &lane.upstream, now);
    }

    /// Gives turns to whoever may go, and has the rest looked at again when that may change.
    fn pump(&self, mut table: MutexGuard<'_, Table<E>>, name: &Arc<str>, now: Instant) {
        let Some(upstream) = table.upstreams.get_mut(name) else {
            return;
        };
        let mut granted = Vec::new();
        let mut alarms = Vec::new();
        let mut stuck = 0;
        while upstream.in_flight < self.0.in_flight && stuck < upstream.order.len() {
            let Some(key) = upstream.order.pop_front() else {
                break;
            };
            let Some(account) = upstream.accounts.get_mut(&key) else {
                continue;
            };
            match account.next(now) {
                Next::Nobody => {}
                Next::Go(ticket) => {
                    stuck = 0;
                    account.allowance.sent(now);
                    account.in_flight += 1;
                    upstream.in_flight += 1;
                    upstream.order.push_back(key);
                    let lane = LimitKey {
                        upstream: Arc::clone(name),
                        account: key,
                    };
                    granted.push((ticket, lane));
                }
                Next::At(at) => {
                    stuck += 1;
                    upstream.order.push_back(key);
                    if account.alarm.is_none_or(|alarm| alarm <= now || alarm > at) {
                        account.alarm = Some(at);
                        alarms.push(at);
                    }
                }
            }
        }
        drop(table);
        for (ticket, lane) in granted {
            // One that is no longer wanted gives its turn back as it is dropped.
            let _ = ticket.grant.send(Ok(self.grant(lane, false)));
        }
        for at in alarms {
            let (gate, name) = (self.clone(), Arc::clone(name));
            self.0.tasks.spawn(async move {
                tokio::select! {
                    () = gate.0.shutdown.cancelled() => {}
                    () = tokio::time::sleep_until(at) => {
                        gate.pump(gate.table(), &name, Instant::now());
                    }
                }
            });
        }
    }

    fn grant(&self, lane: LimitKey, tries: bool) -> Permit<E> {
        Permit {
            shared: Arc::clone(&self.0),
            lane,
            tries,
            said: None,
        }
    }

    /// A request is done, or was never sent.
    fn done(&self, lane: &LimitKey, tried: bool, said: Option<RequestOutcome<E>>) {
        let now = Instant::now();
        let mut table = self.table();
        let Some(upstream) = table.upstreams.get_mut(&lane.upstream) else {
            return;
        };
        upstream.in_flight = upstream.in_flight.saturating_sub(1);
        let health = &mut upstream.health;
        let (mut reopened, mut died) = (false, None);
        if let Some(account) = upstream.accounts.get_mut(&lane.account) {
            account.in_flight = account.in_flight.saturating_sub(1);
            match said {
                Some(RequestOutcome::Answered(rate)) => {
                    account.allowance.answered(rate, now);
                    reopened = health.answered();
                }
                Some(RequestOutcome::RateLimited(wait)) => {
                    account.allowance.answered(None, now);
                    account.allowance.limited(wait, now);
                    reopened = health.answered();
                }
                Some(RequestOutcome::Failed(error)) => {
                    account.allowance.answered(None, now);
                    died = health.failed(error.clone(), tried, now).then_some(error);
                }
                None if tried => health.gave_up(),
                None => {}
            }
        }
        let told = match &died {
            Some(_) => upstream.empty(),
            None => Vec::new(),
        };
        self.pump(table, &lane.upstream, now);
        if let Some(error) = died {
            for ticket in told {
                let shut = CircuitOpen {
                    error: error.clone(),
                    retry_after: circuit_breaker::FIRST,
                };
                // Whoever is gone need not know.
                let _ = ticket.grant.send(Err(shut));
            }
        }
        if reopened {
            (self.0.reopened)(&lane.upstream);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table<E>> {
        // Nothing is left half done under this lock.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests wait for their turn.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        let table = self.table();
        let accounts = table
            .upstreams
            .values()
            .flat_map(|upstream| upstream.accounts.values());
        accounts
            .flat_map(|account| &account.waiting)
            .map(VecDeque::len)
            .sum()
    }
}

enum Next<E: Clone + Send + 'static> {
    Nobody,
    Go(Ticket<E>),
    At(Instant),
}

impl<E: Clone + Send + 'static> Account<E> {
    fn new(is_counted: bool, budget: Option<u32>) -> Self {
        let allowance = match budget {
            _ if !is_counted => Allowance::uncounted(),
            Some(a_minute) => Allowance::with_budget(a_minute),
            None => Allowance::default(),
        };
        Self {
            allowance,
            in_flight: 0,
            waiting: [const { VecDeque::new() }; 4],
            turns: 0,
            alarm: None,
        }
    }

    /// Who goes next, if somebody may.
    fn next(&mut self, now: Instant) -> Next<E> {
        let mut at: Option<Instant> = None;
        for rank in self.ranks() {
            let queue = &mut self.waiting[rank as usize];
            while queue.front().is_some_and(|ticket| ticket.grant.is_closed()) {
                queue.pop_front();
            }
            if queue.is_empty() {
                continue;
            }
            match self.allowance.next(rank, self.in_flight, now) {
                Ok(()) => {
                    if let Some(ticket) = queue.pop_front() {
                        self.turns = self.turns.wrapping_add(1);
                        return Next::Go(ticket);
                    }
                }
                Err(until) => at = Some(at.map_or(until, |at| at.min(until))),
            }
        }
        at.map_or(Next::Nobody, Next::At)
    }

    /// Whose turn it is, and whose if they want none.
    fn ranks(&self) -> [Priority; 4] {
        use Priority::{Background, Initial, Interactive, Poll};
        let poll_each = if self.waiting[Initial as usize].is_empty() {
            POLL_EACH
        } else {
            POLL_EACH_FIRST
        };
        if self.turns % LATE_EACH == LATE_EACH - 1 {
            [Background, Poll, Initial, Interactive]
        } else if self.turns % poll_each == poll_each / 2 {
            [Poll, Initial, Interactive, Background]
        } else if self.turns.is_multiple_of(2) {
            [Initial, Interactive, Poll, Background]
        } else {
            [Interactive, Initial, Poll, Background]
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.in_flight == 0
            && self.waiting.iter().all(VecDeque::is_empty)
            && self.allowance.is_stale(now)
    }
}

impl<E: Clone + Send + 'static> Upstream<E> {
    fn account(
        &mut self,
        key: Option<[u8; 32]>,
        budget: Option<u32>,
        now: Instant,
    ) -> &mut Account<E> {
        if self.accounts.len() >= MOST_ACCOUNTS && !self.accounts.contains_key(&key) {
            self.accounts.retain(|_, account| !account.is_idle(now));
        }
        // Only what somebody counts has a limit or a budget.
        let is_counted = key.is_some();
        self.accounts
            .entry(key)
            .or_insert_with(|| Account::new(is_counted, budget))
    }

    /// Everybody who waits.
    fn empty(&mut self) -> Vec<Ticket<E>> {
        self.order.clear();
        let accounts = self.accounts.values_mut();
        let queues = accounts.flat_map(|account| &mut account.waiting);
        queues.flat_map(std::mem::take).collect()
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.in_flight == 0
            && self.health.is_well()
            && self.accounts.values().all(|account| account.is_idle(now))
    }
}

#[cfg(test)]
mod tests;
