use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::mpsc;

type Line = mpsc::UnboundedSender<Result<(), Disconnect>>;

struct Fixture {
    links: Subscriptions<&'static str, ()>,
    opened: Arc<AtomicUsize>,
    lines: Arc<Mutex<Vec<(&'static str, Line)>>>,
    refuse: Arc<Mutex<Option<Disconnect>>>,
    metrics: Arc<Metrics>,
}

fn fixture(most: usize) -> Fixture {
    fixture_that_listens_after(None, most)
}

fn fixture_that_listens_after(listens_after: Option<Duration>, most: usize) -> Fixture {
    let opened = Arc::new(AtomicUsize::new(0));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let refuse = Arc::new(Mutex::new(None::<Disconnect>));
    let open: Connect<&'static str, ()> = Box::new({
        let (opened, lines, refuse) =
            (Arc::clone(&opened), Arc::clone(&lines), Arc::clone(&refuse));
        move |key| {
            opened.fetch_add(1, SeqCst);
            let refused = refuse.lock().unwrap().clone();
            let lines = Arc::clone(&lines);
            Box::pin(async move {
                sleep(Duration::from_millis(20)).await;
                if let Some(closed) = refused {
                    return Err(closed);
                }
                let (line, mut told) = mpsc::unbounded_channel();
                lines.lock().unwrap().push((key, line));
                Ok(futures::stream::poll_fn(move |cx| told.poll_recv(cx)).boxed())
            })
        }
    });
    let metrics = Arc::new(Metrics::new());
    let kind = FeedSpec {
        upstream: "doppler",
        open,
        on_message: None,
        slows_polling: false,
        reread_after: listens_after,
        max_connections: most,
    };
    Fixture {
        links: Subscriptions::new(kind, Arc::clone(&metrics), CancellationToken::new()),
        opened,
        lines,
        refuse,
        metrics,
    }
}

impl Fixture {
    fn up(&self) -> i64 {
        let labels = UpstreamLabels {
            upstream: "doppler",
        };
        self.metrics
            .subscriptions_connected
            .get_or_create(&labels)
            .get()
    }
}

const LIMIT: Duration = Duration::from_millis(250);

#[tokio::test(start_paused = true)]
async fn many_holders_share_a_link_and_all_are_poked() {
    let f = fixture(8);
    let pokes = [Trigger::default(), Trigger::default()];
    let held = pokes
        .each_ref()
        .map(|poke| f.links.subscribe(&"k", poke.clone()));
    assert_eq!(held[0].state(), FeedState::Connecting);
    for (held, poke) in held.iter().zip(&pokes) {
        held.settled(LIMIT).await;
        assert_eq!(held.state(), FeedState::Connected);
        assert!(
            poke.take_pending(),
            "what was read before the link was up is read again"
        );
    }
    assert_eq!(f.opened.load(SeqCst), 1);
    f.lines.lock().unwrap()[0].1.send(Ok(())).unwrap();
    for poke in &pokes {
        poke.triggered().await;
        assert!(poke.take_notified_at().is_some());
    }
    assert_eq!(f.up(), 1);
    drop(held);
    assert!(f.links.is_empty());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(f.up(), 0, "the last one who lets go ends it");
    assert!(f.lines.lock().unwrap()[0].1.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_is_opened_again_and_everything_is_read_once() {
    let f = fixture(8);
    let poke = Trigger::default();
    let held = f.links.subscribe(&"k", poke.clone());
    held.settled(LIMIT).await;
    poke.take_pending();
    f.lines.lock().unwrap()[0]
        .1
        .send(Err(Disconnect::transient()))
        .unwrap();
    poke.triggered().await;
    assert_eq!(f.opened.load(SeqCst), 2);
    assert_eq!(held.state(), FeedState::Connected);
    assert!(poke.take_notified_at().is_none(), "nobody told of a change");
    assert!(!poke.take_pending(), "once");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_says_when_they_listen_it_is_read_once_more_after_a_loss() {
    let f = fixture_that_listens_after(Some(Duration::from_secs(1)), 8);
    let poke = Trigger::default();
    let held = f.links.subscribe(&"k", poke.clone());
    held.settled(LIMIT).await;
    poke.take_pending();
    sleep(Duration::from_secs(5)).await;
    assert!(!poke.take_pending(), "the first read comes after the link");
    f.lines.lock().unwrap()[0]
        .1
        .send(Err(Disconnect::transient()))
        .unwrap();
    poke.triggered().await;
    let first = Instant::now();
    poke.triggered().await;
    assert_eq!(first.elapsed(), Duration::from_secs(1));
    sleep(Duration::from_secs(5)).await;
    assert!(!poke.take_pending(), "once");
}

#[tokio::test(start_paused = true)]
async fn waits_grow_while_nobody_answers() {
    let f = fixture(8);
    *f.refuse.lock().unwrap() = Some(Disconnect::transient());
    let held = f.links.subscribe(&"k", Trigger::default());
    sleep(Duration::from_mins(10)).await;
    let opened = f.opened.load(SeqCst);
    assert!((13..=22).contains(&opened), "{opened}");
    assert_eq!(held.state(), FeedState::Disconnected);
}

#[tokio::test(start_paused = true)]
async fn a_refused_link_says_why_and_is_tried_again_rarely() {
    let f = fixture(1);
    *f.refuse.lock().unwrap() = Some(Disconnect {
        rejected: Some("the plan has none".to_owned()),
        retry_after: None,
    });
    let held = f.links.subscribe(&"k", Trigger::default());
    held.settled(LIMIT).await;
    assert_eq!(
        held.state(),
        FeedState::Rejected("the plan has none".into())
    );
    // It takes no place from others.
    *f.refuse.lock().unwrap() = None;
    let other = f.links.subscribe(&"other", Trigger::default());
    other.settled(LIMIT).await;
    assert_eq!(other.state(), FeedState::Connected);
    drop(other);
    sleep(Duration::from_mins(30)).await;
    assert_eq!(f.opened.load(SeqCst), 2);
    sleep(Duration::from_hours(1)).await;
    assert_eq!(
        held.state(),
        FeedState::Connected,
        "a plan may have been bought"
    );
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_it_is_polled_until_a_place_is_free() {
    let f = fixture(1);
    let first = f.links.subscribe(&"a", Trigger::default());
    first.settled(LIMIT).await;
    let poke = Trigger::default();
    let second = f.links.subscribe(&"b", poke.clone());
    second.settled(LIMIT).await;
    assert_eq!(second.state(), FeedState::OverLimit);
    assert_eq!(f.opened.load(SeqCst), 1);
    drop(first);
    poke.triggered().await;
    assert_eq!(second.state(), FeedState::Connected);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_takes_long_holds_nobody_up() {
    let f = fixture(8);
    let held = f.links.subscribe(&"k", Trigger::default());
    let start = Instant::now();
    held.settled(Duration::from_millis(5)).await;
    assert_eq!(start.elapsed(), Duration::from_millis(5));
    assert_eq!(held.state(), FeedState::Connecting);
}

#[test]
fn the_other_side_may_ask_for_patience_but_not_for_ever() {
    let closed = |seconds| Disconnect {
        rejected: None,
        retry_after: Some(Duration::from_secs(seconds)),
    };
    assert_eq!(wait_after(&closed(0), 1), FIRST);
    assert_eq!(wait_after(&closed(90), 1), Duration::from_secs(90));
    assert_eq!(wait_after(&closed(1 << 40), 1), REFUSED);
    assert_eq!(wait_after(&Disconnect::transient(), 99), LONGEST);
}
