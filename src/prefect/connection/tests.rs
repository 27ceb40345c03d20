use serde_json::{Value, json};

use super::*;
use crate::{crd::ReferenceKind, reason::Reason};

fn spec(stanza: Value) -> ServerSpec {
    serde_json::from_value(stanza).unwrap()
}

fn url(stanza: Value) -> Result<String, ServerError> {
    api_url_of(&spec(stanza), "flows").map(String::from)
}

#[test]
fn name_means_a_service_in_the_bindings_or_given_namespace() {
    assert_eq!(
        url(json!({"name": "prefect"})).unwrap(),
        "http://prefect.flows.svc:4200/api"
    );
    assert_eq!(
        url(json!({"name": "prefect-server", "namespace": "prefect"})).unwrap(),
        "http://prefect-server.prefect.svc:4200/api"
    );
}

#[test]
fn api_is_appended_to_a_remote_url_only_where_it_is_missing() {
    for (given, meant) in [
        ("https://p.example.com", "https://p.example.com/api"),
        ("https://p.example.com/", "https://p.example.com/api"),
        ("https://p.example.com/api", "https://p.example.com/api"),
        ("https://p.example.com/api/", "https://p.example.com/api"),
        (
            " https://p.example.com/api/#x\n",
            "https://p.example.com/api",
        ),
        ("https://p.example.com/x/y", "https://p.example.com/x/y/api"),
        ("https://p.example.com/x/api", "https://p.example.com/x/api"),
        ("http://p.ns.svc:4200", "http://p.ns.svc:4200/api"),
        (
            "https://api.prefect.cloud/api/accounts/a/workspaces/w/",
            "https://api.prefect.cloud/api/accounts/a/workspaces/w",
        ),
    ] {
        assert_eq!(url(json!({"remoteApiUrl": given})).unwrap(), meant);
    }
}

#[test]
fn ids_mean_a_workspace_of_prefect_cloud_or_of_the_given_url() {
    let ids = json!({"accountId": "a-1", "workspaceId": "w-2"});
    assert_eq!(
        url(ids.clone()).unwrap(),
        "https://api.prefect.cloud/api/accounts/a-1/workspaces/w-2"
    );
    for base in [
        "https://cloud.example.com",
        "https://cloud.example.com/api/",
        "https://cloud.example.com/api/accounts/a-1/workspaces/w-2",
    ] {
        let mut stanza = ids.clone();
        stanza["remoteApiUrl"] = json!(base);
        assert_eq!(
            url(stanza).unwrap(),
            "https://cloud.example.com/api/accounts/a-1/workspaces/w-2"
        );
    }
}

#[test]
fn spec_without_a_valid_url_says_what_to_write() {
    assert_eq!(url(json!({})), Err(ServerError::MissingAddress));
    assert_eq!(
        url(json!({"accountId": "a"})),
        Err(ServerError::MissingAddress)
    );
    for bad in [
        "prefect.example.com",
        "ftp://p.example.com",
        "https://",
        "https://p.example.com/api?x=1",
        "mailto:x",
    ] {
        assert_eq!(
            url(json!({"remoteApiUrl": bad})),
            Err(ServerError::InvalidUrl),
            "{bad}"
        );
    }
    for bad in ["a/b", "a.b", "", "a@b", "a#"] {
        let failure = url(json!({"name": bad})).unwrap_err();
        assert_eq!(failure, ServerError::InvalidUrlPart { field: "name" });
        assert_eq!(failure.reason(), Reason::InvalidSpec);
        let ids = json!({"accountId": "a", "workspaceId": bad});
        assert!(url(ids).is_err());
    }
}

#[test]
fn two_spellings_of_one_service_are_the_same_api() {
    let url = |text: &str| Url::parse(text).unwrap();
    let short = url("http://p.ns.svc:4200/api");
    for long in [
        "http://p.ns.svc.cluster.local:4200/api/",
        "http://p.ns.svc.cluster.local.:4200/api",
        "http://p.ns:4200/api",
    ] {
        assert!(same_api(&short, &url(long)), "{long}");
    }
    for other in [
        "https://p.ns.svc:4200/api",
        "http://p.ns.svc/api",
        "http://p.other.svc:4200/api",
        "http://p.ns.svc:4200/x/api",
    ] {
        assert!(!same_api(&short, &url(other)), "{other}");
    }
}

