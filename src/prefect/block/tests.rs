use proptest::prelude::*;
use serde_json::json;

use super::{value::MAX_VALUES, *};
use crate::reason::Reason;
use secrecy::ExposeSecret;

fn read(data: &Value, pointer: Option<&str>) -> Result<[Option<String>; 3], BlockError> {
    fields(data, pointer).map(|found| {
        [
            found.project,
            found.config,
            found
                .access_token
                .map(|token| token.expose_secret().to_owned()),
        ]
    })
}

fn some(project: &str, config: &str, token: &str) -> [Option<String>; 3] {
    [project, config, token].map(|text| Some(text.to_owned()))
}

fn three() -> Value {
    json!({"project": "p", "config": "c", "access_token": "t"})
}

fn error(data: &Value, pointer: Option<&str>) -> BlockError {
    fields(data, pointer).err().expect("an error")
}

#[test]
fn reads_an_object_under_value() {
    assert_eq!(
        read(&json!({"value": three()}), None),
        Ok(some("p", "c", "t"))
    );
}

#[test]
fn parses_json_in_a_string_once_more() {
    assert_eq!(
        read(&json!({"value": three().to_string()}), None),
        Ok(some("p", "c", "t"))
    );
}

#[test]
fn parses_json_that_was_quoted_twice() {
    let twice = json!(three().to_string()).to_string();
    assert_eq!(
        read(&json!({"value": twice}), None),
        Ok(some("p", "c", "t"))
    );
}

#[test]
fn unwraps_what_the_newer_ui_stores() {
    for inner in [json!(three().to_string()), three()] {
        let data = json!({"value": {"__prefect_kind": "json", "value": inner}});
        assert_eq!(read(&data, None), Ok(some("p", "c", "t")), "{data}");
        for pointer in ["/value", "/value/value"] {
            assert_eq!(read(&data, Some(pointer)), Ok(some("p", "c", "t")));
        }
    }
}

#[test]
fn reads_a_custom_class_with_the_fields_at_the_top() {
    let data = json!({"project": "p", "config": "c", "access_token": "t", "note": "n", "n": 3});
    assert_eq!(read(&data, None), Ok(some("p", "c", "t")));
    assert_eq!(read(&data, Some("")), Ok(some("p", "c", "t")));
}

#[test]
fn reads_a_token_that_is_a_reference_to_a_secret_block() {
    let data = json!({"project": "p", "config": "c", "access_token": {"value": "t"}});
    assert_eq!(read(&data, None), Ok(some("p", "c", "t")));
}

#[test]
fn finds_a_nested_reference_by_its_shape() {
    for inner in [three(), json!(three().to_string())] {
        let data = json!({"cfg": {"value": inner}, "name": "x", "list": [1, {"a": null}]});
        assert_eq!(read(&data, None), Ok(some("p", "c", "t")), "{data}");
        assert_eq!(read(&data, Some("/cfg/value")), Ok(some("p", "c", "t")));
    }
}

#[test]
fn finds_a_nested_reference_under_a_key_that_is_called_config() {
    let data = json!({"config": {"value": three()}});
    assert_eq!(read(&data, None), Ok(some("p", "c", "t")));
}

#[test]
fn null_options_do_not_hide_a_nested_reference() {
    let data =
        json!({"project": null, "config": null, "access_token": null, "cfg": {"value": three()}});
    assert_eq!(read(&data, None), Ok(some("p", "c", "t")));
    let unfilled = json!({"project": null, "config": null, "access_token": null});
    assert_eq!(error(&unfilled, None), BlockError::NoFields);
}

#[test]
fn an_object_with_all_three_beats_one_with_some() {
    let data = json!({"project": "other", "cfg": three()});
    assert_eq!(read(&data, None), Ok(some("p", "c", "t")));
}

#[test]
fn lists_several_matching_objects_and_a_pointer_selects_one() {
    let other = json!({"project": "q", "config": "d", "access_token": "u"}).to_string();
    let data = json!({"dev": {"value": three()}, "a/b~c": {"value": other}});
    let failure = error(&data, None);
    assert_eq!(failure.reason(), Reason::BlockInvalid);
    let BlockError::Ambiguous { mut pointers } = failure else {
        panic!("{failure:?}")
    };
    pointers.sort();
    assert_eq!(pointers, ["/a~1b~0c/value", "/dev/value"]);
    assert_eq!(read(&data, Some("/a~1b~0c/value")), Ok(some("q", "d", "u")));
}

