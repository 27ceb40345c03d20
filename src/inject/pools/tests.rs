use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{json, value::RawValue};
use tokio::time::sleep;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use super::*;
use crate::crd::{InjectMode, WorkPoolState as State};
use crate::inject::claim::{Phase, Want};
use crate::inject::template::{EntryState, entry_state};
use crate::outbound::install_crypto_provider;
use crate::prefect::connection::Auth;
use crate::reason::Reason;
use crate::upstream::limiter::RateLimiter;

const TEMPLATE: &str = r#"{"job_configuration": {"namespace": "{{ namespace }}", "job_manifest": {"spec": {"template": {"spec": {"containers": [{"name": "prefect-job", "env": "{{ env }}"}]}}}}}, "variables": {"properties": {"namespace": {"default": "flows"}, "cpu": {"default": 1.50}}}}"#;
const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(100);

type Rewrite = Box<dyn Fn(usize) -> Option<String> + Send>;

/// A pool on a server.
struct FakePool {
    template: Mutex<String>,
    /// What somebody else makes of the template after our PATCH of that number.
    rewrite: Mutex<Rewrite>,
    requests: Mutex<Vec<String>>,
    bodies: Mutex<Vec<String>>,
    get_status: AtomicU16,
    patch_status: AtomicU16,
}

impl FakePool {
    fn answer(&self, request: &Request) -> ResponseTemplate {
        let (method, path) = (request.method.as_str(), request.url.path());
        if path.ends_with("/csrf-token") {
            return ResponseTemplate::new(422).set_body_json(json!({"detail": "off"}));
        }
        if path.ends_with("/deployments/filter") {
            return ResponseTemplate::new(200).set_body_json(json!([]));
        }
        self.requests.lock().unwrap().push(method.to_owned());
        let status = match method {
            "PATCH" => self.patch_status.load(SeqCst),
            _ => self.get_status.load(SeqCst),
        };
        if status != 200 {
            let detail = json!({"detail": "Work pool \"k8s\" not found."});
            return ResponseTemplate::new(status).set_body_json(detail);
        }
        let mut template = self.template.lock().unwrap();
        if method == "PATCH" {
            #[derive(serde::Deserialize)]
            struct Edit {
                base_job_template: Box<RawValue>,
            }
            let edit: Edit = serde_json::from_slice(&request.body).unwrap();
            let mut bodies = self.bodies.lock().unwrap();
            bodies.push(edit.base_job_template.get().to_owned());
            let theirs = (self.rewrite.lock().unwrap())(bodies.len());
            *template = theirs.unwrap_or_else(|| edit.base_job_template.get().to_owned());
            return ResponseTemplate::new(204);
        }
        let body = format!(r#"{{"type": "kubernetes", "base_job_template": {template}}}"#);
        ResponseTemplate::new(200).set_body_raw(body, "application/json")
    }

    fn text(&self) -> String {
        self.template.lock().unwrap().clone()
    }

    fn set(&self, text: &str) {
        text.clone_into(&mut self.template.lock().unwrap());
    }

    fn has_entry(&self, secret: &str) -> bool {
        let template = RawValue::from_string(self.text()).unwrap();
        entry_state(&template, secret).unwrap() != EntryState::Absent
    }

    fn count(&self, method: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|seen| *seen == method).count()
    }
}

struct Fixture {
    pools: Pools,
    pool: Arc<FakePool>,
    connection: Arc<Connection>,
    enqueued: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    server: MockServer,
}

