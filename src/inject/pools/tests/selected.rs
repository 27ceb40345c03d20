//! Claims of `runs: Selected`, on a server that also lists deployments.

use serde_json::json;

use super::fixture::{Fixture, TEMPLATE, claim, eventually, frequent};
use crate::inject::claim::{Claim, Phase, UsedName, Want};
use crate::reason::Reason;

fn selected(secret: &str, want: Want) -> Claim {
    frequent(Claim {
        variable: Some("doppler_config".to_owned()),
        ..claim(secret, want)
    })
}

#[tokio::test]
async fn one_patch_adds_variable_and_entry_and_one_removes_both() {
    let fixture = Fixture::new().await;
    let (a, b) = (selected("a", Want::Present), selected("b", Want::Present));
    fixture.declare("a", a.clone());
    fixture.declare("b", b.clone());
    fixture.wait_for_phase(&a, Phase::Injected).await;
    let observation = fixture.wait_for_phase(&b, Phase::Injected).await;
    assert!(matches!(observation.event, Some((_, Reason::PoolPatched))));
    assert_eq!(fixture.pool.count("PATCH"), 1);
    assert!(fixture.pool.text().contains(r#"["none","a","b"]"#));
    let (a, b) = (selected("a", Want::Absent), selected("b", Want::Absent));
    fixture.declare("a", a.clone());
    fixture.declare("b", b.clone());
    fixture.wait_for_phase(&a, Phase::Removed).await;
    let observation = fixture.wait_for_phase(&b, Phase::Removed).await;
    assert!(matches!(observation.event, Some((_, Reason::PoolReleased))));
    assert_eq!(fixture.pool.count("PATCH"), 2);
    assert_eq!(fixture.pool.text(), TEMPLATE);
}

#[tokio::test]
async fn a_used_name_leaves_once_no_deployment_chooses_it() {
    let fixture = Fixture::new().await;
    let present = selected("a", Want::Present);
    fixture.wait_for_phase(&present, Phase::Injected).await;
    let choosing = |value| json!([{"name": "nightly", "job_variables": {"doppler_config": value}}]);
    *fixture.pool.deployments.lock() = choosing("a");
    fixture
        .wait_until(&present, |seen| seen.used_by == ["nightly"])
        .await;
    let absent = selected("a", Want::Absent);
    let held = |seen: &crate::inject::claim::Observation| seen.reason == Reason::PoolConfigInUse;
    let seen = fixture.wait_until(&absent, held).await;
    assert_eq!(seen.phase, Phase::InProgress);
    assert_eq!(seen.used_by, ["nightly"]);
    assert_eq!(fixture.pool.count("PATCH"), 1);
    // Without a notification: the waiting pool lists the deployments at each poll.
    *fixture.pool.deployments.lock() = choosing("none");
    fixture.wait_for_phase(&absent, Phase::Removed).await;
    assert_eq!(fixture.pool.text(), TEMPLATE);
}

#[tokio::test]
async fn a_used_name_leaves_when_it_is_given_up() {
    let fixture = Fixture::new().await;
    *fixture.pool.deployments.lock() =
        json!([{"name": "nightly", "job_variables": {"doppler_config": "a"}}]);
    let present = selected("a", Want::Present);
    fixture.wait_for_phase(&present, Phase::Injected).await;
    let absent = selected("a", Want::Absent);
    let held = |seen: &crate::inject::claim::Observation| seen.reason == Reason::PoolConfigInUse;
    fixture.wait_until(&absent, held).await;
    let given_up = Claim {
        used_name: UsedName::Goes,
        ..absent
    };
    fixture.wait_for_phase(&given_up, Phase::Removed).await;
    assert_eq!(fixture.pool.text(), TEMPLATE);
}

#[tokio::test]
async fn one_secret_changes_from_all_runs_to_chosen_ones() {
    let fixture = Fixture::new().await;
    let all = frequent(claim("s", Want::Present));
    fixture.wait_for_phase(&all, Phase::Injected).await;
    // Both claims of one binding on one pool.
    let chosen = selected("s", Want::Present);
    fixture.declare("s", chosen.clone());
    fixture.wait_for_phase(&chosen, Phase::Injected).await;
    assert!(fixture.pool.has_entry("s"), "until the new one is there");
    let gone = frequent(claim("s", Want::Absent));
    fixture.wait_for_phase(&gone, Phase::Removed).await;
    assert!(!fixture.pool.has_entry("s"));
    assert!(fixture.pool.text().contains(r#"["none","s"]"#));
}

#[tokio::test]
async fn bindings_come_and_go_while_others_edit_the_template() {
    let fixture = Fixture::new().await;
    for round in 0..5 {
        let edited = TEMPLATE.replace("1.50", &format!("{round}.25"));
        let (a, b) = (selected("a", Want::Present), selected("b", Want::Present));
        fixture.wait_for_phase(&a, Phase::Injected).await;
        fixture.wait_for_phase(&b, Phase::Injected).await;
        let before = fixture.pool.text();
        let cpu = before.find("\"cpu\"").unwrap();
        let end = cpu + before[cpu..].find('}').unwrap();
        let theirs = format!("\"cpu\": {{\"default\": {round}.25");
        fixture
            .pool
            .set(&format!("{}{theirs}{}", &before[..cpu], &before[end..]));
        for secret in ["b", "a"] {
            let gone = selected(secret, Want::Absent);
            fixture.wait_for_phase(&gone, Phase::Removed).await;
        }
        eventually("the user's template", || fixture.pool.text() == edited).await;
    }
}
