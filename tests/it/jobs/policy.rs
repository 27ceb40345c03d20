//! What the policy adds to Jobs, and what it leaves as it is.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{
    DEPLOYMENT, admitted, created, entry, install_policy, job, job_of, sources, spec_for,
    until_admitted,
};
use crate::world::{Setup, World, secret};

/// A world with the policy.
async fn world(name: &str) -> Result<World> {
    install_policy().await?;
    let w = World::start(name).await?;
    w.set_doppler_secret("A", &secret("a"));
    Ok(w)
}

#[tokio::test(flavor = "multi_thread")]
async fn adds_the_secret_to_selected_jobs_without_the_operator() -> Result<()> {
    let mut w = world("jobs-add").await?;
    w.apply_binding("etl", &spec_for(&w, "nightly")).await?;
    let ready = w.until_ready("etl").await?;
    ensure!(ready.message.contains("Secret etl"), "{}", ready.message);
    let injected = w
        .until_condition("etl", "Injected", "True", "Injected")
        .await?;
    let text = "the admission policy adds Secret etl to new Jobs with the labels prefect.io/deployment-name=nightly";
    ensure!(injected.message == text, "{}", injected.message);
    until_admitted(&w, "nightly", &["etl"]).await?;
    w.kill_operator();

    let stored = created(&w, &job_of("nightly"), false).await?;
    ensure!(sources(&stored, 0) == json!([entry("etl")]), "{stored}");
    let status = w.status("etl").await?;
    let hash = status["contentHash"].as_str().unwrap_or_default();
    ensure!(!hash.is_empty(), "{status}");
    let metadata = &stored["metadata"];
    let record = &metadata["annotations"]["doppler-prefect.dev/injected"];
    ensure!(*record == format!("etl/etl={hash}"), "{record}");
    ensure!(
        metadata["labels"]["doppler-prefect.dev/injected"] == "true",
        "{metadata}"
    );

    // The first container only, and in front of what is there.
    let own =
        json!([{"configMapRef": {"name": "own"}}, {"prefix": "X_", "secretRef": {"name": "x"}}]);
    let mut with_own = job_of("nightly");
    with_own["metadata"]["annotations"] = json!({"team": "data"});
    with_own["spec"]["template"]["spec"]["containers"] = json!([
        {"name": "main", "image": "none", "envFrom": own},
        {"name": "sidecar", "image": "none"},
    ]);
    let found = admitted(&w, &with_own).await?;
    let expected = json!([entry("etl"), own[0], own[1]]);
    ensure!(sources(&found, 0) == expected, "{found}");
    ensure!(sources(&found, 1) == Value::Null, "{found}");
    ensure!(
        found["metadata"]["annotations"]["team"] == "data",
        "{found}"
    );

    // Never twice: neither beside an entry of the Job, nor in a copy of a Job.
    let mut named = job_of("nightly");
    let theirs = json!([{"secretRef": {"name": "etl"}}]);
    named["spec"]["template"]["spec"]["containers"][0]["envFrom"] = theirs.clone();
    let found = admitted(&w, &named).await?;
    ensure!(sources(&found, 0) == theirs, "{found}");
    let mut copy = job_of("nightly");
    copy["metadata"]["labels"] = stored["metadata"]["labels"].clone();
    copy["metadata"]["annotations"] = stored["metadata"]["annotations"].clone();
    for label in [
        "controller-uid",
        "job-name",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
    ] {
        copy["metadata"]["labels"]
            .as_object_mut()
            .unwrap()
            .remove(label);
    }
    copy["spec"]["template"]["spec"] = stored["spec"]["template"]["spec"].clone();
    let found = admitted(&w, &copy).await?;
    ensure!(sources(&found, 0) == json!([entry("etl")]), "{found}");

    // Other labels, or none.
    for labels in [
        json!({DEPLOYMENT: "nightly-2"}),
        json!({"a": "nightly"}),
        json!({}),
    ] {
        let found = admitted(&w, &job(&labels)).await?;
        ensure!(sources(&found, 0) == Value::Null, "{labels}: {found}");
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn optional_and_all_labels_of_an_item_count() -> Result<()> {
    let w = world("jobs-labels").await?;
    let mut spec = w.spec();
    spec["inject"] = json!({"jobs": [
        {"matchLabels": {DEPLOYMENT: "nightly", "team": "a"}, "optional": false},
        {"matchLabels": {"team": "b"}},
        {"matchLabels": {DEPLOYMENT: "nightly", "team": "b"}, "optional": false},
    ]});
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    let required = json!([{"secretRef": {"name": "etl", "optional": false}}]);
    let both = job(&json!({DEPLOYMENT: "nightly", "team": "a"}));
    w.until("a required entry", async || {
        let found = sources(&admitted(&w, &both).await?, 0);
        ensure!(found == required, "{found}");
        Ok(())
    })
    .await?;
    // The first item that selects the Job decides.
    let found = admitted(&w, &job(&json!({DEPLOYMENT: "nightly", "team": "b"}))).await?;
    ensure!(sources(&found, 0) == json!([entry("etl")]), "{found}");
    let found = admitted(&w, &job_of("nightly")).await?;
    ensure!(sources(&found, 0) == Value::Null, "{found}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn later_secret_name_wins_among_three_bindings() -> Result<()> {
    let w = world("jobs-order").await?;
    // The names of bindings and Secrets are ordered differently.
    for (binding, name) in [("b", "s3"), ("c", "s1"), ("a", "s2")] {
        let mut spec = spec_for(&w, "nightly");
        spec["managedSecret"] = json!({"name": name});
        w.apply_binding(binding, &spec).await?;
    }
    for binding in ["a", "b", "c"] {
        w.until_ready(binding).await?;
    }
    until_admitted(&w, "nightly", &["s1", "s2", "s3"]).await?;
    // The API server evaluates bindings in an order that changes from one Job to the next.
    let own = json!([{"secretRef": {"name": "s0"}}]);
    let mut with_own = job_of("nightly");
    with_own["spec"]["template"]["spec"]["containers"][0]["envFrom"] = own.clone();
    for _ in 0..20 {
        let found = admitted(&w, &with_own).await?;
        let expected = json!([entry("s1"), entry("s2"), entry("s3"), own[0]]);
        ensure!(sources(&found, 0) == expected, "{found}");
        let record = &found["metadata"]["annotations"]["doppler-prefect.dev/injected"];
        let mut parts: Vec<&str> = record.as_str().unwrap_or_default().split(',').collect();
        parts.sort_unstable();
        let starts = ["a/s2=", "b/s3=", "c/s1="];
        let are_named = parts.len() == 3
            && parts
                .iter()
                .zip(starts)
                .all(|(part, start)| part.starts_with(start));
        ensure!(are_named, "{record}");
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn skips_suspended_deleted_and_secretless_bindings() -> Result<()> {
    let mut w = world("jobs-skip").await?;
    // The Secret of this name is foreign, so that the binding has none.
    w.put_token("taken", "theirs").await?;
    let mut taken = spec_for(&w, "nightly");
    taken["managedSecret"] = json!({"name": "taken"});
    w.apply_binding("secretless", &taken).await?;
    w.until_not_ready("secretless", "SecretForeign").await?;
    w.apply_binding("etl", &spec_for(&w, "nightly")).await?;
    w.until_ready("etl").await?;
    until_admitted(&w, "nightly", &["etl"]).await?;

    // A binding that had a Secret, and now names a foreign one.
    let mut renamed = spec_for(&w, "nightly");
    renamed["managedSecret"] = json!({"name": "taken"});
    w.apply_binding("etl", &renamed).await?;
    w.until_not_ready("etl", "SecretForeign").await?;
    until_admitted(&w, "nightly", &["etl"]).await?;
    w.apply_binding("etl", &spec_for(&w, "nightly")).await?;
    w.until_ready("etl").await?;

    // Without the operator: the API server reads the spec itself.
    w.stop_operator().await?;
    let suspend = |suspend: bool| json!({"spec": {"suspend": suspend}});
    let patch = async |patch: &Value| {
        let patch = Patch::Merge(patch);
        w.bindings()
            .patch("etl", &PatchParams::default(), &patch)
            .await
    };
    patch(&suspend(true)).await?;
    until_admitted(&w, "nightly", &[]).await?;
    patch(&suspend(false)).await?;
    until_admitted(&w, "nightly", &["etl"]).await?;
    // A finalizer of another client keeps the binding.
    patch(&json!({"metadata": {"finalizers": ["example.com/keep"]}})).await?;
    w.bindings().delete("etl", &DeleteParams::default()).await?;
    until_admitted(&w, "nightly", &[]).await?;
    patch(&json!({"metadata": {"finalizers": null}})).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_is_no_boundary_and_the_namespace_is() -> Result<()> {
    let w = world("jobs-boundary").await?;
    w.apply_binding("etl", &spec_for(&w, "nightly")).await?;
    w.until_ready("etl").await?;
    // Everybody who may create Jobs, or set job variables, writes the label of another deployment.
    until_admitted(&w, "nightly", &["etl"]).await?;
    let forged = json!({"prefect.io/flow-name": "other", DEPLOYMENT: "nightly"});
    let found = admitted(&w, &job(&forged)).await?;
    ensure!(sources(&found, 0) == json!([entry("etl")]), "{found}");

    // The same label in another namespace selects nothing of this one.
    let other = world("jobs-boundary-other").await?;
    other
        .apply_binding("own", &spec_for(&other, "weekly"))
        .await?;
    other.until_ready("own").await?;
    until_admitted(&other, "weekly", &["own"]).await?;
    let found = admitted(&other, &job(&forged)).await?;
    ensure!(sources(&found, 0) == Value::Null, "{found}");
    other.finish().await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_near_the_limits_is_not_refused() -> Result<()> {
    let w = world("jobs-limits").await?;
    w.apply_binding("etl", &spec_for(&w, "nightly")).await?;
    w.until_ready("etl").await?;
    until_admitted(&w, "nightly", &["etl"]).await?;
    let mut large = job_of("nightly");
    large["metadata"]["annotations"] = json!({"large": "x".repeat(256 * 1024 - 100)});
    let found = admitted(&w, &large).await?;
    ensure!(
        sources(&found, 0) == Value::Null,
        "the annotation has no room"
    );
    // A forged record neither breaks the Job nor hides the Secret.
    let mut forged = job_of("nightly");
    forged["metadata"]["annotations"] =
        json!({"doppler-prefect.dev/injected": "x/etl=h,,/=,a/b=c"});
    let found = admitted(&w, &forged).await?;
    ensure!(sources(&found, 0) == json!([entry("etl")]), "{found}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_secret_stays_until_jobs_have_started() -> Result<()> {
    let setup = Setup {
        release_wait: "6s",
        ..Setup::default()
    };
    install_policy().await?;
    let w = World::with("jobs-rename", setup).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("etl", &spec_for(&w, "nightly")).await?;
    w.until_ready("etl").await?;
    until_admitted(&w, "nightly", &["etl"]).await?;
    let mut renamed = spec_for(&w, "nightly");
    renamed["managedSecret"] = json!({"name": "renamed"});
    w.apply_binding("etl", &renamed).await?;
    until_admitted(&w, "nightly", &["renamed"]).await?;
    // A Job that was created a moment ago names the old one.
    ensure!(w.secrets().get_opt("etl").await?.is_some(), "it is gone");
    w.until_no_secret("etl").await?;
    ensure!(w.secrets().get_opt("renamed").await?.is_some(), "no Secret");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_bindings_with_jobs_have_the_label() -> Result<()> {
    const LABEL: &str = "doppler-prefect.dev/selects-jobs";
    let w = world("jobs-label").await?;
    w.apply_binding("etl", &w.spec()).await?;
    w.until_ready("etl").await?;
    ensure!(w.binding("etl").await?.labels().is_empty(), "a label");
    w.apply_binding("etl", &spec_for(&w, "nightly")).await?;
    until_admitted(&w, "nightly", &["etl"]).await?;
    ensure!(
        w.binding("etl").await?.labels()[LABEL] == "true",
        "no label"
    );
    // A client that replaces the whole binding drops the label.
    let remove = json!({"metadata": {"labels": {LABEL: null}}});
    w.bindings()
        .patch("etl", &PatchParams::default(), &Patch::Merge(&remove))
        .await?;
    w.until("the label again", async || {
        ensure!(w.binding("etl").await?.labels().contains_key(LABEL), "none");
        Ok(())
    })
    .await?;
    w.apply_binding("etl", &w.spec()).await?;
    w.until("the label to go", async || {
        let binding = w.binding("etl").await?;
        ensure!(binding.labels().is_empty(), "{:?}", binding.labels());
        let status = &binding.data["status"];
        ensure!(status["jobSecretName"].is_null(), "{status}");
        Ok(())
    })
    .await?;
    until_admitted(&w, "nightly", &[]).await?;
    w.finish().await
}
