use super::*;
use crate::crd::ConfigMetadata;

type Values = BTreeMap<String, SecretString>;

fn values(values: &[(&str, &str)]) -> Values {
    let values = values.iter();
    values
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect()
}

fn build(doppler: &DopplerSpec, of: &[(&str, &str)]) -> Result<Keys<'static>, KeysError> {
    build_all(doppler, &[values(of)])
}

/// The keys of several configs, of project `p0`, `p1` and so on.
fn build_all(doppler: &DopplerSpec, all: &[Values]) -> Result<Keys<'static>, KeysError> {
    let managed = ManagedSecretSpec {
        allow_reserved_names: vec!["PYTHONPATH".to_owned()],
        ..ManagedSecretSpec::default()
    };
    let forbidden = ForbiddenNames::parse(&["FORBIDDEN_*".to_owned()]).unwrap();
    let projects: Vec<String> = (0..all.len()).map(|at| format!("p{at}")).collect();
    let items = doppler.configs.iter().map(Some).chain([None]);
    let sources: Vec<_> = projects
        .iter()
        .zip(all)
        .zip(items)
        .map(|((project, values), item)| SourceValues {
            project,
            config: "prd",
            item,
            values,
        })
        .collect();
    let keys = keys(doppler, &managed, &forbidden, &sources)?;
    Ok(Keys {
        named: BTreeMap::new(),
        ..keys
    })
}

fn renaming(pairs: &[(&str, &str)]) -> DopplerSpec {
    let rename = pairs
        .iter()
        .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()));
    DopplerSpec {
        rename: rename.collect(),
        ..DopplerSpec::default()
    }
}

fn listed<'a>(keys: &'a Keys<'_>) -> Vec<(&'a str, &'a str)> {
    keys.excluded
        .iter()
        .map(|key| (&*key.name, &*key.reason))
        .collect()
}

const METADATA: [(&str, &str); 4] = [
    ("A", "a"),
    ("DOPPLER_CONFIG", "dev"),
    ("DOPPLER_ENVIRONMENT", "dev"),
    ("DOPPLER_PROJECT", "p"),
];

#[test]
fn metadata_is_kept_unless_the_spec_drops_it() {
    for metadata in [None, Some(ConfigMetadata::Keep)] {
        let doppler = DopplerSpec {
            metadata,
            ..DopplerSpec::default()
        };
        assert_eq!(build(&doppler, &METADATA).unwrap().data.len(), 4);
    }
    let doppler = DopplerSpec {
        metadata: Some(ConfigMetadata::Drop),
        ..DopplerSpec::default()
    };
    let keys = build(&doppler, &METADATA).unwrap();
    assert_eq!(keys.data.keys().collect::<Vec<_>>(), ["A"]);
    assert_eq!(keys.excluded.len(), 3);
    let (name, reason) = listed(&keys)[0];
    assert_eq!(name, "DOPPLER_CONFIG");
    assert!(reason.contains("spec.doppler.metadata"), "{reason}");
    // A name transformer spells them otherwise; a name that only contains one is ordinary.
    let spelled = [
        ("TF_VAR_doppler_project", "p"),
        ("dopplerConfig", "c"),
        ("MY_DOPPLER_PROJECT", "x"),
    ];
    let keys = build(&doppler, &spelled).unwrap();
    assert_eq!(keys.data.keys().collect::<Vec<_>>(), ["MY_DOPPLER_PROJECT"]);
}

#[test]
fn a_new_name_is_filtered_as_any_other() {
    for (target, reason) in [
        ("LD_PRELOAD", "allowReservedNames"),
        ("FORBIDDEN_A", "--forbidden-name"),
        ("a b", "Kubernetes does not accept it"),
    ] {
        let keys = build(&renaming(&[("A", target)]), &[("A", "a"), ("B", "b")]).unwrap();
        assert_eq!(keys.data.keys().collect::<Vec<_>>(), ["B"]);
        let (name, why) = listed(&keys)[0];
        assert!(name == target && why.contains(reason), "{name}: {why}");
    }
    let keys = build(&renaming(&[("A", "PYTHONPATH")]), &[("A", "a")]).unwrap();
    assert_eq!(keys.data["PYTHONPATH"].expose_secret(), "a");
    // A reserved name can be given away, and is then an ordinary key.
    let keys = build(&renaming(&[("PATH", "MY_PATH")]), &[("PATH", "/x")]).unwrap();
    assert_eq!(keys.data["MY_PATH"].expose_secret(), "/x");
    assert!(keys.excluded.is_empty());
}

