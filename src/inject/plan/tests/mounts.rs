//! Mounts: which claim has a path, and what a taken one means.

use proptest::prelude::*;

use super::*;
use crate::crd::MountSpec;
use crate::inject::template::{EntryState, standing_mount};

fn mount_at(secret: &str, path: &str, want: Want) -> Claim {
    Claim {
        mount: Some(MountSpec {
            path: path.to_owned(),
            files: Vec::new(),
        }),
        ..claim(secret, want)
    }
}

fn mount(secret: &str, want: Want) -> Claim {
    mount_at(secret, "/etc/doppler", want)
}

/// A template with these lists.
fn with_lists(volumes: serde_json::Value, mounts: serde_json::Value) -> Box<RawValue> {
    let mut template: serde_json::Value =
        serde_json::from_str(template(json!(null)).get()).unwrap();
    let pod = &mut template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"];
    if !volumes.is_null() {
        pod["volumes"] = volumes;
    }
    if !mounts.is_null() {
        pod["containers"][0]["volumeMounts"] = mounts;
    }
    template["variables"]["properties"]["volumes"] = json!({"default": [
        {"name": "theirs", "secret": {"secretName": "s-files"}},
    ]});
    template["variables"]["properties"]["path"] = json!({"default": "/etc/doppler/"});
    RawValue::from_string(template.to_string()).unwrap()
}

/// The template after these claims were served.
fn with_mounts(template: &RawValue, claims: &[&Claim]) -> Box<RawValue> {
    let edited = plan(&view(template), claims, &History::default()).edit;
    edited.expect("an edit")
}

fn state(template: &RawValue, secret: &str) -> EntryState {
    standing_mount(template, secret).unwrap().state
}

fn reasons(template: &RawValue, claims: &[&Claim]) -> (bool, Vec<Reason>) {
    let plan = plan(&view(template), claims, &History::default());
    let reasons = plan.observations.iter().map(|of| of.reason).collect();
    (plan.edit.is_some(), reasons)
}

const EXACT: EntryState = EntryState::Exact { optional: true };

#[test]
fn a_mount_goes_through_the_phases_of_an_entry() {
    let none = template(json!(null));
    let present = mount("s", Want::Present);
    let entry = claim("s", Want::Present);
    let (edits, injectable) = plan_one(&view(&none), &mount("s", Want::Observe));
    assert_eq!((edits, injectable.phase), (false, Phase::Injectable));
    let (edits, progress) = plan_one(&view(&none), &present);
    assert_eq!((edits, progress.phase), (true, Phase::InProgress));
    // One edit writes both.
    let both = with_mounts(&none, &[&entry, &present]);
    assert_eq!(state(&both, "s"), EXACT);
    let plan = plan(&view(&both), &[&entry, &present], &History::default());
    assert!(plan.edit.is_none());
    let states: Vec<_> = plan.observations.iter().map(|of| of.state).collect();
    assert_eq!(states, [Some(State::Patched), Some(State::Patched)]);
    assert_eq!(
        plan.observations[1].message,
        "work pool k8s has the mount of Secret s-files"
    );
    assert_eq!(plan.required.len(), 2);
    // Only the mount goes.
    let absent = mount("s", Want::Absent);
    let (edits, going) = plan_one(&view(&both), &absent);
    assert_eq!((edits, going.phase), (true, Phase::InProgress));
    let without = with_mounts(&both, &[&entry, &absent]);
    assert_eq!(without.get(), with_mounts(&none, &[&entry]).get());
    let (edits, gone) = plan_one(&view(&without), &absent);
    assert_eq!((edits, gone.phase), (false, Phase::Removed));
}

#[test]
fn a_change_of_path_is_one_edit() {
    let none = template(json!(null));
    let old = with_mounts(&none, &[&mount("s", Want::Present)]);
    let moved = mount_at("s", "/srv/doppler", Want::Present);
    let new = with_mounts(&old, &[&moved]);
    assert_eq!(new.get(), with_mounts(&none, &[&moved]).get());
}

