//! Restarts the workloads of a binding after its Secret has new content.
//!
//! Input: a binding whose Secret holds the desired content.
//! Output: at most one patch for each workload, and the condition `Restarted`.
//! Invariants: reads workloads once after a start of the operator, after a change of content or spec, and
//! while something is due or missing; at rest it reads nothing. A failure concerns only its own
//! condition.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use kube::Resource;
use tokio::time::Instant;

use super::{
    files_secret::files_secret_name, pass::Pass, restart_state::RestartState, secret::SecretOutcome,
};
use crate::{
    crd::{RestartKind, RestartSpec, RestartTarget},
    failure::Failure,
    printable::count,
    reason::Reason,
    restart::{Decision, RestartError, Wanted, Workload, decide, restart_hash},
    secret::Desired,
    status::ConditionUpdate,
};

/// Wait after another client changed a workload.
const CONFLICT_WAIT: Duration = Duration::from_secs(1);
/// Wait while the API server does not answer.
const OUTAGE_WAIT: Duration = Duration::from_secs(10);
/// Workloads that one message names.
const MAX_NAMED: usize = 10;

/// The hash of the content that restarts workloads. None if the binding restarts none, or there is no
/// content.
#[must_use]
pub fn wanted_hash(pass: &Pass<'_>, desired: Option<&Desired>) -> Option<Result<String, Failure>> {
    let spec = pass.binding.spec.managed_secret.restart.as_ref()?;
    Some(restart_hash(spec, desired?, &pass.context.hash_key))
}

/// Restarts what has older content. Returns the condition `Restarted`, or none if the binding restarts
/// nothing.
pub async fn ensure(
    pass: &mut Pass<'_>,
    hash: Option<Result<String, Failure>>,
    secret: &SecretOutcome,
) -> Option<ConditionUpdate> {
    let Some(spec) = &pass.binding.spec.managed_secret.restart else {
        if pass.read_state(|state| state.restarts.is_some()) {
            pass.update_state(|state| state.restarts = None);
        }
        return None;
    };
    let hash = match hash {
        Some(Ok(hash)) if secret.content.is_some() => hash,
        Some(Err(failure)) => return Some(ConditionUpdate::of_failure(&failure, true, false)),
        // The Secret does not hold the content yet.
        _ => return Some(ConditionUpdate::Unchanged),
    };
    let generation = pass.binding.meta().generation;
    let now = Instant::now();
    let known = pass.read_state(|state| state.restarts.as_deref().cloned());
    let known = known.filter(|known| known.hash == hash && known.generation == generation);
    if let Some(known) = known
        && known.retry_at.is_none_or(|at| at > now)
    {
        pass.requeue
            .after(known.retry_at.map(|at| at.saturating_duration_since(now)));
        return Some(known.condition);
    }
    let mut results = Results::default();
    restart_all(pass, spec, &hash, &mut results).await;
    let condition = results.condition(pass.binding.secret_name());
    let wait = results.wait(pass.interval());
    pass.requeue.after(wait);
    let state = RestartState {
        hash,
        generation,
        condition: condition.clone(),
        retry_at: wait.map(|wait| now + wait),
    };
    pass.update_state(|known| known.restarts = Some(Box::new(state)));
    Some(condition)
}

/// The condition of a binding for which nothing is read or written.
#[must_use]
pub fn unchanged(pass: &Pass<'_>) -> Option<ConditionUpdate> {
    let spec = pass.binding.spec.managed_secret.restart.as_ref();
    spec.map(|_| ConditionUpdate::Unchanged)
}

