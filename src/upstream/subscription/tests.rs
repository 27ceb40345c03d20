use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::mpsc;

type Sender = mpsc::UnboundedSender<Result<(), Disconnect>>;

struct Fixture {
    subscriptions: Subscriptions<&'static str, ()>,
    opened: Arc<AtomicUsize>,
    senders: Arc<Mutex<Vec<(&'static str, Sender)>>>,
    reject: Arc<Mutex<Option<Disconnect>>>,
    metrics: Arc<Metrics>,
}

fn fixture(max_connections: usize) -> Fixture {
    fixture_with_reread(None, max_connections)
}

fn fixture_with_reread(reread_after: Option<Duration>, max_connections: usize) -> Fixture {
    let opened = Arc::new(AtomicUsize::new(0));
    let senders = Arc::new(Mutex::new(Vec::new()));
    let reject = Arc::new(Mutex::new(None::<Disconnect>));
    let connect: Connect<&'static str, ()> = Box::new({
        let (opened, senders, reject) = (
            Arc::clone(&opened),
            Arc::clone(&senders),
            Arc::clone(&reject),
        );
        move |key| {
            opened.fetch_add(1, SeqCst);
            let rejected = reject.lock().clone();
            let senders = Arc::clone(&senders);
            Box::pin(async move {
                sleep(Duration::from_millis(20)).await;
                if let Some(disconnect) = rejected {
                    return Err(disconnect);
                }
                let (sender, mut messages) = mpsc::unbounded_channel();
                senders.lock().push((key, sender));
                Ok(Opened {
                    messages: futures::stream::poll_fn(move |cx| messages.poll_recv(cx)).boxed(),
                    is_proven: key != "silent",
                })
            })
        }
    });
    let metrics = Arc::new(Metrics::new());
    let feed = FeedSpec {
        upstream: "doppler",
        connect,
        on_message: None,
        slows_polling: false,
        reread_after,
        proves: |()| true,
        source: |()| "doppler",
        host: |_| "host".to_owned(),
        max_connections,
    };
    Fixture {
        subscriptions: Subscriptions::new(feed, Arc::clone(&metrics), CancellationToken::new()),
        opened,
        senders,
        reject,
        metrics,
    }
}

impl Fixture {
    fn connected(&self) -> i64 {
        let labels = UpstreamLabels {
            upstream: "doppler",
        };
        self.metrics
            .subscriptions_connected
            .get_or_create(&labels)
            .get()
    }
}

impl Fixture {
    fn disconnected(&self) -> i64 {
        let labels = UpstreamLabels {
            upstream: "doppler",
        };
        let family = &self.metrics.subscriptions_disconnected;
        family.get_or_create(&labels).get()
    }
}

const LIMIT: Duration = Duration::from_millis(250);

#[tokio::test(start_paused = true)]
async fn counts_subscriptions_that_should_be_connected() {
    let f = fixture(8);
    let opens = async |number| {
        while f.opened.load(SeqCst) < number {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_millis(30)).await;
    };
    *f.reject.lock() = Some(Disconnect::transient());
    let guard = f
        .subscriptions
        .subscribe(&"k", &"flows".into(), Trigger::default());
    guard.settled(LIMIT).await;
    assert_eq!(f.disconnected(), 1, "it was never connected");
    opens(2).await;
    assert_eq!(f.disconnected(), 1, "it counts once");
    *f.reject.lock() = None;
    opens(3).await;
    assert_eq!((f.disconnected(), f.connected()), (0, 1));
    *f.reject.lock() = Some(Disconnect::transient());
    let lost = Err(Disconnect::transient());
    f.senders.lock()[0].1.send(lost).unwrap();
    opens(4).await;
    assert_eq!((f.disconnected(), f.connected()), (1, 0));
    *f.reject.lock() = Some(Disconnect {
        rejected: Some("no streams".to_owned()),
        ..Disconnect::transient()
    });
    opens(5).await;
    assert_eq!(f.disconnected(), 0, "a rejection is no outage");
    drop(guard);

    *f.reject.lock() = Some(Disconnect::transient());
    let guard = f
        .subscriptions
        .subscribe(&"other", &"more".into(), Trigger::default());
    guard.settled(LIMIT).await;
    drop(guard);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(f.disconnected(), 0, "no subscriber is left");
}

