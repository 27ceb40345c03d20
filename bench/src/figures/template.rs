//! One pool for many bindings: how often its template is read and written, and what that adds to the API server's writes.

use anyhow::{Context, Result, ensure};

use super::cold::{as_f64, writes};
use super::sync;
use crate::Bench;
use crate::result::{Findings, Goal, Row, number};
use crate::scene::Plan;
use crate::subject::How;
use testkit::prefect::env_from;

/// The bindings of a small run, all in one pool.
pub async fn measure(bench: &Bench<'_>) -> Result<Findings> {
    let plan = Plan {
        pool: true,
        ..bench.plan()
    };
    let how = How::without_polls();
    let synced = sync::cold(bench, bench.subject, "template", plan, &how).await?;
    let stand_in = synced.scene.prefect.stand_in()?;
    let counts = stand_in.counts();
    let pool = synced.scene.pool().context("no pool")?;
    let mut template = stand_in.template(pool).context("no template")?;
    let entries = env_from(&mut template)?.len();
    ensure!(
        entries == plan.bindings,
        "the template has {entries} entries for {} bindings that say they are injected",
        plan.bindings
    );
    let count = number(as_f64(plan.bindings));
    let note = format!(
        "all done after {:.2} s; beside them {} lists of deployments, {} blocks, {} other requests",
        synced.cold.whole.as_secs_f64(),
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
            plan.bindings,
            &synced.cold.requests,
            3.0,
        ),
    ];
    sync::end(synced).await?;
    Ok(Findings {
        rows,
        charts: Vec::new(),
    })
}