impl Fixture {
    async fn new() -> Self {
        install_crypto_provider();
        let pool = Arc::new(FakePool {
            template: Mutex::new(TEMPLATE.to_owned()),
            rewrite: Mutex::new(Box::new(|_| None)),
            requests: Mutex::default(),
            bodies: Mutex::default(),
            get_status: AtomicU16::new(200),
            patch_status: AtomicU16::new(200),
        });
        let server = MockServer::start().await;
        let answering = Arc::clone(&pool);
        Mock::given(any())
            .respond_with(move |request: &Request| answering.answer(request))
            .mount(&server)
            .await;
        let enqueued = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&enqueued);
        let metrics = Arc::new(Metrics::new());
        let shutdown = CancellationToken::new();
        let pools = Pools::new(
            Arc::new(Clients::new(Duration::from_secs(10), RateLimiter::small())),
            None,
            Duration::ZERO,
            Arc::new(move |_| {
                counting.fetch_add(1, SeqCst);
            }),
            Arc::clone(&metrics),
            shutdown.clone(),
        );
        Self {
            connection: connection(&server, Auth::None),
            pools,
            pool,
            enqueued,
            metrics,
            shutdown,
            server,
        }
    }

    fn declare(&self, name: &str, claim: Claim) -> Option<Observation> {
        self.pools
            .declare(&key(name), &self.connection, "k8s", claim)
    }

    /// Declares until the finding is as wanted.
    async fn wait_until(
        &self,
        claim: &Claim,
        wanted: impl Fn(&Observation) -> bool,
    ) -> Observation {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let observation = self.declare(&claim.secret, claim.clone());
            if let Some(observation) = observation
                .as_ref()
                .filter(|observation| wanted(observation))
            {
                return observation.clone();
            }
            assert!(Instant::now() < deadline, "{observation:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn wait_for_phase(&self, claim: &Claim, phase: Phase) -> Observation {
        self.wait_until(claim, |observation| observation.phase == phase)
            .await
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn connection(server: &MockServer, auth: Auth) -> Arc<Connection> {
    Arc::new(Connection {
        api_url: format!("{}/api", server.uri()).parse().unwrap(),
        auth,
        headers: Vec::new(),
        ca: None,
    })
}

fn key(name: &str) -> BindingRef {
    BindingRef::new("flows", name)
}

fn claim(secret: &str, want: Want) -> Claim {
    Claim {
        namespace: "flows".to_owned(),
        secret: secret.to_owned(),
        optional: true,
        mode: InjectMode::Patch,
        keys: Arc::new(BTreeSet::from(["KEY".to_owned()])),
        want,
        recorded: want != Want::Observe,
        reported_state: None,
        interval: LONG,
    }
}

fn frequent(claim: Claim) -> Claim {
    Claim {
        interval: SHORT,
        ..claim
    }
}

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
    let requests = fixture.pool.requests.lock().unwrap().clone();
    assert_eq!(requests, ["GET", "PATCH", "GET"]);
    eventually("100 wakes", || fixture.enqueued.load(SeqCst) == 100).await;
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
        // Longer than claims are gathered if nobody else is expected, as on a busy machine.
        sleep(4 * worker::DEBOUNCE).await;
    }
    for secret in secrets {
        let present = claim(secret, Want::Present);
        fixture.wait_for_phase(&present, Phase::Injected).await;
    }
    let requests = fixture.pool.requests.lock().unwrap().clone();
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
    assert!(!expected(LONG), "it knows nothing yet");
    fixture.wait_for_phase(&observe, Phase::Injectable).await;
    assert!(expected(LONG));
    assert!(!expected(Duration::ZERO), "that time is over");
    let known = fixture
        .pools
        .0
        .registry()
        .record(&key("s"), &pool_key, "s")
        .unwrap()
        .injectable_since;
    // Another look, and other things that it asks, do not start the time anew.
    let noted = Claim {
        recorded: true,
        ..observe
    };
    fixture.wait_for_phase(&noted, Phase::Injectable).await;
    assert!(known.is_some());
    assert_eq!(
        fixture
            .pools
            .0
            .registry()
            .record(&key("s"), &pool_key, "s")
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
    eventually("the first wake", || enqueued_count() == 1).await;
    eventually("further looks", || fixture.pool.count("GET") > 8).await;
    assert_eq!(fixture.pool.count("PATCH"), 1);
    assert_eq!(enqueued_count(), 1);
}

#[tokio::test]
async fn injecting_and_removing_restores_the_template() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.pools.max_age(), Duration::ZERO, "nothing was read");
    fixture
        .wait_for_phase(&claim("s", Want::Observe), Phase::Injectable)
        .await;
    assert!(fixture.pools.max_age() > Duration::ZERO);
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
    *fixture.pool.rewrite.lock().unwrap() =
        Box::new(|patch| (patch == 1).then(|| TEMPLATE.replace("1.50", "2.50")));
    fixture
        .wait_for_phase(&claim("s", Want::Present), Phase::Injected)
        .await;
    assert_eq!(fixture.pool.count("PATCH"), 2);
    assert!(fixture.pool.has_entry("s"));
    assert!(
        fixture.pool.text().contains("2.50"),
        "their change stays: {}",
        fixture.pool.text()
    );
}

#[tokio::test]
async fn an_entry_that_never_stays_is_never_reported_injected() {
    let fixture = Fixture::new().await;
    *fixture.pool.rewrite.lock().unwrap() = Box::new(|_| Some(TEMPLATE.to_owned()));
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
    assert!(start.elapsed() >= SHORT * 3, "holds of 1 and 2 intervals");
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
async fn a_patch_that_landed_despite_a_500_counts_as_ours() {
    let fixture = Fixture::new().await;
    fixture.pool.patch_status.store(500, SeqCst);
    let claim = Claim {
        reported_state: Some(State::AlreadyPresent),
        ..claim("s", Want::Present)
    };
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
    assert!(reads <= 2, "{reads} looks for dozens of pokes");
    fixture.pool.get_status.store(200, SeqCst);
    let found = fixture
        .wait_until(&claim, |observation| !failing(observation))
        .await;
    assert_eq!(found.reason, Reason::Injected);
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
async fn drops_a_pool_and_its_credentials_without_claims() {
    let fixture = Fixture::new().await;
    for name in ["a", "b"] {
        fixture
            .wait_for_phase(&claim(name, Want::Present), Phase::Injected)
            .await;
    }
    fixture
        .pools
        .retain(&key("a"), &|_, pool, secret| pool == "k8s" && secret == "a");
    fixture.pools.remove_binding(&key("b"));
    assert_eq!(fixture.pools.len(), 1);
    fixture.pools.remove_binding(&key("a"));
    eventually("the end of the task", || {
        fixture.pools.is_empty() && Arc::strong_count(&fixture.connection) == 1
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
        fixture.pools.len() == 1 && Arc::strong_count(&fixture.connection) == 1
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
