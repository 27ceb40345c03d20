//! Asks the API server about a binding: whether it accepts it, and which UID it has.
//!
//! Input: a binding.
//! Output: the answer of a server-side apply as a dry run, and the UID.
//! Invariants: it writes nothing.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, ValidationDirective},
};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    context::{CheckContext, TIMEOUT},
    findings::Findings,
    input::first_line,
    schema::without_empty_fields,
};
use crate::crd::DopplerPrefectBinding;

/// Adds whether the API server accepts the binding as it is written, as `kubectl apply` would send it:
/// with every unknown field refused. Stores nothing. Returns whether the API server has decided.
pub(super) async fn dry_run(
    context: &CheckContext,
    written: &Value,
    binding: &DopplerPrefectBinding,
    findings: &mut Findings,
) -> bool {
    let namespace = binding.namespace().unwrap_or_default();
    let params = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("doppler-prefect-operator-check")
    }
    .force();
    let sent = as_applied(written, &namespace);
    let api = api(context, &namespace);
    let (name, patch) = (binding.name_any(), Patch::Apply(&sent));
    match timeout(TIMEOUT, api.patch(&name, &params, &patch)).await {
        Ok(Ok(_)) => findings.ok("API server", "accepts the binding"),
        Ok(Err(kube::Error::Api(status))) => match status.code {
            403 => {
                findings.note(
                    "API server",
                    "you have no permission to create bindings here, so the check did not ask whether it accepts this one",
                );
                return false;
            }
            404 => findings.fail(
                "API server",
                &format!(
                    "the CRD or namespace {namespace} does not exist: run kubectl apply -f crds/, or kubectl create namespace {namespace}"
                ),
            ),
            _ => findings.fail("API server", &first_line(&status.message)),
        },
        Ok(Err(_)) | Err(_) => {
            findings.fail("API server", "could not be reached");
            return false;
        }
    }
    true
}

/// The object without what the API server itself sets, which a list of `kubectl get` shows.
fn as_applied(written: &Value, namespace: &str) -> Value {
    let mut sent = without_empty_fields(written);
    if let Some(fields) = sent.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = sent["metadata"].as_object_mut() {
        for field in [
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "generation",
            "managedFields",
            "resourceVersion",
            "selfLink",
            "uid",
        ] {
            metadata.remove(field);
        }
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    sent
}

/// The UID of the binding of this name. `Ok(None)` if there is none.
///
/// # Errors
/// If the user has no permission to read bindings, or the API server does not answer: what it said.
pub(super) async fn binding_uid(
    context: &CheckContext,
    namespace: &str,
    name: &str,
) -> Result<Option<String>, String> {
    let api = api(context, namespace);
    match timeout(TIMEOUT, api.get_metadata_opt(name)).await {
        Ok(Ok(metadata)) => Ok(metadata.and_then(|metadata| metadata.metadata.uid)),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Ok(Err(kube::Error::Api(status))) => Err(first_line(&status.message)),
        Ok(Err(_)) | Err(_) => Err("the API server could not be reached".to_owned()),
    }
}

fn api(context: &CheckContext, namespace: &str) -> Api<DopplerPrefectBinding> {
    Api::namespaced(context.client.clone(), namespace)
}
