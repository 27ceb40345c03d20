use super::*;

fn exclusion_of(managed: &ManagedSecretSpec, name: &str) -> Option<Exclusion> {
    KeyFilter::new(managed, &ForbiddenNames::default()).exclusion(name)
}

#[test]
fn excludes_reserved_names_and_passes_ordinary_ones() {
    let managed = ManagedSecretSpec::default();
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
            exclusion_of(&managed, name),
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
        assert_eq!(exclusion_of(&managed, name), None, "{name}");
    }
}

#[test]
fn passes_a_reserved_name_allowed_by_its_exact_name() {
    let managed = ManagedSecretSpec {
        allow_reserved_names: vec!["PYTHONPATH".into(), "PREFECT_*".into()],
        ..Default::default()
    };
    assert_eq!(exclusion_of(&managed, "PYTHONPATH"), None);
    assert_eq!(
        exclusion_of(&managed, "PREFECT_API_KEY"),
        Some(Exclusion::Reserved)
    );
}

#[test]
fn forbidden_name_cannot_be_allowed() {
    let managed = ManagedSecretSpec {
        allow_reserved_names: vec!["LD_PRELOAD".into(), "PYTHONPATH".into(), "AWS_KEY".into()],
        ..Default::default()
    };
    let forbidden = ForbiddenNames::parse(&["LD_*".into(), "AWS_*".into()]).unwrap();
    let filter = KeyFilter::new(&managed, &forbidden);
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
            exclusion_of(&managed, name),
            Some(Exclusion::InvalidKey),
            "{name}"
        );
    }
    assert_eq!(exclusion_of(&managed, &long[1..]), None);
}

#[test]
fn explanations_say_how_to_include_the_key() {
    for excluded in [
        Exclusion::InvalidKey,
        Exclusion::Forbidden,
        Exclusion::Reserved,
        Exclusion::Replaced,
        Exclusion::Metadata,
        Exclusion::NotIncluded(Scope::All),
        Exclusion::Excluded(Scope::Item(1)),
    ] {
        assert!(
            excluded.explanation("PATH").ends_with("to include it"),
            "{excluded:?}"
        );
    }
}

#[test]
fn crd_documents_every_reserved_name() {
    let crd = crate::crd::crd_yaml(crate::crd::Kind::Binding).unwrap();
    for name in RESERVED {
        assert!(crd.contains(&format!("`{name}`")), "{name}");
    }
}
