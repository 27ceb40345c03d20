//! Variables by which runs choose a Secret.

use super::*;
use crate::crd::NO_CONFIG;

const VARIABLE: &str = "doppler_config";
/// A container that has the entry of the variable.
const CHOOSING: &str =
    r#"{"envFrom":[{"secretRef":{"name":"{{ doppler_config }}","optional":true}}]}"#;

fn choice(secret: &str) -> Entry {
    Entry {
        variable: Some(VARIABLE.to_owned()),
        ..entry(secret)
    }
}

/// The template with the wanted entries, after it had all of `ours`.
fn after(template: &str, wanted: &[Entry], ours: &[Entry]) -> String {
    let keys = ours.iter().map(Entry::key).collect();
    match edit(&raw(template), wanted, &keys).unwrap() {
        Edit::Unchanged => template.to_owned(),
        Edit::Changed(text) => {
            assert_ne!(text.get(), template, "a change that changes nothing");
            text.get().to_owned()
        }
    }
}

fn declared(template: &str) -> Option<DeclaredVariable> {
    declared_variable(&raw(template), VARIABLE)
}

/// The list of the variable, in its order.
fn names(template: &str) -> Vec<String> {
    let template: serde_json::Value = serde_json::from_str(template).unwrap();
    let list = &template["variables"]["properties"][VARIABLE]["enum"];
    serde_json::from_value(list.clone()).unwrap()
}

fn with_properties(container: &str, properties: &str) -> String {
    with_container(container).replace(
        "\"variables\":{}",
        &format!("\"variables\" : {{\"properties\":{properties} , \"x\": 1.0}}"),
    )
}

