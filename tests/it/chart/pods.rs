//! Settings of the pods of the Deployment and of the detach Job.
//!
//! Input: sets of values.
//! Output: the pod templates, and whether a cluster that allocates the user of each pod admits them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use testkit::{kubernetes, wait};

use super::value_sets::VALUE_SETS;
use super::{container, objects, one};
use crate::world::plane;

fn set_named(purpose: &str) -> &'static [&'static str] {
    let found = VALUE_SETS.iter().find(|(name, _)| *name == purpose);
    found.unwrap_or_else(|| panic!("no set {purpose}")).1
}

fn pod_spec(sets: &[&str], kind: &str) -> Value {
    one(&objects(sets), kind).data["spec"]["template"]["spec"].clone()
}

#[test]
fn both_pods_have_the_settings_of_the_values() {
    let sets = set_named("settings of the pods");
    for kind in ["Deployment", "Job"] {
        let pod = pod_spec(sets, kind);
        for (pointer, expected) in [
            ("/runtimeClassName", json!("gvisor")),
            ("/dnsPolicy", json!("None")),
            ("/dnsConfig", json!({"nameservers": ["10.0.0.10"]})),
            (
                "/hostAliases",
                json!([{"ip": "10.0.0.1", "hostnames": ["prefect.example.com"]}]),
            ),
            ("/enableServiceLinks", json!(false)),
            ("/imagePullSecrets", json!([{"name": "mirror"}])),
            (
                "/securityContext",
                json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}),
            ),
        ] {
            let found = pod.pointer(pointer).unwrap_or(&Value::Null);
            assert_eq!(*found, expected, "{kind} {pointer}");
        }
        let image = pod["containers"][0]["image"].as_str().unwrap();
        assert!(
            image.starts_with("mirror.example.com/doppler-prefect-operator:"),
            "{image}"
        );
        let found = objects(sets);
        let labels = &one(&found, kind).data["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["team"], "platform", "{kind}");
    }
    // A container beside the detach Job would keep it from ending.
    let names = |pod: &Value, field: &str| {
        let containers = pod[field].as_array().cloned().unwrap_or_default();
        let names = containers.iter().map(|one| one["name"].clone());
        names.collect::<Vec<_>>()
    };
    let (operator, job) = (pod_spec(sets, "Deployment"), pod_spec(sets, "Job"));
    assert_eq!(names(&operator, "containers"), ["operator", "beside"]);
    assert_eq!(names(&operator, "initContainers"), ["first"]);
    assert_eq!(names(&job, "containers"), ["detach"]);
    assert!(names(&job, "initContainers").is_empty());
    let objects = objects(sets);
    let deployment = one(&objects, "Deployment");
    assert_eq!(deployment.data["spec"]["revisionHistoryLimit"], 2);
    assert_eq!(
        container(deployment)["args"],
        json!(["run", "--concurrency=8"])
    );
    assert_eq!(
        deployment.metadata.annotations.as_ref().unwrap()["note"],
        "x"
    );
}

/// A label of the user on a selector would make an upgrade impossible.
#[test]
fn every_object_has_the_common_labels_and_no_selector_has_them() {
    for object in objects(set_named("settings of the pods")) {
        let what = format!("{} {:?}", kubernetes::kind(&object), object.metadata.name);
        let labels = object.metadata.labels.as_ref().unwrap();
        assert_eq!(labels["team"], "platform", "{what}");
        let selector = &object.data["spec"]["selector"];
        assert!(!selector.to_string().contains("team"), "{what}: {selector}");
    }
}

#[test]
fn image_is_named_by_registry_repository_and_tag_or_digest() {
    let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let with_digest = format!("image.digest={digest}");
    let version = env!("CARGO_PKG_VERSION");
    for (sets, expected) in [
        (&[][..], format!("doppler-prefect-operator:{version}")),
        (
            &["image.registry=a.example.com:5000/"],
            format!("a.example.com:5000/doppler-prefect-operator:{version}"),
        ),
        (
            &["image.registry=a", "global.imageRegistry=b", "image.tag=t"],
            "b/doppler-prefect-operator:t".to_owned(),
        ),
        (
            &["image.registry=a", "image.tag=t", &with_digest],
            format!("a/doppler-prefect-operator@{digest}"),
        ),
    ] {
        assert_eq!(
            container(one(&objects(sets), "Deployment"))["image"],
            expected
        );
    }
}

