use proptest::prelude::*;

use super::*;

mod choices;
mod mounts;

/// The default template of prefect-kubernetes, as a server sends it.
const DEFAULT: &str = r#"{"job_configuration": {"env": "{{ env }}", "namespace": "{{ namespace }}", "job_manifest": {"apiVersion": "batch/v1", "spec": {"backoffLimit": "{{ backoff_limit }}", "template": {"spec": {"completions": 1, "containers": [{"args": "{{ command }}", "env": "{{ env }}", "name": "prefect-job"}], "restartPolicy": "Never"}}}}}, "variables": {"properties": {"n": {"default": 1.0, "x": [1e5, 12345678901234567890, -0.0, "\u00e9\/"]}}}}"#;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn entry(secret: &str) -> Entry {
    Entry {
        secret: secret.to_owned(),
        optional: true,
        ..Entry::default()
    }
}

fn set(names: &[&str]) -> BTreeSet<EntryKey> {
    names.iter().map(|name| EntryKey::from(*name)).collect()
}

fn edited(template: &str, entries: &[Entry], ours: &[&str]) -> String {
    match edit(&raw(template), entries, &set(ours)).unwrap() {
        Edit::Unchanged => template.to_owned(),
        Edit::Changed(text) => {
            assert_ne!(text.get(), template, "a change that changes nothing");
            text.get().to_owned()
        }
    }
}

fn with_container(container: &str) -> String {
    format!(
        r#"{{ "a": 1.0, "job_configuration": {{"job_manifest":{{"spec" :{{"template":{{"spec":{{"containers":[ {container} , {{"name":"side"}}]}}}}}}}}}},"variables":{{}} }}"#
    )
}

fn sources(template: &str) -> Vec<serde_json::Value> {
    let value: serde_json::Value = serde_json::from_str(template).unwrap();
    value
        .pointer("/job_configuration/job_manifest/spec/template/spec/containers/0/envFrom")
        .map(|list| list.as_array().unwrap().clone())
        .unwrap_or_default()
}

#[test]
fn appends_env_from_and_moves_nothing_else() {
    let new = edited(DEFAULT, &[entry("s")], &["s"]);
    let expected = DEFAULT.replace(
        r#""name": "prefect-job""#,
        r#""name": "prefect-job","envFrom":[{"secretRef":{"name":"s","optional":true}}]"#,
    );
    assert_eq!(new, expected);
    assert_eq!(edited(&new, &[], &["s"]), DEFAULT);
}

