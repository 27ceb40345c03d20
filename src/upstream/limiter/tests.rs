mod credentials;

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const MINUTE: Duration = Duration::from_mins(1);

fn key(upstream: &str, account: u8) -> LimitKey {
    LimitKey {
        upstream: upstream.into(),
        account: Some([account; 32]),
        credentials: None,
        source: [account; 16],
    }
}

struct Fixture {
    limiter: RateLimiter<&'static str>,
    recoveries: Arc<AtomicUsize>,
}

fn fixture(in_flight: usize, budget: Option<u32>) -> Fixture {
    let recoveries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&recoveries);
    let on_recovered: OnRecovered = Box::new(move |_| {
        count.fetch_add(1, SeqCst);
    });
    Fixture {
        limiter: RateLimiter::new(in_flight, budget, on_recovered, CancellationToken::new()),
        recoveries,
    }
}

impl Fixture {
    /// Acquires a permit for an interactive request.
    async fn acquire(&self, key: &LimitKey) -> Permit<&'static str> {
        let request = ReadRequest::interactive();
        self.limiter.acquire(key, &request).await.unwrap()
    }

    /// Acquires a permit and records this outcome.
    async fn send(&self, key: &LimitKey, outcome: RequestOutcome<&'static str>) {
        self.acquire(key).await.record(outcome);
    }

    /// Acquires a permit and records a response without rate headers.
    async fn send_answered(&self, key: &LimitKey) {
        self.send(key, RequestOutcome::Answered(None)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_upstream_does_not_delay_others() {
    let f = fixture(2, None);
    let slow = [
        f.acquire(&key("slow", 1)).await,
        f.acquire(&key("slow", 2)).await,
    ];
    let (limiter, third) = (f.limiter.clone(), key("slow", 3));
    let third = tokio::spawn(async move {
        limiter
            .acquire(&third, &ReadRequest::interactive())
            .await
            .is_ok()
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    for _ in 0..10 {
        f.send_answered(&key("quick", 1)).await;
    }
    assert_eq!(f.limiter.queue_depth(), 1);
    drop(slow);
    assert!(third.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn every_poller_is_served_under_a_small_limit() {
    let f = fixture(32, None);
    let start = Instant::now();
    let served = Arc::new(Mutex::new(HashMap::<u32, u32>::new()));
    let limit = 120;
    // Counts requests in fixed windows and rejects those beyond the limit.
    let counter = Arc::new(Mutex::new((start, 0_u32, 0_u32)));
    let pollers: Vec<_> = (0..500)
        .map(|poller| {
            let (limiter, served, counter) =
                (f.limiter.clone(), Arc::clone(&served), Arc::clone(&counter));
            tokio::spawn(async move {
                let mut priority = Priority::Initial;
                while start.elapsed() < MINUTE * 15 {
                    let mut permit = limiter
                        .acquire(&key("doppler", 1), &ReadRequest::with_priority(priority))
                        .await
                        .unwrap();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let outcome = {
                        let mut counter = counter.lock();
                        let now = Instant::now();
                        if now.duration_since(counter.0) >= MINUTE {
                            *counter = (now, 0, counter.2);
                        }
                        let left = MINUTE.saturating_sub(now.duration_since(counter.0));
                        if counter.1 >= limit {
                            counter.2 += 1;
                            RequestOutcome::RateLimited(left)
                        } else {
                            counter.1 += 1;
                            RequestOutcome::Answered(Some(Rate {
                                limit,
                                remaining: limit - counter.1,
                                resets_in: Duration::from_secs(left.as_secs() + 1),
                            }))
                        }
                    };
                    if matches!(outcome, RequestOutcome::Answered(_)) {
                        *served.lock().entry(poller).or_default() += 1;
                        priority = Priority::Poll;
                    }
                    permit.record(outcome);
                    drop(permit);
                    if priority == Priority::Poll {
                        tokio::time::sleep(MINUTE).await;
                    }
                }
            })
        })
        .collect();
    // The fifth window has begun.
    tokio::time::sleep(MINUTE * 4 + Duration::from_secs(15)).await;
    assert_eq!(
        served.lock().len(),
        500,
        "some pollers are not read within the limit"
    );
    tokio::time::sleep(MINUTE * 9).await;
    let served = served.lock().clone();
    let (fewest, most) = (served.values().min(), served.values().max());
    assert!(
        fewest >= Some(&2) && most <= Some(&4),
        "{fewest:?} to {most:?}"
    );
    assert_eq!(counter.lock().2, 0, "a request exceeded the limit");
    for poller in pollers {
        poller.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_notified_request_passes_queued_polls() {
    let f = fixture(1, None);
    let in_use = f.acquire(&key("d", 1)).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let requests: Vec<ReadRequest> = (0..6)
        .map(|_| ReadRequest::with_priority(Priority::Poll))
        .collect();
    let tasks: Vec<_> = requests
        .iter()
        .enumerate()
        .map(|(index, request)| {
            let (limiter, request, order) =
                (f.limiter.clone(), request.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let permit = limiter.acquire(&key("d", 1), &request).await.unwrap();
                order.lock().push(index);
                assert!(
                    !request.trigger.take_pending(),
                    "this request answers the notification"
                );
                drop(permit);
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    requests[4].trigger.notify(Instant::now());
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(in_use);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), [4, 0, 1, 2, 3, 5]);
    assert!(requests[4].trigger.take_notified_at().is_some());
}

#[tokio::test(start_paused = true)]
async fn polls_get_permits_among_interactive_requests() {
    let f = fixture(1, None);
    let in_use = f.acquire(&key("d", 1)).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let priorities = [Priority::Interactive; 20]
        .into_iter()
        .chain([Priority::Poll, Priority::Background]);
    let tasks: Vec<_> = priorities
        .map(|priority| {
            let (limiter, order) = (f.limiter.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let permit = limiter
                    .acquire(&key("d", 1), &ReadRequest::with_priority(priority))
                    .await
                    .unwrap();
                order.lock().push(priority);
                drop(permit);
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(in_use);
    for task in tasks {
        task.await.unwrap();
    }
    let at = |priority| order.lock().iter().position(|was| *was == priority);
    assert!(at(Priority::Poll) < Some(4), "{:?}", order.lock());
    assert!(at(Priority::Background) < Some(16), "{:?}", order.lock());
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_is_probed_once_at_a_time_until_it_recovers() {
    let f = fixture(8, None);
    let at = key("dead", 1);
    for _ in 0..3 {
        f.send(&at, RequestOutcome::Failed("down")).await;
    }
    let mut probes = 0;
    let mut rejected = 0;
    for _ in 0..120 {
        match f
            .limiter
            .acquire(&at, &ReadRequest::with_priority(Priority::Poll))
            .await
        {
            Ok(mut permit) => {
                probes += 1;
                assert_eq!(
                    f.limiter
                        .acquire(&at, &ReadRequest::with_priority(Priority::Poll))
                        .await
                        .unwrap_err()
                        .error,
                    "down"
                );
                permit.record(RequestOutcome::Failed("down"));
            }
            Err(error) => {
                rejected += 1;
                assert_eq!(error.error, "down");
                assert!(error.retry_after <= MINUTE);
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(
        (6..=8).contains(&probes) && rejected > 100,
        "{probes}, {rejected}"
    );
    f.send_answered(&key("other", 1)).await;
    assert_eq!(f.recoveries.load(SeqCst), 0);
    tokio::time::sleep(MINUTE).await;
    f.send_answered(&at).await;
    assert_eq!(f.recoveries.load(SeqCst), 1);
    f.send_answered(&at).await;
}

#[tokio::test(start_paused = true)]
async fn queued_requests_fail_when_the_circuit_opens() {
    let f = fixture(3, None);
    let at = key("dying", 1);
    f.send_answered(&at).await;
    let mut permits = Vec::new();
    for _ in 0..3 {
        permits.push(f.acquire(&at).await);
    }
    let (limiter, waits) = (f.limiter.clone(), at.clone());
    let waiting = tokio::spawn(async move {
        limiter
            .acquire(&waits, &ReadRequest::with_priority(Priority::Poll))
            .await
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    for mut permit in permits {
        permit.record(RequestOutcome::Failed("down"));
    }
    // The queued request got a permit of the first failures, or failed with the last one.
    let result = waiting.await.unwrap();
    assert!(result.is_ok() || result.unwrap_err().error == "down");
    assert_eq!(
        f.limiter
            .acquire(&at, &ReadRequest::interactive())
            .await
            .unwrap_err()
            .error,
        "down"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_leaves_the_queue() {
    let f = fixture(1, None);
    let in_use = f.acquire(&key("d", 1)).await;
    for _ in 0..3 {
        let (at, request) = (key("d", 1), ReadRequest::interactive());
        let given_up =
            tokio::time::timeout(Duration::from_millis(5), f.limiter.acquire(&at, &request));
        assert!(given_up.await.is_err());
    }
    drop(in_use);
    f.send_answered(&key("d", 1)).await;
    assert_eq!(f.limiter.queue_depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_budget_holds_per_account_and_only_for_limited_upstreams() {
    let f = fixture(8, Some(10));
    let start = Instant::now();
    for _ in 0..10 {
        f.send_answered(&key("cloud", 1)).await;
        f.send_answered(&key("cloud", 2)).await;
    }
    let unlimited = LimitKey {
        upstream: "own".into(),
        account: None,
        credentials: None,
        source: [0; 16],
    };
    for _ in 0..50 {
        f.send_answered(&unlimited).await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    f.send_answered(&key("cloud", 1)).await;
    assert!(start.elapsed() >= MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_pauses_only_its_account() {
    let f = fixture(8, None);
    let start = Instant::now();
    let limited = RequestOutcome::RateLimited(Duration::from_secs(9));
    f.send(&key("d", 1), limited).await;
    f.send_answered(&key("d", 2)).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    f.send_answered(&key("d", 1)).await;
    assert_eq!(start.elapsed(), Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_limit_is_hit_only_once() {
    let f = fixture(32, None);
    let start = Instant::now();
    let window = Duration::from_secs(9);
    let callers = (0..100).map(|_| {
        let limiter = f.limiter.clone();
        tokio::spawn(async move {
            let mut rejected = 0;
            loop {
                let mut permit = limiter
                    .acquire(&key("d", 1), &ReadRequest::interactive())
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                if start.elapsed() >= window {
                    permit.record(RequestOutcome::Answered(None));
                    return rejected;
                }
                rejected += 1;
                permit.record(RequestOutcome::RateLimited(
                    window.saturating_sub(start.elapsed()),
                ));
            }
        })
    });
    let rejected: Vec<u32> = futures::future::try_join_all(callers).await.unwrap();
    assert_eq!(rejected.iter().sum::<u32>(), 1);
}

#[tokio::test(start_paused = true)]
async fn sources_that_stall_leave_a_permit_for_a_source_that_is_well() {
    let f = fixture(8, None);
    let at = |source: u8| LimitKey {
        upstream: "shared".into(),
        account: None,
        credentials: None,
        source: [source; 16],
    };
    f.send_answered(&at(0)).await;
    let stalling: Vec<_> = (1..=50)
        .map(|source| {
            let (limiter, at) = (f.limiter.clone(), at(source));
            tokio::spawn(async move {
                loop {
                    let request = ReadRequest::interactive();
                    if let Ok(mut permit) = limiter.acquire(&at, &request).await {
                        tokio::time::sleep(Duration::from_secs(15)).await;
                        permit.record(RequestOutcome::Failed("timeout"));
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            })
        })
        .collect();
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked_at = Instant::now();
        f.send_answered(&at(0)).await;
        assert!(asked_at.elapsed() < Duration::from_millis(100));
    }
    for stalling in stalling {
        stalling.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_source_does_not_count_against_its_upstream() {
    let f = fixture(8, None);
    for _ in 0..10 {
        f.send(&key("d", 1), RequestOutcome::Refused(None)).await;
    }
    f.send_answered(&key("d", 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_extended_counts_two_requests() {
    let f = fixture(4, Some(2));
    let start = Instant::now();
    let mut write = f.acquire(&key("cloud", 1)).await;
    write.extend();
    assert_eq!(start.elapsed(), Duration::ZERO, "it does not wait again");
    write.record(RequestOutcome::Answered(None));
    drop(write);
    f.send_answered(&key("cloud", 1)).await;
    assert_eq!(start.elapsed(), MINUTE);
}
