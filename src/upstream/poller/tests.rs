mod several_keys;

use super::*;
use crate::reason::Reason;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::mpsc;

type ReadReply = Result<Poll<&'static str>, Failure>;

struct Fixture {
    pollers: Pollers<&'static str, &'static str, &'static str>,
    reads: Arc<AtomicUsize>,
    replies: Arc<Mutex<Vec<ReadReply>>>,
    requests: Arc<Mutex<Vec<ReadRequest>>>,
    enqueued: mpsc::UnboundedReceiver<&'static str>,
    shutdown: CancellationToken,
}

fn pollers(
    read: ReadFn<&'static str, &'static str>,
    enqueue: Enqueue<&'static str>,
    shutdown: CancellationToken,
) -> Pollers<&'static str, &'static str, &'static str> {
    let spec = PollerSpec {
        upstream: "doppler",
        read,
        tenant: |_| "flows",
        feed: None,
    };
    Pollers::new(spec, Arc::new(Metrics::new()), enqueue, shutdown)
}

/// Pollers whose reads return `replies` in turn, and the last of them for ever.
fn fixture(replies: Vec<ReadReply>) -> Fixture {
    let (sender, enqueued) = mpsc::unbounded_channel();
    let reads = Arc::new(AtomicUsize::new(0));
    let replies = Arc::new(Mutex::new(replies));
    let requests: Arc<Mutex<Vec<ReadRequest>>> = Arc::default();
    let shutdown = CancellationToken::new();
    let read: ReadFn<_, _> = Box::new({
        let (reads, replies) = (Arc::clone(&reads), Arc::clone(&replies));
        let requests = Arc::clone(&requests);
        move |_key, _last, request| {
            reads.fetch_add(1, SeqCst);
            requests.lock().push(request);
            let mut replies = replies.lock();
            let reply = if replies.len() > 1 {
                replies.remove(0)
            } else {
                replies[0].clone()
            };
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                reply
            })
        }
    });
    let enqueue: Enqueue<&'static str> = Arc::new(move |subscriber| {
        let _ = sender.send(*subscriber);
    });
    Fixture {
        pollers: pollers(read, enqueue, shutdown.clone()),
        reads,
        replies,
        requests,
        enqueued,
        shutdown,
    }
}

