//! The resources of one run, which exist before the subject starts.
//!
//! Input: a subject and a workload. Output: a testbed with all resources.
//! Invariants: the upstream counts start at zero after the resources are created.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use testkit::control_plane::ControlPlane;

use crate::subject::Subject;
use crate::testbed::Testbed;
use crate::workload::Workload;

/// Concurrent requests while the resources are created.
const CONCURRENCY: usize = 16;
const CREATE_TIMEOUT: Duration = Duration::from_mins(10);

/// Sets up a testbed, and creates the resources of the workload in it.
///
/// # Errors
/// When a server does not start, or the API server rejects a resource.
pub async fn prepare<'a>(
    plane: &'a ControlPlane,
    subject: &dyn Subject,
    name: &str,
    workload: Workload,
) -> Result<Testbed<'a>> {
    let kind = subject.resource_kind();
    let mut testbed = Testbed::set_up(plane, name, workload, &kind).await?;
    testbed.uids = create(&testbed, subject).await?;
    testbed.reset_upstream_counts();
    Ok(testbed)
}

async fn create(testbed: &Testbed<'_>, subject: &dyn Subject) -> Result<Vec<String>> {
    let api: Api<DynamicObject> = Api::namespaced_with(
        testbed.client.clone(),
        &testbed.namespace,
        &subject.resource_kind(),
    );
    let created = stream::iter(0..testbed.workload.bindings).map(|index| {
        let api = api.clone();
        let resource = subject.resource(testbed, index);
        async move {
            let object = serde_json::from_value(resource)?;
            let created = api.create(&PostParams::default(), &object).await?;
            created.metadata.uid.context("a resource has no UID")
        }
    });
    let created = created.buffered(CONCURRENCY).try_collect::<Vec<_>>();
    tokio::time::timeout(CREATE_TIMEOUT, created)
        .await
        .context("the API server did not create the resources in time")?
}
