//! Replicas against an API server with one lease, which takes only writes that name its version.

use super::*;
use axum::{
    Json, Router,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    writes: usize,
    down: bool,
    loses_answers: bool,
}

fn refused(code: StatusCode) -> Response {
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
        let mut state = self.0.lock().unwrap();
        if state.down {
            return refused(StatusCode::SERVICE_UNAVAILABLE);
        }
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        let found = state.lease.clone();
        match (method.as_str(), &found) {
            ("GET", Some(lease)) => return Json(lease).into_response(),
            ("POST", Some(_)) => return refused(StatusCode::CONFLICT),
            ("GET" | "PUT", None) => return refused(StatusCode::NOT_FOUND),
            _ => {}
        }
        let mut lease: Value = serde_json::from_slice(body).unwrap();
        if found.is_some_and(|found| version(&found) != version(&lease)) {
            return refused(StatusCode::CONFLICT);
        }
        state.version += 1;
        state.writes += 1;
        lease["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.lease = Some(lease.clone());
        if state.loses_answers {
            return refused(StatusCode::GATEWAY_TIMEOUT);
        }
        Json(lease).into_response()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn lease(&self) -> Value {
        self.0.lock().unwrap().lease.clone().unwrap_or_default()
    }

    /// The name of the replica that holds the lease.
    fn holder(&self) -> Option<String> {
        let holder = self.lease()["spec"]["holderIdentity"].clone();
        Some(holder.as_str()?.split_once('_')?.0.to_owned())
    }

    fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    fn candidate(&self, name: &str) -> LeaderElector {
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
async fn the_first_leads_renews_and_gives_the_lease_back() {
    let server = Server::default();
    let mut held = server.candidate("a").acquire(|| {}).await;
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
    // One to take it, one each five seconds, one to give it back.
    assert!((12..=14).contains(&server.writes()), "{}", server.writes());
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_at_once_when_the_lease_is_released() {
    let server = Server::default();
    let mut first = server.candidate("a").acquire(|| {}).await;
    let stands_by = Arc::new(Mutex::new(0));
    let second = tokio::spawn({
        let (candidate, stands_by) = (server.candidate("b"), Arc::clone(&stands_by));
        async move { candidate.acquire(|| *stands_by.lock().unwrap() += 1).await }
    });
    let work = sleep(Duration::from_mins(2));
    assert_eq!(first.run_while_held(work).await, Ok(()));
    first.release().await;
    assert!(*stands_by.lock().unwrap() > 50);
    let (waited, second) = timed(second).await;
    assert!(waited <= LOOK_EVERY, "{waited:?}");
    assert_eq!(server.holder().as_deref(), Some("b"));
    assert_eq!(server.lease()["spec"]["leaseTransitions"], 1);
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn an_unrenewed_lease_is_taken_when_it_expires() {
    let server = Server::default();
    // It never renews, as if it had been killed. What it wrote says that it was renewed far in the future.
    drop(server.candidate("a").acquire(|| {}).await);
    server.set(|state| {
        state.lease.as_mut().unwrap()["spec"]["renewTime"] = json!("2999-01-01T00:00:00.000000Z");
    });
    let (waited, held) = timed(server.candidate("b").acquire(|| {})).await;
    assert!((LASTS..LASTS + LOOK_EVERY).contains(&waited), "{waited:?}");
    assert_eq!(server.holder().as_deref(), Some("b"));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn of_many_only_one_leads() {
    let server = Server::default();
    drop(server.candidate("dead").acquire(|| {}).await);
    let racers: Vec<_> = (0..8)
        .map(|number| tokio::spawn(server.candidate(&number.to_string()).acquire(|| {})))
        .collect();
    sleep(LASTS * 2).await;
    let finished = racers.iter().filter(|racer| racer.is_finished()).count();
    // The winner does not renew in this test, so the next may follow when its lease is over.
    assert_eq!(finished, 1);
    for racer in racers {
        racer.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn work_is_dropped_when_the_lease_cannot_be_renewed_in_time() {
    let server = Server::default();
    let mut held = server.candidate("a").acquire(|| {}).await;
    server.set(|state| state.down = true);
    let (lasted, ended) = timed(held.run_while_held(std::future::pending::<()>())).await;
    assert_eq!(ended, Err(LeaseLost));
    assert!((GIVE_UP..LASTS).contains(&lasted), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_failure_of_the_api_server_changes_nothing() {
    let server = Server::default();
    let mut held = server.candidate("a").acquire(|| {}).await;
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
async fn work_is_dropped_when_another_has_taken_the_lease() {
    let server = Server::default();
    let mut held = server.candidate("a").acquire(|| {}).await;
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
async fn edits_of_other_clients_stay_in_the_lease() {
    let server = Server::default();
    let mut held = server.candidate("a").acquire(|| {}).await;
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
async fn a_lease_that_was_deleted_is_made_again() {
    let server = Server::default();
    let mut held = server.candidate("a").acquire(|| {}).await;
    server.set(|state| state.lease = None);
    let work = async {
        sleep(Duration::from_secs(20)).await;
        server.holder()
    };
    assert_eq!(held.run_while_held(work).await, Ok(Some("a".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_is_ones_own() {
    let server = Server::default();
    let mut held = server.candidate("a").acquire(|| {}).await;
    let work = async {
        sleep(Duration::from_secs(4)).await;
        server.set(|state| state.loses_answers = true);
        sleep(Duration::from_secs(3)).await;
        server.set(|state| state.loses_answers = false);
        sleep(Duration::from_secs(30)).await;
    };
    assert_eq!(held.run_while_held(work).await, Ok(()));
    held.release().await;
    assert_eq!(server.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn a_pending_renewal_does_not_prevent_the_release() {
    let server = Server::default();
    let held = server.candidate("a").acquire(|| {}).await;
    server.set(|state| {
        state.lease.as_mut().unwrap()["metadata"]["resourceVersion"] = json!("999");
    });
    held.release().await;
    assert_eq!(server.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn what_another_holds_is_not_given_back() {
    let server = Server::default();
    let held = server.candidate("a").acquire(|| {}).await;
    server.set(|state| {
        let lease = state.lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("b_1");
        lease["metadata"]["resourceVersion"] = json!("999");
    });
    held.release().await;
    assert_eq!(server.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_first_write_whose_answer_was_lost_is_ones_own() {
    let server = Server::default();
    server.set(|state| state.loses_answers = true);
    let candidate = tokio::spawn(server.candidate("a").acquire(|| {}));
    sleep(Duration::from_millis(500)).await;
    server.set(|state| state.loses_answers = false);
    let (waited, held) = timed(candidate).await;
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    drop(held);
}

#[tokio::test]
async fn errors_do_not_repeat_what_the_server_said() {
    let server = Server::default();
    server.set(|state| state.down = true);
    let leases = LeaseClient::new(server.client(), "doppler", "op");
    let error = leases.look().await.unwrap_err();
    assert_eq!(error.to_string(), "status 503");
}
