//! Several configs in one Secret.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    check::run_check_of,
    world::{Setup, World, pairs, secret},
};

/// A second project of the world, whose token is in key `token` of Secret `second`.
async fn second_project(w: &World) -> Result<String> {
    let project = format!("{}-second", w.name);
    let token = format!("dp.st.prd.{}", secret(&project));
    w.doppler.add_service_token(&token, &project, "prd");
    w.put_token("second", &token).await?;
    Ok(project)
}

/// A spec that merges the world's config and that of the second project.
fn merged(w: &World, project: &str) -> Value {
    let token = json!({"valueFrom": {"secretKeyRef": {"name": "second", "key": "token"}}});
    let mut spec = w.spec();
    spec["doppler"]["metadata"] = json!("Drop");
    spec["doppler"]["configs"] = json!([
        {"project": w.name, "config": "dev"},
        {"project": project, "config": "prd", "accessToken": token},
    ]);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_configs_in_order_with_filters_and_prefixes() -> Result<()> {
    let w = World::start("secret-configs").await?;
    let second = second_project(&w).await?;
    for name in ["A", "BOTH", "URL"] {
        w.set_doppler_secret(name, &secret(&format!("first-{name}")));
    }
    for name in ["BOTH", "DB_HOST", "DB_OLD", "NAME"] {
        let value = secret(&format!("second-{name}"));
        w.doppler.set(&second, "prd", name, &value);
    }
    let mut spec = merged(&w, &second);
    spec["doppler"]["configs"][1]["exclude"] = json!(["*_OLD"]);
    spec["doppler"]["rename"] = json!({"URL": "SQLALCHEMY_URL"});
    let (all_ok, checked) = run_check_of(&w, "b", &spec, &[]).await?;
    for part in [
        "give 5 keys: A, BOTH, DB_HOST, NAME, SQLALCHEMY_URL",
        "overridden: BOTH: spec.doppler.configs[1] comes after spec.doppler.configs[0]",
    ] {
        ensure!(all_ok && checked.contains(part), "{part}: {checked}");
    }
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    let mut expected = pairs(&[
        ("A", secret("first-A")),
        ("BOTH", secret("second-BOTH")),
        ("DB_HOST", secret("second-DB_HOST")),
        ("NAME", secret("second-NAME")),
        ("SQLALCHEMY_URL", secret("first-URL")),
    ]);
    w.until_values("b", &expected).await?;
    let status = w.status("b").await?;
    let listed =
        json!([{"project": w.name, "config": "dev"}, {"project": second, "config": "prd"}]);
    ensure!(status["configs"] == listed, "{status}");
    ensure!(status["project"] == json!(second), "the last one: {status}");
    ensure!(status["keyCount"] == 5, "{status}");

    // A change of either config arrives.
    w.set_doppler_secret("A", &secret("first-A2"));
    w.doppler
        .set(&second, "prd", "NAME", &secret("second-NAME2"));
    expected.insert("A".to_owned(), secret("first-A2"));
    expected.insert("NAME".to_owned(), secret("second-NAME2"));
    w.until_values("b", &expected).await?;

    // A prefix keeps the names of the second config apart.
    spec["doppler"]["configs"][1]["prefix"] = json!("SECOND_");
    spec["doppler"]["configs"][1]["include"] = json!(["BOTH"]);
    w.apply_binding("b", &spec).await?;
    let apart = pairs(&[
        ("A", secret("first-A2")),
        ("BOTH", secret("first-BOTH")),
        ("SECOND_BOTH", secret("second-BOTH")),
        ("SQLALCHEMY_URL", secret("first-URL")),
    ]);
    w.until_values("b", &apart).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_config_keeps_the_whole_secret() -> Result<()> {
    let mut w = World::start("secret-configs-fail").await?;
    let second = second_project(&w).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.doppler.set(&second, "prd", "B", &secret("b"));
    let spec = merged(&w, &second);
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    let before = pairs(&[("A", secret("a")), ("B", secret("b"))]);
    w.until_values("b", &before).await?;

    w.put_token("second", &format!("dp.st.prd.{}", secret("revoked")))
        .await?;
    let condition = w.until_not_ready("b", "DopplerUnauthorized").await?;
    let expected = format!("spec.doppler.configs[1] ({second}/prd): ");
    ensure!(
        condition.message.starts_with(&expected),
        "{}",
        condition.message
    );
    let kept = "the Secret keeps its last good values";
    ensure!(condition.message.ends_with(kept), "{}", condition.message);
    // The other config changes, and is read, but the Secret waits for both.
    w.set_doppler_secret("A", &secret("a2"));
    w.until_polls("unchanged", 3).await?;
    w.until_values("b", &before).await?;
    // So it does after a restart, when nothing is in memory.
    w.restart_operator().await?;
    w.until_not_ready("b", "DopplerUnauthorized").await?;
    w.until_polls("unchanged", 3).await?;
    w.until_values("b", &before).await?;

    let token = format!("dp.st.prd.{}", secret(&second));
    w.put_token("second", &token).await?;
    w.until_ready("b").await?;
    let after = pairs(&[("A", secret("a2")), ("B", secret("b"))]);
    w.until_values("b", &after).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_conflict_and_names_keys_and_configs() -> Result<()> {
    let w = World::start("secret-conflict").await?;
    let second = second_project(&w).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.doppler.set(&second, "prd", "B", &secret("b"));
    let mut spec = merged(&w, &second);
    spec["doppler"]["onConflict"] = json!("Refuse");
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    let before = pairs(&[("A", secret("a")), ("B", secret("b"))]);
    w.until_values("b", &before).await?;

    w.doppler.set(&second, "prd", "A", &secret("other"));
    let condition = w.until_not_ready("b", "KeyConflict").await?;
    let expected = format!("(A of {}/dev and {second}/prd)", w.name);
    ensure!(
        condition.message.contains(&expected),
        "{}",
        condition.message
    );
    w.until_values("b", &before).await?;
    let (all_ok, checked) = run_check_of(&w, "b", &spec, &[]).await?;
    ensure!(!all_ok && checked.contains(&expected), "{checked}");

    spec["doppler"]["onConflict"] = json!("Later");
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    let after = pairs(&[("A", secret("other")), ("B", secret("b"))]);
    w.until_values("b", &after).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_with_the_same_configs_share_their_downloads() -> Result<()> {
    let w = World::with("secret-configs-share", Setup::without_polls()).await?;
    let second = second_project(&w).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.doppler.set(&second, "prd", "B", &secret("b"));
    let spec = merged(&w, &second);
    for name in ["one", "two"] {
        w.apply_binding(name, &spec).await?;
    }
    // A single config of the two is shared as well.
    w.apply_binding("single", &w.spec()).await?;
    for name in ["one", "two", "single"] {
        w.until_ready(name).await?;
    }
    let token = format!("dp.st.prd.{}", secret(&second));
    let of_second = w
        .doppler
        .downloads()
        .into_iter()
        .filter(|call| call.uses_token(&token));
    let counts = (w.downloads(), of_second.count());
    ensure!(counts == (1, 1), "{counts:?} downloads");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deny_needs_a_token_for_each_config_of_another_name() -> Result<()> {
    let setup = Setup::default().args(&["--block-overrides=deny"]);
    let w = World::with("secret-configs-deny", setup).await?;
    let second = second_project(&w).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.doppler.set(&second, "prd", "B", &secret("b"));
    let mut spec = merged(&w, &second);
    let own = spec["doppler"]["configs"][1]["accessToken"].take();
    w.apply_binding("b", &spec).await?;
    let condition = w.until_not_ready("b", "OverrideNotAllowed").await?;
    let fix = "set spec.doppler.configs[1].accessToken";
    ensure!(condition.message.ends_with(fix), "{}", condition.message);
    ensure!(w.values("b").await.is_err(), "nothing was written");
    spec["doppler"]["configs"][1]["accessToken"] = own;
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    w.until_values("b", &pairs(&[("A", secret("a")), ("B", secret("b"))]))
        .await?;
    w.finish().await
}
