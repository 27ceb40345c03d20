//! The commands of docs/migration.md, run as they are written there, with the world's names.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::work_pools::{entry, template, with_sources};
use crate::world::{World, pairs, secret};

const PAGE: &str = include_str!("../../docs/migration.md");

/// The commands of one section.
fn commands(section: &str) -> Result<Vec<&'static str>> {
    let section = PAGE
        .split("\n## ")
        .find(|text| text.starts_with(section))
        .with_context(|| format!("no section {section}"))?;
    let block = section
        .split("```sh\n")
        .nth(1)
        .and_then(|text| text.split("```").next())
        .context("no commands")?;
    Ok(block.lines().collect())
}

impl World {
    /// An example with the namespace, the servers and the names of this world.
    fn example(&self, text: &str, pool: &str) -> String {
        let server = format!(
            "server: {{remoteApiUrl: \"{}\"}}\n    block: {{name: {}}}\n  doppler: {{host: \"{}\"}}",
            self.prefect.api_url(),
            self.name,
            self.doppler.url()
        );
        let mut lines = Vec::new();
        for line in text.lines() {
            let indent: String = line.chars().take_while(|letter| *letter == ' ').collect();
            lines.push(if line.trim_start().starts_with("server:") {
                format!("{indent}{server}")
            } else {
                line.to_owned()
            });
        }
        let text = lines.join("\n");
        text.replace("namespace: flows", &format!("namespace: {}", self.name))
            .replace("name: k8s", &format!("name: {pool}"))
    }

    /// Runs the commands of a section.
    async fn migrate(&self, section: &str, pool: &str) -> Result<()> {
        let kubectl = tokio::task::spawn_blocking(testkit::kubectl::program).await??;
        let folder = self.plane.folder().join(&self.name);
        std::fs::create_dir_all(folder.join("examples"))?;
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        for name in ["adopt.yaml", "smallest.yaml"] {
            let text = std::fs::read_to_string(examples.join(name))?;
            let text = self.example(&text, pool);
            std::fs::write(folder.join("examples").join(name), text)?;
        }
        let commands = commands(section)?;
        ensure!(commands.len() >= 2, "{commands:?}");
        for command in commands {
            let own = command.replace("-n flows ", &format!("-n {} ", self.name));
            let own = own.replacen("kubectl", &kubectl.display().to_string(), 1);
            let output = Command::new("sh")
                .args(["-c", &own])
                .current_dir(&folder)
                .env("KUBECONFIG", self.plane.admin_kubeconfig_path())
                .output()
                .await?;
            let printed = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{command}: {printed}");
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
