//! The permissions of the chart for an operator that runs outside the cluster.
//!
//! Input: the manifests that Helm rendered.
//! Output: a kubeconfig of the service account, after its account, roles and bindings were applied.
//! The API server issues the token, so RBAC decides on each request as it does for a pod.
//! Invariants: grants nothing beyond the chart, and applies no objects of the chart's hooks.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::control_plane::ControlPlane;
use crate::kubernetes;

/// Longer than any test or demo runs.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

const KINDS: [&str; 5] = [
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
];

/// The operator's account.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// A kubeconfig with the account's token.
    pub kubeconfig: PathBuf,
}

impl Grant {
    /// The user name of the account in the API server.
    #[must_use]
    pub fn user(&self) -> String {
        format!(
            "system:serviceaccount:{}:{}",
            self.namespace, self.service_account
        )
    }
}

/// Applies the permissions of the rendered chart, namespaces first, and returns the account of its
/// Deployment.
///
/// # Errors
/// If the chart names no account, or the API server rejects an object.
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

/// Creates a kubeconfig for an existing service account.
///
/// # Errors
/// If the API server issues no token.
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
        .context("the token request has no status")?
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

/// The account of the chart's Deployment, or the only account of the chart.
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
            "{} service accounts, and no Deployment that names one",
            accounts.len()
        ),
    }
}

/// Creates the namespace if it is missing.
///
/// # Errors
/// Errors of the API server.
pub async fn ensure_namespace(client: &Client, name: &str) -> Result<()> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result
            .map(drop)
            .with_context(|| format!("cannot create namespace {name}")),
    }
}

#[cfg(test)]
mod tests;
