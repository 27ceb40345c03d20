//! The outcome is written into the status, if it says anything new, and told.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    core::{PartialObjectMeta, Request},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::{binding_state::WrittenStatus, context::Context, requeue::now, work_queue::BindingRef};
use crate::{
    crd::{DopplerPrefectBinding, DopplerPrefectBindingSpec},
    kubernetes::{json_patch, metadata_only},
    reason::Reason,
    status::{Outcome, READY, status},
};

/// Wait before a status that was not taken is written again.
const AGAIN: Duration = Duration::from_secs(5);

/// Writes the status that says `outcome`, if it differs from the one that was written last. Gives when to try again, if it was not taken.
pub async fn patch(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    outcome: &Outcome,
) -> Option<Duration> {
    let remembered = context
        .states
        .read(who, |remembered| remembered.status.clone());
    let before = remembered.as_ref().map(|said| &*said.status);
    let before = before.or(binding.status.as_ref());
    let after = status(before, binding.meta().generation, outcome, &now());
    if before == Some(&after) {
        context.report.status_changed(binding, before, &after);
        return None;
    }
    let written = write(context, binding, &after).await;
    context.metrics.count_write("status", written.is_ok());
    match written {
        Ok(version) => {
            context.report.status_changed(binding, before, &after);
            let said = WrittenStatus {
                status: Arc::new(after),
                version: version.into(),
            };
            context
                .states
                .update(who, |remembered| remembered.status = Some(said));
            None
        }
        // It is gone, or another one by now: its own event follows.
        Err(Some(404 | 422)) => None,
        Err(_) => Some(AGAIN),
    }
}

#[derive(Serialize)]
struct Operation<'a, T> {
    op: &'a str,
    path: &'a str,
    value: T,
}

/// Replaces the status whole; the status of another binding of the same name is not touched. Gives the binding's version with it. The answer holds
/// metadata only, which is all that is looked at.
async fn write(
    context: &Context,
    binding: &DopplerPrefectBinding,
    status: &impl Serialize,
) -> Result<String, Option<u16>> {
    let patch = (
        Operation {
            op: "test",
            path: "/metadata/uid",
            value: binding.uid(),
        },
        Operation {
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
    let answer = context
        .client
        .request::<PartialObjectMeta<DopplerPrefectBinding>>(request);
    match timeout(context.settings.kubernetes_timeout, answer).await {
        Ok(Ok(written)) => Ok(written.metadata.resource_version.unwrap_or_default()),
        Ok(Err(kube::Error::Api(status))) => Err(Some(status.code)),
        Ok(Err(_)) | Err(_) => Err(None),
    }
}

/// A binding that cannot be read, which an older CRD may have let in, is told so. It is left as it is.
pub async fn report_invalid(context: &Context, metadata: &ObjectMeta) {
    let mut binding = DopplerPrefectBinding::new(
        metadata.name.as_deref().unwrap_or_default(),
        DopplerPrefectBindingSpec::default(),
    );
    binding.metadata = metadata.clone();
    let message = "the operator cannot read this binding: apply the CRD of this version, and correct the fields that kubectl apply then refuses";
    let condition = Condition {
        type_: READY.to_owned(),
        status: "False".to_owned(),
        reason: Reason::InvalidSpec.to_string(),
        message: message.to_owned(),
        observed_generation: metadata.generation,
        last_transition_time: now(),
    };
    context.report.emit(&binding, Reason::InvalidSpec, message);
    let written = write(context, &binding, &json!({"conditions": [condition]})).await;
    context.metrics.count_write("status", written.is_ok());
}
