//! `runs: Selected` on the real Prefect server: what a template gets, what Prefect refuses, and what
//! stays for deployments that choose a Secret.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::prefect::{Deployment, flows};

use super::world;
use crate::work_pools::{USER_SOURCES, entry, replaced, template, with_sources};
use crate::world::{Setup, World, secret};

const PLACEHOLDER: &str = "{{ doppler_config }}";

fn selected(pool: &str) -> Value {
    json!([{"name": pool, "runs": "Selected"}])
}

async fn bind(world: &World, binding: &str, pool: &str) -> Result<()> {
    let spec = world.pool_spec(&selected(pool));
    world.apply_binding(binding, &spec).await
}

/// The names that the variable of the pool offers.
async fn offered(world: &World, pool: &str) -> Result<Value> {
    let template = world.api.template(pool).await?;
    Ok(template["variables"]["properties"]["doppler_config"]["enum"].clone())
}

async fn until_offered(world: &World, pool: &str, expected: &[&str]) -> Result<()> {
    world
        .until(&format!("pool {pool} to offer {expected:?}"), async || {
            let found = offered(world, pool).await?;
            ensure!(found == json!(expected), "{found}");
            Ok(())
        })
        .await
}

/// Creates a deployment with these job variables. Returns its ID.
async fn deploy(world: &World, pool: &str, name: &str, variables: Value) -> Result<String> {
    let deployment = Deployment {
        name: &format!("{pool}-{name}"),
        pool,
        path: &flows(),
        entrypoint: "flow.py:main",
        job_variables: variables,
    };
    world.api.create_deployment(&deployment).await
}

async fn set_variables(world: &World, deployment: &str, variables: &Value) -> Result<()> {
    let path = format!("/deployments/{deployment}");
    let body = json!({"job_variables": variables});
    world.api.patch(&path, &body).await.map(drop)
}

