//! The chart with Helm 3 and Helm 4, and the manifest for users without Helm.
//!
//! Input: the chart and sets of values.
//! Output: the rendered objects (here), missing and invalid values (`values`), the permissions that
//! the chart grants (`permissions`), the admission policy (`policy`), protected metrics (`metrics`),
//! settings of the pods (`pods`), what reaches them (`exposure`), what the chart says of itself
//! (`metadata`), and what an installation leaves behind (`install`).

mod exposure;
mod install;
mod metadata;
mod metrics;
mod pages;
mod permissions;
mod pods;
mod policy;
mod value_sets;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use testkit::helm::{Helm, Output};
use testkit::kubernetes;

use self::value_sets::VALUE_SETS;
use crate::world::{CRD, SERVER_CRD};

const CHART: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/charts/doppler-prefect-operator"
);
const MANIFEST: &str = include_str!("../../../deploy/operator.yaml");
const BINARY: &str = env!("CARGO_BIN_EXE_doppler-prefect-operator");

/// An image is required; no test pulls it.
const IMAGE: &str = "image.repository=doppler-prefect-operator";

/// The versions of Helm that the chart supports.
const HELMS: [Helm; 2] = [Helm::V3, Helm::V4];

/// The operator serves all namespaces unless a set says otherwise.
fn scope(sets: &[&str]) -> Option<&'static str> {
    let chosen =
        |set: &&str| set.starts_with("watchNamespaces=") || set.starts_with("allNamespaces=");
    (!sets.iter().any(chosen)).then_some("allNamespaces=true")
}

fn with_sets<'a>(command: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = command.to_vec();
    for set in [IMAGE]
        .into_iter()
        .chain(scope(sets))
        .chain(sets.iter().copied())
    {
        arguments.extend(["--set", set]);
    }
    arguments
}

fn template_with(helm: Helm, release: &str, namespace: &str, sets: &[&str]) -> Output {
    let command = ["template", release, CHART, "--namespace", namespace];
    helm.run(&with_sets(&command, sets), None).unwrap()
}

fn template(release: &str, namespace: &str, sets: &[&str]) -> Output {
    template_with(Helm::V3, release, namespace, sets)
}

/// The manifests that Helm renders for a release `op` in the namespace `doppler`.
fn rendered(sets: &[&str]) -> String {
    template("op", "doppler", sets).success().unwrap()
}

fn objects(sets: &[&str]) -> Vec<DynamicObject> {
    kubernetes::documents(&rendered(sets)).unwrap()
}

fn names(objects: &[DynamicObject]) -> BTreeSet<String> {
    let name = |one: &DynamicObject| format!("{} {}", kubernetes::kind(one), one.name_any());
    objects.iter().map(name).collect()
}

fn one<'a>(objects: &'a [DynamicObject], kind: &str) -> &'a DynamicObject {
    let mut found = objects
        .iter()
        .filter(|object| kubernetes::kind(object) == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    first
}

fn container(object: &DynamicObject) -> &Value {
    &object.data["spec"]["template"]["spec"]["containers"][0]
}

fn environment(container: &Value) -> BTreeMap<&str, &Value> {
    let entries = container["env"].as_array().unwrap().iter();
    entries
        .map(|entry| (entry["name"].as_str().unwrap(), entry))
        .collect()
}

/// The security context of the pods, which names the user that they run as.
pub(crate) fn pod_security_context() -> Value {
    one(&objects(&[]), "Deployment").data["spec"]["template"]["spec"]["securityContext"].clone()
}

#[test]
fn helm_lint_passes_for_every_value_set() {
    for helm in HELMS {
        for (purpose, sets) in VALUE_SETS {
            let lint = helm
                .run(&with_sets(&["lint", "--strict", CHART], sets), None)
                .unwrap();
            assert_eq!(lint.code, 0, "{purpose}: {}{}", lint.stdout, lint.stderr);
        }
    }
}

/// Helm 3 and Helm 4 print them in another order.
#[test]
fn helm_3_and_helm_4_render_the_same_objects() {
    for (purpose, sets) in VALUE_SETS {
        let [three, four] = HELMS.map(|helm| {
            let rendered = template_with(helm, "op", "doppler", sets)
                .success()
                .unwrap();
            let objects = kubernetes::documents(&rendered).unwrap();
            let keyed = objects.into_iter().map(|object| {
                let name = (object.namespace(), object.name_any());
                ((kubernetes::kind(&object).to_owned(), name), object)
            });
            keyed.collect::<BTreeMap<_, _>>()
        });
        assert_eq!(three, four, "{purpose}");
    }
}

