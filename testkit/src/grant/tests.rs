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

/// A client from the kubeconfig, as the operator creates it.
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
    // The authorizer learns of new bindings by a watch.
    crate::wait::until(
        std::time::Duration::from_secs(20),
        "the permissions to apply",
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
