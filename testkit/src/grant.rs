//! The rights of the chart, and nothing else, for an operator that runs outside a cluster.
//!
//! In: the manifests that helm rendered. Out: the service account's kubeconfig, after its account, roles and bindings were
//! applied. The token is minted by the API server, so RBAC decides on every request as it would in a pod.
//!
//! Never: a right that the chart does not give, or an object of the chart's hooks.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::control_plane::ControlPlane;
use crate::kubernetes;

/// Longer than any test or demo lasts.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

const KINDS: [&str; 5] = [
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
];

/// Who the operator is.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// A kubeconfig with its token.
    pub kubeconfig: PathBuf,
}

impl Grant {
    /// What the API server calls it.
    #[must_use]
    pub fn user(&self) -> String {
        format!(
            "system:serviceaccount:{}:{}",
            self.namespace, self.service_account
        )
    }
}

/// Applies what the rendered chart grants, its namespaces first, and gives the account of its Deployment.
///
/// # Errors
/// When the chart names no account, or the API server refuses something.
pub async fn grant_from_chart(
    plane: &ControlPlane,
    rendered: &str,
    namespace: &str,
) -> Result<Grant> {
    let objects = kubernetes::documents(rendered)?;
    let service_account = service_account_of(&objects)?;
    let client = plane.admin_client()?;
    let rights: Vec<_> = objects.into_iter().filter(is_rbac).collect();
    let mut namespaces: BTreeSet<_> = rights.iter().filter_map(ResourceExt::namespace).collect();
    namespaces.insert(namespace.to_owned());
    for namespace in &namespaces {
        ensure_namespace(&client, namespace).await?;
    }
    for object in &rights {
        kubernetes::apply(&client, namespace, &serde_json::to_string(object)?).await?;
    }
    let account = rights.iter().find(|object| {
        kubernetes::kind(object) == "ServiceAccount" && object.name_any() == service_account
    });
    let home = account
        .and_then(ResourceExt::namespace)
        .unwrap_or_else(|| namespace.to_owned());
    grant(plane, &home, &service_account).await
}

/// A kubeconfig for a service account that is there.
///
/// # Errors
/// When the API server gives no token for it.
pub async fn grant(plane: &ControlPlane, namespace: &str, service_account: &str) -> Result<Grant> {
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.admin_client()?, namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(service_account, &PostParams::default(), &request)
        .await;
    let answer = answer
        .with_context(|| format!("no token for service account {namespace}/{service_account}"))?;
    let token = answer
        .status
        .context("a token request without an answer")?
        .token;
    Ok(Grant {
        kubeconfig: plane
            .kubeconfig_for_token(&format!("{namespace}.{service_account}"), &token)?,
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
    })
}

fn is_rbac(object: &DynamicObject) -> bool {
    KINDS.contains(&kubernetes::kind(object)) && !object.annotations().contains_key("helm.sh/hook")
}

/// The account that the chart's Deployment runs as, or the only one that it makes.
fn service_account_of(objects: &[DynamicObject]) -> Result<String> {
    let of_deployment = objects
        .iter()
        .filter(|object| kubernetes::kind(object) == "Deployment")
        .find_map(|object| {
            object
                .data
                .pointer("/spec/template/spec/serviceAccountName")?
                .as_str()
        });
    if let Some(name) = of_deployment {
        return Ok(name.to_owned());
    }
    let accounts: Vec<_> = objects
        .iter()
        .filter(|object| is_rbac(object) && kubernetes::kind(object) == "ServiceAccount")
        .collect();
    match accounts[..] {
        [account] => Ok(account.name_any()),
        _ => bail!(
            "{} service accounts and no Deployment that names one",
            accounts.len()
        ),
    }
}

/// Makes the namespace if it is missing.
///
/// # Errors
/// Those of the API server.
pub async fn ensure_namespace(client: &Client, name: &str) -> Result<()> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result
            .map(drop)
            .with_context(|| format!("cannot make namespace {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use kube::api::ListParams;
    use kube::config::{KubeConfigOptions, Kubeconfig};

    const CHART: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: op}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: hook, annotations: {helm.sh/hook: pre-delete}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: op, namespace: granted-flows}
rules: [{apiGroups: [''], resources: [secrets], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: op, namespace: granted-flows}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: op}
subjects: [{kind: ServiceAccount, name: op, namespace: granted}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: op}
spec: {template: {spec: {serviceAccountName: op}}}
";

    /// As the operator makes its client: from the file.
    async fn client(grant: &Grant) -> Result<Client> {
        let file = Kubeconfig::read_from(&grant.kubeconfig)?;
        let mut config =
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        config.proxy_url = None;
        Ok(Client::try_from(config)?)
    }

    #[tokio::test]
    async fn the_account_has_only_the_charts_permissions() -> Result<()> {
        let plane = ControlPlane::shared()?;
        let grant = grant_from_chart(plane, CHART, "granted").await?;
        assert_eq!(grant.user(), "system:serviceaccount:granted:op");
        let client = client(&grant).await?;

        let granted: Api<Secret> = Api::namespaced(client.clone(), "granted-flows");
        // The authorizer hears of new bindings by a watch.
        crate::wait::until(
            std::time::Duration::from_secs(20),
            "the rights to count",
            async || granted.list(&ListParams::default()).await.map(drop),
        )
        .await?;

        let forbidden =
            |error: kube::Error| matches!(error, kube::Error::Api(status) if status.code == 403);
        let create = granted
            .create(&PostParams::default(), &Secret::default())
            .await;
        assert!(create.is_err_and(forbidden));
        let elsewhere: Api<Secret> = Api::namespaced(client.clone(), "default");
        assert!(
            elsewhere
                .list(&ListParams::default())
                .await
                .is_err_and(forbidden)
        );
        let others: Api<ConfigMap> = Api::namespaced(client, "granted-flows");
        assert!(
            others
                .list(&ListParams::default())
                .await
                .is_err_and(forbidden)
        );

        let accounts: Api<ServiceAccount> = Api::namespaced(plane.admin_client()?, "granted");
        assert!(
            accounts.get_opt("hook").await?.is_none(),
            "a hook's account was applied"
        );
        Ok(())
    }

    #[test]
    fn a_chart_without_deployment_needs_one_account() {
        let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}";
        let one = kubernetes::documents(account).unwrap();
        assert_eq!(service_account_of(&one).unwrap(), "a");
        assert!(
            service_account_of(&[])
                .unwrap_err()
                .to_string()
                .starts_with("0 service accounts")
        );
    }
}
