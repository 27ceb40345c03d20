//! What the API server rejects, and the message that says what to write instead.

mod files;

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testkit::kubernetes;

use super::{binding, client, namespace, valid_spec};

/// `valid_spec()` with `change` as a merge patch.
fn spec_with(change: &Value) -> Value {
    fn merge(into: &mut Value, change: &Value) {
        let Value::Object(fields) = change else {
            *into = change.clone();
            return;
        };
        if !into.is_object() {
            *into = json!({});
        }
        for (name, value) in fields {
            if value.is_null() {
                into.as_object_mut().unwrap().remove(name);
            } else {
                merge(&mut into[name.as_str()], value);
            }
        }
    }
    let mut spec = valid_spec();
    merge(&mut spec, change);
    spec
}

/// Each change of the valid spec, with a part of the message that rejects it.
fn refusals() -> Vec<(Value, &'static str)> {
    let server = |change: Value| json!({"prefect": {"server": change}});
    let key = json!({"secretKeyRef": {"name": "a", "key": "b"}});
    let map = json!({"name": "a", "key": "b"});
    let restart = |change: Value| json!({"managedSecret": {"restart": change}});
    let identity = json!({"id": "i", "serviceAccountRef": {"name": "a"}});
    let jobs = |labels: Value| json!({"inject": {"jobs": [{"matchLabels": labels}]}});
    let several = |configs: Value| json!({"doppler": {"project": null, "configs": configs}});
    let many = |count: usize| {
        (0..count)
            .map(|n| json!({"name": format!("p{n}")}))
            .collect::<Vec<_>>()
    };
    vec![
        (
            json!({"prefect": null, "inject": null}),
            "the source of the Doppler project, config and token is missing: set spec.prefect.server",
        ),
        (
            json!({"prefect": null, "doppler": {"config": "dev", "accessToken": {"valueFrom": key}}}),
            "spec.inject.workPools names work pools of a Prefect server: set spec.prefect.server or spec.prefect.serverRef as well",
        ),
        (
            json!({"prefect": {"serverRef": {"name": "cloud"}}}),
            "server and serverRef exclude each other",
        ),
        (
            json!({"prefect": {"server": null, "serverRef": {"name": "Cloud"}}}),
            "serverRef.name",
        ),
        (
            restart(json!({"targets": [{"kind": "CronJob", "name": "a"}]})),
            "supported values: \"Deployment\", \"StatefulSet\", \"DaemonSet\", \"Rollout\"",
        ),
        (
            restart(json!({"targets": [{"kind": "Deployment", "name": "a/b"}]})),
            "spec.managedSecret.restart.targets[0].name",
        ),
        (
            restart(json!({"minInterval": "1s"})),
            "use a duration from 10s to 24h",
        ),
        (
            restart(json!({"minInterval": "often"})),
            "use a duration of hours, minutes and seconds such as 30s, 10m or 1h",
        ),
        (
            json!({"refreshInterval": "soon"}),
            "use a duration of hours, minutes and seconds such as 30s, 5m or 1h",
        ),
        (
            json!({"refreshInterval": "1d"}),
            "use a duration of hours, minutes and seconds such as 30s, 5m or 1h",
        ),
        (
            json!({"refreshInterval": ""}),
            "use a duration of hours, minutes and seconds such as 30s, 5m or 1h",
        ),
        (
            json!({"refreshInterval": "9s"}),
            "use a duration from 10s to 24h",
        ),
        (
            json!({"refreshInterval": "25h"}),
            "use a duration from 10s to 24h",
        ),
        (
            server(json!({"name": null, "namespace": null})),
            "the Prefect server is missing: set name for a server in this cluster, remoteApiUrl",
        ),
        (
            server(json!({"remoteApiUrl": "https://p.example.com/api"})),
            "name and remoteApiUrl exclude each other",
        ),
        (
            server(json!({"name": null})),
            "namespace is the namespace of the Service in name: set name as well",
        ),
        (
            server(json!({"name": null, "namespace": null, "accountId": "a"})),
            "accountId and workspaceId belong together: set both or neither",
        ),
        (
            server(json!({"accountId": "a", "workspaceId": "b"})),
            "accountId and workspaceId are for Prefect Cloud: remove them, or remove name",
        ),
        (
            server(
                json!({"name": null, "namespace": null, "remoteApiUrl": "prefect.example.com/api"}),
            ),
            "use a full URL such as https://prefect.example.com/api",
        ),
        (
            server(json!({"name": "Prefect"})),
            "spec.prefect.server.name",
        ),
        (
            server(json!({"apiKey": {}})),
            "set exactly one of value and valueFrom",
        ),
        (
            server(json!({"apiKey": {"value": "k", "valueFrom": key}})),
            "set exactly one of value and valueFrom",
        ),
        (
            server(json!({"apiKey": {"valueFrom": {"secretKeyRef": map, "configMapKeyRef": map}}})),
            "set exactly one of secretKeyRef and configMapKeyRef",
        ),
        (
            server(json!({"apiKey": {"value": "k"}, "basicAuth": {"valueFrom": key}})),
            "apiKey and basicAuth both set the Authorization header",
        ),
        (
            server(json!({"headers": [{"name": "X-A"}]})),
            "set exactly one of value and valueFrom",
        ),
        (
            server(json!({"headers": [{"name": "authorization", "value": "x"}]})),
            "the operator itself sets this header: use apiKey or basicAuth",
        ),
        (
            server(json!({"headers": [{"name": "X A", "value": "x"}]})),
            "headers[0].name",
        ),
        (
            server(json!({"caBundle": {"valueFrom": {}}})),
            "set exactly one of secretKeyRef and configMapKeyRef",
        ),
        (
            json!({"prefect": {"block": {"typeSlug": "Doppler Config"}}}),
            "typeSlug",
        ),
        (
            json!({"prefect": {"block": {"pointer": "cfg/value"}}}),
            "pointer",
        ),
        (
            json!({"doppler": {"host": "api.doppler.com"}}),
            "use a full URL such as https://api.doppler.com",
        ),
        (json!({"doppler": {"project": ""}}), "spec.doppler.project"),
        (
            json!({"doppler": {"config": "x".repeat(61)}}),
            "spec.doppler.config",
        ),
        (
            json!({"doppler": {"nameTransformer": "shouting"}}),
            "upper-camel",
        ),
        (
            json!({"doppler": {"configs": [{"project": "a", "config": "b"}]}}),
            "configs replaces project and config: name them in an item of configs",
        ),
        (
            json!({"prefect": null, "inject": null, "doppler": {"project": null, "configs": [
                {"project": "a", "config": "b", "accessToken": {"valueFrom": key}},
                {"project": "a", "config": "c"},
            ]}}),
            "or spec.doppler.configs and the token of each",
        ),
        (
            several(json!([{"project": "a"}])),
            "spec.doppler.configs[0].config",
        ),
        (
            several(json!([{"project": "a", "config": "b", "prefix": "1_"}])),
            "spec.doppler.configs[0].prefix",
        ),
        (
            several(json!(vec![json!({"project": "a", "config": "b"}); 17])),
            "spec.doppler.configs",
        ),
        (json!({"doppler": {"onConflict": "Earlier"}}), "Refuse"),
        (json!({"doppler": {"metadata": "Hide"}}), "Drop"),
        (
            json!({"managedSecret": {"type": "kubernetes.io/tls", "files": {"tls.crt": {"from": "A"}}}}),
            "files lacks a key that type needs",
        ),
        (
            json!({"managedSecret": {"type": "kubernetes.io/service-account-token"}}),
            "kubernetes.io/tls",
        ),
        (
            json!({"managedSecret": {"name": "a".repeat(248), "files": {"a": {"from": "A"}}}}),
            "use a name of at most 247 characters",
        ),
        (
            json!({"doppler": {"rename": {"A": "X", "B": "X"}}}),
            "two names get the same new name: give each name one of its own",
        ),
        (
            json!({"doppler": {"rename": {"A": "a b"}}}),
            "spec.doppler.rename.A",
        ),
        (
            json!({"managedSecret": {"name": "My_Secret"}}),
            "spec.managedSecret.name",
        ),
        (
            json!({"managedSecret": {"labels": {"app.kubernetes.io/name": "x"}}}),
            "use a prefix of your own",
        ),
        (
            json!({"managedSecret": {"annotations": {"doppler-prefect.dev/content-hash": "x"}}}),
            "use a prefix of your own",
        ),
        (
            json!({"managedSecret": {"deletionPolicy": "Keep"}}),
            "Retain",
        ),
        (
            json!({"inject": {"workPools": [{"name": "a"}, {"name": "a"}]}}),
            "Duplicate value",
        ),
        (
            json!({"inject": {"workPools": [{"name": "a", "mode": "Watch"}]}}),
            "Observe",
        ),
        (
            json!({"inject": {"workPools": [{"name": ""}]}}),
            "spec.inject.workPools[0].name",
        ),
        (
            json!({"inject": {"workPools": many(17)}}),
            "spec.inject.workPools",
        ),
        (
            json!({"inject": {"workPools": [{"name": "k8s", "runs": "Some"}]}}),
            "spec.inject.workPools[0].runs",
        ),
        (
            json!({"inject": {"workPools": [{"name": "k8s", "runs": "Selected", "variable": "a-b"}]}}),
            "spec.inject.workPools[0].variable",
        ),
        (
            json!({"inject": {"workPools": [{"name": "k8s", "variable": "x"}]}}),
            "variable has a meaning only with runs: Selected",
        ),
        (
            json!({"inject": {"workPools": [{"name": "k8s", "runs": "Selected", "optional": false}]}}),
            "remove optional: false",
        ),
        (
            json!({"managedSecret": {"name": "none"}}),
            "no Secret may have the name none",
        ),
        (
            jobs(json!({"prefect.io/deployment-name": "Nightly Job (prod)!"})),
            "this value cannot be a label: write the slug that Prefect's worker writes, Nightly-Job-prod",
        ),
        (
            jobs(json!({"a": "b", "c": format!("{} b", "a".repeat(62))})),
            "write the slug that Prefect's worker writes, aaaaaaaa",
        ),
        (
            jobs(json!({"prefect.io/flow-name": "Größe"})),
            "as kubectl get jobs --show-labels shows it",
        ),
        (
            jobs(json!({"a b": "c"})),
            "a key cannot be a label: write one such as prefect.io/deployment-name",
        ),
        (jobs(json!({})), "spec.inject.jobs[0].matchLabels"),
        (
            json!({"doppler": {"identity": identity, "accessToken": {"valueFrom": key}}}),
            "accessToken and identity exclude each other",
        ),
        (
            json!({"doppler": {"identity": {"id": "i"}}}),
            "spec.doppler.identity.serviceAccountRef",
        ),
        (
            json!({"doppler": {"identity": {"id": "a b", "serviceAccountRef": {"name": "a"}}}}),
            "spec.doppler.identity.id",
        ),
        (
            json!({"doppler": {"identity": {"serviceAccountRef": {"name": "A"}}}}),
            "spec.doppler.identity.serviceAccountRef.name",
        ),
        (
            json!({"doppler": {"identity": {"serviceAccountRef": {"name": "a"}, "audiences": ["x", "dopplerPrefectBinding:flows:other"]}}}),
            "remove audiences that begin with dopplerPrefectBinding:",
        ),
        // Without a block, the binding has to have the id.
        (
            json!({"prefect": null, "inject": null, "doppler": {"config": "dev", "identity": {"serviceAccountRef": {"name": "a"}}}}),
            "the source of the Doppler project, config and token is missing",
        ),
        (
            json!({"inject": {"jobs": [{"optional": true}]}}),
            "spec.inject.jobs[0].matchLabels",
        ),
        (
            json!({"inject": {"jobs": vec![json!({"matchLabels": {"a": "b"}}); 17]}}),
            "spec.inject.jobs",
        ),
    ]
}