#[test]
fn our_entries_are_sorted_before_the_users_entries() {
    let template = with_container(
        r#"{"envFrom": [ {"configMapRef" : {"name":"c"}} ,  {"secretRef":{"name":"u"}} ], "z": -0.0}"#,
    );
    let new = edited(&template, &[entry("b"), entry("a")], &["a", "b"]);
    assert!(
        new.contains(r#""envFrom": [ {"secretRef":{"name":"a","optional":true}},{"secretRef":{"name":"b","optional":true}},{"configMapRef" : {"name":"c"}} ,  {"secretRef":{"name":"u"}} ]"#),
        "{new}"
    );
    assert_eq!(edited(&new, &[], &["a", "b"]), template);
}

#[test]
fn removes_only_the_named_entry_of_our_shape() {
    let template = with_container(
        r#"{"envFrom":[{"secretRef":{"optional":true,"name":"a"}}, {"secretRef":{"name":"b","optional":true}}, {"secretRef":{"name":"a"}}, {"prefix":"X_","secretRef":{"name":"a","optional":true}}]}"#,
    );
    let new = edited(&template, &[], &["a"]);
    assert_eq!(
        new,
        with_container(
            r#"{"envFrom":[{"secretRef":{"name":"b","optional":true}}, {"secretRef":{"name":"a"}}, {"prefix":"X_","secretRef":{"name":"a","optional":true}}]}"#
        )
    );
    assert_eq!(edited(&new, &[], &["a"]), new);
}

#[test]
fn keeps_a_users_entry_without_duplicating_it() {
    let template = with_container(
        r#"{"envFrom":[{"configMapRef":{"name":"c"}},{"secretRef":{"name":"a","optional":true}}]}"#,
    );
    assert_eq!(edited(&template, &[entry("a")], &[]), template);
    let run = edited(&template, &[entry("a"), entry("b")], &["b"]);
    assert_eq!(sources(&run).len(), 3);
}

#[test]
fn rewrites_changed_optional_and_moves_entry_to_the_front() {
    let with = edited(DEFAULT, &[entry("s")], &["s"]);
    let strict = Entry {
        secret: "s".to_owned(),
        optional: false,
        ..Entry::default()
    };
    assert_eq!(
        edited(&with, std::slice::from_ref(&strict), &["s"]),
        with.replace("\"optional\":true", "\"optional\":false")
    );
    let moved = with_container(
        r#"{"envFrom":[{"configMapRef":{"name":"c"}}, {"secretRef":{"name":"s","optional":true}}]}"#,
    );
    let back = sources(&edited(&moved, &[entry("s")], &["s"]));
    assert_eq!(back[0], entry("s").json());
    assert_eq!(back.len(), 2);
}

#[test]
fn keeps_our_reserialised_entry() {
    let template =
        with_container(r#"{"envFrom": [ { "secretRef" : { "optional" : true, "name": "s" } } ]}"#);
    assert!(matches!(
        edit(&raw(&template), &[entry("s")], &set(&["s"])),
        Ok(Edit::Unchanged)
    ));
}

#[test]
fn removes_an_empty_list_and_treats_null_as_missing() {
    let empty = with_container(r#"{"envFrom":[ ],"z":1}"#);
    assert_eq!(edited(&empty, &[], &["s"]), empty);
    let with = edited(&empty, &[entry("s")], &["s"]);
    assert_eq!(sources(&with).len(), 1);
    assert_eq!(edited(&with, &[], &["s"]), with_container(r#"{"z":1}"#));
    let null = with_container(r#"{"envFrom": null}"#);
    assert_eq!(sources(&edited(&null, &[entry("s")], &["s"])).len(), 1);
    let alone = with_container("{ }");
    let with = edited(&alone, &[entry("s")], &["s"]);
    assert_eq!(edited(&with, &[], &["s"]), alone);
}

#[test]
fn explains_why_a_template_cannot_take_an_entry() {
    let spec = |spec: &str| {
        format!(
            r#"{{"job_configuration":{{"job_manifest":{{"spec":{{"template":{{"spec":{spec}}}}}}}}}}}"#
        )
    };
    let cases: Vec<(String, &str)> = vec![
        ("{}".to_owned(), "empty"),
        ("null".to_owned(), "empty"),
        (
            r#"{"job_configuration":{"image":"x"}}"#.to_owned(),
            "has no `job_configuration.job_manifest`",
        ),
        (
            r#"{"job_configuration":{"job_manifest":"{{ manifest }}"}}"#.to_owned(),
            "placeholder `{{ manifest }}` at `job_configuration.job_manifest`",
        ),
        (
            spec(r#"{"containers":"{{ containers }}"}"#),
            "placeholder `{{ containers }}`",
        ),
        (
            spec(r#"{"containers":["{{ container }}"]}"#),
            "containers[0]`",
        ),
        (
            spec(r#"{"containers":[{"envFrom":"{{ env_from }}"}]}"#),
            "placeholder `{{ env_from }}`",
        ),
        (
            spec(r#"{"containers":[{"envFrom":{}}]}"#),
            "envFrom` something other than a list",
        ),
        (spec(r#"{"containers":[]}"#), "no container"),
        (spec(r#"{"containers":7}"#), "something other than a list"),
        (spec("[]"), "something other than an object"),
        ("[1]".to_owned(), "the top"),
    ];
    for (template, says) in cases {
        let error = edit(&raw(&template), &[entry("s")], &set(&["s"])).unwrap_err();
        assert!(error.to_string().contains(says), "{template}: {error}");
        assert!(!error.advice(&entry("s")).is_empty());
        assert!(entry_state(&raw(&template), "s").is_err());
    }
}

#[test]
fn advice_names_the_default_that_takes_the_entry() {
    let ours = r#"{"secretRef":{"name":"s","optional":true}}"#;
    let template = |containers: &str| {
        format!(
            r#"{{"job_configuration":{{"job_manifest":{{"spec":{{"template":{{"spec":{{"containers":{containers}}}}}}}}}}}}}"#
        )
    };
    for (containers, advice) in [
        (
            r#"[{"envFrom":"{{ env_from }}"}]"#,
            format!(
                "put {ours} into the list `variables.properties.env_from.default`, in front of other sources"
            ),
        ),
        (
            r#""{{ containers }}""#,
            format!(
                "put {ours} into the list `envFrom` of the first container in `variables.properties.containers.default`"
            ),
        ),
        (
            r#"[{"envFrom":"{{ prefect.blocks.json.x }}"}]"#,
            format!(
                "replace it with its value, so that the operator adds the entry, or add {ours} to `envFrom` of the first container"
            ),
        ),
    ] {
        let error = edit(&raw(&template(containers)), &[entry("s")], &set(&["s"])).unwrap_err();
        assert_eq!(error.advice(&entry("s")), advice);
    }
}

#[test]
fn entry_state_distinguishes_our_shape() {
    let template = with_container(
        r#"{"envFrom":[{"secretRef":{"name":"a","optional":false}},{"secretRef":{"name":"b"}},{"prefix":"P_","secretRef":{"name":"c"}},{"prefix":"","secretRef":{"name":"d","optional":true}},"{{ more }}"]}"#,
    );
    let state = |secret| entry_state(&raw(&template), secret).unwrap();
    assert_eq!(state("a"), EntryState::Exact { optional: false });
    assert_eq!(state("b"), EntryState::OtherShape);
    assert_eq!(state("c"), EntryState::Absent);
    assert_eq!(state("d"), EntryState::OtherShape);
}

/// JSON text with numbers, escapes and spaces that a careless rewrite would change.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("1.0".to_owned()),
        Just("1e5".to_owned()),
        Just("12345678901234567890".to_owned()),
        Just("-0.0".to_owned()),
        Just("null".to_owned()),
        Just(r#""\u00e9\/\n{{ x }}""#.to_owned()),
        "[a-z{} ]{0,6}".prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|list| format!("[ {}]", list.join(" ,"))),
            prop::collection::btree_map("[a-z]{1,3}", inner, 0..4).prop_map(|map| {
                let members: Vec<_> = map.iter().map(|(k, v)| format!("\"{k}\" : {v}")).collect();
                format!("{{{} }}", members.join(",\n"))
            }),
        ]
    })
}

fn container() -> impl Strategy<Value = String> {
    let source = prop_oneof![
        "[u-z]{1,2}".prop_map(|name| format!(r#"{{"secretRef":{{"name":"{name}"}}}}"#)),
        "[u-z]{1,2}".prop_map(|name| format!(r#"{{ "configMapRef": {{"name": "{name}"}} }}"#)),
        json(),
    ];
    let list = prop::option::of(prop::collection::vec(source, 1..4));
    (
        prop::collection::btree_map("[a-z]{1,3}", json(), 0..3),
        list,
        prop::collection::btree_map("[A-Z]{1,3}", json(), 0..3),
    )
        .prop_map(|(before, list, after)| {
            let member = |(k, v): (&String, &String)| format!("\"{k}\": {v}");
            let members: Vec<_> = before
                .iter()
                .map(member)
                .chain(list.map(|list| format!("\"envFrom\" :[{} ]", list.join(", "))))
                .chain(after.iter().map(member))
                .collect();
            format!("{{ {}}}", members.join(" , "))
        })
}

proptest! {
    #[test]
    fn injecting_and_removing_restores_the_text(container in container(), names in prop::collection::btree_set("[a-t]{1,3}", 1..5)) {
        let template = with_container(&container);
        let entries: Vec<_> = names.iter().map(|name| entry(name)).collect();
        let ours: Vec<&str> = names.iter().map(String::as_str).collect();
        let with = edited(&template, &entries, &ours);
        let listed = sources(&with);
        let theirs = sources(&template);
        let run: Vec<_> = entries.iter().map(Entry::json).collect();
        prop_assert_eq!(&listed[..names.len()], &run[..]);
        prop_assert_eq!(&listed[names.len()..], &theirs[..]);
        prop_assert_eq!(&edited(&with, &entries, &ours), &with);
        prop_assert_eq!(edited(&with, &[], &ours), template);
    }

    #[test]
    fn removing_some_keeps_the_others_in_order(container in container(), names in prop::collection::btree_set("[a-t]{1,3}", 2..6)) {
        let template = with_container(&container);
        let ours: Vec<&str> = names.iter().map(String::as_str).collect();
        let all: Vec<_> = names.iter().map(|name| entry(name)).collect();
        let with = edited(&template, &all, &ours);
        let fewer = edited(&with, &all[1..], &ours);
        prop_assert_eq!(fewer, edited(&template, &all[1..], &ours));
    }

    #[test]
    fn no_template_makes_it_panic(text in json(), container in json()) {
        for template in [text, with_container(&container)] {
            let _ = edit(&raw(&template), &[entry("s")], &set(&["s", "t"]));
            let _ = entry_state(&raw(&template), "s");
        }
    }
}

#[test]
fn tells_a_placeholder_from_a_wrong_type() {
    let state = |list: &str| {
        let template = with_container(&format!(r#"{{"envFrom":{list}}}"#));
        entry_state(&raw(&template), "s").unwrap_err()
    };
    let wrong = state(r#""plain""#);
    assert!(matches!(wrong, NotEditable::WrongType(..)), "{wrong}");
    let placeholder = state(r#""{{ env_from }}""#);
    assert!(
        matches!(placeholder, NotEditable::Placeholder(..)),
        "{placeholder}"
    );
}

#[test]
fn counts_the_entries_of_our_shape_at_the_start() {
    let with = |list: &str| raw(&with_container(&format!(r#"{{"envFrom":{list}}}"#)));
    let (a, b) = (entry("a").json(), entry("b").json());
    let theirs = r#"{"secretRef":{"name":"u"}}"#;
    for (list, expected) in [
        ("null".to_owned(), 0),
        ("[]".to_owned(), 0),
        (format!("[{theirs},{a}]"), 0),
        (format!("[{a},{theirs},{b}]"), 1),
        (format!("[{a},{b},{theirs}]"), 2),
    ] {
        assert_eq!(leading_entries(&with(&list)), expected, "{list}");
    }
}
