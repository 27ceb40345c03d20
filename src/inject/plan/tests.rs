#![allow(clippy::needless_pass_by_value)] // json!(…) is handed over as it is made

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::inject::template::entry_state;

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
        secret: secret.to_owned(),
        optional: true,
        mode: InjectMode::Patch,
        keys: Arc::default(),
        want,
        noted: want != Want::Look,
        known: None,
        interval: Duration::from_mins(1),
    }
}

fn view(template: &RawValue) -> View<'_> {
    static NONE: Elsewhere = Elsewhere {
        namespaces: BTreeMap::new(),
        only_first: None,
    };
    View {
        pool: "k8s",
        pool_type: "kubernetes",
        template,
        elsewhere: Some(&NONE),
        owner: None,
    }
}

fn alone(view: &View<'_>, claim: &Claim) -> (bool, Finding) {
    let mut plan = plan(view, &[claim], &History::default());
    (plan.edit.is_some(), plan.findings.remove(0))
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
fn each_want_meets_each_template_as_the_table_says() {
    let observe = |want| Claim {
        mode: InjectMode::Observe,
        ..claim("s", want)
    };
    let theirs = Claim {
        known: Some(State::AlreadyPresent),
        ..claim("s", Want::Absent)
    };
    let unnoted = Claim {
        noted: false,
        ..claim("s", Want::Present)
    };
    let none = template(json!(null));
    let ours = template(json!([entry("s")]));
    let other = template(json!([{"secretRef": {"name": "s"}}]));
    let cases = [
        (&none, claim("s", Want::Look), false, Phase::Wanted, None),
        (&none, unnoted, false, Phase::Wanted, None),
        (
            &none,
            claim("s", Want::Present),
            true,
            Phase::Underway,
            None,
        ),
        (&none, claim("s", Want::Absent), false, Phase::Out, None),
        (
            &none,
            observe(Want::Present),
            false,
            Phase::LeftAlone,
            Some(State::Absent),
        ),
        (
            &ours,
            claim("s", Want::Look),
            false,
            Phase::Held,
            Some(State::AlreadyPresent),
        ),
        (
            &ours,
            claim("s", Want::Present),
            false,
            Phase::Held,
            Some(State::Patched),
        ),
        (&ours, claim("s", Want::Absent), true, Phase::Underway, None),
        (&ours, theirs, false, Phase::Out, None),
        (
            &ours,
            observe(Want::Present),
            false,
            Phase::Held,
            Some(State::AlreadyPresent),
        ),
        (
            &other,
            claim("s", Want::Present),
            false,
            Phase::Held,
            Some(State::AlreadyPresent),
        ),
        (&other, claim("s", Want::Absent), false, Phase::Out, None),
    ];
    for (template, claim, edits, phase, state) in cases {
        let (edited, finding) = alone(&view(template), &claim);
        assert_eq!(
            (edited, finding.phase, finding.state),
            (edits, phase, state),
            "{claim:?} {template}"
        );
    }
}

#[test]
fn a_pool_that_must_not_be_edited_is_left_alone_and_says_what_to_do() {
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
            "another cluster",
        ),
        (&empty, State::NotEditable, Reason::PoolNotEditable, "empty"),
    ];
    for (template, state, reason, says) in cases {
        let (edited, finding) = alone(&view(template), &claim("s", Want::Present));
        assert!(!edited);
        assert_eq!(
            (finding.phase, finding.state, finding.reason),
            (Phase::LeftAlone, Some(state), reason)
        );
        assert!(finding.message.contains(says), "{}", finding.message);
    }
    let process = View {
        pool_type: "process",
        ..view(&plain)
    };
    let (edited, finding) = alone(&process, &claim("s", Want::Present));
    assert_eq!((edited, finding.state), (false, Some(State::NotEditable)));
}

#[test]
fn an_owned_pool_is_never_written_and_its_owner_is_given_the_patch() {
    let keeper = owner();
    let (none, with) = (template(json!(null)), template(json!([entry("s")])));
    let owned = |template| View {
        owner: Some(&keeper),
        ..view(template)
    };
    let (edited, finding) = alone(&owned(&none), &claim("s", Want::Present));
    assert_eq!((edited, finding.state), (false, Some(State::Managed)));
    assert!(finding.message.contains("prefect/object") && finding.message.contains("envFrom"));
    let (edited, finding) = alone(&owned(&with), &claim("s", Want::Present));
    assert_eq!(
        (edited, finding.state),
        (false, Some(State::AlreadyPresent))
    );
    let (edited, finding) = alone(&owned(&with), &claim("s", Want::Absent));
    assert_eq!((edited, finding.phase), (false, Phase::Out));
}