fn full() -> ServerSpec {
    spec(json!({
        "name": "p",
        "apiKey": {"valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k1"}}},
        "headers": [
            {"name": "X-Plain", "value": "v"},
            {"name": "X-Secret", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k2"}}},
        ],
        "caBundle": {"valueFrom": {"secretKeyRef": {"name": "s3", "key": "ca.crt"}}},
    }))
}

fn values(pairs: &[(Purpose, &str)]) -> ReferenceValues {
    let mut values = ReferenceValues::default();
    for (purpose, text) in pairs {
        values.insert(*purpose, (*text).into());
    }
    values
}

/// A certificate authority for this test alone.
const PEM: &str = "-----BEGIN CERTIFICATE-----
MIIBdDCCARugAwIBAgIUU1gv1gHn9uHVYUEVqyyJdh3TtGwwCgYIKoZIzj0EAwIw
-----END CERTIFICATE-----
";

#[test]
fn every_reference_is_listed_with_the_field_that_it_is_for() {
    let listed: Vec<_> = references(&full())
        .into_iter()
        .map(|found| (found.kind, found.name, found.key, found.purpose.to_string()))
        .collect();
    let expected = [
        (
            ReferenceKind::ConfigMap,
            "cm",
            "k1",
            "spec.prefect.server.apiKey",
        ),
        (
            ReferenceKind::Secret,
            "s2",
            "k2",
            "spec.prefect.server.headers[1]",
        ),
        (
            ReferenceKind::Secret,
            "s3",
            "ca.crt",
            "spec.prefect.server.caBundle",
        ),
    ]
    .map(|(kind, name, key, field)| (kind, name.to_owned(), key.to_owned(), field.to_owned()));
    assert_eq!(listed, expected);
    let basic = spec(json!({
        "name": "p",
        "basicAuth": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "auth-string"}}},
    }));
    assert_eq!(references(&basic)[0].purpose, Purpose::BasicAuth);
    let inline = spec(json!({"name": "p", "apiKey": {"value": "k"}}));
    assert_eq!(references(&inline), []);
}

fn allowed(entries: &[&str]) -> AllowedServers {
    let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
    let services = ["./*".to_owned(), "other/p".to_owned()];
    AllowedServers::parse(&entries, &services).unwrap()
}

#[test]
fn a_host_must_be_allowed_unless_it_is_a_service_by_name() {
    let hosts = allowed(&["api.prefect.cloud"]);
    let check = |stanza| connection(&spec(stanza), "flows", &ReferenceValues::default(), &hosts);
    assert!(check(json!({"name": "p"})).is_ok());
    assert!(check(json!({"accountId": "a", "workspaceId": "w"})).is_ok());
    for url in [
        "https://evil.example.com",
        "http://p.flows.svc:4200/api",
        "https://user:canary@api.prefect.cloud/api",
        "https://169.254.169.254/",
    ] {
        let failure = check(json!({"remoteApiUrl": url})).unwrap_err();
        assert_eq!(failure.reason(), Reason::HostNotAllowed, "{url}");
        assert!(!format!("{failure} {failure:?}").contains("canary"));
    }
}

fn connect(spec: &ServerSpec, values: &ReferenceValues) -> Result<Connection, ServerError> {
    connection(spec, "flows", values, &allowed(&["*"]))
}

#[test]
fn connection_carries_auth_headers_and_ca_of_the_spec() {
    let values = values(&[
        (Purpose::ApiKey, "  pnu_key\n"),
        (Purpose::Header(1), "secret\n"),
        (Purpose::CaBundle, PEM),
    ]);
    let connection = connect(&full(), &values).unwrap();
    assert_eq!(connection.auth.identity(), (1, "pnu_key"));
    let headers: Vec<_> = connection
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose_secret()))
        .collect();
    assert_eq!(headers, [("x-plain", "v"), ("x-secret", "secret")]);
    assert_eq!(connection.ca.as_deref(), Some(PEM.trim()));
}

