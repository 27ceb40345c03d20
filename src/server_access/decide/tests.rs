use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn server(lists: &Value) -> ClusterPrefectServerSpec {
    let mut spec = lists.clone();
    spec["server"] = json!({"name": "a", "namespace": "prefect"});
    serde_json::from_value(spec).unwrap()
}

fn binding(block: &str, pools: &[&str]) -> DopplerPrefectBindingSpec {
    let pools: Vec<Value> = pools.iter().map(|name| json!({"name": name})).collect();
    serde_json::from_value(json!({
        "prefect": {"serverRef": {"name": "cloud"}, "block": {"name": block, "typeSlug": "secret"}},
        "inject": {"workPools": pools},
    }))
    .unwrap()
}

fn check(
    server: &ClusterPrefectServerSpec,
    namespace: &str,
    labels: Option<&Labels>,
    spec: &DopplerPrefectBindingSpec,
) -> Result<(), NotAllowed> {
    let request = Request {
        namespace,
        labels,
        spec,
    };
    check_request(server, &request)
}

fn example() -> ClusterPrefectServerSpec {
    server(&json!({
        "namespaces": {"names": ["flows", "ml"], "selector": {"matchLabels": {"prefect": "yes"}}},
        "blocks": ["team-{namespace}-*"],
        "workPools": ["k8s-*"],
    }))
}

#[test]
fn empty_lists_allow_nothing() {
    let wanted = binding("b", &["p"]);
    let none = server(&json!({}));
    let namespace = NotAllowed::Namespace("flows".to_owned());
    assert_eq!(check(&none, "flows", None, &wanted), Err(namespace));
    let named = json!({"names": ["flows"]});
    let no_blocks = server(&json!({"namespaces": named, "workPools": ["*"]}));
    let refused = check(&no_blocks, "flows", None, &wanted).unwrap_err();
    assert_eq!(refused, NotAllowed::Block("b".to_owned(), Vec::new()));
    let no_pools = server(&json!({"namespaces": named, "blocks": ["*"]}));
    let refused = check(&no_pools, "flows", None, &wanted).unwrap_err();
    assert_eq!(refused, NotAllowed::WorkPool("p".to_owned(), Vec::new()));
    assert!(refused.to_string().contains("it lists none"), "{refused}");
}

#[test]
fn each_part_of_a_binding_has_to_be_listed() {
    let server = example();
    let allowed = binding("team-flows-doppler", &["k8s-a", "k8s-b"]);
    assert_eq!(check(&server, "flows", None, &allowed), Ok(()));
    let refused = check(&server, "ml", None, &allowed).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "its spec.blocks does not list block team-flows-doppler (it lists team-ml-*): correct spec.prefect.block.name, or ask its owner to add the block"
    );
    let other_pool = binding("team-flows-doppler", &["k8s-a", "gpu"]);
    let refused = check(&server, "flows", None, &other_pool).unwrap_err();
    assert!(matches!(refused, NotAllowed::WorkPool(ref name, _) if name == "gpu"));
}

#[test]
fn labels_select_namespaces() {
    let (server, wanted) = (example(), binding("team-x-y", &[]));
    let labels = |value: &str| Labels::from([("prefect".to_owned(), value.to_owned())]);
    assert_eq!(check(&server, "x", Some(&labels("yes")), &wanted), Ok(()));
    for labels in [Some(&labels("no")), Some(&Labels::new()), None] {
        let refused = check(&server, "x", labels, &wanted);
        assert!(matches!(refused, Err(NotAllowed::Namespace(_))));
    }
    let everyone = self::server(&json!({"namespaces": {"selector": {}}, "blocks": ["*"]}));
    assert_eq!(check(&everyone, "x", Some(&Labels::new()), &wanted), Ok(()));
    assert!(selects_by_label(&everyone));
    // An operator that the API server does not know selects nothing.
    let unknown = json!({"matchExpressions": [{"key": "prefect", "operator": "Like"}]});
    let unknown = self::server(&json!({"namespaces": {"selector": unknown}, "blocks": ["*"]}));
    assert!(check(&unknown, "x", Some(&labels("yes")), &wanted).is_err());
}

