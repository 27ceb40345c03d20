//! Something at the API server refuses the Secret.
//!
//! Input: none. Output: what was seen, with the message of the condition.
//! Invariants: what refuses the Secret is gone when a case ends.

use std::time::Instant;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use testkit::kubernetes;

use super::{change, failed_writes, recovers, setup, until_failed_write, world};
use crate::case::Seen;
use crate::stage::{after, ensure_kept, until_false};
use crate::world::World;

/// Waits until the write of the Secret is refused, and checks that attempts stay few.
async fn refused(world: &World) -> Result<String> {
    change(world);
    let condition = until_false(world, "b", "SecretSynced").await?;
    ensure_kept(world, "b").await?;
    Ok(format!("{}: {}", condition.reason, condition.message))
}

pub async fn quota() -> Result<Seen> {
    let world = World::with("api-quota", setup().await?).await?;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"count/secrets": "0"}},
    });
    world.apply(&quota.to_string()).await?;
    // No controller of quotas runs here: the admission plugin needs a status.
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client.clone(), &world.name);
    let status =
        json!({"status": {"hard": {"count/secrets": "0"}, "used": {"count/secrets": "0"}}});
    quotas
        .patch_status("few", &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    world.doppler.replace(&world.name, "dev", after());
    let start = Instant::now();
    world
        .until("the quota to hold", async || {
            let spec = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "probe"}});
            if world.apply(&spec.to_string()).await.is_ok() {
                world.delete_secret("probe").await?;
                anyhow::bail!("a Secret could be created");
            }
            Ok(())
        })
        .await?;
    world.apply_binding("b", &world.spec()).await?;
    let condition = until_false(&world, "b", "SecretSynced").await?;
    ensure!(condition.message.contains("quota"), "{}", condition.message);
    let failed = failed_writes(&world).await?;
    quotas.delete("few", &DeleteParams::default()).await?;
    let mended = Instant::now();
    let what = format!("{}: {}", condition.reason, condition.message);
    recovers(world, &what, Some(failed), start, mended).await
}

pub async fn policy() -> Result<Seen> {
    let world = world("api-policy").await?;
    let name = "no-secrets-here.example.com";
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["secrets"]}]},
            "validations": [{"expression": "false", "message": "Secrets need an owner label"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.name}}}},
    });
    world.apply(&policy.to_string()).await?;
    world.apply(&binding.to_string()).await?;
    world
        .until("the policy to hold", async || {
            let edited = world
                .edit_secret("b", &json!({"metadata": {"annotations": {"theirs": "1"}}}))
                .await;
            ensure!(edited.is_err(), "the Secret could be edited");
            Ok(())
        })
        .await?;
    let start = Instant::now();
    let what = refused(&world).await?;
    let failed = failed_writes(&world).await?;
    kubernetes::delete(&world.client, &world.name, &binding.to_string()).await?;
    kubernetes::delete(&world.client, &world.name, &policy.to_string()).await?;
    let mended = Instant::now();
    recovers(world, &what, Some(failed), start, mended).await
}

pub async fn webhook_down() -> Result<Seen> {
    let world = world("api-webhook").await?;
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "api-webhook"},
        "webhooks": [{
            "name": "labels.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 1,
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["secrets"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.name}},
        }],
    });
    world.apply(&webhook.to_string()).await?;
    world
        .until("the webhook to be asked", async || {
            let edited = world
                .edit_secret("b", &json!({"metadata": {"annotations": {"theirs": "1"}}}))
                .await;
            ensure!(edited.is_err(), "the Secret could be edited");
            Ok(())
        })
        .await?;
    let start = Instant::now();
    let what = refused(&world).await?;
    let failed = failed_writes(&world).await?;
    kubernetes::delete(&world.client, &world.name, &webhook.to_string()).await?;
    let mended = Instant::now();
    recovers(world, &what, Some(failed), start, mended).await
}

pub async fn rbac_taken() -> Result<Seen> {
    let world = world("api-rbac").await?;
    let bindings: Api<RoleBinding> = Api::namespaced(world.client.clone(), &world.name);
    let found = bindings.list(&ListParams::default()).await?.items;
    ensure!(
        !found.is_empty(),
        "the chart has no RoleBinding in the watched namespace"
    );
    let start = Instant::now();
    for one in &found {
        bindings
            .delete(&one.name_any(), &DeleteParams::default())
            .await?;
    }
    change(&world);
    until_failed_write(&world).await?;
    ensure_kept(&world, "b").await?;
    let failed = failed_writes(&world).await?;
    for mut one in found {
        one.metadata = ObjectMeta {
            name: one.metadata.name,
            ..Default::default()
        };
        bindings.create(&PostParams::default(), &one).await?;
    }
    let mended = Instant::now();
    recovers(
        world,
        "writes were refused and tried again",
        Some(failed),
        start,
        mended,
    )
    .await
}
