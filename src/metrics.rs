//! The registry and its families.
//!
//! In: counts from every room. Out: OpenMetrics text. Labels are words of closed lists: never a name that a user chose, never a value.

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

/// An upstream read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReadLabels {
    /// `prefect` or `doppler`.
    pub upstream: &'static str,
    /// `new`, `same`, or the reason of the failure.
    pub outcome: &'static str,
}

/// An upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamLabels {
    /// `prefect` or `doppler`.
    pub upstream: &'static str,
}

/// How somebody told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NotificationLabels {
    /// `doppler` (a watch stream), `prefect` (an event socket) or `hook`.
    pub kind: &'static str,
}

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabels {
    /// `block`, `config` or `pool`.
    pub kind: &'static str,
}

/// A word of the closed list of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// The reason.
    pub reason: &'static str,
}

/// A write to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// `secret`, `status`, `binding` or `event`.
    pub object: &'static str,
    /// `ok` or `error`.
    pub outcome: &'static str,
}

/// A request at the door for hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WebhookLabels {
    /// What became of it.
    pub outcome: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Reconciles of bindings.
    pub reconciles: Counter,
    /// Bindings that wait for their reconcile.
    pub workqueue_depth: Gauge,
    /// How long a reconcile took.
    pub reconcile_seconds: Histogram,
    /// Bindings by the reason of their `Ready` condition.
    pub bindings: Family<ReasonLabels, Gauge>,
    /// From the word of a change to the Secret that holds it.
    pub notification_to_secret_seconds: Histogram,
    /// Links that are up.
    pub subscriptions_connected: Family<UpstreamLabels, Gauge>,
    /// Links that were lost and opened again.
    pub subscription_reconnects: Family<UpstreamLabels, Counter>,
    /// Links that the other side refused.
    pub subscription_rejections: Family<UpstreamLabels, Counter>,
    /// Words of changes.
    pub change_notifications: Family<NotificationLabels, Counter>,
    /// Requests that wait for their turn.
    pub upstream_queue_depth: Family<UpstreamLabels, Gauge>,
    /// How long ago the source that was read longest ago was read.
    pub source_max_age_seconds: Family<SourceLabels, Gauge>,
    /// Reads of blocks and configs.
    pub reads: Family<ReadLabels, Counter>,
    /// Writes to the API server.
    pub writes: Family<WriteLabels, Counter>,
    /// Outcomes that were told: each change of a condition's reason, and each Event.
    pub reports: Family<ReasonLabels, Counter>,
    /// Distinct blocks, configs and pools that are read.
    pub sources: Family<SourceLabels, Gauge>,
    /// Requests at the door for hooks.
    pub webhook_requests: Family<WebhookLabels, Counter>,
    /// 1 while this replica leads.
    pub leader: Gauge,
}

impl Metrics {
    /// Fresh metrics, all at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("doppler_prefect");
        let metrics = Self {
            reconciles: Counter::default(),
            workqueue_depth: Gauge::default(),
            reconcile_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            bindings: Family::default(),
            notification_to_secret_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            subscriptions_connected: Family::default(),
            subscription_reconnects: Family::default(),
            subscription_rejections: Family::default(),
            change_notifications: Family::default(),
            upstream_queue_depth: Family::default(),
            source_max_age_seconds: Family::default(),
            reads: Family::default(),
            writes: Family::default(),
            reports: Family::default(),
            sources: Family::default(),
            webhook_requests: Family::default(),
            leader: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "build",
            "The running version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "reconciles",
            "Reconciles of bindings",
            metrics.reconciles.clone(),
        );
        registry.register(
            "reconciles_waiting",
            "Bindings that wait for their reconcile",
            metrics.workqueue_depth.clone(),
        );
        registry.register_with_unit(
            "reconcile",
            "How long a reconcile took",
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
            "Distinct blocks, configs and pools that are read",
            metrics.sources.clone(),
        );
        metrics.register_push(&mut registry);
        registry.register(
            "hooks",
            "Requests at the door for hooks by outcome",
            metrics.webhook_requests.clone(),
        );
        registry.register(
            "leads",
            "1 while this replica leads, 0 while it stands by",
            metrics.leader.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }

    fn register_push(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "push_to_secret",
            "From the word of a change to the Secret that holds it",
            Unit::Seconds,
            self.notification_to_secret_seconds.clone(),
        );
        registry.register(
            "links_up",
            "Watch streams and event sockets that are up",
            self.subscriptions_connected.clone(),
        );
        registry.register(
            "link_reconnects",
            "Watch streams and event sockets that were lost and opened again",
            self.subscription_reconnects.clone(),
        );
        registry.register(
            "link_refusals",
            "Watch streams and event sockets that the other side refused",
            self.subscription_rejections.clone(),
        );
        registry.register(
            "pushes",
            "Words of changes, by the way they came",
            self.change_notifications.clone(),
        );
        registry.register(
            "upstream_waiting",
            "Requests that wait for their turn",
            self.upstream_queue_depth.clone(),
        );
        registry.register_with_unit(
            "source_oldest",
            "How long ago the source that was read longest ago was read",
            Unit::Seconds,
            self.source_max_age_seconds.clone(),
        );
    }

    /// Counts a write to the API server.
    pub fn count_write(&self, object: &'static str, ok: bool) {
        let outcome = if ok { "ok" } else { "error" };
        self.writes
            .get_or_create(&WriteLabels { object, outcome })
            .inc();
    }

    /// `OpenMetrics` text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = String::new();
        // Writing into a String cannot fail.
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
mod tests {
    use super::*;

    #[test]
    fn counts_are_in_the_text() {
        let metrics = Metrics::new();
        metrics.count_write("secret", true);
        metrics
            .reads
            .get_or_create(&ReadLabels {
                upstream: "doppler",
                outcome: "same",
            })
            .inc();
        let page = metrics.text();
        assert!(
            page.contains(
                "doppler_prefect_kubernetes_writes_total{object=\"secret\",outcome=\"ok\"} 1"
            ),
            "{page}"
        );
        assert!(
            page.contains(
                "doppler_prefect_upstream_reads_total{upstream=\"doppler\",outcome=\"same\"} 1"
            ),
            "{page}"
        );
        assert!(
            page.contains("doppler_prefect_build_info{version="),
            "{page}"
        );
    }
}
