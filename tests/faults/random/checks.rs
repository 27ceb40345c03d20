//! What must hold after a randomised run.
//!
//! Input: the scene. Output: the first difference.
//! Invariants: the checks read the servers, not the operator, except for its count of writes and its
//! memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::model::{
    Extra, FILE, JOB_LABEL, POOLS, SELECTED, Scene, VARIABLE, binding_name, secret_name,
    workload_name,
};

/// A repair of a contested template or Secret waits for minutes.
const LIMIT: Duration = Duration::from_mins(3);
/// The most last edits of users that may be lost: an overlap of two writes is rare.
const MAX_LOST_EDITS: usize = 1;
/// More memory than at the start, in KiB: allocators keep some.
const MEMORY: u64 = 24 << 10;

/// Waits until everything is as desired. Returns how many edits of users had to be repeated.
pub async fn until_as_desired(scene: &Scene) -> Result<usize> {
    let what = "everything to be as desired";
    let lost = AtomicUsize::new(0);
    scene
        .world
        .until_within(LIMIT, what, async || {
            ensure_bindings(scene).await?;
            ensure_secrets(scene).await?;
            ensure_jobs(scene).await?;
            ensure_workloads(scene).await?;
            for pool in 0..POOLS {
                ensure_pool(scene, pool, &lost).await?;
            }
            Ok(())
        })
        .await?;
    Ok(lost.into_inner())
}

/// Exactly the bindings of the model exist.
async fn ensure_bindings(scene: &Scene) -> Result<()> {
    let found = scene.world.bindings().list(&ListParams::default()).await?;
    let found: BTreeSet<String> = found.iter().map(ResourceExt::name_any).collect();
    let wanted: BTreeSet<String> = scene.bindings.keys().copied().map(binding_name).collect();
    ensure!(
        found == wanted,
        "the bindings are {found:?} instead of {wanted:?}"
    );
    Ok(())
}

/// Every Secret equals its config, and no other Secret of the operator exists.
async fn ensure_secrets(scene: &Scene) -> Result<()> {
    let mut wanted = BTreeSet::from(["random".to_owned()]);
    for (binding, wish) in &scene.bindings {
        let name = secret_name(*binding, wish);
        let values = scene.values_of(wish);
        ensure!(
            scene.world.values(&name).await? == values,
            "Secret {name} does not equal its configs: {:?}",
            scene
                .world
                .condition(&binding_name(*binding), "Ready")
                .await
        );
        if wish.extras.contains(&Extra::File) {
            let files = format!("{name}-files");
            ensure_file(scene, &files, &values).await?;
            wanted.insert(files);
        }
        wanted.insert(name);
    }
    let found = scene.world.secrets().list(&ListParams::default()).await?;
    let found: BTreeSet<String> = found.iter().map(ResourceExt::name_any).collect();
    ensure!(
        found == wanted,
        "the Secrets are {found:?} instead of {wanted:?}"
    );
    Ok(())
}

/// A Job gets exactly the Secrets of the bindings that select it, in the order of their names.
async fn ensure_jobs(scene: &Scene) -> Result<()> {
    let (label, value) = JOB_LABEL;
    let job = json!({
        "metadata": {"generateName": "job-", "labels": {label: value}},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "none"}],
        }}},
    });
    let jobs: Api<Job> = Api::namespaced(scene.world.client.clone(), &scene.world.name);
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let job = jobs.create(&params, &serde_json::from_value(job)?).await?;
    let pod = job.spec.and_then(|spec| spec.template.spec);
    let entries = pod.context("a pod")?.containers[0].env_from.clone();
    let found: Vec<String> = entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| entry.secret_ref)
        .map(|secret| secret.name)
        .collect();
    let wanted = scene.secrets_of_jobs();
    ensure!(
        found == wanted,
        "a Job gets {found:?} instead of {wanted:?}"
    );
    Ok(())
}