#[test]
fn each_value_set_renders_its_objects() {
    let defaults = names(&objects(&[]));
    let name = "op-doppler-prefect-operator";
    let expected: BTreeSet<String> = [
        "CustomResourceDefinition clusterprefectservers.doppler-prefect.dev".to_owned(),
        "CustomResourceDefinition dopplerprefectbindings.doppler-prefect.dev".to_owned(),
        format!("ServiceAccount {name}"),
        format!("ClusterRole {name}"),
        format!("ClusterRoleBinding {name}"),
        format!("ClusterRole {name}.doppler.view"),
        format!("ClusterRole {name}.doppler.admission"),
        format!("ClusterRoleBinding {name}.doppler.admission"),
        "MutatingAdmissionPolicy doppler-prefect-jobs".to_owned(),
        "MutatingAdmissionPolicyBinding doppler-prefect-jobs".to_owned(),
        format!("Role {name}-hash-key"),
        format!("RoleBinding {name}-hash-key"),
        format!("Role {name}-detach"),
        format!("RoleBinding {name}-detach"),
        format!("Service {name}-metrics"),
        format!("Deployment {name}"),
        format!("Job {name}-detach"),
        format!("Pod {name}-test"),
    ]
    .into();
    assert_eq!(defaults, expected);

    let listed = objects(VALUE_SETS[1].1);
    let wide: Vec<_> = listed
        .iter()
        .filter(|object| kubernetes::kind(object) == "ClusterRole")
        .map(|object| object.data["rules"].to_string())
        .collect();
    assert_eq!(
        wide.len(),
        4,
        "bindings, policy, Services elsewhere, and what users may view: {wide:?}"
    );
    assert!(!wide.concat().contains("secrets"), "{wide:?}");
    let narrow = kinds_of(&[
        "watchNamespaces={flows}",
        "rbac.terminatingNamespaces=false",
        "rbac.admission=false",
        "rbac.aggregateToView=false",
        "operator.allowedPrefectServices={./*}",
    ]);
    assert!(!narrow.contains("ClusterRole") && !narrow.contains("ClusterRoleBinding"));
    let roles: BTreeSet<_> = listed
        .iter()
        .filter(|object| kubernetes::kind(object) == "Role")
        .map(|object| (object.namespace().unwrap(), object.name_any()))
        .collect();
    let role = |namespace: &str, end: &str| (namespace.to_owned(), format!("{name}{end}"));
    let expected = [
        role("doppler", "-hash-key"),
        role("doppler", "-detach"),
        role("flows", ""),
        role("more", ""),
        role("prefect", "-work-pools"),
    ];
    assert_eq!(roles, expected.into());

    assert!(
        !kinds_of(&["crds.enabled=false"]).contains("CustomResourceDefinition"),
        "the CRD is not rendered"
    );
    let theirs = objects(VALUE_SETS[3].1);
    let account =
        &one(&theirs, "Deployment").data["spec"]["template"]["spec"]["serviceAccountName"];
    assert_eq!(account, "theirs");
    assert!(!names(&theirs).iter().any(|one| one.contains("Role")));

    let digest = objects(VALUE_SETS[4].1);
    for kind in ["Deployment", "Job"] {
        let image = container(one(&digest, kind))["image"].as_str().unwrap();
        assert!(
            image.starts_with("doppler-prefect-operator@sha256:"),
            "{image}"
        );
    }
    let watched = kinds_of(VALUE_SETS[5].1);
    assert!(watched.contains("ServiceMonitor") && watched.contains("NetworkPolicy"));
    assert!(!kinds_of(&["uninstall.detach=false"]).contains("Job"));
    let proxied = objects(VALUE_SETS[7].1);
    for kind in ["Deployment", "Job"] {
        let env = environment(container(one(&proxied, kind)));
        assert_eq!(env["HTTPS_PROXY"]["value"], "http://proxy:3128", "{kind}");
        assert_eq!(
            container(one(&proxied, kind))["volumeMounts"][0]["mountPath"],
            "/ca"
        );
    }
}

