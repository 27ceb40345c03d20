use super::*;

const GRACE_PERIOD: Duration = Duration::from_mins(5);

fn failure(reason: Reason) -> Failure {
    Failure {
        reason,
        message: "down".to_owned(),
        retry_after: None,
    }
}

fn unreachable() -> Failure {
    failure(Reason::DopplerUnreachable)
}

fn last_good() -> LastGood {
    LastGood {
        configs: [ConfigValues {
            project: "p".to_owned(),
            config: "c".to_owned(),
            item: None,
            snapshot: Arc::new(Snapshot::new(std::collections::BTreeMap::default(), None)),
        }]
        .into(),
        source: 0,
    }
}

fn resolution() -> Resolution {
    Resolution::new(GRACE_PERIOD)
}

fn resolved() -> Resolution {
    Resolution {
        resolved_from: Some("block".to_owned()),
        last_good: Some(last_good()),
        ..resolution()
    }
}

#[test]
fn transient_failure_counts_after_the_grace_period() {
    let mut early = resolved();
    early.record_failure(Stage::Config, unreachable(), Duration::from_mins(1));
    assert_eq!(early.upstream_condition(true, true), None);
    assert_eq!(
        early.requeue.wait(),
        Some(Duration::from_mins(4)),
        "it reconciles again at the end of the grace period"
    );
    let mut late = resolved();
    late.record_failure(Stage::Config, unreachable(), GRACE_PERIOD);
    let Some(ConditionUpdate::False(reason, message)) = late.upstream_condition(true, true) else {
        panic!("not False")
    };
    assert_eq!(reason, Reason::DopplerUnreachable);
    assert!(message.contains("keeps its last good values"), "{message}");
    assert!(matches!(
        late.block_condition(true),
        ConditionUpdate::True(..)
    ));
}

#[test]
fn refused_token_counts_at_once() {
    let mut resolution = Resolution {
        last_good: Some(last_good()),
        ..resolution()
    };
    let refused = failure(Reason::DopplerUnauthorized);
    resolution.record_failure(Stage::Config, refused, Duration::ZERO);
    assert!(matches!(
        resolution.upstream_condition(true, true),
        Some(ConditionUpdate::False(Reason::DopplerUnauthorized, _))
    ));
}

#[test]
fn restart_with_refused_token_leaves_the_message_unchanged() {
    let refused = || failure(Reason::DopplerUnauthorized);
    let mut before = resolved();
    before.record_failure(Stage::Config, refused(), Duration::ZERO);
    // The condition is False since the first refusal, and a restart loses the values.
    let mut after = Resolution {
        last_good: None,
        ..resolved()
    };
    after.record_failure(Stage::Config, refused(), Duration::ZERO);
    assert_eq!(
        after.upstream_condition(false, true),
        before.upstream_condition(false, true)
    );
    let Some(ConditionUpdate::False(_, message)) = after.upstream_condition(false, false) else {
        panic!("not False")
    };
    assert_eq!(message, "down", "there is no Secret that could keep values");
}

#[test]
fn restart_while_doppler_is_down_keeps_the_conditions() {
    let mut resolution = Resolution {
        resolved_from: Some("block".to_owned()),
        ..resolution()
    };
    resolution.record_failure(Stage::Config, unreachable(), Duration::ZERO);
    assert_eq!(
        resolution.upstream_condition(true, true),
        Some(ConditionUpdate::Unchanged)
    );
    assert!(
        matches!(
            resolution.upstream_condition(false, false),
            Some(ConditionUpdate::False(..))
        ),
        "a new binding reports the failure at once"
    );
}

#[test]
fn block_failure_is_not_reported_as_a_doppler_failure() {
    let mut resolution = resolution();
    let missing = failure(Reason::BlockMissing);
    resolution.record_failure(Stage::Block, missing, Duration::ZERO);
    resolution.record_failure(Stage::Config, unreachable(), GRACE_PERIOD);
    assert!(matches!(
        resolution.block_condition(true),
        ConditionUpdate::False(Reason::BlockMissing, _)
    ));
    assert!(matches!(
        resolution.upstream_condition(true, true),
        Some(ConditionUpdate::False(Reason::BlockMissing, _))
    ));
}
