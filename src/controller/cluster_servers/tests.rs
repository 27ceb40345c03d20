use std::sync::Mutex as StdMutex;

use serde_json::{Value, json};

use super::*;

/// The servers, and the keys that they enqueued.
struct Fixture {
    servers: ClusterServers,
    enqueued: Arc<StdMutex<Vec<String>>>,
}

impl Fixture {
    fn new(listing: Listing, default: Option<&str>) -> Self {
        let enqueued: Arc<StdMutex<Vec<String>>> = Arc::default();
        let keys = Arc::clone(&enqueued);
        let enqueue = Arc::new(move |key: &BindingRef| {
            keys.lock().unwrap().push(format!("{key:?}"));
        });
        Self {
            servers: ClusterServers::new(listing, default.map(str::to_owned), enqueue),
            enqueued,
        }
    }

    /// The keys since the last call.
    fn enqueued(&self) -> Vec<String> {
        let mut keys = std::mem::take(&mut *self.enqueued.lock().unwrap());
        keys.sort();
        keys
    }

    fn decide(&self, namespace: &str, name: &str) -> Result<(), Unusable> {
        let key = BindingRef::new(namespace, name);
        let decided = self.servers.for_binding(&key, "cloud", &spec());
        decided.map(|_| ())
    }
}

fn spec() -> DopplerPrefectBindingSpec {
    serde_json::from_value(json!({
        "prefect": {"serverRef": {"name": "cloud"}, "block": {"name": "b", "typeSlug": "secret"}},
    }))
    .unwrap()
}

fn server(generation: i64, namespaces: &Value) -> ClusterPrefectServer {
    serde_json::from_value(json!({
        "metadata": {"name": "cloud", "uid": "u", "generation": generation},
        "spec": {
            "server": {"name": "prefect-server", "namespace": "prefect"},
            "namespaces": namespaces,
            "blocks": ["*"],
        },
    }))
    .unwrap()
}

fn reason(decided: Result<(), Unusable>) -> Option<Reason> {
    match decided {
        Err(Unusable::Failed(failure)) => Some(failure.reason),
        Err(Unusable::Pending) | Ok(()) => None,
    }
}

fn labels(value: &str) -> Labels {
    Labels::from([("prefect".to_owned(), value.to_owned())])
}

#[test]
fn nothing_is_decided_before_the_servers_are_listed() {
    let fixture = Fixture::new(Listing::Pending, None);
    assert_eq!(fixture.decide("flows", "a"), Err(Unusable::Pending));
    fixture.enqueued();
    fixture
        .servers
        .on_listed(vec![server(1, &json!({"names": ["flows"]}))]);
    assert_eq!(fixture.enqueued(), ["/cloud", "flows/a"]);
    assert_eq!(fixture.decide("flows", "a"), Ok(()));
}

