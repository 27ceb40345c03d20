//! The metrics registry and its families.
//!
//! Input: counts from all modules.
//! Output: the metrics page as OpenMetrics text.
//! Invariants: label values come from closed lists, or from a flag of the operator, or are content
//! hashes. A label never holds a secret value, and a name that a user chose only in the series of
//! bindings, which the administrator asks for.

mod per_binding;
mod process;

pub use per_binding::{BindingSample, PerBinding};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::reason::Reason;

/// Labels of an upstream read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReadLabels {
    /// `prefect` or `doppler`.
    pub upstream: &'static str,
    /// `changed`, `unchanged`, or the reason of the failure.
    pub outcome: &'static str,
}

/// Labels of a token of a Doppler identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IdentityTokenLabels {
    /// `issued`, `revoked`, or the reason why there is none.
    pub outcome: &'static str,
}

/// Labels of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TaskLabels {
    /// `poller`, `subscription` or `pool`.
    pub task: &'static str,
}

/// Labels of a value per upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamLabels {
    /// `prefect` or `doppler`.
    pub upstream: &'static str,
}

/// Labels of a change notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NotificationLabels {
    /// `doppler` (a watch stream), `prefect` (an event socket: blocks and work pools), `prefect-run`
    /// (an event socket: flow runs) or `webhook`.
    pub source: &'static str,
}

/// Labels of a watched namespace. The administrator lists them in a flag.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NamespaceLabels {
    /// The namespace.
    pub namespace: String,
    /// `terminating`, `gone` or `forbidden`.
    pub reason: &'static str,
}

/// Labels of a value per kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabels {
    /// `block`, `config` or `pool`.
    pub kind: &'static str,
}

/// Labels of a value per documented reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// The reason.
    pub reason: &'static str,
}

/// Labels of a write to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// `secret`, `status`, `binding` or `event`.
    pub object: &'static str,
    /// `ok` or `error`.
    pub outcome: &'static str,
}

/// Labels of a request to the webhook endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WebhookLabels {
    /// How the request was handled.
    pub outcome: &'static str,
}

/// Labels of a value per content of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ContentLabels {
    /// The content hash, as in `status.contentHash` of one binding.
    pub content_hash: String,
}

/// Labels of the events that the operator sends to Prefect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RunEventLabels {
    /// `sent`, `failed` (the server does not take them), or `dropped` (too many waited).
    pub outcome: &'static str,
}

/// All metrics of the operator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Completed reconciles of bindings.
    pub reconciles: Counter,
    /// Bindings in the work queue.
    pub workqueue_depth: Gauge,
    /// Duration of a reconcile.
    pub reconcile_seconds: Histogram,
    /// Bindings by the reason of their `Ready` condition.
    pub bindings: Family<ReasonLabels, Gauge>,
    /// Time from a change notification to the Secret that holds the change.
    pub notification_to_secret_seconds: Histogram,
    /// Connected subscriptions.
    pub subscriptions_connected: Family<UpstreamLabels, Gauge>,
    /// Subscriptions that wait until a connection is free.
    pub subscriptions_waiting: Family<UpstreamLabels, Gauge>,
    /// Subscriptions that the operator tries to connect, without success so far.
    pub subscriptions_disconnected: Family<UpstreamLabels, Gauge>,
    /// Subscriptions that were lost and connected again.
    pub subscription_reconnects: Family<UpstreamLabels, Counter>,
    /// Subscriptions that the upstream rejected.
    pub subscription_rejections: Family<UpstreamLabels, Counter>,
    /// Change notifications received.
    pub change_notifications: Family<NotificationLabels, Counter>,
    /// Requests that wait for a permit of the rate limiter.
    pub upstream_queue_depth: Family<UpstreamLabels, Gauge>,
    /// Age of the stalest source.
    pub source_max_age_seconds: Family<SourceLabels, Gauge>,
    /// How much longer ago than its interval the most overdue source was read.
    pub source_overdue_seconds: Family<SourceLabels, Gauge>,
    /// Reads of blocks and configs.
    pub reads: Family<ReadLabels, Counter>,
    /// Writes to the API server.
    pub writes: Family<WriteLabels, Counter>,
    /// Reported outcomes: each change of a condition's reason, and each Event.
    pub reports: Family<ReasonLabels, Counter>,
    /// Distinct blocks, configs and pools that the operator reads.
    pub sources: Family<SourceLabels, Gauge>,
    /// Tokens of Doppler identities.
    pub identity_tokens: Family<IdentityTokenLabels, Counter>,
    /// Requests to the webhook endpoint.
    pub webhook_requests: Family<WebhookLabels, Counter>,
    /// Flow runs that got the Secret of a binding, by the content hash that was in force.
    pub flow_runs: Family<ContentLabels, Counter>,
    /// Events about flow runs.
    pub run_events: Family<RunEventLabels, Counter>,
    /// Panics of tasks that were started again.
    pub task_panics: Family<TaskLabels, Counter>,
    /// Deleted bindings whose pool entry the operator left behind.
    pub cleanups_abandoned: Counter,
    /// Watched namespaces that the operator cannot serve.
    pub namespace_unavailable: Family<NamespaceLabels, Gauge>,
    /// 1 while this replica is the leader.
    pub leader: Gauge,
    /// The series of each binding.
    pub per_binding: PerBinding,
}

