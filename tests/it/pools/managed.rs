//! Work pools that a `PrefectWorkPool` object owns.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::grant::ensure_namespace;
use testkit::kubernetes;

use crate::work_pools::{USER_SOURCES, entry, template, with_sources};
use crate::world::{Setup, World, secret};

const WORK_POOL_KIND: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prefectworkpools.prefect.io}
spec:
  group: prefect.io
  names: {kind: PrefectWorkPool, plural: prefectworkpools, singular: prefectworkpool, listKind: PrefectWorkPoolList}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

/// prefect-operator's objects are in Prefect's namespace, seldom in that of its jobs: the chart's
/// `prefectNamespaces`.
const WORK_POOL_PERMISSIONS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: work-pools}
rules: [{apiGroups: [prefect.io], resources: [prefectworkpools], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: work-pools}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: work-pools}
subjects: [{kind: ServiceAccount, name: ACCOUNT, namespace: HOME}]
";

#[tokio::test(flavor = "multi_thread")]
async fn never_writes_a_pool_that_a_prefect_work_pool_owns() -> Result<()> {
    let prefect = "pool-managed-prefect";
    let setup = Setup::default().args(&["--prefect-namespace", prefect]);
    let mut world = World::without_operator("pool-managed", setup).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    ensure_namespace(&world.client, prefect).await?;
    let permissions = WORK_POOL_PERMISSIONS
        .replace("ACCOUNT", &world.grant.service_account)
        .replace("HOME", &world.grant.namespace);
    kubernetes::apply(&world.client, prefect, &permissions).await?;
    world.apply(WORK_POOL_KIND).await?;
    for (pool, namespace) in [("managed-here", "pool-managed"), ("managed-there", prefect)] {
        let server = json!({"remoteApiUrl": world.prefect.api_url()});
        create_managed_pool(&world, pool, namespace, &server).await?;
    }
    // An object for a pool of the same name on another server owns nothing here.
    let other = json!({"name": "another-server", "namespace": prefect});
    create_managed_pool(&world, "managed-elsewhere", "pool-managed", &other).await?;
    world.start_operator().await?;

    assert_only_owner_writes(&world, "managed-here", "pool-managed").await?;
    assert_only_owner_writes(&world, "managed-there", prefect).await?;
    world
        .bind_to("of-managed-elsewhere", "managed-elsewhere")
        .await?;
    world
        .until_pool("of-managed-elsewhere", "managed-elsewhere", "Patched")
        .await?;
    world.finish().await
}

/// Creates a pool, and an object that owns the pool of that name on `server`.
async fn create_managed_pool(
    world: &World,
    pool: &str,
    namespace: &str,
    server: &Value,
) -> Result<()> {
    let text = with_sources(&template(&world.name), USER_SOURCES);
    world.create_pool(pool, &text).await?;
    let owner = json!({
        "apiVersion": "prefect.io/v1", "kind": "PrefectWorkPool", "metadata": {"name": pool},
        "spec": {"type": "kubernetes", "server": server},
    });
    kubernetes::apply(&world.client, namespace, &owner.to_string()).await?;
    Ok(())
}

async fn assert_only_owner_writes(world: &World, pool: &str, namespace: &str) -> Result<()> {
    let binding = format!("of-{pool}");
    let written = world.last_write(pool).await?;
    world.bind_to(&binding, pool).await?;
    world.until_pool(&binding, pool, "Managed").await?;
    let condition = world
        .until_condition(&binding, "Injected", "False", "PoolManaged")
        .await?;
    let path = "/job_configuration/job_manifest/spec/template/spec/containers/0/envFrom/0";
    let object = format!("{namespace}/{pool}");
    for word in [
        object.as_str(),
        "spec.baseJobTemplate.patches",
        path,
        r#""op":"add""#,
    ] {
        ensure!(
            condition.message.contains(word),
            "{word}: {}",
            condition.message
        );
    }
    world.until_polls("unchanged", 2).await?;
    assert_eq!(
        world.last_write(pool).await?,
        written,
        "the pool was written"
    );

    // The owner applies the patch from the message.
    let ours = format!("[{},{}", entry(&binding, true), &USER_SOURCES[1..]);
    world
        .write_template(pool, &with_sources(&template(&world.name), &ours))
        .await?;
    world.until_pool(&binding, pool, "AlreadyPresent").await?;
    world.until_ready(&binding).await?;
    Ok(())
}
