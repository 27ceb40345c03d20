//! The line: binding → block → config → Secret → pools, and what it came to.
//!
//! In: a binding that was woken. Out: writes where something differs, and the status. It asks no upstream itself, never lists, and at rest does
//! nothing but compare.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use super::{
    apply_secret::secret_exists,
    cleanup,
    context::Context,
    finalizer::{self, InjectedEntry},
    injection::{self, PoolClaims},
    patch_status,
    prune::{delete_renamed_secret, prune_claims, prune_entries},
    requeue::soonest,
    resolution::Resolution,
    resolve::resolve,
    secret::{desired_secret, reconcile_secret},
    work_queue::BindingRef,
};
use crate::{
    crd::{DeletionPolicy, DopplerPrefectBinding, DopplerPrefectBindingStatus, InjectMode},
    reason::Reason,
    secret::Desired,
    status::{BLOCK_RESOLVED, ConditionUpdate, INJECTED, Outcome, SECRET_SYNCED, is_true},
};

/// How long a new Secret waits for the first look at its pools, so that it is written once, with the right owner.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// How long a pool entry may be underway before the status says so: a pool waits for the Secrets of all bindings that come together.
const UNDERWAY: Duration = Duration::from_secs(30);
/// Wait after a write of ours that lost a race, or that the API server did not take.
const AFTER_CONFLICT: Duration = Duration::from_millis(500);

/// Brings everything of one binding to the state that it asks for. Returns when the binding is to be reconciled again, if nothing else enqueues it.
pub async fn reconcile(context: &Context, key: &BindingRef) -> Option<Duration> {
    let Some(binding) = context.stored(key) else {
        context.forget(key);
        return None;
    };
    let started = Instant::now();
    context.states.begin(key);
    // The watch may have delivered our last status write before `begin`; read the store again.
    let binding = context.stored(key).unwrap_or(binding);
    let requeue_after = if let Ok(binding) = binding.parse() {
        let uid = binding.meta().uid.as_deref().unwrap_or_default();
        context.states.retain_uid(key, uid);
        reconcile_binding(context, &binding, key).await
    } else {
        patch_status::report_invalid(context, binding.meta()).await;
        None
    };
    context.states.end(key);
    if let Some(stored) = context.stored(key) {
        context.states.observe_stored(&stored);
    }
    context.metrics.reconciles.inc();
    context
        .metrics
        .reconcile_seconds
        .observe(started.elapsed().as_secs_f64());
    requeue_after
}

async fn reconcile_binding(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
) -> Option<Duration> {
    if binding.meta().deletion_timestamp.is_some() {
        return cleanup::cleanup(context, binding, who).await;
    }
    if binding.spec.suspend {
        return reconcile_suspended(context, binding, who).await;
    }
    let followed = resolve(context, binding, who).await;
    if followed.pending && followed.failure.is_none() && !followed.overdue {
        return None;
    }
    let step = advance(context, binding, who, &followed).await;
    let mut again = step.requeue_after;
    if !step.defer_status {
        again = soonest(
            again,
            patch_status::patch(context, binding, who, &step.outcome).await,
        );
    }
    again = soonest(again, followed.requeue_after);
    again
}

struct Advanced {
    outcome: Outcome,
    requeue_after: Option<Duration>,
    /// A pool's answer follows at once: the status is written then.
    defer_status: bool,
}

