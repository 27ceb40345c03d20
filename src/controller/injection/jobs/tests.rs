use std::collections::BTreeMap;

use super::*;

fn selector(value: &str) -> JobSelector {
    JobSelector {
        match_labels: BTreeMap::from([
            ("prefect.io/deployment-name".to_owned(), value.to_owned()),
            ("team".to_owned(), "a".to_owned()),
        ]),
        optional: None,
        mount: None,
    }
}

fn condition(availability: Availability, secret: Option<&str>, was_true: bool) -> ConditionUpdate {
    jobs_condition(availability, &Ok(()), secret, &[selector("x")], was_true)
}

#[test]
fn an_installed_policy_and_a_secret_are_injected() {
    let injected = condition(Availability::Installed, Some("etl"), false);
    let text = "the admission policy adds Secret etl to new Jobs with the labels prefect.io/deployment-name=x,team=a";
    assert_eq!(
        injected,
        ConditionUpdate::True(Reason::Injected, text.to_owned())
    );
}

#[test]
fn a_missing_policy_is_reported_with_its_correction() {
    for availability in [Availability::NotServed, Availability::NotInstalled] {
        let found = condition(availability, Some("etl"), true);
        let ConditionUpdate::False(Reason::AdmissionUnavailable, text) = found else {
            panic!("{found:?}")
        };
        assert!(text.contains(availability.correction().unwrap()), "{text}");
    }
    let forbidden = condition(Availability::Forbidden, Some("etl"), true);
    assert!(matches!(
        forbidden,
        ConditionUpdate::Unknown(Reason::AdmissionUnavailable, _)
    ));
}

#[test]
fn an_api_server_that_does_not_answer_takes_nothing_back() {
    let unknown = |was_true| condition(Availability::Unknown, Some("etl"), was_true);
    assert_eq!(unknown(true), ConditionUpdate::Unchanged);
    assert!(matches!(
        unknown(false),
        ConditionUpdate::Unknown(Reason::Pending, _)
    ));
}

#[test]
fn without_label_or_secret_nothing_is_injected() {
    let failure = Failure::new(Reason::KubernetesError, "no permission");
    let jobs = [selector("x")];
    let failed = jobs_condition(
        Availability::Installed,
        &Err(failure),
        Some("etl"),
        &jobs,
        true,
    );
    assert_eq!(
        failed,
        ConditionUpdate::False(Reason::KubernetesError, "no permission".to_owned())
    );
    let pending = condition(Availability::Installed, None, true);
    assert!(matches!(
        pending,
        ConditionUpdate::Unknown(Reason::Pending, _)
    ));
}

#[test]
fn a_message_shows_few_selectors() {
    let jobs: Vec<JobSelector> = (0..7).map(|n| selector(&n.to_string())).collect();
    let text = selectors(&jobs);
    assert!(text.starts_with("prefect.io/deployment-name=0,team=a or "));
    assert!(text.ends_with("=4,team=a or 2 more selectors"), "{text}");
}

#[test]
fn the_first_condition_that_is_not_true_counts() {
    use ConditionUpdate::{False, True, Unchanged, Unknown};
    let is = |text: &str| Some(True(Reason::Injected, text.to_owned()));
    let not = |text: &str| Some(False(Reason::PoolMissing, text.to_owned()));
    let unknown = || Some(Unknown(Reason::Pending, String::new()));
    assert_eq!(join(None, None), None);
    assert_eq!(join(is("a"), None), is("a"));
    assert_eq!(join(None, not("b")), not("b"));
    assert_eq!(join(is("a"), is("b")), is("a; b"));
    assert_eq!(join(not("a"), not("b")), not("a"));
    assert_eq!(join(unknown(), not("b")), not("b"));
    assert_eq!(join(is("a"), unknown()), unknown());
    assert_eq!(join(Some(Unchanged), is("b")), Some(Unchanged));
    assert_eq!(join(is("a"), Some(Unchanged)), Some(Unchanged));
}

#[test]
fn a_mount_is_part_of_the_message() {
    let mut mounting = selector("x");
    mounting.mount = Some(crate::crd::MountSpec {
        path: "/srv/x".to_owned(),
        files: Vec::new(),
    });
    let injected = jobs_condition(
        Availability::Installed,
        &Ok(()),
        Some("etl"),
        &[selector("y"), mounting],
        false,
    );
    let ConditionUpdate::True(_, message) = injected else {
        panic!("{injected:?}")
    };
    assert!(
        message.ends_with(", and mounts its files in those with a mount"),
        "{message}"
    );
}
