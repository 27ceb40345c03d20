//! Replicas against an API server with one Lease, which rejects writes without its current version.

use std::sync::Arc;

use super::*;
use axum::{
    Json, Router,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    writes: usize,
    down: bool,
    drops_responses: bool,
}

fn rejected(code: StatusCode) -> Response {
    let status = json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": "", "message": "canary"});
    (code, Json(status)).into_response()
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |method: Method, body: axum::body::Bytes| {
            let server = server.clone();
            async move { server.answer(&method, &body) }
        };
        Client::new(Router::new().fallback(answer), "doppler")
    }

    fn answer(&self, method: &Method, body: &[u8]) -> Response {
        let mut state = self.0.lock();
        if state.down {
            return rejected(StatusCode::SERVICE_UNAVAILABLE);
        }
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        let found = state.lease.clone();
        match (method.as_str(), &found) {
            ("GET", Some(lease)) => return Json(lease).into_response(),
            ("POST", Some(_)) => return rejected(StatusCode::CONFLICT),
            ("GET" | "PUT", None) => return rejected(StatusCode::NOT_FOUND),
            _ => {}
        }
        let mut lease: Value = serde_json::from_slice(body).unwrap();
        if found.is_some_and(|found| version(&found) != version(&lease)) {
            return rejected(StatusCode::CONFLICT);
        }
        state.version += 1;
        state.writes += 1;
        lease["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.lease = Some(lease.clone());
        if state.drops_responses {
            return rejected(StatusCode::GATEWAY_TIMEOUT);
        }
        Json(lease).into_response()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock());
    }

    fn lease(&self) -> Value {
        self.0.lock().lease.clone().unwrap_or_default()
    }

    /// The name of the replica that holds the lease.
    fn holder(&self) -> Option<String> {
        let holder = self.lease()["spec"]["holderIdentity"].clone();
        Some(holder.as_str()?.split_once('_')?.0.to_owned())
    }

    fn writes(&self) -> usize {
        self.0.lock().writes
    }

    fn elector(&self, name: &str) -> LeaderElector {
        let address = Some("10.0.0.7:8082".parse().unwrap());
        LeaderElector::new(
            LeaseClient::new(self.client(), "doppler", "op"),
            name,
            address,
        )
    }
}

/// The time that passes while `future` runs; the clock is the test's.
async fn timed<T>(future: impl Future<Output = T>) -> (Duration, T) {
    let start = Instant::now();
    let done = future.await;
    (start.elapsed(), done)
}

#[tokio::test(start_paused = true)]
async fn first_replica_leads_renews_and_releases() {
    let server = Server::default();
    let mut held = server.elector("a").acquire(|| {}).await;
    assert_eq!(server.holder().as_deref(), Some("a"));
    let lease = server.lease();
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
    assert_eq!(
        lease["metadata"]["annotations"][WEBHOOK_ADDRESS],
        "10.0.0.7:8082"
    );
    let leases = LeaseClient::new(server.client(), "doppler", "op");
    assert_eq!(leases.leader_address(), None, "the lease was not read yet");
    assert_eq!(leases.fetch_leader_address().await.unwrap().port(), 8082);

    assert_eq!(
        held.run_while_held(sleep(Duration::from_mins(1))).await,
        Ok(())
    );
    held.release().await;
    assert_eq!(server.holder(), None);
    assert_eq!(leases.fetch_leader_address().await, None);
    // One acquires it, one renews it each five seconds, one releases it.
    assert!((12..=14).contains(&server.writes()), "{}", server.writes());
}

