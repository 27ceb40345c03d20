//! Values that are missing, null or invalid.
//!
//! Input: values.
//! Output: the error of Helm, or objects that are rendered with the defaults.

use serde_json::{Value, json};
use testkit::folder::ScratchDir;
use testkit::helm::Helm;

use super::{CHART, HELMS, objects, template_with};

#[test]
fn schema_rejects_unknown_and_invalid_values() {
    for (set, named) in [
        ("surprise=1", "surprise"),
        ("operator.intervall=30s", "intervall"),
        ("image.tags=v1", "tags"),
        ("uninstall.wait=1s", "wait"),
        ("operator.refreshInterval=often", "refreshInterval"),
        ("operator.concurrency=0", "concurrency"),
        ("replicaCount=11", "replicaCount"),
        ("replicas=2", "replicas"),
        ("webhook.secret=mine", "secret"),
        ("ports.webhook=80", "webhook"),
        ("watchNamespaces={Flows}", "watchNamespaces"),
        ("image.digest=latest", "digest"),
        ("log.format=xml", "format"),
        ("metrics.tls.secret=mine", "secret"),
        ("runPods.watch=sometimes", "watch"),
        (
            "commonLabels.app\\.kubernetes\\.io/name=mine",
            "app.kubernetes.io/name",
        ),
        ("networkPolicy.egress.prefectPorts={}", "prefectPorts"),
        (
            "podDisruptionBudget.unhealthyPodEvictionPolicy=Never",
            "unhealthyPodEvictionPolicy",
        ),
        ("runPods.enabled=true", "enabled"),
        ("clusterServers.watch=true", "watch"),
        ("clusterServers.secrets[0].name=a", "namespace"),
        ("defaults.prefect.server=Cloud", "server"),
        ("metrics.perBinding=1000", "perBinding"),
        ("prometheusRule.enabled=1", "enabled"),
        ("prometheusRule.documentationUrl=docs", "documentationUrl"),
        ("dashboard.label=x", "label"),
    ] {
        for helm in HELMS {
            let rejected = template_with(helm, "op", "doppler", &[set]);
            assert_ne!(rejected.code, 0, "{set} was accepted");
            assert!(
                rejected.stderr.contains(named),
                "{set}: {}",
                rejected.stderr
            );
        }
    }
}

#[test]
fn missing_values_are_named_in_a_sentence() {
    for (sets, message) in [
        (
            &["serviceAccount.create=false"][..],
            "set serviceAccount.name to the account",
        ),
        (
            &["webhook.enabled=true"],
            "set webhook.secretName to an existing Secret",
        ),
        (
            &[
                "webhook.enabled=true",
                "webhook.secretName=a",
                "webhook.ingress.enabled=true",
            ],
            "set webhook.ingress.host to the host that Doppler calls",
        ),
        (
            &["metrics.tls.enabled=true"],
            "set metrics.tls.secretName to an existing Secret of type kubernetes.io/tls",
        ),
        (
            &["metrics.authorization=true"],
            "metrics.authorization is true: set metrics.tls.enabled to true",
        ),
        (
            &["podDisruptionBudget.enabled=true"],
            "Set replicaCount to 2 or more, or podDisruptionBudget.enabled to false",
        ),
        (
            &["defaults.prefect.server=cloud"],
            "set clusterServers.enabled=true as well",
        ),
        (
            &["image.repository="],
            "Set image.repository: no image is published yet",
        ),
        (&["image=null"], "Set image.repository"),
        (
            &[
                "webhook.enabled=true",
                "webhook.secretName=a",
                "webhook.httpRoute.enabled=true",
            ],
            "set webhook.httpRoute.parentRefs to the Gateways",
        ),
        (
            &["allNamespaces=false"],
            "Set watchNamespaces to the namespaces that the operator serves, or set allNamespaces to true",
        ),
        (
            &["watchNamespaces={flows}", "allNamespaces=true"],
            "allNamespaces is true, but watchNamespaces lists namespaces",
        ),
    ] {
        for helm in HELMS {
            let rejected = template_with(helm, "op", "doppler", sets);
            assert_ne!(rejected.code, 0, "{sets:?} was accepted");
            assert!(
                rejected.stderr.contains(message),
                "{sets:?}: {}",
                rejected.stderr
            );
        }
    }
}

