//! Series for each binding, if the administrator asks for them.
//!
//! Input: the bindings at each scrape: which are Ready, and how old their values are.
//! Output: at most [`MAX_BINDINGS`] bindings, those that are not Ready first, and the number of the
//! others.
//! Invariants: without a source, there is no series. Nothing is kept between scrapes, so a deleted
//! binding leaves no series behind.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

/// The maximum number of bindings with series of their own.
pub const MAX_BINDINGS: usize = 1000;

/// A binding at one scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingSample {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it is Ready.
    pub ready: bool,
    /// How long ago the oldest of its configs was read, if all were.
    pub age: Option<Duration>,
}

/// Labels of a binding. `namespace` alone would collide with the label that Prometheus adds to each
/// scraped pod.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BindingLabels {
    binding_namespace: String,
    binding: String,
}

type Source = Box<dyn Fn() -> Vec<BindingSample> + Send + Sync>;

/// The source of the series, once this replica leads.
#[derive(Clone, Default)]
pub struct PerBinding(Arc<OnceLock<Source>>);

impl fmt::Debug for PerBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerBinding").finish_non_exhaustive()
    }
}

impl PerBinding {
    /// From now on each scrape shows the bindings that `source` returns. Later calls have no effect.
    pub fn set(&self, source: Source) {
        let _ = self.0.set(source);
    }
}

impl Collector for PerBinding {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(source) = self.0.get() else {
            return Ok(());
        };
        let (shown, omitted) = bounded(source());
        let labelled: Vec<_> = shown
            .into_iter()
            .map(|sample| {
                let labels = BindingLabels {
                    binding_namespace: sample.namespace,
                    binding: sample.name,
                };
                (labels, sample.ready, sample.age)
            })
            .collect();
        let gauge = MetricType::Gauge;
        let help = "1 for each binding that is Ready, 0 for one that is not";
        let mut ready = encoder.encode_descriptor("binding_ready", help, None, gauge)?;
        for (labels, is_ready, _) in &labelled {
            let value = ConstGauge::new(i64::from(*is_ready));
            value.encode(ready.encode_family(labels)?)?;
        }
        let help = "Time since the stalest config of each binding was read";
        let mut ages = encoder.encode_descriptor("binding_age_seconds", help, None, gauge)?;
        for (labels, _, age) in &labelled {
            if let Some(age) = age {
                let value = ConstGauge::new(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
                value.encode(ages.encode_family(labels)?)?;
            }
        }
        let help = "Bindings without series of their own, because there are too many";
        let omitted = ConstGauge::new(i64::try_from(omitted).unwrap_or(i64::MAX));
        omitted.encode(encoder.encode_descriptor("binding_series_omitted", help, None, gauge)?)
    }
}

/// The bindings to show, and how many are left out.
fn bounded(mut samples: Vec<BindingSample>) -> (Vec<BindingSample>, usize) {
    samples.sort_unstable_by(|a, b| {
        (a.ready, &a.namespace, &a.name).cmp(&(b.ready, &b.namespace, &b.name))
    });
    let omitted = samples.len().saturating_sub(MAX_BINDINGS);
    samples.truncate(MAX_BINDINGS);
    (samples, omitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn sample(name: &str, ready: bool) -> BindingSample {
        BindingSample {
            namespace: "flows".to_owned(),
            name: name.to_owned(),
            ready,
            age: ready.then_some(Duration::from_secs(7)),
        }
    }

    #[test]
    fn series_of_bindings_are_off_by_default() {
        assert!(!Metrics::new().text().contains("doppler_prefect_binding_"));
    }

    #[test]
    fn each_scrape_shows_the_bindings_of_now() {
        let metrics = Metrics::new();
        let count = std::sync::atomic::AtomicUsize::new(0);
        metrics.per_binding.set(Box::new(move || {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            vec![sample(&format!("b{number}"), number == 0)]
        }));
        let page = metrics.text();
        for line in [
            "doppler_prefect_binding_ready{binding_namespace=\"flows\",binding=\"b0\"} 1\n",
            "doppler_prefect_binding_age_seconds{binding_namespace=\"flows\",binding=\"b0\"} 7\n",
            "doppler_prefect_binding_series_omitted 0\n",
        ] {
            assert!(page.contains(line), "{page}");
        }
        let page = metrics.text();
        assert!(!page.contains("\"b0\""), "{page}");
        let line = "doppler_prefect_binding_ready{binding_namespace=\"flows\",binding=\"b1\"} 0\n";
        assert!(page.contains(line), "{page}");
        assert!(!page.contains("binding_age_seconds{"), "it has no values");
    }

    #[test]
    fn number_of_bindings_is_bounded_and_the_rest_is_counted() {
        let metrics = Metrics::new();
        metrics.per_binding.set(Box::new(|| {
            let ready = (0..MAX_BINDINGS + 4).map(|number| sample(&format!("a{number}"), true));
            ready.chain([sample("z", false)]).collect()
        }));
        let page = metrics.text();
        let shown = page.matches("doppler_prefect_binding_ready{").count();
        assert_eq!(shown, MAX_BINDINGS);
        assert!(page.contains("binding=\"z\"} 0\n"), "not Ready comes first");
        assert!(page.contains("doppler_prefect_binding_series_omitted 5\n"));
    }
}
