//! The Jobs that a binding selects by their labels. The API server adds the Secret to them, by an
//! admission policy that reads the bindings; the operator only prepares the binding for it.
//!
//! Input: a pass, and whether the API server has the policy.
//! Output: the label by which the policy finds the binding, the Secret that the policy adds, and a
//! part of the condition `Injected`.
//! Invariants: the policy adds only a Secret that exists and belongs to the binding. A Secret of an
//! earlier name stays until Jobs that were created with it have started their pods.

use std::time::Duration;

use tokio::time::Instant;

use super::{jobs_label, pool_claims::files_exist};
use crate::{
    controller::{admission_policy::Availability, files_secret::files_secret_name, pass::Pass},
    crd::{JobFiles, JobSelector},
    failure::Failure,
    inject::{job_labels::shown_labels, template::volume_name},
    reason::Reason,
    status::ConditionUpdate,
};

/// The most selectors that a message shows.
const MAX_SELECTORS: usize = 5;
/// Wait until the status names another Secret.
const STATUS_WAIT: Duration = Duration::from_secs(1);

/// The injection into Jobs, in one pass.
#[derive(Default)]
pub struct JobInjection {
    /// None if the binding selects no Jobs.
    state: Option<State>,
}

struct State {
    availability: Availability,
    label: Result<(), Failure>,
}

impl JobInjection {
    /// Sets or removes the label, and reads whether the API server has the policy.
    pub async fn ensure(pass: &mut Pass<'_>) -> Self {
        let selects_jobs = !pass.binding.spec.inject.jobs.is_empty();
        let label = jobs_label::ensure(pass, selects_jobs).await;
        if !selects_jobs {
            return Self::default();
        }
        let (availability, valid_for) = pass.context.admission_policy.availability().await;
        pass.requeue.after(valid_for);
        Self {
            state: Some(State {
                availability,
                label,
            }),
        }
    }

    /// The part of the condition `Injected`. None if the binding selects no Jobs.
    #[must_use]
    pub fn condition(&self, pass: &Pass<'_>, was_true: bool) -> Option<ConditionUpdate> {
        let state = self.state.as_ref()?;
        let secret = pass.binding.secret_name();
        Some(jobs_condition(
            state.availability,
            &state.label,
            pass.secret_exists().then_some(secret),
            &pass.binding.spec.inject.jobs,
            was_true,
        ))
    }
}

/// The condition of a binding that selects Jobs. Pure.
fn jobs_condition(
    availability: Availability,
    label: &Result<(), Failure>,
    secret: Option<&str>,
    jobs: &[JobSelector],
    was_true: bool,
) -> ConditionUpdate {
    if let Some(correction) = availability.correction() {
        let text = format!("Jobs that the binding selects do not get the Secret: {correction}");
        return if availability == Availability::Forbidden {
            ConditionUpdate::Unknown(Reason::AdmissionUnavailable, correction.to_owned())
        } else {
            ConditionUpdate::False(Reason::AdmissionUnavailable, text)
        };
    }
    if let Err(failure) = label {
        return ConditionUpdate::False(failure.reason, failure.message.clone());
    }
    let Some(secret) = secret else {
        return ConditionUpdate::Unknown(
            Reason::Pending,
            "the admission policy adds the Secret to Jobs once it exists (see SecretSynced)"
                .to_owned(),
        );
    };
    if availability == Availability::Unknown {
        return if was_true {
            ConditionUpdate::Unchanged
        } else {
            ConditionUpdate::Unknown(
                Reason::Pending,
                "the API server did not say whether it has the admission policy for Jobs; the operator asks again".to_owned(),
            )
        };
    }
    let mut mounts = jobs.iter();
    let what = if mounts.any(|job| job.mount.is_some()) {
        ", and mounts its files in those with a mount"
    } else {
        ""
    };
    ConditionUpdate::True(
        Reason::Injected,
        format!(
            "the admission policy adds Secret {secret} to new Jobs with the labels {}{what}",
            selectors(jobs)
        ),
    )
}

