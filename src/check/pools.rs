//! Which work pools would change, and how.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::value::RawValue;
use similar::TextDiff;
use tokio::time::timeout;

use super::{LIMIT, World, lines::Lines};
use crate::{
    controller::prefect_work_pools::owned_by,
    crd::{DopplerPrefectBinding, WorkPoolSpec},
    inject::{
        claim::{Claim, Phase, Want},
        plan::{History, View, plan},
        pool_owner::{ManagedPool, owner},
    },
    prefect::Connection,
    secret::Desired,
    upstream::limiter::Rank,
};

/// Where the entries are.
const ENV_FROM: &str = "/job_configuration/job_manifest/spec/template/spec/containers/0/envFrom";

/// Looks at each named pool.
pub(super) async fn check(
    world: &World,
    binding: &DopplerPrefectBinding,
    namespace: &str,
    connection: &Arc<Connection>,
    desired: &Desired,
    lines: &mut Lines,
) {
    if binding.spec.inject.work_pools.is_empty() {
        return;
    }
    let managed = managed(world, lines).await;
    let keys: Arc<BTreeSet<String>> = Arc::new(desired.data.keys().cloned().collect());
    for pool in &binding.spec.inject.work_pools {
        if let Err(why) = one(
            world, pool, namespace, connection, desired, &keys, &managed, lines,
        )
        .await
        {
            lines.wrong(&format!("work pool {}", pool.name), &why);
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "what a look at one pool depends on"
)]
async fn one(
    world: &World,
    pool: &WorkPoolSpec,
    namespace: &str,
    connection: &Arc<Connection>,
    desired: &Desired,
    keys: &Arc<BTreeSet<String>>,
    managed: &[ManagedPool],
    lines: &mut Lines,
) -> Result<(), String> {
    let what = format!("work pool {}", pool.name);
    let client = world
        .clients
        .get(connection)
        .map_err(|error| error.to_string())?;
    let found = client
        .work_pool(&pool.name, Rank::Urgent)
        .await
        .map_err(|error| format!("{}: {error}", error.reason()))?;
    let elsewhere = match client.deployment_namespaces(&pool.name, Rank::Urgent).await {
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
        noted: true,
        known: None,
        interval: Duration::from_mins(1),
    };
    let view = View {
        pool: &pool.name,
        pool_type: &found.pool_type,
        template: &found.base_job_template,
        elsewhere: elsewhere.as_ref(),
        owner: owner(managed, &connection.api_url, &pool.name),
    };
    let as_it_is = plan(&view, &[&claim], &History::default());
    let Some(mut finding) = as_it_is.findings.into_iter().next() else {
        return Ok(());
    };
    if let Some(edited) = &as_it_is.edit {
        // What overrides the entry is known once it is in its place.
        let view = View {
            template: edited,
            ..view
        };
        let as_it_would_be = plan(&view, &[&claim], &History::default());
        if let Some(then) = as_it_would_be.findings.into_iter().next() {
            finding = then;
        }
        lines.well(
            &what,
            &format!(
                "would change, and nothing else of its template:\n{}",
                difference(&found.base_job_template, edited)
            ),
        );
    } else if finding.phase == Phase::Held {
        lines.well(&what, &finding.message);
    } else {
        lines.wrong(&what, &format!("{}: {}", finding.reason, finding.message));
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
    if let (Some(_), Some(overlooked)) = (&elsewhere, &finding.overlooked) {
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
fn difference(before: &RawValue, after: &RawValue) -> String {
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
async fn managed(world: &World, lines: &mut Lines) -> Vec<ManagedPool> {
    let kind = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("prefect.io", "v1", "PrefectWorkPool"),
        "prefectworkpools",
    );
    let api: Api<DynamicObject> = Api::all_with(world.client.clone(), &kind);
    match timeout(LIMIT, api.list(&ListParams::default().limit(1000))).await {
        Ok(Ok(list)) => list.items.iter().filter_map(owned_by).collect(),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Vec::new(),
        _ => {
            lines.note("prefect-operator", "PrefectWorkPools cannot be listed by you, so that it is not known whether one owns a pool");
            Vec::new()
        }
    }
}