#[tokio::test(start_paused = true)]
async fn standby_acquires_a_released_lease_at_once() {
    let server = Server::default();
    let mut first = server.elector("a").acquire(|| {}).await;
    let standby_reads = Arc::new(Mutex::new(0));
    let second = tokio::spawn({
        let (elector, standby_reads) = (server.elector("b"), Arc::clone(&standby_reads));
        async move { elector.acquire(|| *standby_reads.lock() += 1).await }
    });
    let work = sleep(Duration::from_mins(2));
    assert_eq!(first.run_while_held(work).await, Ok(()));
    first.release().await;
    assert!(*standby_reads.lock() > 50);
    let (waited, second) = timed(second).await;
    assert!(waited <= RETRY_PERIOD, "{waited:?}");
    assert_eq!(server.holder().as_deref(), Some("b"));
    assert_eq!(server.lease()["spec"]["leaseTransitions"], 1);
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn standby_acquires_an_expired_lease_and_no_earlier() {
    let server = Server::default();
    // It never renews, as if the process were killed. Its renewal time is far in the future.
    drop(server.elector("a").acquire(|| {}).await);
    server.set(|state| {
        state.lease.as_mut().unwrap()["spec"]["renewTime"] = json!("2999-01-01T00:00:00.000000Z");
    });
    let (waited, held) = timed(server.elector("b").acquire(|| {})).await;
    assert!(
        (LEASE_DURATION..LEASE_DURATION + RETRY_PERIOD).contains(&waited),
        "{waited:?}"
    );
    assert_eq!(server.holder().as_deref(), Some("b"));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn only_one_of_many_replicas_leads() {
    let server = Server::default();
    drop(server.elector("dead").acquire(|| {}).await);
    let racers: Vec<_> = (0..8)
        .map(|number| tokio::spawn(server.elector(&number.to_string()).acquire(|| {})))
        .collect();
    sleep(LEASE_DURATION * 2).await;
    let finished = racers.iter().filter(|racer| racer.is_finished()).count();
    // The leader does not renew in this test, so the next one may follow when the lease expires.
    assert_eq!(finished, 1);
    for racer in racers {
        racer.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn drops_the_work_when_no_renewal_succeeds_in_time() {
    let server = Server::default();
    let mut held = server.elector("a").acquire(|| {}).await;
    server.set(|state| state.down = true);
    let (lasted, ended) = timed(held.run_while_held(std::future::pending::<()>())).await;
    assert_eq!(ended, Err(LeaseLost));
    assert!(
        (RENEW_DEADLINE..LEASE_DURATION).contains(&lasted),
        "{lasted:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn keeps_leading_through_a_short_api_server_failure() {
    let server = Server::default();
    let mut held = server.elector("a").acquire(|| {}).await;
    let work = async {
        for _ in 0..5 {
            sleep(Duration::from_secs(7)).await;
            server.set(|state| state.down = true);
            sleep(Duration::from_secs(4)).await;
            server.set(|state| state.down = false);
        }
    };
    assert_eq!(held.run_while_held(work).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn drops_the_work_when_another_replica_holds_the_lease() {
    let server = Server::default();
    let mut held = server.elector("a").acquire(|| {}).await;
    server.set(|state| {
        let lease = state.lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("b_1");
        lease["metadata"]["resourceVersion"] = json!("999");
    });
    let (lasted, ended) = timed(held.run_while_held(std::future::pending::<()>())).await;
    assert_eq!(ended, Err(LeaseLost));
    assert!(lasted <= Duration::from_secs(6), "{lasted:?}");
    assert_eq!(
        server.holder().as_deref(),
        Some("b"),
        "it is not overwritten"
    );
}

#[tokio::test(start_paused = true)]
async fn keeps_annotations_of_other_clients() {
    let server = Server::default();
    let mut held = server.elector("a").acquire(|| {}).await;
    server.set(|state| {
        let lease = state.lease.as_mut().unwrap();
        lease["metadata"]["annotations"]["note"] = json!("mine");
        lease["metadata"]["resourceVersion"] = json!("999");
    });
    assert_eq!(
        held.run_while_held(sleep(Duration::from_secs(40))).await,
        Ok(())
    );
    assert_eq!(server.lease()["metadata"]["annotations"]["note"], "mine");
}

#[tokio::test(start_paused = true)]
async fn creates_a_deleted_lease_again() {
    let server = Server::default();
    let mut held = server.elector("a").acquire(|| {}).await;
    server.set(|state| state.lease = None);
    let work = async {
        sleep(Duration::from_secs(20)).await;
        server.holder()
    };
    assert_eq!(held.run_while_held(work).await, Ok(Some("a".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn recovers_from_a_lost_response_to_a_renewal() {
    let server = Server::default();
    let mut held = server.elector("a").acquire(|| {}).await;
    let work = async {
        sleep(Duration::from_secs(4)).await;
        server.set(|state| state.drops_responses = true);
        sleep(Duration::from_secs(3)).await;
        server.set(|state| state.drops_responses = false);
        sleep(Duration::from_secs(30)).await;
    };
    assert_eq!(held.run_while_held(work).await, Ok(()));
    held.release().await;
    assert_eq!(server.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn releases_although_a_renewal_was_in_flight() {
    let server = Server::default();
    let held = server.elector("a").acquire(|| {}).await;
    server.set(|state| {
        state.lease.as_mut().unwrap()["metadata"]["resourceVersion"] = json!("999");
    });
    held.release().await;
    assert_eq!(server.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn does_not_release_the_lease_of_another_replica() {
    let server = Server::default();
    let held = server.elector("a").acquire(|| {}).await;
    server.set(|state| {
        let lease = state.lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("b_1");
        lease["metadata"]["resourceVersion"] = json!("999");
    });
    held.release().await;
    assert_eq!(server.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn recovers_from_a_lost_response_to_the_first_write() {
    let server = Server::default();
    server.set(|state| state.drops_responses = true);
    let elector = tokio::spawn(server.elector("a").acquire(|| {}));
    sleep(Duration::from_millis(500)).await;
    server.set(|state| state.drops_responses = false);
    let (waited, held) = timed(elector).await;
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    drop(held);
}

#[tokio::test]
async fn errors_do_not_repeat_the_server_message() {
    let server = Server::default();
    server.set(|state| state.down = true);
    let leases = LeaseClient::new(server.client(), "doppler", "op");
    let error = leases.get().await.unwrap_err();
    assert_eq!(error.to_string(), "status 503");
}
