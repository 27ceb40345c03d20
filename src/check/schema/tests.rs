use serde_json::json;

use super::*;

fn binding(spec: &Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": "DopplerPrefectBinding", "metadata": {"name": "b"}, "spec": spec})
}

fn found(spec: &Value) -> Vec<String> {
    problems(&stored(&binding(spec)))
}

#[test]
fn every_rule_of_the_crd_has_its_function() {
    fn rules_of(schema: &Value, rules: &mut BTreeSet<String>) {
        match schema {
            Value::Object(fields) => {
                let own = fields
                    .get("x-kubernetes-validations")
                    .and_then(Value::as_array);
                for rule in own.into_iter().flatten() {
                    rules.insert(rule["rule"].as_str().unwrap().to_owned());
                }
                fields.values().for_each(|field| rules_of(field, rules));
            }
            Value::Array(items) => items.iter().for_each(|item| rules_of(item, rules)),
            _ => {}
        }
    }
    let mut rules = BTreeSet::new();
    rules_of(&SCHEMA, &mut rules);
    rules_of(&SERVER_SCHEMA, &mut rules);
    assert!(rules.len() > 10);
    for rule in rules {
        assert!(rules::holds(&rule, &Value::Null).is_some(), "{rule}");
    }
}

#[test]
fn fields_without_a_value_are_absent_and_defaults_are_set() {
    let stored = stored(&binding(&json!({
        "managedSecret": null, "inject": null, "suspend": null,
        "prefect": {"server": {"name": "prefect-server", "headers": null}, "block": null},
    })));
    let server = json!({"name": "prefect-server"});
    let block = json!({"name": "doppler-config", "typeSlug": "secret"});
    assert_eq!(
        stored["spec"],
        json!({"prefect": {"server": server, "block": block}})
    );
    assert_eq!(problems(&stored), [""; 0]);
}

#[test]
fn names_each_field_that_the_api_server_refuses() {
    let server = json!({"name": "prefect-server"});
    for (spec, problem) in [
        (
            json!({"prefect": {"server": server}, "dopler": {}}),
            "spec.dopler: unknown field",
        ),
        (
            json!({"prefect": {"server": {"name": "a", "nmae": "b"}}}),
            "spec.prefect.server.nmae: unknown field",
        ),
        (
            json!({"prefect": {"server": server, "serverRef": {"name": "cloud"}}}),
            "spec.prefect: server and serverRef exclude each other",
        ),
        (
            json!({"prefect": {"serverRef": {}}}),
            "spec.prefect.serverRef.name: is required",
        ),
        (
            json!({"prefect": {"server": server}, "suspend": "yes"}),
            "spec.suspend: has to be of type boolean",
        ),
        (
            json!({"prefect": {"server": server}, "inject": {"workPools": [{"name": "a"}, {"name": "a"}]}}),
            "spec.inject.workPools: two items have the same name",
        ),
        (
            json!({"prefect": {"server": server}, "inject": {"workPools": [{"name": "a", "mode": "Both"}]}}),
            "spec.inject.workPools[0].mode: has to be one of Patch, Observe",
        ),
        (
            json!({"prefect": {"server": {"name": "Upper"}}}),
            "spec.prefect.server.name: has to match",
        ),
        (
            json!({"prefect": {"server": server}, "refreshInterval": "9s"}),
            "spec.refreshInterval: use a duration from 10s to 24h",
        ),
        (json!({}), "spec: the source of the Doppler project"),
        (
            json!({"prefect": {"server": {"name": "a", "remoteApiUrl": "https://b"}}}),
            "spec.prefect.server: name and remoteApiUrl exclude each other",
        ),
    ] {
        let problems = found(&spec);
        assert!(
            problems.iter().any(|one| one.starts_with(problem)),
            "{spec}: {problems:?}"
        );
    }
}

#[test]
fn metadata_is_checked() {
    for (metadata, problem) in [
        (json!({}), "metadata.name"),
        (json!({"name": "Upper"}), "metadata.name"),
        (
            json!({"name": "b", "lables": {}}),
            "metadata.lables: unknown field",
        ),
        (json!({"name": "b", "labels": {"a": 1}}), "metadata.labels"),
    ] {
        let mut binding = binding(&json!({"prefect": {"server": {"name": "a"}}}));
        binding["metadata"] = metadata;
        let problems = problems(&stored(&binding));
        assert!(problems[0].starts_with(problem), "{problems:?}");
    }
}

#[test]
fn examples_are_valid() {
    for text in [
        include_str!("../../../examples/smallest.yaml"),
        include_str!("../../../examples/everything.yaml"),
        include_str!("../../../examples/self-hosted.yaml"),
    ] {
        for document in crate::check::input::parse_documents(text) {
            assert_eq!(problems(&stored(&document.unwrap())), [""; 0]);
        }
    }
}

#[test]
fn cluster_servers_have_a_schema_of_their_own() {
    let server = |spec: Value| {
        json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "ClusterPrefectServer",
            "metadata": {"name": "cloud"}, "spec": spec,
        })
    };
    let problems = |spec: Value| server_problems(&stored_server(&server(spec)));
    let at = json!({"namespace": "prefect", "name": "prefect-api-key", "key": "key"});
    let key = json!({"valueFrom": {"secretKeyRef": at}});
    let cloud = json!({"accountId": "a", "workspaceId": "w", "apiKey": key});
    assert_eq!(
        problems(json!({
            "server": cloud,
            "namespaces": {"names": ["flows"], "selector": {"matchLabels": {"prefect": "yes"}}},
            "blocks": ["team-{namespace}-*"], "workPools": ["k8s-*"],
        })),
        [""; 0]
    );
    for (spec, problem) in [
        (json!({}), "spec.server: is required"),
        (
            json!({"server": {}}),
            "spec.server: the Prefect server is missing",
        ),
        (
            json!({"server": {"name": "prefect-server"}}),
            "spec.server: name and namespace belong together",
        ),
        (
            json!({"server": {"accountId": "a", "workspaceId": "w", "apiKey": {"value": "k"}}}),
            "spec.server.apiKey.valueFrom: is required",
        ),
        (
            json!({"server": cloud, "blocks": ["a\nb"]}),
            "spec.blocks: remove control characters",
        ),
        (
            json!({"server": cloud, "namespaces": {"names": ["Flows"]}}),
            "spec.namespaces.names[0]: has to match",
        ),
    ] {
        let found = problems(spec.clone()).join("; ");
        assert!(found.contains(problem), "{spec}: {found}");
    }
}
