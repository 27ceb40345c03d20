//! Tests of the behaviour that other tests rely on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, anyhow};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Resource, ResourceExt};

use super::ControlPlane;
use crate::{kubernetes, wait};

const LIMIT: Duration = Duration::from_mins(1);

fn config_map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map
}

#[tokio::test]
async fn collects_objects_whose_owner_is_gone() -> Result<()> {
    let client = ControlPlane::shared()?.admin_client()?;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let owner = maps
        .create(&PostParams::default(), &config_map("gc-owner"))
        .await?;
    let mut dependent = config_map("gc-owned");
    let reference: OwnerReference = owner
        .owner_ref(&())
        .ok_or_else(|| anyhow!("no owner reference"))?;
    dependent.metadata.owner_references = Some(vec![reference]);
    maps.create(&PostParams::default(), &dependent).await?;
    maps.delete("gc-owner", &DeleteParams::background()).await?;
    wait::until(LIMIT, "the owned object to be collected", async || {
        let still = maps.get_opt("gc-owned").await?;
        if still.is_none() {
            Ok(())
        } else {
            Err(anyhow!("it is there"))
        }
    })
    .await
}

#[tokio::test]
async fn a_job_creates_a_pod() -> Result<()> {
    let client = ControlPlane::shared()?.admin_client()?;
    let job = "
apiVersion: batch/v1
kind: Job
metadata: {name: makes-a-pod}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: none, command: ['true']}]
";
    kubernetes::apply(&client, "default", job).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let params = ListParams::default().labels("job-name=makes-a-pod");
    wait::until(LIMIT, "the Job's pod", async || {
        let pods = pods.list(&params).await?.items;
        pods.into_iter().next().ok_or_else(|| anyhow!("no pod"))
    })
    .await?;
    kubernetes::delete(&client, "default", job).await?;
    let jobs: Api<Job> = Api::namespaced(client, "default");
    wait::until(LIMIT, "the Job to go", async || {
        jobs.get_opt("makes-a-pod")
            .await
            .ok()?
            .is_none()
            .then_some(())
    })
    .await
}

#[tokio::test]
async fn deleting_a_namespace_deletes_its_objects() -> Result<()> {
    let client = ControlPlane::shared()?.admin_client()?;
    let yaml = "
apiVersion: v1
kind: ConfigMap
metadata: {name: inside, namespace: short-lived}
---
apiVersion: v1
kind: Namespace
metadata: {name: short-lived}
";
    kubernetes::apply(&client, "default", yaml).await?;
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces
        .delete("short-lived", &DeleteParams::default())
        .await?;
    wait::until(LIMIT, "the namespace to go", async || {
        namespaces
            .get_opt("short-lived")
            .await
            .ok()?
            .is_none()
            .then_some(())
    })
    .await
}

#[tokio::test]
async fn applies_a_crd_and_its_resource_together() -> Result<()> {
    let client = ControlPlane::shared()?.admin_client()?;
    let yaml = "
apiVersion: testkit.example/v1
kind: Thing
metadata: {name: a-thing}
spec: {size: 3}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.testkit.example}
spec:
  group: testkit.example
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, maximum: 5}}}
";
    let applied = kubernetes::apply(&client, "default", yaml).await?;
    let names: Vec<_> = applied.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["things.testkit.example", "a-thing"]);
    assert_eq!(applied[1].namespace().as_deref(), Some("default"));

    let refused = kubernetes::apply(&client, "default", &yaml.replace("size: 3", "size: 9")).await;
    let refused = format!("{:#}", refused.unwrap_err());
    assert!(
        refused.contains("Thing a-thing") && refused.contains("less than or equal to 5"),
        "{refused}"
    );

    kubernetes::delete(&client, "default", yaml).await?;
    kubernetes::delete(
        &client,
        "default",
        "{apiVersion: v1, kind: Secret, metadata: {name: never-was}}",
    )
    .await
}

#[tokio::test]
async fn serves_metrics_and_version() -> Result<()> {
    let plane = ControlPlane::shared()?;
    let metrics = plane.apiserver_metrics().await?;
    assert!(
        metrics.contains("apiserver_request_total{"),
        "no request counter"
    );
    let version = plane.admin_client()?.apiserver_version().await?;
    let expected = plane.version();
    assert_eq!(version.major, expected.major.to_string());
    assert_eq!(version.minor, expected.minor.to_string());
    if let Ok(selected) = std::env::var(super::VERSION_VARIABLE) {
        assert_eq!(format!("{}.{}", version.major, version.minor), selected);
    }
    Ok(())
}

#[tokio::test]
async fn keeps_objects_across_an_apiserver_restart() -> Result<()> {
    // Other tests use the shared control plane, which must not restart.
    let plane = ControlPlane::start(super::Options::default()).await?;
    let mut map = config_map("kept");
    map.data = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    let maps: Api<ConfigMap> = Api::namespaced(plane.admin_client()?, "default");
    maps.create(&PostParams::default(), &map).await?;
    plane.stop_apiserver();
    assert!(maps.get("kept").await.is_err());
    plane.start_apiserver().await?;
    let maps: Api<ConfigMap> = Api::namespaced(plane.admin_client()?, "default");
    assert_eq!(maps.get("kept").await?.data, map.data);
    Ok(())
}
