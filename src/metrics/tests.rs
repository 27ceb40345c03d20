use std::collections::BTreeSet;

use super::*;

#[test]
fn text_holds_the_counts() {
    let metrics = Metrics::new();
    metrics.count_write("secret", true);
    metrics
        .reads
        .get_or_create(&ReadLabels {
            upstream: "doppler",
            outcome: "unchanged",
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
            "doppler_prefect_upstream_reads_total{upstream=\"doppler\",outcome=\"unchanged\"} 1"
        ),
        "{page}"
    );
    assert!(
        page.contains("doppler_prefect_build_info{version="),
        "{page}"
    );
}

/// The names of all metrics as their samples have them, without the suffixes of histograms.
fn names() -> BTreeSet<String> {
    let metrics = Metrics::new();
    // Exhaustive, because the page omits a family without samples: a new one does not compile here.
    let Metrics {
        bindings,
        subscriptions_connected,
        subscriptions_waiting,
        subscription_reconnects,
        subscription_rejections,
        change_notifications,
        upstream_queue_depth,
        source_max_age_seconds,
        reads,
        writes: _,
        reports,
        sources,
        webhook_requests,
        registry: _,
        reconciles: _,
        workqueue_depth: _,
        reconcile_seconds: _,
        notification_to_secret_seconds: _,
        task_panics,
        cleanups_abandoned: _,
        namespace_unavailable,
        leader: _,
    } = &metrics;
    let upstream = UpstreamLabels {
        upstream: "doppler",
    };
    let (kind, reason) = (
        SourceLabels { kind: "block" },
        ReasonLabels { reason: "Ready" },
    );
    let outcome = "unchanged";
    drop(bindings.get_or_create(&reason));
    drop(subscriptions_connected.get_or_create(&upstream));
    drop(subscriptions_waiting.get_or_create(&upstream));
    drop(subscription_reconnects.get_or_create(&upstream));
    drop(subscription_rejections.get_or_create(&upstream));
    drop(change_notifications.get_or_create(&NotificationLabels { source: "webhook" }));
    drop(upstream_queue_depth.get_or_create(&upstream));
    drop(source_max_age_seconds.get_or_create(&kind));
    drop(reads.get_or_create(&ReadLabels {
        upstream: "doppler",
        outcome,
    }));
    drop(reports.get_or_create(&reason));
    drop(sources.get_or_create(&kind));
    drop(namespace_unavailable.get_or_create(&NamespaceLabels {
        namespace: "flows".to_owned(),
        reason: "gone",
    }));
    drop(task_panics.get_or_create(&TaskLabels { task: "pool" }));
    drop(webhook_requests.get_or_create(&WebhookLabels { outcome }));
    metrics.count_write("secret", true);

    let page = metrics.text();
    let families = page.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        Some(format!("{name}{suffix}"))
    });
    families.collect()
}

fn manual() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    std::fs::read_to_string(path).unwrap()
}

/// The names of metrics in a text. The operator's crate has the same prefix.
fn mentioned(text: &str) -> BTreeSet<String> {
    let names = text.match_indices("doppler_prefect_").map(|(at, _)| {
        let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        text[at..].split(end).next().unwrap().to_owned()
    });
    names
        .filter(|name| name != "doppler_prefect_operator")
        .collect()
}

#[test]
fn manual_lists_every_metric() {
    let manual = manual();
    let (_, section) = manual.split_once("\n## Metrics\n").unwrap();
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    let first_cells: Vec<_> = rows.filter_map(|row| row.split('|').nth(1)).collect();
    assert_eq!(mentioned(&first_cells.join(" ")), names());
}

#[test]
fn queries_and_alerts_in_the_manual_use_existing_metrics() {
    let unknown: Vec<_> = mentioned(&manual()).difference(&names()).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
