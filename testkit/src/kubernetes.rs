//! `kubectl apply` and `kubectl delete` without kubectl.
//!
//! Input: a client, and YAML with one or more documents.
//! Output: the objects as the API server returns them.
//! Invariants: discovery resolves kinds, so custom resources work once their definition is
//! established. Documents are never skipped, except empty ones.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Api, Client, ResourceExt};

use crate::wait;

/// The field manager of everything that tests and demo apply.
const FIELD_MANAGER: &str = "testkit";

/// A new definition is served after a moment.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// The documents of a YAML text, with `List`s expanded, in an order in which they can be applied.
///
/// # Errors
/// If a document is not YAML or not a Kubernetes object.
pub fn documents(yaml: &str) -> Result<Vec<DynamicObject>> {
    let values: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(yaml).map_err(|error| anyhow!("not YAML: {error}"))?;
    let mut objects = Vec::new();
    for mut value in values {
        let items = match value.get_mut("items").map(serde_json::Value::take) {
            Some(serde_json::Value::Array(items)) => items,
            _ => vec![value],
        };
        for item in items.into_iter().filter(|item| !item.is_null()) {
            objects.push(serde_json::from_value(item).context("not a Kubernetes object")?);
        }
    }
    // Namespaces and definitions come first; otherwise the order stays.
    objects.sort_by_key(|object: &DynamicObject| match kind(object) {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        _ => 2,
    });
    Ok(objects)
}

/// The kind, or an empty string for a value that is not a Kubernetes object.
#[must_use]
pub fn kind(object: &DynamicObject) -> &str {
    object
        .types
        .as_ref()
        .map_or("", |types| types.kind.as_str())
}

/// Server-side applies every document. Documents without a namespace go to `namespace`.
///
/// # Errors
/// Errors of the API server, with kind and name of the object.
pub async fn apply(client: &Client, namespace: &str, yaml: &str) -> Result<Vec<DynamicObject>> {
    let mut applied = Vec::new();
    for object in documents(yaml)? {
        let what = format!("{} {}", kind(&object), object.name_any());
        let api = api(client, namespace, &object)
            .await
            .with_context(|| what.clone())?;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = api
            .patch(&object.name_any(), &params, &Patch::Apply(&object))
            .await;
        applied.push(patch.with_context(|| format!("cannot apply {what}"))?);
        if kind(&object) == "CustomResourceDefinition" {
            until_established(client, &object.name_any()).await?;
        }
    }
    Ok(applied)
}

/// Deletes every document, in reverse order. Missing objects are not an error.
///
/// # Errors
/// Errors of the API server, with kind and name of the object.
pub async fn delete(client: &Client, namespace: &str, yaml: &str) -> Result<()> {
    for object in documents(yaml)?.iter().rev() {
        let what = format!("{} {}", kind(object), object.name_any());
        let api = api(client, namespace, object)
            .await
            .with_context(|| what.clone())?;
        match api
            .delete(&object.name_any(), &DeleteParams::default())
            .await
        {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            result => drop(result.with_context(|| format!("cannot delete {what}"))?),
        }
    }
    Ok(())
}

/// The API of the object's kind, in the object's namespace or else in `namespace`.
///
/// # Errors
/// If the server does not serve the kind in time.
pub async fn api(
    client: &Client,
    namespace: &str,
    object: &DynamicObject,
) -> Result<Api<DynamicObject>> {
    let types = object
        .types
        .as_ref()
        .context("the object has no apiVersion and kind")?;
    let kind = GroupVersionKind::try_from(types)?;
    let what = format!("{} to be served", types.kind);
    let served = wait::until(DISCOVERY_TIMEOUT, &what, async || {
        discovery::pinned_kind(client, &kind).await
    });
    let (resource, capabilities) = served.await?;
    Ok(match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object.namespace().unwrap_or_else(|| namespace.to_owned());
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
    })
}

async fn until_established(client: &Client, name: &str) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let what = format!("the definition {name} to be established");
    wait::until(DISCOVERY_TIMEOUT, &what, async || {
        let conditions = definitions
            .get(name)
            .await?
            .status
            .unwrap_or_default()
            .conditions;
        let conditions = conditions.unwrap_or_default();
        if conditions
            .iter()
            .any(|one| one.type_ == "Established" && one.status == "True")
        {
            return Ok(());
        }
        let seen: Vec<_> = conditions
            .iter()
            .filter_map(|one| one.message.as_deref())
            .collect();
        Err(anyhow!("{}", seen.join("; ")))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_documents_lists_and_comments() {
        let yaml = "# only a comment\n---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: c}\n---\n---\n\
            kind: List\napiVersion: v1\nitems:\n- {kind: Secret, apiVersion: v1, metadata: {name: s}}\n\
            - {kind: Namespace, apiVersion: v1, metadata: {name: flows}}\n";
        let names: Vec<_> = documents(yaml)
            .unwrap()
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        assert_eq!(names, ["flows", "c", "s"]);
    }

    #[test]
    fn rejects_documents_that_are_no_objects() {
        assert!(documents("just: words").is_ok_and(|objects| objects[0].types.is_none()));
        assert!(documents("- a\n- b\n").is_err());
        assert!(documents("{").is_err());
    }
}
