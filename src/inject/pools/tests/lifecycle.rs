use super::fixture::{Fixture, claim, connection, eventually, key};
use crate::crd::WorkPoolState as State;
use crate::inject::claim::{Phase, Want};
use crate::inject::pool_owner::ManagedPool;
use crate::prefect::connection::Auth;

#[tokio::test]
async fn drops_a_pool_and_its_credentials_without_claims() {
    let fixture = Fixture::new().await;
    for name in ["a", "b"] {
        fixture
            .wait_for_phase(&claim(name, Want::Present), Phase::Injected)
            .await;
    }
    fixture.pools.retain(&key("a"), &|_, pool, entry| {
        pool == "k8s" && entry.secret == "a"
    });
    fixture.pools.remove_binding(&key("b"));
    assert_eq!(fixture.pools.len(), 1);
    fixture.pools.remove_binding(&key("a"));
    eventually("the end of the task", || {
        fixture.pools.is_empty() && fixture.connection_is_unused()
    })
    .await;
}

#[tokio::test]
async fn a_rotated_credential_keeps_the_claim() {
    let fixture = Fixture::new().await;
    let claim = claim("s", Want::Present);
    fixture.wait_for_phase(&claim, Phase::Injected).await;
    let rotated = connection(&fixture.server, Auth::Bearer("new".into()));
    let known = fixture.pools.declare(&key("s"), &rotated, "k8s", claim);
    assert_eq!(known.unwrap().phase, Phase::Injected);
    eventually("the end of the old task", || {
        fixture.pools.len() == 1 && fixture.connection_is_unused()
    })
    .await;
    assert_eq!(fixture.pool.count("PATCH"), 1);
}

#[tokio::test]
async fn observes_a_new_owner_at_once() {
    let fixture = Fixture::new().await;
    let claim = claim("s", Want::Observe);
    fixture.wait_for_phase(&claim, Phase::Injectable).await;
    fixture.pools.set_managed(vec![ManagedPool {
        namespace: "prefect".to_owned(),
        name: "object".to_owned(),
        pool: "k8s".to_owned(),
        api_url: fixture.connection.api_url.clone(),
    }]);
    let found = fixture.wait_for_phase(&claim, Phase::Skipped).await;
    assert_eq!(found.state, Some(State::Managed));
}

#[tokio::test]
async fn shutdown_ends_every_task() {
    let fixture = Fixture::new().await;
    fixture
        .wait_for_phase(&claim("s", Want::Present), Phase::Injected)
        .await;
    fixture.shutdown.cancel();
    eventually("the end", || fixture.pools.0.tasks.is_empty()).await;
}