#[test]
fn a_path_that_the_template_has_is_taken() {
    let user = json!([{"name": "u", "emptyDir": {}}]);
    for mounts in [
        json!([{"name": "u", "mountPath": "/etc/doppler"}]),
        json!([{"name": "u", "mountPath": "/etc/doppler/"}]),
        json!([{"name": "u", "mountPath": "{{ path }}"}]),
    ] {
        let template = with_lists(user.clone(), mounts.clone());
        for want in [Want::Observe, Want::Present] {
            let (edits, taken) = plan_one(&view(&template), &mount("s", want));
            assert_eq!(
                (edits, taken.phase, taken.reason, taken.state),
                (
                    false,
                    Phase::Skipped,
                    Reason::PoolMountTaken,
                    Some(State::NotEditable)
                ),
                "{mounts}"
            );
            assert!(
                taken.message.contains("its volume u at /etc/doppler"),
                "{}",
                taken.message
            );
        }
        // The entry is not affected.
        let both = [&claim("s", Want::Present), &mount("s", Want::Present)];
        let (edits, reasons) = reasons(&template, &both);
        assert_eq!((edits, reasons[1]), (true, Reason::PoolMountTaken));
    }
    let beside = with_lists(user, json!([{"name": "u", "mountPath": "/etc"}]));
    assert!(plan_one(&view(&beside), &mount("s", Want::Present)).0);
}

#[test]
fn a_volume_of_the_operators_name_is_taken() {
    let template = with_lists(
        json!([{"name": "doppler-s-files", "emptyDir": {}}]),
        json!(null),
    );
    let (edits, taken) = plan_one(&view(&template), &mount("s", Want::Present));
    assert_eq!((edits, taken.reason), (false, Reason::PoolMountTaken));
    assert!(
        taken.message.contains("a volume doppler-s-files"),
        "{}",
        taken.message
    );
}

#[test]
fn of_two_bindings_the_recorded_one_has_the_path() {
    let none = template(json!(null));
    let (a, b) = (mount("a", Want::Observe), mount("b", Want::Observe));
    // Neither may ever own its Secret, so that none keeps the path from the other one.
    let (_, of_both) = reasons(&none, &[&b, &a]);
    assert_eq!(of_both, [Reason::Pending, Reason::Pending]);
    let b = mount("b", Want::Present);
    let (_, of_both) = reasons(&none, &[&b, &a]);
    assert_eq!(of_both, [Reason::Pending, Reason::PoolMountTaken]);
    // Of two recorded ones, the first by name.
    let both = [&b, &mount("a", Want::Present)];
    let with_a = with_mounts(&none, &both);
    assert_eq!(
        (state(&with_a, "a"), state(&with_a, "b")),
        (EXACT, EntryState::Absent)
    );
    // The one that stands there, whatever is recorded, also over another connection.
    let a = mount("a", Want::Present);
    let with_b = with_mounts(&none, &[&b]);
    assert_eq!(
        reasons(&with_b, &[&a, &b]),
        (false, vec![Reason::PoolMountTaken, Reason::Injected])
    );
    let history = History {
        elsewhere: vec![b.clone()],
        ..History::default()
    };
    let over = plan(&view(&with_b), &[&a], &history);
    assert_eq!(over.observations[0].reason, Reason::PoolMountTaken);
    // One whose binding has not declared its claim yet.
    assert_eq!(
        reasons(&with_b, &[&a]),
        (false, vec![Reason::PoolMountTaken])
    );
    // It leaves, and the other one takes its place, with one edit.
    let leaves = mount("b", Want::Absent);
    let with_a = with_mounts(&with_b, &[&a, &leaves]);
    assert_eq!(
        (state(&with_a, "a"), state(&with_a, "b")),
        (EXACT, EntryState::Absent)
    );
}