#[test]
fn missing_servers_have_a_reason_of_their_own() {
    for (listing, part) in [
        (Listing::Listed, "does not exist"),
        (Listing::Disabled, "clusterServers.enabled"),
        (Listing::Forbidden, "no permission"),
        (Listing::NoKind, "apply crds/"),
    ] {
        let Err(Unusable::Failed(failure)) = Fixture::new(listing, None).decide("flows", "a")
        else {
            panic!("{listing:?} is decided");
        };
        assert_eq!(failure.reason, Reason::ServerNotFound);
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[test]
fn a_change_enqueues_each_dependant_once() {
    let fixture = Fixture::new(Listing::Pending, None);
    let flows = json!({"names": ["flows"]});
    fixture.servers.on_listed(vec![server(1, &flows)]);
    for binding in ["a", "b"] {
        fixture.decide("flows", binding).unwrap();
    }
    assert_eq!(
        reason(fixture.decide("ml", "c")),
        Some(Reason::ServerNotAllowed)
    );
    assert_eq!(fixture.servers.count("cloud"), (2, 1));
    fixture.enqueued();
    // A write of the status changes no generation.
    fixture.servers.on_apply(server(1, &flows));
    assert!(fixture.enqueued().is_empty());
    fixture
        .servers
        .on_apply(server(2, &json!({"names": ["ml"]})));
    assert_eq!(fixture.enqueued(), ["/cloud", "flows/a", "flows/b", "ml/c"]);
    assert_eq!(fixture.decide("ml", "c"), Ok(()));
    fixture.servers.on_delete("cloud");
    assert_eq!(
        reason(fixture.decide("ml", "c")),
        Some(Reason::ServerNotFound)
    );
    fixture.servers.leave(&BindingRef::new("ml", "c"));
    assert_eq!(fixture.servers.count("cloud"), (2, 0));
    // The operator lists again after an interruption, and nothing changed.
    fixture.servers.on_listed(vec![server(2, &flows)]);
    fixture.enqueued();
    fixture.servers.on_listed(vec![server(2, &flows)]);
    assert!(fixture.enqueued().is_empty());
    fixture.servers.on_listed(Vec::new());
    assert_eq!(fixture.enqueued(), ["/cloud", "flows/a", "flows/b"]);
}

#[test]
fn labels_of_namespaces_are_needed_only_for_a_selector() {
    let fixture = Fixture::new(Listing::Pending, None);
    fixture
        .servers
        .on_listed(vec![server(1, &json!({"names": ["flows"]}))]);
    assert!(!*fixture.servers.needs_labels().borrow());
    let selector = json!({"names": ["flows"], "selector": {"matchLabels": {"prefect": "yes"}}});
    fixture.servers.on_apply(server(2, &selector));
    assert!(*fixture.servers.needs_labels().borrow());
    assert_eq!(fixture.decide("flows", "a"), Ok(()));
    assert_eq!(fixture.decide("ml", "b"), Err(Unusable::Pending));
    fixture.enqueued();
    let listed = [("ml", "yes"), ("other", "no")];
    let listed = listed.map(|(name, value)| (name.to_owned(), labels(value)));
    fixture.servers.on_labels_listed(HashMap::from(listed));
    assert_eq!(fixture.enqueued(), ["flows/a", "ml/b"]);
    assert_eq!(fixture.decide("ml", "b"), Ok(()));
    assert_eq!(
        reason(fixture.decide("other", "c")),
        Some(Reason::ServerNotAllowed)
    );
    fixture.enqueued();
    fixture.servers.on_labels("other", Some(&labels("no")));
    assert!(fixture.enqueued().is_empty());
    fixture.servers.on_labels("other", Some(&labels("yes")));
    assert_eq!(fixture.enqueued(), ["other/c"]);
    assert_eq!(fixture.decide("other", "c"), Ok(()));
    fixture.servers.on_labels("other", None);
    assert!(reason(fixture.decide("other", "c")).is_some());
}

#[test]
fn without_permission_for_labels_only_names_count() {
    let fixture = Fixture::new(Listing::Pending, None);
    let selector = json!({"names": ["flows"], "selector": {}});
    fixture.servers.on_listed(vec![server(1, &selector)]);
    assert_eq!(fixture.decide("ml", "b"), Err(Unusable::Pending));
    fixture.servers.on_labels_unavailable();
    let Err(Unusable::Failed(failure)) = fixture.decide("ml", "b") else {
        panic!("a namespace is allowed whose labels are not known");
    };
    assert!(
        failure.message.contains("list namespaces"),
        "{}",
        failure.message
    );
    assert_eq!(fixture.decide("flows", "a"), Ok(()));
}

#[test]
fn entries_are_checked_by_namespace_and_pool() {
    let fixture = Fixture::new(Listing::Pending, None);
    let mut listed = server(1, &json!({"names": ["flows"]}));
    listed.spec.work_pools = vec!["k8s-*".to_owned()];
    fixture.servers.on_listed(vec![listed]);
    let check = |namespace, pool| fixture.servers.check_entry("cloud", namespace, pool);
    assert_eq!(check("flows", "k8s-a"), Ok(()));
    assert!(check("flows", "gpu").is_err() && check("ml", "k8s-a").is_err());
    assert!(fixture.servers.for_namespace("cloud", "flows").is_ok());
    assert!(fixture.servers.for_namespace("cloud", "ml").is_err());
    assert_eq!(fixture.servers.check_block("cloud", "flows", "x"), Ok(()));
    assert!(fixture.servers.check_block("other", "flows", "x").is_err());
}

#[test]
fn the_default_is_for_bindings_that_name_no_server() {
    let named = spec().prefect.unwrap();
    let unnamed = PrefectSpec {
        server_ref: None,
        ..named.clone()
    };
    let shared = |name: &str| Ok(ServerChoice::Shared(name.to_owned()));
    let with = Fixture::new(Listing::Listed, Some("team"));
    assert_eq!(with.servers.choice(&named), shared("cloud"));
    assert_eq!(with.servers.choice(&unnamed), shared("team"));
    let without = Fixture::new(Listing::Listed, None);
    let failure = without.servers.choice(&unnamed).unwrap_err();
    assert_eq!(failure.reason, Reason::InvalidSpec);
}
