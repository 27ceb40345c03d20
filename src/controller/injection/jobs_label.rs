//! The label by which the admission policy finds the bindings that select Jobs.
//!
//! Input: a binding, and whether it selects Jobs.
//! Output: at most one patch of its label.
//! Invariants: other labels stay. A label that was set by hand selects nothing: the policy reads the
//! spec.

use std::time::Duration;

use kube::{
    Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{PartialObjectMeta, Request},
};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    controller::{binding_state::WrittenMark, object_cache::is_newer, pass::Pass},
    crd::{DopplerPrefectBinding, SELECTS_JOBS_LABEL},
    failure::Failure,
    kubernetes::metadata_only,
    reason::Reason,
    refusal::Refusal,
};

/// Wait after a failed write.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Wait after a conflict: the watch delivers the newer binding within it.
const CONFLICT_WAIT: Duration = Duration::from_millis(500);

/// Sets or removes the label, if that changes the binding.
///
/// # Errors
/// If the API server refuses the patch or does not answer.
pub async fn ensure(pass: &mut Pass<'_>, wanted: bool) -> Result<(), Failure> {
    if has_label(pass) == wanted {
        return Ok(());
    }
    match write(pass, wanted).await {
        Ok(version) => {
            let written = WrittenMark {
                present: wanted,
                version: version.into(),
            };
            pass.update_state(|state| state.jobs_label = Some(written));
            Ok(())
        }
        Err((wait, text)) => {
            pass.update_state(|state| state.jobs_label = None);
            pass.requeue.after(wait);
            let failure = Failure::new(Reason::KubernetesError, text);
            let report = &pass.context.report;
            report.log(pass.binding, failure.reason, &failure.message);
            Err(failure)
        }
    }
}

/// Whether the binding has the label, as far as this process knows.
fn has_label(pass: &Pass<'_>) -> bool {
    let stored = pass.binding.meta().resource_version.as_deref();
    let written = pass.read_state(|state| state.jobs_label.clone());
    let newer =
        written.filter(|written| stored.is_none_or(|stored| is_newer(&written.version, stored)));
    newer.map_or_else(
        || pass.binding.labels().contains_key(SELECTS_JOBS_LABEL),
        |written| written.present,
    )
}

/// Sends the patch. Returns the binding's new version, or when to try again, and why.
async fn write(pass: &Pass<'_>, wanted: bool) -> Result<String, (Duration, String)> {
    let (context, binding) = (pass.context, pass.binding);
    let namespace = binding.namespace().unwrap_or_default();
    let patch = json!({"metadata": {
        "uid": binding.uid(),
        "labels": {SELECTS_JOBS_LABEL: wanted.then_some("true")},
    }});
    let unreachable = || {
        let text = format!(
            "the API server did not answer when the operator set the label {SELECTS_JOBS_LABEL}; the operator tries again"
        );
        (RETRY_INTERVAL, text)
    };
    let request = Request::new(DopplerPrefectBinding::url_path(&(), Some(&namespace)))
        .patch(
            &binding.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .map_err(|_| unreachable())?;
    let response = context
        .client
        .request::<PartialObjectMeta<DopplerPrefectBinding>>(metadata_only(request));
    let written = timeout(context.settings.kubernetes_timeout, response).await;
    context
        .metrics
        .count_write("binding", matches!(written, Ok(Ok(_))));
    match written {
        Ok(Ok(patched)) => Ok(patched.metadata.resource_version.unwrap_or_default()),
        Ok(Err(kube::Error::Api(status))) => {
            let wait = match status.code {
                404 | 409 => CONFLICT_WAIT,
                _ => RETRY_INTERVAL,
            };
            let text = match Refusal::of(&status) {
                Refusal::Rbac => format!(
                    "the operator has no permission to set the label {SELECTS_JOBS_LABEL} on the binding (403): grant its service account `patch` on dopplerprefectbindings"
                ),
                Refusal::Policy { policy, sentence } => format!(
                    "{policy} rejects the label {SELECTS_JOBS_LABEL} of the binding{}: ask the administrator of the policy to allow it",
                    sentence.quoted()
                ),
                _ => format!(
                    "the API server rejected the label {SELECTS_JOBS_LABEL} of the binding (status {}); the operator tries again",
                    status.code
                ),
            };
            Err((wait, text))
        }
        Ok(Err(_)) | Err(_) => Err(unreachable()),
    }
}
