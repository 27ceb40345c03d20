//! The Secret: its content, its ownership, and its repair.

mod configs;
mod content;
mod files;
mod life;
mod names;
mod owner;
mod repair;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::world::{World, secret};

/// A spec with this `managedSecret`.
fn spec_with_secret(world: &World, stanza: Value) -> Value {
    let mut spec = world.spec();
    spec["managedSecret"] = stanza;
    spec
}

/// Creates a Secret that the operator does not manage.
async fn create_foreign_secret(world: &World, name: &str, more: Value) -> Result<()> {
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": {"owner": "me"}}});
    object["stringData"] = json!({"MINE": secret("mine")});
    for (field, value) in more.as_object().context("an object")? {
        object[field] = value.clone();
    }
    world.apply(&object.to_string()).await
}

/// Consents to the adoption of a Secret, as its owner does.
async fn consent(world: &World, name: &str, binding: &str) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {"doppler-prefect.dev/adopt": binding}}});
    world.edit_secret(name, &patch).await.map(drop)
}