/// A character that no name has, in each text field: the message says which field, or what to do.
fn control_characters() -> Vec<(Value, &'static str)> {
    const REMOVE: &str = "remove control characters, line breaks and marks that reorder text";
    let characters = [
        "\u{0}", "\t", "\n", "\u{1b}", "\u{7f}", "\u{9b}", "\u{2028}", "\u{202e}",
    ];
    let key =
        |name: &str, key: &str| json!({"valueFrom": {"secretKeyRef": {"name": name, "key": key}}});
    characters
        .iter()
        .flat_map(|character| {
            let name = format!("a{character}b");
            let url = format!("https://{character}prefect.example.com/api");
            [
                (json!({"prefect": {"block": {"name": name}}}), REMOVE),
                (json!({"prefect": {"block": {"typeSlug": name}}}), "typeSlug"),
                (json!({"prefect": {"block": {"pointer": format!("/{name}")}}}), "pointer"),
                (
                    json!({"prefect": {"server": {"name": null, "namespace": null, "remoteApiUrl": url}}}),
                    REMOVE,
                ),
                (json!({"inject": {"workPools": [{"name": name}]}}), REMOVE),
                (json!({"doppler": {"project": name}}), REMOVE),
                (json!({"doppler": {"config": name}}), REMOVE),
                (json!({"doppler": {"host": url}}), REMOVE),
                (json!({"doppler": {"include": ["A", name]}}), REMOVE),
                (json!({"doppler": {"exclude": [name]}}), REMOVE),
                (
                    json!({"doppler": {"accessToken": key(&name, "a")}}),
                    "secretKeyRef.name",
                ),
                (
                    json!({"doppler": {"accessToken": key("a", &name)}}),
                    "secretKeyRef.key",
                ),
                (
                    json!({"doppler": {"identity": {"serviceAccountRef": {"name": "a"}, "audiences": [name]}}}),
                    REMOVE,
                ),
                (json!({"managedSecret": {"allowReservedNames": [name]}}), REMOVE),
            ]
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_specs_with_a_correction() -> Result<()> {
    let client = client().await?;
    namespace(&client, "crd-refusals").await?;
    let valid = binding("valid", &valid_spec())?;
    let api = kubernetes::api(&client, "crd-refusals", &valid).await?;
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    api.create(&dry, &valid).await.context("the valid spec")?;
    let mut failures = Vec::new();
    for (change, sentence) in refusals()
        .into_iter()
        .chain(files::refusals())
        .chain(control_characters())
    {
        match api
            .create(&dry, &binding("invalid", &spec_with(&change))?)
            .await
        {
            Ok(_) => failures.push(format!("{change} was accepted")),
            Err(kube::Error::Api(status))
                if status.code == 422 && status.message.contains(sentence) => {}
            Err(error) => failures.push(format!("{change}: expected `{sentence}`, got {error}")),
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    // The name of the binding is the name of its Secret, unless the spec names another one.
    let none = api.create(&dry, &binding("none", &valid_spec())?).await;
    let refused = format!("{:#}", none.unwrap_err());
    ensure!(refused.contains("spec.managedSecret.name"), "{refused}");
    let named = spec_with(&json!({"managedSecret": {"name": "other"}}));
    api.create(&dry, &binding("none", &named)?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_an_unknown_field_under_strict_validation() -> Result<()> {
    let client = client().await?;
    namespace(&client, "crd-strict").await?;
    let misspelt = binding(
        "misspelt",
        &spec_with(&json!({"managedSecret": {"naem": "x"}})),
    )?;
    let api = kubernetes::api(&client, "crd-strict", &misspelt).await?;
    // The validation that kubectl requests.
    let strict = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("kubectl")
    };
    let error = api
        .patch("misspelt", &strict, &Patch::Apply(&misspelt))
        .await
        .unwrap_err()
        .to_string();
    ensure!(error.contains("naem"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_cluster_servers() -> Result<()> {
    let client = client().await?;
    let key = json!({"namespace": "prefect", "name": "prefect-api-key", "key": "key"});
    let cloud = json!({
        "accountId": "a", "workspaceId": "w", "apiKey": {"valueFrom": {"secretKeyRef": key}},
    });
    let server = |spec: Value| {
        json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "ClusterPrefectServer",
            "metadata": {"name": "crd-rejected"}, "spec": spec,
        })
    };
    let create = async |spec: Value| -> Result<()> {
        let object = serde_json::from_value(server(spec))?;
        let api = kubernetes::api(&client, "default", &object).await?;
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        api.create(&params, &object).await?;
        Ok(())
    };
    create(json!({"server": cloud, "namespaces": {"selector": {}}, "blocks": ["{namespace}"]}))
        .await?;
    for (spec, part) in [
        (json!({}), "spec.server: Required value"),
        (json!({"server": {}}), "the Prefect server is missing"),
        (
            json!({"server": {"name": "prefect-server"}}),
            "name and namespace belong together",
        ),
        (
            json!({"server": {"accountId": "a", "remoteApiUrl": "https://a/api"}}),
            "accountId and workspaceId belong together",
        ),
        (
            json!({"server": {"accountId": "a", "workspaceId": "w", "apiKey": {"valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}}}}),
            "secretKeyRef.namespace: Required value",
        ),
        (
            json!({"server": cloud, "blocks": ["a\nb"]}),
            "remove control characters",
        ),
        (
            json!({"server": cloud, "workPools": vec!["a"; 65]}),
            "at most 64 items",
        ),
    ] {
        let error = create(spec.clone()).await.unwrap_err().to_string();
        assert!(error.contains(part), "{spec}: {error}");
    }
    Ok(())
}