#[test]
fn a_mount_whose_new_path_is_taken_stays_at_its_old_one() {
    let none = template(json!(null));
    let (a, b) = (
        mount("a", Want::Present),
        mount_at("b", "/srv/b", Want::Present),
    );
    let both = with_mounts(&none, &[&a, &b]);
    let moved = mount("b", Want::Present);
    assert_eq!(
        reasons(&both, &[&a, &moved]),
        (false, vec![Reason::Injected, Reason::PoolMountTaken])
    );
    // Its old path is not free either.
    let late = mount_at("c", "/srv/b", Want::Present);
    let (edits, of_all) = reasons(&both, &[&a, &moved, &late]);
    assert_eq!((edits, of_all[2]), (false, Reason::PoolMountTaken));
    // It goes with its binding.
    let absent = mount("b", Want::Absent);
    let without = with_mounts(&both, &[&a, &absent]);
    assert_eq!(without.get(), with_mounts(&none, &[&a]).get());
}

#[test]
fn a_renamed_secret_replaces_its_mount_with_one_edit() {
    let named = |secret: &str, want| Claim {
        binding: "etl".to_owned(),
        ..mount(secret, want)
    };
    let none = template(json!(null));
    let old = named("old", Want::Present);
    let with_old = with_mounts(&none, &[&old]);
    let (edits, of_both) = reasons(&with_old, &[&old, &named("new", Want::Observe)]);
    assert_eq!(
        (edits, of_both),
        (false, vec![Reason::Injected, Reason::Pending])
    );
    let new = named("new", Want::Present);
    let waiting = plan(&view(&with_old), &[&old, &new], &History::default());
    assert!(waiting.edit.is_none());
    assert_eq!(waiting.observations[1].phase, Phase::InProgress);
    let with_new = with_mounts(&with_old, &[&named("old", Want::Absent), &new]);
    assert_eq!(with_new.get(), with_mounts(&none, &[&new]).get());
}

#[test]
fn a_mount_by_another_writer_is_accepted() {
    let mounted = json!([{"name": "theirs", "mountPath": "/etc/doppler"}]);
    let by_hand = json!([{"name": "theirs", "secret": {"secretName": "s-files"}}]);
    for volumes in [by_hand, json!("{{ volumes }}")] {
        let template = with_lists(volumes.clone(), mounted.clone());
        for want in [Want::Observe, Want::Present] {
            let (edits, seen) = plan_one(&view(&template), &mount("s", want));
            assert_eq!(
                (edits, seen.state),
                (false, Some(State::AlreadyPresent)),
                "{volumes}"
            );
        }
        let (edits, gone) = plan_one(&view(&template), &mount("s", Want::Absent));
        assert_eq!((edits, gone.phase), (false, Phase::Removed), "{volumes}");
    }
    // A part of the volume is not the files of the binding.
    let part = json!([{"name": "theirs", "mountPath": "/etc/doppler", "subPath": "a"}]);
    let template = with_lists(json!("{{ volumes }}"), part);
    let (_, refused) = plan_one(&view(&template), &mount("s", Want::Present));
    assert_eq!(refused.reason, Reason::PoolNotEditable);
}

#[test]
fn a_mount_that_an_older_version_left_is_recorded_again() {
    let with = with_mounts(&template(json!(null)), &[&mount("s", Want::Present)]);
    let unrecorded = mount("s", Want::Observe);
    let (_, theirs) = plan_one(&view(&with), &unrecorded);
    assert_eq!(
        (theirs.phase, theirs.state),
        (Phase::Injected, Some(State::AlreadyPresent))
    );
    let adopted = Claim {
        adoption: Adoption::OfOurShape,
        ..unrecorded
    };
    let (edits, ours) = plan_one(&view(&with), &adopted);
    assert_eq!((edits, ours.phase), (false, Phase::Injectable));
}

