use std::collections::BTreeSet;

use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, Request, ResponseTemplate,
    matchers::{method, path},
};

use super::*;
use crate::{
    crd::BindingRef,
    metrics::ContentLabels,
    outbound::install_crypto_provider,
    prefect::connection::Auth,
    runs::{registry::Content, tests::run},
    upstream::limiter::RateLimiter,
};

fn serving(hash: &str, variables: &[&str]) -> Serving {
    Serving {
        binding: BindingRef::new("flows", hash),
        content: Arc::new(Content {
            secret: format!("secret-{hash}"),
            hash: hash.to_owned(),
            since: None,
        }),
        variables: variables.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// A run with an id that ends in this number.
fn numbered(number: usize) -> FlowRun {
    let mut run = run("k8s");
    run.run.id = format!("00000000-0000-4000-8000-{number:012}");
    run
}

struct Fixture {
    server: MockServer,
    started: StartedRuns,
    connection: Arc<Connection>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A reporter, and a server that answers to events with this status.
async fn fixture(sends_events: bool, status: u16) -> Fixture {
    install_crypto_provider();
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/api/events"))
        .respond_with(ResponseTemplate::new(status).set_body_raw("{}", "application/json"))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(422).set_body_raw("{}", "application/json"))
        .mount(&server)
        .await;
    let connections = ConnectionInterner::new(Duration::from_secs(5), RateLimiter::small());
    let connections = Arc::new(connections);
    let connection = connections.intern(Connection {
        api_url: format!("{}/api", server.uri()).parse().unwrap(),
        auth: Auth::None,
        headers: Vec::new(),
        ca: None,
        shared: None,
    });
    let metrics = Arc::new(Metrics::new());
    let (started, reporter) = started_runs(connections, Arc::clone(&metrics), sends_events);
    let shutdown = CancellationToken::new();
    tokio::spawn(reporter.run(shutdown.clone()));
    Fixture {
        server,
        started,
        connection,
        metrics,
        shutdown,
    }
}

impl Fixture {
    fn add(&self, run: FlowRun, serving: Vec<Serving>) {
        self.started.add(&self.connection, run, serving);
    }

    /// The requests to this path, with their bodies.
    async fn bodies(&self, path: &str) -> Vec<Value> {
        let received = self.server.received_requests().await.unwrap();
        let received = received.iter().filter(|request| request.url.path() == path);
        received
            .map(|request| request.body_json().unwrap())
            .collect()
    }

    fn runs(&self, hash: &str) -> u64 {
        let content_hash = hash.to_owned();
        let labels = ContentLabels { content_hash };
        self.metrics.flow_runs.get_or_create(&labels).get()
    }

    fn events(&self, outcome: &'static str) -> u64 {
        let labels = RunEventLabels { outcome };
        self.metrics.run_events.get_or_create(&labels).get()
    }

    async fn until(&self, what: &str, is_true: impl Fn(&Self) -> bool) {
        let limit = Duration::from_secs(30);
        let waiting = async {
            while !is_true(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(limit, waiting).await.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn runs_that_start_together_share_a_request() {
    let f = fixture(true, 204).await;
    for number in 0..3 {
        f.add(numbered(number), vec![serving("a", &[]), serving("b", &[])]);
    }
    // The server reported it twice.
    f.add(numbered(0), vec![serving("a", &[]), serving("b", &[])]);
    f.add(numbered(9), Vec::new());
    f.until("events", |f| f.events("sent") == 6).await;
    let requests = f.bodies("/api/events").await;
    assert_eq!(requests.len(), 1, "{requests:?}");
    let events = requests[0].as_array().unwrap();
    let ids: BTreeSet<_> = events.iter().map(|event| event["id"].as_str()).collect();
    assert_eq!((events.len(), ids.len()), (6, 6));
    assert_eq!(events[0]["payload"]["contentHash"], "a");
    assert_eq!((f.runs("a"), f.runs("b")), (3, 3));
    let all = f.server.received_requests().await.unwrap();
    let others = all
        .iter()
        .filter(|request| request.url.path() != "/api/events");
    let others: Vec<_> = others.map(|request| request.url.path()).collect();
    assert_eq!(others, ["/api/csrf-token"]);
}

#[tokio::test]
async fn only_the_chosen_secret_is_reported() {
    let f = fixture(true, 204).await;
    let ids = |request: &Request, of: &str| {
        let filter: Value = request.body_json().unwrap();
        assert_eq!(filter["limit"], 200);
        filter[of]["id"]["any_"].clone()
    };
    let chosen = |name: &str| json!({"v": name, "image": "canary"});
    Mock::given(path("/api/flow_runs/filter"))
        .respond_with(move |request: &Request| {
            assert_eq!(
                ids(request, "flow_runs"),
                json!([numbered(1).run.id, numbered(2).run.id])
            );
            ResponseTemplate::new(200).set_body_json(json!([
                {"id": numbered(1).run.id, "job_variables": chosen("secret-b"), "parameters": {}},
                {"id": numbered(2).run.id, "job_variables": null},
            ]))
        })
        .expect(1)
        .mount(&f.server)
        .await;
    let deployment = run("k8s").deployment.unwrap().id;
    Mock::given(path("/api/deployments/filter"))
        .respond_with(move |request: &Request| {
            assert_eq!(ids(request, "deployments"), json!([deployment]));
            ResponseTemplate::new(200)
                .set_body_json(json!([{"id": deployment, "job_variables": chosen("secret-a")}]))
        })
        .expect(1)
        .mount(&f.server)
        .await;
    let both = || {
        vec![
            serving("a", &["v"]),
            serving("b", &["v"]),
            serving("c", &[]),
        ]
    };
    f.add(numbered(1), both());
    f.add(numbered(2), both());
    f.add(numbered(3), vec![serving("c", &[])]);
    f.until("events", |f| f.events("sent") == 5).await;
    assert_eq!((f.runs("a"), f.runs("b"), f.runs("c")), (1, 1, 3));
    let events = f.bodies("/api/events").await;
    let got = events[0].as_array().unwrap().iter();
    let got: Vec<_> = got
        .map(|event| {
            (
                &event["related"][0]["prefect.resource.id"],
                &event["payload"]["secret"],
            )
        })
        .map(|(run, secret)| (run.as_str().unwrap(), secret.as_str().unwrap()))
        .map(|(run, secret)| (&run[run.len() - 1..], secret))
        .collect();
    let expected = [
        ("1", "secret-b"),
        ("1", "secret-c"),
        ("2", "secret-a"),
        ("2", "secret-c"),
        ("3", "secret-c"),
    ];
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_server_that_takes_no_events_is_left_alone() {
    for status in [403, 404, 422, 500] {
        let f = fixture(true, status).await;
        f.add(numbered(1), vec![serving("a", &[])]);
        f.until("a failure", |f| f.events("failed") == 1).await;
        f.add(numbered(2), vec![serving("a", &[])]);
        f.until("a drop", |f| f.events("dropped") == 1).await;
        assert_eq!(f.bodies("/api/events").await.len(), 1, "{status}");
        assert_eq!(f.runs("a"), 2, "runs are counted all the same");
        assert_eq!(f.events("sent"), 0);
    }
}

#[tokio::test]
async fn without_events_runs_are_counted() {
    let f = fixture(false, 204).await;
    f.add(numbered(1), vec![serving("a", &[])]);
    f.until("a count", |f| f.runs("a") == 1).await;
    Mock::given(path("/api/flow_runs/filter"))
        .respond_with(
            ResponseTemplate::new(200).set_body_json(
                json!([{"id": numbered(2).run.id, "job_variables": {"v": "secret-b"}}]),
            ),
        )
        .mount(&f.server)
        .await;
    Mock::given(path("/api/deployments/filter"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!([])))
        .mount(&f.server)
        .await;
    f.add(numbered(2), vec![serving("b", &["v"])]);
    f.until("a chosen Secret", |f| f.runs("b") == 1).await;
    assert_eq!(f.bodies("/api/events").await, Vec::<Value>::new());
    assert_eq!((f.events("sent"), f.events("dropped")), (0, 0));
}

#[tokio::test]
async fn many_runs_are_cut() {
    let f = fixture(true, 204).await;
    let runs = MAX_BATCH + 7;
    for number in 0..runs {
        f.add(numbered(number), vec![serving("a", &[])]);
    }
    f.until("all", |f| {
        f.events("sent") + f.events("dropped") == runs as u64
    })
    .await;
    assert_eq!(f.events("dropped"), 7);
    assert_eq!(f.runs("a"), runs as u64);
}

#[test]
fn a_server_is_forgotten_once_nothing_waits() {
    let now = Instant::now();
    let started = || Started {
        connection: Arc::new(Connection {
            api_url: "http://a/api".parse().unwrap(),
            auth: Auth::None,
            headers: Vec::new(),
            ca: None,
            shared: None,
        }),
        run: numbered(1),
        serving: vec![serving("a", &[])],
        at: Timestamp::now(),
    };
    let mut waiting = Waiting::default();
    assert!(waiting.is_idle(now));
    assert_eq!(waiting.add(started(), now), 0);
    assert!(!waiting.is_idle(now));
    assert_eq!(waiting.due(), Some(now + INTERVAL));
    assert_eq!(waiting.start().len(), 1);
    assert!(!waiting.is_idle(now));
    assert_eq!(waiting.add(started(), now), 0);
    assert_eq!(waiting.due(), None, "one batch at a time");
    let refused = Report {
        is_refused: true,
        ..Report::default()
    };
    waiting.finish(&refused, now);
    assert_eq!(waiting.start().len(), 1);
    waiting.finish(&refused, now);
    assert_eq!(waiting.add(started(), now), 1, "quiet");
    assert!(!waiting.is_idle(now));
    assert_eq!(waiting.next(), Some(now + QUIET), "a timer drops it");
    assert!(waiting.is_idle(now + QUIET));
}
