//! Mounts: their parts, the smallest edit, and what counts as the operator's.

use serde_json::{Value, json};

use super::*;
use crate::crd::MountSpec;

const POD: &str = "/job_configuration/job_manifest/spec/template/spec";

fn mount_at(secret: &str, path: &str, files: &[&str]) -> Entry {
    Entry {
        mount: Some(MountSpec {
            path: path.to_owned(),
            files: files.iter().map(|file| (*file).to_owned()).collect(),
        }),
        ..entry(secret)
    }
}

fn mount(secret: &str) -> Entry {
    mount_at(secret, &format!("/etc/{secret}"), &[])
}

/// The template with the wanted mounts, of which `ours` may be changed.
fn after(template: &str, wanted: &[Entry], ours: &[&str]) -> String {
    let keys = ours.iter().map(|secret| EntryKey::mount(*secret)).collect();
    match edit(&raw(template), wanted, &keys).unwrap() {
        Edit::Unchanged => template.to_owned(),
        Edit::Changed(text) => {
            assert_ne!(text.get(), template, "a change that changes nothing");
            text.get().to_owned()
        }
    }
}

/// A template with these members in the pod's spec and in its first container.
fn with_lists(pod: &str, container: &str) -> String {
    format!(
        r#"{{"job_configuration":{{"job_manifest":{{"spec":{{"template":{{"spec":{{ {pod}"containers":[{{{container}"name":"x"}}]}}}}}}}}}},"n":1.0}}"#
    )
}

fn lists(template: &str) -> (Value, Value) {
    let template: Value = serde_json::from_str(template).unwrap();
    let list = |path: &str| template.pointer(&format!("{POD}{path}")).cloned();
    (
        list("/volumes").unwrap_or_default(),
        list("/containers/0/volumeMounts").unwrap_or_default(),
    )
}

fn state(template: &str, secret: &str) -> EntryState {
    standing_mount(&raw(template), secret).unwrap().state
}

const EXACT: EntryState = EntryState::Exact { optional: true };

#[test]
fn adds_a_volume_and_its_mount_and_takes_both_out() {
    let with = after(DEFAULT, &[mount("s")], &["s"]);
    let (volumes, mounts) = lists(&with);
    assert_eq!(
        volumes,
        json!([{"name": "doppler-s-files", "secret": {"secretName": "s-files", "optional": true}}])
    );
    assert_eq!(
        mounts,
        json!([{"name": "doppler-s-files", "mountPath": "/etc/s", "readOnly": true}])
    );
    assert_eq!(state(&with, "s"), EXACT);
    assert_eq!(after(&with, &[mount("s")], &["s"]), with);
    assert_eq!(after(&with, &[], &["s"]), DEFAULT);
    // A mount that is not recorded stays.
    assert_eq!(after(&with, &[], &["other"]), with);
    // Another path, other files and another `optional` are one change in place.
    let moved = Entry {
        optional: false,
        ..mount_at("s", "/srv/x", &["a.yml"])
    };
    let with = after(&with, std::slice::from_ref(&moved), &["s"]);
    let (volumes, mounts) = lists(&with);
    let items = json!([{"key": "a.yml", "path": "a.yml"}]);
    let source = json!({"secretName": "s-files", "optional": false, "items": items});
    assert_eq!(volumes[0]["secret"], source);
    assert_eq!(
        (mounts.as_array().unwrap().len(), &mounts[0]["mountPath"]),
        (1, &json!("/srv/x"))
    );
    assert_eq!(after(&with, &[], &["s"]), DEFAULT);
}

#[test]
fn the_name_of_a_volume_is_a_label_and_of_one_secret() {
    let long = "a".repeat(253);
    let names = ["s", "a.b", "a-b", &long, &long[..252]].map(volume_name);
    for name in &names {
        assert!(name.len() <= 63 && !name.contains('.'), "{name}");
    }
    let distinct: BTreeSet<&String> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    // No Secret has the plain name that is the hash of another one.
    assert!(!names[1].ends_with("-files"));
}

