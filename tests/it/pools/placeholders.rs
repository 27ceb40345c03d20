//! Templates with placeholders, and deployments that set variables.

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::prefect::{Deployment, flows};

use super::world;
use crate::work_pools::{entry, template, with_sources};

#[tokio::test(flavor = "multi_thread")]
async fn the_advice_for_a_placeholder_makes_the_binding_ready() -> Result<()> {
    let world = world("pool-placeholder").await?;
    let text = with_sources(&template(&world.name), "\"{{ env_from }}\"");
    let with_default = |default: &str| {
        let variable = format!("\"env_from\": {{\"type\": \"array\", \"default\": {default}}},");
        text.replacen(
            "\"properties\": {",
            &format!("\"properties\": {{{variable}"),
            1,
        )
    };
    world
        .create_pool("pool-placeholder", &with_default("[]"))
        .await?;
    world.bind_to("placed", "pool-placeholder").await?;
    let condition = world
        .until_condition("placed", "Injected", "False", "PoolNotEditable")
        .await?;
    let ours = entry("placed", true);
    let advice = format!("put {ours} into the list `variables.properties.env_from.default`");
    ensure!(condition.message.contains(&advice), "{}", condition.message);
    world
        .write_template("pool-placeholder", &with_default(&format!("[{ours}]")))
        .await?;
    world
        .until_pool("placed", "pool-placeholder", "AlreadyPresent")
        .await?;
    world.until_ready("placed").await?;
    // The entry is the user's.
    let written = world.last_write("pool-placeholder").await?;
    world.delete_binding("placed").await?;
    world.until_binding_deleted("placed").await?;
    assert_eq!(world.last_write("pool-placeholder").await?, written);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn job_variables_count_only_if_the_template_uses_them() -> Result<()> {
    let world = world("pool-variables").await?;
    let text = template(&world.name);
    let namespace = "\"namespace\": \"{{ namespace }}\"";
    assert_eq!(text.matches(namespace).count(), 2);
    let renamed = text
        .replace(namespace, "\"namespace\": \"{{ k8s_namespace }}\"")
        .replacen(
            "\"properties\": {",
            &format!(
                "\"properties\": {{\"k8s_namespace\": {{\"type\": \"string\", \"default\": \"{}\"}},",
                world.name
            ),
            1,
        );
    let literal = text.replace(namespace, &format!("\"namespace\": \"{}\"", world.name));
    let cases = [
        ("variables-literal", &literal, "namespace", "Patched"),
        ("variables-other", &renamed, "namespace", "Patched"),
        (
            "variables-renamed",
            &renamed,
            "k8s_namespace",
            "OtherNamespace",
        ),
    ];
    for (pool, text, variable, _) in cases {
        world.create_pool(pool, text).await?;
        let deployment = Deployment {
            name: &format!("{pool}-elsewhere"),
            pool,
            path: &flows(),
            entrypoint: "flow.py:main",
            job_variables: json!({variable: "elsewhere"}),
        };
        world.api.create_deployment(&deployment).await?;
    }
    let pools = cases.map(|(pool, ..)| json!({"name": pool, "optional": false}));
    world
        .apply_binding("variables", &world.pool_spec(&json!(pools)))
        .await?;
    for (pool, _, _, state) in cases {
        let status = world.until_pool("variables", pool, state).await?;
        let unserved = &status["unservedNamespaces"];
        let expected = state == "OtherNamespace";
        ensure!(
            (unserved == &json!(["elsewhere"])) == expected && (unserved.is_null() != expected),
            "{status}"
        );
    }
    world.finish().await
}
