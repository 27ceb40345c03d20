use std::time::Duration;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::fixture::{Fixture, SHORT, TEMPLATE, claim, eventually, frequent};
use crate::crd::WorkPoolState as State;
use crate::inject::claim::{Observation, Phase, Want};
use crate::reason::Reason;
use crate::upstream::limiter::{RateLimiter, ReadRequest};

#[tokio::test]
async fn injecting_and_removing_restores_the_template() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.pools.max_age(), Duration::ZERO, "no pool was read");
    fixture
        .wait_for_phase(&claim("s", Want::Observe), Phase::Injectable)
        .await;
    assert!(fixture.pools.max_age() > Duration::ZERO);
    assert_eq!(fixture.pools.max_overdue(), Duration::ZERO);
    assert_eq!(fixture.pool.count("PATCH"), 0);
    fixture
        .wait_for_phase(&claim("s", Want::Present), Phase::Injected)
        .await;
    assert!(fixture.pool.has_entry("s"));
    let out = fixture
        .wait_for_phase(&claim("s", Want::Absent), Phase::Removed)
        .await;
    assert!(matches!(out.event, Some((_, Reason::PoolReleased))));
    assert_eq!(fixture.pool.text(), TEMPLATE);
}

#[tokio::test]
async fn repeats_our_write_after_a_concurrent_write() {
    let fixture = Fixture::new().await;
    *fixture.pool.rewrite.lock() =
        Box::new(|patch| (patch == 1).then(|| TEMPLATE.replace("1.50", "2.50")));
    fixture
        .wait_for_phase(&claim("s", Want::Present), Phase::Injected)
        .await;
    assert_eq!(fixture.pool.count("PATCH"), 2);
    assert!(fixture.pool.has_entry("s"));
    assert!(
        fixture.pool.text().contains("2.50"),
        "the other change stays: {}",
        fixture.pool.text()
    );
}

#[tokio::test]
async fn an_edit_that_arrives_while_our_write_waits_for_its_turn_stays() {
    let limiter: RateLimiter<_> =
        RateLimiter::new(1, None, Box::new(|_| {}), CancellationToken::new());
    let fixture = Fixture::with_limiter(limiter.clone()).await;
    fixture
        .wait_for_phase(&claim("s", Want::Observe), Phase::Injectable)
        .await;
    fixture.pool.listing.notified().await;
    // The list of deployments is the last request before the PATCH. While it holds the only
    // permit, the next one is requested.
    fixture.pool.set_delay(Duration::from_millis(300));
    fixture.declare("s", claim("s", Want::Present));
    fixture.pool.listing.notified().await;
    let limit_key = fixture.connection.limit_key();
    let request = ReadRequest::interactive();
    let other = limiter.acquire(&limit_key, &request).await.unwrap();
    eventually("our PATCH waits", || limiter.queue_depth() == 1).await;
    fixture.pool.set_delay(Duration::ZERO);
    let edited = Instant::now();
    fixture.pool.set(&TEMPLATE.replace("1.50", "2.50"));
    eventually("the template that was read is old", || {
        edited.elapsed() > Duration::from_millis(1100)
    })
    .await;
    drop(other);
    fixture
        .wait_for_phase(&claim("s", Want::Present), Phase::Injected)
        .await;
    assert!(fixture.pool.has_entry("s"));
    let text = fixture.pool.text();
    assert!(text.contains("2.50"), "the other edit stays: {text}");
    assert_eq!(fixture.pool.count("PATCH"), 1);
}

#[tokio::test]
async fn an_entry_that_never_stays_is_never_reported_injected() {
    let fixture = Fixture::new().await;
    *fixture.pool.rewrite.lock() = Box::new(|_| Some(TEMPLATE.to_owned()));
    let claim = claim("s", Want::Present);
    let found = fixture.wait_until(&claim, |_| true).await;
    assert_eq!(found.phase, Phase::InProgress);
    assert_eq!(fixture.pool.count("PATCH"), 2);
    fixture.pools.trigger(&|_, pool| pool == "k8s");
    let contested = |observation: &Observation| observation.state == Some(State::Contested);
    let found = fixture.wait_until(&claim, contested).await;
    assert_eq!(found.phase, Phase::InProgress);
    assert_eq!(fixture.pool.count("PATCH"), 2, "the next write has to wait");
}

#[tokio::test]
async fn repairs_with_backoff_and_reports_contested() {
    let fixture = Fixture::new().await;
    let claim = frequent(claim("s", Want::Present));
    fixture.wait_for_phase(&claim, Phase::Injected).await;
    let start = Instant::now();
    for _ in 1..=3 {
        let before = fixture.declare("s", claim.clone()).unwrap().event;
        fixture.pool.set(TEMPLATE);
        let repaired = |observation: &Observation| {
            observation.phase == Phase::Injected && observation.event > before
        };
        fixture.wait_until(&claim, repaired).await;
    }
    assert!(start.elapsed() >= SHORT * 3, "delays of 1 and 2 intervals");
    let contested = |observation: &Observation| observation.reason == Reason::PoolContested;
    let found = fixture
        .wait_until(&claim, |observation| {
            contested(observation) && observation.phase == Phase::Injected
        })
        .await;
    assert_eq!(found.state, Some(State::Contested));
    let unchanged = fixture
        .wait_until(&claim, |observation| !contested(observation))
        .await;
    assert_eq!(unchanged.state, Some(State::Patched));
    assert_eq!(fixture.pool.count("PATCH"), 4);
}

#[tokio::test]
async fn removal_does_not_wait_for_the_repair_backoff() {
    let fixture = Fixture::new().await;
    let (kept, leaving) = (claim("kept", Want::Present), claim("s", Want::Present));
    fixture.declare("kept", kept.clone());
    fixture.wait_for_phase(&leaving, Phase::Injected).await;
    fixture.wait_for_phase(&kept, Phase::Injected).await;
    fixture.pool.set(TEMPLATE);
    fixture.pools.trigger(&|_, _| true);
    eventually("the repair", || fixture.pool.has_entry("s")).await;
    fixture
        .wait_for_phase(&claim("s", Want::Absent), Phase::Removed)
        .await;
    assert!(fixture.pool.has_entry("kept") && !fixture.pool.has_entry("s"));
}