#[test]
fn an_empty_list_is_empty_again_and_a_missing_one_is_missing() {
    for volumes in [
        "",
        r#""volumes":[],"#,
        r#""volumes":[{"name":"u","emptyDir":{}}],"#,
    ] {
        for mounts in [
            "",
            r#""volumeMounts":[],"#,
            r#""volumeMounts": [ {"name":"u"} ] ,"#,
        ] {
            let before = with_lists(volumes, mounts);
            let both = [mount("s"), mount("t")];
            let with = after(&before, &both, &["s", "t"]);
            assert_eq!((state(&with, "s"), state(&with, "t")), (EXACT, EXACT));
            assert_eq!(after(&with, &both, &["s", "t"]), with);
            // In either order, and by way of one after the other.
            let one = after(&with, &both[1..], &["s", "t"]);
            assert_eq!(after(&one, &[], &["t"]), before);
            assert_eq!(after(&with, &[], &["s", "t"]), before);
            let late = after(&after(&before, &both[..1], &["s"]), &both, &["s", "t"]);
            assert_eq!(
                after(&after(&late, &both[1..], &["s", "t"]), &[], &["t"]),
                before
            );
        }
    }
}

#[test]
fn a_part_that_another_client_removed_comes_back() {
    let with = after(DEFAULT, &[mount("s")], &["s"]);
    let without_volume = with.replace(
        r#""name":"doppler-s-files","secret""#,
        r#""name":"u","secret""#,
    );
    let mut template: Value = serde_json::from_str(&with).unwrap();
    let container = template
        .pointer_mut(&format!("{POD}/containers/0"))
        .unwrap();
    container.as_object_mut().unwrap().remove("volumeMounts");
    for broken in [without_volume, template.to_string()] {
        assert_eq!(state(&broken, "s"), EntryState::Incomplete, "{broken}");
        let repaired = after(&broken, &[mount("s")], &["s"]);
        assert_eq!(state(&repaired, "s"), EXACT, "{repaired}");
        // What is left of it goes.
        assert_eq!(state(&after(&broken, &[], &["s"]), "s"), EntryState::Absent);
    }
}

