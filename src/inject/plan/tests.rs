#![allow(clippy::needless_pass_by_value)] // json!(…) is passed by value

mod selected;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::crd::WorkPoolState as State;
use crate::inject::claim::{Adoption, Phase, UsedName};
use crate::inject::pool_owner::ManagedPool;
use crate::inject::template::entry_state;
use crate::prefect::{DeploymentGroup, DeploymentOverrides};
use crate::reason::Reason;

mod mounts;
mod placeholders;

const NAMESPACE: &str = "flows";

fn template(sources: serde_json::Value) -> Box<RawValue> {
    let mut container = json!({"name": "prefect-job", "env": "{{ env }}"});
    if !sources.is_null() {
        container["envFrom"] = sources;
    }
    let template = json!({
        "job_configuration": {
            "namespace": "{{ namespace }}",
            "cluster_config": "{{ cluster_config }}",
            "job_manifest": {"spec": {"template": {"spec": {"containers": [container]}}}},
        },
        "variables": {"properties": {
            "namespace": {"default": NAMESPACE},
            "cluster_config": {"default": null},
            "env": {"default": {"SHADOWED": "1"}},
        }},
    });
    RawValue::from_string(template.to_string()).unwrap()
}

fn entry(secret: &str) -> serde_json::Value {
    json!({"secretRef": {"name": secret, "optional": true}})
}

fn claim(secret: &str, want: Want) -> Claim {
    Claim {
        namespace: NAMESPACE.to_owned(),
        binding: secret.to_owned(),
        secret: secret.to_owned(),
        variable: None,
        mount: None,
        optional: true,
        same_cluster: false,
        mode: InjectMode::Patch,
        keys: Arc::default(),
        want,
        recorded: want != Want::Observe,
        adoption: Adoption::None,
        used_name: UsedName::Stays,
        interval: Duration::from_mins(1),
    }
}

fn view(template: &RawValue) -> PoolView<'_> {
    static NONE: DeploymentOverrides = DeploymentOverrides {
        groups: Vec::new(),
        more_groups: false,
        by_text: BTreeMap::new(),
        more_values: false,
        truncated_at: None,
    };
    PoolView {
        pool: "k8s",
        pool_type: "kubernetes",
        template,
        deployments: Some(&NONE),
        owner: None,
    }
}

fn plan_one(view: &PoolView<'_>, claim: &Claim) -> (bool, Observation) {
    let mut plan = plan(view, &[claim], &History::default());
    (plan.edit.is_some(), plan.observations.remove(0))
}

fn deployments(of: &[(&str, serde_json::Value)]) -> DeploymentOverrides {
    let group = |(name, variables): &(&str, serde_json::Value)| DeploymentGroup {
        variables: (!variables.is_null()).then(|| variables.to_string().into_boxed_str()),
        names: vec![(*name).to_owned()],
    };
    DeploymentOverrides {
        groups: of.iter().map(group).collect(),
        ..DeploymentOverrides::default()
    }
}

fn owner() -> ManagedPool {
    ManagedPool {
        namespace: "prefect".to_owned(),
        name: "object".to_owned(),
        pool: "k8s".to_owned(),
        api_url: "http://x/api".parse().unwrap(),
    }
}

