//! The outcome is written into the status, if it says anything new, and told.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::timeout;

use super::{clock::now, context::Context, wake::BindingRef};
use crate::{
    crd::{DopplerPrefectBinding, DopplerPrefectBindingSpec},
    reason::Reason,
    status::{Outcome, READY, status},
};

/// Wait before a status that was not taken is written again.
const AGAIN: Duration = Duration::from_secs(5);

/// Writes the status that says `outcome`, if it differs from the one that was written last. Gives when to try again, if it was not taken.
pub async fn record(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    outcome: &Outcome,
) -> Option<Duration> {
    let remembered = context
        .memory
        .look(who, |remembered| remembered.status.clone());
    let before = remembered.as_deref().or(binding.status.as_ref());
    let after = status(before, binding.meta().generation, outcome, &now());
    if before == Some(&after) {
        context.report.changed(binding, before, &after);
        return None;
    }
    let written = write(context, binding, json!(after)).await;
    context.metrics.wrote("status", written.is_ok());
    match written {
        Ok(()) => {
            context.report.changed(binding, before, &after);
            context
                .memory
                .change(who, |remembered| remembered.status = Some(Arc::new(after)));
            None
        }
        // It is gone, or another one by now: its own event follows.
        Err(Some(404 | 422)) => None,
        Err(_) => Some(AGAIN),
    }
}

/// Replaces the status whole; the status of another binding of the same name is not touched.
async fn write(
    context: &Context,
    binding: &DopplerPrefectBinding,
    status: serde_json::Value,
) -> Result<(), Option<u16>> {
    let api: Api<DopplerPrefectBinding> = Api::namespaced(
        context.client.clone(),
        &binding.namespace().unwrap_or_default(),
    );
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": binding.uid()},
        {"op": "add", "path": "/status", "value": status},
    ]);
    let patch: json_patch::Patch = serde_json::from_value(patch).map_err(|_| None)?;
    let name = binding.name_any();
    let params = PatchParams::default();
    let patched = timeout(
        context.settings.kubernetes_timeout,
        api.patch_status(&name, &params, &Patch::<()>::Json(patch)),
    )
    .await;
    match patched {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(Some(status.code)),
        Ok(Err(_)) | Err(_) => Err(None),
    }
}

/// A binding that cannot be read, which an older CRD may have let in, is told so. It is left as it is.
pub async fn unreadable(context: &Context, metadata: &ObjectMeta) {
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
    context.report.tell(&binding, Reason::InvalidSpec, message);
    let written = write(context, &binding, json!({"conditions": [condition]})).await;
    context.metrics.wrote("status", written.is_ok());
}
