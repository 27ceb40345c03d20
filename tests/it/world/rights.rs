//! What the chart grants to an operator of one namespace.
//!
//! In: the operator's namespace and the one that it watches, and how many replicas there are. Out: the manifests as helm renders them for these.
//! Helm is asked once for one replica, and once for several; the names are then put in, as helm would.

use anyhow::{Context, Result};
use testkit::helm::helm_async;
use tokio::sync::OnceCell;

const HOME: &str = "placeholder-of-the-operator";
const WATCHED: &str = "placeholder-of-the-watched";

/// Where the chart is.
pub fn chart() -> String {
    format!(
        "{}/charts/doppler-prefect-operator",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// The chart for `watchNamespaces: [watched]`, released in `home`, for one replica or for several.
///
/// # Errors
/// When helm cannot be had or refuses.
pub async fn rendered(home: &str, watched: &str, several: bool) -> Result<String> {
    static ONE: OnceCell<String> = OnceCell::const_new();
    static SEVERAL: OnceCell<String> = OnceCell::const_new();
    let (cell, replicas) = if several {
        (&SEVERAL, "replicaCount=2")
    } else {
        (&ONE, "replicaCount=1")
    };
    let template = cell.get_or_try_init(async || {
        let watch = format!("watchNamespaces={{{WATCHED}}}");
        let chart = chart();
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
