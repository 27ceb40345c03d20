//! Which work pools the operator would change, and how.
//!
//! Input: the desired Secret, and each work pool that the binding names.
//! Output: findings, by the controller's own plan.
//! Invariants: writes nothing; prints only `envFrom`, the variable by which runs choose, and with a
//! mount the volumes and mounts, because the rest of a template may hold secrets.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::value::RawValue;
use similar::TextDiff;
use tokio::time::timeout;

use super::{
    context::{CheckContext, TIMEOUT},
    findings::Findings,
};
use crate::{
    controller::prefect_work_pools::owned_by,
    crd::{DopplerPrefectBinding, WorkPoolSpec},
    inject::{
        claim::{Adoption, Claim, Observation, Phase, UsedName, Want},
        plan::{History, PoolView, destination_variables, plan, unserved_deployments},
        pool_owner::{ManagedPool, owner_of},
    },
    prefect::Connection,
    secret::Desired,
    upstream::limiter::Priority,
};

/// The list of entries in a base job template.
const ENV_FROM: &str = "/job_configuration/job_manifest/spec/template/spec/containers/0/envFrom";
/// The volumes of the pod.
const VOLUMES: &str = "/job_configuration/job_manifest/spec/template/spec/volumes";
/// What the first container mounts.
const VOLUME_MOUNTS: &str =
    "/job_configuration/job_manifest/spec/template/spec/containers/0/volumeMounts";

/// What the checks of all pools of a binding share.
struct PoolChecks<'a> {
    context: &'a CheckContext,
    connection: &'a Arc<Connection>,
    namespace: String,
    binding: String,
    secret: &'a str,
    keys: Arc<BTreeSet<String>>,
    managed: Vec<ManagedPool>,
}

/// Checks each work pool that the binding names.
pub(super) async fn check_pools(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    connection: &Arc<Connection>,
    desired: &Desired,
    findings: &mut Findings,
) {
    if binding.spec.inject.work_pools.is_empty() {
        return;
    }
    let checks = PoolChecks {
        context,
        connection,
        namespace: binding.namespace().unwrap_or_default(),
        binding: binding.name_any(),
        secret: &desired.name,
        keys: Arc::new(desired.data.keys().cloned().collect()),
        managed: list_managed_pools(context, findings).await,
    };
    for pool in &binding.spec.inject.work_pools {
        if let Err(why) = checks.check(pool, findings).await {
            findings.fail(&format!("work pool {}", pool.name), &why);
        }
    }
}

impl PoolChecks<'_> {
    async fn check(&self, pool: &WorkPoolSpec, findings: &mut Findings) -> Result<(), String> {
        let topic = format!("work pool {}", pool.name);
        let client = self
            .context
            .connections
            .client(self.connection)
            .map_err(|error| error.to_string())?;
        let work_pool = client
            .work_pool(&pool.name, Priority::Interactive)
            .await
            .map_err(|error| format!("{}: {error}", error.reason()))?;
        let variables = destination_variables(&work_pool.base_job_template);
        let deployments =
            client.deployment_overrides(&pool.name, &variables, Priority::Interactive);
        let deployments = match deployments.await {
            Ok(deployments) => Some(deployments),
            Err(error) => {
                findings.note(&topic, &format!("cannot list its deployments: {error}"));
                None
            }
        };
        let view = PoolView {
            pool: &pool.name,
            pool_type: &work_pool.pool_type,
            template: &work_pool.base_job_template,
            deployments: deployments.as_ref(),
            owner: owner_of(&self.managed, &self.connection.api_url, &pool.name),
        };
        let claim = self.claim(pool);
        let mount = pool.mount.as_ref().map(|mount| Claim {
            mount: Some(mount.clone()),
            keys: Arc::default(),
            ..claim.clone()
        });
        let claims: Vec<&Claim> = [&claim].into_iter().chain(&mount).collect();
        for observation in report_plan(&view, &claims, &topic, findings) {
            note_details(&observation, &topic, findings);
            // Without the list, the finding above says so.
            if let (Some(_), Some(text)) = (&deployments, &observation.unchecked_deployments) {
                findings.note(&topic, text);
            }
        }
        for (namespace, names) in unserved_deployments(&view, &claim) {
            findings.note(
                &topic,
                &format!(
                    "deployments send jobs to namespace {namespace}, which does not have the Secret: {}",
                    names.join(", ")
                ),
            );
        }
        Ok(())
    }

    /// The claim that the operator would declare for a pool of the binding.
    fn claim(&self, pool: &WorkPoolSpec) -> Claim {
        Claim {
            namespace: self.namespace.clone(),
            binding: self.binding.clone(),
            secret: self.secret.to_owned(),
            variable: pool.variable().map(str::to_owned),
            mount: None,
            optional: pool.optional(),
            same_cluster: pool.same_cluster(),
            mode: pool.mode(),
            keys: Arc::clone(&self.keys),
            want: Want::Present,
            recorded: true,
            adoption: Adoption::None,
            used_name: UsedName::Stays,
            interval: Duration::from_mins(1),
        }
    }
}

