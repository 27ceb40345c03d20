use super::*;
use crate::{prefect::connection::Auth, runs::tests::run};

fn server(url: &str, key: &str) -> Arc<Connection> {
    Arc::new(Connection {
        api_url: url.parse().unwrap(),
        auth: Auth::Bearer(key.into()),
        headers: Vec::new(),
        ca: None,
        shared: None,
    })
}

fn served(server: &Arc<Connection>, selectors: &[RunSelector]) -> Served {
    Served {
        server: Arc::clone(server),
        selectors: selectors.iter().cloned().collect(),
        refreshes: true,
    }
}

fn pool(name: &str) -> RunSelector {
    RunSelector::WorkPool(name.to_owned())
}

fn choice(pool: &str, variable: &str) -> RunSelector {
    RunSelector::Choice {
        work_pool: pool.to_owned(),
        variable: variable.to_owned(),
    }
}

fn content(hash: &str) -> Content {
    Content {
        secret: "s".to_owned(),
        hash: hash.to_owned(),
        since: None,
    }
}

fn refreshed(registry: &RunRegistry, server: &Arc<Connection>, pool: &str) -> Vec<BindingRef> {
    let mut found: Vec<_> = registry
        .refreshed_by(server, &run(pool))
        .into_iter()
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn a_run_concerns_the_bindings_of_its_pool_and_server() {
    let registry = RunRegistry::default();
    let (here, there) = (server("http://a/api", "one"), server("http://b/api", "one"));
    let (a, b, c) = (
        BindingRef::new("flows", "a"),
        BindingRef::new("flows", "b"),
        BindingRef::new("other", "c"),
    );
    registry.declare(&a, served(&here, &[pool("k8s"), pool("gpu")]));
    registry.declare(&b, served(&here, &[pool("k8s")]));
    registry.declare(&c, served(&there, &[pool("k8s")]));
    assert_eq!(refreshed(&registry, &here, "k8s"), [a.clone(), b.clone()]);
    assert_eq!(refreshed(&registry, &here, "gpu"), [a]);
    assert_eq!(refreshed(&registry, &there, "k8s"), [c]);
    assert_eq!(refreshed(&registry, &here, "none"), []);
    // The socket of other credentials reports the run to their bindings.
    let other = server("http://a/api", "two");
    assert_eq!(refreshed(&registry, &other, "k8s"), []);
}

#[test]
fn a_declaration_replaces_the_last_one() {
    let registry = RunRegistry::default();
    let (here, there) = (server("http://a/api", "one"), server("http://b/api", "one"));
    let a = BindingRef::new("flows", "a");
    registry.declare(&a, served(&here, &[pool("k8s"), pool("gpu")]));
    registry.declare(&a, served(&here, &[pool("gpu")]));
    assert_eq!(refreshed(&registry, &here, "k8s"), []);
    registry.declare(&a, served(&there, &[pool("gpu")]));
    assert_eq!(refreshed(&registry, &here, "gpu"), []);
    assert_eq!(
        refreshed(&registry, &there, "gpu"),
        std::slice::from_ref(&a)
    );
    registry.declare(&a, served(&there, &[]));
    registry.declare(&a, served(&here, &[pool("k8s")]));
    registry.remove(&a);
    registry.remove(&a);
    let declared = registry.0.lock();
    assert!(declared.by_binding.is_empty() && declared.by_server.is_empty());
}

#[test]
fn a_binding_that_does_not_refresh_serves_all_the_same() {
    let registry = RunRegistry::default();
    let here = server("http://a/api", "one");
    let a = BindingRef::new("flows", "a");
    let mut declared = served(&here, &[pool("k8s")]);
    declared.refreshes = false;
    registry.declare(&a, declared);
    assert_eq!(refreshed(&registry, &here, "k8s"), []);
    assert_eq!(registry.serving(&here, &run("k8s")), [], "no Secret yet");
    registry.set_content(&a, Some(content("h")));
    let serving = registry.serving(&here, &run("k8s"));
    assert_eq!(serving.len(), 1);
    assert_eq!(
        (&serving[0].binding, &*serving[0].content),
        (&a, &content("h"))
    );
    registry.set_content(&a, None);
    assert_eq!(registry.serving(&here, &run("k8s")), []);
}

#[test]
fn content_outlives_a_change_of_the_selectors_and_not_the_binding() {
    let registry = RunRegistry::default();
    let here = server("http://a/api", "one");
    let a = BindingRef::new("flows", "a");
    registry.set_content(&a, Some(content("early")));
    registry.declare(&a, served(&here, &[pool("k8s")]));
    assert_eq!(registry.serving(&here, &run("k8s")), []);
    registry.set_content(&a, Some(content("h")));
    registry.declare(&a, served(&here, &[pool("gpu")]));
    assert_eq!(registry.serving(&here, &run("gpu")).len(), 1);
    registry.remove(&a);
    registry.declare(&a, served(&here, &[pool("gpu")]));
    assert_eq!(registry.serving(&here, &run("gpu")), []);
}

#[test]
fn a_run_has_to_choose_unless_it_gets_the_secret_anyway() {
    let registry = RunRegistry::default();
    let here = server("http://a/api", "one");
    let labels = [("prefect.io/flow-name".to_owned(), "etl".to_owned())];
    let labels = RunSelector::Labels(labels.into());
    for (selectors, expected) in [
        (vec![choice("k8s", "v")], vec!["v"]),
        (vec![choice("k8s", "v"), choice("gpu", "w")], vec!["v"]),
        (vec![choice("k8s", "v"), labels.clone()], vec![]),
        (vec![pool("k8s")], vec![]),
        (vec![labels], vec![]),
    ] {
        let a = BindingRef::new("flows", "a");
        registry.declare(&a, served(&here, &selectors));
        registry.set_content(&a, Some(content("h")));
        let serving = registry.serving(&here, &run("k8s"));
        assert_eq!(serving.len(), 1, "{selectors:?}");
        let variables: Vec<_> = serving[0].variables.iter().collect();
        assert_eq!(variables, expected, "{selectors:?}");
    }
}
