//! The line: binding → block → config → Secret → pools, and what it came to.
//!
//! In: a binding that was woken. Out: writes where something differs, and the status. It asks no upstream itself, never lists, and at rest does
//! nothing but compare.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{Resource, ResourceExt, runtime::controller::Action};
use tokio::time::Instant;

use super::{
    apply_secret::in_place,
    cleanup,
    context::Context,
    finalizer::{self, Noted},
    injection::{self, Looked},
    patch_status,
    prune::{keep_only_asked, remove_renamed, withdraw_obsolete},
    requeue::earlier,
    resolution::Followed,
    resolve::follow,
    secret::{make, secret_step},
    stored_binding::Kept,
    work_queue::BindingRef,
};
use crate::{
    crd::{DeletionPolicy, DopplerPrefectBinding, DopplerPrefectBindingStatus, InjectMode},
    reason::Reason,
    secret::Desired,
    status::{BLOCK_RESOLVED, INJECTED, Outcome, SECRET_SYNCED, Step, is_true},
};

/// How long a new Secret waits for the first look at its pools, so that it is written once, with the right owner.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// How long a pool entry may be underway before the status says so: a pool waits for the Secrets of all bindings that come together.
const UNDERWAY: Duration = Duration::from_secs(30);
/// Wait after a write of ours that lost a race, or that the API server did not take.
const AFTER_CONFLICT: Duration = Duration::from_millis(500);

/// Reconciles can fail in one way only: what goes wrong is an outcome, and is told.
#[derive(Debug, thiserror::Error)]
#[error("the process is ending")]
pub struct Ending;

/// Brings everything of one binding to what it should be.
///
/// # Errors
/// If the process is ending.
pub async fn reconcile(binding: Arc<Kept>, context: Arc<Context>) -> Result<Action, Ending> {
    let _permit = context.reconciles.acquire().await.map_err(|_| Ending)?;
    let started = Instant::now();
    let who = context.memory.name_of(BindingRef::of(&*binding));
    context.wakes.begun(&who);
    context.memory.begin(&who);
    // Until here the watch may have brought what was written last, which is not remembered beside any more: the one in hand may be older.
    let binding = context.kept(&who).unwrap_or(binding);
    let action = if let Ok(binding) = binding.read() {
        let uid = binding.meta().uid.as_deref().unwrap_or_default();
        context.memory.keep_of(&who, uid);
        advance_or_go_back(&context, &binding, &who).await
    } else {
        patch_status::unreadable(&context, binding.meta()).await;
        Action::await_change()
    };
    context.memory.end(&who);
    // Of what came or went while this was under way nobody will speak again.
    match context.kept(&who) {
        Some(kept) => context.memory.seen(&kept),
        None => context.forget(&who),
    }
    context.metrics.reconciles.inc();
    context
        .metrics
        .reconcile_seconds
        .observe(started.elapsed().as_secs_f64());
    Ok(action)
}

async fn advance_or_go_back(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
) -> Action {
    if binding.meta().deletion_timestamp.is_some() {
        return cleanup::remove(context, binding, who).await;
    }
    if binding.spec.suspend {
        return suspended(context, binding, who).await;
    }
    let followed = follow(context, binding, who).await;
    if followed.awaited && followed.trouble.is_none() && !followed.overdue {
        return Action::await_change();
    }
    let step = advance(context, binding, who, &followed).await;
    let mut again = step.again;
    if !step.told_later {
        again = earlier(
            again,
            patch_status::record(context, binding, who, &step.outcome).await,
        );
    }
    again = earlier(again, followed.again);
    again.map_or_else(Action::await_change, Action::requeue)
}

struct Advanced {
    outcome: Outcome,
    again: Option<Duration>,
    /// A pool's answer follows at once: the status is written then.
    told_later: bool,
}

