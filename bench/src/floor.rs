//! The floor: the least that any operator needs for the same writes. A plain client that knows all of it beforehand: for each resource it creates
//! the same Secret and writes the same status, once each, and waits for nothing else.
//!
//! In: what the subject wrote for one resource, and a concurrency. Out: the same bytes for every other, with names and UIDs exchanged. It has the
//! rights of the subject and is counted and queued as the subject is. The concurrency is the one at which it was fastest.
//!
//! Never: a read, a retry of its own, or more than two writes for a resource.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use http::{Request, header};
use k8s_openapi::api::core::v1::Secret;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::Bench;
use super::figures::sync::{self, LIMIT};
use super::observe::ledger::client_of;
use super::observe::watch::Watching;
use super::scene::{Plan, Scene};
use super::subject::{How, Running, Subject};

/// Answers hold no more than they must.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// What is known of the floor before anything is measured.
#[derive(Clone, Debug)]
pub struct Known {
    copied: Arc<Copied>,
    /// The concurrency at which it is fastest.
    pub concurrency: usize,
    /// For each concurrency that was tried: how many resources a second.
    pub tried: Vec<(usize, f64)>,
}

/// What the subject wrote for its first resource.
#[derive(Debug)]
struct Copied {
    secret: Value,
    status: Value,
    uid: String,
    name: String,
    namespace: String,
}

/// Lets the subject sync a few resources, takes what it wrote for the first, and finds the concurrency.
///
/// # Errors
/// When the subject does not sync them.
pub async fn know(bench: &Bench<'_>) -> Result<Known> {
    let sizes = &bench.sizes;
    let plan = Plan {
        bindings: 1,
        ..bench.plan()
    };
    let how = How::without_polls();
    let synced = sync::cold(bench, bench.subject, "floor-copied", plan, &how).await?;
    let copied = Arc::new(Copied::of(&synced.scene, bench.subject).await?);
    synced.running.stop().await?;

    let plan = Plan {
        bindings: sizes.pace * sizes.paces.len(),
        ..bench.plan()
    };
    let scene = Scene::set(bench.plane, bench.subject, "floor-pace", plan).await?;
    let watching = Watching::start(&scene, bench.subject).await?;
    let mut tried = Vec::new();
    for (at, &concurrency) in sizes.paces.iter().enumerate() {
        let floor = Floor {
            of: bench.subject,
            known: Known {
                copied: Arc::clone(&copied),
                concurrency,
                tried: Vec::new(),
            },
        };
        let range = at * sizes.pace..(at + 1) * sizes.pace;
        let begun = Instant::now();
        floor.create(&scene, range).await?;
        watching.until_synced(LIMIT, (at + 1) * sizes.pace).await?;
        tried.push((concurrency, per_second(sizes.pace, begun.elapsed())));
    }
    let fastest = tried.iter().max_by(|one, other| one.1.total_cmp(&other.1));
    let concurrency = fastest.context("no concurrency was tried")?.0;
    Ok(Known {
        copied,
        concurrency,
        tried,
    })
}

#[allow(clippy::cast_precision_loss)] // Counts are far below the limit of exactness.
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

impl Copied {
    async fn of(scene: &Scene<'_>, subject: &dyn Subject) -> Result<Self> {
        let (client, namespace) = (scene.client.clone(), scene.namespace.as_str());
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let mut secret = secrets.get(&subject.target(0)).await?;
        let meta = &mut secret.metadata;
        (meta.uid, meta.resource_version, meta.managed_fields) = (None, None, None);
        meta.creation_timestamp = None;
        let name = subject.resource_name(0);
        let resources: Api<DynamicObject> =
            Api::namespaced_with(client, namespace, &subject.kind());
        let resource = resources.get(&name).await?;
        Ok(Self {
            secret: serde_json::to_value(&secret)?,
            status: resource.data["status"].clone(),
            uid: resource.metadata.uid.context("a resource without a UID")?,
            name,
            namespace: namespace.to_owned(),
        })
    }
}

/// The plain client.
pub struct Floor<'a> {
    of: &'a dyn Subject,
    known: Known,
}

impl<'a> Floor<'a> {
    /// The floor of `of`.
    #[must_use]
    pub fn new(of: &'a dyn Subject, known: &Known) -> Self {
        Self {
            of,
            known: known.clone(),
        }
    }

    /// Creates the Secrets of these resources and writes their statuses.
    async fn create(&self, scene: &Scene<'_>, range: Range<usize>) -> Result<()> {
        let copied = &self.known.copied;
        self.write(scene, range, &copied.secret, &copied.status)?
            .await
    }