/// Looks at each target and at each workload with the label.
async fn restart_all(pass: &Pass<'_>, spec: &RestartSpec, hash: &str, results: &mut Results) {
    let namespace = pass.key.namespace();
    let files = files_secret_name(pass);
    let secrets: Vec<&str> = [Some(pass.binding.secret_name()), files.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    let wanted = Wanted {
        binding: pass.key.name(),
        secrets: &secrets,
        hash,
        min_interval: spec.min_interval(),
    };
    let client = &pass.context.workloads;
    let mut labelled = BTreeMap::new();
    for kind in RestartKind::ALL {
        match client.labelled(kind, namespace).await {
            Ok(found) => labelled.extend(found.into_iter().map(|workload| {
                let name = workload.name().to_owned();
                (RestartTarget { kind, name }, workload)
            })),
            Err(error) => results.fail(format!("{kind}s with the label"), error),
        }
    }
    for target in &spec.targets {
        if labelled.contains_key(target) {
            continue;
        }
        match client.get(target.kind, namespace, &target.name).await {
            Ok(workload) => {
                if restart(pass, target, &workload, &wanted, results)
                    .await
                    .is_none()
                {
                    results.unused.push(target.to_string());
                }
            }
            Err(error) => results.fail(target.to_string(), error),
        }
    }
    for (target, workload) in &labelled {
        // A workload with the label that does not use the Secret may use another one.
        restart(pass, target, workload, &wanted, results).await;
    }
}

/// Restarts one workload if it is due. None if it does not use the Secret.
async fn restart(
    pass: &Pass<'_>,
    target: &RestartTarget,
    workload: &Workload,
    wanted: &Wanted<'_>,
    results: &mut Results,
) -> Option<()> {
    let now = Timestamp::now();
    match decide(workload, wanted, now) {
        Decision::NotConcerned => return None,
        Decision::Current => results.current.push(target.to_string()),
        Decision::Wait(due) => results.waiting.push((target.to_string(), due)),
        Decision::Restart(hashes) => {
            let (client, namespace) = (&pass.context.workloads, pass.key.namespace());
            let written = client
                .restart(target.kind, namespace, workload, (&hashes, now))
                .await;
            match written {
                Ok(()) => {
                    results.current.push(target.to_string());
                    let secret = pass.binding.secret_name();
                    let message = format!("{target} restarts with the content of Secret {secret}");
                    pass.emit(Reason::WorkloadRestarted, &message);
                }
                Err(error) => results.fail(target.to_string(), error),
            }
        }
    }
    Some(())
}

/// What came of all workloads.
#[derive(Debug, Default)]
struct Results {
    current: Vec<String>,
    waiting: Vec<(String, Timestamp)>,
    unused: Vec<String>,
    failed: Vec<(String, RestartError)>,
}

impl Results {
    fn fail(&mut self, what: String, error: RestartError) {
        self.failed.push((what, error));
    }

    /// When to look again.
    fn wait(&self, interval: Duration) -> Option<Duration> {
        let failed = self.failed.iter().map(|(_, error)| match error {
            RestartError::Conflict => CONFLICT_WAIT,
            RestartError::Unreachable => OUTAGE_WAIT,
            RestartError::Missing | RestartError::Forbidden { .. } | RestartError::Rejected(_) => {
                interval
            }
        });
        let unused = self.unused.iter().map(|_| interval);
        let now = Timestamp::now();
        let waiting = self.waiting.iter().map(|(_, due)| {
            // The template holds whole seconds.
            let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
            wait + Duration::from_secs(1)
        });
        failed.chain(unused).chain(waiting).min()
    }

    /// The condition `Restarted`.
    fn condition(&self, secret: &str) -> ConditionUpdate {
        if let Some((what, error)) = self.failed.first() {
            let message = format!("{what}: {error}");
            let message = more(&message, self.failed.len() - 1);
            return match error {
                RestartError::Missing => ConditionUpdate::False(
                    Reason::RestartTargetMissing,
                    format!("{message}; create it, or change spec.managedSecret.restart.targets"),
                ),
                RestartError::Forbidden { .. } => {
                    ConditionUpdate::False(Reason::RestartForbidden, message)
                }
                RestartError::Rejected(_) => {
                    ConditionUpdate::False(Reason::RestartRejected, message)
                }
                RestartError::Conflict | RestartError::Unreachable => ConditionUpdate::Unchanged,
            };
        }
        if let Some(target) = self.unused.first() {
            let message = format!(
                "the pods of {target} do not use Secret {secret} in env, envFrom or a volume, so the operator does not restart it"
            );
            let message = more(&message, self.unused.len() - 1);
            return ConditionUpdate::False(Reason::RestartTargetUnrelated, message);
        }
        if let Some((target, due)) = self.waiting.iter().min_by_key(|(_, due)| *due) {
            let due = due.strftime("%FT%TZ");
            let message = format!(
                "{target} restarts at {due}, which is spec.managedSecret.restart.minInterval after its last restart"
            );
            let message = more(&message, self.waiting.len() - 1);
            return ConditionUpdate::False(Reason::RestartPending, message);
        }
        let message = match self.current.len() {
            0 => format!("no workload with the label uses Secret {secret}"),
            number => {
                let mut names = self.current.clone();
                names.truncate(MAX_NAMED);
                let message = format!(
                    "the pod templates of {} have the content of Secret {secret}: {}",
                    count(number, "workload"),
                    names.join(", ")
                );
                more(&message, number.saturating_sub(MAX_NAMED))
            }
        };
        ConditionUpdate::True(Reason::WorkloadRestarted, message)
    }
}

/// A message that says how many more there are.
fn more(message: &str, others: usize) -> String {
    match others {
        0 => message.to_owned(),
        others => format!("{message} (and {others} more)"),
    }
}

#[cfg(test)]
mod tests;
