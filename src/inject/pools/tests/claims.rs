use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::sleep;

use super::fixture::{Fixture, LONG, claim, connection, eventually, frequent, key};
use crate::crd::WorkPoolState as State;
use crate::inject::claim::{Claim, Phase, Want};
use crate::inject::pools::registry::PoolKey;
use crate::inject::pools::worker;
use crate::prefect::connection::Auth;
use crate::reason::Reason;

#[tokio::test]
async fn a_hundred_claims_share_one_patch_and_enqueue_once_each() {
    let fixture = Fixture::new().await;
    let claims: Vec<_> = (0..100)
        .map(|index| claim(&format!("s{index}"), Want::Present))
        .collect();
    for claim in &claims {
        assert_eq!(fixture.declare(&claim.secret, claim.clone()), None);
    }
    for claim in &claims {
        let observation = fixture.wait_for_phase(claim, Phase::Injected).await;
        assert_eq!(observation.state, Some(State::Patched));
        assert_eq!(observation.reason, Reason::Injected);
        assert!(matches!(observation.event, Some((_, Reason::PoolPatched))));
    }
    let requests = fixture.pool.requests.lock().clone();
    assert_eq!(requests, ["GET", "PATCH", "GET"]);
    eventually("100 enqueued bindings", || {
        fixture.enqueued.load(SeqCst) == 100
    })
    .await;
    let page = fixture.metrics.text();
    assert!(
        page.contains(r#"upstream="prefect",outcome="pool-read"} 2"#),
        "{page}"
    );
    assert!(
        page.contains(r#"upstream="prefect",outcome="pool-write"} 1"#),
        "{page}"
    );
}

#[tokio::test]
async fn bindings_that_claim_one_by_one_share_a_patch() {
    let fixture = Fixture::new().await;
    let secrets = ["one", "two", "three"];
    for secret in secrets {
        fixture.declare(secret, claim(secret, Want::Observe));
    }
    for secret in secrets {
        let observe = claim(secret, Want::Observe);
        fixture.wait_for_phase(&observe, Phase::Injectable).await;
    }
    for secret in secrets {
        fixture.declare(secret, claim(secret, Want::Present));
        // Longer than the debounce without expected claims, as on a busy machine.
        sleep(4 * worker::DEBOUNCE).await;
    }
    for secret in secrets {
        let present = claim(secret, Want::Present);
        fixture.wait_for_phase(&present, Phase::Injected).await;
    }
    let requests = fixture.pool.requests.lock().clone();
    assert_eq!(requests, ["GET", "GET", "PATCH", "GET"]);
}

#[tokio::test]
async fn a_missing_claim_delays_no_other_binding() {
    let fixture = Fixture::new().await;
    for secret in ["one", "two"] {
        let observe = claim(secret, Want::Observe);
        fixture.wait_for_phase(&observe, Phase::Injectable).await;
    }
    let present = claim("one", Want::Present);
    fixture.wait_for_phase(&present, Phase::Injected).await;
    assert!(!fixture.pool.has_entry("two"));
}

#[tokio::test]
async fn expects_the_claim_of_an_injectable_binding_for_a_while() {
    let fixture = Fixture::new().await;
    let pool_key = PoolKey {
        connection: Arc::clone(&fixture.connection),
        pool: "k8s".to_owned(),
    };
    let expected = |time| fixture.pools.0.registry().expects_claims(&pool_key, time);
    let observe = claim("s", Want::Observe);
    fixture.declare("s", observe.clone());
    assert!(!expected(LONG), "the binding knows nothing yet");
    fixture.wait_for_phase(&observe, Phase::Injectable).await;
    assert!(expected(LONG));
    assert!(!expected(Duration::ZERO), "the time is over");
    let known = fixture
        .pools
        .0
        .registry()
        .record(&key("s"), &pool_key, &"s".into())
        .unwrap()
        .injectable_since;
    // Another reconcile, and a changed claim, do not restart the time.
    let recorded = Claim {
        recorded: true,
        ..observe
    };
    fixture.wait_for_phase(&recorded, Phase::Injectable).await;
    assert!(known.is_some());
    assert_eq!(
        fixture
            .pools
            .0
            .registry()
            .record(&key("s"), &pool_key, &"s".into())
            .unwrap()
            .injectable_since,
        known
    );
    fixture
        .wait_for_phase(&claim("s", Want::Present), Phase::Injected)
        .await;
    assert!(!expected(LONG));
}

#[tokio::test]
async fn unchanged_reads_write_nothing_and_enqueue_nothing() {
    let fixture = Fixture::new().await;
    let claim = frequent(claim("s", Want::Present));
    fixture.wait_for_phase(&claim, Phase::Injected).await;
    let enqueued_count = || fixture.enqueued.load(SeqCst);
    eventually("the first enqueue", || enqueued_count() == 1).await;
    eventually("further reads", || fixture.pool.count("GET") > 8).await;
    assert_eq!(fixture.pool.count("PATCH"), 1);
    assert_eq!(enqueued_count(), 1);
}

#[tokio::test]
async fn a_changed_claim_gets_no_stale_observation() {
    let fixture = Fixture::new().await;
    let absent = claim("s", Want::Absent);
    fixture.wait_for_phase(&absent, Phase::Removed).await;
    fixture.declare("s", claim("s", Want::Present));
    let answer = fixture.declare("s", absent.clone()).unwrap();
    assert_eq!(answer.phase, Phase::InProgress);
    fixture.wait_for_phase(&absent, Phase::Removed).await;
    assert!(!fixture.pool.has_entry("s"));
}

#[tokio::test]
async fn workers_with_different_credentials_lose_no_entry() {
    let fixture = Fixture::new().await;
    fixture.pool.set_delay(Duration::from_millis(50));
    let connections: Vec<_> = (0..4)
        .map(|n| connection(&fixture.server, Auth::Bearer(format!("key-{n}").into())))
        .collect();
    let declare = |n: usize| {
        let secret = format!("s{n}");
        let claim = claim(&secret, Want::Present);
        let connection = &connections[n % connections.len()];
        fixture
            .pools
            .declare(&key(&secret), connection, "k8s", claim)
    };
    eventually("all entries", || {
        (0..32)
            .filter(|n| declare(*n).is_some_and(|found| found.phase == Phase::Injected))
            .count()
            == 32
    })
    .await;
    for n in 0..32 {
        assert!(fixture.pool.has_entry(&format!("s{n}")), "s{n}");
    }
    assert_eq!(fixture.pool.count("PATCH"), 4, "no entry was repaired");
}

#[tokio::test]
async fn an_entry_stays_for_a_binding_with_other_credentials() {
    let fixture = Fixture::new().await;
    let other = connection(&fixture.server, Auth::Bearer("other".into()));
    let declare = |want| {
        let claim = claim("s", want);
        fixture.pools.declare(&key("other"), &other, "k8s", claim)
    };
    let reaches = |want, phase| declare(want).is_some_and(|found| found.phase == phase);
    let present = claim("s", Want::Present);
    fixture.wait_for_phase(&present, Phase::Injected).await;
    // The entry is the operator's, so that the other binding may record it, too.
    eventually("an entry to record", || {
        reaches(Want::Observe, Phase::Injectable)
    })
    .await;
    eventually("the other claim", || {
        reaches(Want::Present, Phase::Injected)
    })
    .await;

    let absent = claim("s", Want::Absent);
    fixture.wait_for_phase(&absent, Phase::Removed).await;
    assert!(
        fixture.pool.has_entry("s"),
        "the other binding relies on it"
    );
    fixture.pools.remove_binding(&key("s"));
    eventually("the removal", || reaches(Want::Absent, Phase::Removed)).await;
    assert!(!fixture.pool.has_entry("s"));
}
