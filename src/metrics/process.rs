//! The metrics of the process, under the names that Prometheus' client libraries share.
//!
//! Input: what Linux says at each scrape.
//! Output: `process_*`, and the memory limit.
//! Invariants: a scrape reads some files below `/proc` and `/sys`, and writes nothing. What cannot be
//! read is absent. The start is read once, so that a clock that is set does not look like a restart.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::linux;

/// Registers the metrics of the process, in the registry without a prefix.
pub(super) fn register(registry: &mut Registry) {
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    registry.register_collector(Box::new(ProcessCollector {
        start_seconds: started.unwrap_or_default().as_secs_f64(),
    }));
}

/// Registers the memory limit.
pub(super) fn register_limit(registry: &mut Registry) {
    registry.register_collector(Box::new(LimitCollector));
}

/// Reads the usage of the process at each scrape.
#[derive(Debug)]
struct ProcessCollector {
    start_seconds: f64,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let used = linux::usage();
        if let Some(seconds) = used.cpu_seconds {
            let counter = ConstCounter::new(seconds);
            let help = "Total user and system CPU time spent in seconds";
            let kind = MetricType::Counter;
            counter.encode(encoder.encode_descriptor(
                "process_cpu_seconds",
                help,
                None,
                kind,
            )?)?;
        }
        let descriptors = linux::descriptor_limit().and_then(|limit| u64::try_from(limit).ok());
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                used.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes",
                used.virtual_bytes,
            ),
            (
                "process_threads",
                "Number of OS threads in the process",
                used.threads,
            ),
            (
                "process_open_fds",
                "Number of open file descriptors",
                used.open_descriptors,
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors",
                descriptors,
            ),
        ] {
            encode_gauge(&mut encoder, name, help, value)?;
        }
        let help = "Start time of the process since unix epoch in seconds";
        let start = encoder.encode_descriptor(
            "process_start_time_seconds",
            help,
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.start_seconds).encode(start)
    }
}

/// Reads the memory limit at each scrape: Kubernetes can change it while the process runs.
#[derive(Debug)]
struct LimitCollector;

impl Collector for LimitCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help =
            "Memory that the process may use: the limit of its control group, or the machine's";
        encode_gauge(
            &mut encoder,
            "memory_limit_bytes",
            help,
            linux::memory_limit(),
        )
    }
}

fn encode_gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    value: Option<u64>,
) -> fmt::Result {
    let Some(value) = value.and_then(|value| i64::try_from(value).ok()) else {
        return Ok(());
    };
    let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(gauge)
}
