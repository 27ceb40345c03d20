//! Counts the flow runs that got each content.
//!
//! Input: the content hash that was in force at the start of a run.
//! Output: the metric of runs by content hash.
//! Invariants: the number of series is bounded: that of the hash that was counted least recently makes
//! room. A hash belongs to one binding, and is no name that a user chose.

use std::{collections::HashMap, sync::Arc};

use crate::metrics::{ContentLabels, Metrics};

/// The maximum number of series.
const MAX_SERIES: usize = 256;

/// Counts runs by content hash.
pub(super) struct RunCounter {
    metrics: Arc<Metrics>,
    /// When each hash was last counted, as a number that grows.
    counted: HashMap<ContentLabels, u64>,
    next: u64,
}

impl RunCounter {
    /// Has counted nothing.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            counted: HashMap::new(),
            next: 0,
        }
    }

    /// Counts a run.
    pub(super) fn count(&mut self, hash: &str) {
        let labels = ContentLabels {
            content_hash: hash.to_owned(),
        };
        if !self.counted.contains_key(&labels) && self.counted.len() >= MAX_SERIES {
            let oldest = self.counted.iter().min_by_key(|(_, number)| **number);
            if let Some(oldest) = oldest.map(|(labels, _)| labels.clone()) {
                self.counted.remove(&oldest);
                self.metrics.flow_runs.remove(&oldest);
            }
        }
        self.metrics.flow_runs.get_or_create(&labels).inc();
        self.counted.insert(labels, self.next);
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_series_is_bounded() {
        let metrics = Arc::new(Metrics::new());
        let mut counter = RunCounter::new(Arc::clone(&metrics));
        counter.count("kept");
        counter.count("dropped");
        for index in 0..MAX_SERIES - 1 {
            counter.count("kept");
            counter.count(&format!("h{index}"));
        }
        let page = metrics.text();
        let series = page.matches("flow_runs_total{").count();
        assert_eq!(series, MAX_SERIES);
        assert!(!page.contains("dropped"));
        let kept = format!("content_hash=\"kept\"}} {MAX_SERIES}");
        assert!(page.contains(&kept), "{page}");
    }
}
