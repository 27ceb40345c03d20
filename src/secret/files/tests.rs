use super::*;
use crate::crd::FileFormat;

fn file(spec: serde_json::Value) -> FileSpec {
    serde_json::from_value(spec).unwrap()
}

/// The files of `specs` for these values, of which `B` is no variable.
fn make(specs: serde_json::Value, values: &[(&str, &str)]) -> Result<Files, FilesError> {
    let specs: FileSpecs = serde_json::from_value(specs).unwrap();
    let values: BTreeMap<String, SecretString> = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    let mut data = values.clone();
    data.remove("B");
    let named = values.iter().map(|(name, value)| (name.clone(), value));
    let keys = Keys {
        data,
        named: named.collect(),
        ..Keys::default()
    };
    files(&specs, &keys)
}

fn content<'a>(files: &'a Files, name: &str) -> &'a [u8] {
    files.data[name].expose_secret()
}

#[test]
fn makes_files_from_templates_values_and_formats() {
    let specs = serde_json::json!({
        "profiles.yml": {"template": "host: {{ A }}, {{ B }}\n"},
        "b.txt": {"from": "B"},
        "bin": {"from": "C", "encoding": "Base64"},
        "all.json": {"format": "Json"},
    });
    let values = [("A", "a"), ("B", "b"), ("C", "AP8B\n/w==\n")];
    let files = make(specs, &values).unwrap();
    assert_eq!(content(&files, "profiles.yml"), b"host: a, b\n");
    assert_eq!(content(&files, "b.txt"), b"b");
    assert_eq!(content(&files, "bin"), [0, 255, 1, 255]);
    let all = String::from_utf8_lossy(content(&files, "all.json"));
    assert!(all.contains("\"A\":") && !all.contains("\"B\":"), "{all}");
    assert!(files.excluded.is_empty());
    assert!(!format!("{files:?}").contains("host"));
}

#[test]
fn bad_base64_excludes_the_file_only() {
    let specs = serde_json::json!({
        "a": {"from": "A", "encoding": "Base64"},
        "b": {"from": "B"},
    });
    let files = make(specs, &[("A", "s3cr3t!"), ("B", "b")]).unwrap();
    assert_eq!(files.data.keys().collect::<Vec<_>>(), ["b"]);
    let [excluded] = &*files.excluded else {
        panic!("{:?}", files.excluded)
    };
    assert_eq!(excluded.name, "a");
    assert!(
        excluded.reason.contains("the value of A is not base64"),
        "{excluded:?}"
    );
    assert!(!excluded.reason.contains("s3cr3t"), "{excluded:?}");
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    for (spec, reason, part) in [
        (
            serde_json::json!({"template": "{{ X }}"}),
            Reason::TemplateInvalid,
            "f, line 1: X is",
        ),
        (
            serde_json::json!({"template": "{{"}),
            Reason::TemplateInvalid,
            "f, line 1: the template",
        ),
        (
            serde_json::json!({"from": "X"}),
            Reason::TemplateInvalid,
            "f: X in from",
        ),
        (
            serde_json::json!({}),
            Reason::InvalidSpec,
            "f: set exactly one",
        ),
        (
            serde_json::json!({"from": "A", "format": "Json"}),
            Reason::InvalidSpec,
            "f: set exactly one",
        ),
    ] {
        let error = make(serde_json::json!({"f": spec}), &[("A", "s3cr3t")]).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        let text = error.to_string();
        assert!(text.contains(part) && !text.contains("s3cr3t"), "{text}");
    }
    let spec = serde_json::json!({"a/b": {"from": "A"}});
    assert_eq!(
        make(spec, &[("A", "")]).unwrap_err().reason(),
        Reason::InvalidSpec
    );
    let spec = serde_json::json!({"f": {"format": "DotnetJson"}});
    let error = make(spec, &[("A", "s3cr3t"), ("A__C", "s3cr3t")]).unwrap_err();
    assert_eq!(error.reason(), Reason::TemplateInvalid);
    assert!(!error.to_string().contains("s3cr3t"), "{error}");
}

#[test]
fn without_values_only_the_spec_is_checked() {
    let specs = |spec| FileSpecs::from([("f".to_owned(), file(spec))]);
    assert_eq!(
        check(&specs(serde_json::json!({"template": "{{ ANY }}"}))),
        Ok(())
    );
    assert_eq!(check(&specs(serde_json::json!({"from": "ANY"}))), Ok(()));
    assert!(check(&specs(serde_json::json!({"template": "{{"}))).is_err());
    let format = FileFormat::Json;
    let both = FileSpec {
        format: Some(format),
        ..file(serde_json::json!({"from": "A"}))
    };
    assert!(check(&FileSpecs::from([("f".to_owned(), both)])).is_err());
}
