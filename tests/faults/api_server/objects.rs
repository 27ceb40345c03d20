//! Another client changes or deletes the objects that the operator works with.
//!
//! Input: none. Output: what was seen.
//! Invariants: the CRD is the current one when a case ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::http::Request;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use testkit::kubernetes;

use super::{RECOVERY_LIMIT, change, plane, recovers, setup, world, world_with};
use crate::case::Seen;
use crate::stage::{after, before};
use crate::world::{CRD, secret};

pub async fn secret_edited() -> Result<Seen> {
    let world = world("api-edited").await?;
    let start = Instant::now();
    world
        .edit_secret(
            "b",
            &json!({"stringData": {"A": secret("theirs"), "NEW": secret("theirs")}}),
        )
        .await?;
    world.until_values("b", &before()).await?;
    let mended = Instant::now();
    change(&world);
    recovers(world, "the values were restored", None, start, mended).await
}

pub async fn secret_contested() -> Result<Seen> {
    const EDITS: u32 = 200;
    let world = world("api-contested").await?;
    let start = Instant::now();
    let writes = world.writes(Some("secret")).await?;
    for number in 0..EDITS {
        world
            .edit_secret(
                "b",
                &json!({"stringData": {"A": secret(&format!("{number}"))}}),
            )
            .await?;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let repairs = world.writes(Some("secret")).await? - writes;
    ensure!(
        repairs < u64::from(EDITS) / 2,
        "{repairs} repairs after {EDITS} edits"
    );
    let condition = world.condition("b", "SecretSynced").await?;
    ensure!(
        condition.reason == "SecretContested",
        "{}",
        condition.reason
    );
    let mended = Instant::now();
    change(&world);
    world
        .until_within(RECOVERY_LIMIT, "the newest values", async || {
            ensure!(world.values("b").await? == after(), "the values are older");
            Ok(())
        })
        .await?;
    world.finish().await?;
    Ok(Seen {
        what: format!("SecretContested, {repairs} repairs after {EDITS} edits"),
        requests: Some(repairs),
        lasted: Some(mended - start),
        recovery: Some(mended.elapsed()),
    })
}

pub async fn secret_deleted() -> Result<Seen> {
    let world = world("api-deleted").await?;
    let start = Instant::now();
    world.delete_secret("b").await?;
    world.until_values("b", &before()).await?;
    let mended = Instant::now();
    change(&world);
    recovers(world, "the Secret was created again", None, start, mended).await
}

pub async fn crd_deleted() -> Result<Seen> {
    let world = world("api-crd").await?;
    let start = Instant::now();
    kubernetes::delete(&world.client, &world.name, CRD).await?;
    world
        .until("the CRD to be gone", async || {
            let path = "/apis/doppler-prefect.dev/v1alpha1/dopplerprefectbindings";
            let listed = world
                .client
                .request_text(Request::get(path).body(Vec::new())?)
                .await;
            ensure!(listed.is_err(), "the kind is still served");
            Ok(())
        })
        .await?;
    world.apply(CRD).await?;
    change(&world);
    let mended = Instant::now();
    world.apply_binding("b", &world.spec()).await?;
    recovers(
        world,
        "a binding that was applied again is Ready",
        None,
        start,
        mended,
    )
    .await
}

pub async fn crd_rolled_back() -> Result<Seen> {
    let world = world("api-rollback").await?;
    let mut older = serde_json::to_value(&kubernetes::documents(CRD)?[0])?;
    let status = older
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties")
        .and_then(Value::as_object_mut)
        .context("no schema of the status")?;
    status.retain(|name, _| name == "conditions" || name == "observedGeneration");
    let start = Instant::now();
    world.apply(&older.to_string()).await?;
    change(&world);
    world.until_values("b", &after()).await?;
    world.until_polls("unchanged", 3).await?;
    let writes = world.writes(Some("status")).await?;
    world.until_polls("unchanged", 5).await?;
    let more = world.writes(Some("status")).await? - writes;
    world.apply(CRD).await?;
    ensure!(more <= 1, "{more} writes of the status in five polls");
    let mended = Instant::now();
    recovers(
        world,
        &format!("{more} writes of the status in five polls"),
        None,
        start,
        mended,
    )
    .await
}

pub async fn namespace_deleted() -> Result<Seen> {
    let extra = "api-namespace-gone";
    let mut setup = setup().await?;
    setup = setup.args(&[
        "--watch-namespace",
        "api-namespace,api-namespace-gone",
        "--release-timeout",
        "5s",
    ]);
    let plane = plane().await?;
    let client = plane.admin_client()?;
    testkit::grant::ensure_namespace(&client, extra).await?;
    let rendered = crate::world::chart::render(
        "api-namespace-operator",
        extra,
        None,
        false,
        crate::world::chart::Optional::Nothing,
    )
    .await?;
    testkit::grant::grant_from_chart(plane, &rendered, "api-namespace-operator").await?;
    let world = world_with("api-namespace", setup).await?;
    let binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {"name": "other", "namespace": extra}, "spec": world.spec(),
    });
    kubernetes::apply(&client, extra, &binding.to_string()).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), extra);
    world
        .until("the Secret in the other namespace", async || {
            Ok(secrets.get("other").await?)
        })
        .await?;
    let start = Instant::now();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete(extra, &DeleteParams::default()).await?;
    world
        .until_within(RECOVERY_LIMIT, "the namespace to be gone", async || {
            ensure!(
                namespaces.get_opt(extra).await?.is_none(),
                "it is terminating"
            );
            Ok(())
        })
        .await?;
    let mended = Instant::now();
    change(&world);
    recovers(world, "the namespace is gone", None, start, mended).await
}
