//! Refuses content that would take most or all keys out of the Secret, until a later read confirms
//! it.
//!
//! Input: the desired Secret, and what is known of the one that exists.
//! Output: a failure, unless the content may be written.
//! Invariants: the source of a config compares its answers with each other. This module compares the
//! first ones of a source, as after a restart, with the keys of the Secret, and refuses a Secret
//! without any key.

use tokio::time::Instant;

use super::{
    config_sources::name_of,
    pass::Pass,
    resolution::{LastGood, Resolution},
};
use crate::{
    doppler::{lost_names, missing_added},
    failure::Failure,
    reason::Reason,
    secret::Desired,
    status::resolved_before,
};

/// A later read confirms an answer after this part of the poll interval.
const CONFIRMATION: f64 = 1.2;
/// Polls have jitter: a read that comes after this part of the interval is the next poll.
const MIN_INTERVAL: f64 = 0.8;

/// Refuses `desired` if it would take most or all keys out of the Secret.
///
/// # Errors
/// Until a later read confirms it, or for good if the answer is no config.
pub async fn refuse_loss(
    pass: &mut Pass<'_>,
    resolution: &Resolution,
    desired: &Desired,
) -> Result<(), Failure> {
    let status = pass
        .last_status()
        .filter(|status| status.secret_name.as_deref() == Some(&desired.name));
    let key_count = status.and_then(|status| status.key_count).unwrap_or(0);
    let hash = status.and_then(|status| status.content_hash.as_deref());
    let Some(values) = &resolution.last_good else {
        return Ok(());
    };
    if key_count == 0 || hash.is_none() || hash == Some(desired.content_hash.as_str()) {
        return accept(pass);
    }
    if pass.read_state(|state| state.written_from) == Some(values.source) {
        return refuse_empty(pass, resolution, desired);
    }
    compare_with_secret(pass, resolution, desired, values).await
}

/// Refuses a Secret without any key.
fn refuse_empty(
    pass: &mut Pass<'_>,
    resolution: &Resolution,
    desired: &Desired,
) -> Result<(), Failure> {
    if !desired.data.is_empty() {
        return accept(pass);
    }
    let message = format!(
        "the answer of Doppler would leave Secret {} without any key; the operator rejects it until the next poll confirms it: check the config, and spec.doppler.include and exclude",
        desired.name
    );
    confirm(pass, resolution, Failure::new(Reason::EmptyAnswer, message))
}

/// Compares the first answers of a source with the keys of the Secret.
async fn compare_with_secret(
    pass: &mut Pass<'_>,
    resolution: &Resolution,
    desired: &Desired,
    values: &LastGood,
) -> Result<(), Failure> {
    let secrets = &pass.context.secrets;
    // Without the Secret there is nothing to lose, and the write reports a missing right.
    let Ok(Some(fetched)) = secrets.get(&desired.namespace, &desired.name).await else {
        return refuse_empty(pass, resolution, desired);
    };
    if !fetched.observed.belongs_to(&desired.binding_uid) {
        return Ok(());
    }
    let before = || fetched.content.keys().map(String::as_str);
    for of in values.configs.iter() {
        let missing = missing_added(before(), of.snapshot.names());
        if !missing.is_empty() {
            let message = format!(
                "the answer of Doppler for {} has no {}, which every config has and Secret {} holds: check that spec.doppler.host is Doppler's API",
                name_of(&of.project, &of.config),
                missing.join(", "),
                desired.name
            );
            return Err(Failure::new(Reason::ConfigIncomplete, message));
        }
    }
    let is_same_source = pass.last_status().is_some_and(|status| {
        resolved_before(status).as_deref() == Some(values.resolved().to_string().as_str())
            && status.observed_generation == pass.binding.metadata.generation
    });
    match lost_names(before(), desired.data.keys().map(String::as_str)) {
        Some(lost) if is_same_source => {
            let message = format!(
                "the answer of Doppler would take {lost} out of Secret {}; the operator rejects it until the next poll confirms it: check the config",
                desired.name
            );
            confirm(pass, resolution, Failure::new(Reason::NamesLost, message))
        }
        _ => refuse_empty(pass, resolution, desired),
    }
}

/// Accepts content that a read one poll interval after the first one returned again.
fn confirm(pass: &mut Pass<'_>, resolution: &Resolution, failure: Failure) -> Result<(), Failure> {
    let now = Instant::now();
    let since = pass.update_state(|state| *state.loss_since.get_or_insert(now));
    let is_later = now.saturating_duration_since(since) >= pass.interval().mul_f64(MIN_INTERVAL);
    let values = resolution.last_good.as_ref();
    let is_confirmed = values.is_some_and(LastGood::is_confirmed);
    if is_confirmed || (is_later && resolution.consecutive_reads >= 2) {
        return accept(pass);
    }
    if since == now {
        pass.emit(failure.reason, &failure.message);
    }
    pass.requeue.after(pass.interval().mul_f64(CONFIRMATION));
    Err(failure)
}

#[allow(clippy::unnecessary_wraps)] // the last step of functions that may refuse
fn accept(pass: &Pass<'_>) -> Result<(), Failure> {
    pass.update_state(|state| state.loss_since = None);
    Ok(())
}
