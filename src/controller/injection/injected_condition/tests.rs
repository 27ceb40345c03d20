use super::*;

fn state() -> InjectionState<'static> {
    InjectionState {
        unread: None,
        unguarded: None,
        missing_secret: None,
        in_use: None,
        was_true: false,
        grace_period: Duration::ZERO,
    }
}

fn observed(phase: Phase) -> Observation {
    Observation {
        phase,
        state: None,
        reason: if phase == Phase::Injected {
            Reason::Injected
        } else {
            Reason::Pending
        },
        message: "observed".to_owned(),
        shadowed_keys: Vec::new(),
        later_sources: Vec::new(),
        unserved_namespaces: Vec::new(),
        used_by: Vec::new(),
        unchecked_deployments: None,
        failing_since: None,
        event: None,
    }
}

fn condition(
    observations: &[Option<Observation>],
    state: &InjectionState<'_>,
) -> Option<ConditionUpdate> {
    let observations = observations.iter().enumerate();
    let claims = PoolClaims {
        observations: observations
            .map(|(number, observation)| ObservedClaim {
                pool: format!("pool-{number}"),
                is_mount: false,
                observation: observation.clone(),
            })
            .collect(),
        to_record: BTreeSet::new(),
    };
    injected_condition(&claims, &[], state).0
}

fn pending(message: &str) -> ConditionUpdate {
    ConditionUpdate::Unknown(Reason::Pending, message.to_owned())
}

#[test]
fn says_what_an_injection_waits_for() {
    let waiting = InjectionState {
        missing_secret: Some("my-secret"),
        ..state()
    };
    let (ready, injected) = (
        Some(observed(Phase::Injectable)),
        Some(observed(Phase::Injected)),
    );
    assert_eq!(
        condition(&[ready.clone(), injected], &waiting),
        Some(pending(
            "work pools pool-0 can take the entry: the operator adds it once Secret my-secret exists (see SecretSynced)"
        ))
    );
    assert_eq!(
        condition(std::slice::from_ref(&ready), &state()),
        Some(pending(
            "the operator is about to add the entry to work pools pool-0"
        ))
    );
    assert_eq!(
        condition(&[ready, None], &waiting),
        Some(pending("the first reads of the work pools are pending"))
    );
    assert_eq!(
        condition(&[Some(observed(Phase::InProgress))], &state()),
        Some(pending(
            "the operator is changing the entry of work pools pool-0"
        ))
    );
}

#[test]
fn says_why_pools_are_not_read() {
    let failure = Failure::new(Reason::HostNotAllowed, "x is not an allowed host");
    for was_true in [false, true] {
        let refused = InjectionState {
            unread: Some(&failure),
            was_true,
            ..state()
        };
        assert_eq!(
            condition(&[None], &refused),
            Some(ConditionUpdate::Unknown(
                Reason::HostNotAllowed,
                "the operator does not read the work pools: x is not an allowed host".to_owned()
            ))
        );
    }
    let before = InjectionState {
        was_true: true,
        ..state()
    };
    assert_eq!(
        condition(&[None], &before),
        Some(ConditionUpdate::Unchanged)
    );
}

#[test]
fn says_that_no_entry_is_added_without_the_finalizer() {
    let failure = Failure::new(Reason::KubernetesError, "Policy p rejects the finalizer");
    let unguarded = InjectionState {
        unguarded: Some(&failure),
        ..state()
    };
    let expected = ConditionUpdate::False(
        Reason::KubernetesError,
        "the operator adds no entry to the work pools: Policy p rejects the finalizer".to_owned(),
    );
    let observations = [Some(observed(Phase::Injectable))];
    assert_eq!(condition(&observations, &unguarded), Some(expected));
    // An entry that is in place is not affected.
    let observations = [Some(observed(Phase::Injected))];
    assert!(matches!(
        condition(&observations, &unguarded),
        Some(ConditionUpdate::True(..))
    ));
}

