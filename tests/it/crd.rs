//! The CRD at a real API server: what it refuses, with which words, and what it takes.
//!
//! No operator runs here: these are the API server's own checks.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use testkit::kubernetes;

use crate::world::{CRD, plane};

/// The operator's output for one subcommand.
fn output(subcommand: &str) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_doppler-prefect-operator"))
        .arg(subcommand)
        .output()?;
    ensure!(
        output.status.success(),
        "{subcommand} ended with {}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn read_file(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

#[test]
fn crd_in_the_repository_is_current() -> Result<()> {
    let printed = output("crd")?;
    ensure!(
        printed == CRD,
        "run `cargo run -- crd > crds/dopplerprefectbindings.yaml`"
    );
    Ok(())
}

#[test]
fn reasons_manual_is_current() -> Result<()> {
    let printed = output("reasons")?;
    ensure!(
        printed == read_file("docs/reasons.md")?,
        "run `cargo run -- reasons > docs/reasons.md`"
    );
    Ok(())
}

async fn client() -> Result<Client> {
    tokio::task::spawn_blocking(plane).await??.admin_client()
}

async fn namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    kubernetes::apply(client, name, &namespace.to_string())
        .await
        .map(drop)
}

fn binding(name: &str, spec: &Value) -> Result<DynamicObject> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": {"name": name}, "spec": spec,
    }))?)
}

/// A spec with everything in it that a case may want to spoil.
fn valid_spec() -> Value {
    json!({
        "prefect": {"server": {"name": "prefect-server", "namespace": "prefect"}},
        "doppler": {"project": "my-project"},
        "inject": {"workPools": [{"name": "k8s"}]},
    })
}

/// `good()`, merged with `change` as a merge patch would.
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

