use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{json, value::RawValue};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::crd::{BindingRef, InjectMode};
use crate::inject::Pools;
use crate::inject::claim::{Adoption, Claim, Observation, Phase, UsedName, Want};
use crate::inject::template::{EntryState, entry_state};
use crate::metrics::Metrics;
use crate::outbound::install_crypto_provider;
use crate::prefect::connection::Auth;
use crate::prefect::{Connection, ConnectionInterner, PrefectError};
use crate::upstream::limiter::RateLimiter;

pub(super) const TEMPLATE: &str = r#"{"job_configuration": {"namespace": "{{ namespace }}", "job_manifest": {"spec": {"template": {"spec": {"containers": [{"name": "prefect-job", "env": "{{ env }}"}]}}}}}, "variables": {"properties": {"namespace": {"default": "flows"}, "cpu": {"default": 1.50}}}}"#;
pub(super) const LONG: Duration = Duration::from_hours(1);
pub(super) const SHORT: Duration = Duration::from_millis(100);

pub(super) type Rewrite = Box<dyn Fn(usize) -> Option<String> + Send>;

/// A pool on a fake server.
pub(super) struct FakePool {
    pub(super) template: Mutex<String>,
    /// The template that another writer writes after our PATCH of that number.
    pub(super) rewrite: Mutex<Rewrite>,
    pub(super) requests: Mutex<Vec<String>>,
    pub(super) bodies: Mutex<Vec<String>>,
    pub(super) get_status: AtomicU16,
    pub(super) patch_status: AtomicU16,
    pub(super) delay: Mutex<Duration>,
    /// The deployments.
    pub(super) deployments: Mutex<serde_json::Value>,
    /// Notified by each request for the deployments, before it is answered.
    pub(super) listing: Notify,
}

impl FakePool {
    pub(super) fn answer(&self, request: &Request) -> ResponseTemplate {
        self.answer_at_once(request).set_delay(*self.delay.lock())
    }

    fn answer_at_once(&self, request: &Request) -> ResponseTemplate {
        let (method, path) = (request.method.as_str(), request.url.path());
        if path.ends_with("/csrf-token") {
            return ResponseTemplate::new(422).set_body_json(json!({"detail": "off"}));
        }
        if path.ends_with("/deployments/filter") {
            self.listing.notify_one();
            return ResponseTemplate::new(200).set_body_json(&*self.deployments.lock());
        }
        self.requests.lock().push(method.to_owned());
        let status = match method {
            "PATCH" => self.patch_status.load(SeqCst),
            _ => self.get_status.load(SeqCst),
        };
        if status != 200 {
            let detail = json!({"detail": "Work pool \"k8s\" not found."});
            return ResponseTemplate::new(status).set_body_json(detail);
        }
        let mut template = self.template.lock();
        if method == "PATCH" {
            #[derive(serde::Deserialize)]
            struct Edit {
                base_job_template: Box<RawValue>,
            }
            let edit: Edit = serde_json::from_slice(&request.body).unwrap();
            let mut bodies = self.bodies.lock();
            bodies.push(edit.base_job_template.get().to_owned());
            let theirs = (self.rewrite.lock())(bodies.len());
            *template = theirs.unwrap_or_else(|| edit.base_job_template.get().to_owned());
            return ResponseTemplate::new(204);
        }
        let body = format!(r#"{{"type": "kubernetes", "base_job_template": {template}}}"#);
        ResponseTemplate::new(200).set_body_raw(body, "application/json")
    }

    /// Delays each response. The request takes effect at once.
    pub(super) fn set_delay(&self, delay: Duration) {
        *self.delay.lock() = delay;
    }

    pub(super) fn text(&self) -> String {
        self.template.lock().clone()
    }

    pub(super) fn set(&self, text: &str) {
        text.clone_into(&mut self.template.lock());
    }

    pub(super) fn has_entry(&self, secret: &str) -> bool {
        let template = RawValue::from_string(self.text()).unwrap();
        entry_state(&template, secret).unwrap() != EntryState::Absent
    }

    pub(super) fn count(&self, method: &str) -> usize {
        let requests = self.requests.lock();
        requests.iter().filter(|seen| *seen == method).count()
    }
}

pub(super) struct Fixture {
    pub(super) pools: Pools,
    pub(super) pool: Arc<FakePool>,
    pub(super) connection: Arc<Connection>,
    pub(super) enqueued: Arc<AtomicUsize>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) shutdown: CancellationToken,
    pub(super) server: MockServer,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        Self::with_limiter(RateLimiter::small()).await
    }

    pub(super) async fn with_limiter(limiter: RateLimiter<PrefectError>) -> Self {
        install_crypto_provider();
        let pool = Arc::new(FakePool {
            template: Mutex::new(TEMPLATE.to_owned()),
            rewrite: Mutex::new(Box::new(|_| None)),
            requests: Mutex::default(),
            bodies: Mutex::default(),
            get_status: AtomicU16::new(200),
            patch_status: AtomicU16::new(200),
            delay: Mutex::default(),
            deployments: Mutex::new(json!([])),
            listing: Notify::new(),
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
            Arc::new(ConnectionInterner::new(Duration::from_secs(10), limiter)),
            None,
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

    /// Whether only the fixture and the interner hold the connection.
    pub(super) fn connection_is_unused(&self) -> bool {
        Arc::strong_count(&self.connection) == 2
    }

    pub(super) fn declare(&self, name: &str, claim: Claim) -> Option<Observation> {
        self.pools
            .declare(&key(name), &self.connection, "k8s", claim)
    }

    /// Declares the claim until the observation is as wanted.
    pub(super) async fn wait_until(
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

    pub(super) async fn wait_for_phase(&self, claim: &Claim, phase: Phase) -> Observation {
        self.wait_until(claim, |observation| observation.phase == phase)
            .await
    }
}

pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn connection(server: &MockServer, auth: Auth) -> Arc<Connection> {
    Arc::new(Connection {
        api_url: format!("{}/api", server.uri()).parse().unwrap(),
        auth,
        headers: Vec::new(),
        ca: None,
        shared: None,
    })
}

pub(super) fn key(name: &str) -> BindingRef {
    BindingRef::new("flows", name)
}

pub(super) fn claim(secret: &str, want: Want) -> Claim {
    Claim {
        namespace: "flows".to_owned(),
        binding: secret.to_owned(),
        secret: secret.to_owned(),
        variable: None,
        mount: None,
        optional: true,
        same_cluster: false,
        mode: InjectMode::Patch,
        keys: Arc::new(BTreeSet::from(["KEY".to_owned()])),
        want,
        recorded: want != Want::Observe,
        adoption: Adoption::None,
        used_name: UsedName::Stays,
        interval: LONG,
    }
}

pub(super) fn frequent(claim: Claim) -> Claim {
    Claim {
        interval: SHORT,
        ..claim
    }
}
