//! Claims of `runs: Selected`: a variable of the pool offers the Secret.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;

use super::{State, claim, entry, owner, plan_one, template, view};
use crate::crd::InjectMode;
use crate::inject::claim::{Adoption, Claim, Observation, Phase, UsedName, Want};
use crate::inject::plan::{History, PoolView, plan};
use crate::inject::template::{EntryState, entry_state};
use crate::prefect::DeploymentOverrides;
use crate::reason::Reason;
use serde_json::value::RawValue;

const VARIABLE: &str = "doppler_config";

fn selected(secret: &str, want: Want) -> Claim {
    Claim {
        variable: Some(VARIABLE.to_owned()),
        ..claim(secret, want)
    }
}

/// The template after the claims were written.
fn written(template: &RawValue, claims: &[&Claim]) -> Box<RawValue> {
    let edited = plan(&view(template), claims, &History::default()).edit;
    edited.expect("a template to write")
}

fn names(template: &RawValue) -> Option<Vec<String>> {
    names_of(template, VARIABLE)
}

/// The list of a variable, in its order.
fn names_of(template: &RawValue, variable: &str) -> Option<Vec<String>> {
    let template: serde_json::Value = serde_json::from_str(template.get()).unwrap();
    let declared = template["variables"]["properties"].get(variable)?;
    serde_json::from_value(declared["enum"].clone()).ok()
}

fn with_property(text: &RawValue, property: &serde_json::Value) -> Box<RawValue> {
    let mut template: serde_json::Value = serde_json::from_str(text.get()).unwrap();
    template["variables"]["properties"][VARIABLE] = property.clone();
    RawValue::from_string(template.to_string()).unwrap()
}

/// Deployments by the value of the variable.
fn choosing(by_value: &[(&str, &[&str])]) -> DeploymentOverrides {
    let values = by_value.iter().map(|(value, names)| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        ((*value).to_owned(), names)
    });
    DeploymentOverrides {
        by_text: BTreeMap::from([(VARIABLE.to_owned(), values.collect())]),
        ..DeploymentOverrides::default()
    }
}

fn observe_with(
    template: &RawValue,
    deployments: Option<&DeploymentOverrides>,
    claim: &Claim,
) -> (Option<Box<RawValue>>, Observation) {
    let view = PoolView {
        deployments,
        ..view(template)
    };
    let mut plan = plan(&view, &[claim], &History::default());
    (plan.edit, plan.observations.remove(0))
}

#[test]
fn one_write_holds_variable_and_entry_of_all_bindings() {
    let none = template(json!([entry("theirs")]));
    let (a, b) = (selected("a", Want::Present), selected("b", Want::Present));
    let all = claim("c", Want::Present);
    let observed = plan_one(&view(&none), &selected("a", Want::Observe));
    assert_eq!((observed.0, observed.1.phase), (false, Phase::Injectable));
    let new = written(&none, &[&b, &a, &all]);
    assert_eq!(names(&new).unwrap(), ["none", "a", "b"]);
    let again = plan(&view(&new), &[&b, &a, &all], &History::default());
    assert!(again.edit.is_none());
    for observation in &again.observations {
        assert_eq!(observation.state, Some(State::Patched), "{observation:?}");
        assert!(
            observation
                .later_sources
                .iter()
                .all(|source| source == "Secret theirs")
        );
    }
    let gone = [
        selected("a", Want::Absent),
        selected("b", Want::Absent),
        claim("c", Want::Absent),
    ];
    let gone: Vec<&Claim> = gone.iter().collect();
    assert_eq!(written(&new, &gone).get(), none.get());
}

#[test]
fn never_touches_a_variable_of_the_user() {
    let none = template(json!(null));
    for property in [
        json!({"type": "string", "default": "x"}),
        json!({"type": "string", "enum": ["a", "b"], "default": "a"}),
        json!({"type": "object"}),
        json!(null),
    ] {
        let theirs = with_property(&none, &property);
        for want in [Want::Observe, Want::Present] {
            let unrecorded = Claim {
                recorded: false,
                ..selected("s", want)
            };
            let (edited, observation) = plan_one(&view(&theirs), &unrecorded);
            assert!(!edited, "{property}");
            assert_eq!(observation.reason, Reason::PoolVariableTaken, "{property}");
            assert_eq!(observation.state, Some(State::NotEditable));
            assert_eq!(observation.phase, Phase::Skipped);
        }
        // Created after the entry was recorded, and before it was written.
        let (edited, observation) = plan_one(&view(&theirs), &selected("s", Want::Present));
        assert!(!edited, "{property}");
        assert_eq!(observation.reason, Reason::PoolVariableTaken, "{property}");
    }
}