/// Change, and a part of the sentence with which it is refused.
fn refusals() -> Vec<(Value, &'static str)> {
    let server = |change: Value| json!({"prefect": {"server": change}});
    let key = json!({"secretKeyRef": {"name": "a", "key": "b"}});
    let map = json!({"name": "a", "key": "b"});
    let many = |count: usize| {
        (0..count)
            .map(|n| json!({"name": format!("p{n}")}))
            .collect::<Vec<_>>()
    };
    vec![
        (
            json!({"prefect": null, "inject": null}),
            "nothing says where the Doppler project, config and token come from: give spec.prefect.server",
        ),
        (
            json!({"prefect": null, "doppler": {"config": "dev", "accessToken": {"valueFrom": key}}}),
            "spec.inject.workPools names work pools of a Prefect server: give spec.prefect.server as well",
        ),
        (
            json!({"refreshInterval": "soon"}),
            "write a duration of hours, minutes and seconds such as 30s, 5m or 1h",
        ),
        (
            json!({"refreshInterval": "1d"}),
            "write a duration of hours, minutes and seconds such as 30s, 5m or 1h",
        ),
        (
            json!({"refreshInterval": ""}),
            "write a duration of hours, minutes and seconds such as 30s, 5m or 1h",
        ),
        (
            json!({"refreshInterval": "9s"}),
            "write a duration from 10s to 24h",
        ),
        (
            json!({"refreshInterval": "25h"}),
            "write a duration from 10s to 24h",
        ),
        (
            server(json!({"name": null, "namespace": null})),
            "say where the Prefect server is: name for a server in this cluster, remoteApiUrl",
        ),
        (
            server(json!({"remoteApiUrl": "https://p.example.com/api"})),
            "name and remoteApiUrl both say where the server is",
        ),
        (
            server(json!({"name": null})),
            "namespace says where the Service called name is: give name as well",
        ),
        (
            server(json!({"name": null, "namespace": null, "accountId": "a"})),
            "accountId and workspaceId belong together: give both or neither",
        ),
        (
            server(json!({"accountId": "a", "workspaceId": "b"})),
            "accountId and workspaceId are for Prefect Cloud: leave them out beside name",
        ),
        (
            server(
                json!({"name": null, "namespace": null, "remoteApiUrl": "prefect.example.com/api"}),
            ),
            "write a whole URL such as https://prefect.example.com/api",
        ),
        (
            server(json!({"name": "Prefect"})),
            "spec.prefect.server.name",
        ),
        (
            server(json!({"apiKey": {}})),
            "give exactly one of value and valueFrom",
        ),
        (
            server(json!({"apiKey": {"value": "k", "valueFrom": key}})),
            "give exactly one of value and valueFrom",
        ),
        (
            server(json!({"apiKey": {"valueFrom": {"secretKeyRef": map, "configMapKeyRef": map}}})),
            "give exactly one of secretKeyRef and configMapKeyRef",
        ),
        (
            server(json!({"apiKey": {"value": "k"}, "basicAuth": {"valueFrom": key}})),
            "apiKey and basicAuth are both sent as the Authorization header",
        ),
        (
            server(json!({"headers": [{"name": "X-A"}]})),
            "give exactly one of value and valueFrom",
        ),
        (
            server(json!({"headers": [{"name": "authorization", "value": "x"}]})),
            "this header is the client's own: use apiKey or basicAuth",
        ),
        (
            server(json!({"headers": [{"name": "X A", "value": "x"}]})),
            "headers[0].name",
        ),
        (
            server(json!({"caBundle": {"valueFrom": {}}})),
            "give exactly one of secretKeyRef and configMapKeyRef",
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
            "write a whole URL such as https://api.doppler.com",
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
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_specs_with_a_correction() -> Result<()> {
    let client = client().await?;
    namespace(&client, "crd-refusals").await?;
    let sound = binding("sound", &valid_spec())?;
    let api = kubernetes::api(&client, "crd-refusals", &sound).await?;
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    api.create(&dry, &sound)
        .await
        .context("the spec that the cases spoil")?;
    let mut faults = Vec::new();
    for (change, sentence) in refusals() {
        match api
            .create(&dry, &binding("spoilt", &spec_with(&change))?)
            .await
        {
            Ok(_) => faults.push(format!("{change} was taken")),
            Err(kube::Error::Api(status))
                if status.code == 422 && status.message.contains(sentence) => {}
            Err(error) => faults.push(format!("{change}: not `{sentence}` but {error}")),
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
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
    // As kubectl does.
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
async fn accepts_every_example() -> Result<()> {
    let client = client().await?;
    let mut taken = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for object in kubernetes::documents(&std::fs::read_to_string(&path)?)? {
            if kubernetes::kind(&object) == "PrefectWorkPool" {
                continue; // Its definition is prefect-operator's.
            }
            let home = object.namespace().unwrap_or_else(|| "default".to_owned());
            namespace(&client, &home).await?;
            let api = kubernetes::api(&client, &home, &object).await?;
            let strict = PatchParams {
                field_validation: Some(kube::api::ValidationDirective::Strict),
                ..PatchParams::apply("kubectl")
            };
            let strict = PatchParams {
                dry_run: true,
                ..strict
            };
            let name = object.name_any();
            api.patch(&name, &strict, &Patch::Apply(&object))
                .await
                .with_context(|| format!("{name} of {}", path.display()))?;
            taken += usize::from(kubernetes::kind(&object) == "DopplerPrefectBinding");
        }
    }
    ensure!(taken >= 6, "only {taken} bindings among the examples");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn accepts_every_server_form_and_duration_and_sets_defaults() -> Result<()> {
    let client = client().await?;
    namespace(&client, "crd-forms").await?;
    let api = kubernetes::api(&client, "crd-forms", &binding("any", &valid_spec())?).await?;
    let key = json!({"secretKeyRef": {"name": "a", "key": "b"}});
    let reference = json!({"valueFrom": key});
    let servers = [
        json!({"name": "prefect-server"}),
        json!({"remoteApiUrl": "https://p.example.com"}),
        json!({"accountId": "a-1", "workspaceId": "w-1", "apiKey": {"value": "k"}}),
        json!({"remoteApiUrl": "https://api.prefect.cloud/api", "accountId": "a", "workspaceId": "w", "apiKey": reference}),
        json!({"name": "p", "apiKey": {"valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}}),
        json!({"name": "p", "basicAuth": reference, "caBundle": reference}),
        json!({"name": "p", "headers": [{"name": "X-A", "value": "x"}, {"name": "X-B", "valueFrom": key}]}),
    ];
    for (number, server) in servers.iter().enumerate() {
        let object = binding(
            &format!("server-{number}"),
            &json!({"prefect": {"server": server}}),
        )?;
        let made = api
            .create(&PostParams::default(), &object)
            .await
            .with_context(|| server.to_string())?;
        let block = &made.data["spec"]["prefect"]["block"];
        ensure!(
            *block == json!({"name": "doppler-config", "typeSlug": "secret"}),
            "{block}"
        );
    }
    for (number, interval) in ["10s", "30s", "5m", "1h30m", "24h", "1h0m10s"]
        .iter()
        .enumerate()
    {
        let mut spec = valid_spec();
        spec["refreshInterval"] = json!(interval);
        let made = api
            .create(
                &PostParams::default(),
                &binding(&format!("interval-{number}"), &spec)?,
            )
            .await
            .context(*interval)?;
        let pool = &made.data["spec"]["inject"]["workPools"][0];
        ensure!(
            *pool == json!({"name": "k8s", "mode": "Patch", "optional": true}),
            "{pool}"
        );
    }
    let three = json!({"doppler": {"project": "p", "config": "c", "accessToken": reference}});
    let made = api
        .create(&PostParams::default(), &binding("without-prefect", &three)?)
        .await?;
    ensure!(
        made.data["spec"].get("refreshInterval").is_none(),
        "a default would override the operator's flag"
    );
    Ok(())
}

/// The fields below `path` that `kubectl explain` has no words for.
fn collect_undocumented(path: &str, schema: &Value, found: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["description"]
            .as_str()
            .is_none_or(|text| text.len() < 10)
        {
            found.push(path.clone());
        }
        collect_undocumented(&path, field, found);
        collect_undocumented(&path, &field["items"], found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_printer_columns_short_name_and_field_docs() -> Result<()> {
    let crd: Value = serde_json::to_value(&kubernetes::documents(CRD)?[0])?;
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .context("no columns")?;
    let named = |wide: bool| -> Vec<&str> {
        let of = columns
            .iter()
            .filter(|column| column["priority"].as_i64().unwrap_or(0) == i64::from(wide));
        of.filter_map(|column| column["name"].as_str()).collect()
    };
    ensure!(
        named(false)
            == [
                "Ready", "Reason", "Project", "Config", "Keys", "Changed", "Age"
            ],
        "{columns:?}"
    );
    ensure!(named(true) == ["Secret", "Pools", "Message"], "{columns:?}");
    ensure!(
        crd["spec"]["names"]["shortNames"] == json!(["dpb"])
            && crd["spec"]["names"]["categories"] == json!(["doppler"])
    );
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = Vec::new();
    collect_undocumented("spec", &schema["properties"]["spec"], &mut found);
    collect_undocumented("status", &schema["properties"]["status"], &mut found);
    found.retain(|path| !path.starts_with("status.conditions."));
    ensure!(
        found.is_empty(),
        "fields without a word for `kubectl explain`: {found:?}"
    );
    // The API server has it as it is here.
    let client = client().await?;
    let definition = kubernetes::api(&client, "", &kubernetes::documents(CRD)?[0])
        .await?
        .get("dopplerprefectbindings.doppler-prefect.dev")
        .await?;
    ensure!(
        definition.data["spec"]["versions"][0]["subresources"]["status"].is_object(),
        "no status subresource"
    );
    let status = &definition.data["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        ["status"]["properties"];
    for (list, key) in [
        ("conditions", "type"),
        ("heldBack", "name"),
        ("workPools", "name"),
    ] {
        ensure!(
            status[list]["x-kubernetes-list-type"] == "map"
                && status[list]["x-kubernetes-list-map-keys"] == json!([key]),
            "{list} is no list-map by {key}"
        );
    }
    Ok(())
}