#[test]
fn a_binding_that_reads_no_block_needs_none() {
    let server = server(&json!({"namespaces": {"names": ["flows"]}, "workPools": ["k8s"]}));
    let token = json!({"valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}});
    let own = |doppler: Value| -> DopplerPrefectBindingSpec {
        serde_json::from_value(json!({
            "prefect": {"serverRef": {"name": "cloud"}},
            "doppler": doppler,
            "inject": {"workPools": [{"name": "k8s"}]},
        }))
        .unwrap()
    };
    let one = json!({"project": "p", "config": "c"});
    let item = json!({"project": "p", "config": "c", "accessToken": token});
    for (doppler, is_complete) in [
        (
            json!({"project": "p", "config": "c", "accessToken": token}),
            true,
        ),
        (
            json!({"project": "p", "config": "c", "identity": {"id": "i", "serviceAccountRef": {"name": "s"}}}),
            true,
        ),
        (
            json!({"project": "p", "config": "c", "identity": {"serviceAccountRef": {"name": "s"}}}),
            false,
        ),
        (json!({"project": "p", "accessToken": token}), false),
        (
            json!({"project": "p", "config": "", "accessToken": token}),
            false,
        ),
        (
            json!({"project": "p", "config": "c", "identity": {"id": "", "serviceAccountRef": {"name": "s"}}}),
            false,
        ),
        (json!({"configs": [one], "accessToken": token}), true),
        (json!({"configs": [item]}), true),
        (json!({"configs": [item, one]}), false),
        (json!({}), false),
    ] {
        let spec = own(doppler.clone());
        assert_eq!(
            check(&server, "flows", None, &spec).is_ok(),
            is_complete,
            "{doppler}"
        );
    }
}

#[test]
fn a_message_lists_a_bounded_number_of_patterns() {
    let patterns: Vec<String> = (0..64).map(|n| format!("b{n}")).collect();
    let text = NotAllowed::Block("x".to_owned(), patterns).to_string();
    assert!(
        text.contains("b9 and 54 more") && !text.contains("b10"),
        "{text}"
    );
}

proptest! {
    /// Whatever lists there are, an allowed binding names only what a list has for its namespace.
    #[test]
    fn only_listed_names_are_allowed(
        names in proptest::collection::vec("[ab]{1,2}", 0..3),
        blocks in proptest::collection::vec("[ab*]{1,3}", 0..3),
        pools in proptest::collection::vec("[ab*]{1,3}", 0..3),
        namespace in "[ab]{1,2}",
        block in "[ab]{1,3}",
        pool in "[ab]{1,3}",
    ) {
        let server = server(&json!({
            "namespaces": {"names": names}, "blocks": blocks, "workPools": pools,
        }));
        let wanted = binding(&block, &[&pool]);
        let allowed = check(&server, &namespace, None, &wanted).is_ok();
        let lists = |patterns: &[String], name: &str| {
            patterns.iter().any(|pattern| matches(pattern, name))
        };
        let expected = names.contains(&namespace) && lists(&blocks, &block) && lists(&pools, &pool);
        prop_assert_eq!(allowed, expected);
        let entry = check_entry(&server, &namespace, None, &pool).is_ok();
        prop_assert_eq!(entry, names.contains(&namespace) && lists(&pools, &pool));
    }

    /// A pattern with the namespace and no star gives each namespace its own names only.
    #[test]
    fn the_name_of_another_namespace_is_refused(
        own in "[a-z]([a-z-]{0,6}[a-z])?", other in "[a-z]([a-z-]{0,6}[a-z])?",
    ) {
        prop_assume!(own != other);
        let server = server(&json!({
            "namespaces": {"names": [&own, &other]}, "blocks": ["team-{namespace}-doppler"],
        }));
        let spec = binding(&format!("team-{other}-doppler"), &[]);
        prop_assert!(check(&server, &other, None, &spec).is_ok());
        prop_assert!(check(&server, &own, None, &spec).is_err());
    }
}