#[test]
fn the_bindings_of_a_pool_use_one_variable() {
    let none = template(json!(null));
    let other = |secret, want| Claim {
        variable: Some("aaa".to_owned()),
        ..selected(secret, want)
    };
    let reasons = |template: &RawValue, claims: &[&Claim], history: &History| -> Vec<Reason> {
        let plan = plan(&view(template), claims, history);
        plan.observations.iter().map(|one| one.reason).collect()
    };
    let first = selected("a", Want::Present);
    let new = written(&none, &[&first]);
    let second = other("b", Want::Observe);
    let nothing = History::default();
    let found = reasons(&new, &[&second, &first], &nothing);
    assert_eq!(found, [Reason::PoolVariableTaken, Reason::Injected]);
    let elsewhere = History {
        elsewhere: vec![first.clone()],
        ..History::default()
    };
    let found = reasons(&new, &[&second], &elsewhere);
    assert_eq!(found, [Reason::PoolVariableTaken]);
    // At the same time, the name decides.
    let both = [&selected("a", Want::Observe), &second];
    let found = reasons(&none, &both, &nothing);
    assert_eq!(found, [Reason::PoolVariableTaken, Reason::Pending]);
    let found = reasons(&none, &[both[1], both[0]], &nothing);
    assert_eq!(found, [Reason::Pending, Reason::PoolVariableTaken]);
    // A binding that never writes decides nothing.
    let observing = Claim {
        mode: InjectMode::Observe,
        ..second.clone()
    };
    let found = reasons(
        &none,
        &[&selected("a", Want::Observe), &observing],
        &nothing,
    );
    assert_eq!(found, [Reason::Pending, Reason::PoolEntryAbsent]);
    // A binding that the pool does not serve decides nothing.
    let stranger = Claim {
        namespace: "other".to_owned(),
        ..second.clone()
    };
    let found = reasons(&none, &[&selected("a", Want::Observe), &stranger], &nothing);
    assert_eq!(found, [Reason::Pending, Reason::PoolOtherNamespace]);
    // The variable that a binding gives up does not stop its next one.
    let next = [&selected("a", Want::Absent), &other("a", Want::Present)];
    let plan = plan(&view(&new), &next, &nothing);
    let after = plan.edit.unwrap();
    assert_eq!(names(&after), None);
    assert_eq!(names_of(&after, "aaa").unwrap(), ["none", "a"]);
}

#[test]
fn a_name_stays_while_deployments_choose_it() {
    let (a, b) = (selected("a", Want::Present), selected("b", Want::Present));
    let new = written(&template(json!(null)), &[&a, &b]);
    let (leaving, given_up) = (
        selected("a", Want::Absent),
        Claim {
            used_name: UsedName::Goes,
            ..selected("a", Want::Absent)
        },
    );
    let used = choosing(&[("a", &["nightly", "hourly"]), ("none", &["idle"])]);
    let (edited, observation) = observe_with(&new, Some(&used), &leaving);
    assert!(edited.is_none());
    assert_eq!(observation.phase, Phase::InProgress);
    assert_eq!(observation.reason, Reason::PoolConfigInUse);
    assert_eq!(observation.used_by, ["hourly", "nightly"]);
    for part in ["hourly, nightly", "doppler_config", "Secret a"] {
        assert!(
            observation.message.contains(part),
            "{}",
            observation.message
        );
    }
    // Also shown while the binding offers it.
    let (_, observation) = observe_with(&new, Some(&used), &a);
    assert_eq!(observation.used_by, ["hourly", "nightly"]);
    assert_eq!(observation.reason, Reason::Injected);

    let (edited, _) = observe_with(&new, Some(&used), &given_up);
    assert_eq!(names(&edited.unwrap()).unwrap(), ["none", "b"]);
    let unused = choosing(&[("b", &["nightly"]), ("none", &["idle"])]);
    let (edited, _) = observe_with(&new, Some(&unused), &leaving);
    assert_eq!(names(&edited.unwrap()).unwrap(), ["none", "b"]);
}

