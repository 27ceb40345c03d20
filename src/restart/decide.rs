//! Decides whether a workload restarts. Pure.
//!
//! Input: a workload, the content that its pods should have, and the time.
//! Output: a [`Decision`].
//! Invariants: the template holds the state, so that a decision is the same after a restart of the
//! operator. A clock that was set back delays a restart by at most two intervals.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Workload;

/// The content that the pods of a workload should have.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Name of the binding.
    pub binding: &'a str,
    /// Names of its Secret and, if there are files, of the Secret with them.
    pub secrets: &'a [&'a str],
    /// Hash of the content.
    pub hash: &'a str,
    /// The least time between two restarts.
    pub min_interval: Duration,
}

/// What to do with a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Its pods do not use the Secret, or it is being deleted.
    NotConcerned,
    /// Its pods have the content.
    Current,
    /// It restarts at this time.
    Wait(Timestamp),
    /// It restarts now, and the template gets this text.
    Restart(String),
}

/// Decides about one workload.
#[must_use]
pub fn decide(workload: &Workload, wanted: &Wanted<'_>, now: Timestamp) -> Decision {
    if workload.is_terminating() || !workload.uses_any(wanted.secrets) {
        return Decision::NotConcerned;
    }
    let content = workload.content();
    if content.hash(wanted.binding) == Some(wanted.hash) {
        return Decision::Current;
    }
    if let Some(due) = due(workload, wanted.min_interval, now) {
        return Decision::Wait(due);
    }
    Decision::Restart(content.with(wanted.binding, wanted.hash))
}

/// When the workload may restart, if that is later than now.
fn due(workload: &Workload, min_interval: Duration, now: Timestamp) -> Option<Timestamp> {
    let interval = SignedDuration::try_from(min_interval).ok()?;
    let last = workload.restarted_at()?;
    // A later time comes from another clock, or from another client.
    if last > now.checked_add(interval).ok()? {
        return None;
    }
    let due = last.checked_add(interval).ok()?;
    (due > now).then_some(due)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn workload(hashes: Option<&str>, restarted_at: Option<&str>) -> Workload {
        serde_json::from_value(json!({
            "metadata": {"name": "w", "resourceVersion": "1"},
            "spec": {"template": {
                "metadata": {"annotations": {
                    "doppler-prefect.dev/content-hash": hashes.unwrap_or_default(),
                    "doppler-prefect.dev/restarted-at": restarted_at.unwrap_or_default(),
                }},
                "spec": {"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]},
            }},
        }))
        .unwrap()
    }

    fn decision(workload: &Workload, secret: &str) -> Decision {
        let wanted = Wanted {
            binding: "b",
            secrets: &[secret],
            hash: "new",
            min_interval: Duration::from_mins(10),
        };
        decide(workload, &wanted, NOW.parse().unwrap())
    }

    #[test]
    fn pods_with_other_content_restart_and_others_do_not() {
        let restart = |text: &str| Decision::Restart(text.to_owned());
        assert_eq!(decision(&workload(None, None), "s"), restart("b=new"));
        assert_eq!(
            decision(&workload(Some("a=1,b=old"), None), "s"),
            restart("a=1,b=new")
        );
        let current = workload(Some("b=new"), Some(NOW));
        assert_eq!(decision(&current, "s"), Decision::Current);
        assert_eq!(decision(&current, "other"), Decision::NotConcerned);
    }

    #[test]
    fn a_restart_waits_for_the_end_of_the_interval() {
        let at = |time: &str| decision(&workload(Some("b=old"), Some(time)), "s");
        let due: Timestamp = "2026-01-01T12:01:00Z".parse().unwrap();
        assert_eq!(at("2026-01-01T11:51:00Z"), Decision::Wait(due));
        assert!(matches!(at("2026-01-01T11:50:00Z"), Decision::Restart(_)));
        // A clock that was set back, a time of another client, and text that is no time.
        let latest: Timestamp = "2026-01-01T12:20:00Z".parse().unwrap();
        assert_eq!(at("2026-01-01T12:10:00Z"), Decision::Wait(latest));
        assert!(matches!(at("2026-01-01T12:10:01Z"), Decision::Restart(_)));
        assert!(matches!(at("yesterday"), Decision::Restart(_)));
    }

    #[test]
    fn a_workload_that_is_deleted_does_not_restart() {
        let deleted = json!({
            "metadata": {"name": "w", "deletionTimestamp": NOW},
            "spec": {"template": {"spec": {"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}}},
        });
        let deleted: Workload = serde_json::from_value(deleted).unwrap();
        assert_eq!(decision(&deleted, "s"), Decision::NotConcerned);
    }
}
