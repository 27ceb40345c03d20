//! The chart with the real helm, and the manifest for those without it.
//!
//! In: the chart and value sets. Out: what is rendered and refused here, what it grants (`rights`), and what it installs and leaves behind (`install`).

mod install;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;
use testkit::helm::{Output, helm};
use testkit::kubernetes;

const CHART: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/charts/doppler-prefect-operator"
);
const MANIFEST: &str = include_str!("../../../deploy/operator.yaml");
const BINARY: &str = env!("CARGO_BIN_EXE_doppler-prefect-operator");

/// Value sets that people use, and what each is for.
const VALUE_SETS: [(&str, &[&str]); 9] = [
    ("the defaults", &[]),
    (
        "listed namespaces",
        &[
            "watchNamespaces={flows,more}",
            "prefectNamespaces={prefect,flows}",
        ],
    ),
    ("somebody else's CRD", &["crds.install=false"]),
    (
        "somebody else's account and rights",
        &[
            "serviceAccount.create=false",
            "serviceAccount.name=theirs",
            "rbac.create=false",
        ],
    ),
    (
        "a digest",
        &[
            "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "imagePullSecrets[0].name=pull",
        ],
    ),
    (
        "Prometheus and a network policy",
        &["serviceMonitor.enabled=true", "networkPolicy.enabled=true"],
    ),
    (
        "no hook",
        &["release.enabled=false", "fullnameOverride=dpo"],
    ),
    (
        "a proxy and a CA",
        &[
            "extraEnv[0].name=HTTPS_PROXY",
            "extraEnv[0].value=http://proxy:3128",
            "extraVolumes[0].name=ca",
            "extraVolumes[0].configMap.name=ca",
            "extraVolumeMounts[0].name=ca",
            "extraVolumeMounts[0].mountPath=/ca",
            "nodeSelector.disk=ssd",
            "tolerations[0].operator=Exists",
            "podLabels.team=data",
            "podAnnotations.note=x",
            "priorityClassName=high",
        ],
    ),
    (
        "several replicas that take hooks",
        &[
            "watchNamespaces={flows}",
            "replicas=3",
            "podDisruptionBudget.enabled=true",
            "networkPolicy.enabled=true",
            "hooks.enabled=true",
            "hooks.secretName=hooks",
            "hooks.ingress.enabled=true",
            "hooks.ingress.host=hooks.example.com",
            "hooks.ingress.tlsSecretName=hooks-tls",
        ],
    ),
];

fn with_sets<'a>(command: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = command.to_vec();
    for set in sets {
        arguments.extend(["--set", set]);
    }
    arguments
}

fn template(release: &str, namespace: &str, sets: &[&str]) -> Output {
    let command = ["template", release, CHART, "--namespace", namespace];
    helm(&with_sets(&command, sets), None).unwrap()
}

/// What helm renders for a release `op` in namespace `doppler`.
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

/// What the chart says of the user that its pods run as.
pub(crate) fn pod_security_context() -> Value {
    one(&objects(&[]), "Deployment").data["spec"]["template"]["spec"]["securityContext"].clone()
}

#[test]
fn helm_lint_passes_for_every_value_set() {
    for (what, sets) in VALUE_SETS {
        let found = helm(&with_sets(&["lint", "--strict", CHART], sets), None).unwrap();
        assert_eq!(found.code, 0, "{what}: {}{}", found.stdout, found.stderr);
    }
}