#[test]
fn observe_and_owned_pools_get_a_patch_to_add() {
    let none = template(json!(null));
    let observed = Claim {
        mode: InjectMode::Observe,
        ..mount("s", Want::Observe)
    };
    let (edits, absent) = plan_one(&view(&none), &observed);
    assert_eq!((edits, absent.reason), (false, Reason::PoolEntryAbsent));
    let object = owner();
    let owned = PoolView {
        owner: Some(&object),
        ..view(&none)
    };
    let (edits, managed) = plan_one(&owned, &mount("s", Want::Present));
    assert_eq!((edits, managed.reason), (false, Reason::PoolManaged));
    for message in [absent.message, managed.message] {
        for part in [
            "spec/volumes",
            "containers/0/volumeMounts",
            "doppler-s-files",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn a_placeholder_for_the_volumes_takes_no_mount() {
    let template = with_lists(json!("{{ unset }}"), json!(null));
    let (edits, refused) = plan_one(&view(&template), &mount("s", Want::Present));
    assert_eq!((edits, refused.reason), (false, Reason::PoolNotEditable));
    assert!(
        refused.message.contains("cannot take the mount")
            && refused
                .message
                .contains("`variables.properties.unset.default`"),
        "{}",
        refused.message
    );
    assert!(plan_one(&view(&template), &claim("s", Want::Present)).0);
}

#[test]
fn a_mount_that_lost_a_part_is_not_in_place() {
    let with = with_mounts(&template(json!(null)), &[&mount("s", Want::Present)]);
    let broken = with
        .get()
        .replace("\"mountPath\":\"/etc/doppler\",\"name\"", "\"x\"");
    let broken = RawValue::from_string(broken).unwrap();
    let plan = plan(
        &view(&broken),
        &[&mount("s", Want::Present)],
        &History::default(),
    );
    assert!(plan.edit.is_some() && plan.present.is_empty());
    assert_eq!(plan.observations[0].phase, Phase::InProgress);
    let (edits, going) = plan_one(&view(&broken), &mount("s", Want::Absent));
    assert_eq!((edits, going.phase), (true, Phase::InProgress));
}

/// What the first container mounts: volume and path.
fn mounted(template: &RawValue) -> Vec<(String, String)> {
    let template: serde_json::Value = serde_json::from_str(template.get()).unwrap();
    let container = "/job_configuration/job_manifest/spec/template/spec/containers/0";
    let mounts = template.pointer(&format!("{container}/volumeMounts"));
    let mounts = mounts.and_then(serde_json::Value::as_array);
    let text = |mount: &serde_json::Value, key: &str| mount[key].as_str().unwrap().to_owned();
    let mounts = mounts.into_iter().flatten();
    mounts
        .map(|mount| (text(mount, "name"), text(mount, "mountPath")))
        .collect()
}

proptest! {
    /// Whatever bindings want one after the other, the pool never has two mounts at one path, comes to
    /// rest, and is as before once all are gone.
    #[test]
    fn no_sequence_of_claims_doubles_a_path(
        steps in prop::collection::vec(prop::collection::vec((0..3_usize, any::<bool>()), 4), 1..6),
        user in any::<bool>(),
    ) {
        let theirs = json!([{"name": "u", "mountPath": "/m/0"}]);
        let before = if user {
            with_lists(json!([{"name": "u", "emptyDir": {}}]), theirs)
        } else {
            with_lists(json!([]), json!(null))
        };
        let mut template = before.clone();
        let gone = vec![(0, false); 4];
        for step in steps.iter().chain([&gone]) {
            let claims = step.iter().zip(["a", "b", "c", "d"]);
            let claims: Vec<Claim> = claims.map(|((path, wants), secret)| {
                let want = if *wants { Want::Present } else { Want::Absent };
                mount_at(secret, &format!("/m/{path}"), want)
            }).collect();
            let claims: Vec<&Claim> = claims.iter().collect();
            let mut edits = 0;
            while let Some(edited) = plan(&view(&template), &claims, &History::default()).edit {
                template = edited;
                edits += 1;
                prop_assert!(edits <= claims.len(), "{template}");
                let mounted = mounted(&template);
                let paths: BTreeSet<&String> = mounted.iter().map(|(_, path)| path).collect();
                let volumes: BTreeSet<&String> = mounted.iter().map(|(volume, _)| volume).collect();
                prop_assert_eq!((paths.len(), volumes.len()), (mounted.len(), mounted.len()), "{}", template);
            }
        }
        prop_assert_eq!(template.get(), before.get());
    }
}
