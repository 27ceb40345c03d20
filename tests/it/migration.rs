//! The commands of docs/migration.md, run as they are written there, with the world's names.

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::page::{blocks, section};
use crate::work_pools::{entry, template, with_sources};
use crate::world::{World, pairs, secret};

const PAGE: &str = include_str!("../../docs/migration.md");

impl World {
    /// Runs the commands of a section.
    async fn migrate(&self, title: &str, pool: &str) -> Result<()> {
        let folder = self.examples(pool)?;
        let code = blocks(section(PAGE, title)?, "sh").join("\n");
        ensure!(code.lines().count() >= 2, "{code}");
        for command in code.lines() {
            self.run_kubectl(&folder, command).await?;
        }
        Ok(())
    }

    /// A Secret that another operator wrote, and a pool whose template names it.
    async fn old_secret(&self, metadata: &Value, pool: &str) -> Result<String> {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": "my-project-dev"}, "stringData": {"A": secret("old")},
        });
        for (field, value) in metadata.as_object().context("metadata")? {
            object["metadata"][field] = value.clone();
        }
        self.apply(&object.to_string()).await?;
        let named = format!("[{}]", entry("my-project-dev", false));
        self.create_pool(pool, &with_sources(&template(&self.name), &named))
            .await?;
        self.uid().await
    }

    async fn uid(&self) -> Result<String> {
        let found = self.secrets().get("my-project-dev").await?;
        found.uid().context("no UID")
    }

    /// The Secret is the same object with the new values, and the pool's entry is its owner's.
    async fn ensure_adopted(&self, uid: &str, pool: &str) -> Result<()> {
        ensure!(self.uid().await? == uid, "the Secret was created again");
        ensure!(self.values("my-project-dev").await? == pairs(&[("A", secret("new"))]));
        let state = self.pool_status("my-project-dev", pool).await?;
        ensure!(state["state"] == "AlreadyPresent", "{state}");
        Ok(())
    }
}

/// The CRD of another operator, as far as the API server needs it.
fn crd(group: &str, kind: &str, version: &str) -> String {
    let singular = kind.to_lowercase();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{singular}s.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": format!("{singular}s"), "singular": singular, "listKind": format!("{kind}List")},
            "versions": [{
                "name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_takes_over_the_secret_of_a_doppler_secret() -> Result<()> {
    let (w, pool) = (World::start("migrate-doppler").await?, "migrate-doppler");
    w.set_doppler_secret("A", &secret("new"));
    w.apply(&crd("secrets.doppler.com", "DopplerSecret", "v1alpha1"))
        .await?;
    let old = json!({
        "apiVersion": "secrets.doppler.com/v1alpha1", "kind": "DopplerSecret",
        "metadata": {"name": "my-project-dev"}, "spec": {"managedSecret": {"name": "my-project-dev"}},
    });
    w.until("the kind DopplerSecret", async || {
        w.apply(&old.to_string()).await
    })
    .await?;
    let metadata = json!({
        "labels": {"secrets.doppler.com/subtype": "dopplerSecret"},
        "annotations": {"secrets.doppler.com/version": "W/\"1\""},
    });
    let uid = w.old_secret(&metadata, pool).await?;
    w.migrate("From a DopplerSecret", pool).await?;
    w.ensure_adopted(&uid, pool).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_takes_over_the_secret_of_an_external_secret() -> Result<()> {
    let (w, pool) = (World::start("migrate-external").await?, "migrate-external");
    w.set_doppler_secret("A", &secret("new"));
    w.apply(&crd("external-secrets.io", "ExternalSecret", "v1"))
        .await?;
    let old = json!({
        "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
        "metadata": {"name": "my-project-dev"}, "spec": {},
    });
    w.until("the kind ExternalSecret", async || {
        w.apply(&old.to_string()).await
    })
    .await?;
    let resource = kube::api::ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(
        "external-secrets.io",
        "v1",
        "ExternalSecret",
    ));
    let api: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(w.client.clone(), &w.name, &resource);
    let owner = api.get("my-project-dev").await?;
    let owner = json!([{
        "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "name": "my-project-dev",
        "uid": owner.uid(), "controller": true, "blockOwnerDeletion": true,
    }]);
    let uid = w
        .old_secret(&json!({"ownerReferences": owner}), pool)
        .await?;
    // The garbage collector learns of the new kind some time after its CRD.
    w.until("an owner that the garbage collector removes", async || {
        let found = w.secrets().get("my-project-dev").await?;
        ensure!(found.metadata.owner_references.is_some());
        Ok(())
    })
    .await?;
    w.migrate("From an ExternalSecret", pool).await?;
    w.ensure_adopted(&uid, pool).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_that_read_doppler_themselves_get_a_binding_beside_it() -> Result<()> {
    let w = World::start("migrate-flows").await?;
    w.set_doppler_secret("A", &secret("new"));
    for (number, section) in ["From `doppler run`", "From the SDK"].iter().enumerate() {
        let pool = format!("migrate-flows-{number}");
        w.create_pool(&pool, &template(&w.name)).await?;
        w.migrate(section, &pool).await?;
        ensure!(w.values("my-project-dev").await? == pairs(&[("A", secret("new"))]));
    }
    w.finish().await
}