#[test]
fn a_renamed_key_replaces_the_one_that_had_its_name() {
    let values = [("DATABASE_URL", "new"), ("SQLALCHEMY_URL", "old")];
    let keys = build(&renaming(&[("DATABASE_URL", "SQLALCHEMY_URL")]), &values).unwrap();
    assert_eq!(keys.data.len(), 1);
    assert_eq!(keys.data["SQLALCHEMY_URL"].expose_secret(), "new");
    let (name, why) = listed(&keys)[0];
    assert!(
        name == "SQLALCHEMY_URL" && why.contains("spec.doppler.rename"),
        "{why}"
    );
}

#[test]
fn renames_come_after_the_filters_of_names() {
    let doppler = DopplerSpec {
        include: vec!["DB_*".to_owned()],
        ..renaming(&[("DB_URL", "URL"), ("API", "DB_API"), ("NONE", "X")])
    };
    let keys = build(&doppler, &[("DB_URL", "u"), ("API", "a")]).unwrap();
    assert_eq!(keys.data.keys().collect::<Vec<_>>(), ["URL"]);
    assert_eq!(listed(&keys).len(), 1, "API is not included");
    let note = keys.note.unwrap();
    assert!(note.contains("no effect on NONE,"), "{note}");
}

fn with_configs(items: serde_json::Value) -> DopplerSpec {
    let mut items = items;
    for item in items.as_array_mut().unwrap() {
        item["project"] = "p".into();
        item["config"] = "c".into();
    }
    serde_json::from_value(serde_json::json!({"configs": items})).unwrap()
}

fn exposed<'a>(keys: &'a Keys<'_>) -> Vec<(&'a str, &'a str)> {
    let data = keys.data.iter();
    data.map(|(name, value)| (name.as_str(), value.expose_secret()))
        .collect()
}

#[test]
fn later_configs_win_after_their_own_filters_and_prefixes() {
    let doppler = with_configs(serde_json::json!([
        {},
        {"include": ["DB_*"], "exclude": ["*_OLD"], "prefix": "ETL_"},
        {"include": ["B"]},
    ]));
    let all = [
        values(&[("A", "a0"), ("B", "b0"), ("ETL_DB_URL", "url0")]),
        values(&[("A", "a1"), ("DB_URL", "url1"), ("DB_OLD", "old1")]),
        values(&[("A", "a2"), ("B", "b2")]),
    ];
    let keys = build_all(&doppler, &all).unwrap();
    let expected = [("A", "a0"), ("B", "b2"), ("ETL_DB_URL", "url1")];
    assert_eq!(exposed(&keys), expected);
    let met: Vec<_> = keys
        .collisions
        .iter()
        .map(|met| (&*met.name, met.earlier, met.later))
        .collect();
    assert_eq!(met, [("ETL_DB_URL", 0, 1), ("B", 0, 2)]);
    let reasons: Vec<_> = listed(&keys)
        .into_iter()
        .map(|(_, reason)| reason.to_owned())
        .collect();
    for path in [
        "configs[1].include",
        "configs[1].exclude",
        "configs[2].include",
    ] {
        assert!(
            reasons.iter().any(|reason| reason.contains(path)),
            "{path}: {reasons:?}"
        );
    }
}