#[test]
fn adds_variable_and_entry_and_moves_nothing_else() {
    let all = [choice("b"), choice("a")];
    let new = after(DEFAULT, &all, &all);
    let description = "The Doppler config whose values the run gets, by the name of its Kubernetes Secret. doppler-prefect-operator keeps the list of names.";
    let variable = format!(
        r#","doppler_config":{{"default":"none","description":"{description}","enum":["none","a","b"],"title":"Doppler config","type":"string"}}"#
    );
    let expected = DEFAULT
        .replace(
            r#""name": "prefect-job""#,
            r#""name": "prefect-job","envFrom":[{"secretRef":{"name":"{{ doppler_config }}","optional":true}}]"#,
        )
        .replace(r#""\u00e9\/"]}"#, &format!(r#""\u00e9\/"]}}{variable}"#));
    assert_eq!(new, expected);
    assert_eq!(after(&new, &all, &all), new, "a second time");
    assert_eq!(after(&new, &[], &all), DEFAULT);
}

#[test]
fn the_chosen_secret_wins_over_those_of_all_runs() {
    let template = with_properties(r#"{"envFrom":[{"secretRef":{"name":"theirs"}}]}"#, "{}");
    let all = [choice("a"), entry("zz"), entry("b")];
    let new = after(&template, &all, &all);
    let order = |template: &str| -> Vec<_> {
        let sources = sources(template);
        let names = sources.iter().map(|one| one["secretRef"]["name"].clone());
        names.collect()
    };
    assert_eq!(order(&new), ["b", "zz", "{{ doppler_config }}", "theirs"]);
    let more = [choice("a"), entry("zz"), entry("b"), entry("c")];
    let new = after(&new, &more, &more);
    let expected = ["b", "c", "zz", "{{ doppler_config }}", "theirs"];
    assert_eq!(order(&new), expected);
    assert_eq!(after(&new, &[], &more), template);
}

#[test]
fn keeps_what_a_user_wrote_in_the_declaration() {
    let (a, b) = ([choice("a")], [choice("b")]);
    let both = [choice("a"), choice("b")];
    let new = after(DEFAULT, &a, &a);
    let theirs = new
        .replace("\"Doppler config\"", "\"Which values?\"")
        .replace("\"default\":\"none\"", "\"default\" : \"a\"")
        .replace(r#"["none","a"]"#, r#"[ "mine", "none" ,"a"]"#);
    assert_ne!(theirs, new);
    assert_eq!(after(&theirs, &a, &a), theirs);
    let more = after(&theirs, &both, &both);
    let list = r#"[ "mine", "none" ,"a"]"#;
    let expected = theirs.replace(list, r#"[ "mine", "none" ,"a","b"]"#);
    assert_eq!(more, expected);
    assert_eq!(after(&more, &a, &both), theirs);
    // A default must not name a Secret that goes.
    let without = after(&more, &b, &both);
    let default = declared(&without).unwrap().default;
    assert_eq!(default.as_deref(), Some(NO_CONFIG));
    assert_eq!(names(&without), ["mine", "none", "b"]);
    // The user's own name is left: variable and entry are the user's from now on.
    let left = after(&without, &[], &both);
    assert_eq!(names(&left), ["mine", "none"]);
    assert_eq!(sources(&left), sources(&new));
    assert_eq!(after(&left, &[], &b), left);
}

#[test]
fn restores_the_list_that_bounds_the_choice() {
    let a = [choice("a")];
    let new = after(DEFAULT, &a, &a);
    let list = r#""enum":["none","a"],"#;
    for broken in [
        new.replace(list, ""),
        new.replace(list, r#""enum":null,"#),
        new.replace(list, r#""enum":[],"#),
        new.replace(list, r#""enum":["none"],"#),
        with_properties(CHOOSING, r#"{"doppler_config": true}"#),
        with_properties(CHOOSING, r#"{"doppler_config": {}}"#),
    ] {
        assert_ne!(broken, new);
        let mended = after(&broken, &a, &a);
        assert!(names(&mended).contains(&"a".to_owned()), "{mended}");
        let state = entry_state(&raw(&mended), a[0].key()).unwrap();
        assert_eq!(state, EntryState::Exact { optional: true }, "{mended}");
    }
}

#[test]
fn needs_a_place_for_the_variable() {
    let a = [choice("a")];
    let ours = BTreeSet::from([a[0].key()]);
    for (variables, missing) in [
        ("\"variables\":{}", "`variables.properties`"),
        ("\"variables\":[]", "`variables`"),
        ("\"variables\":{\"properties\":7}", "`variables.properties`"),
        ("\"x\":{}", "`variables`"),
    ] {
        let template = with_container("{}").replace("\"variables\":{}", variables);
        let error = edit(&raw(&template), &a, &ours).unwrap_err();
        assert!(error.to_string().contains(missing), "{error}");
    }
}

#[test]
fn a_name_is_offered_only_with_variable_and_entry() {
    let a = [choice("a")];
    let state = |template: &str| entry_state(&raw(template), a[0].key()).unwrap();
    let new = after(DEFAULT, &a, &a);
    assert_eq!(state(&new), EntryState::Exact { optional: true });
    assert_eq!(state(&new.replace(r#","a"]"#, "]")), EntryState::Absent);
    let other = new.replace("{{ doppler_config }}", "x");
    assert_eq!(state(&other), EntryState::Absent);
    let theirs = new.replace("{{ doppler_config }}", "{{doppler_config}}");
    assert_eq!(state(&theirs), EntryState::OtherShape);
    assert_eq!(state(DEFAULT), EntryState::Absent);
    let plain = entry_state(&raw(&new), "a").unwrap();
    assert_eq!(plain, EntryState::Absent, "not all runs get it");
}

#[test]
fn knows_templates_that_refuse_undeclared_variables() {
    let closed = "\"variables\": {\"additionalProperties\": false,";
    let closed = DEFAULT.replace("\"variables\": {", closed);
    assert!(refuses_undeclared(&raw(&closed)));
    assert!(!refuses_undeclared(&raw(DEFAULT)));
}

fn properties() -> impl Strategy<Value = String> {
    prop::collection::btree_map("[a-z]{1,3}", json(), 0..4).prop_map(|map| {
        let members: Vec<_> = map.iter().map(|(k, v)| format!("\"{k}\" :{v}")).collect();
        format!("{{ {}}}", members.join(" , "))
    })
}

#[test]
fn adds_and_removes_names_at_the_start_of_the_list() {
    let (a, b) = ([choice("a")], [choice("b")]);
    let both = [choice("a"), choice("b")];
    let new = after(DEFAULT, &both, &both);
    let list = r#"["none","a","b"]"#;
    // The user took out `none`.
    let only_b = new.replace(list, r#"["b"]"#);
    assert_eq!(names(&after(&only_b, &both, &both)), ["a", "b"]);
    // The user moved `none`.
    let moved = new.replace(list, r#"["a","none","b"]"#);
    assert_eq!(names(&after(&moved, &b, &both)), ["none", "b"]);
    assert_eq!(names(&after(&moved, &a, &both)), ["a", "none"]);
}

proptest! {
    /// Names come and go in any order, among entries for all runs, and at last all are gone.
    #[test]
    fn any_order_restores_the_text(
        container in container(),
        properties in properties(),
        steps in prop::collection::vec(("[a-t]{1,2}", any::<bool>(), any::<bool>()), 1..12),
    ) {
        let template = with_properties(&container, &properties);
        let (mut text, mut wanted, mut ours) = (template.clone(), Vec::<Entry>::new(), Vec::new());
        for (name, chosen, added) in steps {
            let one = if chosen { choice(&name) } else { entry(&name) };
            wanted.retain(|other| *other != one);
            ours.push(one.clone());
            if added {
                wanted.push(one);
            }
            text = after(&text, &wanted, &ours);
            prop_assert_eq!(&after(&text, &wanted, &ours), &text);
            let chosen = wanted.iter().filter(|one| one.variable.is_some());
            let mut expected: Vec<_> = chosen.map(|one| one.secret.clone()).collect();
            expected.sort();
            let found = declared(&text);
            prop_assert_eq!(found.is_some(), !expected.is_empty());
            if found.is_some() {
                prop_assert_eq!(&names(&text)[1..], &expected[..]);
            }
        }
        prop_assert_eq!(after(&text, &[], &ours), template);
    }

    /// What others change meanwhile is there afterwards.
    #[test]
    fn edits_of_others_stay(properties in properties(), theirs in json(), name in "[a-t]{1,3}", mine in "[u-z]{1,3}") {
        let template = with_properties("{}", &properties);
        let one = [choice(&name)];
        let with = after(&template, &one, &one);
        let changed = |text: &str| text.replace("\"a\": 1.0", &format!("\"a\": {theirs}"));
        prop_assert_eq!(after(&changed(&with), &[], &one), changed(&template));
        // A name of their own in the list keeps the variable.
        let listed = with.replace("[\"none\",", &format!("[\"{mine}\" , \"none\","));
        let left = after(&listed, &[], &one);
        prop_assert_eq!(names(&left), [mine, NO_CONFIG.to_owned()]);
        prop_assert_eq!(after(&left, &one, &one), listed);
    }

    #[test]
    fn no_declaration_makes_it_panic(declaration in json()) {
        let template = with_properties("{}", &format!("{{\"doppler_config\": {declaration}}}"));
        let one = [choice("s")];
        let new = after(&template, &one, &one);
        let state = entry_state(&raw(&new), one[0].key());
        prop_assert_eq!(state, Ok(EntryState::Exact { optional: true }));
        let _ = after(&new, &[], &one);
    }
}
