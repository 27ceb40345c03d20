//! The chart, rendered for an operator that watches one namespace.
//!
//! Input: the operator's namespace, the watched namespace, and whether there are several replicas.
//! Output: the manifests as Helm renders them.
//! Invariants: Helm renders at most twice for each process; the names are inserted afterwards.

use anyhow::{Context, Result};
use testkit::helm::helm_async;
use tokio::sync::OnceCell;

const HOME: &str = "placeholder-operator";
const WATCHED: &str = "placeholder-watched";

/// The path of the chart.
pub fn path() -> String {
    format!(
        "{}/charts/doppler-prefect-operator",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// Renders the chart for `watchNamespaces: [watched]` in the namespace `home`.
///
/// # Errors
/// If Helm cannot be downloaded, or fails.
pub async fn render(home: &str, watched: &str, several: bool) -> Result<String> {
    static ONE: OnceCell<String> = OnceCell::const_new();
    static SEVERAL: OnceCell<String> = OnceCell::const_new();
    let (cell, replicas) = if several {
        (&SEVERAL, "replicaCount=2")
    } else {
        (&ONE, "replicaCount=1")
    };
    let template = cell.get_or_try_init(async || {
        let watch = format!("watchNamespaces={{{WATCHED}}}");
        let chart = path();
        let args = [
            "template",
            "dpo",
            &chart,
            "--namespace",
            HOME,
            "--set",
            &watch,
            "--set",
            replicas,
            "--set",
            "crds.enabled=false,image.repository=doppler-prefect-operator",
        ];
        helm_async(&args, None)
            .await?
            .success()
            .context("helm template of the chart")
    });
    Ok(template
        .await?
        .replace(HOME, home)
        .replace(WATCHED, watched))
}