#[test]
fn each_value_set_renders_its_objects() {
    let defaults = names(&objects(&[]));
    let name = "op-doppler-prefect-operator";
    let expected: BTreeSet<String> = [
        "CustomResourceDefinition dopplerprefectbindings.doppler-prefect.dev".to_owned(),
        format!("ServiceAccount {name}"),
        format!("ClusterRole {name}"),
        format!("ClusterRoleBinding {name}"),
        format!("Role {name}-hash-key"),
        format!("RoleBinding {name}-hash-key"),
        format!("Role {name}-release"),
        format!("RoleBinding {name}-release"),
        format!("Service {name}-metrics"),
        format!("Deployment {name}"),
        format!("Job {name}-release"),
    ]
    .into();
    assert_eq!(defaults, expected);

    let listed = objects(VALUE_SETS[1].1);
    let wide = one(&listed, "ClusterRole").data["rules"].to_string();
    assert!(!wide.contains("secrets"), "{wide}");
    let narrow = kinds_of(&[
        "watchNamespaces={flows}",
        "rbac.terminatingNamespaces=false",
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
        role("doppler", "-release"),
        role("flows", ""),
        role("more", ""),
        role("prefect", "-work-pools"),
    ];
    assert_eq!(roles, expected.into());

    assert!(
        !kinds_of(&["crds.install=false"]).contains("CustomResourceDefinition"),
        "the CRD is left out"
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
    assert!(!kinds_of(&["release.enabled=false"]).contains("Job"));
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
fn schema_rejects_unknown_and_invalid_values() {
    for (set, named) in [
        ("surprise=1", "surprise"),
        ("operator.intervall=30s", "intervall"),
        ("image.tags=v1", "tags"),
        ("release.wait=1s", "wait"),
        ("operator.refreshInterval=often", "refreshInterval"),
        ("operator.concurrency=0", "concurrency"),
        ("replicas=11", "replicas"),
        ("hooks.secret=mine", "secret"),
        ("ports.hooks=80", "hooks"),
        ("watchNamespaces={Flows}", "watchNamespaces"),
        ("image.digest=latest", "digest"),
        ("log.format=xml", "format"),
    ] {
        let refused = template("op", "doppler", &[set]);
        assert_ne!(refused.code, 0, "{set} was taken");
        assert!(refused.stderr.contains(named), "{set}: {}", refused.stderr);
    }
    let nameless = template("op", "doppler", &["serviceAccount.create=false"]);
    assert!(
        nameless.stderr.contains("give serviceAccount.name"),
        "{}",
        nameless.stderr
    );
    for (sets, named) in [
        (&["hooks.enabled=true"][..], "give hooks.secretName"),
        (
            &[
                "hooks.enabled=true",
                "hooks.secretName=a",
                "hooks.ingress.enabled=true",
            ],
            "give hooks.ingress.host",
        ),
    ] {
        let refused = template("op", "doppler", sets);
        assert!(refused.stderr.contains(named), "{}", refused.stderr);
    }
}

#[test]
fn several_replicas_render_lease_service_and_ingress() {
    let alone = rendered(&[]);
    for word in [
        "coordination.k8s.io",
        "LEADER_ELECTION",
        "hooks",
        "RollingUpdate",
    ] {
        assert!(!alone.contains(word), "{word} for one replica");
    }
    let objects = objects(VALUE_SETS[8].1);
    let name = "op-doppler-prefect-operator";
    let found = names(&objects);
    for expected in [
        format!("Role {name}-lease"),
        format!("RoleBinding {name}-lease"),
        format!("Service {name}-hooks"),
        format!("Ingress {name}-hooks"),
        format!("PodDisruptionBudget {name}"),
    ] {
        assert!(found.contains(&expected), "{expected}: {found:?}");
    }
    let deployment = one(&objects, "Deployment");
    assert_eq!(deployment.data["spec"]["strategy"]["type"], "RollingUpdate");
    let container = container(deployment);
    let env = environment(container);
    assert_eq!(env["LEADER_ELECTION"]["value"], "true");
    assert_eq!(env["LEASE_NAME"]["value"], name);
    assert_eq!(
        env["POD_IP"]["valueFrom"]["fieldRef"]["fieldPath"],
        "status.podIP"
    );
    let mount = &container["volumeMounts"][0];
    assert_eq!(mount["mountPath"], env["HOOK_SECRETS"]["value"]);
    assert_eq!(mount["readOnly"], true);
    let policy = one(&objects, "NetworkPolicy").data["spec"].to_string();
    assert!(
        policy.contains(r#"{"port":"hooks","protocol":"TCP"}"#),
        "{policy}"
    );
    let ingress = one(&objects, "Ingress").data["spec"].to_string();
    assert!(
        ingress.contains("/hooks/doppler") && !ingress.contains("metrics"),
        "{ingress}"
    );
    // The release Job must know which lease to take.
    let job = environment(self::container(one(&objects, "Job")));
    assert_eq!(job["LEASE_NAME"]["value"], name);
}

/// A flag that is renamed in the binary and not in the chart would be ignored silently.
#[test]
fn binary_reads_every_environment_variable_of_the_chart() {
    let with_all = [VALUE_SETS[1].1, VALUE_SETS[8].1].concat();
    let objects = objects(&with_all);
    for (kind, subcommand) in [("Deployment", "run"), ("Job", "release")] {
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
        "crds.install=false",
    ];
    let rendered = helm(&command, None).unwrap().success().unwrap();
    assert_eq!(
        rendered, MANIFEST,
        "deploy/operator.yaml is not what the chart renders"
    );
}
