//! Reports outcomes: the one place that logs and counts them, and that emits Events.
//!
//! Input: a binding, a reason and a message.
//! Output: a log line, a count, and an Event. A separate task posts the Events, at a bounded rate in
//! all and for each binding.
//! Invariants: an Event that cannot be posted neither delays nor fails a reconcile. A report holds a
//! reason and one bounded line, never a secret value.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client, Resource, ResourceExt,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    crd::{BindingRef, DopplerPrefectBinding, DopplerPrefectBindingStatus, MANAGED_BY},
    metrics::{Metrics, ReasonLabels},
    printable::{MAX_MESSAGE_BYTES, one_line},
    reason::{Class, Reason},
    upstream::pace::{Pace, PaceLimit},
};

/// Capacity of the queue of Events. Further Events are counted and dropped.
const QUEUE_CAPACITY: usize = 1024;
/// Minimum time between two Events, so that a burst of Events does not delay other writes.
const POST_INTERVAL: Duration = Duration::from_millis(50);
/// Events of one binding, so that no binding keeps those of others out of the queue.
const BINDING_EVENTS: PaceLimit = PaceLimit {
    burst: 40,
    period: Duration::from_secs(15),
};
/// Beyond so many bindings with recent Events, those that were quiet are forgotten.
const MAX_PACES: usize = 1024;
/// The recorder deduplicates Events, and for that keeps each one (about 2 kB) for minutes. A new
/// recorder replaces it after this many Events, which bounds its memory.
const EVENTS_PER_RECORDER: usize = 512;
/// Time limit of one request that posts an Event.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of an Event's note. Kubernetes rejects notes above 1 kB.
const MAX_NOTE_BYTES: usize = 1000;

/// Reports outcomes of reconciles.
pub struct Report {
    metrics: Arc<Metrics>,
    events: mpsc::Sender<QueuedEvent>,
    /// The recent Events of each binding.
    paces: Mutex<HashMap<BindingRef, Pace>>,
    /// Reason of each binding's `Ready` condition, for the metric `bindings`.
    ready_reasons: Mutex<HashMap<BindingRef, &'static str>>,
}

struct QueuedEvent {
    about: ObjectReference,
    event: Event,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").finish_non_exhaustive()
    }
}

impl Report {
    /// Creates a report, and the task that posts its Events until `shutdown`.
    pub fn new(
        client: Client,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (events, queue) = mpsc::channel(QUEUE_CAPACITY);
        let post = post_events(client, Arc::clone(&metrics), queue, shutdown);
        (
            Self {
                metrics,
                events,
                paces: Mutex::default(),
                ready_reasons: Mutex::default(),
            },
            post,
        )
    }

    /// Reports the conditions that differ between two statuses. Each change of `Ready` emits an Event.
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
                self.count_ready(binding, condition);
                match reason_of(condition) {
                    _ if same => {}
                    // Each pod has an Event of its own.
                    reason @ Reason::RunPodNotStarted => {
                        self.log(binding, reason, &condition.message);
                    }
                    reason => self.emit(binding, reason, &condition.message),
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

    /// Reports an outcome: writes a log line, counts it, and emits an Event.
    pub fn emit(&self, binding: &DopplerPrefectBinding, reason: Reason, message: &str) {
        self.log(binding, reason, message);
        if !self.may_post(binding) {
            debug!(reason = reason.as_str(), "too many Events of one binding");
            return;
        }
        let event = QueuedEvent {
            about: binding.object_ref(&()),
            event: Event {
                type_: if reason.class() == Class::Settled {
                    EventType::Normal
                } else {
                    EventType::Warning
                },
                reason: reason.to_string(),
                note: Some(one_line(message, MAX_NOTE_BYTES)),
                action: "Reconcile".to_owned(),
                secondary: None,
            },
        };
        if self.events.try_send(event).is_err() {
            self.metrics.count_write("event", false);
        }
    }

    /// Counts an Event of a binding, unless it had many.
    fn may_post(&self, binding: &DopplerPrefectBinding) -> bool {
        let now = Instant::now();
        let mut paces = self.paces.lock();
        if paces.len() >= MAX_PACES {
            paces.retain(|_, pace| !pace.is_fresh(now));
        }
        let pace = paces.entry(BindingRef::of(binding)).or_default();
        pace.take(BINDING_EVENTS, now).is_ok()
    }

    /// Reports an outcome without an Event: writes a log line and counts it.
    pub fn log(&self, binding: &DopplerPrefectBinding, reason: Reason, message: &str) {
        let (namespace, name) = (binding.namespace(), binding.name_any());
        let message = one_line(message, MAX_MESSAGE_BYTES);
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

    /// The bindings that were reported, and whether each is Ready.
    #[must_use]
    pub fn readiness(&self) -> Vec<(BindingRef, bool)> {
        let ready_reasons = self.ready_reasons.lock();
        let bindings = ready_reasons.iter();
        bindings
            .map(|(binding, reason)| (binding.clone(), *reason == Reason::Ready.as_str()))
            .collect()
    }

    /// Removes a deleted binding from the metrics.
    pub fn forget(&self, binding: &BindingRef) {
        self.paces.lock().remove(binding);
        if let Some(reason) = self.ready_reasons.lock().remove(binding) {
            self.metrics
                .bindings
                .get_or_create(&ReasonLabels { reason })
                .dec();
        }
    }

    fn count_ready(&self, binding: &DopplerPrefectBinding, ready: &Condition) {
        let reason = reason_of(ready).as_str();
        let mut ready_reasons = self.ready_reasons.lock();
        let before = ready_reasons.insert(BindingRef::of(binding), reason);
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

/// The reason of a condition. A reason that only another version of the operator knows counts as
/// `Pending`.
fn reason_of(condition: &Condition) -> Reason {
    Reason::named(&condition.reason).unwrap_or(Reason::Pending)
}

async fn post_events(
    client: Client,
    metrics: Arc<Metrics>,
    mut queue: mpsc::Receiver<QueuedEvent>,
    shutdown: CancellationToken,
) {
    let reporter = Reporter {
        controller: MANAGED_BY.to_owned(),
        instance: std::env::var("HOSTNAME").ok(),
    };
    let mut recorder = Recorder::new(client.clone(), reporter.clone());
    for number in 1_usize.. {
        let queued = tokio::select! {
            () = shutdown.cancelled() => return,
            queued = queue.recv() => queued,
        };
        let Some(QueuedEvent { about, event }) = queued else {
            return;
        };
        let posted = matches!(
            timeout(POST_TIMEOUT, recorder.publish(&event, &about)).await,
            Ok(Ok(()))
        );
        metrics.count_write("event", posted);
        if !posted {
            debug!(
                reason = event.reason,
                binding = about.name,
                "cannot post an Event"
            );
        }
        if number.is_multiple_of(EVENTS_PER_RECORDER) {
            recorder = Recorder::new(client.clone(), reporter.clone());
        }
        tokio::time::sleep(POST_INTERVAL).await;
    }
}
