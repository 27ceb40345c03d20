//! The pods of flow runs that do not start because of the managed Secret: in the condition `Injected`,
//! and as an Event for each pod.
//!
//! Input: the pods that the watch knows, and what is known of the Secret.
//! Output: the condition, and Events.
//! Invariants: a pod has one Event, and Events and lines of the log have a rate. A message names pod,
//! run and Secret, and repeats nothing that a container runtime wrote.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    controller::{
        pass::Pass,
        run_pods::{
            pod_state::Cause,
            troubles::{MAX_PODS, TroubledPod},
        },
    },
    crd::Uid,
    printable::{self, count},
    reason::Reason,
    status::{ConditionUpdate, INJECTED},
    upstream::pace::PaceLimit,
};

/// How often pods of one binding are reported.
const REPORTS: PaceLimit = PaceLimit {
    burst: 16,
    period: Duration::from_secs(15),
};
/// Pods of one binding that are remembered as reported.
const MAX_REPORTED: usize = 64;

/// What the pods depend on beside their own state.
#[derive(Clone, Copy, Debug)]
pub struct SecretState<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it exists and belongs to the binding.
    pub exists: bool,
    /// Whether it sets `PATH`.
    pub sets_path: bool,
}

/// The pods of the binding that do not start because of its Secret, the newest first.
#[must_use]
pub fn find(pass: &Pass<'_>, sets_path: bool) -> Vec<(TroubledPod, String)> {
    let Some(pods) = &pass.context.run_pods else {
        return Vec::new();
    };
    let secret = SecretState {
        name: pass.binding.secret_name(),
        exists: pass.secret_exists(),
        sets_path,
    };
    let troubled = pods.troubled(pass.key).into_iter();
    troubled
        .filter_map(|pod| {
            let message = message(&pod, secret)?;
            Some((pod, message))
        })
        .collect()
}

/// Emits an Event for each pod that has none yet.
pub fn report(pass: &Pass<'_>, pods: &[(TroubledPod, String)]) {
    let last = pass.last_status().into_iter();
    let mut last = last.flat_map(|status| &status.conditions);
    let last = last.find(|condition| condition.type_ == INJECTED);
    let last = last.map_or("", |condition| &*condition.message);
    // After a restart, the condition shows what was reported last.
    let is_first = pass.read_state(|state| state.pod_reports.is_none());
    for (pod, message) in pods {
        let was_reported = is_first && last.contains(&format!("{} ", subject(pod)));
        let is_due = pass.update_state(|state| {
            let reports = state.pod_reports.get_or_insert_default();
            remember(&mut reports.pods, &pod.uid)
                && !was_reported
                && reports.pace.take(REPORTS, Instant::now()).is_ok()
        });
        if is_due {
            pass.emit(Reason::RunPodNotStarted, message);
        }
    }
}

/// Adds a UID to those of reported pods. False if it is one of them.
fn remember(reported: &mut Vec<Uid>, uid: &Uid) -> bool {
    if reported.contains(uid) {
        return false;
    }
    if reported.len() >= MAX_REPORTED {
        reported.remove(0);
    }
    reported.push(uid.clone());
    true
}

/// Adds the pods to the condition `Injected`. Without pods it stays as it is.
#[must_use]
pub fn join(
    condition: Option<ConditionUpdate>,
    pods: &[(TroubledPod, String)],
) -> Option<ConditionUpdate> {
    let Some((_, newest)) = pods.first() else {
        return condition;
    };
    let others = match pods.len() - 1 {
        0 => String::new(),
        others if pods.len() >= MAX_PODS => {
            format!(" (and at least {})", count(others, "older pod"))
        }
        others => format!(" (and {})", count(others, "older pod")),
    };
    let message = format!("{newest}{others}");
    Some(match condition {
        Some(ConditionUpdate::False(reason, text)) => {
            ConditionUpdate::False(reason, format!("{text}; {message}"))
        }
        _ => ConditionUpdate::False(Reason::RunPodNotStarted, message),
    })
}

/// Why the pod does not start, and what to do. None if the Secret of the binding is not the cause.
fn message(pod: &TroubledPod, secret: SecretState<'_>) -> Option<String> {
    let SecretState {
        name,
        exists,
        sets_path,
    } = secret;
    let subject = subject(pod);
    let reason = pod.trouble.reason;
    match pod.trouble.cause {
        Cause::SecretMissing if exists => Some(format!(
            "{subject} waits ({reason}): Secret {name} did not exist and does so now; the kubelet starts the pod at its next attempt"
        )),
        Cause::SecretMissing => Some(format!(
            "{subject} waits ({reason}): Secret {name} does not exist; the pod starts once the operator has written the Secret (see SecretSynced)"
        )),
        Cause::TooLarge if exists => Some(format!(
            "{subject} did not start ({reason}): the variables of Secret {name} and of the pod are together larger than the system allows; select fewer names with spec.doppler.include or exclude, and start the run again"
        )),
        Cause::ProgramNotFound if exists && sets_path => Some(format!(
            "{subject} did not start ({reason}): the PATH of Secret {name} does not lead to the program of the container; correct PATH in Doppler, or remove it from managedSecret.allowReservedNames, and start the run again"
        )),
        Cause::TooLarge | Cause::ProgramNotFound => None,
    }
}

/// The pod and its run.
fn subject(pod: &TroubledPod) -> String {
    let name = printable::name(&pod.name);
    match &pod.run {
        Some(run) => format!("pod {name} of flow run {}", printable::name(run)),
        None => format!("pod {name}"),
    }
}

#[cfg(test)]
mod tests;
