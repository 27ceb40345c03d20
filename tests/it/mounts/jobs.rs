//! Mounts in Jobs, which the API server adds by the chart's policy.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{PATH, lists, volume, volume_mount, with_files, world};
use crate::check::run_check_of;
use crate::jobs::{
    DEPLOYMENT, admitted, created, entry, install_policy, job_of, sources, until_admitted,
};
use crate::world::{Setup, World};

/// A spec whose Jobs of this deployment get the Secret, and its files as `mount` says.
fn selecting(w: &World, deployment: &str, mount: &Value) -> Value {
    let mut spec = with_files(w.spec());
    spec["inject"] = json!({"jobs": [{"matchLabels": {DEPLOYMENT: deployment}, "mount": mount}]});
    spec
}

async fn policy_world(name: &str) -> Result<World> {
    install_policy().await?;
    world(name, Setup::default()).await
}

fn pod(job: &Value) -> &Value {
    &job["spec"]["template"]["spec"]
}

/// Waits until a Job of this deployment gets exactly these lists.
async fn until_lists(w: &World, job: &Value, volumes: &Value, mounts: &Value) -> Result<()> {
    w.until("the volumes by the policy", async || {
        let found = admitted(w, job).await?;
        let found = lists(pod(&found));
        ensure!((&found.0, &found.1) == (volumes, mounts), "{found:?}");
        Ok(())
    })
    .await
}