#[test]
fn plans_each_want_for_each_template() {
    let observe = |want| Claim {
        mode: InjectMode::Observe,
        ..claim("s", want)
    };
    let theirs = Claim {
        recorded: false,
        ..claim("s", Want::Absent)
    };
    let unrecorded = Claim {
        recorded: false,
        ..claim("s", Want::Present)
    };
    let none = template(json!(null));
    let ours = template(json!([entry("s")]));
    let other = template(json!([{"secretRef": {"name": "s"}}]));
    let cases = [
        (
            &none,
            claim("s", Want::Observe),
            false,
            Phase::Injectable,
            None,
        ),
        (&none, unrecorded, false, Phase::Injectable, None),
        (
            &none,
            claim("s", Want::Present),
            true,
            Phase::InProgress,
            None,
        ),
        (&none, claim("s", Want::Absent), false, Phase::Removed, None),
        (
            &none,
            observe(Want::Present),
            false,
            Phase::Skipped,
            Some(State::Absent),
        ),
        (
            &ours,
            claim("s", Want::Observe),
            false,
            Phase::Injected,
            Some(State::AlreadyPresent),
        ),
        (
            &ours,
            claim("s", Want::Present),
            false,
            Phase::Injected,
            Some(State::Patched),
        ),
        (
            &ours,
            claim("s", Want::Absent),
            true,
            Phase::InProgress,
            None,
        ),
        (&ours, theirs, false, Phase::Removed, None),
        (
            &ours,
            observe(Want::Present),
            false,
            Phase::Injected,
            Some(State::AlreadyPresent),
        ),
        (
            &other,
            claim("s", Want::Present),
            false,
            Phase::Injected,
            Some(State::AlreadyPresent),
        ),
        (
            &other,
            claim("s", Want::Absent),
            false,
            Phase::Removed,
            None,
        ),
    ];
    for (template, claim, edits, phase, state) in cases {
        let (edited, observation) = plan_one(&view(template), &claim);
        assert_eq!(
            (edited, observation.phase, observation.state),
            (edits, phase, state),
            "{claim:?} {template}"
        );
    }
}

#[test]
fn a_given_up_entry_goes_in_every_mode_but_not_from_a_pool_of_others() {
    let ours = template(json!([entry("s")]));
    let given_up = Claim {
        mode: InjectMode::Observe,
        ..claim("s", Want::Absent)
    };
    assert!(plan_one(&view(&ours), &given_up).0);
    let owner = owner();
    let others = [
        PoolView {
            pool_type: "docker",
            ..view(&ours)
        },
        PoolView {
            owner: Some(&owner),
            ..view(&ours)
        },
    ];
    for view in others {
        assert!(!plan_one(&view, &given_up).0, "{}", view.pool_type);
    }
}

#[test]
fn a_plan_lists_the_entries_that_the_template_has() {
    let template = template(json!([entry("a"), {"secretRef": {"name": "b"}}]));
    let claims = ["a", "b", "c"].map(|secret| claim(secret, Want::Observe));
    let claims: Vec<&Claim> = claims.iter().collect();
    let present = plan(&view(&template), &claims, &History::default()).present;
    let expected: BTreeSet<EntryKey> = claims[..2].iter().map(|claim| claim.key()).collect();
    assert_eq!(present, expected);
}

#[test]
fn deployments_elsewhere_are_listed_by_namespace() {
    let template = template(json!(null));
    let overrides = deployments(&[
        ("here", json!({"namespace": NAMESPACE})),
        ("there", json!({"namespace": "afar"})),
        ("there-too", json!({"namespace": "afar"})),
        ("plain", json!({})),
    ]);
    let view = PoolView {
        deployments: Some(&overrides),
        ..view(&template)
    };
    let found = unserved_deployments(&view, &claim("s", Want::Present));
    let names = vec!["there".to_owned(), "there-too".to_owned()];
    assert_eq!(found, BTreeMap::from([("afar".to_owned(), names)]));
}