#[test]
fn pointer_leads_into_a_json_string() {
    let data = json!({"value": json!({"dev": three(), "prd": three()}).to_string()});
    let BlockError::Ambiguous { pointers } = error(&data, None) else {
        panic!("not ambiguous")
    };
    for pointer in pointers {
        assert_eq!(read(&data, Some(&pointer)), Ok(some("p", "c", "t")));
    }
}

#[test]
fn missing_fields_are_left_to_the_binding() {
    let data = json!({"value": {"project": "p", "config": null}});
    assert_eq!(read(&data, None), Ok([Some("p".to_owned()), None, None]));
}

#[test]
fn surrounding_space_is_not_part_of_a_field() {
    let data = json!({"project": " p", "config": "c\n", "access_token": "t\r\n"});
    assert_eq!(read(&data, None), Ok(some("p", "c", "t")));
}

#[test]
fn masked_values_are_recognised_wherever_they_are() {
    for data in [
        json!({"value": "********"}),
        json!({"value": "**********"}),
        json!("********"),
        json!({"cfg": {"value": "********"}}),
        json!({"project": "p", "config": "c", "access_token": "********"}),
        json!({"project": "p", "config": "c", "access_token": {"value": "********"}}),
        json!({"value": "{\"project\": \"p\", \"config\": \"c\", \"access_token\": \"********\"}"}),
        json!({"value": {"__prefect_kind": "json", "value": "********"}}),
    ] {
        let failure = error(&data, None);
        assert_eq!(failure, BlockError::Masked, "{data}");
        assert_eq!(failure.reason(), Reason::BlockMasked);
    }
    let data = json!({"cfg": {"value": "********"}});
    for pointer in ["/cfg/value", "/cfg/value/inner"] {
        assert_eq!(error(&data, Some(pointer)), BlockError::Masked);
    }
}

#[test]
fn masked_value_beside_the_selected_object_is_ignored() {
    let data = json!({"cfg": three(), "password": "********"});
    assert_eq!(read(&data, None), Ok(some("p", "c", "t")));
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    for (key, field) in [
        ("project", Field::Project),
        ("config", Field::Config),
        ("access_token", Field::AccessToken),
    ] {
        for wrong in [json!(7), json!(true), json!(["x"]), json!({"a": "b"})] {
            let mut data = three();
            data[key] = wrong;
            let failure = error(&json!({"value": data}), None);
            assert_eq!(failure, BlockError::WrongType { field });
            assert!(failure.to_string().starts_with(key), "{failure}");
        }
    }
}

#[test]
fn block_of_another_shape_says_what_to_store() {
    for data in [json!({}), json!(null), json!({"value": {"projekt": "p"}})] {
        assert_eq!(error(&data, None), BlockError::NoFields, "{data}");
    }
    for data in [
        json!({"value": "dp.st.dev.xyz"}),
        json!({"value": "{'project': 'p'}"}),
        json!({"value": "1234"}),
    ] {
        assert_eq!(error(&data, None), BlockError::NotJson, "{data}");
    }
}

#[test]
fn reports_a_pointer_to_the_wrong_place() {
    let data = json!({"value": three(), "other": {"x": 1}});
    assert_eq!(error(&data, Some("/nope")), BlockError::PointerNotFound);
    assert_eq!(error(&data, Some("value")), BlockError::PointerNotFound);
    assert_eq!(error(&data, Some("/other")), BlockError::PointerNoFields);
    assert_eq!(
        error(&data, Some("/value/project")),
        BlockError::PointerNoFields
    );
}

#[test]
fn the_search_is_bounded() {
    let mut deep = three();
    for _ in 0..50 {
        deep = json!({ "a": deep });
    }
    assert_eq!(error(&deep, None), BlockError::TooLarge);
    let wide = json!({"value": three(), "list": vec![0; MAX_VALUES]});
    assert_eq!(error(&wide, None), BlockError::TooLarge);
    assert_eq!(read(&wide, Some("/value")), Ok(some("p", "c", "t")));
}

#[test]
fn reports_an_empty_token_when_completing_fields() {
    let data = json!({"value": {"project": "p", "access_token": " "}});
    let found = fields(&data, None).unwrap();
    assert_eq!(found.missing(), [Field::Config, Field::AccessToken]);
    let failure = found.complete().err().unwrap();
    assert_eq!(failure.reason(), Reason::BlockIncomplete);
    assert_eq!(
        failure.to_string(),
        "config, access_token are missing or empty: correct the block, or set spec.doppler.config, spec.doppler.accessToken in the binding"
    );
}

