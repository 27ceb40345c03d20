//! Admission policies and quotas of the API server that refuse the Secret, the status or the finalizer
//! of a binding.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use testkit::kubernetes;

use crate::check::run_check;
use crate::work_pools::template;
use crate::world::{Setup, World, secret};

/// A `ValidatingAdmissionPolicy` of the world's namespace.
struct Policy<'a> {
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    expression: &'a str,
    /// Another expression, for the message.
    message: &'a str,
}

/// The policy and its binding, both with the world's name. A `ConfigMap` shows when it has an effect.
fn policy(w: &World, policy: &Policy<'_>) -> [Value; 2] {
    let rule = |group: &str, version: &str, resource: &str| {
        json!({
            "apiGroups": [group], "apiVersions": [version], "resources": [resource],
            "operations": ["CREATE", "UPDATE"],
        })
    };
    let expression = format!("object.kind != 'ConfigMap' && ({})", policy.expression);
    let validation = json!({
        "expression": expression,
        "messageExpression": format!("object.kind == 'ConfigMap' ? 'active' : {}", policy.message),
    });
    let rules = [
        rule(policy.group, policy.version, policy.resource),
        rule("", "v1", "configmaps"),
    ];
    let name = json!({"name": w.name});
    [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": name,
            "spec": {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": rules}, "validations": [validation]},
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": name,
            "spec": {
                "policyName": w.name, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": w.name}}},
            },
        }),
    ]
}

async fn enforce(w: &World, objects: &[Value]) -> Result<()> {
    for object in objects {
        kubernetes::apply(&w.client, &w.name, &object.to_string()).await?;
    }
    w.until("the policy to have an effect", async || {
        ensure!(probe(w).await.is_err());
        Ok(())
    })
    .await
}

/// Creates a `ConfigMap` as a dry run, which an active policy refuses.
async fn probe(w: &World) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(w.client.clone(), &w.name);
    let mut map = ConfigMap::default();
    map.metadata.name = Some("probe".to_owned());
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    maps.create(&dry_run, &map).await?;
    Ok(())
}