#[test]
fn skips_an_unsuitable_pool_and_names_the_remedy() {
    let plain = template(json!(null));
    let text = plain.get();
    let raw = |text: String| RawValue::from_string(text).unwrap();
    let elsewhere_ns = raw(text.replace("\"default\":\"flows\"", "\"default\":\"jobs\""));
    let cluster = raw(text.replace("{{ cluster_config }}", "{{ prefect.blocks.k.x }}"));
    let empty = raw("{}".to_owned());
    let cases = [
        (
            &elsewhere_ns,
            State::OtherNamespace,
            Reason::PoolOtherNamespace,
            "namespace jobs",
        ),
        (
            &cluster,
            State::OtherCluster,
            Reason::PoolOtherCluster,
            "sameCluster: true",
        ),
        (&empty, State::NotEditable, Reason::PoolNotEditable, "empty"),
    ];
    for (template, state, reason, says) in cases {
        let (edited, observation) = plan_one(&view(template), &claim("s", Want::Present));
        assert!(!edited);
        assert_eq!(
            (observation.phase, observation.state, observation.reason),
            (Phase::Skipped, Some(state), reason)
        );
        assert!(
            observation.message.contains(says),
            "{}",
            observation.message
        );
    }
    let process = PoolView {
        pool_type: "process",
        ..view(&plain)
    };
    let (edited, observation) = plan_one(&process, &claim("s", Want::Present));
    assert_eq!(
        (edited, observation.state),
        (false, Some(State::NotEditable))
    );
}

#[test]
fn never_writes_an_owned_pool_and_shows_the_patch() {
    let object = owner();
    let (none, with) = (template(json!(null)), template(json!([entry("s")])));
    let owned = |template| PoolView {
        owner: Some(&object),
        ..view(template)
    };
    let (edited, observation) = plan_one(&owned(&none), &claim("s", Want::Present));
    assert_eq!((edited, observation.state), (false, Some(State::Managed)));
    assert!(
        observation.message.contains("prefect/object") && observation.message.contains("envFrom")
    );
    let (edited, observation) = plan_one(&owned(&with), &claim("s", Want::Present));
    assert_eq!(
        (edited, observation.state),
        (false, Some(State::AlreadyPresent))
    );
    let (edited, observation) = plan_one(&owned(&with), &claim("s", Want::Absent));
    assert_eq!((edited, observation.phase), (false, Phase::Removed));
}

#[test]
fn optional_false_skips_pools_with_deployments_elsewhere() {
    let none = template(json!(null));
    let deployments = deployments(&[("nightly", json!({"namespace": "team"}))]);
    let split = PoolView {
        deployments: Some(&deployments),
        ..view(&none)
    };
    let (edited, observation) = plan_one(&split, &claim("s", Want::Present));
    assert!(edited, "an optional entry has no effect there");
    assert_eq!(observation.unserved_namespaces, ["team"]);
    assert_eq!(observation.unchecked_deployments, None);
    let strict = Claim {
        optional: false,
        ..claim("s", Want::Present)
    };
    let (edited, observation) = plan_one(&split, &strict);
    assert_eq!(
        (edited, observation.state),
        (false, Some(State::OtherNamespace))
    );
    assert!(
        observation.message.contains("nightly"),
        "{}",
        observation.message
    );
    let unlisted = PoolView {
        deployments: None,
        ..view(&none)
    };
    let (edited, observation) = plan_one(&unlisted, &strict);
    assert_eq!((edited, observation.state), (false, Some(State::Forbidden)));
    assert!(
        observation.message.contains("View deployments")
            && observation.message.contains("set optional: true"),
        "{}",
        observation.message
    );
}

#[test]
fn reports_deployments_that_were_not_listed() {
    let none = template(json!(null));
    let strict = Claim {
        optional: false,
        ..claim("s", Want::Present)
    };
    let many = DeploymentOverrides {
        truncated_at: Some(5_000),
        ..DeploymentOverrides::default()
    };
    let many = PoolView {
        deployments: Some(&many),
        ..view(&none)
    };
    let (edited, observation) = plan_one(&many, &claim("s", Want::Present));
    assert!(edited);
    let unchecked = observation.unchecked_deployments.unwrap();
    assert!(unchecked.contains("only the first 5000"), "{unchecked}");
    let (edited, observation) = plan_one(&many, &strict);
    assert_eq!(
        (edited, observation.state),
        (false, Some(State::OtherNamespace)),
        "one of the others might never start"
    );
    assert!(
        observation.message.contains("first 5000"),
        "{}",
        observation.message
    );
    let different = DeploymentOverrides {
        more_groups: true,
        ..DeploymentOverrides::default()
    };
    let different = PoolView {
        deployments: Some(&different),
        ..view(&none)
    };
    let (edited, observation) = plan_one(&different, &strict);
    assert_eq!(
        (edited, observation.state),
        (false, Some(State::OtherNamespace))
    );
    assert!(
        observation.message.contains("only some of the many"),
        "{}",
        observation.message
    );
    let unlisted = PoolView {
        deployments: None,
        ..view(&none)
    };
    let (edited, observation) = plan_one(&unlisted, &claim("s", Want::Present));
    assert!(edited);
    let unchecked = observation.unchecked_deployments.unwrap();
    assert!(unchecked.contains("View deployments"), "{unchecked}");
}