/// Adds what the operator would do, and returns what it would then observe for each claim.
fn report_plan(
    view: &PoolView<'_>,
    claims: &[&Claim],
    topic: &str,
    findings: &mut Findings,
) -> Vec<Observation> {
    let current = plan(view, claims, &History::default());
    let mut observations = current.observations;
    if let Some(edited) = &current.edit {
        findings.ok_with_details(
            topic,
            "would change only this part of its template:",
            &template_diff(view.template, edited, claims),
        );
        // Only the edited template shows what overrides the entry.
        let view = PoolView {
            template: edited,
            ..*view
        };
        observations = plan(&view, claims, &History::default()).observations;
    }
    for observation in &observations {
        if observation.phase != Phase::Injected {
            let text = format!("{}: {}", observation.reason, observation.message);
            findings.fail(topic, &text);
        } else if current.edit.is_none() {
            findings.ok(topic, &observation.message);
        }
    }
    observations
}

/// Adds what the user should know about the pool.
fn note_details(observation: &Observation, topic: &str, findings: &mut Findings) {
    if !observation.shadowed_keys.is_empty() {
        let keys = observation.shadowed_keys.join(", ");
        findings.note(topic, &format!("its own env or envFrom overrides: {keys}"));
    }
    if !observation.later_sources.is_empty() {
        let sources = observation.later_sources.join(", ");
        findings.note(
            topic,
            &format!("later sources override equal keys: {sources}"),
        );
    }
}

/// The change of `envFrom`, of the variable by which runs choose, and of volumes and mounts, as a diff.
fn template_diff(before: &RawValue, after: &RawValue, claims: &[&Claim]) -> String {
    let variable = claims.iter().find_map(|claim| claim.variable.as_deref());
    let mounts = claims.iter().any(|claim| claim.mount.is_some());
    let parts = [
        ("envFrom", ENV_FROM, true),
        ("volumes", VOLUMES, mounts),
        ("volumeMounts", VOLUME_MOUNTS, mounts),
    ];
    let list = |template: &RawValue| {
        let template: serde_json::Value = serde_json::from_str(template.get()).unwrap_or_default();
        let variable = variable.and_then(|variable| {
            let declared = template["variables"]["properties"].get(variable)?;
            Some(format!("{variable}: {declared:#}\n"))
        });
        let shown = parts.iter().filter(|(_, _, is_shown)| *is_shown);
        let lists = shown.filter_map(|(name, pointer, _)| {
            let list = template.pointer(pointer)?;
            Some(format!("{name}: {list:#}\n"))
        });
        lists.collect::<String>() + &variable.unwrap_or_default()
    };
    let (before, after) = (list(before), list(after));
    TextDiff::from_lines(&before, &after)
        .unified_diff()
        .context_radius(20)
        .header("current template", "new template")
        .to_string()
}

/// The `PrefectWorkPool`s that the user has permission to list.
async fn list_managed_pools(context: &CheckContext, findings: &mut Findings) -> Vec<ManagedPool> {
    let kind = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("prefect.io", "v1", "PrefectWorkPool"),
        "prefectworkpools",
    );
    let api: Api<DynamicObject> = Api::all_with(context.client.clone(), &kind);
    match timeout(TIMEOUT, api.list(&ListParams::default().limit(1000))).await {
        Ok(Ok(list)) => list.items.iter().filter_map(owned_by).collect(),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Vec::new(),
        _ => {
            findings.note(
                "prefect-operator",
                "cannot list PrefectWorkPools, so the check does not know whether one owns a pool: check that you have permission to list prefectworkpools",
            );
            Vec::new()
        }
    }
}