fn kinds_of(sets: &[&str]) -> BTreeSet<String> {
    let objects = objects(sets);
    objects
        .iter()
        .map(|object| kubernetes::kind(object).to_owned())
        .collect()
}

#[test]
fn several_replicas_render_lease_service_and_ingress() {
    let single = rendered(&[]);
    for word in ["coordination.k8s.io", "LEADER_ELECTION", "webhook"] {
        assert!(!single.contains(word), "{word} for one replica");
    }
    let objects = objects(VALUE_SETS[8].1);
    let name = "op-doppler-prefect-operator";
    let found = names(&objects);
    for expected in [
        format!("Role {name}-lease"),
        format!("RoleBinding {name}-lease"),
        format!("Service {name}-webhook"),
        format!("Ingress {name}-webhook"),
        format!("PodDisruptionBudget {name}"),
    ] {
        assert!(found.contains(&expected), "{expected}: {found:?}");
    }
    let deployment = one(&objects, "Deployment");
    let container = container(deployment);
    let env = environment(container);
    assert_eq!(env["LEADER_ELECTION"]["value"], "true");
    assert_eq!(env["LEASE_NAME"]["value"], name);
    assert_eq!(
        env["POD_IP"]["valueFrom"]["fieldRef"]["fieldPath"],
        "status.podIP"
    );
    let mount = &container["volumeMounts"][0];
    assert_eq!(mount["mountPath"], env["WEBHOOK_SECRETS"]["value"]);
    assert_eq!(mount["readOnly"], true);
    let policy = one(&objects, "NetworkPolicy").data["spec"].to_string();
    assert!(
        policy.contains(r#"{"port":"webhook","protocol":"TCP"}"#),
        "{policy}"
    );
    let ingress = one(&objects, "Ingress").data["spec"].to_string();
    assert!(
        ingress.contains("/webhooks/doppler") && !ingress.contains("metrics"),
        "{ingress}"
    );
    // The detach Job must acquire the same Lease.
    let job = environment(self::container(one(&objects, "Job")));
    assert_eq!(job["LEASE_NAME"]["value"], name);
}

#[test]
fn pods_are_watched_only_on_request() {
    for (watched, scope) in [
        (&[][..], "ClusterRole"),
        (&["watchNamespaces={flows}"], "Role"),
    ] {
        let off = rendered(watched);
        assert!(!off.contains("[pods]"), "{scope}");
        assert!(!off.contains("WATCH_RUN_PODS"), "{scope}");
        let objects = objects(&[watched, &["runPods.watch=true"]].concat());
        let env = environment(container(one(&objects, "Deployment")));
        assert_eq!(env["WATCH_RUN_PODS"]["value"], "true", "{scope}");
        let granting = objects.iter().filter_map(|object| {
            let rules = object.data["rules"].as_array()?;
            let rule = rules
                .iter()
                .find(|rule| rule["resources"] == json!(["pods"]))?;
            Some((kubernetes::kind(object), rule["verbs"].clone()))
        });
        let granting: Vec<_> = granting.collect();
        assert_eq!(granting, [(scope, json!(["list", "watch"]))]);
    }
}

#[test]
fn workloads_may_be_changed_only_on_request() {
    for (watched, scope) in [
        (&[][..], "ClusterRole"),
        (&["watchNamespaces={flows}"], "Role"),
    ] {
        let off = rendered(watched);
        assert!(!off.contains("statefulsets"), "{scope}");
        let objects = objects(&[watched, &["rbac.restarts=true"]].concat());
        let granting: Vec<_> = objects
            .iter()
            .filter_map(|object| {
                let rules = object.data["rules"].as_array()?;
                let rule = rules
                    .iter()
                    .find(|rule| rule["resources"].to_string().contains("statefulsets"))?;
                Some((kubernetes::kind(object), rule["verbs"].clone()))
            })
            .collect();
        assert_eq!(granting, [(scope, json!(["get", "list", "patch"]))]);
    }
}

/// Server-side apply cannot switch from one strategy to another.
#[test]
fn strategy_is_the_same_for_every_replica_count() {
    for count in ["replicaCount=0", "replicaCount=1", "replicaCount=3"] {
        let objects = objects(&[count]);
        let strategy = &one(&objects, "Deployment").data["spec"]["strategy"];
        let expected = json!({
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
        });
        assert_eq!(*strategy, expected, "{count}");
    }
}

#[test]
fn crd_is_kept_on_uninstall_unless_disabled() {
    let policy = |sets: &[&str]| {
        let objects = objects(sets);
        let crds = objects.iter();
        let crds = crds.filter(|object| kubernetes::kind(object) == "CustomResourceDefinition");
        crds.map(|crd| crd.annotations().get("helm.sh/resource-policy").cloned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        policy(&[]),
        [Some("keep".to_owned()), Some("keep".to_owned())]
    );
    assert_eq!(policy(&["crds.keep=false"]), [None, None]);
}

/// Some tools drop symbolic links, and Helm warns of them.
#[test]
fn crds_of_the_chart_are_current_files() {
    for (copy, kind, expected) in [
        ("crd.yaml", "dopplerprefectbindings", CRD),
        (
            "clusterprefectservers.yaml",
            "clusterprefectservers",
            SERVER_CRD,
        ),
    ] {
        let path = Path::new(CHART).join("files").join(copy);
        assert!(path.symlink_metadata().unwrap().is_file());
        let crd = std::fs::read_to_string(path).unwrap();
        assert!(
            crd == expected,
            "copy crds/{kind}.yaml to charts/doppler-prefect-operator/files/{copy}"
        );
    }
}

#[test]
fn cluster_servers_are_read_only_on_request_and_secrets_by_name() {
    let default = names(&objects(VALUE_SETS[1].1));
    assert!(!default.iter().any(|name| name.contains("cluster-servers")));
    let objects = objects(VALUE_SETS[12].1);
    let granting = objects.iter().filter(|object| {
        kubernetes::kind(object).ends_with("Role") && object.name_any().contains("cluster-servers")
    });
    let rules: BTreeMap<_, _> = granting
        .map(|role| {
            let home = role.namespace().unwrap_or_default();
            (home, role.data["rules"].clone())
        })
        .collect();
    assert_eq!(rules.len(), 2, "{rules:?}");
    assert_eq!(
        rules[""],
        json!([
            {"apiGroups": ["doppler-prefect.dev"], "resources": ["clusterprefectservers"], "verbs": ["list", "watch"]},
            {"apiGroups": ["doppler-prefect.dev"], "resources": ["clusterprefectservers/status"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
        ])
    );
    assert_eq!(
        rules["prefect"],
        json!([
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["ca"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["prefect-api-key", "header"], "verbs": ["get", "list", "watch"]},
        ])
    );
    let deployment = container(one(&objects, "Deployment"));
    let environment = environment(deployment);
    assert_eq!(environment["CLUSTER_SERVERS"]["value"], "true");
    assert_eq!(environment["DEFAULT_PREFECT_SERVER"]["value"], "cloud");
}

/// Otherwise a flag that is renamed in the binary would be ignored silently.
#[test]
fn binary_reads_every_environment_variable_of_the_chart() {
    let sets = [1, 8, 9, 10, 12].map(|number| VALUE_SETS[number].1);
    let with_all = sets.concat();
    let objects = objects(&with_all);
    for (kind, subcommand) in [("Deployment", "run"), ("Job", "detach")] {
        let container = container(one(&objects, kind));
        assert_eq!(container["args"][0], subcommand);
        let help = Command::new(BINARY)
            .args([subcommand, "--help"])
            .output()
            .unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        for name in environment(container).keys() {
            // DOPPLER_TIMEOUT and the like: `[env: NAME=]`.
            assert!(
                help.contains(&format!("[env: {name}=")),
                "{subcommand} does not read {name}: {help}"
            );
        }
    }
}

#[test]
fn plain_manifest_equals_the_rendered_chart() {
    let command = [
        "template",
        "doppler-prefect-operator",
        CHART,
        "--namespace",
        "doppler-prefect-operator",
        "--no-hooks",
        "--set",
        "allNamespaces=true,crds.enabled=false,admission.enabled=false,image.repository=REGISTRY/doppler-prefect-operator",
    ];
    let rendered = Helm::V3.run(&command, None).unwrap().success().unwrap();
    assert_eq!(
        rendered, MANIFEST,
        "deploy/operator.yaml is not current: render it again with the command of this test"
    );
}
