//! What the API server accepts, and the defaults that it sets.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use testkit::kubernetes;

use super::{binding, client, namespace, valid_spec};

#[tokio::test(flavor = "multi_thread")]
async fn accepts_every_example() -> Result<()> {
    let client = client().await?;
    let mut accepted = 0;
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
                ..PatchParams::apply("kubectl").force()
            };
            let strict = PatchParams {
                dry_run: true,
                ..strict
            };
            let name = object.name_any();
            api.patch(&name, &strict, &Patch::Apply(&object))
                .await
                .with_context(|| format!("{name} of {}", path.display()))?;
            accepted += usize::from(kubernetes::kind(&object) == "DopplerPrefectBinding");
        }
    }
    ensure!(accepted >= 6, "only {accepted} bindings among the examples");
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
        // The operator itself applies the defaults of list items: see `apply`.
        let pool = &made.data["spec"]["inject"]["workPools"][0];
        ensure!(*pool == json!({"name": "k8s"}), "{pool}");
    }
    let item = json!({"project": "p", "config": "c", "accessToken": reference, "prefix": "A_"});
    let two = json!({"doppler": {"configs": [item, item]}});
    api.create(&PostParams::default(), &binding("two-configs", &two)?)
        .await?;
    let three = json!({"doppler": {"project": "p", "config": "c", "accessToken": reference}});
    let made = api
        .create(&PostParams::default(), &binding("without-prefect", &three)?)
        .await?;
    let account = json!({"name": "doppler-reader"});
    let identity =
        json!({"id": "6c6e6f1a-0000-4000-8000-000000000001", "serviceAccountRef": account});
    let three = json!({"doppler": {"project": "p", "config": "c", "identity": identity}});
    let object = binding("without-a-token", &three)?;
    let stored = api.create(&PostParams::default(), &object).await?;
    ensure!(
        stored.data["spec"]["doppler"]["identity"] == identity,
        "{:?}",
        stored.data
    );
    // The block may hold the id.
    let mut spec = valid_spec();
    spec["doppler"]["identity"] = json!({"serviceAccountRef": account, "audiences": ["a", "b"]});
    api.create(&PostParams::default(), &binding("id-of-the-block", &spec)?)
        .await?;
    ensure!(
        made.data["spec"].get("refreshInterval").is_none(),
        "a default would override the operator's flag"
    );
    Ok(())
}
