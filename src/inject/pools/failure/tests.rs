use std::sync::Arc;

use super::*;
use crate::crd::InjectMode;
use crate::inject::claim::{Adoption, UsedName};

fn claim(want: Want) -> Claim {
    Claim {
        namespace: "flows".to_owned(),
        binding: "b".to_owned(),
        secret: "s".to_owned(),
        variable: None,
        mount: None,
        optional: true,
        same_cluster: false,
        mode: InjectMode::Patch,
        keys: Arc::default(),
        want,
        recorded: true,
        adoption: Adoption::None,
        used_name: UsedName::Stays,
        interval: Duration::from_mins(1),
    }
}

fn observation(phase: Phase) -> Observation {
    Observation::new(
        phase,
        Some(State::Patched),
        Reason::Injected,
        "injected".to_owned(),
    )
}

fn missing() -> PrefectError {
    PrefectError::PoolMissing {
        host: "h".to_owned(),
        pool: "k8s".to_owned(),
    }
}

fn forbidden() -> PrefectError {
    PrefectError::PoolForbidden {
        pool: "k8s".to_owned(),
        action: "edit the template",
        permission: "Edit work pools",
    }
}

fn fault() -> PrefectError {
    PrefectError::ServerFault {
        host: "h".to_owned(),
        status: 500,
    }
}

fn limited(seconds: Option<u64>) -> PrefectError {
    PrefectError::RateLimited {
        host: "h".to_owned(),
        retry_after: seconds.map(Duration::from_secs),
    }
}

#[test]
fn maps_each_error_and_claim_to_a_phase() {
    let (missing, forbidden, fault) = (missing(), forbidden(), fault());
    let cases = [
        (&missing, Want::Present, Phase::Injected, Phase::Skipped),
        (&missing, Want::Absent, Phase::InProgress, Phase::Removed),
        (&forbidden, Want::Present, Phase::Injected, Phase::Skipped),
        (
            &forbidden,
            Want::Absent,
            Phase::InProgress,
            Phase::InProgress,
        ),
        (&forbidden, Want::Absent, Phase::Injected, Phase::InProgress),
        (&forbidden, Want::Absent, Phase::Removed, Phase::Removed),
        (&fault, Want::Present, Phase::Injected, Phase::Injected),
        (&fault, Want::Absent, Phase::InProgress, Phase::InProgress),
        (&fault, Want::Absent, Phase::Removed, Phase::Removed),
    ];
    for (error, want, before, after) in cases {
        let result = observe_failure(
            error,
            &claim(want),
            Some(&observation(before)),
            None,
            Instant::now(),
        );
        assert_eq!(result.phase, after, "{error}, {want:?}");
        assert_eq!(result.reason, error.reason());
        let state = match error {
            PrefectError::PoolMissing { .. } => State::Missing,
            PrefectError::PoolForbidden { .. } => State::Forbidden,
            _ => State::Patched,
        };
        assert_eq!(result.state, Some(state), "{error}, {want:?}");
        assert_eq!(result.failing_since.is_some(), *error == fault);
    }
}

#[test]
fn read_only_credentials_still_observe_an_existing_entry() {
    let planned = observation(Phase::Injected);
    let result = observe_failure(
        &forbidden(),
        &claim(Want::Present),
        None,
        Some(&planned),
        Instant::now(),
    );
    assert_eq!(result, planned);
}

#[test]
fn failing_since_is_the_first_failure() {
    let first = Instant::now();
    let claim = claim(Want::Present);
    let once = observe_failure(&fault(), &claim, None, None, first);
    let later = first + Duration::from_secs(9);
    let twice = observe_failure(&fault(), &claim, Some(&once), None, later);
    assert_eq!(twice.failing_since, Some(first));
    assert!(!visibly_differs(&once, &twice));
    assert!(visibly_differs(&observation(Phase::Injected), &once));
}

#[test]
fn a_removal_claim_never_gets_the_previous_phase() {
    for phase in [
        Phase::Unknown,
        Phase::Injectable,
        Phase::Injected,
        Phase::Removed,
        Phase::Skipped,
        Phase::InProgress,
    ] {
        let answer = observe_changed_claim(&claim(Want::Absent), &observation(phase));
        assert_eq!(answer.phase, Phase::InProgress);
        let answer = observe_changed_claim(&claim(Want::Present), &observation(phase));
        assert!(!matches!(answer.phase, Phase::Removed | Phase::Injectable));
    }
}

#[test]
fn retry_delay_doubles_and_respects_retry_after() {
    let (short, long) = (Duration::from_secs(5), Duration::from_mins(5));
    let seconds = Duration::from_secs;
    let cases = [
        (fault(), 1, short, seconds(1), true),
        (fault(), 3, short, seconds(4), true),
        (fault(), 30, short, short, true),
        (fault(), 30, long, long, true),
        (limited(None), 2, short, seconds(2), true),
        (limited(Some(90)), 1, short, seconds(90), true),
        (limited(Some(90_000)), 1, short, seconds(3600), true),
        (missing(), 9, short, short, false),
        (forbidden(), 9, long, long, false),
    ];
    for (error, failures, interval, wait, delay_triggers) in cases {
        let delay = retry_delay(&error, failures, interval);
        assert_eq!(delay, (wait, delay_triggers), "{error}, {failures}");
    }
}