    /// Replaces the data of all Secrets, with one value that differs, and writes the statuses, which then differ as well.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn change(&self, scene: &Scene<'_>, generation: usize) -> Result<()> {
        let Copied { secret, status, .. } = self.known.copied.as_ref();
        let (mut data, mut status) = (secret["data"].clone(), status.clone());
        if let Some(first) = data
            .as_object_mut()
            .and_then(|data| data.values_mut().next())
        {
            // A letter and three digits are base64 of three bytes.
            *first = format!("d{:03}", generation % 1000).into();
        }
        let edit = json!([
            {"op": "add", "path": "/data", "value": data},
            {"op": "add", "path": "/metadata/annotations", "value": secret["metadata"]["annotations"]},
        ]);
        if let Some(condition) = status.pointer_mut("/conditions/0/message") {
            *condition = format!("changed {generation:03}").into();
        }
        self.write(scene, 0..scene.plan.bindings, &edit, &status)?
            .await
    }

    /// Both writes of each resource of the range. A list as `secret` is a patch, anything else is created.
    fn write(
        &self,
        scene: &Scene<'_>,
        range: Range<usize>,
        secret: &Value,
        status: &Value,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let copied = &self.known.copied;
        let is_patch = secret.is_array();
        let status = json!([{"op": "add", "path": "/status", "value": status}]);
        let (secret, status) = (secret.to_string(), status.to_string());
        let paths = Paths::of(&scene.namespace, &self.of.kind());
        let mut writes = Vec::with_capacity(range.len());
        for index in range {
            let uid = scene.uids.get(index).context("no such resource")?;
            let name = self.of.resource_name(index);
            let filled = |text: &str| {
                let text = text.replace(&copied.uid, uid).replace(&copied.name, &name);
                text.replace(&copied.namespace, &scene.namespace)
            };
            let target = self.of.target(index);
            let first = if is_patch {
                patch(&format!("{}/{target}", paths.secrets), filled(&secret))
            } else {
                Request::post(&paths.secrets)
                    .header(header::CONTENT_TYPE, JSON)
                    .header(header::ACCEPT, METADATA_ONLY)
                    .body(filled(&secret).into_bytes())
            };
            let second = patch(
                &format!("{}/{name}/status", paths.resources),
                filled(&status),
            );
            writes.push((first?, second?));
        }
        let concurrency = self.known.concurrency;
        let grant = scene.grant.clone();
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

struct Paths {
    secrets: String,
    resources: String,
}

impl Paths {
    fn of(namespace: &str, kind: &ApiResource) -> Self {
        let (api, plural) = (&kind.api_version, &kind.plural);
        Self {
            secrets: format!("/api/v1/namespaces/{namespace}/secrets"),
            resources: format!("/apis/{api}/namespaces/{namespace}/{plural}"),
        }
    }
}

fn patch(path: &str, body: String) -> Result<Request<Vec<u8>>, http::Error> {
    Request::patch(path)
        .header(header::CONTENT_TYPE, JSON_PATCH)
        .header(header::ACCEPT, METADATA_ONLY)
        .body(body.into_bytes())
}

async fn send(client: &Client, request: Request<Vec<u8>>) -> Result<()> {
    let answer = tokio::time::timeout(WRITE_LIMIT, client.request_text(request)).await;
    answer.context("a write without an answer")??;
    Ok(())
}

impl Subject for Floor<'_> {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn kind(&self) -> ApiResource {
        self.of.kind()
    }

    fn resource(&self, scene: &Scene<'_>, index: usize) -> Value {
        self.of.resource(scene, index)
    }

    fn resource_name(&self, index: usize) -> String {
        self.of.resource_name(index)
    }

    fn target(&self, index: usize) -> String {
        self.of.target(index)
    }

    fn done(&self) -> &'static str {
        self.of.done()
    }

    fn start<'a>(
        &'a self,
        scene: &'a Scene<'_>,
        _: &'a How,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Running>>> {
        async move {
            let (copied, all) = (&self.known.copied, 0..scene.plan.bindings);
            let writes = self.write(scene, all, &copied.secret, &copied.status)?;
            Ok(Box::new(Writing(tokio::spawn(writes))) as Box<dyn Running>)
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

impl Running for Writing {
    fn pid(&self) -> Option<u32> {
        None
    }

    fn still_runs(&self) -> Result<()> {
        Ok(())
    }

    fn ready(&self, _: Duration) -> LocalBoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed_local()
    }

    fn stop(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<()>> {
        async move { (&mut self.0).await? }.boxed_local()
    }
}