#[test]
fn replicas_are_spread_over_nodes_if_possible() {
    let spread = |sets: &[&str]| pod_spec(sets, "Deployment")["topologySpreadConstraints"].clone();
    assert_eq!(spread(&[]), Value::Null);
    let soft = spread(&["replicaCount=2"]);
    assert_eq!(soft[0]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(soft[0]["whenUnsatisfiable"], "ScheduleAnyway");
    let labels = &soft[0]["labelSelector"]["matchLabels"];
    assert_eq!(labels["app.kubernetes.io/component"], "operator");
    let own = spread(&[
        "replicaCount=2",
        "topologySpreadConstraints[0].topologyKey=zone",
    ]);
    assert_eq!(own, json!([{"topologyKey": "zone"}]));
}

/// What the constraint `restricted-v2` of `OpenShift` refuses: a user that the namespace did not
/// allocate.
fn allocated_users_only(namespace: &str) -> Value {
    json!([
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": namespace},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                }]},
                "validations": [{
                    "expression": "!has(object.spec.securityContext.runAsUser) && object.spec.containers.all(c, !has(c.securityContext.runAsUser))",
                    "message": "runAsUser is not in the range of the namespace",
                }],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": namespace},
            "spec": {
                "policyName": namespace,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}},
            },
        },
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn openshift_admits_the_pods_without_a_fixed_user() -> Result<()> {
    let (namespace, client) = ("chart-openshift", plane()?.admin_client()?);
    let created = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    kubernetes::apply(&client, namespace, &created.to_string()).await?;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "op-doppler-prefect-operator"},
    });
    kubernetes::apply(&client, namespace, &account.to_string()).await?;
    for policy in allocated_users_only(namespace).as_array().unwrap() {
        kubernetes::apply(&client, namespace, &policy.to_string()).await?;
    }
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let create = async |sets: &[&str], kind: &str| {
        let pod = json!({"metadata": {"name": "a-pod"}, "spec": pod_spec(sets, kind)});
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let pod: Pod = serde_json::from_value(pod)?;
        anyhow::Ok(pods.create(&dry_run, &pod).await)
    };
    wait::until(
        Duration::from_secs(30),
        "a fixed user to be refused",
        async || match create(&[], "Deployment").await? {
            Err(kube::Error::Api(status)) if status.message.contains("runAsUser") => Ok(()),
            other => bail!("{other:?}"),
        },
    )
    .await?;
    let free = [
        "podSecurityContext.runAsUser=null",
        "podSecurityContext.runAsGroup=null",
    ];
    for kind in ["Deployment", "Job"] {
        create(&free, kind).await??;
    }
    Ok(())
}

/// The API server reads every object of every set as strictly as `kubectl apply` does.
#[tokio::test(flavor = "multi_thread")]
async fn api_server_accepts_every_object() -> Result<()> {
    let (namespace, client) = ("chart-accepted", plane()?.admin_client()?);
    let created = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    kubernetes::apply(&client, namespace, &created.to_string()).await?;
    let served = |object: &DynamicObject| {
        // The CRDs of these belong to other projects; the account of a Pod must exist.
        !["Pod", "HTTPRoute", "PrometheusRule", "ServiceMonitor"]
            .contains(&kubernetes::kind(object))
    };
    for (purpose, sets) in VALUE_SETS {
        for mut object in objects(sets).into_iter().filter(served) {
            if object.metadata.namespace.is_some() {
                object.metadata.namespace = Some(namespace.to_owned());
            }
            let what = format!(
                "{purpose}: {} {:?}",
                kubernetes::kind(&object),
                object.metadata.name
            );
            let api = kubernetes::api(&client, namespace, &object).await?;
            let params = PatchParams::apply("chart").force().dry_run();
            api.patch(&object.name_any(), &params, &Patch::Apply(&object))
                .await
                .context(what)?;
        }
    }
    Ok(())
}
