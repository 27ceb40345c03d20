use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::mpsc;

type Reply = Result<Poll<&'static str>, Failure>;

struct Fixture {
    sources: Pollers<&'static str, &'static str, &'static str>,
    reads: Arc<AtomicUsize>,
    replies: Arc<Mutex<Vec<Reply>>>,
    woken: mpsc::UnboundedReceiver<&'static str>,
    shutdown: CancellationToken,
}

/// Sources that give `replies` in turn, and the last of them for ever.
fn fixture(replies: Vec<Reply>) -> Fixture {
    let (sender, woken) = mpsc::unbounded_channel();
    let reads = Arc::new(AtomicUsize::new(0));
    let replies = Arc::new(Mutex::new(replies));
    let shutdown = CancellationToken::new();
    let read: ReadFn<_, _> = Box::new({
        let (reads, replies) = (Arc::clone(&reads), Arc::clone(&replies));
        move |_key, _last, _wish| {
            reads.fetch_add(1, SeqCst);
            let mut replies = replies.lock().unwrap();
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
    let wake: Enqueue<&'static str> = Arc::new(move |who| {
        let _ = sender.send(*who);
    });
    Fixture {
        sources: Pollers::new(read, None, Duration::ZERO, wake, shutdown.clone()),
        reads,
        replies,
        woken,
        shutdown,
    }
}

fn fault(reason: Reason) -> Failure {
    Failure {
        reason,
        message: "it failed".to_owned(),
        retry_after: None,
    }
}

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn many_dependants_cost_one_read_and_all_are_woken() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1")), Ok(Poll::Unchanged)]);
    for who in ["a", "b", "c"] {
        assert!(f.sources.subscribe(&who, &"k", MINUTE).value.is_none());
    }
    let mut woken = [
        f.woken.recv().await,
        f.woken.recv().await,
        f.woken.recv().await,
    ];
    woken.sort_unstable();
    assert_eq!(woken, [Some("a"), Some("b"), Some("c")]);
    assert_eq!(f.reads.load(SeqCst), 1);
    assert_eq!(
        f.sources.subscribe(&"a", &"k", MINUTE).value.as_deref(),
        Some(&"v1")
    );
    assert_eq!(f.reads.load(SeqCst), 1, "asking again reads nothing");
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_finds_nothing_new_wakes_nobody() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1")), Ok(Poll::Unchanged)]);
    f.sources.subscribe(&"a", &"k", MINUTE);
    assert_eq!(f.woken.recv().await, Some("a"));
    tokio::time::sleep(MINUTE * 5).await;
    assert!(
        (5..=6).contains(&f.reads.load(SeqCst)),
        "{}",
        f.reads.load(SeqCst)
    );
    assert!(f.woken.try_recv().is_err());
    assert!(f.sources.subscribe(&"a", &"k", MINUTE).unchanged_reads >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_last_good_value_and_is_told_once() {
    let mut f = fixture(vec![
        Ok(Poll::Changed("v1")),
        Err(fault(Reason::DopplerUnreachable)),
    ]);
    f.sources.subscribe(&"a", &"k", MINUTE);
    assert_eq!(f.woken.recv().await, Some("a"));
    assert_eq!(f.woken.recv().await, Some("a"));
    let reading = f.sources.subscribe(&"a", &"k", MINUTE);
    assert_eq!(reading.value.as_deref(), Some(&"v1"));
    assert_eq!(reading.failure.unwrap().reason, Reason::DopplerUnreachable);
    tokio::time::sleep(MINUTE * 3).await;
    assert!(
        f.woken.try_recv().is_err(),
        "the same failure is not told twice"
    );
    *f.replies.lock().unwrap() = vec![Ok(Poll::Unchanged)];
    assert_eq!(f.woken.recv().await, Some("a"), "recovery is told");
    assert!(f.sources.subscribe(&"a", &"k", MINUTE).failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn waits_grow_while_an_upstream_is_dead() {
    let f = fixture(vec![Err(fault(Reason::DopplerUnreachable))]);
    f.sources.subscribe(&"a", &"k", MINUTE);
    tokio::time::sleep(Duration::from_mins(10)).await;
    let reads = f.reads.load(SeqCst);
    assert!((12..=20).contains(&reads), "{reads} reads in 10 minutes");
}

#[tokio::test(start_paused = true)]
async fn a_source_without_dependants_ends_and_forgets() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1")), Ok(Poll::Unchanged)]);
    f.sources.subscribe(&"a", &"k", MINUTE);
    f.woken.recv().await;
    f.sources.subscribe(&"a", &"other", MINUTE);
    assert_eq!(f.sources.len(), 1, "the old key is gone");
    f.sources.unsubscribe(&"a");
    assert!(f.sources.is_empty());
    let reads = f.reads.load(SeqCst);
    tokio::time::sleep(MINUTE * 5).await;
    assert_eq!(f.reads.load(SeqCst), reads, "nothing is polled any more");
    assert!(
        f.sources.subscribe(&"b", &"k", MINUTE).value.is_none(),
        "nothing is remembered"
    );
}

#[tokio::test(start_paused = true)]
async fn a_poke_reads_at_once_and_only_where_it_is_meant() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1"))]);
    f.sources.subscribe(&"a", &"k", MINUTE);
    f.sources.subscribe(&"b", &"l", MINUTE);
    f.woken.recv().await;
    f.woken.recv().await;
    f.sources.refresh(Instant::now(), |key, last| {
        *key == "k" && last == Some(&"v1")
    });
    assert_eq!(f.woken.recv().await, Some("a"));
    assert_eq!(f.reads.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_every_source() {
    let mut f = fixture(vec![Ok(Poll::Changed("v1"))]);
    f.sources.subscribe(&"a", &"k", MINUTE);
    f.woken.recv().await;
    f.shutdown.cancel();
    let reads = f.reads.load(SeqCst);
    tokio::time::sleep(MINUTE * 5).await;
    assert_eq!(f.reads.load(SeqCst), reads);
}

#[test]
fn an_upstream_that_says_when_to_come_back_is_heard_but_not_for_ever() {
    let limited = |retry_after| Failure {
        retry_after,
        ..fault(Reason::DopplerRateLimited)
    };
    let asked = limited(Some(Duration::from_secs(7)));
    assert_eq!(wait_after(Some(&asked), 1, MINUTE), Duration::from_secs(7));
    assert_eq!(
        wait_after(Some(&limited(Some(Duration::MAX))), 1, MINUTE),
        LONGEST_WAIT
    );
    assert_eq!(
        wait_after(Some(&limited(Some(Duration::ZERO))), 1, MINUTE),
        FIRST_RETRY
    );
    assert_eq!(
        wait_after(Some(&fault(Reason::DopplerUnauthorized)), 9, MINUTE),
        MINUTE,
        "waits for a change, does not hammer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_answer_that_is_long_in_coming_is_told_once_and_still_taken() {
    let (sender, mut woken) = mpsc::unbounded_channel();
    let (answer, awaited) = tokio::sync::watch::channel(false);
    let read: ReadFn<&'static str, &'static str> = Box::new(move |_, _, _| {
        let mut awaited = awaited.clone();
        Box::pin(async move {
            awaited.wait_for(|come| *come).await.unwrap();
            Ok(Poll::Changed("v1"))
        })
    });
    let wake: Enqueue<&'static str> = Arc::new(move |who| sender.send(*who).unwrap());
    let sources = Pollers::new(read, None, Duration::ZERO, wake, CancellationToken::new());
    let begun = Instant::now();
    assert!(!sources.subscribe(&"a", &"k", MINUTE).overdue);
    assert_eq!(woken.recv().await, Some("a"));
    assert_eq!(begun.elapsed().as_secs(), FIRST_ANSWER.as_secs());
    assert!(sources.subscribe(&"a", &"k", MINUTE).overdue);
    assert!(
        sources.subscribe(&"b", &"k", MINUTE).overdue,
        "it is told at once"
    );
    tokio::time::sleep(MINUTE * 5).await;
    assert!(woken.try_recv().is_err());
    answer.send_replace(true);
    assert!(woken.recv().await.is_some());
    let reading = sources.subscribe(&"a", &"k", MINUTE);
    assert_eq!(
        (reading.value.as_deref(), reading.overdue),
        (Some(&"v1"), false)
    );
}
