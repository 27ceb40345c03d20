//! Several bindings that name one Secret, over the same connection or over another one.

use serde_json::json;

use super::{State, claim, entry, template, view};
use crate::crd::InjectMode;
use crate::inject::claim::{Claim, Phase, Want};
use crate::inject::plan::{History, plan};

#[test]
fn keeps_a_secret_while_one_of_two_bindings_wants_it() {
    let with = template(json!([entry("s")]));
    let observes = Claim {
        mode: InjectMode::Observe,
        ..claim("s", Want::Observe)
    };
    for kept in [claim("s", Want::Present), observes] {
        let removed = claim("s", Want::Absent);
        let over_the_same = plan(&view(&with), &[&removed, &kept], &History::default());
        let history = History {
            elsewhere: vec![kept],
            ..History::default()
        };
        let over_another = plan(&view(&with), &[&removed], &history);
        for plan in [over_the_same, over_another] {
            assert!(plan.edit.is_none());
            assert_eq!(plan.observations[0].phase, Phase::Removed);
        }
    }
}

/// An author of another namespace, or of a binding that never gets the Secret, cannot stop the
/// removal of an entry.
#[test]
fn a_claim_that_is_not_served_keeps_no_entry() {
    let with = template(json!([entry("s")]));
    let elsewhere = |want, mode| Claim {
        namespace: "other".to_owned(),
        mode,
        ..claim("s", want)
    };
    for kept in [
        claim("s", Want::Observe),
        elsewhere(Want::Present, InjectMode::Patch),
        elsewhere(Want::Present, InjectMode::Observe),
    ] {
        let removed = claim("s", Want::Absent);
        let over_the_same = plan(&view(&with), &[&removed, &kept], &History::default());
        let history = History {
            elsewhere: vec![kept],
            ..History::default()
        };
        let over_another = plan(&view(&with), &[&removed], &history);
        for plan in [over_the_same, over_another] {
            assert!(plan.edit.is_some());
            assert_eq!(plan.observations[0].phase, Phase::InProgress);
        }
    }
}

/// A second binding with the same Secret name becomes an owner of the entry, so that the deletion of
/// the first leaves no entry without an owner.
#[test]
fn a_second_binding_records_an_entry_of_the_operator() {
    let with = template(json!([entry("s")]));
    let (first, second) = (claim("s", Want::Present), claim("s", Want::Observe));
    let both = plan(&view(&with), &[&first, &second], &History::default());
    assert_eq!(both.observations[1].phase, Phase::Injectable);
    let history = History {
        elsewhere: vec![first],
        ..History::default()
    };
    let over_another = plan(&view(&with), &[&second], &history);
    assert_eq!(over_another.observations[0].phase, Phase::Injectable);
    // An entry that no binding recorded is a user's.
    let alone = plan(&view(&with), &[&second], &History::default());
    assert_eq!(alone.observations[0].state, Some(State::AlreadyPresent));
}

/// A binding in mode `Observe` never becomes an owner of an entry.
#[test]
fn a_second_binding_that_observes_records_nothing() {
    let with = template(json!([entry("s")]));
    let first = claim("s", Want::Present);
    let second = Claim {
        mode: InjectMode::Observe,
        ..claim("s", Want::Observe)
    };
    let both = plan(&view(&with), &[&first, &second], &History::default());
    assert_eq!(both.observations[1].phase, Phase::Injected);
    assert_eq!(both.observations[1].state, Some(State::AlreadyPresent));
}
