//! When writes are seen: a watch on the Secrets' metadata and one on the resources, which is what others in a cluster see them by.
//!
//! In: a scene and a subject. Out: for each Secret when it was first seen written since a mark, and which resources are done. A Secret counts by its
//! version, so any write to it is one. Where a watch has to start anew, what it lists counts as seen then.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::core::{NotUsed, Object, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::scene::Scene;
use crate::subject::Subject;

const START_LIMIT: Duration = Duration::from_mins(2);

/// As much of a resource as tells whether it is done.
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

type Seen = Object<NotUsed, Status>;

/// What was seen since the mark.
#[derive(Default)]
pub struct Sight {
    targets: HashSet<String>,
    versions: HashMap<String, String>,
    listed: usize,
    /// When each Secret was first seen written.
    pub secrets: HashMap<String, Instant>,
    /// Writes of Secrets.
    pub secret_writes: usize,
    /// When each resource was first seen done; one that is not done any more is not in it.
    pub done: HashMap<String, Instant>,
    /// Writes of resources, their status included.
    pub resource_writes: usize,
}

/// The two watches.
pub struct Watching {
    sight: Arc<Mutex<Sight>>,
    changed: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Watching {
    /// Opens both watches, and waits until what is there was listed.
    ///
    /// # Errors
    /// When the API server does not list it in time.
    pub async fn start(scene: &Scene<'_>, subject: &dyn Subject) -> Result<Self> {
        let targets = (0..scene.plan.bindings).map(|index| subject.target(index));
        let sight = Arc::new(Mutex::new(Sight {
            targets: targets.collect(),
            ..Sight::default()
        }));
        let changed = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let secrets: Api<PartialObjectMeta<Secret>> =
            Api::namespaced(scene.client.clone(), &scene.namespace);
        tasks.spawn(follow(
            kube::runtime::watcher(secrets, watcher::Config::default()),
            Arc::clone(&sight),
            Arc::clone(&changed),
            |sight: &mut Sight, secret: &PartialObjectMeta<Secret>, at, is_new| {
                let name = secret.name_any();
                if is_new && sight.targets.contains(&name) {
                    sight.secret_writes += 1;
                    sight.secrets.entry(name).or_insert(at);
                }
            },
        ));
        let kind = subject.kind();
        let resources: Api<Seen> =
            Api::namespaced_with(scene.client.clone(), &scene.namespace, &kind);
        let condition = subject.done().to_owned();
        tasks.spawn(follow(
            kube::runtime::watcher(resources, watcher::Config::default()),
            Arc::clone(&sight),
            Arc::clone(&changed),
            move |sight: &mut Sight, resource: &Seen, at, is_new| {
                sight.resource_writes += usize::from(is_new);
                let conditions = resource.status.iter().flat_map(|status| &status.conditions);
                let mut conditions = conditions.filter(|one| one.kind == condition);
                if conditions.any(|one| one.status == "True") {
                    sight.done.entry(resource.name_any()).or_insert(at);
                } else {
                    sight.done.remove(&resource.name_any());
                }
            },
        ));
        let watching = Self {
            sight,
            changed,
            _tasks: tasks,
        };
        watching
            .until(START_LIMIT, "the watches to be open", |sight| {
                sight.listed >= 2
            })
            .await?;
        Ok(watching)
    }

    /// Forgets what was seen written so far. Resources that are done stay so.
    pub fn mark(&self) {
        let mut sight = self.sight();
        sight.secrets.clear();
        sight.secret_writes = 0;
        sight.resource_writes = 0;
    }

    /// What was seen since the mark.
    pub fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what was seen is enough.
    ///
    /// # Errors
    /// When it is not within `limit`: what was seen.
    pub async fn until(
        &self,
        limit: Duration,
        what: &str,
        enough: impl Fn(&Sight) -> bool,
    ) -> Result<()> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let changed = self.changed.notified();
            if enough(&self.sight()) {
                return Ok(());
            }
            if timeout_at(deadline, changed).await.is_err() {
                let sight = self.sight();
                bail!(
                    "waited {limit:?} for {what}; seen: {} Secrets written, {} resources done",
                    sight.secrets.len(),
                    sight.done.len()
                );
            }
        }
    }

    /// Waits until that many Secrets were written and as many resources are done.
    ///
    /// # Errors
    /// As `until`.
    pub async fn until_synced(&self, limit: Duration, count: usize) -> Result<()> {
        let what = format!("{count} Secrets and resources");
        self.until(limit, &what, |sight| {
            sight.secrets.len() >= count && sight.done.len() >= count
        })
        .await
    }
}

/// Notes what a watch brings, until the task is dropped.
async fn follow<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    sight: Arc<Mutex<Sight>>,
    changed: Arc<Notify>,
    note: impl Fn(&mut Sight, &K, Instant, bool),
) where
    K: Resource,
{
    let mut events = std::pin::pin!(events.default_backoff());
    let mut first_list = true;
    while let Some(event) = events.next().await {
        let at = Instant::now();
        let mut sight = sight.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let version = object.resource_version().unwrap_or_default();
                let uid = object.uid().unwrap_or_default();
                let before = sight.versions.insert(uid, version.clone());
                let is_new = before.as_ref() != Some(&version) && !first_list;
                note(&mut sight, &object, at, is_new);
            }
            Ok(Event::InitDone) if first_list => {
                first_list = false;
                sight.listed += 1;
            }
            // The watcher tries again by itself.
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) | Err(_) => {}
        }
        drop(sight);
        changed.notify_waiters();
    }
}