#[test]
fn only_equal_servers_with_equal_credentials_are_equal() {
    let base = values(&[
        (Purpose::ApiKey, "key"),
        (Purpose::Header(1), "secret"),
        (Purpose::CaBundle, PEM),
    ]);
    let one = connect(&full(), &base).unwrap();
    assert_eq!(one, connect(&full(), &base).unwrap());
    for (purpose, text) in [
        (Purpose::ApiKey, "other"),
        (Purpose::Header(1), "other"),
        (Purpose::CaBundle, &format!("{PEM}{PEM}")),
    ] {
        let mut values = base.clone();
        values.insert(purpose, text.into());
        assert_ne!(one, connect(&full(), &values).unwrap(), "{purpose}");
    }
    let mut elsewhere = full();
    elsewhere.namespace = Some("other".to_owned());
    assert_ne!(one, connect(&elsewhere, &base).unwrap());
}

#[test]
fn bearer_and_basic_with_the_same_text_differ() {
    let mut one = connect(&spec(json!({"name": "p"})), &ReferenceValues::default()).unwrap();
    let mut other = one.clone();
    one.auth = Auth::Bearer("a:b".into());
    other.auth = Auth::Basic("a:b".into());
    assert_ne!(one, other);
}

#[test]
fn basic_auth_loses_its_newline_but_not_a_space() {
    let stanza = spec(json!({
        "name": "p",
        "basicAuth": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    }));
    let found = connect(&stanza, &values(&[(Purpose::BasicAuth, "u:p \r\n")])).unwrap();
    assert_eq!(found.auth.identity(), (2, "u:p "));
}

#[test]
fn basic_auth_without_a_colon_is_refused_and_not_shown() {
    let stanza = spec(json!({
        "name": "p",
        "basicAuth": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    }));
    let refused = connect(&stanza, &values(&[(Purpose::BasicAuth, "pnu_canary")])).unwrap_err();
    assert_eq!(refused.reason(), Reason::ReferenceInvalid);
    assert!(!refused.to_string().contains("canary"), "{refused}");
}

#[test]
fn unusable_values_are_refused_by_field_and_never_shown() {
    let good = [
        (Purpose::ApiKey, "key"),
        (Purpose::Header(1), "secret"),
        (Purpose::CaBundle, PEM),
    ];
    for (purpose, text, expected) in [
        (
            Purpose::ApiKey,
            " \n",
            ServerError::EmptyValue {
                purpose: Purpose::ApiKey,
            },
        ),
        (
            Purpose::ApiKey,
            "canary\nkey",
            ServerError::InvalidHeaderValue {
                purpose: Purpose::ApiKey,
            },
        ),
        (
            Purpose::Header(1),
            "canary\u{1}",
            ServerError::InvalidHeaderValue {
                purpose: Purpose::Header(1),
            },
        ),
        (
            Purpose::Header(1),
            "canaryé",
            ServerError::InvalidHeaderValue {
                purpose: Purpose::Header(1),
            },
        ),
        (Purpose::CaBundle, "canary", ServerError::NotPem),
        (
            Purpose::CaBundle,
            "-----BEGIN CERTIFICATE-----\ncanary!\n-----END CERTIFICATE-----",
            ServerError::NotPem,
        ),
        (
            Purpose::CaBundle,
            "",
            ServerError::EmptyValue {
                purpose: Purpose::CaBundle,
            },
        ),
    ] {
        let mut values = values(&good);
        values.insert(purpose, text.into());
        let failure = connect(&full(), &values).unwrap_err();
        assert_eq!(failure, expected);
        assert_eq!(failure.reason(), Reason::ReferenceInvalid);
        assert!(failure.to_string().starts_with(&purpose.to_string()));
        assert!(!format!("{failure} {failure:?}").contains("canary"));
    }
}

