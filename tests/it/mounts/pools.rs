//! Mounts in the base job templates of work pools.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{PATH, lists, mounting, volume, volume_mount, with_files, world};
use crate::check::run_check_of;
use crate::work_pools::{replaced, template};
use crate::world::{Setup, World};

/// The lists of the pool's template.
async fn pool_lists(w: &World) -> Result<(Value, Value)> {
    let template: Value = serde_json::from_str(&w.template_text(&w.name).await?)?;
    Ok(lists(
        &template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"],
    ))
}

/// Waits until the template mounts the files of exactly these Secrets.
async fn until_mounted(w: &World, expected: &[(&str, &str)]) -> Result<()> {
    w.until(&format!("the mounts {expected:?}"), async || {
        let (volumes, mounts) = pool_lists(w).await?;
        let wanted: Vec<Value> = expected.iter().map(|(secret, _)| volume(secret)).collect();
        let wanted_mounts = expected
            .iter()
            .map(|(secret, path)| volume_mount(secret, path));
        let wanted_mounts: Vec<Value> = wanted_mounts.collect();
        let (wanted, wanted_mounts) = match expected {
            [] => (Value::Null, Value::Null),
            _ => (json!(wanted), json!(wanted_mounts)),
        };
        ensure!(
            (&volumes, &mounts) == (&wanted, &wanted_mounts),
            "{volumes} {mounts}"
        );
        Ok(())
    })
    .await
}

