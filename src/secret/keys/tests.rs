use super::*;
use crate::crd::ConfigMetadata;

fn build(doppler: &DopplerSpec, values: &[(&str, &str)]) -> Result<Keys, KeysError> {
    let values = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()));
    let managed = ManagedSecretSpec {
        allow_reserved_names: vec!["PYTHONPATH".to_owned()],
        ..ManagedSecretSpec::default()
    };
    let forbidden = ForbiddenNames::parse(&["FORBIDDEN_*".to_owned()]).unwrap();
    keys(doppler, &managed, &forbidden, &values.collect())
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

fn listed(keys: &Keys) -> Vec<(&str, &str)> {
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