fn failure(reason: Reason) -> Failure {
    Failure {
        reason,
        message: "it failed".to_owned(),
        retry_after: None,
    }
}

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn subscribers_share_one_read_and_all_are_enqueued() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1")), Ok(Poll::Unchanged)]);
    for subscriber in ["a", "b", "c"] {
        assert!(
            f.pollers
                .subscribe(&subscriber, &"k", MINUTE)
                .value
                .is_none()
        );
    }
    let mut enqueued = [
        f.enqueued.recv().await,
        f.enqueued.recv().await,
        f.enqueued.recv().await,
    ];
    enqueued.sort_unstable();
    assert_eq!(enqueued, [Some("a"), Some("b"), Some("c")]);
    assert_eq!(f.reads.load(SeqCst), 1);
    assert_eq!(
        f.pollers.subscribe(&"a", &"k", MINUTE).value.as_deref(),
        Some(&"v1")
    );
    assert_eq!(
        f.reads.load(SeqCst),
        1,
        "a second subscription reads nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_poll_enqueues_no_subscriber() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1")), Ok(Poll::Unchanged)]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    assert_eq!(f.enqueued.recv().await, Some("a"));
    tokio::time::sleep(MINUTE * 5).await;
    assert!(
        (5..=6).contains(&f.reads.load(SeqCst)),
        "{}",
        f.reads.load(SeqCst)
    );
    assert!(f.enqueued.try_recv().is_err());
    assert!(f.pollers.subscribe(&"a", &"k", MINUTE).unchanged_reads >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_last_good_value_and_enqueues_once() {
    let mut f = fixture(vec![
        Ok(Poll::Changed("v1")),
        Err(failure(Reason::DopplerUnreachable)),
    ]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    assert_eq!(f.enqueued.recv().await, Some("a"));
    assert_eq!(f.enqueued.recv().await, Some("a"));
    let state = f.pollers.subscribe(&"a", &"k", MINUTE);
    assert_eq!(state.value.as_deref(), Some(&"v1"));
    assert_eq!(state.failure.unwrap().reason, Reason::DopplerUnreachable);
    tokio::time::sleep(MINUTE * 3).await;
    assert!(
        f.enqueued.try_recv().is_err(),
        "the same failure enqueues only once"
    );
    *f.replies.lock() = vec![Ok(Poll::Unchanged)];
    assert_eq!(f.enqueued.recv().await, Some("a"), "recovery enqueues");
    assert!(f.pollers.subscribe(&"a", &"k", MINUTE).failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn reads_back_off_while_the_upstream_is_down() {
    let f = fixture(vec![Err(failure(Reason::DopplerUnreachable))]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    tokio::time::sleep(Duration::from_mins(10)).await;
    let reads = f.reads.load(SeqCst);
    assert!((12..=20).contains(&reads), "{reads} reads in 10 minutes");
}

#[tokio::test(start_paused = true)]
async fn a_key_without_subscribers_is_stopped_and_dropped() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1")), Ok(Poll::Unchanged)]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    f.enqueued.recv().await;
    f.pollers.subscribe(&"a", &"other", MINUTE);
    assert_eq!(f.pollers.len(), 1, "the old key is gone");
    f.pollers.unsubscribe(&"a");
    assert!(f.pollers.is_empty());
    let reads = f.reads.load(SeqCst);
    tokio::time::sleep(MINUTE * 5).await;
    assert_eq!(f.reads.load(SeqCst), reads, "nothing is polled any more");
    assert!(
        f.pollers.subscribe(&"b", &"k", MINUTE).value.is_none(),
        "nothing is remembered"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_reads_only_the_affected_keys() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1"))]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    f.pollers.subscribe(&"b", &"l", MINUTE);
    f.enqueued.recv().await;
    f.enqueued.recv().await;
    f.pollers.refresh(Instant::now(), |key, last| {
        *key == "k" && last == Some(&"v1")
    });
    assert_eq!(f.enqueued.recv().await, Some("a"));
    assert_eq!(f.reads.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn shutdown_stops_every_key() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1"))]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    f.enqueued.recv().await;
    f.shutdown.cancel();
    let reads = f.reads.load(SeqCst);
    tokio::time::sleep(MINUTE * 5).await;
    assert_eq!(f.reads.load(SeqCst), reads);
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_result_enqueues_once_and_is_still_applied() {
    let (sender, mut enqueued) = mpsc::unbounded_channel();
    let (release, released_reads) = tokio::sync::watch::channel(false);
    let read: ReadFn<&'static str, &'static str> = Box::new(move |_, _, _| {
        let mut released_reads = released_reads.clone();
        Box::pin(async move {
            released_reads.wait_for(|released| *released).await.unwrap();
            Ok(Poll::Changed("v1"))
        })
    });
    let enqueue: Enqueue<&'static str> =
        Arc::new(move |subscriber| sender.send(*subscriber).unwrap());
    let pollers = pollers(read, enqueue, CancellationToken::new());
    let begun = Instant::now();
    assert!(!pollers.subscribe(&"a", &"k", MINUTE).overdue);
    assert_eq!(enqueued.recv().await, Some("a"));
    assert_eq!(begun.elapsed().as_secs(), FIRST_RESULT.as_secs());
    assert!(pollers.subscribe(&"a", &"k", MINUTE).overdue);
    assert!(
        pollers.subscribe(&"b", &"k", MINUTE).overdue,
        "a new subscriber sees it at once"
    );
    tokio::time::sleep(MINUTE * 5).await;
    assert!(enqueued.try_recv().is_err());
    release.send_replace(true);
    assert!(enqueued.recv().await.is_some());
    let state = pollers.subscribe(&"a", &"k", MINUTE);
    assert_eq!(
        (state.value.as_deref(), state.overdue),
        (Some(&"v1"), false)
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_that_panics_is_repeated() {
    let reads = Arc::new(AtomicUsize::new(0));
    let (sender, mut enqueued) = mpsc::unbounded_channel();
    let read: ReadFn<_, _> = Box::new(move |_key, _last, _request| {
        let number = reads.fetch_add(1, SeqCst);
        Box::pin(async move {
            assert!(number > 0, "never shown");
            Ok(Poll::Changed("v"))
        })
    });
    let enqueue: Enqueue<&'static str> = Arc::new(move |subscriber| {
        let _ = sender.send(*subscriber);
    });
    let pollers = pollers(read, enqueue, CancellationToken::new());
    pollers.subscribe(&"a", &"k", MINUTE);
    assert_eq!(enqueued.recv().await, Some("a"));
    assert_eq!(
        pollers.subscribe(&"a", &"k", MINUTE).value.as_deref(),
        Some(&"v")
    );
}

#[tokio::test(start_paused = true)]
async fn demands_cause_one_read_a_second_and_none_at_rest() {
    let first = [Ok(Poll::Changed("v1")), Ok(Poll::Changed("w1"))];
    let mut f = fixture(first.into_iter().chain([Ok(Poll::Unchanged)]).collect());
    let day = Duration::from_hours(24);
    f.pollers.subscribe(&"a", &"k", day);
    f.pollers.subscribe(&"b", &"k", day);
    f.pollers.subscribe(&"c", &"other", day);
    for _ in 0..3 {
        f.enqueued.recv().await;
    }
    tokio::time::sleep(MINUTE).await;
    let before = f.reads.load(SeqCst);
    for _ in 0..300 {
        assert_eq!(f.pollers.demand([&"a", &"b", &"unknown"]), 2);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let during = f.reads.load(SeqCst) - before;
    assert!((3..=5).contains(&during), "{during} reads in 3 s");
    tokio::time::sleep(MINUTE).await;
    let after = f.reads.load(SeqCst) - before;
    assert!(after <= during + 1, "{after} reads");
    assert!(
        f.enqueued.try_recv().is_err(),
        "an unchanged value enqueues no subscriber"
    );
}

/// The rate limiter hands out permits by priority, and raises the one of a queued request whose
/// trigger fires.
#[tokio::test(start_paused = true)]
async fn a_demanded_read_comes_before_polls() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1")), Ok(Poll::Unchanged)]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    assert_eq!(f.enqueued.recv().await, Some("a"));
    tokio::time::sleep(Duration::from_secs(5)).await;
    f.pollers.demand([&"a"]);
    tokio::time::sleep(MINUTE * 3 / 2).await;
    let priorities: Vec<_> = f.requests.lock().iter().map(|r| r.priority).collect();
    assert_eq!(
        priorities,
        [Priority::Initial, Priority::Interactive, Priority::Poll]
    );
}

#[tokio::test(start_paused = true)]
async fn a_demand_raises_a_poll_that_waits_for_its_permit() {
    let raised = Arc::new(AtomicUsize::new(0));
    let read: ReadFn<_, _> = Box::new({
        let raised = Arc::clone(&raised);
        move |_key, _last, request: ReadRequest| {
            let raised = Arc::clone(&raised);
            Box::pin(async move {
                if request.priority == Priority::Poll {
                    // The rate limiter waits like this, with the request in its queue.
                    request.trigger.triggered().await;
                    raised.fetch_add(1, SeqCst);
                }
                Ok(Poll::Changed("v1"))
            })
        }
    });
    let pollers = pollers(read, Arc::new(|_| {}), CancellationToken::new());
    pollers.subscribe(&"a", &"k", MINUTE);
    tokio::time::sleep(MINUTE * 2).await;
    assert_eq!(raised.load(SeqCst), 0, "the poll waits");
    pollers.demand([&"a"]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(raised.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_demand_during_a_read_causes_another_one() {
    let mut f = fixture(vec![
        Ok(Poll::Changed("v1")),
        Ok(Poll::Unchanged),
        Ok(Poll::Changed("v2")),
    ]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    f.enqueued.recv().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    f.pollers.demand([&"a"]);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_millis(2)).await;
    // The read may have fetched the value before it changed.
    f.pollers.demand([&"a"]);
    assert_eq!(f.enqueued.recv().await, Some("a"));
    assert!(began.elapsed() < Duration::from_millis(1100));
    assert_eq!(f.reads.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_reported_change_is_not_delayed_by_demands() {
    let mut f = fixture(vec![
        Ok(Poll::Changed("v1")),
        Ok(Poll::Unchanged),
        Ok(Poll::Changed("v2")),
    ]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    f.enqueued.recv().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    f.pollers.demand([&"a"]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    // This one has to wait for the rest of the second, and then the notification arrives.
    f.pollers.demand([&"a"]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let notified_at = Instant::now();
    f.pollers.refresh(notified_at, |_, _| true);
    assert_eq!(f.enqueued.recv().await, Some("a"));
    assert!(notified_at.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_demand_is_answered_by_a_later_read_that_succeeds() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1")), Ok(Poll::Unchanged)]);
    f.pollers.subscribe(&"a", &"k", MINUTE);
    f.pollers.subscribe(&"b", &"k", MINUTE);
    f.enqueued.recv().await;
    f.enqueued.recv().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let since = Instant::now();
    let is_current = |since| {
        let state = f.pollers.subscribe(&"a", &"k", MINUTE);
        state.failure.is_none() && state.sent_at.unwrap() >= since
    };
    assert!(!is_current(since));
    f.pollers.demand_since(&"a", since);
    assert_eq!(f.enqueued.recv().await, Some("a"), "although unchanged");
    assert!(is_current(since));

    // During an outage it waits, and the end of the outage answers it.
    *f.replies.lock() = vec![Err(failure(Reason::DopplerUnreachable))];
    tokio::time::sleep(Duration::from_secs(5)).await;
    let since = Instant::now();
    f.pollers.demand_since(&"a", since);
    for _ in 0..2 {
        f.enqueued.recv().await; // the failure
    }
    assert!(!is_current(since));
    tokio::time::sleep(MINUTE).await;
    assert!(f.enqueued.try_recv().is_err());
    *f.replies.lock() = vec![Ok(Poll::Unchanged)];
    f.enqueued.recv().await;
    assert!(is_current(since));
}

#[tokio::test(start_paused = true)]
async fn a_value_is_overdue_after_its_interval_without_a_successful_read() {
    let f = fixture(vec![Ok(Poll::Changed("v1")), Ok(Poll::Unchanged)]);
    let overdue = || f.pollers.max_overdue(Instant::now());
    f.pollers.subscribe(&"a", &"k", MINUTE);
    assert_eq!(overdue(), Duration::ZERO, "no read has ended");
    tokio::time::sleep(MINUTE * 5).await;
    assert!(
        overdue() < MINUTE / 5,
        "the jitter is small: {:?}",
        overdue()
    );
    *f.replies.lock() = vec![Err(failure(Reason::DopplerUnreachable))];
    tokio::time::sleep(MINUTE * 10).await;
    assert!(
        (MINUTE * 8..MINUTE * 10).contains(&overdue()),
        "{:?}",
        overdue()
    );
    *f.replies.lock() = vec![Ok(Poll::Unchanged)];
    tokio::time::sleep(MINUTE * 2).await;
    assert!(overdue() < MINUTE / 5, "{:?}", overdue());

    // One that was never read counts, too.
    *f.replies.lock() = vec![Err(failure(Reason::ConfigMissing))];
    f.pollers.subscribe(&"a", &"other", MINUTE);
    tokio::time::sleep(MINUTE * 10).await;
    assert!(
        (MINUTE * 8..MINUTE * 10).contains(&overdue()),
        "{:?}",
        overdue()
    );
    f.pollers.unsubscribe(&"a");
    assert_eq!(overdue(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn age_of_a_subscriber_is_that_of_its_stalest_key() {
    let f = fixture(vec![Ok(Poll::Changed("v1"))]);
    let ages = || f.pollers.ages(&["a", "b", "none"], Instant::now());
    f.pollers.subscribe(&"a", &"k", MINUTE * 60);
    assert_eq!(ages(), [None, None, None], "no read has ended");
    tokio::time::sleep(MINUTE * 5).await;
    *f.replies.lock() = vec![Err(failure(Reason::ConfigMissing))];
    f.pollers
        .subscribe_all(&"b", &["k", "missing"], MINUTE * 60);
    tokio::time::sleep(MINUTE).await;
    let found = ages();
    let read = Duration::from_millis(5);
    assert_eq!(found[0].map(|age| age + read), Some(MINUTE * 6));
    assert_eq!(found[1..], [None, None], "one of its keys was never read");
}
