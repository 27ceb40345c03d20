//! Writes the status of a binding if it differs from the last one, and reports the change.
//!
//! Input: the outcome of a reconcile.
//! Output: at most one request, and a report of the changed conditions.
//! Invariants: at rest it sends nothing. A status is never written to another binding of the same
//! name.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{PartialObjectMeta, Request},
};
use serde::Serialize;
use tokio::time::timeout;

use super::{binding_state::WrittenStatus, context::Context, pass::Pass};
use crate::{
    crd::DopplerPrefectBinding,
    kubernetes::{json_patch, metadata_only},
    reason::Reason,
    status::{Outcome, READY, status},
};

/// Wait before a failed write of a status is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the status for `outcome` if it differs from the last one. A failed write is tried again.
pub async fn patch(pass: &mut Pass<'_>, outcome: &Outcome) {
    let (context, binding) = (pass.context, pass.binding);
    let before = pass.last_status();
    let after = status(before, binding.meta().generation, outcome, &now());
    if before == Some(&after) {
        context.report.status_changed(binding, before, &after);
        return;
    }
    let written = write(context, binding, &after).await;
    context.metrics.count_write("status", written.is_ok());
    match written {
        Ok(version) => {
            context.report.status_changed(binding, before, &after);
            let written = WrittenStatus {
                status: Arc::new(after),
                version: version.into(),
            };
            pass.update_state(|state| state.status = Some(written));
            // The watch may have delivered the status before the response arrived.
            if let Some(stored) = context.stored(pass.key) {
                context.states.observe_stored(&stored);
            }
        }
        // The binding was deleted, or replaced by another one: its own event follows.
        Err(Some(404 | 422)) => {}
        Err(_) => pass.requeue.after(RETRY_INTERVAL),
    }
}

/// Writes a condition that says that the binding is invalid, which an older CRD may have admitted.
/// Everything else of the binding stays as it is.
pub async fn report_invalid(pass: &Pass<'_>) {
    let (context, binding) = (pass.context, pass.binding);
    let message = "the operator cannot parse this binding: apply the CRD of this version, then correct the fields that kubectl apply rejects";
    let condition = Condition {
        type_: READY.to_owned(),
        status: "False".to_owned(),
        reason: Reason::InvalidSpec.to_string(),
        message: message.to_owned(),
        observed_generation: binding.meta().generation,
        last_transition_time: now(),
    };
    context.report.emit(binding, Reason::InvalidSpec, message);
    let mut after = pass.last_status().cloned().unwrap_or_default();
    after.conditions = vec![condition];
    let written = write(context, binding, &after).await;
    context.metrics.count_write("status", written.is_ok());
}

#[derive(Serialize)]
struct StatusOperation<'a, T> {
    op: &'a str,
    path: &'a str,
    value: T,
}

/// Replaces the whole status, and returns the binding's new version. The response holds metadata
/// only. An error holds the status code, if there is one.
async fn write(
    context: &Context,
    binding: &DopplerPrefectBinding,
    status: &impl Serialize,
) -> Result<String, Option<u16>> {
    let limit = context.settings.kubernetes_timeout;
    write_status(&context.client, binding, status, limit).await
}

/// Replaces the whole status, and returns the binding's new version.
///
/// # Errors
/// If the API server rejects it, with the status code, or does not answer.
pub async fn write_status(
    client: &Client,
    binding: &DopplerPrefectBinding,
    status: &impl Serialize,
    limit: Duration,
) -> Result<String, Option<u16>> {
    let patch = (
        StatusOperation {
            op: "test",
            path: "/metadata/uid",
            value: binding.uid(),
        },
        StatusOperation {
            op: "add",
            path: "/status",
            value: status,
        },
    );
    let namespace = binding.namespace().unwrap_or_default();
    let request = Request::new(DopplerPrefectBinding::url_path(&(), Some(&namespace)))
        .patch_subresource(
            "status",
            &binding.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .map_err(|_| None)?;
    let request = json_patch(metadata_only(request));
    let response = client.request::<PartialObjectMeta<DopplerPrefectBinding>>(request);
    match timeout(limit, response).await {
        Ok(Ok(written)) => Ok(written.metadata.resource_version.unwrap_or_default()),
        Ok(Err(kube::Error::Api(status))) => Err(Some(status.code)),
        Ok(Err(_)) | Err(_) => Err(None),
    }
}

/// The current time in whole seconds, as Kubernetes writes it.
#[must_use]
pub fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
