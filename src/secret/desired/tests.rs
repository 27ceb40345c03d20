use super::*;
use crate::crd::{MANAGED_BY, MANAGED_BY_LABEL};

fn build(
    doppler: &DopplerSpec,
    managed: &ManagedSecretSpec,
    values: &[(&str, &str)],
) -> Result<Desired, SecretError> {
    let key = HashKey::from_bytes(&[1; 32]).unwrap();
    let input = DesiredInput {
        binding: "my-project-dev",
        binding_uid: "u1",
        namespace: "flows",
        doppler,
        managed,
        forbidden: &ForbiddenNames::parse(&["FORBIDDEN_*".to_owned()]).unwrap(),
        key: &key,
    };
    let values = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    let source = SourceValues {
        project: "my-project",
        config: "dev",
        item: None,
        values: &values,
    };
    desired(&input, &[source])
}

fn build_default(values: &[(&str, &str)]) -> Result<Desired, SecretError> {
    build(
        &DopplerSpec::default(),
        &ManagedSecretSpec::default(),
        values,
    )
}

#[test]
fn reports_proxies_and_forbidden_names() {
    let values = [
        ("A", ""),
        ("FORBIDDEN_B", ""),
        ("HTTPS_PROXY", ""),
        ("no_proxy", ""),
    ];
    let desired = build_default(&values).unwrap();
    assert_eq!(
        desired.proxy_note().as_deref(),
        Some("these keys choose the proxy of job pods: HTTPS_PROXY, no_proxy")
    );
    assert!(desired.data.contains_key("HTTPS_PROXY"));
    let [excluded] = &*desired.excluded_keys else {
        panic!("{:?}", desired.excluded_keys)
    };
    assert_eq!(excluded.name, "FORBIDDEN_B");
    assert!(excluded.reason.contains("--forbidden-name"), "{excluded:?}");
    assert_eq!(build_default(&[("A", "")]).unwrap().proxy_note(), None);
}

#[test]
fn copies_values_byte_for_byte() {
    let values = [
        ("A", ""),
        ("B", "a\nb\r\n\n"),
        ("C", "\"'$HOME`x`\\"),
        ("D", "🦀\u{7f}"),
        ("E", " x "),
    ];
    let desired = build_default(&values).unwrap();
    for (name, value) in values {
        assert_eq!(desired.data[name].expose_secret(), value.as_bytes());
    }
    assert!(!format!("{desired:?}").contains("🦀"));
}

#[test]
fn excludes_a_value_with_a_nul_byte() {
    let desired = build_default(&[("A", "x"), ("B", "a\u{0}b")]).unwrap();
    assert!(desired.data.contains_key("A") && !desired.data.contains_key("B"));
    assert!(desired.excluded_keys[0].reason.contains("NUL"));
}

#[test]
fn excludes_a_value_with_which_no_container_starts() {
    // `LONG=` and the final NUL byte count, too.
    let longest = "x".repeat(131_072 - 6);
    let desired = build_default(&[("LONG", &longest)]).unwrap();
    assert!(desired.data.contains_key("LONG"));
    let longer = format!("{longest}x");
    let desired = build_default(&[("A", "x"), ("LONG", &longer)]).unwrap();
    assert!(desired.data.contains_key("A") && !desired.data.contains_key("LONG"));
    let reason = &desired.excluded_keys[0].reason;
    assert!(reason.contains("131072 bytes"), "{reason}");
}

#[test]
fn carries_owner_and_source_annotations() {
    let desired = build_default(&[("A", "b")]).unwrap();
    assert_eq!(
        (&*desired.name, &*desired.namespace),
        ("my-project-dev", "flows")
    );
    assert_eq!(desired.labels[MANAGED_BY_LABEL], MANAGED_BY);
    for (key, value) in [
        (BINDING_UID, "u1"),
        (BINDING, "my-project-dev"),
        (PROJECT, "my-project"),
        (CONFIG, "dev"),
        (CONTENT_HASH, &desired.content_hash),
    ] {
        assert_eq!(desired.annotations[key], value);
    }
    assert_eq!(desired.owner, None);
    let owner = desired.with_owner("my-project-dev").owner.unwrap();
    assert_eq!(
        (&*owner.kind, &*owner.uid, owner.controller),
        ("DopplerPrefectBinding", "u1", Some(true))
    );
}

#[test]
fn lists_excluded_keys_and_leaves_them_out_of_the_hash() {
    let desired = build_default(&[("A", "b"), ("PATH", "/x"), ("a:b", "c")]).unwrap();
    assert_eq!(desired.data.len(), 1);
    assert_eq!(
        desired.content_hash,
        build_default(&[("A", "b")]).unwrap().content_hash
    );
    let names: Vec<_> = desired
        .excluded_keys
        .iter()
        .map(|excluded| excluded.name.as_str())
        .collect();
    assert_eq!(names, ["a:b", "PATH"]);
}