#[test]
fn refuse_names_the_keys_and_both_configs() {
    let mut doppler = with_configs(serde_json::json!([{}, {}]));
    let all = [
        values(&[("A", "secret-a"), ("B", "secret-b")]),
        values(&[("A", "secret-a"), ("C", "")]),
    ];
    assert!(build_all(&doppler, &all).is_ok(), "the default is Later");
    doppler.on_conflict = Some(OnConflict::Refuse);
    let error = build_all(&doppler, &all).unwrap_err();
    assert_eq!(error.reason(), Reason::KeyConflict);
    let text = error.to_string();
    assert!(
        text.contains("1 key is in more than one config (A of p0/prd and p1/prd)"),
        "{text}"
    );
    assert!(!text.contains("secret-"), "{text}");
    // A prefix keeps them apart.
    doppler.configs[1].prefix = Some("X_".to_owned());
    assert_eq!(build_all(&doppler, &all).unwrap().data.len(), 4);
    // A rename counts, too.
    doppler.rename = [("B".to_owned(), "A".to_owned())].into();
    let error = build_all(&doppler, &all).unwrap_err();
    assert_eq!(error.reason(), Reason::KeyConflict);
    assert!(error.to_string().contains("(B to A)"), "{error}");
}

#[test]
fn refuse_ignores_the_names_that_every_config_has() {
    let mut doppler = with_configs(serde_json::json!([{}, {}]));
    doppler.on_conflict = Some(OnConflict::Refuse);
    let all = [
        values(&[("DOPPLER_PROJECT", "p0")]),
        values(&[("DOPPLER_PROJECT", "p1")]),
    ];
    let keys = build_all(&doppler, &all).unwrap();
    assert_eq!(exposed(&keys), [("DOPPLER_PROJECT", "p1")]);
    doppler.configs[1].prefix = Some("X_".to_owned());
    let keys = build_all(&doppler, &all).unwrap();
    assert_eq!(
        exposed(&keys),
        [("DOPPLER_PROJECT", "p0"), ("X_DOPPLER_PROJECT", "p1")]
    );
    doppler.metadata = Some(ConfigMetadata::Drop);
    assert!(build_all(&doppler, &all).unwrap().data.is_empty());
}

#[test]
fn a_long_list_of_conflicts_is_bounded() {
    let mut doppler = with_configs(serde_json::json!([{}, {}]));
    doppler.on_conflict = Some(OnConflict::Refuse);
    let names: Vec<String> = (0..500).map(|n| format!("{n:0>200}")).collect();
    let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let all = [values(&pairs), values(&pairs)];
    let text = build_all(&doppler, &all).unwrap_err().to_string();
    assert!(
        text.contains("500 keys are") && text.contains("and 490 more"),
        "{text}"
    );
    assert!(text.len() < 4096, "{}", text.len());
    let first = [values(&pairs[..10]), values(&pairs[..10])];
    let text = build_all(&doppler, &first).unwrap_err().to_string();
    assert!(text.contains("10 keys are"), "{text}");
    assert!(!text.contains("more)"), "{text}");
}

#[test]
fn a_prefix_may_have_digits_hyphens_and_dots_after_its_first_letter() {
    for prefix in ["a", "_", "A1", "a-b.c_1", &"p".repeat(64)] {
        let doppler = with_configs(serde_json::json!([{"prefix": prefix}]));
        let keys = build_all(&doppler, &[values(&[("KEY", "x")])]).unwrap();
        assert_eq!(exposed(&keys), [(&*format!("{prefix}KEY"), "x")]);
    }
    let long = "p".repeat(65);
    let doppler = with_configs(serde_json::json!([{"prefix": long}]));
    let error = build_all(&doppler, &[values(&[("KEY", "x")])]).unwrap_err();
    assert_eq!(error, KeysError::Prefix(0));
}

#[test]
fn an_item_that_an_older_crd_admitted_is_named() {
    for (item, path) in [
        (
            serde_json::json!({"prefix": "1"}),
            "spec.doppler.configs[0].prefix",
        ),
        (
            serde_json::json!({"prefix": ""}),
            "spec.doppler.configs[0].prefix",
        ),
        (
            serde_json::json!({"prefix": "a b"}),
            "spec.doppler.configs[0].prefix",
        ),
        (
            serde_json::json!({"exclude": ["A["]}),
            "spec.doppler.configs[0].exclude",
        ),
    ] {
        let error = build_all(&with_configs(serde_json::json!([item])), &[]).unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidSpec);
        assert!(error.to_string().contains(path), "{error}");
    }
    assert!(build_all(&with_configs(serde_json::json!([{"prefix": "ETL_"}])), &[]).is_ok());
}
