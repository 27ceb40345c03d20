//! Which work pools would change, and how.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::value::RawValue;
use similar::TextDiff;
use tokio::time::timeout;

use super::{CheckContext, TIMEOUT, lines::Findings};
use crate::{
    controller::prefect_work_pools::owned_by,
    crd::{DopplerPrefectBinding, WorkPoolSpec},
    inject::{
        claim::{Claim, Phase, Want},
        plan::{History, PoolView, plan},
        pool_owner::{ManagedPool, owner_of},
    },
    prefect::Connection,
    secret::Desired,
    upstream::limiter::Priority,
};

/// Where the entries are.
const ENV_FROM: &str = "/job_configuration/job_manifest/spec/template/spec/containers/0/envFrom";

/// Looks at each named pool.
pub(super) async fn check_pools(
    world: &CheckContext,
    binding: &DopplerPrefectBinding,
    namespace: &str,
    connection: &Arc<Connection>,
    desired: &Desired,
    lines: &mut Findings,
) {
    if binding.spec.inject.work_pools.is_empty() {
        return;
    }
    let managed = list_managed_pools(world, lines).await;
    let keys: Arc<BTreeSet<String>> = Arc::new(desired.data.keys().cloned().collect());
    for pool in &binding.spec.inject.work_pools {
        if let Err(why) = check_pool(
            world, pool, namespace, connection, desired, &keys, &managed, lines,
        )
        .await
        {
            lines.fail(&format!("work pool {}", pool.name), &why);
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "what a look at one pool depends on"
)]
async fn check_pool(
    world: &CheckContext,
    pool: &WorkPoolSpec,
    namespace: &str,
    connection: &Arc<Connection>,
    desired: &Desired,
    keys: &Arc<BTreeSet<String>>,
    managed: &[ManagedPool],
    lines: &mut Findings,
) -> Result<(), String> {
    let what = format!("work pool {}", pool.name);
    let client = world
        .clients
        .get(connection)
        .map_err(|error| error.to_string())?;
    let found = client
        .work_pool(&pool.name, Priority::Interactive)
        .await
        .map_err(|error| format!("{}: {error}", error.reason()))?;
    let elsewhere = match client
        .deployment_namespaces(&pool.name, Priority::Interactive)
        .await
    {
        Ok(elsewhere) => Some(elsewhere),
        Err(error) => {
            lines.note(&what, &format!("its deployments cannot be listed: {error}"));
            None
        }
    };
    let claim = Claim {
        namespace: namespace.to_owned(),
        secret: desired.name.clone(),
        optional: pool.optional,
        mode: pool.mode,
        keys: Arc::clone(keys),
        want: Want::Present,
        recorded: true,
        reported_state: None,
        interval: Duration::from_mins(1),
    };
    let view = PoolView {
        pool: &pool.name,
        pool_type: &found.pool_type,
        template: &found.base_job_template,
        deployments: elsewhere.as_ref(),
        owner: owner_of(managed, &connection.api_url, &pool.name),
    };
    let as_it_is = plan(&view, &[&claim], &History::default());
    let Some(mut finding) = as_it_is.observations.into_iter().next() else {
        return Ok(());
    };
    if let Some(edited) = &as_it_is.edit {
        // What overrides the entry is known once it is in its place.
        let view = PoolView {
            template: edited,
            ..view
        };
        let as_it_would_be = plan(&view, &[&claim], &History::default());
        if let Some(then) = as_it_would_be.observations.into_iter().next() {
            finding = then;
        }
        lines.ok(
            &what,
            &format!(
                "would change, and nothing else of its template:\n{}",
                env_from_diff(&found.base_job_template, edited)
            ),
        );
    } else if finding.phase == Phase::Injected {
        lines.ok(&what, &finding.message);
    } else {
        lines.fail(&what, &format!("{}: {}", finding.reason, finding.message));
    }
    if !finding.shadowed_keys.is_empty() {
        lines.note(
            &what,
            &format!(
                "its own env or envFrom overrides: {}",
                finding.shadowed_keys.join(", ")
            ),
        );
    }
    if !finding.later_sources.is_empty() {
        lines.note(
            &what,
            &format!(
                "later sources, whose keys win: {}",
                finding.later_sources.join(", ")
            ),
        );
    }
    if let (Some(_), Some(overlooked)) = (&elsewhere, &finding.unchecked_deployments) {
        lines.note(&what, overlooked);
    }
    for jobs in &finding.unserved_namespaces {
        let names = elsewhere
            .as_ref()
            .and_then(|elsewhere| elsewhere.namespaces.get(jobs))
            .map(|names| names.join(", "))
            .unwrap_or_default();
        lines.note(
            &what,
            &format!("deployments send jobs to namespace {jobs}, where the Secret is not: {names}"),
        );
    }
    Ok(())
}

/// The change of `envFrom`; the rest of a template may hold what nobody should see.
fn env_from_diff(before: &RawValue, after: &RawValue) -> String {
    let list = |template: &RawValue| {
        let template: serde_json::Value = serde_json::from_str(template.get()).unwrap_or_default();
        template
            .pointer(ENV_FROM)
            .map_or_else(String::new, |list| format!("envFrom: {list:#}\n"))
    };
    let (before, after) = (list(before), list(after));
    TextDiff::from_lines(&before, &after)
        .unified_diff()
        .context_radius(20)
        .header("template as it is", "template as it would be")
        .to_string()
}

/// The `PrefectWorkPool`s that the user may see.
async fn list_managed_pools(world: &CheckContext, lines: &mut Findings) -> Vec<ManagedPool> {
    let kind = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("prefect.io", "v1", "PrefectWorkPool"),
        "prefectworkpools",
    );
    let api: Api<DynamicObject> = Api::all_with(world.client.clone(), &kind);
    match timeout(TIMEOUT, api.list(&ListParams::default().limit(1000))).await {
        Ok(Ok(list)) => list.items.iter().filter_map(owned_by).collect(),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Vec::new(),
        _ => {
            lines.note("prefect-operator", "PrefectWorkPools cannot be listed by you, so that it is not known whether one owns a pool");
            Vec::new()
        }
    }
}