/// From the last good values to the Secret and the pools.
async fn advance(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &Resolution,
) -> Advanced {
    let before = last_status(context, binding, who);
    let was_true = |kind: &str| before.as_ref().is_some_and(|status| is_true(status, kind));
    let noted = context
        .states
        .read(who, |remembered| remembered.injected_entries.clone())
        .unwrap_or_else(|| finalizer::injected_entries(binding));
    let connection = followed.connection.as_ref();
    let mut again = None;

    let made = followed
        .last_good
        .as_ref()
        .map(|last| desired_secret(context, binding, last));
    let keys = keys(context, binding, who, made.as_ref());
    let mut looked = injection::declare_claims(
        context,
        binding,
        who,
        connection,
        &noted,
        secret_exists(context, binding),
        &keys,
    );
    if made.is_some()
        && !secret_exists(context, binding)
        && awaits_first_read(context, binding, who, &looked)
    {
        return Advanced {
            outcome: unchanged(binding),
            requeue_after: Some(FIRST_LOOK),
            defer_status: true,
        };
    }

    let mut held: BTreeSet<InjectedEntry> = noted.union(&looked.to_record).cloned().collect();
    again = soonest(
        again,
        prune_entries(context, binding, who, followed, &noted, &looked, &mut held),
    );
    let additions: BTreeSet<InjectedEntry> = noted.union(&looked.to_record).cloned().collect();
    let mut carried = noted.clone();
    if additions != noted {
        match record_entries(context, binding, who, &additions).await {
            Ok(()) => carried = additions,
            Err(wait) => again = soonest(again, Some(wait)),
        }
    }

    let secret = match made {
        None => followed
            .upstream_condition(was_true(SECRET_SYNCED))
            .map_or((ConditionUpdate::Unchanged, None), |step| (step, None)),
        Some(Err((reason, message))) => (ConditionUpdate::False(reason, message), None),
        Some(Ok(desired)) => {
            // It goes with its binding by garbage collection only if no pool refers to it.
            let deletes = binding.spec.managed_secret.deletion_policy == DeletionPolicy::Delete;
            let desired = if held.is_empty() && deletes {
                desired.with_owner(&binding.name_any())
            } else {
                desired
            };
            reconcile_secret(
                context,
                binding,
                who,
                followed,
                &desired,
                before.as_ref(),
                &mut again,
            )
            .await
        }
    };
    again = soonest(
        again,
        delete_renamed_secret(context, binding, before.as_ref(), &held).await,
    );
    if held != carried && held.is_subset(&carried) {
        match record_entries(context, binding, who, &held).await {
            Ok(()) => carried.clone_from(&held),
            Err(wait) => again = soonest(again, Some(wait)),
        }
    }
    if secret_exists(context, binding) {
        looked =
            injection::declare_claims(context, binding, who, connection, &carried, true, &keys);
    }
    prune_claims(context, binding, who, followed, &carried);
    report_pool_events(context, binding, who, &looked);

    let patience = context.settings.stale_after.max(
        binding
            .spec
            .interval()
            .unwrap_or(context.settings.refresh_interval)
            * 2,
    );
    let pools_before = before
        .as_ref()
        .map(|status| status.work_pools.clone())
        .unwrap_or_default();
    let (injected, pools) =
        injection::injected_condition(&looked, &pools_before, was_true(INJECTED), patience);
    let told_later = matches!(secret.0, ConditionUpdate::True(..))
        && injection_in_progress(context, who, &looked);
    if told_later {
        again = soonest(again, Some(UNDERWAY));
    }
    let outcome = Outcome {
        block: followed.block_condition(was_true(BLOCK_RESOLVED)),
        secret: secret.0,
        injected,
        suspended: false,
        resolved: followed
            .last_good
            .as_ref()
            .map(|last| (last.project.clone(), last.config.clone())),
        secret_name: binding.secret_name().to_owned(),
        content: secret.1,
        pools,
    };
    Advanced {
        outcome,
        requeue_after: again,
        defer_status: told_later,
    }
}

async fn reconcile_suspended(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
) -> Option<Duration> {
    context.blocks.unsubscribe(who);
    context.configs.unsubscribe(who);
    context.pools.remove_binding(who);
    let before = last_status(context, binding, who);
    let pools = before
        .as_ref()
        .map(|status| status.work_pools.clone())
        .unwrap_or_default();
    let injected = before
        .as_ref()
        .is_some_and(|status| status.conditions.iter().any(|c| c.type_ == INJECTED));
    let outcome = Outcome {
        suspended: true,
        injected: injected.then_some(ConditionUpdate::Unchanged),
        pools,
        ..unchanged(binding)
    };
    patch_status::patch(context, binding, who, &outcome).await
}