#[test]
fn names_the_keys_that_a_pool_overrides() {
    let keys = |count: usize| (0..count).map(|n| format!("K{n}")).collect();
    let shadowed = |count| Observation {
        shadowed_keys: keys(count),
        ..observed(Phase::Injected)
    };
    let Some(ConditionUpdate::True(_, message)) =
        condition(&[Some(shadowed(1)), Some(shadowed(12))], &state())
    else {
        panic!("not injected")
    };
    assert!(
        message.contains("work pool pool-0 overrides these keys of the Secret: K0;")
            && message.ends_with("K9 and 2 more"),
        "{message}"
    );
}

#[test]
fn unchecked_deployments_are_reported_beside_success() {
    let observation = Observation {
        phase: Phase::Injected,
        state: Some(WorkPoolState::Patched),
        reason: Reason::Injected,
        message: "the template has the entry".to_owned(),
        shadowed_keys: Vec::new(),
        later_sources: Vec::new(),
        unserved_namespaces: vec!["team".to_owned()],
        used_by: Vec::new(),
        unchecked_deployments: Some("only the first 5000 were checked".to_owned()),
        failing_since: None,
        event: None,
    };
    let claims = PoolClaims {
        observations: vec![ObservedClaim {
            pool: "k8s".to_owned(),
            is_mount: false,
            observation: Some(observation),
        }],
        to_record: BTreeSet::new(),
    };
    let (update, _) = injected_condition(&claims, &[], &state());
    let Some(ConditionUpdate::True(Reason::Injected, message)) = update else {
        panic!("{update:?}")
    };
    assert_eq!(
        message,
        "work pools k8s reference the Secret; deployments send jobs to namespaces without the Secret (add a binding there): team; only the first 5000 were checked"
    );
}

fn of_mount(observation: Observation) -> ObservedClaim {
    ObservedClaim {
        pool: "pool-0".to_owned(),
        is_mount: true,
        observation: Some(observation),
    }
}

fn in_state(state: WorkPoolState) -> Observation {
    Observation {
        state: Some(state),
        ..observed(Phase::Injected)
    }
}

#[test]
fn a_mount_shares_the_status_of_its_pool() {
    use WorkPoolState::{AlreadyPresent, Contested, NotEditable, Patched};
    for (entry, mount, expected) in [
        (Patched, Patched, Patched),
        (Patched, AlreadyPresent, Patched),
        (AlreadyPresent, NotEditable, NotEditable),
        (Contested, Patched, Contested),
        (Contested, NotEditable, Contested),
    ] {
        let entry = ObservedClaim {
            is_mount: false,
            ..of_mount(in_state(entry))
        };
        let claims = PoolClaims {
            observations: vec![entry, of_mount(in_state(mount))],
            to_record: BTreeSet::new(),
        };
        let (update, pools) = injected_condition(&claims, &[], &state());
        assert_eq!(
            (pools.len(), pools[0].state),
            (1, Some(expected)),
            "{mount:?}"
        );
        let Some(ConditionUpdate::True(_, message)) = update else {
            panic!("{update:?}")
        };
        assert!(
            message.contains("its files are mounted in those of pool-0"),
            "{message}"
        );
    }
}

#[test]
fn a_taken_path_fails_the_condition_and_names_the_pool_once() {
    let taken = Observation {
        phase: Phase::Skipped,
        reason: Reason::PoolMountTaken,
        ..observed(Phase::Skipped)
    };
    let with = |entry: Observation, mount: Observation| PoolClaims {
        observations: vec![
            ObservedClaim {
                is_mount: false,
                ..of_mount(entry)
            },
            of_mount(mount),
        ],
        to_record: BTreeSet::new(),
    };
    let (update, _) = injected_condition(&with(observed(Phase::Injected), taken), &[], &state());
    assert_eq!(
        update,
        Some(ConditionUpdate::False(
            Reason::PoolMountTaken,
            "observed".to_owned()
        ))
    );
    let progress = || observed(Phase::InProgress);
    let (update, _) = injected_condition(&with(progress(), progress()), &[], &state());
    assert_eq!(
        update,
        Some(pending(
            "the operator is changing the entry of work pools pool-0"
        ))
    );
}