/// A template with these members in the pod's spec and in its first container.
fn template_with(w: &World, pod: &str, container: &str) -> String {
    let text = replaced(
        &template(&w.name),
        "\"containers\": [",
        &format!("{pod}\"containers\": ["),
    );
    let env = "\"env\": \"{{ env }}\",\n        \"image\"";
    replaced(
        &text,
        env,
        &format!("\"env\": \"{{{{ env }}}}\",{container}\n        \"image\""),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_files_and_restores_the_template() -> Result<()> {
    let w = world("mount-pool", Setup::default()).await?;
    // An empty list is not the same text as none.
    w.create_pool("mount-pool", &template_with(&w, "\"volumes\": [],", ""))
        .await?;
    let before = w.template_text("mount-pool").await?;
    ensure!(before.contains("\"volumes\":[]"), "{before}");
    let spec = mounting(&w, &json!({"path": PATH, "files": ["profiles.yml"]}));
    let (all_ok, checked) = run_check_of(&w, "etl", &spec, &[]).await?;
    for part in [
        "\"mountPath\": \"/srv/doppler/files\"",
        "\"key\": \"profiles.yml\"",
        "doppler-etl-files",
    ] {
        ensure!(all_ok && checked.contains(part), "{part}: {checked}");
    }
    let (_, printed) = run_check_of(&w, "etl", &spec, &["--print-patch", "json"]).await?;
    let patch: Value = serde_json::from_str(&printed)?;
    ensure!(
        patch.as_array().is_some_and(|patch| patch.len() == 3),
        "{patch}"
    );

    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    w.until_pool("etl", "mount-pool", "Patched").await?;
    let (volumes, mounts) = pool_lists(&w).await?;
    let items = json!([{"key": "profiles.yml", "path": "profiles.yml"}]);
    ensure!(volumes[0]["secret"]["items"] == items, "{volumes}");
    ensure!(mounts == json!([volume_mount("etl", PATH)]), "{mounts}");
    let injected = w.condition("etl", "Injected").await?;
    ensure!(
        injected
            .message
            .contains("its files are mounted in those of mount-pool"),
        "{}",
        injected.message
    );
    // Entry and mount are one write, and nothing follows.
    let written = w.last_write("mount-pool").await?;
    w.until_polls("unchanged", 3).await?;
    ensure!(
        w.last_write("mount-pool").await? == written,
        "it writes again"
    );
    let status = w.status("etl").await?;
    let entries = status["injectedEntries"].as_array().map_or(0, Vec::len);
    ensure!(entries == 2, "{status}");

    // Another path is a change in place; without a mount, only the entry is left.
    w.apply_binding(
        "etl",
        &mounting(
            &w,
            &json!({"path": "/srv/other", "files": ["profiles.yml"]}),
        ),
    )
    .await?;
    w.until("the other path", async || {
        let (_, mounts) = pool_lists(&w).await?;
        ensure!(
            mounts == json!([volume_mount("etl", "/srv/other")]),
            "{mounts}"
        );
        Ok(())
    })
    .await?;
    w.apply_binding(
        "etl",
        &with_files(w.pool_spec(&json!([{"name": "mount-pool"}]))),
    )
    .await?;
    w.until("no mount", async || {
        let (volumes, mounts) = pool_lists(&w).await?;
        ensure!(
            (&volumes, &mounts) == (&json!([]), &Value::Null),
            "{volumes} {mounts}"
        );
        Ok(())
    })
    .await?;
    w.until("a status with one entry", async || {
        let status = w.status("etl").await?;
        let entries = status["injectedEntries"].as_array().map_or(0, Vec::len);
        ensure!(entries == 1, "{status}");
        Ok(())
    })
    .await?;
    ensure!(
        w.secrets().get_opt("etl-files").await?.is_some(),
        "the files are gone"
    );

    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    w.delete_binding("etl").await?;
    w.until_binding_deleted("etl").await?;
    ensure!(
        w.template_text("mount-pool").await? == before,
        "the template differs"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn repairs_a_part_that_another_client_removes() -> Result<()> {
    let w = world("mount-drift", Setup::default()).await?;
    w.create_pool("mount-drift", &template("mount-drift"))
        .await?;
    let before = w.template_text("mount-drift").await?;
    w.apply_binding("etl", &mounting(&w, &json!({"path": PATH})))
        .await?;
    w.until_ready("etl").await?;
    until_mounted(&w, &[("etl", PATH)]).await?;
    let with = w.template_text("mount-drift").await?;
    let part = format!(",\"volumes\":{}", json!([volume("etl")]));
    for broken in [before.clone(), with.replacen(&part, "", 1)] {
        ensure!(broken != with, "nothing is removed: {with}");
        w.write_template("mount-drift", &broken).await?;
        until_mounted(&w, &[("etl", PATH)]).await?;
    }
    w.delete_binding("etl").await?;
    w.until_binding_deleted("etl").await?;
    until_mounted(&w, &[]).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_path_is_reported_and_nothing_is_written() -> Result<()> {
    let w = world("mount-taken", Setup::default()).await?;
    let own = "\"volumes\": [{\"name\": \"mine\", \"emptyDir\": {}}],";
    let mounted = format!("\"volumeMounts\": [{{\"name\": \"mine\", \"mountPath\": \"{PATH}\"}}],");
    w.create_pool("mount-taken", &template_with(&w, own, &mounted))
        .await?;
    let (volumes, mounts) = pool_lists(&w).await?;
    let spec = mounting(&w, &json!({"path": PATH}));
    w.apply_binding("etl", &spec).await?;
    let condition = w
        .until_condition("etl", "Injected", "False", "PoolMountTaken")
        .await?;
    let text = format!("work pool mount-taken mounts its volume mine at {PATH}");
    ensure!(condition.message.contains(&text), "{}", condition.message);
    w.until_pool("etl", "mount-taken", "NotEditable").await?;
    ensure!(
        pool_lists(&w).await? == (volumes, mounts),
        "the lists were written"
    );
    // The environment is not affected.
    w.until_sources("mount-taken", &["etl"]).await?;
    let (all_ok, checked) = run_check_of(&w, "etl", &spec, &[]).await?;
    ensure!(!all_ok && checked.contains("PoolMountTaken"), "{checked}");
    // Once it is free, the mount follows.
    w.write_template("mount-taken", &template("mount-taken"))
        .await?;
    until_mounted(&w, &[("etl", PATH)]).await?;
    w.until_ready("etl").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_two_bindings_keeps_the_path() -> Result<()> {
    let w = world("mount-two", Setup::default()).await?;
    w.create_pool("mount-two", &template("mount-two")).await?;
    w.apply_binding("second", &mounting(&w, &json!({"path": PATH})))
        .await?;
    w.until_ready("second").await?;
    // The name of the later one sorts in front.
    w.apply_binding("first", &mounting(&w, &json!({"path": PATH})))
        .await?;
    let condition = w
        .until_condition("first", "Injected", "False", "PoolMountTaken")
        .await?;
    ensure!(
        condition
            .message
            .contains(&format!("the files of Secret second-files at {PATH}")),
        "{}",
        condition.message
    );
    until_mounted(&w, &[("second", PATH)]).await?;
    w.until_sources("mount-two", &["first", "second"]).await?;
    // Beside each other, they have paths of their own.
    w.apply_binding(
        "first",
        &mounting(&w, &json!({"path": "/srv/doppler/first"})),
    )
    .await?;
    w.until_ready("first").await?;
    until_mounted(&w, &[("second", PATH), ("first", "/srv/doppler/first")]).await?;
    w.delete_binding("second").await?;
    w.until_binding_deleted("second").await?;
    until_mounted(&w, &[("first", "/srv/doppler/first")]).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placeholder_for_the_volumes_is_reported() -> Result<()> {
    let w = world("mount-placeholder", Setup::default()).await?;
    let text = template_with(&w, "\"volumes\": \"{{ volumes }}\",", "").replacen(
        "\"properties\": {",
        "\"properties\": {\"volumes\": {\"type\": \"array\", \"default\": []},",
        1,
    );
    w.create_pool("mount-placeholder", &text).await?;
    w.apply_binding("etl", &mounting(&w, &json!({"path": PATH})))
        .await?;
    let condition = w
        .until_condition("etl", "Injected", "False", "PoolNotEditable")
        .await?;
    ensure!(
        condition
            .message
            .contains("`variables.properties.volumes.default`"),
        "{}",
        condition.message
    );
    w.until_sources("mount-placeholder", &["etl"]).await?;
    // What the message asks for is accepted as the user's.
    let with = json!([volume("etl")]).to_string();
    let with = text.replacen("\"default\": []", &format!("\"default\": {with}"), 1);
    let mounted = json!([volume_mount("etl", PATH)]).to_string();
    let env = "\"env\": \"{{ env }}\",\n        \"image\"";
    let with = replaced(
        &with,
        env,
        &format!("\"env\": \"{{{{ env }}}}\",\"volumeMounts\":{mounted},\n        \"image\""),
    );
    w.write_template("mount-placeholder", &with).await?;
    w.until_ready("etl").await?;
    w.finish().await
}