#[test]
fn a_volume_that_another_container_uses_stays() {
    let with = after(&with_container("{}"), &[mount("s")], &["s"]);
    let side = r#"{"name":"side","volumeMounts":[{"name":"doppler-s-files","mountPath":"/x"}]}"#;
    let used = with.replace(r#"{"name":"side"}"#, side);
    let removed = after(&used, &[], &["s"]);
    let (volumes, mounts) = lists(&removed);
    assert_eq!(
        (volumes[0]["name"].as_str(), mounts),
        (Some("doppler-s-files"), Value::Null)
    );
    // From now on it is the user's.
    assert_eq!(state(&removed, "s"), EntryState::Absent);
    assert_eq!(after(&removed, &[], &["s"]), removed);
}

#[test]
fn parts_of_another_shape_are_not_ours() {
    let volume = r#"{"name":"doppler-s-files","secret":{"secretName":"s-files","optional":true}}"#;
    let mounted =
        r#""volumeMounts":[{"name":"doppler-s-files","mountPath":"/etc/s","readOnly":true}],"#;
    for other in [
        volume.replace("s-files\",\"opt", "t-files\",\"opt"),
        volume.replace("true}", "true,\"defaultMode\":256}"),
        volume.replace("true}", "true,\"items\":[{\"key\":\"a\",\"path\":\"b\"}]}"),
        r#"{"name":"doppler-s-files","emptyDir":{}}"#.to_owned(),
    ] {
        let template = with_lists(&format!(r#""volumes":[{other}],"#), mounted);
        assert_eq!(state(&template, "s"), EntryState::Absent, "{other}");
        assert_eq!(after(&template, &[], &["s"]), template);
    }
    let ours = format!(r#""volumes":[{volume}],"#);
    for change in [
        (r#""readOnly":true"#, r#""readOnly":false"#),
        (r#""readOnly":true"#, r#""readOnly":true,"subPath":"a""#),
    ] {
        let template = with_lists(&ours, &mounted.replace(change.0, change.1));
        assert_eq!(state(&template, "s"), EntryState::Absent, "{change:?}");
        assert_eq!(after(&template, &[], &["s"]), template);
    }
    assert_eq!(state(&with_lists(&ours, mounted), "s"), EXACT);
}

#[test]
fn a_placeholder_takes_no_mount_and_blocks_no_removal() {
    for (pod, container, path) in [
        (r#""volumes":"{{ volumes }}","#, "", ".volumes"),
        (
            "",
            r#""volumeMounts":"{{ mounts }}","#,
            ".containers[0].volumeMounts",
        ),
    ] {
        let template = with_lists(pod, container);
        let error = edit(&raw(&template), &[mount("s")], &BTreeSet::new()).unwrap_err();
        let NotEditable::Placeholder(found, _) = &error else {
            panic!("{error:?}")
        };
        assert!(found.ends_with(path), "{found}");
        let advice = error.advice(&mount("s"));
        for part in ["doppler-s-files", "mountPath", ".default"] {
            assert!(advice.contains(part), "{advice}");
        }
        // The entry of the environment is not affected.
        let with = edited(&template, &[entry("s")], &["s"]);
        assert_eq!(sources(&with).len(), 1);
        assert_eq!(after(&with, &[], &["s"]), with);
    }
    for wrong in [r#""volumes":{},"#, r#""volumes":1,"#] {
        let template = with_lists(wrong, "");
        let error = edit(&raw(&template), &[mount("s")], &BTreeSet::new()).unwrap_err();
        assert!(matches!(error, NotEditable::WrongType(..)), "{error:?}");
    }
}

/// A list of a template, or none.
fn list(name: &'static str) -> impl Strategy<Value = String> {
    let elements = prop::sample::select(vec![
        r#"{"name":"u","emptyDir":{}}"#,
        r#"{"name":"u","mountPath":"/u"}"#,
        r#""{{ more }}""#,
        "null",
        "1.50",
    ]);
    let lists = prop::collection::vec(elements, 0..4)
        .prop_map(move |elements| format!("\"{name}\" : [ {} ],", elements.join(" ,\n")));
    prop_oneof![Just(String::new()), lists]
}

proptest! {
    #[test]
    fn mounting_and_removing_restores_the_text(
        pod in list("volumes"),
        container in list("volumeMounts"),
        names in prop::collection::btree_set("[a-t]{1,3}([.][a-t])?", 1..5),
        with_files in any::<bool>(),
    ) {
        // An empty list loses the spaces in it.
        let template = with_lists(&pod, &container).replace("[  ]", "[]");
        let files: &[&str] = if with_files { &["a", "b.yml"] } else { &[] };
        let entries: Vec<_> = names.iter().map(|name| mount_at(name, &format!("/m/{name}"), files)).collect();
        let ours: Vec<&str> = names.iter().map(String::as_str).collect();
        let with = after(&template, &entries, &ours);
        for name in &names {
            prop_assert_eq!(state(&with, name), EXACT);
        }
        prop_assert_eq!(&after(&with, &entries, &ours), &with);
        let fewer = after(&with, &entries[1..], &ours);
        prop_assert_eq!(&after(&fewer, &[], &ours), &template);
        prop_assert_eq!(after(&with, &[], &ours), template);
    }

    #[test]
    fn entry_and_mount_are_independent(pod in list("volumes"), container in list("volumeMounts")) {
        let template = with_lists(&pod, &container).replace("[  ]", "[]");
        let keys: BTreeSet<EntryKey> = [EntryKey::from("s"), EntryKey::mount("s")].into();
        let change = |text: &str, wanted: &[Entry]| match edit(&raw(text), wanted, &keys).unwrap() {
            Edit::Unchanged => text.to_owned(),
            Edit::Changed(text) => text.get().to_owned(),
        };
        let both = change(&template, &[entry("s"), mount("s")]);
        prop_assert_eq!(&after(&edited(&template, &[entry("s")], &["s"]), &[mount("s")], &["s"]), &both);
        prop_assert_eq!(change(&both, &[entry("s")]), edited(&template, &[entry("s")], &["s"]));
        prop_assert_eq!(change(&both, &[mount("s")]), after(&template, &[mount("s")], &["s"]));
        prop_assert_eq!(change(&both, &[]), template);
    }

    #[test]
    fn no_template_with_volumes_makes_it_panic(text in json(), volumes in json(), mounts in json()) {
        let lists = with_lists(&format!("\"volumes\":{volumes},"), &format!("\"volumeMounts\":{mounts},"));
        for template in [text, lists] {
            let keys = [EntryKey::mount("s"), EntryKey::mount("t")].into();
            let _ = edit(&raw(&template), &[mount("s")], &keys);
            let _ = standing_mount(&raw(&template), "s");
        }
    }
}