#[test]
fn accepts_one_mebibyte_of_values_and_rejects_one_byte_more() {
    let part = "x".repeat(MAX_VALUE_BYTES / 16);
    let names: Vec<String> = (0..16).map(|n| format!("N{n}")).collect();
    let mut values: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), part.as_str()))
        .collect();
    assert!(build_default(&values).is_ok());
    values.push(("Z", "x"));
    let error = build_default(&values).unwrap_err();
    assert_eq!(error.reason(), Reason::SecretTooLarge);
    assert!(error.to_string().contains("1048577 bytes"), "{error}");
}

#[test]
fn rejects_names_that_exceed_the_etcd_request_limit() {
    let names: Vec<String> = (0..3000).map(|i| format!("{i:0>253}")).collect();
    let values: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(
        build_default(&values).unwrap_err().reason(),
        Reason::SecretTooLarge
    );
}

#[test]
fn names_labels_that_the_api_server_would_reject() {
    for (key, value) in [
        ("team", "a b"),
        ("te am", "a"),
        ("app.kubernetes.io/name", "a"),
        ("A.b/c", "d"),
        ("/c", "d"),
        ("team", "-a"),
    ] {
        let managed = ManagedSecretSpec {
            labels: [(key.to_owned(), value.to_owned())].into(),
            ..Default::default()
        };
        let error = build(&DopplerSpec::default(), &managed, &[]).unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidSpec);
        assert!(
            error.to_string().contains(&format!("labels has `{key}`")),
            "{error}"
        );
    }
    let managed = ManagedSecretSpec {
        labels: [("example.com/team".to_owned(), String::new())].into(),
        annotations: [("note".to_owned(), "any text\n🦀".to_owned())].into(),
        ..Default::default()
    };
    assert!(build(&DopplerSpec::default(), &managed, &[]).is_ok());
}

fn with_files(type_: SecretType, files: serde_json::Value) -> ManagedSecretSpec {
    ManagedSecretSpec {
        type_: Some(type_),
        files: serde_json::from_value(files).unwrap(),
        ..ManagedSecretSpec::default()
    }
}

#[test]
fn files_are_a_secret_of_their_own() {
    let doppler = DopplerSpec::default();
    let values = [
        ("A", "a"),
        ("LARGE", &"x".repeat(200_000)),
        ("FORBIDDEN_X", "f"),
    ];
    let files = serde_json::json!({"a.txt": {"template": "{{ A }}"}, "large": {"from": "LARGE"}});
    let managed = with_files(SecretType::Opaque, files);
    let desired = build(&doppler, &managed, &values).unwrap();
    assert_eq!(desired.data.keys().collect::<Vec<_>>(), ["A"]);
    let own = build(&doppler, &ManagedSecretSpec::default(), &values).unwrap();
    assert_eq!(
        own.content_hash, desired.content_hash,
        "files change nothing"
    );
    let files = desired.files.unwrap();
    assert_eq!(files.name, "my-project-dev-files");
    assert_eq!(files.data.keys().collect::<Vec<_>>(), ["a.txt", "large"]);
    assert_eq!(files.annotations[BINDING_UID], "u1");
    assert_ne!(files.content_hash, desired.content_hash);
    // A name that the flags forbid is not in files either.
    let managed = with_files(
        SecretType::Opaque,
        serde_json::json!({"f": {"from": "FORBIDDEN_X"}}),
    );
    let error = build(&doppler, &managed, &values).unwrap_err();
    assert_eq!(error.reason(), Reason::TemplateInvalid);
}

#[test]
fn the_type_belongs_to_the_secret_with_the_files() {
    let doppler = DopplerSpec::default();
    let files = serde_json::json!({"tls.crt": {"from": "CRT"}, "tls.key": {"from": "KEY"}});
    let managed = with_files(SecretType::Tls, files);
    let desired = build(&doppler, &managed, &[("CRT", "c"), ("KEY", "k")]).unwrap();
    assert_eq!(desired.type_, SecretType::Opaque);
    assert_eq!(desired.files.unwrap().type_, SecretType::Tls);
    // A file that is excluded is missing.
    let files = serde_json::json!({
        "tls.crt": {"from": "CRT", "encoding": "Base64"}, "tls.key": {"from": "KEY"},
    });
    let managed = with_files(SecretType::Tls, files);
    let error = build(&doppler, &managed, &[("CRT", "!"), ("KEY", "k")]).unwrap_err();
    assert_eq!(error.reason(), Reason::SecretTypeIncomplete);
    // Without files, it is the type of the only Secret.
    let managed = with_files(SecretType::BasicAuth, serde_json::json!({}));
    let desired = build(&doppler, &managed, &[("username", "u")]).unwrap();
    assert_eq!(desired.type_, SecretType::BasicAuth);
    let error = build(&doppler, &managed, &[("A", "a")]).unwrap_err();
    assert_eq!(error.reason(), Reason::SecretTypeIncomplete);
}
