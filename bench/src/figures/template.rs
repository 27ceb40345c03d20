//! One work pool for many bindings: how often the operator reads and writes its template, and the
//! writes to the API server.
//!
//! Input: the small run with a work pool. Output: counts.
//! Invariants: the template has one entry for each binding, otherwise the figure fails.

use anyhow::{Context, Result, ensure};
use testkit::prefect::env_from;

use super::cold_counts::writes;
use super::context::FigureContext;
use crate::number::{as_f64, number};
use crate::result::{Findings, Goal, Row};
use crate::subject::RunOptions;
use crate::workload::Workload;

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let workload = Workload {
        has_pool: true,
        ..context.small()
    };
    let options = RunOptions::without_polls();
    let synced = context.cold_sync("template", workload, &options).await?;
    let stand_in = synced.testbed.prefect.stand_in()?;
    let counts = stand_in.counts();
    let pool = workload.pool().context("the workload has no work pool")?;
    let template = stand_in.template(pool);
    let mut template = template.context("the work pool has no template")?;
    let entries = env_from(&mut template)?.len();
    ensure!(
        entries == workload.bindings,
        "the template has {entries} entries, and {} bindings report that they are injected",
        workload.bindings
    );
    let count = number(as_f64(workload.bindings));
    let note = format!(
        "all in sync after {:.2} s; {} lists of deployments, {} requests for blocks, {} other requests",
        synced.cold.total.as_secs_f64(),
        counts.deployments,
        counts.blocks,
        counts.others
    );
    let rows = vec![
        Row::count(
            format!("GETs of one pool's template for {count} bindings"),
            as_f64(counts.pool_reads),
            Goal::Exactly(2.0),
        )
        .note(note),
        Row::count(
            format!("PATCHes of one pool's template for {count} bindings"),
            as_f64(counts.pool_writes),
            Goal::Exactly(1.0),
        ),
        writes(
            format!("API server writes for each binding with a pool, {count} bindings, cold"),
            workload.bindings,
            &synced.cold.requests,
            3.0,
        ),
    ];
    synced.stop().await?;
    Ok(Findings::rows(rows))
}
