//! The API server accepts every manifest of the pages, and the fragments of bindings.
//!
//! Input: README.md and docs/*.md.
//! Output: a server-side dry run of each YAML block, with unknown fields refused.

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use testkit::kubernetes;

use super::{binding, client, namespace};
use crate::page::{CHART_VALUES, blocks, pages};

/// Fragments that belong to files of other programs begin with one of these members.
const OTHERS: [&str; 7] = [
    "/deployments",            // prefect.yaml
    "/spec/baseJobTemplate",   // PrefectWorkPool
    "/data",                   // argocd-cm
    "/spec/ignoreDifferences", // Application of Argo CD
    "/metadata/annotations",   // a Deployment
    "/volumes",                // a pod
    "/customResourceState",    // values of the chart of kube-state-metrics
];
/// The group of Flux, whose CRDs the API server does not have.
const FLUX: &str = "toolkit.fluxcd.io/";

/// A binding of a fragment: the fragment is an object with `spec`, or some members of one.
fn completed(fragment: &Value) -> Result<DynamicObject> {
    let mut spec = json!({
        "prefect": {"server": {"name": "prefect-server", "namespace": "prefect"}},
        "inject": {"workPools": [{"name": "k8s"}]},
    });
    let members = fragment.get("spec").unwrap_or(fragment);
    let members = members.as_object().context("not an object")?;
    for (name, member) in members.iter().filter(|(name, _)| *name != "metadata") {
        spec[name] = member.clone();
    }
    binding("fragment", &spec)
}

async fn dry_run(client: &Client, object: &DynamicObject) -> Result<()> {
    let home = object.namespace().unwrap_or_else(|| "default".to_owned());
    namespace(client, &home).await?;
    let params = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("kubectl").force()
    };
    let api = kubernetes::api(client, &home, object).await?;
    api.patch(&object.name_any(), &params, &Patch::Apply(object))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn accepts_every_manifest_of_the_pages() -> Result<()> {
    let client = client().await?;
    let (mut manifests, mut fragments) = (0, 0);
    for (page, text) in pages()? {
        for block in blocks(&text, "yaml") {
            if block.starts_with(CHART_VALUES) {
                continue; // A test of the chart renders them.
            }
            let what = || format!("{}:\n{block}", page.display());
            for object in kubernetes::documents(&block).with_context(what)? {
                let whole = serde_json::to_value(&object)?;
                if object.types.is_none() {
                    if OTHERS.iter().any(|member| whole.pointer(member).is_some()) {
                        continue;
                    }
                    let completed = completed(&whole).with_context(what)?;
                    dry_run(&client, &completed).await.with_context(what)?;
                    fragments += 1;
                } else if !whole["apiVersion"].to_string().contains(FLUX) {
                    dry_run(&client, &object).await.with_context(what)?;
                    manifests += 1;
                }
            }
        }
    }
    ensure!(manifests >= 12, "only {manifests} manifests");
    ensure!(fragments >= 10, "only {fragments} fragments");
    Ok(())
}

#[test]
fn an_unknown_member_of_a_fragment_stays() -> Result<()> {
    let found = completed(&json!({"injct": {}}))?;
    ensure!(found.data["spec"]["injct"] == json!({}));
    ensure!(found.data["spec"]["inject"] != Value::Null);
    Ok(())
}
