use super::*;

const INTERVAL: Duration = Duration::from_mins(1);

fn results() -> Results {
    Results {
        current: vec!["Deployment a".to_owned()],
        ..Results::default()
    }
}

fn reason_of(results: &Results) -> (Option<bool>, Option<Reason>, String) {
    match results.condition("s") {
        ConditionUpdate::True(reason, message) => (Some(true), Some(reason), message),
        ConditionUpdate::False(reason, message) => (Some(false), Some(reason), message),
        ConditionUpdate::Unknown(..) | ConditionUpdate::Unchanged => (None, None, String::new()),
    }
}

#[test]
fn current_workloads_need_no_further_look() {
    let (is_true, reason, message) = reason_of(&results());
    assert_eq!(
        (is_true, reason),
        (Some(true), Some(Reason::WorkloadRestarted))
    );
    assert!(message.contains("1 workload") && message.contains("Deployment a"));
    assert_eq!(results().wait(INTERVAL), None);
    let (is_true, _, message) = reason_of(&Results::default());
    assert!(is_true == Some(true) && message.contains("no workload"));
}

#[test]
fn each_failure_has_its_reason_and_is_tried_again() {
    for (error, reason, wait) in [
        (
            RestartError::Missing,
            Some(Reason::RestartTargetMissing),
            INTERVAL,
        ),
        (
            RestartError::Forbidden { verb: "get" },
            Some(Reason::RestartForbidden),
            INTERVAL,
        ),
        (
            RestartError::Rejected("no".to_owned()),
            Some(Reason::RestartRejected),
            INTERVAL,
        ),
        (RestartError::Conflict, None, CONFLICT_WAIT),
        (RestartError::Unreachable, None, OUTAGE_WAIT),
    ] {
        let mut results = results();
        results.fail("Deployment b".to_owned(), error);
        let (_, found, message) = reason_of(&results);
        assert_eq!(found, reason);
        assert!(
            reason.is_none() || message.contains("Deployment b"),
            "{message}"
        );
        assert_eq!(results.wait(INTERVAL), Some(wait));
    }
    let mut results = results();
    results.unused.push("Deployment c".to_owned());
    let (is_true, reason, message) = reason_of(&results);
    assert_eq!(
        (is_true, reason),
        (Some(false), Some(Reason::RestartTargetUnrelated))
    );
    assert!(message.contains("Deployment c"));
    assert_eq!(results.wait(INTERVAL), Some(INTERVAL));
}

#[test]
fn the_next_restart_decides_when_to_look_again() {
    let mut results = results();
    let soon = Timestamp::now() + Duration::from_secs(30);
    results.waiting = vec![
        ("Deployment late".to_owned(), soon + Duration::from_mins(10)),
        ("Deployment soon".to_owned(), soon),
    ];
    let (is_true, reason, message) = reason_of(&results);
    assert_eq!(
        (is_true, reason),
        (Some(false), Some(Reason::RestartPending))
    );
    assert!(message.contains("Deployment soon restarts at") && message.contains("1 more"));
    let wait = results.wait(INTERVAL).unwrap();
    assert!(
        wait > Duration::from_secs(29) && wait <= Duration::from_secs(31),
        "{wait:?}"
    );
}