/// The labels, such as `a=b,c=d or a=e`.
fn selectors(jobs: &[JobSelector]) -> String {
    let shown = jobs.iter().take(MAX_SELECTORS);
    let mut texts: Vec<String> = shown.map(|job| shown_labels(&job.match_labels)).collect();
    let more = jobs.len().saturating_sub(MAX_SELECTORS);
    if more > 0 {
        texts.push(format!("{more} more selectors"));
    }
    texts.join(" or ")
}

/// The Secret that the policy adds to Jobs: that of the spec once it exists, until then one of an
/// earlier name that still exists.
#[must_use]
pub fn job_secret(pass: &Pass<'_>) -> Option<String> {
    if pass.binding.spec.inject.jobs.is_empty() {
        return None;
    }
    if pass.secret_exists() {
        return Some(pass.binding.secret_name().to_owned());
    }
    let last = recorded_job_secret(pass)?;
    let cached = pass.own_secret(&last)?;
    (!cached.observed.terminating).then_some(last)
}

/// The Secret that the status names for the policy.
#[must_use]
pub fn recorded_job_secret(pass: &Pass<'_>) -> Option<String> {
    pass.last_status()?.job_secret_name.clone()
}

/// The Secret with files that the policy mounts: that of the spec once it exists, until then one of an
/// earlier name that still exists.
#[must_use]
pub fn job_files(pass: &Pass<'_>) -> Option<JobFiles> {
    let mut jobs = pass.binding.spec.inject.jobs.iter();
    if !jobs.any(|job| job.mount.is_some()) {
        return None;
    }
    if files_exist(pass) && pass.secret_exists() {
        return Some(JobFiles {
            secret_name: files_secret_name(pass)?,
            volume_name: volume_name(pass.binding.secret_name()),
        });
    }
    let last = recorded_job_files(pass)?;
    let cached = pass.own_secret(&last.secret_name)?;
    (!cached.observed.terminating).then_some(last)
}

/// The Secret with files that the status names for the policy.
#[must_use]
pub fn recorded_job_files(pass: &Pass<'_>) -> Option<JobFiles> {
    pass.last_status()?.job_files.clone()
}

/// Whether the Secret of an earlier name has to stay: the status names it for the policy, or did so
/// until a moment ago, so that Jobs may exist whose pods have yet to read it.
pub fn holds_secret(pass: &mut Pass<'_>, name: &str) -> bool {
    let files = recorded_job_files(pass).map(|files| files.secret_name);
    let mut recorded = recorded_job_secret(pass).into_iter().chain(files);
    let is_recorded = recorded.any(|recorded| recorded == name);
    let since = pass.update_state(|state| {
        let since = &mut state.job_secret_since;
        if is_recorded {
            since.insert(name.to_owned(), Instant::now());
        }
        since.get(name).copied()
    });
    let Some(since) = since else {
        return false;
    };
    if is_recorded {
        pass.requeue.after(STATUS_WAIT);
        return true;
    }
    let release_wait = pass.context.settings.release_wait;
    let left = release_wait.saturating_sub(since.elapsed());
    if left.is_zero() {
        pass.update_state(|state| state.job_secret_since.remove(name));
        return false;
    }
    pass.requeue.after(left);
    true
}

/// Joins the conditions of both ways of injection. The first one that is not True counts.
#[must_use]
pub fn join(
    pools: Option<ConditionUpdate>,
    jobs: Option<ConditionUpdate>,
) -> Option<ConditionUpdate> {
    use ConditionUpdate::{False, True, Unchanged, Unknown};
    match (pools, jobs) {
        (pools, None) => pools,
        (None, jobs) => jobs,
        (Some(pools @ False(..)), _) => Some(pools),
        (_, Some(jobs @ False(..))) => Some(jobs),
        (Some(pools @ (Unknown(..) | Unchanged)), _) => Some(pools),
        (Some(True(reason, pools)), Some(True(_, jobs))) => {
            Some(True(reason, format!("{pools}; {jobs}")))
        }
        (Some(True(..)), Some(jobs)) => Some(jobs),
    }
}

#[cfg(test)]
mod tests;