#[test]
fn with_optional_false_deployments_elsewhere_keep_the_pool_from_being_edited() {
    let none = template(json!(null));
    let elsewhere = Elsewhere {
        namespaces: BTreeMap::from([("team".to_owned(), vec!["nightly".to_owned()])]),
        only_first: None,
    };
    let split = View {
        elsewhere: Some(&elsewhere),
        ..view(&none)
    };
    let (edited, finding) = alone(&split, &claim("s", Want::Present));
    assert!(edited, "optional entries do no harm there");
    assert_eq!(finding.unserved_namespaces, ["team"]);
    assert_eq!(finding.overlooked, None);
    let strict = Claim {
        optional: false,
        ..claim("s", Want::Present)
    };
    let (edited, finding) = alone(&split, &strict);
    assert_eq!(
        (edited, finding.state),
        (false, Some(State::OtherNamespace))
    );
    assert!(finding.message.contains("nightly"), "{}", finding.message);
    let unlisted = View {
        elsewhere: None,
        ..view(&none)
    };
    let (edited, finding) = alone(&unlisted, &strict);
    assert_eq!((edited, finding.state), (false, Some(State::Forbidden)));
    assert!(
        finding.message.contains("View deployments")
            && finding.message.contains("set optional: true"),
        "{}",
        finding.message
    );
}

#[test]
fn deployments_that_were_not_looked_at_are_told() {
    let none = template(json!(null));
    let strict = Claim {
        optional: false,
        ..claim("s", Want::Present)
    };
    let many = Elsewhere {
        namespaces: BTreeMap::new(),
        only_first: Some(5_000),
    };
    let many = View {
        elsewhere: Some(&many),
        ..view(&none)
    };
    let (edited, finding) = alone(&many, &claim("s", Want::Present));
    assert!(edited);
    let overlooked = finding.overlooked.unwrap();
    assert!(overlooked.contains("only the first 5000"), "{overlooked}");
    let (edited, finding) = alone(&many, &strict);
    assert_eq!(
        (edited, finding.state),
        (false, Some(State::OtherNamespace)),
        "one of the others might never start"
    );
    assert!(
        finding.message.contains("first 5000"),
        "{}",
        finding.message
    );
    let unlisted = View {
        elsewhere: None,
        ..view(&none)
    };
    let (edited, finding) = alone(&unlisted, &claim("s", Want::Present));
    assert!(edited);
    let overlooked = finding.overlooked.unwrap();
    assert!(overlooked.contains("View deployments"), "{overlooked}");
}

#[test]
fn our_entry_is_taken_out_of_a_pool_whose_jobs_moved_away() {
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
fn a_secret_that_two_bindings_claim_stays_while_one_wants_it() {
    let with = template(json!([entry("s")]));
    for keeper in [Want::Present, Want::Look] {
        let (goes, stays) = (claim("s", Want::Absent), claim("s", keeper));
        let plan = plan(&view(&with), &[&goes, &stays], &History::default());
        assert!(plan.edit.is_none(), "{keeper:?}");
    }
}

#[test]
fn a_thousand_claims_are_one_edit_and_then_none() {
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
            .findings
            .iter()
            .all(|finding| finding.state == Some(State::Patched))
    );
}

#[test]
fn a_restart_that_knows_only_some_claims_moves_nothing() {
    let with = template(json!([entry("a"), entry("b"), entry("c")]));
    for secret in ["a", "b", "c"] {
        assert!(
            !alone(&view(&with), &claim(secret, Want::Present)).0,
            "{secret}"
        );
    }
}

#[test]
fn keys_that_others_override_are_named() {
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
    assert_eq!(plan.findings[0].shadowed_keys, ["BOTH", "SHADOWED"]);
    assert_eq!(plan.findings[0].later_sources, ["ConfigMap c"]);
    assert!(plan.findings[1].shadowed_keys.is_empty());
}

#[test]
fn a_contested_pool_says_so_whether_the_entry_is_in_or_out() {
    let history = History {
        contested: true,
        ..History::default()
    };
    for sources in [json!(null), json!([entry("s")])] {
        let template = template(sources);
        let one = claim("s", Want::Present);
        let plan = plan(&view(&template), &[&one], &history);
        assert_eq!(plan.findings[0].state, Some(State::Contested));
    }
}