/// From the last good values to the Secret and the pools.
async fn advance(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &Followed,
) -> Advanced {
    let before = before(context, binding, who);
    let was_true = |kind: &str| before.as_ref().is_some_and(|status| is_true(status, kind));
    let noted = context
        .memory
        .look(who, |remembered| remembered.noted.clone())
        .unwrap_or_else(|| finalizer::noted(binding));
    let connection = followed.connection.as_ref();
    let mut again = None;

    let made = followed
        .last
        .as_ref()
        .map(|last| make(context, binding, last));
    let keys = keys(context, binding, who, made.as_ref());
    let mut looked = injection::claim(
        context,
        binding,
        who,
        connection,
        &noted,
        in_place(context, binding),
        &keys,
    );
    if made.is_some()
        && !in_place(context, binding)
        && waits_for_a_look(context, binding, who, &looked)
    {
        return Advanced {
            outcome: nothing(binding),
            again: Some(FIRST_LOOK),
            told_later: true,
        };
    }

    let mut held: BTreeSet<Noted> = noted.union(&looked.to_note).cloned().collect();
    again = earlier(
        again,
        withdraw_obsolete(context, binding, who, followed, &noted, &looked, &mut held),
    );
    let additions: BTreeSet<Noted> = noted.union(&looked.to_note).cloned().collect();
    let mut carried = noted.clone();
    if additions != noted {
        match write_note(context, binding, who, &additions).await {
            Ok(()) => carried = additions,
            Err(wait) => again = earlier(again, Some(wait)),
        }
    }

    let secret = match made {
        None => followed
            .secret_step(was_true(SECRET_SYNCED))
            .map_or((Step::AsBefore, None), |step| (step, None)),
        Some(Err((reason, message))) => (Step::Failed(reason, message), None),
        Some(Ok(desired)) => {
            // It goes with its binding by garbage collection only if no pool refers to it.
            let deletes = binding.spec.managed_secret.deletion_policy == DeletionPolicy::Delete;
            let desired = if held.is_empty() && deletes {
                desired.owned(&binding.name_any())
            } else {
                desired
            };
            secret_step(
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
    again = earlier(
        again,
        remove_renamed(context, binding, before.as_ref(), &held).await,
    );
    if held != carried && held.is_subset(&carried) {
        match write_note(context, binding, who, &held).await {
            Ok(()) => carried.clone_from(&held),
            Err(wait) => again = earlier(again, Some(wait)),
        }
    }
    if in_place(context, binding) {
        looked = injection::claim(context, binding, who, connection, &carried, true, &keys);
    }
    keep_only_asked(context, binding, who, followed, &carried);
    tell_pools(context, binding, who, &looked);

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
    let (injected, pools) = injection::told(&looked, &pools_before, was_true(INJECTED), patience);
    let told_later = matches!(secret.0, Step::Done(..)) && still_underway(context, who, &looked);
    if told_later {
        again = earlier(again, Some(UNDERWAY));
    }
    let outcome = Outcome {
        block: followed.block_step(was_true(BLOCK_RESOLVED)),
        secret: secret.0,
        injected,
        suspended: false,
        resolved: followed
            .last
            .as_ref()
            .map(|last| (last.project.clone(), last.config.clone())),
        secret_name: binding.secret_name().to_owned(),
        content: secret.1,
        pools,
    };
    Advanced {
        outcome,
        again,
        told_later,
    }
}

async fn suspended(context: &Context, binding: &DopplerPrefectBinding, who: &BindingRef) -> Action {
    context.blocks.leave(who);
    context.configs.leave(who);
    context.pools.forget(who);
    let before = before(context, binding, who);
    let pools = before
        .as_ref()
        .map(|status| status.work_pools.clone())
        .unwrap_or_default();
    let injected = before
        .as_ref()
        .is_some_and(|status| status.conditions.iter().any(|c| c.type_ == INJECTED));
    let outcome = Outcome {
        suspended: true,
        injected: injected.then_some(Step::AsBefore),
        pools,
        ..nothing(binding)
    };
    patch_status::record(context, binding, who, &outcome)
        .await
        .map_or_else(Action::await_change, Action::requeue)
}

/// An outcome that says nothing new.
fn nothing(binding: &DopplerPrefectBinding) -> Outcome {
    Outcome {
        block: Step::AsBefore,
        secret: Step::AsBefore,
        injected: None,
        suspended: false,
        resolved: None,
        secret_name: binding.secret_name().to_owned(),
        content: None,
        pools: Vec::new(),
    }
}

/// The status as we last wrote it, which the watch may not have shown yet.
fn before(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
) -> Option<DopplerPrefectBindingStatus> {
    context
        .memory
        .look(who, |remembered| remembered.status.clone())
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
        .memory
        .look(who, |remembered| remembered.keys.clone());
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
    context
        .memory
        .change(who, |remembered| remembered.keys = Some(Arc::clone(&keys)));
    keys
}

/// Whether a new Secret should wait a moment for the first look at its pools.
fn waits_for_a_look(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    looked: &Looked,
) -> bool {
    let patches = binding
        .spec
        .inject
        .work_pools
        .iter()
        .any(|pool| pool.mode == InjectMode::Patch);
    if !patches || !looked.awaits_a_look() {
        return false;
    }
    let since = context.memory.change(who, |remembered| {
        *remembered.waits_since.get_or_insert_with(Instant::now)
    });
    since.elapsed() < FIRST_LOOK
}

/// Whether a pool's answer is about to come. After a while the status is written all the same.
fn still_underway(context: &Context, who: &BindingRef, looked: &Looked) -> bool {
    let underway = looked.awaits_a_look() || looked.underway();
    context.memory.change(who, |remembered| {
        if !underway {
            remembered.waits_since = None;
            return false;
        }
        remembered
            .waits_since
            .get_or_insert_with(Instant::now)
            .elapsed()
            < UNDERWAY
    })
}

async fn write_note(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    entries: &BTreeSet<Noted>,
) -> Result<(), Duration> {
    let written = finalizer::note(
        context.client.clone(),
        binding,
        entries,
        context.settings.kubernetes_timeout,
    )
    .await;
    context.metrics.wrote("binding", written.is_ok());
    match written {
        Ok(()) => {
            context
                .memory
                .change(who, |remembered| remembered.noted = Some(entries.clone()));
            Ok(())
        }
        Err(error) => {
            // What the watch shows next is the truth again.
            context
                .memory
                .change(who, |remembered| remembered.noted = None);
            if !matches!(error, finalizer::NoteError::Conflict) {
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
fn tell_pools(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    looked: &Looked,
) {
    for (pool, finding) in &looked.found {
        let Some((number, reason)) = finding.as_ref().and_then(|finding| finding.event) else {
            continue;
        };
        let is_new = context.memory.change(who, |remembered| {
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
            context.report.tell(binding, reason, &message);
        }
    }
}
