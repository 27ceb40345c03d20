use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use std::time::Instant;

use tokio::time::sleep;

use super::fixture::{Fixture, SHORT, TEMPLATE, claim, eventually, frequent};
use crate::crd::WorkPoolState as State;
use crate::inject::claim::{Observation, Phase, Want};
use crate::reason::Reason;

#[tokio::test]
async fn skips_a_missing_pool_and_counts_it_as_removed() {
    let fixture = Fixture::new().await;
    fixture.pool.get_status.store(404, SeqCst);
    fixture.declare("stays", claim("stays", Want::Present));
    let out = fixture
        .wait_for_phase(&claim("leaves", Want::Absent), Phase::Removed)
        .await;
    assert_eq!(
        (out.state, out.reason),
        (Some(State::Missing), Reason::PoolMissing)
    );
    let left = fixture
        .wait_for_phase(&claim("stays", Want::Present), Phase::Skipped)
        .await;
    assert_eq!(left.state, Some(State::Missing));
    fixture.pool.get_status.store(200, SeqCst);
    fixture.pools.trigger(&|_, _| true);
    fixture
        .wait_for_phase(&claim("stays", Want::Present), Phase::Injected)
        .await;
}

#[tokio::test]
async fn reports_a_forbidden_pool_and_retries() {
    let fixture = Fixture::new().await;
    fixture.pool.patch_status.store(403, SeqCst);
    let claim = claim("s", Want::Present);
    let found = fixture.wait_for_phase(&claim, Phase::Skipped).await;
    assert_eq!(
        (found.state, found.reason),
        (Some(State::Forbidden), Reason::PoolForbidden)
    );
    fixture.pool.patch_status.store(200, SeqCst);
    fixture.pools.trigger(&|_, _| true);
    fixture.wait_for_phase(&claim, Phase::Injected).await;
}

#[tokio::test]
async fn a_refused_template_is_sent_once_and_quoted() {
    let fixture = Fixture::new().await;
    fixture.pool.patch_status.store(422, SeqCst);
    let claim = frequent(claim("s", Want::Present));
    let found = fixture.wait_for_phase(&claim, Phase::Skipped).await;
    assert_eq!(
        (found.state, found.reason),
        (Some(State::NotEditable), Reason::PoolNotEditable)
    );
    assert!(
        found
            .message
            .contains("refuses every update of the template of work pool k8s (422)")
            && found.message.contains(r#""Work pool "k8s" not found""#),
        "{}",
        found.message
    );
    // Further reads and claims do not send it again.
    let reads = fixture.pool.count("GET");
    fixture
        .wait_for_phase(
            &frequent(super::fixture::claim("t", Want::Present)),
            Phase::Skipped,
        )
        .await;
    eventually("more reads", || fixture.pool.count("GET") > reads + 5).await;
    assert_eq!(fixture.pool.count("PATCH"), 1);
    // Another template is.
    fixture.pool.set(&TEMPLATE.replace("1.50", "2.50"));
    eventually("a PATCH", || fixture.pool.count("PATCH") == 2).await;
    fixture.pool.patch_status.store(200, SeqCst);
    fixture.pool.set(TEMPLATE);
    fixture.wait_for_phase(&claim, Phase::Injected).await;
    assert!(fixture.pool.has_entry("s"));
}

#[tokio::test]
async fn a_patch_that_landed_despite_a_500_counts_as_ours() {
    let fixture = Fixture::new().await;
    fixture.pool.patch_status.store(500, SeqCst);
    let claim = claim("s", Want::Present);
    let failing = |observation: &Observation| observation.failing_since.is_some();
    fixture.wait_until(&claim, failing).await;
    let body = r#""env": "{{ env }}", "envFrom": [{"secretRef": {"name": "s", "optional": true}}]"#;
    fixture
        .pool
        .set(&TEMPLATE.replace(r#""env": "{{ env }}""#, body));
    let found = fixture.wait_for_phase(&claim, Phase::Injected).await;
    assert_eq!(found.state, Some(State::Patched));
    assert_eq!(fixture.pool.count("PATCH"), 1);
}

#[tokio::test]
async fn keeps_state_and_limits_requests_while_the_server_fails() {
    let fixture = Fixture::new().await;
    let claim = claim("s", Want::Present);
    fixture.wait_for_phase(&claim, Phase::Injected).await;
    fixture.pool.get_status.store(500, SeqCst);
    let before = fixture.pool.count("GET");
    fixture.pools.trigger(&|_, _| true);
    let failing = |observation: &Observation| observation.failing_since.is_some();
    let found = fixture.wait_until(&claim, failing).await;
    assert_eq!(
        (found.phase, found.state),
        (Phase::Injected, Some(State::Patched))
    );
    assert_eq!(found.reason, Reason::PrefectUnreachable);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(600) {
        fixture.pools.trigger(&|_, _| true);
        sleep(Duration::from_millis(10)).await;
    }
    let reads = fixture.pool.count("GET") - before;
    assert!(reads <= 2, "{reads} reads for dozens of triggers");
    fixture.pool.get_status.store(200, SeqCst);
    let found = fixture
        .wait_until(&claim, |observation| !failing(observation))
        .await;
    assert_eq!(found.reason, Reason::Injected);
}

#[tokio::test]
async fn a_pool_is_overdue_while_its_server_fails_but_not_if_it_is_missing() {
    let fixture = Fixture::new().await;
    let claim = frequent(claim("s", Want::Observe));
    fixture.wait_for_phase(&claim, Phase::Injectable).await;
    let long = SHORT * 3;
    fixture.pool.get_status.store(500, SeqCst);
    eventually("it is overdue", || fixture.pools.max_overdue() > long).await;
    fixture.pool.get_status.store(404, SeqCst);
    eventually("the server answers", || fixture.pools.max_overdue() < SHORT).await;
    fixture.pool.get_status.store(200, SeqCst);
    fixture.wait_for_phase(&claim, Phase::Injectable).await;
    eventually("it is read", || fixture.pools.max_overdue() < SHORT).await;
}