#[test]
fn a_name_stays_while_it_may_be_chosen() {
    let a = selected("a", Want::Present);
    let new = written(&template(json!(null)), &[&a]);
    let leaving = selected("a", Want::Absent);
    let none = DeploymentOverrides::default();
    let many = DeploymentOverrides {
        more_values: true,
        ..DeploymentOverrides::default()
    };
    let truncated = DeploymentOverrides {
        truncated_at: Some(5000),
        ..DeploymentOverrides::default()
    };
    for (deployments, says) in [
        (None, "View deployments"),
        (Some(&many), "only some of the many values"),
        (Some(&truncated), "only the first 5000"),
    ] {
        let (edited, observation) = observe_with(&new, deployments, &leaving);
        assert!(edited.is_none());
        assert_eq!(observation.reason, Reason::PoolConfigInUse);
        assert!(
            observation.message.contains(says),
            "{}",
            observation.message
        );
    }
    assert!(observe_with(&new, Some(&none), &leaving).0.is_some());
    let default = new
        .get()
        .replace("\"default\":\"none\"", "\"default\":\"a\"");
    let default = RawValue::from_string(default).unwrap();
    let (edited, observation) = observe_with(&default, Some(&none), &leaving);
    assert!(edited.is_none());
    assert!(observation.message.contains("set the default to none"));
    // Without the variable, such a template would refuse every deployment that sets it.
    let closed = new.get().replace(
        "\"variables\":{",
        "\"variables\":{\"additionalProperties\":false,",
    );
    let closed = RawValue::from_string(closed).unwrap();
    let idle = choosing(&[("none", &["idle"])]);
    let (edited, observation) = observe_with(&closed, Some(&idle), &leaving);
    assert!(edited.is_none());
    assert_eq!(observation.used_by, ["idle"]);
    assert!(observe_with(&new, Some(&idle), &leaving).0.is_some());
}

#[test]
fn a_name_that_another_binding_offers_stays() {
    let a = selected("a", Want::Present);
    let new = written(&template(json!(null)), &[&a]);
    let history = History {
        elsewhere: vec![a],
        ..History::default()
    };
    let leaving = selected("a", Want::Absent);
    let plan = plan(&view(&new), &[&leaving], &history);
    assert!(plan.edit.is_none());
    assert_eq!(plan.observations[0].phase, Phase::Removed);
}

#[test]
fn mode_observe_and_owned_pools_show_both_changes() {
    let none = template(json!(null));
    let observe = |want| Claim {
        mode: InjectMode::Observe,
        recorded: false,
        ..selected("s", want)
    };
    let both = [
        "/variables/properties/doppler_config",
        "{{ doppler_config }}",
    ];
    let (edited, observation) = plan_one(&view(&none), &observe(Want::Observe));
    assert_eq!((edited, observation.state), (false, Some(State::Absent)));
    let object = owner();
    let owned = PoolView {
        owner: Some(&object),
        ..view(&none)
    };
    let (edited, managed) = plan_one(&owned, &selected("s", Want::Present));
    assert_eq!((edited, managed.state), (false, Some(State::Managed)));
    for part in both {
        assert!(
            observation.message.contains(part),
            "{}",
            observation.message
        );
        assert!(managed.message.contains(part), "{}", managed.message);
    }
    let with = written(&none, &[&selected("s", Want::Present)]);
    let (edited, observation) = plan_one(&view(&with), &observe(Want::Observe));
    assert_eq!(
        (edited, observation.state),
        (false, Some(State::AlreadyPresent))
    );
    // Another owner adds a further name to its list.
    let other = Claim {
        secret: "t".to_owned(),
        ..observe(Want::Observe)
    };
    let (_, observation) = plan_one(&view(&with), &other);
    assert_eq!(observation.state, Some(State::Absent));
    assert!(
        observation.message.contains("/enum/-"),
        "{}",
        observation.message
    );
}

#[test]
fn no_run_can_choose_a_secret_called_none() {
    let none = template(json!(null));
    let (edited, observation) = plan_one(&view(&none), &selected("none", Want::Present));
    assert!(!edited);
    assert_eq!(observation.state, Some(State::NotEditable));
    assert!(observation.message.contains("spec.managedSecret.name"));
}

