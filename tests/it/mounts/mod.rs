//! Files of a binding in job pods: the volume and the mount in templates of work pools (`pools`), in Jobs
//! by the admission policy (`jobs`), their removal (`cleanup`), and runs that read them (`runs`).

mod cleanup;
mod jobs;
mod pools;
mod runs;

use anyhow::Result;
use serde_json::{Value, json};

use crate::world::{Setup, World, secret};

/// Where most tests mount the files.
const PATH: &str = "/srv/doppler/files";

/// A world with one value, of which [`with_files`] makes a file.
async fn world(name: &str, setup: Setup) -> Result<World> {
    let w = World::with(name, setup).await?;
    w.set_doppler_secret("DB_HOST", &secret("db"));
    Ok(w)
}

/// The spec with two files.
fn with_files(mut spec: Value) -> Value {
    spec["managedSecret"]["files"] = json!({
        "profiles.yml": {"template": "host: {{ DB_HOST }}"},
        "all.json": {"format": "Json"},
    });
    spec
}

/// A spec that mounts its files in the pool of the world.
fn mounting(w: &World, mount: &Value) -> Value {
    with_files(w.pool_spec(&json!([{"name": w.name, "mount": mount}])))
}

/// The volume as the operator writes it, without items.
fn volume(secret: &str) -> Value {
    json!({
        "name": format!("doppler-{secret}-files"),
        "secret": {"secretName": format!("{secret}-files"), "optional": true},
    })
}

/// The mount as the operator writes it.
fn volume_mount(secret: &str, path: &str) -> Value {
    json!({"name": format!("doppler-{secret}-files"), "mountPath": path, "readOnly": true})
}

/// The volumes of a pod, and what its first container mounts.
fn lists(pod: &Value) -> (Value, Value) {
    (
        pod["volumes"].clone(),
        pod["containers"][0]["volumeMounts"].clone(),
    )
}
