//! Asks the API server about a binding: whether it accepts it, and which UID it has.
//!
//! Input: a binding.
//! Output: the answer of a server-side apply as a dry run, and the UID.
//! Invariants: it writes nothing.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use tokio::time::timeout;

use super::{
    context::{CheckContext, TIMEOUT},
    findings::Findings,
    input::first_line,
};
use crate::crd::DopplerPrefectBinding;

/// Adds whether the API server accepts the binding. Stores nothing.
pub(super) async fn dry_run(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    findings: &mut Findings,
) {
    let namespace = binding.namespace().unwrap_or_default();
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::apply("doppler-prefect-operator-check")
    }
    .force();
    let mut sent = DopplerPrefectBinding::new(&binding.name_any(), binding.spec.clone());
    sent.metadata.namespace = Some(namespace.clone());
    let api = api(context, &namespace);
    let (name, patch) = (binding.name_any(), Patch::Apply(&sent));
    match timeout(TIMEOUT, api.patch(&name, &params, &patch)).await {
        Ok(Ok(_)) => findings.ok("API server", "accepts the binding"),
        Ok(Err(kube::Error::Api(status))) => match status.code {
            403 => findings.note(
                "API server",
                "you have no permission to create bindings here, so the check did not ask whether it accepts this one",
            ),
            404 => findings.fail(
                "API server",
                &format!(
                    "the CRD or namespace {namespace} does not exist: run kubectl apply -f crds/, or kubectl create namespace {namespace}"
                ),
            ),
            _ => findings.fail("API server", &first_line(&status.message)),
        },
        Ok(Err(_)) | Err(_) => findings.fail("API server", "could not be reached"),
    }
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
