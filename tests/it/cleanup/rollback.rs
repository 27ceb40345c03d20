//! Bindings that a newer version wrote, after a rollback to this one: what is deleted leaves nothing.
//!
//! These tests have their own control plane, because they change the CRD.

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testkit::control_plane::{ControlPlane, Options};
use testkit::kubernetes;

use super::records::until_nothing_is_left;
use super::removal_order::world;
use crate::world::{CRD, Setup, World, secret};

/// The CRD of a version whose spec and status may have any shape.
fn newer_crd() -> Result<String> {
    let mut crd = serde_json::to_value(&kubernetes::documents(CRD)?[0])?;
    for part in ["spec", "status"] {
        let schema = crd
            .pointer_mut(&format!(
                "/spec/versions/0/schema/openAPIV3Schema/properties/{part}"
            ))
            .with_context(|| format!("no schema of the {part}"))?;
        *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    Ok(crd.to_string())
}

/// A status of a newer version: every field that this version reads has another type.
fn newer_status() -> Value {
    json!({"status": {
        "conditions": {"Ready": {"state": "Good"}},
        "injectedEntries": {"byPool": {"count": 1}},
        "workPools": "all",
        "observedGeneration": "seven",
        "excludedKeys": {"count": 0},
        "keyCount": {"total": 1},
        "content": {"hash": ["of another kind"]},
    }})
}

/// A spec of a newer version. What leads to Secret and pool is still there, in another shape.
fn newer_spec() -> Value {
    json!({"spec": {
        "inject": {"workPools": {"everywhere": true}},
        "suspend": {"until": "tomorrow"},
        "doppler": {"host": {"name": "of another kind"}},
    }})
}

/// What a newer version has written of a binding.
#[derive(Clone, Copy)]
struct Newer {
    name: &'static str,
    spec: bool,
    status: bool,
}

const CASES: [Newer; 3] = [
    Newer {
        name: "status",
        spec: false,
        status: true,
    },
    Newer {
        name: "spec",
        spec: true,
        status: false,
    },
    Newer {
        name: "both",
        spec: true,
        status: true,
    },
];

/// Writes a binding as a newer version does.
async fn write(world: &World, newer: Newer) -> Result<()> {
    let (bindings, params) = (world.bindings(), PatchParams::default());
    if newer.spec {
        world
            .until("the newer CRD to admit the spec", async || {
                let patch = Patch::Merge(newer_spec());
                bindings.patch(newer.name, &params, &patch).await?;
                let found = &world.binding(newer.name).await?.data["spec"]["suspend"];
                ensure!(found.is_object(), "{found}");
                Ok(())
            })
            .await?;
    }
    if newer.status {
        world
            .until("the newer CRD to admit the status", async || {
                let patch = Patch::Merge(newer_status());
                let written = bindings.patch_status(newer.name, &params, &patch).await?;
                let found = &written.data["status"]["conditions"];
                ensure!(found.is_object(), "{found}");
                Ok(())
            })
            .await?;
    }
    Ok(())
}

/// A world with one injected binding for each case.
async fn injected(name: &str) -> Result<World> {
    let plane = ControlPlane::start(Options {
        manifests: vec![CRD.to_owned()],
        ..Options::default()
    })
    .await?;
    // The control plane ends with this process, because the clients outlive the test.
    let setup = Setup {
        plane: Some(Box::leak(Box::new(plane))),
        ..Setup::default()
    };
    let world = world(name, setup).await?;
    for newer in CASES {
        world.bind_to(newer.name, name).await?;
    }
    for newer in CASES {
        world.until_ready(newer.name).await?;
    }
    Ok(world)
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_cleans_up_what_a_newer_version_wrote() -> Result<()> {
    let world = injected("cleanup-newer").await?;
    world.apply(&newer_crd()?).await?;
    for newer in CASES {
        write(&world, newer).await?;
    }
    // The status is written again; a spec is the user's.
    world.until_ready("status").await?;
    for name in ["spec", "both"] {
        world.until_not_ready(name, "InvalidSpec").await?;
        world.secrets().get(name).await?;
    }
    world.set_doppler_secret("SECRET_API_KEY", &secret("0987654321"));
    world
        .until("the newest value", async || {
            let values = world.values("status").await?;
            ensure!(values["SECRET_API_KEY"] == secret("0987654321"), "not yet");
            Ok(())
        })
        .await?;
    for newer in CASES {
        world.delete_binding(newer.name).await?;
    }
    for newer in CASES {
        world.until_binding_deleted(newer.name).await?;
        until_nothing_is_left(&world, newer.name).await?;
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cleans_up_after_a_rollback_of_operator_and_crd() -> Result<()> {
    let mut world = injected("cleanup-rollback").await?;
    // The newer version runs, and is replaced by this one.
    world.stop_operator().await?;
    world.apply(&newer_crd()?).await?;
    for newer in CASES {
        write(&world, newer).await?;
        world.delete_binding(newer.name).await?;
    }
    world.apply(CRD).await?;
    world.start_operator().await?;
    for newer in CASES {
        world.until_binding_deleted(newer.name).await?;
    }
    for newer in CASES {
        until_nothing_is_left(&world, newer.name).await?;
    }
    world.finish().await
}