async fn lift(w: &World, objects: &[Value]) -> Result<()> {
    for object in objects {
        kubernetes::delete(&w.client, &w.name, &object.to_string()).await?;
    }
    w.until("the policy to have no effect", async || probe(w).await)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_the_policy_that_refuses_a_secret() -> Result<()> {
    let mut w = World::without_operator("admission-policy", Setup::default()).await?;
    w.set_doppler_secret("A", &secret("a"));
    let objects = policy(
        &w,
        &Policy {
            group: "",
            version: "v1",
            resource: "secrets",
            expression: "has(object.metadata.labels) && 'team' in object.metadata.labels",
            message: "'add the label team, not ' + string(object.data['A'])",
        },
    );
    enforce(&w, &objects).await?;
    let (all_ok, output) = run_check(&w, &w.spec(), &[]).await?;
    let expected = "SecretRejected: checked: ValidatingAdmissionPolicy admission-policy rejects the request to create the Secret (\"add the label team, not [value]\")";
    ensure!(!all_ok && output.contains(expected), "{output}");

    w.start_operator().await?;
    w.apply_binding("b", &w.spec()).await?;
    let condition = w.until_not_ready("b", "SecretRejected").await?;
    let expected = "ValidatingAdmissionPolicy admission-policy rejects the request to create the Secret (\"add the label team, not [value]\")";
    ensure!(condition.message.contains(expected), "{condition:?}");

    let mut spec = w.spec();
    spec["managedSecret"] = json!({"labels": {"team": "flows"}});
    let (all_ok, output) = run_check(&w, &spec, &[]).await?;
    ensure!(
        all_ok && output.contains("the API server admits it"),
        "{output}"
    );
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;

    // An update is refused as well. The operator tries again without an event.
    w.apply_binding("b", &w.spec()).await?;
    w.until_not_ready("b", "SecretRejected").await?;
    lift(&w, &objects).await?;
    w.until_ready("b").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_the_quota_that_refuses_a_secret() -> Result<()> {
    let w = World::start("admission-quota").await?;
    w.set_doppler_secret("A", &secret("a"));
    let quotas: Api<ResourceQuota> = Api::namespaced(w.client.clone(), &w.name);
    w.apply(
        &json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-secrets"},
            "spec": {"hard": {"count/secrets": "0"}},
        })
        .to_string(),
    )
    .await?;
    w.until("the quota to be counted", async || {
        let status = quotas.get("no-secrets").await?.status.unwrap_or_default();
        ensure!(
            status
                .used
                .is_some_and(|used| used.contains_key("count/secrets"))
        );
        Ok(())
    })
    .await?;
    w.apply_binding("b", &w.spec()).await?;
    let condition = w.until_not_ready("b", "QuotaExceeded").await?;
    ensure!(
        condition.message.contains("ResourceQuota no-secrets")
            && condition.message.contains("limited: count/secrets=0"),
        "{condition:?}"
    );
    let (all_ok, output) = run_check(&w, &w.spec(), &[]).await?;
    let expected = "QuotaExceeded: checked: ResourceQuota no-secrets";
    ensure!(!all_ok && output.contains(expected), "{output}");
    quotas
        .delete("no-secrets", &DeleteParams::default())
        .await?;
    w.until_ready("b").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_a_shorter_status_while_one_field_is_refused() -> Result<()> {
    let w = World::start("admission-status").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.set_doppler_secret("PATH", &secret("/nowhere"));
    let objects = policy(
        &w,
        &Policy {
            group: "doppler-prefect.dev",
            version: "v1alpha1",
            resource: "dopplerprefectbindings/status",
            expression: "!has(object.status.excludedKeys)",
            message: "'no excluded keys'",
        },
    );
    enforce(&w, &objects).await?;
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    let status = w.status("b").await?;
    ensure!(status["excludedKeys"].is_null(), "{status}");
    let note = w.until_event("StatusRefused").await?;
    ensure!(
        note.contains("admission-status") && note.contains("no excluded keys"),
        "{note}"
    );
    let metrics = w.operator()?.metrics().await?;
    ensure!(
        metrics.contains("doppler_prefect_reports_total{reason=\"StatusRefused\"}"),
        "{metrics}"
    );
    // At rest, the refused status is written with backoff only.
    let before = w.writes(Some("status")).await?;
    w.until_polls("unchanged", 5).await?;
    let after = w.writes(Some("status")).await?;
    ensure!(after <= before + 3, "{before} and then {after} writes");

    lift(&w, &objects).await?;
    w.until("the whole status", async || {
        let status = w.status("b").await?;
        ensure!(status["excludedKeys"][0]["name"] == "PATH", "{status}");
        Ok(())
    })
    .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_refused_status_and_writes_it_later() -> Result<()> {
    let w = World::start("admission-no-status").await?;
    w.set_doppler_secret("A", &secret("a"));
    let objects = policy(
        &w,
        &Policy {
            group: "doppler-prefect.dev",
            version: "v1alpha1",
            resource: "dopplerprefectbindings/status",
            expression: "false",
            message: "'no status'",
        },
    );
    enforce(&w, &objects).await?;
    w.apply_binding("b", &w.spec()).await?;
    let note = w.until_event("StatusRefused").await?;
    ensure!(note.contains("no status"), "{note}");
    // The Secret does not wait for the status.
    w.until_values("b", &crate::world::pairs(&[("A", secret("a"))]))
        .await?;
    ensure!(w.binding("b").await?.data["status"].is_null());
    lift(&w, &objects).await?;
    let ready = w.until_ready("b").await?;
    ensure!(
        ready.reason == "Ready",
        "{}",
        w.binding("b").await?.name_any()
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_the_policy_that_refuses_the_finalizer() -> Result<()> {
    let w = World::start("admission-finalizer").await?;
    w.set_doppler_secret("A", &secret("a"));
    let pool = &w.name;
    w.create_pool(pool, &template(&w.name)).await?;
    let refuse = |expression, message| {
        let policy = Policy {
            group: "doppler-prefect.dev",
            version: "v1alpha1",
            resource: "dopplerprefectbindings",
            expression,
            message,
        };
        self::policy(&w, &policy)
    };
    let objects = refuse("!has(object.metadata.finalizers)", "'no finalizers'");
    enforce(&w, &objects).await?;
    w.bind_to("b", pool).await?;
    let condition = w.until_not_ready("b", "KubernetesError").await?;
    let expected = "ValidatingAdmissionPolicy admission-finalizer rejects the finalizer of the binding (\"no finalizers\")";
    ensure!(condition.message.contains(expected), "{condition:?}");
    ensure!(w.sources(pool).await?.is_empty(), "an unguarded entry");
    lift(&w, &objects).await?;
    w.until_ready("b").await?;

    // The same for the removal.
    let objects = refuse("has(object.metadata.finalizers)", "'keep finalizers'");
    enforce(&w, &objects).await?;
    w.delete_binding("b").await?;
    w.until("the message of the policy", async || {
        let message = w.condition("b", "Ready").await?.message;
        ensure!(message.contains("(\"keep finalizers\")"), "{message}");
        Ok(())
    })
    .await?;
    lift(&w, &objects).await?;
    w.until_binding_deleted("b").await?;
    w.finish().await
}