/// An older version keeps the record of an entry without its variable.
#[test]
fn adopts_its_own_variable_after_an_older_version() {
    let s = selected("s", Want::Present);
    let new = written(&template(json!(null)), &[&s]);
    let unrecorded = selected("s", Want::Observe);
    let (_, observation) = plan_one(&view(&new), &unrecorded);
    assert_eq!(observation.state, Some(State::AlreadyPresent), "a user's");
    let adopting = Claim {
        adoption: Adoption::OfOurShape,
        ..unrecorded
    };
    let (edited, observation) = plan_one(&view(&new), &adopting);
    assert_eq!((edited, observation.phase), (false, Phase::Injectable));
    // The name is gone from the list: the description still says whose variable it is.
    let fewer = RawValue::from_string(new.get().replace(",\"s\"]", "]")).unwrap();
    assert_ne!(fewer.get(), new.get());
    let (_, observation) = plan_one(&view(&fewer), &adopting);
    assert_eq!(observation.reason, Reason::Pending);
    let (_, observation) = plan_one(&view(&fewer), &selected("s", Want::Observe));
    assert_eq!(observation.reason, Reason::PoolVariableTaken);
    let theirs = with_property(&template(json!(null)), &json!({"type": "string"}));
    let (_, observation) = plan_one(&view(&theirs), &adopting);
    assert_eq!(observation.reason, Reason::PoolVariableTaken);
}

#[test]
fn only_deployments_that_choose_a_secret_need_it() {
    let s = selected("s", Want::Present);
    let new = written(&template(json!(null)), &[&s]);
    let elsewhere = |value: &str| {
        let variables = json!({"namespace": "team", VARIABLE: value});
        super::deployments(&[("nightly", variables)])
    };
    let (_, observation) = observe_with(&new, Some(&elsewhere("none")), &s);
    assert!(observation.unserved_namespaces.is_empty());
    assert_eq!(observation.unchecked_deployments, None);
    let (_, observation) = observe_with(&new, Some(&elsewhere("s")), &s);
    assert_eq!(observation.unserved_namespaces, ["team"]);
}

#[test]
fn reports_deployments_that_choose_what_the_list_does_not_have() {
    let s = selected("s", Want::Present);
    let new = written(&template(json!(null)), &[&s]);
    let found = choosing(&[("s", &["good"]), ("none", &["idle"]), ("root", &["odd"])]);
    let (_, observation) = observe_with(&new, Some(&found), &s);
    let text = observation.unchecked_deployments.unwrap();
    let expected = "deployments odd of work pool k8s set doppler_config to a value";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn restores_what_another_client_took_out() {
    let s = selected("s", Want::Present);
    let new = written(&template(json!(null)), &[&s]);
    let without_name = new.get().replace(",\"s\"]", "]");
    let free_text = new.get().replace("\"enum\":[\"none\",\"s\"],", "");
    let without_entry = new.get().replace("{{ doppler_config }}", "other");
    for text in [without_name, free_text, without_entry] {
        assert_ne!(text, new.get());
        let changed = RawValue::from_string(text).unwrap();
        let mended = written(&changed, &[&s]);
        let state = entry_state(&mended, s.key()).unwrap();
        assert_eq!(state, EntryState::Exact { optional: true });
    }
}

#[test]
fn an_entry_of_the_variable_in_another_shape_counts() {
    let s = selected("s", Want::Present);
    let new = written(&template(json!(null)), &[&s]);
    let text = new
        .get()
        .replace("{{ doppler_config }}", "{{doppler_config}}");
    assert_ne!(text, new.get());
    let theirs = RawValue::from_string(text).unwrap();
    let (edited, observation) = plan_one(&view(&theirs), &selected("s", Want::Observe));
    assert_eq!(
        (edited, observation.state),
        (false, Some(State::AlreadyPresent))
    );
}

/// What a run chooses wins by intention over what all runs get.
#[test]
fn only_sources_of_the_user_are_reported_as_later() {
    let s = selected("s", Want::Present);
    let all = Claim {
        keys: Arc::new(["KEY".to_owned()].into()),
        ..claim("c", Want::Present)
    };
    let new = written(&template(json!([entry("theirs")])), &[&s, &all]);
    let (_, observation) = plan_one(&view(&new), &all);
    assert_eq!(observation.later_sources, ["Secret theirs"]);
}