/// Each Deployment that a binding restarts has pods with the content of the Secret.
async fn ensure_workloads(scene: &Scene) -> Result<()> {
    let deployments: Api<Deployment> =
        Api::namespaced(scene.world.client.clone(), &scene.world.name);
    let restarted = scene
        .bindings
        .iter()
        .filter(|(_, wish)| wish.extras.contains(&Extra::Restart));
    for (binding, wish) in restarted {
        let name = binding_name(*binding);
        let status = scene.world.status(&name).await?;
        let hash = status["contentHash"].as_str().context("no hash")?;
        let deployment = deployments.get(&workload_name(*binding)).await?;
        let pods = deployment.spec.and_then(|spec| spec.template.metadata);
        let annotations = pods.and_then(|pods| pods.annotations).unwrap_or_default();
        let found = annotations.get("doppler-prefect.dev/content-hash");
        // With a file, the hash counts its content, too.
        let is_current = found.is_some_and(|found| match found.split_once('=') {
            Some((of, found)) if wish.extras.contains(&Extra::File) => of == name && found != hash,
            Some((of, found)) => of == name && found == hash,
            None => false,
        });
        let condition = scene.world.condition(&name, "Restarted").await?;
        ensure!(
            is_current && condition.status == "True",
            "the pods of {name} have {found:?}, its hash is {hash}: {}",
            condition.message
        );
    }
    Ok(())
}

/// The file holds all values of the Secret.
async fn ensure_file(scene: &Scene, secret: &str, values: &BTreeMap<String, String>) -> Result<()> {
    let files = scene.world.values(secret).await?;
    let file = files.get(FILE).context("no file")?;
    let mut found: BTreeMap<String, String> = serde_json::from_str(file)?;
    found.retain(|name, _| !name.starts_with("DOPPLER_"));
    ensure!(found == *values, "{secret} has other values");
    Ok(())
}

/// The pool of `runs: Selected` has exactly the variable that lists its Secrets, its entry, and the last
/// edit of its users.
async fn ensure_selection(
    scene: &Scene,
    mut template: Value,
    entries: &[Value],
    lost: &AtomicUsize,
) -> Result<()> {
    let mut names = scene.entries_of(SELECTED);
    let properties = template["variables"]["properties"].as_object_mut();
    let variable = properties.context("no variables")?.remove(VARIABLE);
    let mut users = scene.template(SELECTED)?;
    if names.is_empty() {
        ensure!(variable.is_none(), "the variable stays without bindings");
        ensure!(entries.is_empty(), "the entry stays without bindings");
        // As for other pools: an empty list may be that of users.
        *testkit::prefect::env_from(&mut users)? = Vec::new();
    } else {
        names.insert("none".to_owned());
        let variable = variable.context("no variable")?;
        let found: BTreeSet<String> = serde_json::from_value(variable["enum"].clone())?;
        ensure!(
            found == names,
            "runs choose among {found:?} instead of {names:?}"
        );
        let name = format!("{{{{ {VARIABLE} }}}}");
        let entry = json!({"secretRef": {"name": name, "optional": true}});
        ensure!(*entries == [entry], "other entries: {entries:?}");
        *testkit::prefect::env_from(&mut users)? = entries.to_vec();
    }
    if template != users && lost.fetch_add(1, Relaxed) < MAX_LOST_EDITS {
        // The operator adds variable and entry again.
        let users = scene.template(SELECTED)?;
        let pool = scene.pool(SELECTED);
        scene.world.api.set_template(&pool, &users).await?;
    }
    ensure!(
        template == users,
        "the template of the pool in which runs choose differs in more than the variable and its entry"
    );
    Ok(())
}

