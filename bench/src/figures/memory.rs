//! Resident memory with many bindings, on one config and on many configs.
//!
//! Input: the large run. Output: resident memory in sync, and its peak.
//! Invariants: the memory is read when the operator is idle.

use anyhow::{Context, Result};

use super::context::FigureContext;
use crate::idle::wait_until_idle;
use crate::number::{as_f64, number};
use crate::process_usage::Usage;
use crate::result::{Findings, Goal, Row};
use crate::subject::RunOptions;
use crate::workload::Workload;

const MIB: f64 = 1_048_576.0;

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let sizes = &context.sizes;
    let mut rows = Vec::new();
    let many = sizes.configs.min(sizes.large);
    for (configs, most) in [(1, 64.0), (many, 128.0)] {
        let workload = Workload {
            bindings: sizes.large,
            configs,
            ..context.small()
        };
        let options = RunOptions::refresh(sizes.refresh);
        let name = format!("memory-{configs}");
        let synced = context.cold_sync(&name, workload, &options).await?;
        let pid = synced.running.pid();
        let pid = pid.context("the subject is not a process")?;
        wait_until_idle(&synced.testbed, pid).await?;
        let usage = Usage::of(pid)?;
        synced.stop().await?;
        let about = about(workload);
        for (when, bytes) in [("in sync", usage.resident), ("at its peak", usage.peak)] {
            let what = format!("resident memory {when}, {about}");
            let mebibytes = as_f64(bytes) / MIB;
            rows.push(Row::new(what, mebibytes, "MiB", Goal::Below(most)));
        }
    }
    Ok(Findings::rows(rows))
}

fn about(workload: Workload) -> String {
    let configs = match workload.configs {
        1 => "one config".to_owned(),
        many => format!("{} configs", number(as_f64(many))),
    };
    let bindings = number(as_f64(workload.bindings));
    format!(
        "{bindings} bindings of {} secrets on {configs}",
        workload.keys
    )
}