#[tokio::test(start_paused = true)]
async fn subscribers_share_a_connection_and_all_are_triggered() {
    let f = fixture(8);
    let triggers = [Trigger::default(), Trigger::default()];
    let guard = triggers.each_ref().map(|trigger| {
        f.subscriptions
            .subscribe(&"k", &"flows".into(), trigger.clone())
    });
    assert_eq!(guard[0].state(), FeedState::Connecting);
    for (guard, trigger) in guard.iter().zip(&triggers) {
        guard.settled(LIMIT).await;
        assert_eq!(guard.state(), FeedState::Connected);
        assert!(
            trigger.take_pending(),
            "what was read before the link was up is read again"
        );
    }
    assert_eq!(f.opened.load(SeqCst), 1);
    f.senders.lock()[0].1.send(Ok(())).unwrap();
    for trigger in &triggers {
        trigger.triggered().await;
        assert!(trigger.take_notified_at().is_some());
    }
    assert_eq!(f.connected(), 1);
    drop(guard);
    assert!(f.subscriptions.is_empty());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(f.connected(), 0, "the last one who lets go ends it");
    assert!(f.senders.lock()[0].1.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_reopened_and_everything_is_read_once() {
    let f = fixture(8);
    let trigger = Trigger::default();
    let guard = f
        .subscriptions
        .subscribe(&"k", &"flows".into(), trigger.clone());
    guard.settled(LIMIT).await;
    trigger.take_pending();
    f.senders.lock()[0]
        .1
        .send(Err(Disconnect::transient()))
        .unwrap();
    trigger.triggered().await;
    assert_eq!(f.opened.load(SeqCst), 2);
    assert_eq!(guard.state(), FeedState::Connected);
    assert!(
        trigger.take_notified_at().is_none(),
        "no change was reported"
    );
    assert!(!trigger.take_pending(), "once");
}

#[tokio::test(start_paused = true)]
async fn after_a_reconnect_it_is_read_once_more_if_the_feed_asks() {
    let f = fixture_with_reread(Some(Duration::from_secs(1)), 8);
    let trigger = Trigger::default();
    let guard = f
        .subscriptions
        .subscribe(&"k", &"flows".into(), trigger.clone());
    guard.settled(LIMIT).await;
    trigger.take_pending();
    sleep(Duration::from_secs(5)).await;
    assert!(
        !trigger.take_pending(),
        "the first read comes after the connection"
    );
    f.senders.lock()[0]
        .1
        .send(Err(Disconnect::transient()))
        .unwrap();
    trigger.triggered().await;
    let first = Instant::now();
    trigger.triggered().await;
    assert_eq!(first.elapsed(), Duration::from_secs(1));
    sleep(Duration::from_secs(5)).await;
    assert!(!trigger.take_pending(), "once");
}

#[tokio::test(start_paused = true)]
async fn reconnects_back_off_while_the_upstream_is_down() {
    let f = fixture(8);
    *f.reject.lock() = Some(Disconnect::transient());
    let guard = f
        .subscriptions
        .subscribe(&"k", &"flows".into(), Trigger::default());
    sleep(Duration::from_mins(10)).await;
    let opened = f.opened.load(SeqCst);
    assert!((13..=22).contains(&opened), "{opened}");
    assert_eq!(guard.state(), FeedState::Disconnected);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_connection_states_why_and_is_tried_again_rarely() {
    let f = fixture(1);
    *f.reject.lock() = Some(Disconnect {
        rejected: Some("the plan has none".to_owned()),
        retry_after: None,
    });
    let guard = f
        .subscriptions
        .subscribe(&"k", &"flows".into(), Trigger::default());
    guard.settled(LIMIT).await;
    assert_eq!(
        guard.state(),
        FeedState::Rejected("the plan has none".into())
    );
    // It uses no slot meanwhile.
    *f.reject.lock() = None;
    let other = f
        .subscriptions
        .subscribe(&"other", &"flows".into(), Trigger::default());
    other.settled(LIMIT).await;
    assert_eq!(other.state(), FeedState::Connected);
    drop(other);
    sleep(Duration::from_mins(30)).await;
    assert_eq!(f.opened.load(SeqCst), 2);
    sleep(Duration::from_hours(1)).await;
    assert_eq!(
        guard.state(),
        FeedState::Connected,
        "a plan may have been bought"
    );
}

#[tokio::test(start_paused = true)]
async fn beyond_the_maximum_a_subscriber_waits_for_a_free_slot() {
    let f = fixture(1);
    let first = f
        .subscriptions
        .subscribe(&"a", &"flows".into(), Trigger::default());
    first.settled(LIMIT).await;
    let trigger = Trigger::default();
    let second = f
        .subscriptions
        .subscribe(&"b", &"flows".into(), trigger.clone());
    second.settled(LIMIT).await;
    assert_eq!(second.state(), FeedState::OverLimit);
    assert_eq!(f.opened.load(SeqCst), 1);
    drop(first);
    trigger.triggered().await;
    assert_eq!(second.state(), FeedState::Connected);
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_does_not_delay_its_subscribers() {
    let f = fixture(8);
    let guard = f
        .subscriptions
        .subscribe(&"k", &"flows".into(), Trigger::default());
    let start = Instant::now();
    guard.settled(Duration::from_millis(5)).await;
    assert_eq!(start.elapsed(), Duration::from_millis(5));
    assert_eq!(guard.state(), FeedState::Connecting);
}

#[test]
fn an_upstream_can_ask_for_a_wait_within_bounds() {
    let disconnect = |seconds| Disconnect {
        rejected: None,
        retry_after: Some(Duration::from_secs(seconds)),
    };
    assert_eq!(reconnect_wait(&disconnect(0), 1), Duration::from_secs(1));
    assert_eq!(reconnect_wait(&disconnect(90), 1), Duration::from_secs(90));
    assert_eq!(reconnect_wait(&disconnect(1 << 40), 1), REJECTED_WAIT);
    assert_eq!(
        reconnect_wait(&Disconnect::transient(), 99),
        Duration::from_mins(1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_later_tenant_gets_its_share_and_the_larger_one_polls() {
    let f = fixture(2);
    let subscribe = |key, tenant: &str| {
        let trigger = Trigger::default();
        f.subscriptions.subscribe(key, &tenant.into(), trigger)
    };
    let first = [
        subscribe(&"a", "large"),
        subscribe(&"b", "large"),
        subscribe(&"c", "large"),
    ];
    for guard in &first {
        guard.settled(LIMIT).await;
    }
    let states = || first.iter().map(SubscriptionGuard::state);
    let connected = || states().filter(|state| *state == FeedState::Connected);
    assert_eq!(connected().count(), 2);
    let later = subscribe(&"d", "small");
    let mut state = later.state.clone();
    state
        .wait_for(|state| *state == FeedState::Connected)
        .await
        .unwrap();
    assert_eq!(connected().count(), 1);
    let over_limit = states().filter(|state| *state == FeedState::OverLimit);
    assert_eq!(over_limit.count(), 2);
    assert_eq!(f.connected(), 2);
    drop(later);
    sleep(LIMIT).await;
    assert_eq!(connected().count(), 2, "it has the connection again");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_unproven_until_its_first_message() {
    let f = fixture(1);
    let guard = f
        .subscriptions
        .subscribe(&"silent", &"flows".into(), Trigger::default());
    guard.settled(LIMIT).await;
    assert_eq!(guard.state(), FeedState::Unproven);
    f.senders.lock()[0].1.send(Ok(())).unwrap();
    sleep(LIMIT).await;
    assert_eq!(guard.state(), FeedState::Connected);
}
