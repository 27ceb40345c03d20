//! The minimal client as a subject.
//!
//! Input: recorded writes, a concurrency, and a testbed with resources. Output: the writes of all
//! resources.
//! Invariants: two writes for each resource; the status is written after the Secret.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use kube::core::ApiResource;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::recorded::RecordedWrites;
use super::requests::{Paths, create, patch, send};
use crate::request_counter::client_of;
use crate::subject::{RunOptions, RunningSubject, Subject};
use crate::testbed::Testbed;

/// The minimal client.
pub struct Floor<'a> {
    subject: &'a dyn Subject,
    recorded: Arc<RecordedWrites>,
    concurrency: usize,
}

impl<'a> Floor<'a> {
    /// The floor of that subject.
    #[must_use]
    pub fn new(
        subject: &'a dyn Subject,
        recorded: Arc<RecordedWrites>,
        concurrency: usize,
    ) -> Self {
        Self {
            subject,
            recorded,
            concurrency,
        }
    }

    /// Creates the Secrets of a range of resources, and writes their statuses.
    ///
    /// # Errors
    /// When the API server rejects a write.
    pub async fn create(&self, testbed: &Testbed<'_>, range: Range<usize>) -> Result<()> {
        let RecordedWrites { secret, status, .. } = self.recorded.as_ref();
        self.write(testbed, range, secret, status)?.await
    }

    /// Replaces the data of all Secrets with one changed value, and writes all statuses with a
    /// changed message.
    ///
    /// # Errors
    /// When the API server rejects a write.
    pub async fn change(&self, testbed: &Testbed<'_>, generation: usize) -> Result<()> {
        let RecordedWrites { secret, status, .. } = self.recorded.as_ref();
        let (mut data, mut status) = (secret["data"].clone(), status.clone());
        if let Some(first) = data
            .as_object_mut()
            .and_then(|data| data.values_mut().next())
        {
            // One letter and three digits are valid base64: three bytes.
            *first = format!("d{:03}", generation % 1000).into();
        }
        let annotations = &secret["metadata"]["annotations"];
        let edit = json!([
            {"op": "add", "path": "/data", "value": data},
            {"op": "add", "path": "/metadata/annotations", "value": annotations},
        ]);
        if let Some(condition) = status.pointer_mut("/conditions/0/message") {
            *condition = format!("changed {generation:03}").into();
        }
        let all = 0..testbed.workload.bindings;
        self.write(testbed, all, &edit, &status)?.await
    }

    /// Both writes of each resource of the range. A list in `secret` is a JSON patch; an object is
    /// created.
    fn write(
        &self,
        testbed: &Testbed<'_>,
        range: Range<usize>,
        secret: &Value,
        status: &Value,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let is_patch = secret.is_array();
        let status = json!([{"op": "add", "path": "/status", "value": status}]);
        let (secret, status) = (secret.to_string(), status.to_string());
        let namespace = &testbed.namespace;
        let paths = Paths::of(namespace, &self.subject.resource_kind());
        let mut writes = Vec::with_capacity(range.len());
        for index in range {
            let uid = testbed.uids.get(index).context("the resource is missing")?;
            let name = self.subject.resource_name(index);
            let renamed = |text: &str| self.recorded.renamed(text, uid, &name, namespace);
            let secret_write = if is_patch {
                let target = self.subject.secret_name(index);
                patch(&format!("{}/{target}", paths.secrets), renamed(&secret))?
            } else {
                create(&paths.secrets, renamed(&secret))?
            };
            let status_path = format!("{}/{name}/status", paths.resources);
            writes.push((secret_write, patch(&status_path, renamed(&status))?));
        }
        let concurrency = self.concurrency;
        let grant = testbed.grant.clone();
        Ok(async move {
            let client = client_of(&grant).await?;
            let both = stream::iter(writes).map(|(secret, status)| {
                let client = client.clone();
                async move {
                    send(&client, secret).await?;
                    send(&client, status).await
                }
            });
            both.buffer_unordered(concurrency).try_collect::<()>().await
        })
    }
}

impl Subject for Floor<'_> {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn resource_kind(&self) -> ApiResource {
        self.subject.resource_kind()
    }

    fn resource(&self, testbed: &Testbed<'_>, index: usize) -> Value {
        self.subject.resource(testbed, index)
    }

    fn resource_name(&self, index: usize) -> String {
        self.subject.resource_name(index)
    }

    fn secret_name(&self, index: usize) -> String {
        self.subject.secret_name(index)
    }

    fn ready_condition(&self) -> &'static str {
        self.subject.ready_condition()
    }

    fn start<'a>(
        &'a self,
        testbed: &'a Testbed<'_>,
        _: &'a RunOptions,
    ) -> LocalBoxFuture<'a, Result<Box<dyn RunningSubject>>> {
        async move {
            let RecordedWrites { secret, status, .. } = self.recorded.as_ref();
            let all = 0..testbed.workload.bindings;
            let writes = self.write(testbed, all, secret, status)?;
            Ok(Box::new(Writing(tokio::spawn(writes))) as Box<dyn RunningSubject>)
        }
        .boxed_local()
    }
}

struct Writing(JoinHandle<Result<()>>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RunningSubject for Writing {
    fn pid(&self) -> Option<u32> {
        None
    }

    fn ensure_running(&self) -> Result<()> {
        Ok(())
    }

    fn wait_until_ready(&self, _: Duration) -> LocalBoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed_local()
    }

    fn stop(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<()>> {
        async move { (&mut self.0).await? }.boxed_local()
    }
}
