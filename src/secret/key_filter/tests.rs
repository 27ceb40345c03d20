use super::*;

fn exclusion_of(
    doppler: &DopplerSpec,
    managed: &ManagedSecretSpec,
    name: &str,
) -> Option<Exclusion> {
    let forbidden = ForbiddenNames::default();
    let filter = KeyFilter::new(doppler, managed, &forbidden).unwrap();
    filter.exclusion(name)
}

#[test]
fn excludes_reserved_names_and_passes_ordinary_ones() {
    let (doppler, managed) = (DopplerSpec::default(), ManagedSecretSpec::default());
    for name in [
        "PATH",
        "HOME",
        "PS1",
        "HOSTNAME",
        "BASH_ENV",
        "LD_PRELOAD",
        "LD_",
        "PYTHONPATH",
        "PYTHON",
        "PIP_INDEX_URL",
        "UV_INDEX",
        "BROWSER",
        "NODE_OPTIONS",
        "EXTRA_PIP_PACKAGES",
        "PREFECT_API_KEY",
        "KUBERNETES_SERVICE_HOST",
        "OPENSSL_CONF",
        "OPENSSL_MODULES",
        "GIT_SSH_COMMAND",
        "GIT_CONFIG_COUNT",
        "GCONV_PATH",
        "ENV",
        "SHELLOPTS",
        "BASHOPTS",
        "PS4",
        "PERL5OPT",
        "PERL5LIB",
        "RUBYOPT",
        "NODE_EXTRA_CA_CERTS",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "_JAVA_OPTIONS",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "SSLKEYLOGFILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "KUBECONFIG",
        "DYLD_INSERT_LIBRARIES",
        "HOSTALIASES",
        "PAGER",
    ] {
        assert_eq!(
            exclusion_of(&doppler, &managed, name),
            Some(Exclusion::Reserved),
            "{name}"
        );
    }
    for name in [
        "SECRET_API_KEY",
        "DOPPLER_PROJECT",
        "DOPPLER_CONFIG",
        "DOPPLER_ENVIRONMENT",
        "path",
        "MY_PATH",
        "PATHS",
        "OLD_LD_X",
        "prefect_api_key",
        "a-b.c",
        "1",
        "_",
        "ENVIRONMENT",
        "NODE_ENV",
        "GITHUB_TOKEN",
        "HTTP_PROXY",
        "JAVA_HOME",
    ] {
        assert_eq!(exclusion_of(&doppler, &managed, name), None, "{name}");
    }
}

#[test]
fn passes_a_reserved_name_allowed_by_its_exact_name() {
    let managed = ManagedSecretSpec {
        allow_reserved_names: vec!["PYTHONPATH".into(), "PREFECT_*".into()],
        ..Default::default()
    };
    let doppler = DopplerSpec::default();
    assert_eq!(exclusion_of(&doppler, &managed, "PYTHONPATH"), None);
    assert_eq!(
        exclusion_of(&doppler, &managed, "PREFECT_API_KEY"),
        Some(Exclusion::Reserved)
    );
}

#[test]
fn forbidden_name_cannot_be_allowed() {
    let doppler = DopplerSpec::default();
    let managed = ManagedSecretSpec {
        allow_reserved_names: vec!["LD_PRELOAD".into(), "PYTHONPATH".into(), "AWS_KEY".into()],
        ..Default::default()
    };
    let forbidden = ForbiddenNames::parse(&["LD_*".into(), "AWS_*".into()]).unwrap();
    let filter = KeyFilter::new(&doppler, &managed, &forbidden).unwrap();
    for (name, exclusion) in [
        ("LD_PRELOAD", Some(Exclusion::Forbidden)),
        ("AWS_KEY", Some(Exclusion::Forbidden)),
        ("PYTHONPATH", None),
        ("A", None),
    ] {
        assert_eq!(filter.exclusion(name), exclusion, "{name}");
    }
    let error = ForbiddenNames::parse(&["A[".into()]).unwrap_err();
    assert!(
        error.to_string().contains("--forbidden-name `A[`"),
        "{error}"
    );
}

#[test]
fn proxies_are_known_in_any_case() {
    for name in [
        "HTTP_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "no_proxy",
        "Http_Proxy",
    ] {
        assert!(is_proxy(name), "{name}");
    }
    for name in ["PROXY", "MY_PROXY", "HTTP_PROXY_USER", "_PROXY"] {
        assert!(!is_proxy(name), "{name}");
    }
}

#[test]
fn excludes_invalid_keys_even_if_allowed() {
    let long = "A".repeat(254);
    let managed = ManagedSecretSpec {
        allow_reserved_names: vec!["Api:Key".into()],
        ..Default::default()
    };
    for name in [
        "",
        ".",
        "..",
        "..a",
        "Api:Key",
        "a b",
        "a=b",
        "é",
        "a/b",
        long.as_str(),
    ] {
        assert_eq!(
            exclusion_of(&DopplerSpec::default(), &managed, name),
            Some(Exclusion::InvalidKey),
            "{name}"
        );
    }
    assert_eq!(
        exclusion_of(&DopplerSpec::default(), &managed, &long[1..]),
        None
    );
}

#[test]
fn applies_include_then_exclude() {
    let doppler = DopplerSpec {
        include: vec!["DB_*".into(), "{API,APP}_KEY".into()],
        exclude: vec!["*_OLD".into()],
        ..Default::default()
    };
    let managed = ManagedSecretSpec::default();
    assert_eq!(exclusion_of(&doppler, &managed, "DB_URL"), None);
    assert_eq!(exclusion_of(&doppler, &managed, "APP_KEY"), None);
    assert_eq!(
        exclusion_of(&doppler, &managed, "OTHER"),
        Some(Exclusion::NotIncluded)
    );
    assert_eq!(
        exclusion_of(&doppler, &managed, "DB_OLD"),
        Some(Exclusion::Excluded)
    );
}

#[test]
fn names_an_invalid_glob() {
    let doppler = DopplerSpec {
        exclude: vec!["A[".into()],
        ..Default::default()
    };
    let managed = ManagedSecretSpec::default();
    let forbidden = ForbiddenNames::default();
    let error = KeyFilter::new(&doppler, &managed, &forbidden).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`A[` in spec.doppler.exclude"),
        "{error}"
    );
}

#[test]
fn explanations_say_how_to_include_the_key() {
    for excluded in [
        Exclusion::InvalidKey,
        Exclusion::Forbidden,
        Exclusion::Reserved,
        Exclusion::NotIncluded,
        Exclusion::Excluded,
    ] {
        assert!(
            excluded.explanation("PATH").ends_with("to include it"),
            "{excluded:?}"
        );
    }
}

#[test]
fn crd_documents_every_reserved_name() {
    let crd = crate::crd::crd_yaml().unwrap();
    for name in RESERVED {
        assert!(crd.contains(&format!("`{name}`")), "{name}");
    }
}