/// A pool mounts exactly its files. Takes both lists out of the template, which users leave empty.
fn ensure_mounts(scene: &Scene, pool: usize, template: &mut Value) -> Result<()> {
    let spec = "/job_configuration/job_manifest/spec/template/spec";
    let mut take = |pointer: &str, name: &str| {
        let object = template.pointer_mut(&format!("{spec}{pointer}"));
        let list = object.and_then(|object| object.as_object_mut()?.remove(name));
        list.unwrap_or_else(|| json!([]))
    };
    let (volumes, mounts) = (take("", "volumes"), take("/containers/0", "volumeMounts"));
    let volumes = volumes.as_array().context("no list of volumes")?;
    let mounts = mounts.as_array().context("no list of mounts")?;
    let mounted = volumes.iter().flat_map(|volume| {
        let secret = volume["secret"]["secretName"].as_str().unwrap_or_default();
        let mounts = mounts
            .iter()
            .filter(|mount| mount["name"] == volume["name"]);
        mounts.map(|mount| {
            let path = mount["mountPath"].as_str().unwrap_or_default();
            (secret.to_owned(), path.to_owned())
        })
    });
    let mounted: Vec<(String, String)> = mounted.collect();
    let found: BTreeSet<(String, String)> = mounted.iter().cloned().collect();
    let wanted = scene.mounts_of(pool);
    ensure!(
        found == wanted && [volumes.len(), mounts.len(), mounted.len()] == [wanted.len(); 3],
        "pool {} mounts {mounted:?} instead of {wanted:?}",
        scene.pool(pool)
    );
    Ok(())
}

/// A pool has exactly its entries and mounts, and the last edit of its users. Prefect replaces a template without
/// a condition, so an edit that arrives between a GET of the operator and its PATCH is lost. A person
/// sees that and repeats it, and so does this.
async fn ensure_pool(scene: &Scene, pool: usize, lost: &AtomicUsize) -> Result<()> {
    let name = scene.pool(pool);
    let mut template = scene.world.api.template(&name).await?;
    let entries = testkit::prefect::env_from(&mut template)?.clone();
    if pool == SELECTED {
        return ensure_selection(scene, template, &entries, lost).await;
    }
    ensure_mounts(scene, pool, &mut template)?;
    let mut found = BTreeSet::new();
    for entry in &entries {
        let secret = entry["secretRef"]["name"]
            .as_str()
            .context("an entry without Secret")?;
        ensure!(found.insert(secret.to_owned()), "two entries name {secret}");
    }
    let wanted = scene.entries_of(pool);
    ensure!(
        found == wanted,
        "pool {name} has {found:?} instead of {wanted:?}"
    );
    let mut users = scene.template(pool)?;
    let users_entries = testkit::prefect::env_from(&mut users)?;
    *users_entries = entries;
    if users_entries.is_empty() {
        // The operator removes a list that it added, or leaves an empty one of users.
        return Ok(());
    }
    if template != users && lost.fetch_add(1, Relaxed) < MAX_LOST_EDITS {
        scene.world.api.set_template(&name, &users).await?;
    }
    ensure!(
        template == users,
        "the template of {name} differs in more than its entries"
    );
    Ok(())
}

/// Nothing more is written during some polls.
pub async fn ensure_at_rest(scene: &Scene) -> Result<()> {
    let world = &scene.world;
    // Ready is the last thing that is written.
    for binding in scene.bindings.keys() {
        let name = binding_name(*binding);
        let ready = world.until_within(LIMIT, "a Ready binding", async || {
            let ready = world.condition(&name, "Ready").await?;
            ensure!(
                ready.status == "True",
                "{}: {}",
                ready.reason,
                ready.message
            );
            Ok(())
        });
        ready.await?;
    }
    let rest = world.until_within(LIMIT, "no writes in five polls", async || {
        let before = world.writes(None).await?;
        world.until_polls("unchanged", 5).await?;
        let after = world.writes(None).await?;
        ensure!(before == after, "{} writes in five polls", after - before);
        Ok(())
    });
    rest.await
}

/// The memory is about what it was.
pub fn ensure_memory_is_back(scene: &Scene, before: u64) -> Result<()> {
    let now = scene.world.operator()?.rss_kib()?;
    ensure!(now <= before + MEMORY, "{now} KiB instead of {before} KiB");
    Ok(())
}
