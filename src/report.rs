//! The one place that logs, counts and emits an Event for an outcome.
//!
//! In: a binding, and what is to be told of it. Out: a log line, a count, and an Event that a task of its own posts at a bounded rate: an Event
//! that cannot be posted never holds up or fails a reconcile. What is told is a reason and one sentence, never a value.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client, Resource, ResourceExt,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    crd::{BindingRef, DopplerPrefectBinding, DopplerPrefectBindingStatus, MANAGED_BY},
    metrics::{Metrics, ReasonLabels},
    reason::{Class, Reason},
};

/// Events that may wait to be posted; more are counted and dropped.
const WAITING: usize = 1024;
/// Least time between two Events, so that a burst of them cannot crowd out the writes that matter.
const BETWEEN: Duration = Duration::from_millis(50);
/// Of so many Events in a row alike ones are counted together. The recorder keeps each whole, some two kilobytes, for minutes: it begins anew after them.
const COUNTED: usize = 512;
/// Time limit of posting one.
const LIMIT: Duration = Duration::from_secs(10);
/// Kubernetes takes notes of up to 1 kB.
const NOTE: usize = 1000;

/// Tells what happened.
pub struct Report {
    metrics: Arc<Metrics>,
    events: mpsc::Sender<Note>,
    ready: Mutex<HashMap<BindingRef, &'static str>>,
}

struct Note {
    about: ObjectReference,
    event: Event,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").finish_non_exhaustive()
    }
}

impl Report {
    /// A report, and the task that posts its Events until `shutdown`.
    pub fn new(
        client: Client,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (events, waiting) = mpsc::channel(WAITING);
        let post = post(client, Arc::clone(&metrics), waiting, shutdown);
        (
            Self {
                metrics,
                events,
                ready: Mutex::default(),
            },
            post,
        )
    }

    /// Tells which conditions changed between two statuses; each change of `Ready` is an Event.
    pub fn status_changed(
        &self,
        binding: &DopplerPrefectBinding,
        before: Option<&DopplerPrefectBindingStatus>,
        after: &DopplerPrefectBindingStatus,
    ) {
        for condition in &after.conditions {
            let old = before.and_then(|status| {
                status
                    .conditions
                    .iter()
                    .find(|c| c.type_ == condition.type_)
            });
            let same = old.is_some_and(|old| {
                old.reason == condition.reason && old.status == condition.status
            });
            if condition.type_ == crate::status::READY {
                self.remember(binding, condition);
                if !same {
                    self.emit(binding, reason_of(condition), &condition.message);
                }
            } else if !same {
                debug!(
                    namespace = binding.namespace(),
                    binding = binding.name_any(),
                    condition = condition.type_,
                    status = condition.status,
                    reason = condition.reason,
                    "{}",
                    condition.message
                );
            }
        }
    }

    /// Tells one thing: a log line, a count, an Event.
    pub fn emit(&self, binding: &DopplerPrefectBinding, reason: Reason, message: &str) {
        self.log(binding, reason, message);
        let note = Note {
            about: binding.object_ref(&()),
            event: Event {
                type_: if reason.class() == Class::Settled {
                    EventType::Normal
                } else {
                    EventType::Warning
                },
                reason: reason.to_string(),
                note: Some(message[..message.floor_char_boundary(NOTE)].to_owned()),
                action: "Reconcile".to_owned(),
                secondary: None,
            },
        };
        if self.events.try_send(note).is_err() {
            self.metrics.count_write("event", false);
        }
    }

    /// Tells one thing where no Event can be posted: a log line and a count.
    pub fn log(&self, binding: &DopplerPrefectBinding, reason: Reason, message: &str) {
        let (namespace, name) = (binding.namespace(), binding.name_any());
        if reason.class() == Class::Settled {
            info!(
                namespace,
                binding = name,
                reason = reason.as_str(),
                "{message}"
            );
        } else {
            warn!(
                namespace,
                binding = name,
                reason = reason.as_str(),
                "{message}"
            );
        }
        self.metrics
            .reports
            .get_or_create(&ReasonLabels {
                reason: reason.as_str(),
            })
            .inc();
    }

    /// The binding is gone.
    pub fn forget(&self, binding: &BindingRef) {
        let gone = self
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(binding);
        if let Some(reason) = gone {
            self.metrics
                .bindings
                .get_or_create(&ReasonLabels { reason })
                .dec();
        }
    }

    fn remember(&self, binding: &DopplerPrefectBinding, ready: &Condition) {
        let reason = reason_of(ready).as_str();
        let mut table = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let before = table.insert(BindingRef::of(binding), reason);
        if before == Some(reason) {
            return;
        }
        self.metrics
            .bindings
            .get_or_create(&ReasonLabels { reason })
            .inc();
        if let Some(before) = before {
            self.metrics
                .bindings
                .get_or_create(&ReasonLabels { reason: before })
                .dec();
        }
    }
}

/// The reason that a condition carries. One that an older version wrote is unknown here, and is as good as pending.
fn reason_of(condition: &Condition) -> Reason {
    Reason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == condition.reason)
        .unwrap_or(Reason::Pending)
}

async fn post(
    client: Client,
    metrics: Arc<Metrics>,
    mut waiting: mpsc::Receiver<Note>,
    shutdown: CancellationToken,
) {
    let reporter = Reporter {
        controller: MANAGED_BY.to_owned(),
        instance: std::env::var("HOSTNAME").ok(),
    };
    let mut recorder = Recorder::new(client.clone(), reporter.clone());
    for number in 1_usize.. {
        let note = tokio::select! {
            () = shutdown.cancelled() => return,
            note = waiting.recv() => note,
        };
        let Some(Note { about, event }) = note else {
            return;
        };
        let posted = matches!(
            timeout(LIMIT, recorder.publish(&event, &about)).await,
            Ok(Ok(()))
        );
        metrics.count_write("event", posted);
        if !posted {
            debug!(
                reason = event.reason,
                binding = about.name,
                "an Event could not be posted"
            );
        }
        if number.is_multiple_of(COUNTED) {
            recorder = Recorder::new(client.clone(), reporter.clone());
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
