use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

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

/// Adds a sample. Labels that are `Copy` own no text, so the program has all their values.
fn sample<L: Copy + Eq + Hash + 'static, M>(family: &Family<L, M>, labels: L) {
    drop(family.get_or_create(&labels));
}

/// The page with a sample of each family.
fn page() -> String {
    let metrics = Metrics::new();
    // Exhaustive, because the page omits a family without samples: a new one does not compile here.
    let Metrics {
        bindings,
        subscriptions_connected,
        subscriptions_waiting,
        subscriptions_disconnected,
        subscription_reconnects,
        subscription_rejections,
        change_notifications,
        upstream_queue_depth,
        source_max_age_seconds,
        source_overdue_seconds,
        reads,
        writes,
        reports,
        sources,
        identity_tokens,
        webhook_requests,
        flow_runs,
        run_events,
        registry: _,
        reconciles: _,
        workqueue_depth: _,
        reconcile_seconds: _,
        notification_to_secret_seconds: _,
        task_panics,
        cleanups_abandoned: _,
        namespace_unavailable,
        leader: _,
        per_binding,
    } = &metrics;
    let upstream = UpstreamLabels {
        upstream: "doppler",
    };
    let (kind, reason) = (
        SourceLabels { kind: "block" },
        ReasonLabels { reason: "Ready" },
    );
    let outcome = "unchanged";
    let read = ReadLabels {
        upstream: "doppler",
        outcome,
    };
    sample(bindings, reason);
    sample(subscriptions_connected, upstream);
    sample(subscriptions_waiting, upstream);
    sample(subscriptions_disconnected, upstream);
    sample(subscription_reconnects, upstream);
    sample(subscription_rejections, upstream);
    sample(
        change_notifications,
        NotificationLabels { source: "webhook" },
    );
    sample(upstream_queue_depth, upstream);
    sample(source_max_age_seconds, kind);
    sample(source_overdue_seconds, kind);
    sample(reads, read);
    sample(reports, reason);
    sample(sources, kind);
    sample(task_panics, TaskLabels { task: "pool" });
    sample(identity_tokens, IdentityTokenLabels { outcome });
    sample(webhook_requests, WebhookLabels { outcome });
    let outcome = "sent";
    sample(run_events, RunEventLabels { outcome });
    // The operator computes the hash.
    drop(flow_runs.get_or_create(&ContentLabels {
        content_hash: "sha".to_owned(),
    }));
    // The administrator lists the namespaces in a flag.
    drop(namespace_unavailable.get_or_create(&NamespaceLabels {
        namespace: "flows".to_owned(),
        reason: "gone",
    }));
    // The administrator asks for the series of bindings.
    per_binding.set(Box::new(|| {
        vec![BindingSample {
            namespace: "flows".to_owned(),
            name: "my-project-dev".to_owned(),
            ready: true,
            age: Some(std::time::Duration::ZERO),
        }]
    }));
    let (object, outcome) = ("secret", "ok");
    sample(writes, WriteLabels { object, outcome });
    metrics.text()
}

/// The names of all metrics as their samples have them, without the suffixes of histograms.
fn names() -> BTreeSet<String> {
    let page = page();
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
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| {
        let prefixes = ["doppler_prefect_", "process_"];
        prefixes.iter().any(|prefix| word.starts_with(prefix))
            && *word != "doppler_prefect_operator"
    };
    words.filter(is_metric).map(ToOwned::to_owned).collect()
}

/// The metrics in the table of the manual, with their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let manual = manual();
    let (_, section) = manual.split_once("\n## Metrics\n").unwrap();
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    let with_labels = rows.flat_map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        let labels = cells[2].split('`').skip(1).step_by(2);
        let labels: BTreeSet<_> = labels.map(str::to_owned).collect();
        let names = mentioned(cells[1]).into_iter();
        names.map(move |name| (name, labels.clone()))
    });
    with_labels.collect()
}

/// The labels of the samples of a metric.
fn labels(page: &str, name: &str) -> BTreeSet<String> {
    let samples = page
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let pairs = samples.flat_map(|sample| sample.split('}').next().unwrap_or(sample).split(','));
    let names = pairs.filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()));
    names.collect()
}

#[test]
fn manual_lists_every_metric() {
    let documented: BTreeSet<_> = documented().into_keys().collect();
    assert_eq!(documented, names());
}

/// [`sample`] accepts only labels with closed lists of values.
#[test]
fn labels_are_closed_and_listed_in_the_manual() {
    let page = page();
    let shown: BTreeMap<_, _> = names()
        .into_iter()
        .map(|name| (name.clone(), labels(&page, &name)))
        .collect();
    assert_eq!(documented(), shown);
}

#[test]
fn queries_and_alerts_in_the_manual_use_existing_metrics() {
    let unknown: Vec<_> = mentioned(&manual()).difference(&names()).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
