//! The ownership of the Secret: foreign, claimed, adopted, of another type; and the operator's
//! permissions.

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::json;

use super::{consent, create_foreign_secret, spec_with_secret};
use crate::world::{Setup, World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn never_changes_a_foreign_secret_and_replaces_it_once_deleted() -> Result<()> {
    let mut w = World::with("secret-foreign", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    create_foreign_secret(&w, "taken", json!({})).await?;
    let before = w.secrets().get("taken").await?;
    w.apply_binding("b", &spec_with_secret(&w, json!({"name": "taken"})))
        .await?;
    let condition = w.until_not_ready("b", "SecretForeign").await?;
    ensure!(condition.message.contains("taken"), "{}", condition.message);
    let synced = w.condition("b", "SecretSynced").await?;
    ensure!(
        synced.status == "False" && synced.reason == "SecretForeign",
        "{synced:?}"
    );
    w.until_event("SecretForeign").await?;

    // It also stays unchanged after its owner edits it, and after a restart of the operator.
    w.edit_secret(
        "taken",
        &json!({"metadata": {"labels": {"touched": "yes"}}}),
    )
    .await?;
    w.set_doppler_secret("A", &secret("b"));
    w.restart_operator().await?;
    w.until_not_ready("b", "SecretForeign").await?;
    let after = w.secrets().get("taken").await?;
    ensure!(
        after.data == before.data && after.annotations() == before.annotations(),
        "the operator changed it"
    );
    ensure!(
        after.owner_references().is_empty(),
        "the operator set an owner"
    );

    w.delete_secret("taken").await?;
    w.until_values("taken", &pairs(&[("A", secret("b"))]))
        .await?;
    w.until_ready("b").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_binding_keeps_a_foreign_secret() -> Result<()> {
    let w = World::with("secret-foreign-stays", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    create_foreign_secret(&w, "b", json!({})).await?;
    w.apply_binding("b", &w.spec()).await?;
    w.until_not_ready("b", "SecretForeign").await?;
    w.delete_binding("b").await?;
    w.until_binding_deleted("b").await?;
    w.until_values("b", &pairs(&[("MINE", secret("mine"))]))
        .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn adopts_only_a_secret_without_controller() -> Result<()> {
    let w = World::with("secret-adopt", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    create_foreign_secret(&w, "free", json!({})).await?;
    w.apply_binding(
        "adopts",
        &spec_with_secret(&w, json!({"name": "free", "adopt": true})),
    )
    .await?;
    // The author of a binding may not be able to read the Secret: its owner has to consent.
    let refused = w.until_not_ready("adopts", "SecretForeign").await?;
    let command = "kubectl -n secret-adopt annotate secret free doppler-prefect.dev/adopt=adopts";
    ensure!(refused.message.contains(command), "{}", refused.message);
    consent(&w, "free", "another").await?;
    w.edit_secret("free", &json!({"metadata": {"labels": {"seen": "yes"}}}))
        .await?;
    w.until_values("free", &pairs(&[("MINE", secret("mine"))]))
        .await?;
    consent(&w, "free", "adopts").await?;
    w.until_ready("adopts").await?;
    w.until_values("free", &pairs(&[("A", secret("a"))]))
        .await?;
    let adopted = w.secrets().get("free").await?;
    ensure!(
        adopted.labels()["owner"] == "me",
        "labels of others are kept"
    );
    ensure!(
        adopted.owner_references().is_empty(),
        "the garbage collector would delete it"
    );

    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "boss"}});
    w.apply(&map.to_string()).await?;
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(w.client.clone(), &w.name);
    let owner = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "boss", "uid": maps.get("boss").await?.uid(), "controller": true,
    });
    create_foreign_secret(
        &w,
        "controlled",
        json!({"metadata": {"name": "controlled", "ownerReferences": [owner]}}),
    )
    .await?;
    w.apply_binding(
        "refused",
        &spec_with_secret(&w, json!({"name": "controlled", "adopt": true})),
    )
    .await?;
    w.until_not_ready("refused", "SecretForeign").await?;
    w.until_values("controlled", &pairs(&[("MINE", secret("mine"))]))
        .await?;
    w.finish().await
}

/// By default, a Secret outlives the binding that adopted it, with and without work pools.
#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_secret_is_deleted_only_on_request() -> Result<()> {
    let w = World::with("secret-adopted", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.create_pool(&w.name, &crate::work_pools::template(&w.name))
        .await?;
    for (name, policy, pooled, stays) in [
        ("plain", None, false, true),
        ("pooled", None, true, true),
        ("explicit", Some("Delete"), false, false),
        ("explicit-pooled", Some("Delete"), true, false),
    ] {
        create_foreign_secret(&w, name, json!({})).await?;
        consent(&w, name, name).await?;
        let mut spec = spec_with_secret(&w, json!({"adopt": true}));
        if let Some(policy) = policy {
            spec["managedSecret"]["deletionPolicy"] = json!(policy);
        }
        if pooled {
            spec["inject"] = json!({"workPools": [{"name": w.name}]});
        }
        w.apply_binding(name, &spec).await?;
        w.until_ready(name).await?;
        w.delete_binding(name).await?;
        w.until_binding_deleted(name).await?;
        w.until_sources(&w.name, &[]).await?;
        if stays {
            let kept = w.secrets().get(name).await?;
            ensure!(kept.owner_references().is_empty(), "{name} has an owner");
            ensure!(kept.metadata.deletion_timestamp.is_none(), "{name}");
        } else {
            w.until_no_secret(name).await?;
        }
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_makes_consent_unnecessary() -> Result<()> {
    let setup = Setup::without_polls().args(&["--adopt-without-consent"]);
    let w = World::with("secret-adopt-flag", setup).await?;
    w.set_doppler_secret("A", &secret("a"));
    create_foreign_secret(&w, "b", json!({})).await?;
    w.apply_binding("b", &spec_with_secret(&w, json!({"adopt": true})))
        .await?;
    w.until_ready("b").await?;
    w.until_values("b", &pairs(&[("A", secret("a"))])).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn second_binding_takes_claimed_secret_after_first_is_deleted() -> Result<()> {
    let w = World::with("secret-claimed", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let token = format!("dp.st.prd.{}", secret(&w.name));
    w.doppler.add_service_token(&token, &w.name, "prd");
    w.put_token("prd-token", &token).await?;
    w.apply_binding("first", &spec_with_secret(&w, json!({"name": "shared"})))
        .await?;
    w.until_ready("first").await?;

    let mut spec = spec_with_secret(&w, json!({"name": "shared", "adopt": true}));
    spec["doppler"]["config"] = json!("prd");
    spec["doppler"]["accessToken"] =
        json!({"valueFrom": {"secretKeyRef": {"name": "prd-token", "key": "token"}}});
    w.apply_binding("second", &spec).await?;
    let condition = w.until_not_ready("second", "SecretClaimed").await?;
    ensure!(
        condition.message.contains("first"),
        "it does not say whose it is: {}",
        condition.message
    );
    w.until_values("shared", &pairs(&[("A", secret("a"))]))
        .await?;
    w.until_ready("first").await?;

    w.delete_binding("first").await?;
    w.until_ready("second").await?;
    w.until_values("shared", &pairs(&[("A", secret("prd"))]))
        .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn never_adopts_a_secret_of_another_type() -> Result<()> {
    let w = World::with("secret-type", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    let basic = json!({"type": "kubernetes.io/basic-auth", "stringData": {"username": "me", "password": secret("mine")}});
    create_foreign_secret(&w, "typed", basic).await?;
    consent(&w, "typed", "b").await?;
    let before = w.secrets().get("typed").await?;
    w.apply_binding(
        "b",
        &spec_with_secret(&w, json!({"name": "typed", "adopt": true})),
    )
    .await?;
    w.until_not_ready("b", "SecretWrongType").await?;
    let after = w.secrets().get("typed").await?;
    ensure!(
        after.resource_version() == before.resource_version(),
        "the operator changed it"
    );
    w.delete_secret("typed").await?;
    w.until_ready("b").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_has_only_the_permissions_of_the_chart() -> Result<()> {
    let w = World::without_operator("secret-permissions", Setup::default()).await?;
    let file = kube::config::Kubeconfig::read_from(&w.grant.kubeconfig)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
            .await?;
    config.proxy_url = None;
    let client = kube::Client::try_from(config)?;
    let may = async |verb: &str, resource: &str, namespace: &str| -> Result<bool> {
        let review =
            serde_json::from_value(json!({"metadata": {}, "spec": {"resourceAttributes": {
                "verb": verb, "resource": resource, "namespace": namespace,
            }}}))?;
        let reviews: kube::Api<k8s_openapi::api::authorization::v1::SelfSubjectAccessReview> =
            kube::Api::all(client.clone());
        Ok(reviews
            .create(&PostParams::default(), &review)
            .await?
            .status
            .is_some_and(|status| status.allowed))
    };
    w.until("the permissions to apply", async || {
        ensure!(may("get", "secrets", &w.name).await?);
        Ok(())
    })
    .await?;
    ensure!(
        !may("get", "secrets", "default").await?,
        "it may read Secrets elsewhere"
    );
    ensure!(
        !may("list", "secrets", &w.grant.namespace).await?,
        "it may list the Secrets of its own namespace"
    );
    ensure!(
        !may("get", "pods", &w.name).await? && !may("create", "pods", &w.name).await?,
        "it may access pods"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_missing_permission_and_recovers_once_granted() -> Result<()> {
    let mut w = World::without_operator("secret-forbidden", Setup::default()).await?;
    let roles: kube::Api<k8s_openapi::api::rbac::v1::Role> =
        kube::Api::namespaced(w.client.clone(), &w.name);
    let role = roles
        .list(&kube::api::ListParams::default())
        .await?
        .items
        .pop()
        .context("no Role of the chart")?;
    let mut less = role.clone();
    for rule in less.rules.iter_mut().flatten() {
        if rule
            .resources
            .as_ref()
            .is_some_and(|resources| resources.contains(&"secrets".to_owned()))
        {
            rule.verbs.retain(|verb| verb != "create");
        }
    }
    let name = role.name_any();
    let less = roles.replace(&name, &PostParams::default(), &less).await?;
    w.start_operator().await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.spec()).await?;
    let condition = w.until_not_ready("b", "SecretForbidden").await?;
    ensure!(
        condition.message.contains("create") && condition.message.contains(&w.name),
        "{}",
        condition.message
    );
    let mut all = role;
    all.metadata.resource_version = less.resource_version();
    roles.replace(&name, &PostParams::default(), &all).await?;
    w.until_ready("b").await?;
    w.finish().await
}