impl Metrics {
    /// Creates the registry; all metrics start at zero.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self {
            reconciles: Counter::default(),
            workqueue_depth: Gauge::default(),
            reconcile_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            bindings: Family::default(),
            notification_to_secret_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            subscriptions_connected: Family::default(),
            subscriptions_waiting: Family::default(),
            subscriptions_disconnected: Family::default(),
            subscription_reconnects: Family::default(),
            subscription_rejections: Family::default(),
            change_notifications: Family::default(),
            upstream_queue_depth: Family::default(),
            source_max_age_seconds: Family::default(),
            source_overdue_seconds: Family::default(),
            reads: Family::default(),
            writes: Family::default(),
            reports: Family::default(),
            sources: Family::default(),
            identity_tokens: Family::default(),
            webhook_requests: Family::default(),
            flow_runs: Family::default(),
            run_events: Family::default(),
            task_panics: Family::default(),
            cleanups_abandoned: Counter::default(),
            namespace_unavailable: Family::default(),
            leader: Gauge::default(),
            per_binding: PerBinding::default(),
            registry: Registry::default(),
        };
        let mut root = Registry::default();
        process::register(&mut root);
        let registry = root.sub_registry_with_prefix("doppler_prefect");
        process::register_limit(registry);
        registry.register_collector(Box::new(metrics.per_binding.clone()));
        registry.register(
            "build",
            "The running version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "reconciles",
            "Completed reconciles of bindings",
            metrics.reconciles.clone(),
        );
        registry.register(
            "workqueue_depth",
            "Bindings that wait in the work queue",
            metrics.workqueue_depth.clone(),
        );
        registry.register_with_unit(
            "reconcile",
            "Duration of a reconcile",
            Unit::Seconds,
            metrics.reconcile_seconds.clone(),
        );
        registry.register(
            "bindings",
            "Bindings by the reason of their Ready condition",
            metrics.bindings.clone(),
        );
        registry.register(
            "upstream_reads",
            "Reads of blocks and configs by outcome",
            metrics.reads.clone(),
        );
        registry.register(
            "kubernetes_writes",
            "Writes to the API server by object and outcome",
            metrics.writes.clone(),
        );
        registry.register(
            "reports",
            "Changes of a condition's reason, and Events, by reason",
            metrics.reports.clone(),
        );
        registry.register(
            "sources",
            "Distinct blocks, configs and pools that the operator reads",
            metrics.sources.clone(),
        );
        registry.register(
            "flow_runs",
            "Flow runs that got the Secret of a binding, by the content hash that was in force",
            metrics.flow_runs.clone(),
        );
        registry.register(
            "run_events",
            "Events about flow runs for Prefect, by outcome",
            metrics.run_events.clone(),
        );
        metrics.register_subscriptions(registry);
        metrics.register_process(registry);
        // Without a first sample of 0, the first one would be no increase.
        let reason = Reason::StatusRefused.as_str();
        drop(metrics.reports.get_or_create(&ReasonLabels { reason }));
        Self {
            registry: root,
            ..metrics
        }
    }

    fn register_process(&self, registry: &mut Registry) {
        registry.register(
            "identity_tokens",
            "Tokens of Doppler identities, by outcome",
            self.identity_tokens.clone(),
        );
        registry.register(
            "webhook_requests",
            "Requests to the webhook endpoint by outcome",
            self.webhook_requests.clone(),
        );
        registry.register(
            "task_panics",
            "Panics of tasks that were started again, by task",
            self.task_panics.clone(),
        );
        registry.register(
            "cleanups_abandoned",
            "Deleted bindings whose pool entry the operator left behind",
            self.cleanups_abandoned.clone(),
        );
        registry.register(
            "namespace_unavailable",
            "1 for each watched namespace that is terminating, gone or forbidden",
            self.namespace_unavailable.clone(),
        );
        registry.register(
            "leader",
            "1 while this replica is the leader, 0 while it is a standby",
            self.leader.clone(),
        );
    }

    fn register_subscriptions(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "notification_to_secret",
            "Time from a change notification to the Secret that holds the change",
            Unit::Seconds,
            self.notification_to_secret_seconds.clone(),
        );
        registry.register(
            "subscriptions_connected",
            "Connected watch streams and event sockets",
            self.subscriptions_connected.clone(),
        );
        registry.register(
            "subscriptions_waiting",
            "Watch streams and event sockets that wait until a connection is free",
            self.subscriptions_waiting.clone(),
        );
        registry.register(
            "subscriptions_disconnected",
            "Watch streams and event sockets that the operator tries to connect, without success so far",
            self.subscriptions_disconnected.clone(),
        );
        registry.register(
            "subscription_reconnects",
            "Watch streams and event sockets that were lost and connected again",
            self.subscription_reconnects.clone(),
        );
        registry.register(
            "subscription_rejections",
            "Watch streams and event sockets that the upstream rejected",
            self.subscription_rejections.clone(),
        );
        registry.register(
            "change_notifications",
            "Change notifications received, by source",
            self.change_notifications.clone(),
        );
        registry.register(
            "upstream_queue_depth",
            "Requests that wait for a permit of the rate limiter",
            self.upstream_queue_depth.clone(),
        );
        registry.register_with_unit(
            "source_max_age",
            "Age of the stalest source",
            Unit::Seconds,
            self.source_max_age_seconds.clone(),
        );
        registry.register_with_unit(
            "source_overdue",
            "Time since the most overdue source should have been read again",
            Unit::Seconds,
            self.source_overdue_seconds.clone(),
        );
    }

    /// Counts a token of a Doppler identity.
    pub fn count_identity_token(&self, outcome: &'static str) {
        let labels = IdentityTokenLabels { outcome };
        self.identity_tokens.get_or_create(&labels).inc();
    }

    /// Counts a write to the API server.
    pub fn count_write(&self, object: &'static str, ok: bool) {
        let outcome = if ok { "ok" } else { "error" };
        self.writes
            .get_or_create(&WriteLabels { object, outcome })
            .inc();
    }

    /// Returns the metrics page as `OpenMetrics` text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
