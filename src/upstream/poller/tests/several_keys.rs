//! Subscribers to several keys.

use super::*;

fn values(states: &[PollState<&'static str>]) -> Vec<Option<&'static str>> {
    let values = states.iter().map(|state| state.value.as_deref().copied());
    values.collect()
}

type Keys = Pollers<&'static str, &'static str, &'static str>;
type Enqueued = mpsc::UnboundedReceiver<&'static str>;

/// Pollers whose value is the key, what they enqueue, and what they read.
fn echo() -> (Keys, Enqueued, Arc<Mutex<Vec<&'static str>>>) {
    let (sender, enqueued) = mpsc::unbounded_channel();
    let reads = Arc::new(Mutex::new(Vec::new()));
    let read: ReadFn<_, _> = Box::new({
        let reads = Arc::clone(&reads);
        move |key, last, _| {
            reads.lock().push(key);
            Box::pin(async move {
                Ok(match last {
                    Some(_) => Poll::Unchanged,
                    None => Poll::Changed(key),
                })
            })
        }
    });
    let enqueue: Enqueue<&'static str> = Arc::new(move |subscriber| {
        let _ = sender.send(*subscriber);
    });
    let pollers = pollers(read, enqueue, CancellationToken::new());
    (pollers, enqueued, reads)
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_has_all_its_keys_in_order() {
    let (pollers, mut enqueued, reads) = echo();
    let keys = ["k1", "k2", "k1"];
    let states = pollers.subscribe_all(&"a", &keys, MINUTE);
    assert_eq!(values(&states), [None, None, None]);
    for _ in 0..2 {
        assert_eq!(enqueued.recv().await, Some("a"));
    }
    let states = pollers.subscribe_all(&"a", &keys, MINUTE);
    assert_eq!(values(&states), [Some("k1"), Some("k2"), Some("k1")]);
    assert_eq!(
        (pollers.len(), reads.lock().len()),
        (2, 2),
        "k1 is read once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_stays_keeps_its_value_and_others_are_dropped() {
    let (pollers, mut enqueued, reads) = echo();
    pollers.subscribe_all(&"a", &["k1", "k2"], MINUTE);
    for _ in 0..2 {
        assert_eq!(enqueued.recv().await, Some("a"));
    }
    let states = pollers.subscribe_all(&"a", &["k3", "k2"], MINUTE);
    assert_eq!(values(&states), [None, Some("k2")]);
    assert_eq!(pollers.len(), 2, "k1 has no subscriber");
    assert_eq!(enqueued.recv().await, Some("a"));
    assert_eq!(*reads.lock(), ["k1", "k2", "k3"], "k2 is not read again");
    // With one key less, the other subscriber keeps it.
    pollers.subscribe(&"b", &"k3", MINUTE);
    pollers.unsubscribe(&"a");
    assert_eq!(pollers.len(), 1);
    pollers.unsubscribe(&"b");
    assert!(pollers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_demand_reads_all_keys_or_those_that_are_selected() {
    let (pollers, mut enqueued, reads) = echo();
    pollers.subscribe_all(&"a", &["k1", "k2"], MINUTE);
    for _ in 0..2 {
        assert_eq!(enqueued.recv().await, Some("a"));
    }
    reads.lock().clear();
    assert_eq!(pollers.demand([&"a", &"none"]), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    reads.lock().sort_unstable();
    assert_eq!(*reads.lock(), ["k1", "k2"]);
    reads.lock().clear();
    assert!(pollers.demand_keys(&"a", |key| *key == "k2"));
    assert!(!pollers.demand_keys(&"a", |key| *key == "k9"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*reads.lock(), ["k2"]);
    // A subscriber that waits is enqueued by each of its keys.
    pollers.demand_since(&"a", Instant::now());
    for _ in 0..2 {
        assert_eq!(enqueued.recv().await, Some("a"));
    }
}
