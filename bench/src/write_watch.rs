//! The times at which writes become visible: one watch of the Secrets' metadata, and one of the
//! resources.
//!
//! Input: a testbed and a subject. Output: for each Secret the time of its first write since a
//! mark, and the resources that are ready.
//! Invariants: each new resource version is a write. After a watch restarts, a changed object
//! counts at the time of the new list.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::core::{NotUsed, Object, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use testkit::progress::Step;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::subject::Subject;
use crate::testbed::Testbed;

const START_TIMEOUT: Duration = Duration::from_mins(2);

/// The part of a resource that has its conditions.
#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

type ResourceStatus = Object<NotUsed, Status>;

/// The writes since the mark.
#[derive(Default)]
pub struct SeenWrites {
    /// The names of the Secrets of the subject.
    targets: HashSet<String>,
    /// The resource version of each object, by UID.
    versions: HashMap<String, String>,
    /// The number of watches that have listed their objects.
    listed: usize,
    /// The time of the first write of each Secret.
    pub secrets: HashMap<String, Instant>,
    /// The number of writes of Secrets.
    pub secret_writes: usize,
    /// The time at which each resource became ready, without resources that are not ready any more.
    pub ready: HashMap<String, Instant>,
    /// The number of writes of resources, including their status.
    pub resource_writes: usize,
}

/// The two watches.
pub struct WriteWatch {
    namespace: String,
    seen: Arc<Mutex<SeenWrites>>,
    changed: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl WriteWatch {
    /// Opens both watches, and waits until they have listed their objects.
    ///
    /// # Errors
    /// When the API server does not list the objects in time.
    pub async fn start(testbed: &Testbed<'_>, subject: &dyn Subject) -> Result<Self> {
        let targets = (0..testbed.workload.bindings).map(|index| subject.secret_name(index));
        let seen = Arc::new(Mutex::new(SeenWrites {
            targets: targets.collect(),
            ..SeenWrites::default()
        }));
        let changed = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let secrets: Api<PartialObjectMeta<Secret>> =
            Api::namespaced(testbed.client.clone(), &testbed.namespace);
        tasks.spawn(follow(
            kube::runtime::watcher(secrets, watcher::Config::default()),
            Arc::clone(&seen),
            Arc::clone(&changed),
            |seen: &mut SeenWrites, secret: &PartialObjectMeta<Secret>, at, is_new| {
                let name = secret.name_any();
                if is_new && seen.targets.contains(&name) {
                    seen.secret_writes += 1;
                    seen.secrets.entry(name).or_insert(at);
                }
            },
        ));
        let kind = subject.resource_kind();
        let resources: Api<ResourceStatus> =
            Api::namespaced_with(testbed.client.clone(), &testbed.namespace, &kind);
        let condition = subject.ready_condition().to_owned();
        tasks.spawn(follow(
            kube::runtime::watcher(resources, watcher::Config::default()),
            Arc::clone(&seen),
            Arc::clone(&changed),
            move |seen: &mut SeenWrites, resource: &ResourceStatus, at, is_new| {
                seen.resource_writes += usize::from(is_new);
                let conditions = resource.status.iter().flat_map(|status| &status.conditions);
                let mut conditions = conditions.filter(|one| one.kind == condition);
                if conditions.any(|one| one.status == "True") {
                    seen.ready.entry(resource.name_any()).or_insert(at);
                } else {
                    seen.ready.remove(&resource.name_any());
                }
            },
        ));
        let watch = Self {
            namespace: testbed.namespace.clone(),
            seen,
            changed,
            _tasks: tasks,
        };
        watch
            .until(START_TIMEOUT, "the watches to be open", |seen| {
                seen.listed >= 2
            })
            .await?;
        Ok(watch)
    }

    /// Sets the mark: forgets all writes. Resources that are ready stay ready.
    pub fn mark(&self) {
        let mut seen = self.seen();
        seen.secrets.clear();
        seen.secret_writes = 0;
        seen.resource_writes = 0;
    }

    /// The writes since the mark.
    pub fn seen(&self) -> MutexGuard<'_, SeenWrites> {
        self.seen.lock()
    }

    /// Waits until `enough` is true.
    ///
    /// # Errors
    /// When it is not true within `limit`; the error has the number of writes.
    pub async fn until(
        &self,
        limit: Duration,
        what: &str,
        enough: impl Fn(&SeenWrites) -> bool,
    ) -> Result<()> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let changed = self.changed.notified();
            if enough(&self.seen()) {
                return Ok(());
            }
            if timeout_at(deadline, changed).await.is_err() {
                let seen = self.seen();
                bail!(
                    "waited {limit:?} for {what}; {} Secrets are written and {} resources are ready",
                    seen.secrets.len(),
                    seen.ready.len()
                );
            }
        }
    }

    /// Waits until `count` Secrets are written and `count` resources are ready, and shows how many
    /// are.
    ///
    /// # Errors
    /// As `until`.
    pub async fn until_synced(&self, limit: Duration, count: usize) -> Result<()> {
        let what = format!("{count} Secrets and resources");
        let step = Step::counted(&format!("bindings in sync in {}", self.namespace), count);
        self.until(limit, &what, |seen| {
            let synced = seen.secrets.len().min(seen.ready.len());
            step.set(synced);
            synced >= count
        })
        .await?;
        step.finish();
        Ok(())
    }
}

/// Calls `record` for each object of a watch, until the task is dropped.
async fn follow<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    seen: Arc<Mutex<SeenWrites>>,
    changed: Arc<Notify>,
    record: impl Fn(&mut SeenWrites, &K, Instant, bool),
) where
    K: Resource,
{
    let mut events = std::pin::pin!(events.default_backoff());
    let mut first_list = true;
    while let Some(event) = events.next().await {
        let at = Instant::now();
        let mut seen = seen.lock();
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let version = object.resource_version().unwrap_or_default();
                let uid = object.uid().unwrap_or_default();
                let before = seen.versions.insert(uid, version.clone());
                let is_new = before.as_ref() != Some(&version) && !first_list;
                record(&mut seen, &object, at, is_new);
            }
            Ok(Event::InitDone) if first_list => {
                first_list = false;
                seen.listed += 1;
            }
            // The watcher retries.
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) | Err(_) => {}
        }
        drop(seen);
        changed.notify_waiters();
    }
}
