//! Metrics with TLS and authorization in the chart.
//!
//! Input: sets of values.
//! Output: what is mounted, which permissions are granted, and how Prometheus scrapes.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::{container, environment, names, objects, one, rendered};

/// The values of protected metrics.
pub(super) const PROTECTED: [&str; 5] = [
    "watchNamespaces={flows}",
    "metrics.tls.enabled=true",
    "metrics.tls.secretName=metrics-tls",
    "metrics.authorization=true",
    "serviceMonitor.enabled=true",
];

/// The values of everything that watches the operator.
pub(super) const MONITORING: [&str; 4] = [
    "prometheusRule.enabled=true",
    "dashboard.enabled=true",
    "dashboard.annotations.grafana_folder=Operators",
    "metrics.perBinding=true",
];

fn endpoint(sets: &[&str]) -> Value {
    let objects = objects(sets);
    one(&objects, "ServiceMonitor").data["spec"]["endpoints"][0].clone()
}

#[test]
fn plain_metrics_need_no_permission_and_no_certificate() {
    let plain = rendered(&["serviceMonitor.enabled=true"]);
    for word in [
        "tokenreviews",
        "subjectaccessreviews",
        "METRICS_TLS",
        "METRICS_AUTHORIZATION",
    ] {
        assert!(!plain.contains(word), "{word}");
    }
    let endpoint = endpoint(&["serviceMonitor.enabled=true"]);
    assert_eq!(endpoint.get("scheme"), None);
}

#[test]
fn protected_metrics_render_certificate_permissions_and_monitor() {
    let objects = objects(&PROTECTED);
    let container = container(one(&objects, "Deployment"));
    let env = environment(container);
    assert_eq!(env["METRICS_AUTHORIZATION"]["value"], "true");
    let mount = &container["volumeMounts"][0];
    assert_eq!(mount["mountPath"], env["METRICS_TLS"]["value"]);
    assert_eq!(mount["readOnly"], true);
    let name = "op-doppler-prefect-operator.doppler";
    let found = names(&objects);
    for role in ["metrics-authorization", "metrics-reader"] {
        assert!(
            found.contains(&format!("ClusterRole {name}.{role}")),
            "{found:?}"
        );
    }
    let bound = objects
        .iter()
        .filter(|object| object.name_any().ends_with("metrics-reader"));
    assert_eq!(bound.count(), 1, "the chart binds the reader to no account");
    let monitor = endpoint(&PROTECTED);
    assert_eq!(monitor["scheme"], "https");
    let tls = json!({
        "serverName": "op-doppler-prefect-operator-metrics.doppler.svc",
        "ca": {"secret": {"name": "metrics-tls", "key": "ca.crt"}},
    });
    assert_eq!(monitor["tlsConfig"], tls);
    assert_eq!(
        monitor["bearerTokenFile"],
        "/var/run/secrets/kubernetes.io/serviceaccount/token"
    );
}

#[test]
fn monitor_takes_its_own_verification_and_token() {
    let own = [
        "serviceMonitor.tlsConfig.insecureSkipVerify=true",
        "serviceMonitor.authorization.credentials.name=token",
        "serviceMonitor.authorization.credentials.key=value",
    ];
    let monitor = endpoint(&[&PROTECTED[..], &own].concat());
    assert_eq!(monitor["tlsConfig"], json!({"insecureSkipVerify": true}));
    let credentials = json!({"credentials": {"name": "token", "key": "value"}});
    assert_eq!(monitor["authorization"], credentials);
    assert_eq!(monitor.get("bearerTokenFile"), None);
}

#[test]
fn tls_without_authorization_grants_nothing() {
    let tls = rendered(&PROTECTED[..3]);
    assert!(tls.contains("METRICS_TLS") && !tls.contains("METRICS_AUTHORIZATION"));
    assert!(!tls.contains("tokenreviews") && !tls.contains("metrics-reader"));
}