/// The values of the chart without image.repository, which has no default.
fn defaults() -> Value {
    let text = std::fs::read_to_string(format!("{CHART}/values.yaml")).unwrap();
    let mut values: Value = serde_saphyr::from_str(&text).unwrap();
    values["image"]
        .as_object_mut()
        .unwrap()
        .remove("repository");
    values
}

/// Sections in which a null removes a default.
const REMOVABLE: [&str; 3] = ["resources", "podSecurityContext", "securityContext"];

/// Replaces each value that is not a map by null. [`REMOVABLE`] sections stay.
fn with_null_leaves(values: &Value) -> Value {
    let Value::Object(values) = values else {
        return Value::Null;
    };
    let entries = values.iter().map(|(key, value)| {
        let keep = REMOVABLE.contains(&key.as_str()) || value == &json!({});
        let value = if keep {
            value.clone()
        } else {
            with_null_leaves(value)
        };
        (key.clone(), value)
    });
    Value::Object(entries.collect())
}

/// Renders the chart with values files, of which the later ones take precedence.
fn template_with_files(helm: Helm, files: &[&Value]) -> String {
    let directory = ScratchDir::new("values").unwrap();
    let mut command = ["template", "op", CHART, "--namespace", "doppler"]
        .map(ToOwned::to_owned)
        .to_vec();
    for (number, values) in files.iter().enumerate() {
        let file = directory.path().join(format!("{number}.yaml"));
        std::fs::write(&file, values.to_string()).unwrap();
        command.extend(["--values".to_owned(), file.display().to_string()]);
    }
    helm.run(&command, None).unwrap().success().unwrap()
}

#[test]
fn null_values_have_their_defaults() {
    let defaults = defaults();
    let sections = defaults.as_object().unwrap().keys();
    let null_sections = sections.map(|key| (key.clone(), Value::Null)).collect();
    let null_sections = Value::Object(null_sections);
    let null_leaves = with_null_leaves(&defaults);
    let required =
        json!({"allNamespaces": true, "image": {"repository": "doppler-prefect-operator"}});
    // These sections are off by default.
    let optional = json!({
        "allNamespaces": true,
        "image": {"repository": "doppler-prefect-operator"},
        "webhook": {"enabled": true, "secretName": "a"},
        "metrics": {"tls": {"enabled": true, "secretName": "b"}, "authorization": true, "perBinding": true},
        "prometheusRule": {"enabled": true},
        "dashboard": {"enabled": true},
        "serviceMonitor": {"enabled": true},
        "networkPolicy": {"enabled": true, "egress": {"enabled": true}},
        "runPods": {"watch": true},
    });
    for helm in HELMS {
        for set in [&required, &optional] {
            let expected = template_with_files(helm, &[set]);
            for nulls in [&null_sections, &null_leaves] {
                let found = template_with_files(helm, &[nulls, set]);
                assert_eq!(found, expected, "{helm:?} {nulls} {set}");
            }
        }
    }
}

/// Editors show the descriptions beside the values.
#[test]
fn schema_describes_every_value() {
    fn check(path: &str, values: &Value, schema: &Value) {
        let (Some(values), Some(properties)) = (values.as_object(), schema.get("properties"))
        else {
            let description = schema["description"].as_str().unwrap_or_default();
            assert!(!description.is_empty(), "{path} has no description");
            return;
        };
        for (key, value) in values {
            check(&format!("{path}.{key}"), value, &properties[key]);
        }
    }
    let schema = std::fs::read_to_string(format!("{CHART}/values.schema.json")).unwrap();
    let mut values = defaults();
    // Their description is that of the whole section.
    values["resources"] = json!({});
    check("values", &values, &serde_json::from_str(&schema).unwrap());
}

#[test]
fn null_limit_removes_the_limit() {
    let objects = objects(&["resources.limits=null"]);
    let deployment = super::one(&objects, "Deployment");
    let resources = &super::container(deployment)["resources"];
    assert_eq!(
        *resources,
        json!({"requests": {"cpu": "10m", "memory": "24Mi"}})
    );
}