#[test]
fn reports_the_field_of_a_missing_value() {
    let failure = connect(&full(), &ReferenceValues::default()).unwrap_err();
    assert_eq!(failure.reason(), Reason::ReferenceMissing);
    assert!(failure.to_string().contains("spec.prefect.server.apiKey"));
}

#[test]
fn headers_of_the_client_itself_are_refused() {
    for name in ["Authorization", "HOST", "Prefect-Csrf-Token", "a b", ""] {
        let stanza = spec(json!({"name": "p", "headers": [{"name": name, "value": "v"}]}));
        let failure = connect(&stanza, &ReferenceValues::default()).unwrap_err();
        assert_eq!(
            failure,
            ServerError::InvalidHeaderName { index: 0 },
            "{name}"
        );
    }
}

#[test]
fn connection_does_not_print_its_secrets() {
    let values = values(&[
        (Purpose::ApiKey, "canary"),
        (Purpose::Header(1), "canary"),
        (Purpose::CaBundle, PEM),
    ]);
    let printed = format!("{:?}", connect(&full(), &values).unwrap());
    assert!(printed.contains("http://p.flows.svc:4200/api"), "{printed}");
    assert!(!printed.contains("canary"), "{printed}");
}

#[test]
fn a_page_of_prefect_cloud_gets_the_url_of_its_api() {
    let (account, workspace) = (
        "9b649228-0419-40e1-9e0d-44954b5c0ab6",
        "d137367a-5055-44ff-b91c-6f7366c9e4c4",
    );
    let page = format!("account/{account}/workspace/{workspace}");
    for url in [
        format!("https://app.prefect.cloud/{page}"),
        format!("https://app.prefect.cloud/{page}/dashboard?g_range=x"),
        format!("https://app.prefect.cloud/{page}/#flow-runs"),
        format!("https://APP.prefect.cloud./{page}/api"),
        format!("https://app.prefect.cloud/#/{page}"),
        format!("https://api.prefect.cloud/{page}"),
        format!("https://app.prefect.cloud/api/accounts/{account}/workspaces/{workspace}"),
    ] {
        let error = self::url(json!({"remoteApiUrl": url})).unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidSpec);
        let text = error.to_string();
        let api =
            format!("https://api.prefect.cloud/api/accounts/{account}/workspaces/{workspace}");
        let ids = format!("accountId: {account} and workspaceId: {workspace}");
        assert!(text.contains(&api) && text.contains(&ids), "{url}: {text}");
        // The advice works.
        assert_eq!(self::url(json!({"remoteApiUrl": api})).unwrap(), api);
        let stanza = json!({"accountId": account, "workspaceId": workspace});
        assert_eq!(self::url(stanza).unwrap(), api);
    }
    for url in [
        "https://app.prefect.cloud".to_owned(),
        format!("https://app.prefect.cloud/account/{account}"),
        "https://app.prefect.cloud/account/a%20b/workspace/<x>".to_owned(),
    ] {
        let error = self::url(json!({"remoteApiUrl": url})).unwrap_err();
        assert_eq!(error, ServerError::CloudPageWithoutIds, "{url}");
    }
    // A self-hosted server may have such a path.
    let other = format!("https://prefect.example.com/{page}/api");
    assert_eq!(self::url(json!({"remoteApiUrl": other})).unwrap(), other);
}

#[test]
fn a_shared_connection_equals_no_other_one() {
    let spec = ServerSpec {
        remote_api_url: Some("https://api.prefect.cloud/api".to_owned()),
        ..ServerSpec::default()
    };
    let own = connection(
        &spec,
        "flows",
        &ReferenceValues::default(),
        &allowed(&["api.prefect.cloud"]),
    )
    .unwrap();
    let shared = |name: &str| Connection {
        shared: Some(name.to_owned()),
        ..own.clone()
    };
    assert_ne!(own, shared("cloud"));
    assert_ne!(shared("cloud"), shared("other"));
    assert_eq!(shared("cloud"), shared("cloud"));
    // Both are the same account, whose limit they share.
    assert_eq!(own.limit_key(), shared("cloud").limit_key());
}