/// An outcome that says nothing new.
fn unchanged(binding: &DopplerPrefectBinding) -> Outcome {
    Outcome {
        block: ConditionUpdate::Unchanged,
        secret: ConditionUpdate::Unchanged,
        injected: None,
        suspended: false,
        resolved: None,
        secret_name: binding.secret_name().to_owned(),
        content: None,
        pools: Vec::new(),
    }
}

/// The status as we last wrote it, which the watch may not have shown yet.
fn last_status(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
) -> Option<DopplerPrefectBindingStatus> {
    context
        .states
        .read(who, |remembered| remembered.status.clone())
        .map(|said| (*said.status).clone())
        .or_else(|| binding.status.clone())
}

/// The names of the Secret's keys, as one shared set.
fn keys(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    made: Option<&Result<Desired, (Reason, String)>>,
) -> Arc<BTreeSet<String>> {
    if binding.spec.inject.work_pools.is_empty() {
        // Only pools are compared with them.
        return Arc::default();
    }
    let remembered = context
        .states
        .read(who, |remembered| remembered.key_names.clone());
    let remembered = remembered.unwrap_or_default();
    let Some(Ok(desired)) = made else {
        return remembered;
    };
    if desired.data.len() == remembered.len()
        && desired.data.keys().all(|key| remembered.contains(key))
    {
        return remembered;
    }
    let keys = Arc::new(desired.data.keys().cloned().collect::<BTreeSet<_>>());
    context.states.update(who, |remembered| {
        remembered.key_names = Some(Arc::clone(&keys));
    });
    keys
}

/// Whether a new Secret should wait a moment for the first look at its pools.
fn awaits_first_read(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    looked: &PoolClaims,
) -> bool {
    let patches = binding
        .spec
        .inject
        .work_pools
        .iter()
        .any(|pool| pool.mode() == InjectMode::Patch);
    if !patches || !looked.awaits_first_read() {
        return false;
    }
    let since = context.states.update(who, |remembered| {
        *remembered.waiting_since.get_or_insert_with(Instant::now)
    });
    since.elapsed() < FIRST_LOOK
}

/// Whether a pool's answer is about to come. After a while the status is written all the same.
fn injection_in_progress(context: &Context, who: &BindingRef, looked: &PoolClaims) -> bool {
    let underway = looked.awaits_first_read() || looked.in_progress();
    context.states.update(who, |remembered| {
        if !underway {
            remembered.waiting_since = None;
            return false;
        }
        remembered
            .waiting_since
            .get_or_insert_with(Instant::now)
            .elapsed()
            < UNDERWAY
    })
}

async fn record_entries(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    entries: &BTreeSet<InjectedEntry>,
) -> Result<(), Duration> {
    let written = finalizer::patch_finalizer(
        context.client.clone(),
        binding,
        entries,
        context.settings.kubernetes_timeout,
    )
    .await;
    context.metrics.count_write("binding", written.is_ok());
    match written {
        Ok(()) => {
            context.states.update(who, |remembered| {
                remembered.injected_entries = Some(entries.clone());
            });
            Ok(())
        }
        Err(error) => {
            // What the watch shows next is the truth again.
            context
                .states
                .update(who, |remembered| remembered.injected_entries = None);
            if !matches!(error, finalizer::FinalizerError::Conflict) {
                context
                    .report
                    .log(binding, error.reason(), &error.to_string());
                return Err(Duration::from_secs(10));
            }
            Err(AFTER_CONFLICT)
        }
    }
}

/// Tells what the pools' reconcilers did since the last time.
fn report_pool_events(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    looked: &PoolClaims,
) {
    for (pool, finding) in &looked.observations {
        let Some((number, reason)) = finding.as_ref().and_then(|finding| finding.event) else {
            continue;
        };
        let is_new = context.states.update(who, |remembered| {
            remembered.pool_events.insert(pool.clone(), number) != Some(number)
        });
        if is_new {
            let message = match reason {
                Reason::PoolPatched => format!(
                    "the entry for Secret {} was put into the template of work pool {pool}",
                    binding.secret_name()
                ),
                _ => format!(
                    "the entry for Secret {} was taken out of the template of work pool {pool}",
                    binding.secret_name()
                ),
            };
            context.report.emit(binding, reason, &message);
        }
    }
}
