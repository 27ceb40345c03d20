use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const MINUTE: Duration = Duration::from_mins(1);

fn lane(upstream: &str, account: u8) -> LimitKey {
    LimitKey {
        upstream: upstream.into(),
        account: Some([account; 32]),
    }
}

struct Fixture {
    gate: RateLimiter<&'static str>,
    reopened: Arc<AtomicUsize>,
}

fn fixture(in_flight: usize, budget: Option<u32>) -> Fixture {
    let reopened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reopened);
    let hears: OnRecovered = Box::new(move |_| {
        count.fetch_add(1, SeqCst);
    });
    Fixture {
        gate: RateLimiter::new(in_flight, budget, hears, CancellationToken::new()),
        reopened,
    }
}

/// Asks, and says that it was answered so.
async fn ask(
    gate: &RateLimiter<&'static str>,
    lane: &LimitKey,
    wish: &ReadRequest,
    said: RequestOutcome<&'static str>,
) {
    gate.acquire(lane, wish).await.unwrap().record(said);
}

#[tokio::test(start_paused = true)]
async fn a_slow_upstream_holds_up_nobody_else() {
    let f = fixture(2, None);
    let slow = [
        f.gate
            .acquire(&lane("slow", 1), &ReadRequest::interactive())
            .await
            .unwrap(),
        f.gate
            .acquire(&lane("slow", 2), &ReadRequest::interactive())
            .await
            .unwrap(),
    ];
    let (gate, third) = (f.gate.clone(), lane("slow", 3));
    let third = tokio::spawn(async move {
        gate.acquire(&third, &ReadRequest::interactive())
            .await
            .is_ok()
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    for _ in 0..10 {
        ask(
            &f.gate,
            &lane("quick", 1),
            &ReadRequest::interactive(),
            RequestOutcome::Answered(None),
        )
        .await;
    }
    assert_eq!(f.gate.queue_depth(), 1);
    drop(slow);
    assert!(third.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn under_a_limit_that_is_too_small_every_source_gets_its_turn() {
    let f = fixture(32, None);
    let start = Instant::now();
    let served = Arc::new(Mutex::new(HashMap::<u32, u32>::new()));
    let limit = 120;
    // A counter that counts in fixed windows and refuses what is too much.
    let counter = Arc::new(Mutex::new((start, 0_u32, 0_u32)));
    let sources: Vec<_> = (0..500)
        .map(|source| {
            let (gate, served, counter) =
                (f.gate.clone(), Arc::clone(&served), Arc::clone(&counter));
            tokio::spawn(async move {
                let mut rank = Priority::Initial;
                while start.elapsed() < MINUTE * 15 {
                    let mut turn = gate
                        .acquire(&lane("doppler", 1), &ReadRequest::with_priority(rank))
                        .await
                        .unwrap();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let said = {
                        let mut counter = counter.lock().unwrap();
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
                    if matches!(said, RequestOutcome::Answered(_)) {
                        *served.lock().unwrap().entry(source).or_default() += 1;
                        rank = Priority::Poll;
                    }
                    turn.record(said);
                    drop(turn);
                    if rank == Priority::Poll {
                        tokio::time::sleep(MINUTE).await;
                    }
                }
            })
        })
        .collect();
    // Four windows are full, and the fifth has begun.
    tokio::time::sleep(MINUTE * 4 + Duration::from_secs(15)).await;
    assert_eq!(
        served.lock().unwrap().len(),
        500,
        "all have been read as soon as the limit allows"
    );
    tokio::time::sleep(MINUTE * 9).await;
    let served = served.lock().unwrap().clone();
    let (least, most) = (served.values().min(), served.values().max());
    assert!(
        least >= Some(&2) && most <= Some(&4),
        "{least:?} to {most:?}"
    );
    assert_eq!(counter.lock().unwrap().2, 0, "nothing was refused");
    for source in sources {
        source.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_goes_ahead_of_polls_that_wait() {
    let f = fixture(1, None);
    let held = f
        .gate
        .acquire(&lane("d", 1), &ReadRequest::interactive())
        .await
        .unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let wishes: Vec<ReadRequest> = (0..6)
        .map(|_| ReadRequest::with_priority(Priority::Poll))
        .collect();
    let tasks: Vec<_> = wishes
        .iter()
        .enumerate()
        .map(|(index, wish)| {
            let (gate, wish, order) = (f.gate.clone(), wish.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let turn = gate.acquire(&lane("d", 1), &wish).await.unwrap();
                order.lock().unwrap().push(index);
                assert!(
                    !wish.trigger.take_pending(),
                    "what was poked for is answered by this request"
                );
                drop(turn);
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    wishes[4].trigger.notify(Instant::now());
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [4, 0, 1, 2, 3, 5]);
    assert!(wishes[4].trigger.take_notified_at().is_some());
}

#[tokio::test(start_paused = true)]
async fn polls_get_turns_among_urgent_requests() {
    let f = fixture(1, None);
    let held = f
        .gate
        .acquire(&lane("d", 1), &ReadRequest::interactive())
        .await
        .unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let ranks = [Priority::Interactive; 20]
        .into_iter()
        .chain([Priority::Poll, Priority::Background]);
    let tasks: Vec<_> = ranks
        .map(|rank| {
            let (gate, order) = (f.gate.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let turn = gate
                    .acquire(&lane("d", 1), &ReadRequest::with_priority(rank))
                    .await
                    .unwrap();
                order.lock().unwrap().push(rank);
                drop(turn);
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
    let at = |rank| order.lock().unwrap().iter().position(|was| *was == rank);
    assert!(at(Priority::Poll) < Some(4), "{:?}", order.lock().unwrap());
    assert!(
        at(Priority::Background) < Some(16),
        "{:?}",
        order.lock().unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn one_request_at_a_time_tries_a_dead_upstream_and_all_hear_when_it_is_back() {
    let f = fixture(8, None);
    let at = lane("dead", 1);
    for _ in 0..3 {
        ask(
            &f.gate,
            &at,
            &ReadRequest::interactive(),
            RequestOutcome::Failed("down"),
        )
        .await;
    }
    let mut tries = 0;
    let mut shut = 0;
    for _ in 0..120 {
        match f
            .gate
            .acquire(&at, &ReadRequest::with_priority(Priority::Poll))
            .await
        {
            Ok(mut turn) => {
                tries += 1;
                assert_eq!(
                    f.gate
                        .acquire(&at, &ReadRequest::with_priority(Priority::Poll))
                        .await
                        .unwrap_err()
                        .error,
                    "down"
                );
                turn.record(RequestOutcome::Failed("down"));
            }
            Err(error) => {
                shut += 1;
                assert_eq!(error.error, "down");
                assert!(error.retry_after <= MINUTE);
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((6..=8).contains(&tries) && shut > 100, "{tries}, {shut}");
    ask(
        &f.gate,
        &lane("other", 1),
        &ReadRequest::interactive(),
        RequestOutcome::Answered(None),
    )
    .await;
    assert_eq!(f.reopened.load(SeqCst), 0);
    tokio::time::sleep(MINUTE).await;
    ask(
        &f.gate,
        &at,
        &ReadRequest::interactive(),
        RequestOutcome::Answered(None),
    )
    .await;
    assert_eq!(f.reopened.load(SeqCst), 1);
    ask(
        &f.gate,
        &at,
        &ReadRequest::interactive(),
        RequestOutcome::Answered(None),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_when_an_upstream_dies_is_told() {
    let f = fixture(3, None);
    let at = lane("dying", 1);
    ask(
        &f.gate,
        &at,
        &ReadRequest::interactive(),
        RequestOutcome::Answered(None),
    )
    .await;
    let mut turns = Vec::new();
    for _ in 0..3 {
        turns.push(
            f.gate
                .acquire(&at, &ReadRequest::interactive())
                .await
                .unwrap(),
        );
    }
    let (gate, waits) = (f.gate.clone(), at.clone());
    let waiting = tokio::spawn(async move {
        gate.acquire(&waits, &ReadRequest::with_priority(Priority::Poll))
            .await
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    for mut turn in turns {
        turn.record(RequestOutcome::Failed("down"));
    }
    // The first failures gave it a turn, or the last one told it.
    let told = waiting.await.unwrap();
    assert!(told.is_ok() || told.unwrap_err().error == "down");
    assert_eq!(
        f.gate
            .acquire(&at, &ReadRequest::interactive())
            .await
            .unwrap_err()
            .error,
        "down"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_leaves_no_gap() {
    let f = fixture(1, None);
    let held = f
        .gate
        .acquire(&lane("d", 1), &ReadRequest::interactive())
        .await
        .unwrap();
    for _ in 0..3 {
        let (at, wish) = (lane("d", 1), ReadRequest::interactive());
        let given_up = tokio::time::timeout(Duration::from_millis(5), f.gate.acquire(&at, &wish));
        assert!(given_up.await.is_err());
    }
    drop(held);
    ask(
        &f.gate,
        &lane("d", 1),
        &ReadRequest::interactive(),
        RequestOutcome::Answered(None),
    )
    .await;
    assert_eq!(f.gate.queue_depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_budget_holds_for_each_account_apart_and_for_nobody_who_is_not_counted() {
    let f = fixture(8, Some(10));
    let start = Instant::now();
    for _ in 0..10 {
        ask(
            &f.gate,
            &lane("cloud", 1),
            &ReadRequest::interactive(),
            RequestOutcome::Answered(None),
        )
        .await;
        ask(
            &f.gate,
            &lane("cloud", 2),
            &ReadRequest::interactive(),
            RequestOutcome::Answered(None),
        )
        .await;
    }
    let open = LimitKey {
        upstream: "own".into(),
        account: None,
    };
    for _ in 0..50 {
        ask(
            &f.gate,
            &open,
            &ReadRequest::interactive(),
            RequestOutcome::Answered(None),
        )
        .await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    ask(
        &f.gate,
        &lane("cloud", 1),
        &ReadRequest::interactive(),
        RequestOutcome::Answered(None),
    )
    .await;
    assert!(start.elapsed() >= MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_holds_one_account_back_and_no_other() {
    let f = fixture(8, None);
    let start = Instant::now();
    let limited = RequestOutcome::RateLimited(Duration::from_secs(9));
    ask(&f.gate, &lane("d", 1), &ReadRequest::interactive(), limited).await;
    ask(
        &f.gate,
        &lane("d", 2),
        &ReadRequest::interactive(),
        RequestOutcome::Answered(None),
    )
    .await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    ask(
        &f.gate,
        &lane("d", 1),
        &ReadRequest::interactive(),
        RequestOutcome::Answered(None),
    )
    .await;
    assert_eq!(start.elapsed(), Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_used_up_at_the_start_is_met_once() {
    let f = fixture(32, None);
    let start = Instant::now();
    let window = Duration::from_secs(9);
    let asking = (0..100).map(|_| {
        let gate = f.gate.clone();
        tokio::spawn(async move {
            let mut refused = 0;
            loop {
                let mut turn = gate
                    .acquire(&lane("d", 1), &ReadRequest::interactive())
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                if start.elapsed() >= window {
                    turn.record(RequestOutcome::Answered(None));
                    return refused;
                }
                refused += 1;
                turn.record(RequestOutcome::RateLimited(
                    window.saturating_sub(start.elapsed()),
                ));
            }
        })
    });
    let refused: Vec<u32> = futures::future::try_join_all(asking).await.unwrap();
    assert_eq!(refused.iter().sum::<u32>(), 1);
}