#[test]
fn project_and_config_are_names() {
    for (project, config, field) in [
        ("p\u{0}", "c", "project"),
        ("p", "c\nd", "config"),
        (&*"p".repeat(256), "c", "project"),
    ] {
        let data = json!({"value": {"project": project, "config": config, "access_token": "t"}});
        let error = fields(&data, None).unwrap().complete().err().unwrap();
        assert_eq!(error.reason(), Reason::BlockInvalid);
        assert!(error.to_string().starts_with(field), "{error}");
    }
}

#[test]
fn binding_fields_override_the_block() {
    let found = fields(&json!({"value": {"project": "p", "config": "c"}}), None).unwrap();
    let complete = found
        .overridden_by(BlockFields {
            config: Some("prd".to_owned()),
            access_token: Some("t".into()),
            ..BlockFields::default()
        })
        .complete()
        .ok()
        .unwrap();
    assert_eq!(
        (complete.project.as_str(), complete.config.as_str()),
        ("p", "prd")
    );
    let FieldCredential::Token(token) = complete.credential else {
        panic!("an identity");
    };
    assert_eq!(token.expose_secret(), "t");
}

/// The fields of `data`, for a binding that names a service account.
fn with_account(data: &Value, id: Option<&str>) -> Result<CompleteFields, BlockError> {
    let overrides = BlockFields {
        identity: id.map(str::to_owned),
        uses_identity: true,
        ..BlockFields::default()
    };
    fields(data, None)?.overridden_by(overrides).complete()
}

#[test]
fn a_block_has_an_identity_in_place_of_a_token() {
    let id = |fields: CompleteFields| match fields.credential {
        FieldCredential::Identity(id) => id,
        FieldCredential::Token(_) => panic!("a token"),
    };
    let block = json!({"value": {"project": "p", "config": "c", "identity": " i-1 "}, "other": {"project": "q"}});
    assert_eq!(id(with_account(&block, None).ok().unwrap()), "i-1");
    assert_eq!(id(with_account(&block, Some("i-2")).ok().unwrap()), "i-2");
    // The identity counts although the block has a token.
    let both = json!({"project": "p", "config": "c", "access_token": "t", "identity": "i-1"});
    assert_eq!(id(with_account(&both, None).ok().unwrap()), "i-1");
    let error = with_account(&json!({"value": three()}), None)
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "identity is missing or empty: correct the block, or set spec.doppler.identity.id in the binding"
    );
    let broken = json!({"project": "p", "config": "c", "identity": "a\nb"});
    let field = Field::Identity;
    assert_eq!(
        with_account(&broken, None).err(),
        Some(BlockError::NotAName { field })
    );
}

#[test]
fn without_a_service_account_the_identity_of_a_block_is_not_used() {
    let block = json!({"value": {"project": "p", "config": "c", "identity": "i"}});
    let error = fields(&block, None).unwrap().complete().err().unwrap();
    assert_eq!(error, BlockError::IdentityWithoutAccount);
    assert_eq!(error.reason(), Reason::BlockIncomplete);
    // Another meaning of the word changes nothing.
    let other = json!({"value": three(), "identity": {"a": 1}, "x": {"identity": "y"}});
    assert_eq!(read(&other, None), Ok(some("p", "c", "t")));
    let partial = json!({"value": {"project": "p", "config": "c"}, "x": {"identity": "y"}});
    assert!(fields(&partial, None).is_ok());
}

const CANARY: &str = "canary-7f3a91";

/// Any JSON whose texts all carry the canary, and whose keys are often those that matter.
fn with_canaries() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(7)),
        Just(json!(CANARY)),
        Just(json!(format!(
            "{{\"project\": \"{CANARY}\", \"config\": 1}}"
        ))),
        Just(json!(format!("{{\"project\": {CANARY}"))),
        Just(json!("********")),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        let key = prop_oneof![
            Just("value"),
            Just("project"),
            Just("config"),
            Just("access_token"),
            Just("__prefect_kind"),
            Just("cfg")
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((key, inner.clone()), 0..5).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
            inner.prop_map(|v| json!(v.to_string())),
        ]
    })
}

proptest! {
    #[test]
    fn no_error_shows_a_value(
        data in with_canaries(),
        pointer in prop::option::of(prop_oneof![Just("/value"), Just("/cfg/value"), Just("/project")]),
    ) {
        let outcome = fields(&data, pointer).and_then(BlockFields::complete);
        if let Err(failure) = outcome {
            prop_assert!(!failure.to_string().contains(CANARY));
            let debug = format!("{failure:?}");
            prop_assert!(!debug.contains(CANARY));
        }
    }
}
