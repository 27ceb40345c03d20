//! The line: binding → block → config → Secret → pools, and what it came to.
//!
//! In: a binding that was woken. Out: writes where something differs, and the status. It asks no upstream itself, never lists, and at rest does
//! nothing but compare.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt, runtime::controller::Action};
use tokio::time::Instant;

use super::{
    back,
    claims::{self, Looked},
    context::Context,
    follow::{Followed, Last, follow},
    note::{self, Noted},
    objects::{Kind, ObjectKey},
    put::{Obstacle, Put, put},
    record,
    wake::BindingRef,
    watch::Guarded,
};
use crate::{
    crd::{DeletionPolicy, DopplerPrefectBinding, DopplerPrefectBindingStatus, InjectMode},
    reason::{Class, Reason},
    secret::{Desired, Input, desired},
    status::{BLOCK_RESOLVED, Content, INJECTED, Outcome, SECRET_SYNCED, Step},
};

/// How long a new Secret waits for the first look at its pools, so that it is written once, with the right owner.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// How long a pool entry may be underway before the status says so.
const UNDERWAY: Duration = Duration::from_secs(5);
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
pub async fn reconcile(binding: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Ending> {
    let _permit = context.reconciles.acquire().await.map_err(|_| Ending)?;
    let started = Instant::now();
    let action = match &binding.0 {
        Ok(binding) => one(&context, binding).await,
        Err(invalid) => {
            record::unreadable(&context, invalid).await;
            Action::await_change()
        }
    };
    context.metrics.reconciles.inc();
    context
        .metrics
        .reconcile_seconds
        .observe(started.elapsed().as_secs_f64());
    Ok(action)
}

async fn one(context: &Context, binding: &DopplerPrefectBinding) -> Action {
    let who = BindingRef::new(&binding.name_any()).within(&binding.namespace().unwrap_or_default());
    context
        .memory
        .begin(&who, binding.meta().uid.as_deref().unwrap_or_default());
    if binding.meta().deletion_timestamp.is_some() {
        return back::remove(context, binding, &who).await;
    }
    if binding.spec.suspend {
        return suspended(context, binding, &who).await;
    }
    let followed = follow(context, binding, &who).await;
    if followed.awaited && followed.trouble.is_none() {
        return Action::await_change();
    }
    let step = advance(context, binding, &who, &followed).await;
    let mut again = step.again;
    if !step.told_later {
        again = earlier(
            again,
            record::record(context, binding, &who, &step.outcome).await,
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
        .of(who)
        .noted
        .unwrap_or_else(|| note::noted(binding));
    let connection = followed.connection.as_ref();
    let mut again = None;

    let made = followed
        .last
        .as_ref()
        .map(|last| make(context, binding, last, false));
    let keys = keys(context, who, made.as_ref());
    let mut looked = claims::claim(
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
        Some(Ok(_)) => {
            let owned = held.is_empty();
            let last = followed.last.as_ref();
            match last.map(|last| make(context, binding, last, owned)) {
                Some(Ok(desired)) => {
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
                Some(Err((reason, message))) => (Step::Failed(reason, message), None),
                None => (Step::AsBefore, None),
            }
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
        looked = claims::claim(context, binding, who, connection, &carried, true, &keys);
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
    let (injected, pools) = claims::told(&looked, &pools_before, was_true(INJECTED), patience);
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

/// The Secret that the last good values make.
fn make(
    context: &Context,
    binding: &DopplerPrefectBinding,
    last: &Last,
    owned: bool,
) -> Result<Desired, (Reason, String)> {
    let input = Input {
        binding: &binding.name_any(),
        binding_uid: binding.meta().uid.as_deref().unwrap_or_default(),
        namespace: &binding.namespace().unwrap_or_default(),
        doppler: &binding.spec.doppler,
        managed: &binding.spec.managed_secret,
        project: &last.project,
        config: &last.config,
        owned: owned && binding.spec.managed_secret.deletion_policy == DeletionPolicy::Delete,
        key: &context.hash_key,
    };
    desired(&input, last.snapshot.values()).map_err(|error| (error.reason(), error.to_string()))
}

async fn secret_step(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &Followed,
    desired: &Desired,
    before: Option<&DopplerPrefectBindingStatus>,
    again: &mut Option<Duration>,
) -> (Step, Option<Content>) {
    let was_true = before.is_some_and(|status| is_true(status, SECRET_SYNCED));
    let holds = Content {
        keys: desired.data.len(),
        held_back: desired.held_back.clone(),
        hash: desired.content_hash.clone(),
    };
    let held_keys = before
        .filter(|status| status.secret_name.as_deref() == Some(&desired.name))
        .and_then(|status| status.keys)
        .unwrap_or(0);
    if desired.data.is_empty() && held_keys > 0 && followed.seen < 2 {
        let interval = binding
            .spec
            .interval()
            .unwrap_or(context.settings.refresh_interval);
        *again = earlier(*again, Some(interval.mul_f64(1.2)));
        let message = format!(
            "the answer for project and config would leave Secret {} without any key; it is refused until the next poll says the same",
            desired.name
        );
        context.report.tell(binding, Reason::EmptyAnswer, &message);
        return (
            if was_true {
                Step::AsBefore
            } else {
                Step::Failed(Reason::EmptyAnswer, message)
            },
            None,
        );
    }
    if desired.name == crate::secret::key::NAME && desired.namespace == context.operator_namespace {
        let message = format!(
            "Secret {} holds the operator's own key: set spec.managedSecret.name to another name",
            desired.name
        );
        return (Step::Failed(Reason::SecretForeign, message), None);
    }
    let had = before.is_some_and(|status| {
        status.secret_name.as_deref() == Some(&desired.name)
            && status.content_hash.as_deref() == Some(&desired.content_hash)
    });
    let adopt = binding.spec.managed_secret.adopt;
    let done = put(context, who, desired, adopt, had, &|uid| context.lives(uid)).await;
    match done {
        Ok(done) => {
            tell_put(context, binding, desired, done, followed, before);
            let step = after_put(context, who, followed, desired, was_true, again);
            (step, Some(holds))
        }
        Err(Obstacle {
            reason,
            message,
            again: wait,
        }) => {
            // Nobody tells that a right was given: it is tried again at each poll, if that is sooner.
            let poll = (reason == Reason::SecretForbidden).then(|| {
                let own = binding.spec.interval();
                own.unwrap_or(context.settings.refresh_interval)
            });
            *again = earlier(*again, earlier(wait, poll));
            let passing = reason.class() == Class::Retry
                && reason != Reason::SecretContested
                && reason != Reason::SecretForbidden;
            let step = if passing && was_true {
                Step::AsBefore
            } else {
                Step::Failed(reason, message)
            };
            (step, None)
        }
    }
}

/// The Secret is as it should be: is it as new as it should be, and left alone?
fn after_put(
    context: &Context,
    who: &BindingRef,
    followed: &Followed,
    desired: &Desired,
    was_true: bool,
    again: &mut Option<Duration>,
) -> Step {
    if let Some(quiet_in) = context.memory.of(who).drift.contested(Instant::now()) {
        *again = earlier(*again, Some(quiet_in));
        let message = format!(
            "somebody keeps changing Secret {0}; it was put back; find who writes it with kubectl get secret {0} --show-managed-fields -o yaml",
            desired.name
        );
        return Step::Failed(Reason::SecretContested, message);
    }
    followed.secret_step(was_true).unwrap_or_else(|| {
        let keys = desired.data.len();
        Step::Done(
            Reason::Synced,
            format!(
                "Secret {} holds the {keys} keys that Doppler last gave",
                desired.name
            ),
        )
    })
}

fn tell_put(
    context: &Context,
    binding: &DopplerPrefectBinding,
    desired: &Desired,
    done: Put,
    followed: &Followed,
    before: Option<&DopplerPrefectBindingStatus>,
) {
    let old =
        before.and_then(|status| Some((status.project.as_deref()?, status.config.as_deref()?)));
    if let (Some((project, config)), Some(last)) = (old, &followed.last)
        && (project, config) != (&*last.project, &*last.config)
    {
        let message = format!(
            "project and config changed from {project}/{config} to {}/{}",
            last.project, last.config
        );
        context
            .report
            .tell(binding, Reason::SourceChanged, &message);
    }
    let name = &desired.name;
    match done {
        Put::Current | Put::Relabelled => {}
        Put::Created => context.report.tell(
            binding,
            Reason::SecretCreated,
            &format!("Secret {name} was written with {} keys", desired.data.len()),
        ),
        Put::Updated => context.report.tell(
            binding,
            Reason::SecretUpdated,
            &format!(
                "Secret {name} was given new content, {} keys",
                desired.data.len()
            ),
        ),
        Put::Repaired => context.report.tell(
            binding,
            Reason::SecretRepaired,
            &format!("Secret {name} was changed or deleted by somebody, and was put back"),
        ),
    }
}

/// Takes out what the spec no longer asks for; `held` loses what is out and over.
fn withdraw_obsolete(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &Followed,
    noted: &BTreeSet<Noted>,
    looked: &Looked,
    held: &mut BTreeSet<Noted>,
) -> Option<Duration> {
    let connection = followed.connection.as_ref();
    let mut again = None;
    for entry in claims::obsolete(binding, connection, noted) {
        if entry.secret != binding.secret_name()
            && !replaced(&entry, connection.map(|c| c.api_url.as_str()), looked)
        {
            continue;
        }
        if claims::withdraw(context, binding, who, connection, &entry) != claims::Back::Out {
            continue;
        }
        let since = context.memory.change(who, |remembered| {
            *remembered
                .out_since
                .entry(entry.clone())
                .or_insert_with(Instant::now)
        });
        let wait = context
            .settings
            .release_wait
            .saturating_sub(since.elapsed());
        if entry.secret == binding.secret_name() || wait.is_zero() {
            held.remove(&entry);
        } else {
            again = earlier(again, Some(wait));
        }
    }
    again
}

/// Whether the pool of an entry of an old name has the entry of the new name, or cannot have it: only then the old one may go.
fn replaced(entry: &Noted, server: Option<&str>, looked: &Looked) -> bool {
    use crate::inject::claim::Phase;
    if server != Some(entry.server.as_str()) {
        return true;
    }
    let found = looked.found.iter().find(|(pool, _)| *pool == entry.pool);
    found.is_none_or(|(_, finding)| {
        finding
            .as_ref()
            .is_some_and(|finding| matches!(finding.phase, Phase::Held | Phase::LeftAlone))
    })
}

/// After a rename the old Secret goes, once no pool refers to it.
async fn remove_renamed(
    context: &Context,
    binding: &DopplerPrefectBinding,
    before: Option<&DopplerPrefectBindingStatus>,
    held: &BTreeSet<Noted>,
) -> Option<Duration> {
    let names: BTreeSet<String> = before
        .and_then(|status| status.secret_name.clone())
        .into_iter()
        .chain(note::noted(binding).into_iter().map(|entry| entry.secret))
        .filter(|name| {
            name != binding.secret_name() && !held.iter().any(|entry| entry.secret == *name)
        })
        .collect();
    let mut again = None;
    if !in_place(context, binding) {
        return again;
    }
    for name in names {
        if back::remove_secret(context, binding, &name).await.is_err() {
            again = Some(Duration::from_secs(5));
        }
    }
    again
}

async fn suspended(context: &Context, binding: &DopplerPrefectBinding, who: &BindingRef) -> Action {
    context.blocks.leave(who);
    context.configs.leave(who);
    context.pools.forget(who);
    context.count_sources();
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
    record::record(context, binding, who, &outcome)
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
        .of(who)
        .status
        .map(|status| (*status).clone())
        .or_else(|| binding.status.clone())
}

fn is_true(status: &DopplerPrefectBindingStatus, kind: &str) -> bool {
    status
        .conditions
        .iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether the binding's own Secret is there.
fn in_place(context: &Context, binding: &DopplerPrefectBinding) -> bool {
    let key = ObjectKey {
        kind: Kind::Secret,
        namespace: binding.namespace().unwrap_or_default(),
        name: binding.secret_name().to_owned(),
    };
    context.objects.known(&key).is_some_and(|known| {
        !known.facts.terminating
            && known.facts.binding_uid.as_deref() == binding.meta().uid.as_deref()
    })
}

/// The names of the Secret's keys, as one shared set.
fn keys(
    context: &Context,
    who: &BindingRef,
    made: Option<&Result<Desired, (Reason, String)>>,
) -> Arc<BTreeSet<String>> {
    let remembered = context.memory.of(who).keys;
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
        .change(who, |remembered| remembered.keys = Arc::clone(&keys));
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
    let written = note::note(
        context.client.clone(),
        binding,
        entries,
        context.settings.kubernetes_timeout,
    )
    .await;
    context.metrics.wrote("binding", written.is_ok());
    match written {
        Ok(_) => {
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
            if !matches!(error, note::NoteError::Conflict) {
                context
                    .report
                    .log(binding, error.reason(), &error.to_string());
                return Err(Duration::from_secs(10));
            }
            Err(AFTER_CONFLICT)
        }
    }
}

/// Claims of pools that neither the spec nor the note names any more are dropped.
fn keep_only_asked(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &Followed,
    noted: &BTreeSet<Noted>,
) {
    let server = followed
        .connection
        .as_ref()
        .map(|connection| connection.api_url.to_string());
    context.pools.retain(who, &|at, pool, secret| {
        let asked = binding
            .spec
            .inject
            .work_pools
            .iter()
            .any(|named| named.name == pool)
            && secret == binding.secret_name();
        let current = server.as_deref().is_none_or(|server| server == at);
        (asked && current)
            || noted
                .iter()
                .any(|entry| entry.server == at && entry.pool == pool && entry.secret == secret)
    });
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

/// The earlier of two waits.
fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The time of now, to the second, as Kubernetes writes it.
#[must_use]
pub fn now() -> Time {
    let now = k8s_openapi::jiff::Timestamp::now();
    Time(k8s_openapi::jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}