/// Sends a POST that Prefect refuses with 422. Returns what it says.
async fn refusal(world: &World, path: &str, body: &Value) -> Result<String> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}{path}", world.prefect.api_url());
    let answer = client.post(&url).json(body).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status == 422, "{status}: {text}");
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_come_and_go_while_a_user_edits_the_template() -> Result<()> {
    let pool = "selected-edits";
    let world = world(pool).await?;
    let text = with_sources(&template(&world.name), USER_SOURCES);
    world.create_pool(pool, &text).await?;
    let before = world.template_text(pool).await?;

    for binding in ["etl-dev", "etl-prd"] {
        bind(&world, binding, pool).await?;
    }
    world.bind_to("shared", pool).await?;
    for binding in ["etl-dev", "etl-prd", "shared"] {
        world.until_ready(binding).await?;
        world.until_pool(binding, pool, "Patched").await?;
    }
    // What a run chooses wins over what all runs get, and the user's sources win over both.
    let sources = ["shared", PLACEHOLDER, "mine", "theirs"];
    world.until_sources(pool, &sources).await?;
    until_offered(&world, pool, &["none", "etl-dev", "etl-prd"]).await?;

    // A user renames the variable's title, adds a name, and edits another part.
    let edited = world.template_text(pool).await?;
    let edited = replaced(
        &edited,
        "\"title\":\"Doppler config\"",
        "\"title\":\"Values\"",
    );
    let edited = replaced(&edited, "\"etl-dev\",", "\"by-hand\",\"etl-dev\",");
    let edited = replaced(&edited, "\"title\":\"Namespace\"", "\"title\":\"Where\"");
    world.write_template(pool, &edited).await?;
    bind(&world, "etl-stg", pool).await?;
    world.until_ready("etl-stg").await?;
    let names = ["none", "by-hand", "etl-dev", "etl-prd", "etl-stg"];
    until_offered(&world, pool, &names).await?;
    ensure!(
        world
            .template_text(pool)
            .await?
            .contains("\"title\":\"Values\"")
    );
    let written = world.last_write(pool).await?;
    world.until_polls("unchanged", 3).await?;
    assert_eq!(world.last_write(pool).await?, written, "nothing to repair");

    // The user takes their name out again. The last binding takes variable and entry along.
    let edited = world.template_text(pool).await?;
    let edited = replaced(&edited, "\"by-hand\",", "");
    world.write_template(pool, &edited).await?;
    for binding in ["etl-prd", "shared", "etl-dev", "etl-stg"] {
        world.delete_binding(binding).await?;
        world.until_binding_deleted(binding).await?;
    }
    let expected = replaced(&before, "\"title\":\"Namespace\"", "\"title\":\"Where\"");
    assert_eq!(world.template_text(pool).await?, expected);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_name_stays_until_no_deployment_chooses_it() -> Result<()> {
    let pool = "selected-used";
    let world = world(pool).await?;
    world.create_pool(pool, &template(&world.name)).await?;
    let before = world.template_text(pool).await?;
    for binding in ["used-a", "used-b"] {
        bind(&world, binding, pool).await?;
        world.until_ready(binding).await?;
    }
    let choosing = deploy(
        &world,
        pool,
        "choosing",
        json!({"doppler_config": "used-a"}),
    )
    .await?;
    let idle = deploy(&world, pool, "idle", json!({"doppler_config": "none"})).await?;
    let name = format!("{pool}-choosing");
    world
        .until("the deployment in the status", async || {
            let found = world.pool_status("used-a", pool).await?;
            ensure!(found["usedBy"] == json!([name]), "{found}");
            Ok(())
        })
        .await?;

    // A value that no binding offers is refused, with the choices.
    let flow = world.api.post("/flows/", &json!({"name": "wrong"})).await?;
    let variables = json!({"doppler_config": "kube-root"});
    let run = format!("/deployments/{idle}/create_flow_run");
    for (path, body) in [
        (
            "/deployments/",
            json!({"name": "wrong", "flow_id": flow["id"], "work_pool_name": pool, "job_variables": variables}),
        ),
        (run.as_str(), json!({"job_variables": variables})),
    ] {
        let refused = refusal(&world, path, &body).await?;
        for part in ["kube-root", "none", "used-a", "used-b"] {
            ensure!(refused.contains(part), "{part}: {refused}");
        }
    }
    // Prefect changes a deployment without looking at the value, and then refuses its runs.
    set_variables(&world, &idle, &variables).await?;
    let refused = refusal(&world, &run, &json!({})).await?;
    ensure!(refused.contains("used-a"), "{refused}");
    set_variables(&world, &idle, &json!({"doppler_config": "none"})).await?;

    // The binding is deleted. Name and Secret stay, and the message says what to change.
    world.delete_binding("used-a").await?;
    world
        .until("the deployment in the condition", async || {
            let found = world.condition("used-a", "Injected").await?;
            ensure!(found.reason == "Deleting", "{}", found.reason);
            for part in [name.as_str(), "doppler_config", "Secret used-a"] {
                ensure!(found.message.contains(part), "{}", found.message);
            }
            Ok(())
        })
        .await?;
    let event = world.until_event("PoolConfigInUse").await?;
    ensure!(event.contains(&name), "{event}");
    world.until_polls("unchanged", 2).await?;
    until_offered(&world, pool, &["none", "used-a", "used-b"]).await?;
    ensure!(world.secrets().get_opt("used-a").await?.is_some());
    world.api.create_flow_run(&choosing).await?;

    // Deployments decide when the name may go.
    set_variables(&world, &choosing, &json!({"doppler_config": "used-b"})).await?;
    world.until_binding_deleted("used-a").await?;
    until_offered(&world, pool, &["none", "used-b"]).await?;
    ensure!(world.secrets().get_opt("used-a").await?.is_none());
    // `none` keeps nothing: Prefect ignores a variable that the template does not declare.
    set_variables(&world, &choosing, &json!({"doppler_config": "none"})).await?;
    world.delete_binding("used-b").await?;
    world.until_binding_deleted("used-b").await?;
    assert_eq!(world.template_text(pool).await?, before);
    for deployment in [&choosing, &idle] {
        world.api.create_flow_run(deployment).await?;
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_release_timeout_bounds_how_long_a_used_name_stays() -> Result<()> {
    let pool = "selected-timeout";
    let setup = Setup::default().args(&["--release-timeout", "15s"]);
    let world = World::with(pool, setup).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    world.create_pool(pool, &template(&world.name)).await?;
    for binding in ["first", "second"] {
        bind(&world, binding, pool).await?;
        world.until_ready(binding).await?;
    }
    let choosing = deploy(&world, pool, "choosing", json!({"doppler_config": "first"})).await?;

    // A new name of the Secret: the earlier one stays beside it, with its Secret.
    let mut spec = world.pool_spec(&selected(pool));
    spec["managedSecret"] = json!({"name": "renamed"});
    world.apply_binding("first", &spec).await?;
    until_offered(&world, pool, &["none", "first", "renamed", "second"]).await?;
    let condition = world
        .until_condition("first", "Injected", "False", "PoolConfigInUse")
        .await?;
    ensure!(
        condition.message.contains("selected-timeout-choosing"),
        "{}",
        condition.message
    );
    ensure!(world.secrets().get_opt("first").await?.is_some());
    world.api.create_flow_run(&choosing).await?;

    // The timeout is over: Prefect refuses new runs, and says what they may choose.
    until_offered(&world, pool, &["none", "renamed", "second"]).await?;
    world.until_ready("first").await?;
    let path = format!("/deployments/{choosing}/create_flow_run");
    let refused = refusal(&world, &path, &json!({})).await?;
    ensure!(refused.contains("renamed"), "{refused}");
    world
        .until("the deletion of the earlier Secret", async || {
            ensure!(world.secrets().get_opt("first").await?.is_none());
            Ok(())
        })
        .await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_a_variable_of_the_user_alone() -> Result<()> {
    let pool = "selected-taken";
    let world = world(pool).await?;
    let theirs = "\"properties\": {\"doppler_config\": {\"type\": \"string\", \"default\": \"x\"},";
    let text = template(&world.name).replacen("\"properties\": {", theirs, 1);
    world.create_pool(pool, &text).await?;
    let written = world.last_write(pool).await?;
    bind(&world, "taken", pool).await?;
    world
        .until_condition("taken", "Injected", "False", "PoolVariableTaken")
        .await?;
    world.until_polls("unchanged", 2).await?;
    assert_eq!(world.last_write(pool).await?, written);

    // Another name works, and a second binding has to use the same.
    let own = json!([{"name": pool, "runs": "Selected", "variable": "config_of_doppler"}]);
    world.apply_binding("taken", &world.pool_spec(&own)).await?;
    world.until_ready("taken").await?;
    let other = json!([{"name": pool, "runs": "Selected", "variable": "another"}]);
    world
        .apply_binding("other", &world.pool_spec(&other))
        .await?;
    let condition = world
        .until_condition("other", "Injected", "False", "PoolVariableTaken")
        .await?;
    ensure!(
        condition
            .message
            .contains("set variable: config_of_doppler"),
        "{}",
        condition.message
    );
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_changes_between_all_and_selected_runs() -> Result<()> {
    let pool = "selected-switch";
    let world = world(pool).await?;
    world.create_pool(pool, &template(&world.name)).await?;
    let before = world.template_text(pool).await?;
    world.bind_to("switch", pool).await?;
    world.until_ready("switch").await?;
    let all = world.template_text(pool).await?;
    ensure!(all.contains(&entry("switch", true)), "{all}");

    bind(&world, "switch", pool).await?;
    world.until_sources(pool, &[PLACEHOLDER]).await?;
    until_offered(&world, pool, &["none", "switch"]).await?;
    let other = json!([{"name": pool, "runs": "Selected", "variable": "chosen"}]);
    world
        .apply_binding("switch", &world.pool_spec(&other))
        .await?;
    world.until_sources(pool, &["{{ chosen }}"]).await?;
    ensure!(offered(&world, pool).await?.is_null());

    world.bind_to("switch", pool).await?;
    world
        .until("the entry for all runs", async || {
            ensure!(world.template_text(pool).await? == all);
            Ok(())
        })
        .await?;
    world.until_ready("switch").await?;
    world.delete_binding("switch").await?;
    world.until_binding_deleted("switch").await?;
    assert_eq!(world.template_text(pool).await?, before);
    world.finish().await
}

/// An entry that is recorded and no longer asked for is removed after a restart, and by `detach`.
#[tokio::test(flavor = "multi_thread")]
async fn the_record_outlives_the_process() -> Result<()> {
    let pool = "selected-record";
    let mut world = world(pool).await?;
    world.create_pool(pool, &template(&world.name)).await?;
    let before = world.template_text(pool).await?;
    for binding in ["kept", "gone"] {
        bind(&world, binding, pool).await?;
        world.until_ready(binding).await?;
    }
    let status = world.status("gone").await?;
    let entry = &status["injectedEntries"][0];
    ensure!(entry["variable"] == "doppler_config", "{entry}");
    world.kill_operator();
    world.delete_binding("gone").await?;
    world.start_operator().await?;
    world.until_binding_deleted("gone").await?;
    until_offered(&world, pool, &["none", "kept"]).await?;
    world.apply_binding("kept", &world.spec()).await?;
    world
        .until("the template as before", async || {
            ensure!(world.template_text(pool).await? == before);
            Ok(())
        })
        .await?;
    world.until_ready("kept").await?;
    world.finish().await
}