#[test]
fn removes_our_entry_when_jobs_move_to_another_namespace() {
    let with = template(json!([entry("s"), entry("theirs")]));
    let moved = RawValue::from_string(
        with.get()
            .replace("\"default\":\"flows\"", "\"default\":\"jobs\""),
    )
    .unwrap();
    let one = claim("s", Want::Present);
    let plan = plan(&view(&moved), &[&one], &History::default());
    let after = plan.edit.unwrap();
    assert_eq!(entry_state(&after, "s"), Ok(EntryState::Absent));
    assert_ne!(entry_state(&after, "theirs"), Ok(EntryState::Absent));
}

#[test]
fn a_thousand_claims_need_one_edit() {
    let claims: Vec<_> = (0..1000)
        .map(|n| claim(&format!("s{n}"), Want::Present))
        .collect();
    let claims: Vec<&Claim> = claims.iter().collect();
    let none = template(json!(null));
    let first = plan(&view(&none), &claims, &History::default());
    let after = first.edit.unwrap();
    let second = plan(&view(&after), &claims, &History::default());
    assert!(second.edit.is_none());
    assert!(
        second
            .observations
            .iter()
            .all(|observation| observation.state == Some(State::Patched))
    );
}

#[test]
fn moves_nothing_when_only_some_claims_are_known() {
    let with = template(json!([entry("a"), entry("b"), entry("c")]));
    for secret in ["a", "b", "c"] {
        assert!(
            !plan_one(&view(&with), &claim(secret, Want::Present)).0,
            "{secret}"
        );
    }
}

#[test]
fn reports_keys_that_other_sources_override() {
    let keys = |names: &[&str]| Arc::new(names.iter().map(|name| (*name).to_owned()).collect());
    let one = Claim {
        keys: keys(&["SHADOWED", "BOTH", "MINE"]),
        ..claim("a", Want::Present)
    };
    let two = Claim {
        keys: keys(&["BOTH"]),
        ..claim("b", Want::Present)
    };
    let with = template(json!([entry("a"), entry("b"), {"configMapRef": {"name": "c"}}]));
    let plan = plan(&view(&with), &[&one, &two], &History::default());
    assert_eq!(plan.observations[0].shadowed_keys, ["BOTH", "SHADOWED"]);
    assert_eq!(plan.observations[0].later_sources, ["ConfigMap c"]);
    assert!(plan.observations[1].shadowed_keys.is_empty());
}

#[test]
fn reports_contested_with_and_without_the_entry() {
    let history = History {
        contested: true,
        ..History::default()
    };
    for sources in [json!(null), json!([entry("s")])] {
        let template = template(sources);
        let one = claim("s", Want::Present);
        let plan = plan(&view(&template), &[&one], &history);
        assert_eq!(plan.observations[0].state, Some(State::Contested));
    }
}

#[test]
fn an_entry_of_the_user_is_not_contested() {
    let history = History {
        contested: true,
        ..History::default()
    };
    let theirs = template(json!([{"secretRef": {"name": "s"}}]));
    let one = claim("s", Want::Present);
    let plan = plan(&view(&theirs), &[&one], &history);
    assert_eq!(plan.observations[0].state, Some(State::AlreadyPresent));
}
