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
use crate::upstream::limiter::Gate;

const TEMPLATE: &str = r#"{"job_configuration": {"namespace": "{{ namespace }}", "job_manifest": {"spec": {"template": {"spec": {"containers": [{"name": "prefect-job", "env": "{{ env }}"}]}}}}}, "variables": {"properties": {"namespace": {"default": "flows"}, "cpu": {"default": 1.50}}}}"#;
const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(100);

type Rewrite = Box<dyn Fn(usize) -> Option<String> + Send>;

/// A pool on a server.
struct Pool {
    template: Mutex<String>,
    /// What somebody else makes of the template after our PATCH of that number.
    rewrite: Mutex<Rewrite>,
    requests: Mutex<Vec<String>>,
    bodies: Mutex<Vec<String>>,
    get_status: AtomicU16,
    patch_status: AtomicU16,
}

impl Pool {
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

    fn has(&self, secret: &str) -> bool {
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
    pool: Arc<Pool>,
    connection: Arc<Connection>,
    wakes: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    server: MockServer,
}

impl Fixture {
    async fn new() -> Self {
        install_crypto_provider();
        let pool = Arc::new(Pool {
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
        let wakes = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&wakes);
        let metrics = Arc::new(Metrics::new());
        let shutdown = CancellationToken::new();
        let pools = Pools::new(
            Arc::new(Clients::new(Duration::from_secs(10), Gate::small())),
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
            wakes,
            metrics,
            shutdown,
            server,
        }
    }

    fn declare(&self, name: &str, claim: Claim) -> Option<Finding> {
        self.pools
            .declare(&who(name), &self.connection, "k8s", claim)
    }

    /// Declares until the finding is as wanted.
    async fn until(&self, claim: &Claim, wanted: impl Fn(&Finding) -> bool) -> Finding {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let finding = self.declare(&claim.secret, claim.clone());
            if let Some(finding) = finding.as_ref().filter(|finding| wanted(finding)) {
                return finding.clone();
            }
            assert!(Instant::now() < deadline, "{finding:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_phase(&self, claim: &Claim, phase: Phase) -> Finding {
        self.until(claim, |finding| finding.phase == phase).await
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

fn who(name: &str) -> Who {
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
        noted: want != Want::Look,
        known: None,
        interval: LONG,
    }
}

fn often(claim: Claim) -> Claim {
    Claim {
        interval: SHORT,
        ..claim
    }
}

#[tokio::test]
async fn a_hundred_claims_cost_one_get_one_patch_and_one_check_and_wake_each_binding_once() {
    let fixture = Fixture::new().await;
    let claims: Vec<_> = (0..100)
        .map(|index| claim(&format!("s{index}"), Want::Present))
        .collect();
    for claim in &claims {
        assert_eq!(fixture.declare(&claim.secret, claim.clone()), None);
    }
    for claim in &claims {
        let finding = fixture.until_phase(claim, Phase::Held).await;
        assert_eq!(finding.state, Some(State::Patched));
        assert_eq!(finding.reason, Reason::Injected);
        assert!(matches!(finding.event, Some((_, Reason::PoolPatched))));
    }
    let requests = fixture.pool.requests.lock().unwrap().clone();
    assert_eq!(requests, ["GET", "PATCH", "GET"]);
    eventually("100 wakes", || fixture.wakes.load(SeqCst) == 100).await;
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
async fn bindings_that_come_back_one_by_one_share_a_patch() {
    let fixture = Fixture::new().await;
    let secrets = ["one", "two", "three"];
    for secret in secrets {
        fixture.declare(secret, claim(secret, Want::Look));
    }
    for secret in secrets {
        let look = claim(secret, Want::Look);
        fixture.until_phase(&look, Phase::Wanted).await;
    }
    for secret in secrets {
        fixture.declare(secret, claim(secret, Want::Present));
        // Longer than claims are gathered if nobody else is expected, as on a busy machine.
        sleep(4 * worker::SETTLE).await;
    }
    for secret in secrets {
        let present = claim(secret, Want::Present);
        fixture.until_phase(&present, Phase::Held).await;
    }
    let requests = fixture.pool.requests.lock().unwrap().clone();
    assert_eq!(requests, ["GET", "GET", "PATCH", "GET"]);
}

#[tokio::test]
async fn a_binding_that_does_not_come_back_holds_up_no_other() {
    let fixture = Fixture::new().await;
    for secret in ["one", "two"] {
        let look = claim(secret, Want::Look);
        fixture.until_phase(&look, Phase::Wanted).await;
    }
    let present = claim("one", Want::Present);
    fixture.until_phase(&present, Phase::Held).await;
    assert!(!fixture.pool.has("two"));
}

#[tokio::test]
async fn a_binding_is_expected_back_for_some_time_and_not_once_it_is() {
    let fixture = Fixture::new().await;
    let key = Key {
        connection: Arc::clone(&fixture.connection),
        pool: "k8s".to_owned(),
    };
    let expected = |time| fixture.pools.0.table().expects_claims(&key, time);
    let look = claim("s", Want::Look);
    fixture.declare("s", look.clone());
    assert!(!expected(LONG), "it knows nothing yet");
    fixture.until_phase(&look, Phase::Wanted).await;
    assert!(expected(LONG));
    assert!(!expected(Duration::ZERO), "that time is over");
    let known = fixture
        .pools
        .0
        .table()
        .record(&who("s"), &key, "s")
        .unwrap()
        .promised;
    // Another look, and other things that it asks, do not start the time anew.
    let noted = Claim {
        noted: true,
        ..look
    };
    fixture.until_phase(&noted, Phase::Wanted).await;
    assert!(known.is_some());
    assert_eq!(
        fixture
            .pools
            .0
            .table()
            .record(&who("s"), &key, "s")
            .unwrap()
            .promised,
        known
    );
    fixture
        .until_phase(&claim("s", Want::Present), Phase::Held)
        .await;
    assert!(!expected(LONG));
}

#[tokio::test]
async fn looks_that_find_all_in_place_write_nothing_and_wake_nobody() {
    let fixture = Fixture::new().await;
    let claim = often(claim("s", Want::Present));
    fixture.until_phase(&claim, Phase::Held).await;
    let woken = || fixture.wakes.load(SeqCst);
    eventually("the first wake", || woken() == 1).await;
    eventually("further looks", || fixture.pool.count("GET") > 8).await;
    assert_eq!(fixture.pool.count("PATCH"), 1);
    assert_eq!(woken(), 1);
}

#[tokio::test]
async fn an_entry_that_goes_in_and_out_leaves_the_template_as_it_was() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.pools.oldest(), Duration::ZERO, "nothing was read");
    fixture
        .until_phase(&claim("s", Want::Look), Phase::Wanted)
        .await;
    assert!(fixture.pools.oldest() > Duration::ZERO);
    assert_eq!(fixture.pool.count("PATCH"), 0);
    fixture
        .until_phase(&claim("s", Want::Present), Phase::Held)
        .await;
    assert!(fixture.pool.has("s"));
    let out = fixture
        .until_phase(&claim("s", Want::Absent), Phase::Out)
        .await;
    assert!(matches!(out.event, Some((_, Reason::PoolReleased))));
    assert_eq!(fixture.pool.text(), TEMPLATE);
}

#[tokio::test]
async fn a_write_of_somebody_else_right_after_ours_is_seen_by_the_check_and_ours_made_again() {
    let fixture = Fixture::new().await;
    *fixture.pool.rewrite.lock().unwrap() =
        Box::new(|patch| (patch == 1).then(|| TEMPLATE.replace("1.50", "2.50")));
    fixture
        .until_phase(&claim("s", Want::Present), Phase::Held)
        .await;
    assert_eq!(fixture.pool.count("PATCH"), 2);
    assert!(fixture.pool.has("s"));
    assert!(
        fixture.pool.text().contains("2.50"),
        "their change stays: {}",
        fixture.pool.text()
    );
}

#[tokio::test]
async fn an_entry_that_never_stays_is_never_said_to_be_in_and_a_look_writes_twice_at_most() {
    let fixture = Fixture::new().await;
    *fixture.pool.rewrite.lock().unwrap() = Box::new(|_| Some(TEMPLATE.to_owned()));
    let claim = claim("s", Want::Present);
    let found = fixture.until(&claim, |_| true).await;
    assert_eq!(found.phase, Phase::Underway);
    assert_eq!(fixture.pool.count("PATCH"), 2);
    fixture.pools.poke(&|_, pool| pool == "k8s");
    let contested = |finding: &Finding| finding.state == Some(State::Contested);
    let found = fixture.until(&claim, contested).await;
    assert_eq!(found.phase, Phase::Underway);
    assert_eq!(fixture.pool.count("PATCH"), 2, "the next write has to wait");
}

#[tokio::test]
async fn an_entry_that_somebody_takes_out_is_put_back_with_growing_waits_and_said_to_be_contested()
{
    let fixture = Fixture::new().await;
    let claim = often(claim("s", Want::Present));
    fixture.until_phase(&claim, Phase::Held).await;
    let start = Instant::now();
    for _ in 1..=3 {
        let before = fixture.declare("s", claim.clone()).unwrap().event;
        fixture.pool.set(TEMPLATE);
        let repaired = |finding: &Finding| finding.phase == Phase::Held && finding.event > before;
        fixture.until(&claim, repaired).await;
    }
    assert!(start.elapsed() >= SHORT * 3, "holds of 1 and 2 intervals");
    let contested = |finding: &Finding| finding.reason == Reason::PoolContested;
    let found = fixture
        .until(&claim, |finding| {
            contested(finding) && finding.phase == Phase::Held
        })
        .await;
    assert_eq!(found.state, Some(State::Contested));
    let quiet = fixture.until(&claim, |finding| !contested(finding)).await;
    assert_eq!(quiet.state, Some(State::Patched));
    assert_eq!(fixture.pool.count("PATCH"), 4);
}

#[tokio::test]
async fn a_release_does_not_wait_for_the_hold_of_a_contested_pool() {
    let fixture = Fixture::new().await;
    let (kept, leaving) = (claim("kept", Want::Present), claim("s", Want::Present));
    fixture.declare("kept", kept.clone());
    fixture.until_phase(&leaving, Phase::Held).await;
    fixture.until_phase(&kept, Phase::Held).await;
    fixture.pool.set(TEMPLATE);
    fixture.pools.poke(&|_, _| true);
    eventually("the repair", || fixture.pool.has("s")).await;
    fixture
        .until_phase(&claim("s", Want::Absent), Phase::Out)
        .await;
    assert!(fixture.pool.has("kept") && !fixture.pool.has("s"));
}

#[tokio::test]
async fn a_missing_pool_is_left_alone_and_counts_as_out_for_who_leaves() {
    let fixture = Fixture::new().await;
    fixture.pool.get_status.store(404, SeqCst);
    fixture.declare("stays", claim("stays", Want::Present));
    let out = fixture
        .until_phase(&claim("leaves", Want::Absent), Phase::Out)
        .await;
    assert_eq!(
        (out.state, out.reason),
        (Some(State::Missing), Reason::PoolMissing)
    );
    let left = fixture
        .until_phase(&claim("stays", Want::Present), Phase::LeftAlone)
        .await;
    assert_eq!(left.state, Some(State::Missing));
    fixture.pool.get_status.store(200, SeqCst);
    fixture.pools.poke(&|_, _| true);
    fixture
        .until_phase(&claim("stays", Want::Present), Phase::Held)
        .await;
}

#[tokio::test]
async fn a_pool_that_may_not_be_edited_is_reported_and_tried_again() {
    let fixture = Fixture::new().await;
    fixture.pool.patch_status.store(403, SeqCst);
    let claim = claim("s", Want::Present);
    let found = fixture.until_phase(&claim, Phase::LeftAlone).await;
    assert_eq!(
        (found.state, found.reason),
        (Some(State::Forbidden), Reason::PoolForbidden)
    );
    fixture.pool.patch_status.store(200, SeqCst);
    fixture.pools.poke(&|_, _| true);
    fixture.until_phase(&claim, Phase::Held).await;
}

#[tokio::test]
async fn a_patch_whose_answer_is_a_fault_counts_as_ours_if_it_landed() {
    let fixture = Fixture::new().await;
    fixture.pool.patch_status.store(500, SeqCst);
    let claim = Claim {
        known: Some(State::AlreadyPresent),
        ..claim("s", Want::Present)
    };
    let failing = |finding: &Finding| finding.failing_since.is_some();
    fixture.until(&claim, failing).await;
    let body = r#""env": "{{ env }}", "envFrom": [{"secretRef": {"name": "s", "optional": true}}]"#;
    fixture
        .pool
        .set(&TEMPLATE.replace(r#""env": "{{ env }}""#, body));
    let found = fixture.until_phase(&claim, Phase::Held).await;
    assert_eq!(found.state, Some(State::Patched));
    assert_eq!(fixture.pool.count("PATCH"), 1);
}

#[tokio::test]
async fn a_failing_server_changes_no_state_and_pokes_do_not_hammer_it() {
    let fixture = Fixture::new().await;
    let claim = claim("s", Want::Present);
    fixture.until_phase(&claim, Phase::Held).await;
    fixture.pool.get_status.store(500, SeqCst);
    let before = fixture.pool.count("GET");
    fixture.pools.poke(&|_, _| true);
    let failing = |finding: &Finding| finding.failing_since.is_some();
    let found = fixture.until(&claim, failing).await;
    assert_eq!(
        (found.phase, found.state),
        (Phase::Held, Some(State::Patched))
    );
    assert_eq!(found.reason, Reason::PrefectUnreachable);
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(600) {
        fixture.pools.poke(&|_, _| true);
        sleep(Duration::from_millis(10)).await;
    }
    let looks = fixture.pool.count("GET") - before;
    assert!(looks <= 2, "{looks} looks for dozens of pokes");
    fixture.pool.get_status.store(200, SeqCst);
    let found = fixture.until(&claim, |finding| !failing(finding)).await;
    assert_eq!(found.reason, Reason::Injected);
}

#[tokio::test]
async fn a_changed_claim_is_not_answered_with_what_was_found_for_the_one_before() {
    let fixture = Fixture::new().await;
    let absent = claim("s", Want::Absent);
    fixture.until_phase(&absent, Phase::Out).await;
    fixture.declare("s", claim("s", Want::Present));
    let answer = fixture.declare("s", absent.clone()).unwrap();
    assert_eq!(answer.phase, Phase::Underway);
    fixture.until_phase(&absent, Phase::Out).await;
    assert!(!fixture.pool.has("s"));
}

#[tokio::test]
async fn a_pool_that_nobody_names_is_forgotten_with_its_credentials() {
    let fixture = Fixture::new().await;
    for name in ["a", "b"] {
        fixture
            .until_phase(&claim(name, Want::Present), Phase::Held)
            .await;
    }
    fixture
        .pools
        .retain(&who("a"), &|_, pool, secret| pool == "k8s" && secret == "a");
    fixture.pools.forget(&who("b"));
    assert_eq!(fixture.pools.len(), 1);
    fixture.pools.forget(&who("a"));
    eventually("the end of the task", || {
        fixture.pools.is_empty() && Arc::strong_count(&fixture.connection) == 1
    })
    .await;
}

#[tokio::test]
async fn a_rotated_credential_takes_the_claim_along() {
    let fixture = Fixture::new().await;
    let claim = claim("s", Want::Present);
    fixture.until_phase(&claim, Phase::Held).await;
    let rotated = connection(&fixture.server, Auth::Bearer("new".into()));
    let known = fixture.pools.declare(&who("s"), &rotated, "k8s", claim);
    assert_eq!(known.unwrap().phase, Phase::Held);
    eventually("the end of the old task", || {
        fixture.pools.len() == 1 && Arc::strong_count(&fixture.connection) == 1
    })
    .await;
    assert_eq!(fixture.pool.count("PATCH"), 1);
}

#[tokio::test]
async fn a_new_owner_is_noticed_at_once() {
    let fixture = Fixture::new().await;
    let claim = claim("s", Want::Look);
    fixture.until_phase(&claim, Phase::Wanted).await;
    fixture.pools.set_managed(vec![ManagedPool {
        namespace: "prefect".to_owned(),
        name: "object".to_owned(),
        pool: "k8s".to_owned(),
        api_url: fixture.connection.api_url.clone(),
    }]);
    let found = fixture.until_phase(&claim, Phase::LeftAlone).await;
    assert_eq!(found.state, Some(State::Managed));
}

#[tokio::test]
async fn shutdown_ends_every_task() {
    let fixture = Fixture::new().await;
    fixture
        .until_phase(&claim("s", Want::Present), Phase::Held)
        .await;
    fixture.shutdown.cancel();
    eventually("the end", || fixture.pools.0.tasks.is_empty()).await;
}
