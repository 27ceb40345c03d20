//! Resident memory with many bindings, on one config and on many: after all was synced, and the most that it ever was.

use anyhow::{Context, Result};

use super::cold::as_f64;
use super::sync;
use crate::Bench;
use crate::observe::process::Usage;
use crate::observe::rest::at_rest;
use crate::result::{Findings, Goal, Row, number};
use crate::scene::Plan;
use crate::subject::How;

const MIB: f64 = 1_048_576.0;

/// Both runs.
pub async fn measure(bench: &Bench<'_>) -> Result<Findings> {
    let mut rows = Vec::new();
    let many = bench.sizes.configs.min(bench.sizes.large);
    for (configs, most) in [(1, 64.0), (many, 128.0)] {
        let plan = Plan {
            bindings: bench.sizes.large,
            configs,
            ..bench.plan()
        };
        let how = How::refresh(bench.sizes.refresh);
        let name = format!("memory-{configs}");
        let synced = sync::cold(bench, bench.subject, &name, plan, &how).await?;
        let pid = synced.running.pid().context("no process")?;
        at_rest(&synced.scene, pid).await?;
        let usage = Usage::of(pid)?;
        sync::end(synced).await?;
        let about = format!(
            "{} bindings of {} secrets on {}",
            number(as_f64(plan.bindings)),
            plan.keys,
            if configs == 1 {
                "one config".to_owned()
            } else {
                format!("{} configs", number(as_f64(configs)))
            }
        );
        for (when, bytes) in [("in sync", usage.resident), ("at its peak", usage.peak)] {
            let what = format!("resident memory {when}, {about}");
            rows.push(Row::new(
                what,
                as_f64(bytes) / MIB,
                "MiB",
                Goal::Below(most),
            ));
        }
    }
    Ok(Findings {
        rows,
        charts: Vec::new(),
    })
}