/// What the API server adds to a volume of a Secret.
fn stored(mut volume: Value) -> Value {
    volume["secret"]["defaultMode"] = json!(420);
    volume
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_files_in_selected_jobs_without_the_operator() -> Result<()> {
    let mut w = policy_world("mount-jobs").await?;
    let mount = json!({"path": PATH, "files": ["profiles.yml"]});
    let spec = selecting(&w, "nightly", &mount);
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    let mut items = volume("etl");
    items["secret"]["items"] = json!([{"key": "profiles.yml", "path": "profiles.yml"}]);
    let items = stored(items);
    let mounted = volume_mount("etl", PATH);
    until_lists(&w, &job_of("nightly"), &json!([items]), &json!([mounted])).await?;
    let injected = w.condition("etl", "Injected").await?;
    ensure!(
        injected.message.contains("and mounts its files"),
        "{}",
        injected.message
    );
    let (all_ok, checked) = run_check_of(&w, "etl", &spec, &[]).await?;
    ensure!(all_ok && checked.contains(PATH), "{checked}");
    w.kill_operator();

    // Behind the lists of the Job, in the first container only, and not twice in a copy.
    let mut own = job_of("nightly");
    own["spec"]["template"]["spec"]["volumes"] = json!([{"name": "mine", "emptyDir": {}}]);
    own["spec"]["template"]["spec"]["containers"] = json!([
        {"name": "main", "image": "none", "volumeMounts": [{"name": "mine", "mountPath": "/mine"}]},
        {"name": "sidecar", "image": "none"},
    ]);
    let found = created(&w, &own, false).await?;
    ensure!(sources(&found, 0) == json!([entry("etl")]), "{found}");
    let (volumes, mounts) = lists(pod(&found));
    let theirs = json!({"name": "mine", "mountPath": "/mine"});
    ensure!(
        volumes == json!([{"name": "mine", "emptyDir": {}}, items]),
        "{volumes}"
    );
    ensure!(mounts == json!([theirs, mounted]), "{mounts}");
    ensure!(
        pod(&found)["containers"][1]["volumeMounts"].is_null(),
        "{found}"
    );
    let mut copy = job_of("nightly");
    copy["spec"]["template"]["spec"]["volumes"] = volumes.clone();
    copy["spec"]["template"]["spec"]["containers"] = pod(&found)["containers"].clone();
    let again = admitted(&w, &copy).await?;
    ensure!(lists(pod(&again)) == (volumes, mounts), "{again}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_names_and_paths_that_a_job_has() -> Result<()> {
    let w = policy_world("mount-jobs-taken").await?;
    w.apply_binding("etl", &selecting(&w, "nightly", &json!({"path": PATH})))
        .await?;
    w.until_ready("etl").await?;
    let (volumes, mounts) = (
        json!([stored(volume("etl"))]),
        json!([volume_mount("etl", PATH)]),
    );
    until_lists(&w, &job_of("nightly"), &volumes, &mounts).await?;
    for (name, path) in [
        ("doppler-etl-files", "/x"),
        ("mine", PATH),
        ("mine", "/srv/doppler/files/"),
    ] {
        let mut taken = job_of("nightly");
        let pod = &mut taken["spec"]["template"]["spec"];
        pod["volumes"] = json!([{"name": name, "emptyDir": {}}]);
        pod["containers"][0]["volumeMounts"] = json!([{"name": name, "mountPath": path}]);
        let expected = lists(pod);
        let found = admitted(&w, &taken).await?;
        ensure!(lists(super::jobs::pod(&found)) == expected, "{found}");
        // The environment is not affected.
        ensure!(sources(&found, 0) == json!([entry("etl")]), "{found}");
    }
    // The first item that selects a Job decides, also that it has no mount.
    let mut spec = selecting(&w, "nightly", &json!({"path": PATH}));
    let labels = json!({DEPLOYMENT: "nightly"});
    spec["inject"]["jobs"] =
        json!([{"matchLabels": labels, "optional": false}, spec["inject"]["jobs"][0]]);
    w.apply_binding("etl", &spec).await?;
    until_lists(&w, &job_of("nightly"), &Value::Null, &Value::Null).await?;
    // `optional` of the item is that of the volume.
    spec["inject"]["jobs"] =
        json!([{"matchLabels": labels, "optional": false, "mount": {"path": PATH}}]);
    w.apply_binding("etl", &spec).await?;
    let mut required = stored(volume("etl"));
    required["secret"]["optional"] = json!(false);
    until_lists(&w, &job_of("nightly"), &json!([required]), &mounts).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bindings_mount_beside_each_other() -> Result<()> {
    let w = policy_world("mount-jobs-two").await?;
    for name in ["a", "b"] {
        let path = format!("/srv/doppler/{name}");
        w.apply_binding(name, &selecting(&w, "nightly", &json!({"path": path})))
            .await?;
    }
    // A binding without a mount, beside them.
    let mut plain = w.spec();
    plain["inject"] = json!({"jobs": [{"matchLabels": {DEPLOYMENT: "nightly"}}]});
    w.apply_binding("c", &plain).await?;
    for name in ["a", "b", "c"] {
        w.until_ready(name).await?;
    }
    until_admitted(&w, "nightly", &["a", "b", "c"]).await?;
    w.until("both mounts", async || {
        let found = admitted(&w, &job_of("nightly")).await?;
        let (volumes, mounts) = lists(pod(&found));
        // The API server evaluates bindings in no certain order.
        for name in ["a", "b"] {
            let has =
                |list: &Value, item: &Value| list.as_array().is_some_and(|of| of.contains(item));
            ensure!(has(&volumes, &stored(volume(name))), "{volumes}");
            ensure!(
                has(
                    &mounts,
                    &volume_mount(name, &format!("/srv/doppler/{name}"))
                ),
                "{mounts}"
            );
        }
        ensure!(volumes.as_array().map(Vec::len) == Some(2), "{volumes}");
        Ok(())
    })
    .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_earlier_name_stay_until_jobs_have_started() -> Result<()> {
    install_policy().await?;
    let setup = Setup {
        release_wait: "6s",
        ..Setup::default()
    };
    let w = world("mount-jobs-rename", setup).await?;
    let spec = selecting(&w, "nightly", &json!({"path": PATH}));
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    let mounts = |secret: &str| json!([volume_mount(secret, PATH)]);
    let volumes = |secret: &str| json!([stored(volume(secret))]);
    until_lists(&w, &job_of("nightly"), &volumes("etl"), &mounts("etl")).await?;
    let mut renamed = spec.clone();
    renamed["managedSecret"]["name"] = json!("renamed");
    w.apply_binding("etl", &renamed).await?;
    until_lists(
        &w,
        &job_of("nightly"),
        &volumes("renamed"),
        &mounts("renamed"),
    )
    .await?;
    ensure!(
        w.secrets().get_opt("etl-files").await?.is_some(),
        "it is gone"
    );
    w.until_no_secret("etl-files").await?;
    // Without files, nothing is mounted any more.
    let mut plain = w.spec();
    plain["inject"] = json!({"jobs": [{"matchLabels": {DEPLOYMENT: "nightly"}}]});
    plain["managedSecret"] = json!({"name": "renamed"});
    w.apply_binding("etl", &plain).await?;
    until_lists(&w, &job_of("nightly"), &Value::Null, &Value::Null).await?;
    w.until_no_secret("renamed-files").await?;
    let status = w.status("etl").await?;
    ensure!(status["jobFiles"].is_null(), "{status}");
    w.finish().await
}
