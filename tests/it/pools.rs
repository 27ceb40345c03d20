//! Work pools on the real Prefect server: which templates the operator writes, which it skips, and
//! what it reports.

mod cluster;
mod managed;
mod placeholders;
mod refused;
mod selected;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::prefect::{Deployment, flows};

use crate::work_pools::{USER_SOURCES, entry, replaced, template, with_sources};
use crate::world::{World, secret};

async fn world(name: &str) -> Result<World> {
    let world = World::start(name).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    Ok(world)
}

#[tokio::test(flavor = "multi_thread")]
async fn adds_the_entry_in_front_and_moves_nothing_else() -> Result<()> {
    let world = world("pool-front").await?;
    // Keys and numbers that parsing and serialising again would move or change.
    let odd = r#""title": "Namespace", "zeta": 1.50, "alpha": 100000000000000000000000, "mid": 1e-7, "emoji": "🦀 \u00e9\u2028","#;
    let text = replaced(&template(&world.name), "\"title\": \"Namespace\",", odd);
    world
        .create_pool("pool-front", &with_sources(&text, USER_SOURCES))
        .await?;
    let before = world.template_text("pool-front").await?;
    ensure!(
        before.contains("\"zeta\":1.5,\"alpha\":1"),
        "the server itself moves keys: {before}"
    );

    world.bind_to("front", "pool-front").await?;
    world
        .until_condition("front", "Injected", "True", "Injected")
        .await?;
    world.until_ready("front").await?;
    world.until_pool("front", "pool-front", "Patched").await?;
    let row = world.printed_row("front").await?;
    for (column, cell) in [
        ("Ready", json!("True")),
        ("Reason", json!("Ready")),
        ("Project", json!("pool-front")),
        ("Config", json!("dev")),
        ("Secret", json!("front")),
        ("Pools", json!("pool-front")),
    ] {
        ensure!(row.get(column) == Some(&cell), "{column}: {row:?}");
    }
    for column in ["Keys", "Changed", "Age", "Message"] {
        let cell = row.get(column);
        ensure!(
            cell.is_some_and(|cell| !cell.is_null()),
            "{column}: {row:?}"
        );
    }
    let ours = format!("\"envFrom\":[{},", entry("front", true));
    let expected = replaced(&before, "\"envFrom\":[", &ours);
    assert_eq!(world.template_text("pool-front").await?, expected);

    // The operator writes the pool once.
    let written = world.last_write("pool-front").await?;
    world.until_polls("unchanged", 3).await?;
    assert_eq!(world.last_write("pool-front").await?, written);

    // Removal restores the text.
    world.delete_binding("front").await?;
    world.until_binding_deleted("front").await?;
    assert_eq!(world.template_text("pool-front").await?, before);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn mode_observe_never_writes_and_sees_an_added_entry() -> Result<()> {
    let world = world("pool-observe").await?;
    let text = with_sources(&template(&world.name), USER_SOURCES);
    world.create_pool("pool-observe", &text).await?;
    let written = world.last_write("pool-observe").await?;
    let pools = json!([{"name": "pool-observe", "mode": "Observe"}]);
    world
        .apply_binding("seen", &world.pool_spec(&pools))
        .await?;
    world.until_pool("seen", "pool-observe", "Absent").await?;
    let condition = world
        .until_condition("seen", "Injected", "False", "PoolEntryAbsent")
        .await?;
    ensure!(
        condition.message.contains(r#""op":"add""#),
        "{}",
        condition.message
    );
    world.until_polls("unchanged", 2).await?;
    assert_eq!(world.last_write("pool-observe").await?, written);

    let added_by_hand = r#"[{"configMapRef":{"name":"mine"}},{"secretRef":{"name":"seen"}}]"#;
    world
        .write_template(
            "pool-observe",
            &with_sources(&template(&world.name), added_by_hand),
        )
        .await?;
    let written = world.last_write("pool-observe").await?;
    world
        .until_pool("seen", "pool-observe", "AlreadyPresent")
        .await?;
    world.until_ready("seen").await?;
    // An entry of another writer stays, even when the binding is deleted.
    world.delete_binding("seen").await?;
    world.until_binding_deleted("seen").await?;
    assert_eq!(world.last_write("pool-observe").await?, written);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn skips_an_unsuitable_pool_until_it_is_suitable() -> Result<()> {
    let world = world("pool-unfit").await?;
    let good = template(&world.name);
    let cluster = "\"cluster_config\": \"{{ cluster_config }}\"";
    let unfit = [
        ("unfit-missing", "Missing", None),
        ("unfit-empty", "NotEditable", Some("{}".to_owned())),
        (
            "unfit-placeholder",
            "NotEditable",
            Some(with_sources(&good, "\"{{ env_from }}\"").replacen(
                "\"properties\": {",
                "\"properties\": {\"env_from\": {\"type\": \"array\", \"default\": []},",
                1,
            )),
        ),
        (
            "unfit-namespace",
            "OtherNamespace",
            Some(template("somewhere-else")),
        ),
        (
            "unfit-cluster",
            "OtherCluster",
            Some(replaced(
                &good,
                cluster,
                "\"cluster_config\": {\"context_name\": \"far\", \"config\": {}}",
            )),
        ),
    ];
    for (pool, _, text) in &unfit {
        if let Some(text) = text {
            world.create_pool(pool, text).await?;
        }
    }
    world
        .api
        .create_pool("unfit-process", "process", None)
        .await?;
    world.create_pool("unfit-not", &good).await?;
    let process = world.last_write("unfit-process").await?;

    let mut pools = vec![
        json!({"name": "unfit-not"}),
        json!({"name": "unfit-process"}),
    ];
    pools.extend(unfit.iter().map(|(pool, ..)| json!({"name": pool})));
    world
        .apply_binding("unfit", &world.pool_spec(&json!(pools)))
        .await?;
    world.until_pool("unfit", "unfit-not", "Patched").await?;
    world
        .until_pool("unfit", "unfit-process", "NotEditable")
        .await?;
    for (pool, state, text) in &unfit {
        world.until_pool("unfit", pool, state).await?;
        if text.is_some() {
            let sources = world.sources(pool).await?;
            ensure!(sources.is_empty(), "{pool} was written: {sources:?}");
        }
    }
    // The Secret exists anyway.
    world
        .until_condition("unfit", "SecretSynced", "True", "Synced")
        .await?;
    let injected = world.condition("unfit", "Injected").await?;
    ensure!(
        injected.status == "False" && injected.message.contains("unfit-"),
        "{injected:?}"
    );

    for (pool, _, text) in &unfit {
        match text {
            None => world.create_pool(pool, &good).await?,
            Some(_) => world.write_template(pool, &good).await?,
        }
    }
    for (pool, ..) in &unfit {
        world.until_pool("unfit", pool, "Patched").await?;
        assert_eq!(world.sources(pool).await?, ["unfit"], "{pool}");
    }
    assert_eq!(
        world.last_write("unfit-process").await?,
        process,
        "a process pool was written"
    );
    let others: Vec<_> = pools
        .into_iter()
        .filter(|pool| pool["name"] != "unfit-process")
        .collect();
    world
        .apply_binding("unfit", &world.pool_spec(&json!(others)))
        .await?;
    world.until_ready("unfit").await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_a_deployment_with_its_own_namespace() -> Result<()> {
    let world = world("pool-deployments").await?;
    let text = template(&world.name);
    for pool in ["deployments-idle", "deployments-strict"] {
        world.create_pool(pool, &text).await?;
        let deployment = Deployment {
            name: &format!("{pool}-elsewhere"),
            pool,
            path: &flows(),
            entrypoint: "flow.py:main",
            job_variables: json!({"namespace": "elsewhere"}),
        };
        world.api.create_deployment(&deployment).await?;
    }
    let pools =
        json!([{"name": "deployments-idle"}, {"name": "deployments-strict", "optional": false}]);
    world
        .apply_binding("deployed", &world.pool_spec(&pools))
        .await?;
    let idle = world
        .until_pool("deployed", "deployments-idle", "Patched")
        .await?;
    assert_eq!(idle["unservedNamespaces"], json!(["elsewhere"]));
    // With `optional: false` its runs would wait forever.
    let strict = world
        .until_pool("deployed", "deployments-strict", "OtherNamespace")
        .await?;
    assert_eq!(strict["unservedNamespaces"], json!(["elsewhere"]));
    ensure!(world.sources("deployments-strict").await?.is_empty());
    let condition = world
        .until_condition("deployed", "Injected", "False", "PoolOtherNamespace")
        .await?;
    ensure!(
        condition.message.contains("deployments-strict-elsewhere"),
        "{}",
        condition.message
    );
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_an_injection_waits_for() -> Result<()> {
    let world = world("pool-waits").await?;
    world
        .create_pool("pool-waits", &template(&world.name))
        .await?;
    let pools = json!([{"name": "pool-waits"}]);
    let mut spec = world.pool_spec(&pools);
    spec["prefect"]["block"]["name"] = json!("no-such-block");
    world.apply_binding("blockless", &spec).await?;
    world
        .until("the condition to name the Secret", async || {
            let injected = world.condition("blockless", "Injected").await?;
            let waits = injected.message.contains("once Secret blockless exists");
            ensure!(injected.status == "Unknown" && waits, "{injected:?}");
            Ok(())
        })
        .await?;
    let mut spec = world.pool_spec(&pools);
    spec["prefect"]["server"]["remoteApiUrl"] = json!("https://prefect.example.com/api");
    world.apply_binding("refused", &spec).await?;
    let condition = world
        .until_condition("refused", "Injected", "Unknown", "HostNotAllowed")
        .await?;
    ensure!(
        condition.message.contains("does not read the work pools"),
        "{}",
        condition.message
    );
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_keys_that_the_pool_overrides() -> Result<()> {
    let world = world("pool-shadows").await?;
    world.set_doppler_secret("LOG_LEVEL", "debug");
    let text = template(&world.name);
    let text = text.replacen(
        "\"env\": \"{{ env }}\",",
        "\"env\": {\"LOG_LEVEL\": \"info\"},",
        1,
    );
    world.create_pool("pool-shadows", &text).await?;
    world.bind_to("shadowed", "pool-shadows").await?;
    world.until_ready("shadowed").await?;
    world
        .until("the shadowed key", async || {
            let pool = world.pool_status("shadowed", "pool-shadows").await?;
            ensure!(pool["shadowedKeys"] == json!(["LOG_LEVEL"]), "{pool}");
            Ok(())
        })
        .await?;
    let injected = world.condition("shadowed", "Injected").await?;
    ensure!(
        injected.message.contains("keys of the Secret: LOG_LEVEL"),
        "{}",
        injected.message
    );
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_contested_template_and_repairs_it() -> Result<()> {
    let world = world("pool-contested").await?;
    let text = with_sources(&template(&world.name), USER_SOURCES);
    world.create_pool("pool-contested", &text).await?;
    world.bind_to("contested", "pool-contested").await?;
    world.until_ready("contested").await?;

    // Removes the entry each time the operator adds it, at most once a second, and counts the
    // repairs.
    let mut repaired = 0;
    world
        .until("Contested", async || {
            let entry = world
                .sources("pool-contested")
                .await?
                .contains(&"contested".to_owned());
            if entry {
                repaired += 1;
                world.write_template("pool-contested", &text).await?;
            }
            let pool = world.pool_status("contested", "pool-contested").await?;
            ensure!(pool["state"] == "Contested", "{pool}");
            Ok(())
        })
        .await?;
    ensure!(repaired >= 2, "contested after {repaired} changes");
    let condition = world
        .until_condition("contested", "Injected", "False", "PoolContested")
        .await?;
    ensure!(
        condition.message.contains("mode: Observe"),
        "{}",
        condition.message
    );
    // The Secret is unaffected, and the repairs continue.
    world
        .until_condition("contested", "SecretSynced", "True", "Synced")
        .await?;
    world
        .until_sources("pool-contested", &["contested", "mine", "theirs"])
        .await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sorts_two_bindings_and_removes_one_alone() -> Result<()> {
    let world = world("pool-two").await?;
    world
        .create_pool(
            "pool-two",
            &with_sources(&template(&world.name), USER_SOURCES),
        )
        .await?;
    let before = world.template_text("pool-two").await?;
    world.bind_to("b-second", "pool-two").await?;
    world.until_ready("b-second").await?;
    world.bind_to("a-first", "pool-two").await?;
    world.until_ready("a-first").await?;
    assert_eq!(
        world.sources("pool-two").await?,
        ["a-first", "b-second", "mine", "theirs"]
    );

    world.delete_binding("a-first").await?;
    world.until_binding_deleted("a-first").await?;
    assert_eq!(
        world.sources("pool-two").await?,
        ["b-second", "mine", "theirs"]
    );
    world.until_ready("b-second").await?;
    world.delete_binding("b-second").await?;
    world.until_binding_deleted("b-second").await?;
    assert_eq!(world.template_text("pool-two").await?, before);
    world.finish().await
}
