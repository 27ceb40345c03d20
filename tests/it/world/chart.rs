//! The chart, rendered for an operator that watches one or two namespaces.
//!
//! Input: the operator's namespace, the watched namespaces, and whether there are several replicas and
//! an optional permission. The operator may request tokens of the service account [`ACCOUNT`].
//! Output: the manifests as Helm renders them.
//! Invariants: Helm renders each variant at most once for each process; the names are inserted
//! afterwards.

use anyhow::{Context, Result};
use testkit::helm::helm_async;
use tokio::sync::OnceCell;

const HOME: &str = "placeholder-operator";
const WATCHED: &str = "placeholder-watched";
const NEIGHBOUR: &str = "placeholder-neighbour";

/// The Secret in `clusterServers.secrets`, in the namespace of [`platform`].
pub const SERVER_KEY: &str = "prefect-api-key";

/// The namespace of the platform team of a world.
pub fn platform(watched: &str) -> String {
    format!("{watched}-platform")
}

/// The service account in `identities.serviceAccounts`.
pub const ACCOUNT: &str = "doppler-reader";

/// The path of the chart.
pub fn path() -> String {
    format!(
        "{}/charts/doppler-prefect-operator",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// A permission that the operator has only if the user of the chart asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Optional {
    /// None of them.
    #[default]
    Nothing,
    /// `runPods.watch`
    RunPods,
    /// `rbac.restarts`
    Restarts,
    /// `clusterServers.enabled`
    ClusterServers,
    /// `rbac.restarts` and `clusterServers.enabled`
    RestartsAndClusterServers,
}

/// Renders the chart for `watchNamespaces: [watched]`, and the neighbour if there is one, in the
/// namespace `home`.
///
/// # Errors
/// If Helm cannot be downloaded, or fails.
pub async fn render(
    home: &str,
    watched: &str,
    neighbour: Option<&str>,
    several: bool,
    optional: Optional,
) -> Result<String> {
    static VARIANTS: [[[OnceCell<String>; 5]; 2]; 2] =
        [const { [const { [const { OnceCell::const_new() }; 5] }; 2] }; 2];
    let cell = &VARIANTS[usize::from(several)][usize::from(neighbour.is_some())][optional as usize];
    let replicas = if several {
        "replicaCount=2"
    } else {
        "replicaCount=1"
    };
    let run_pods = optional == Optional::RunPods;
    let both = optional == Optional::RestartsAndClusterServers;
    let restarts = both || optional == Optional::Restarts;
    let servers = both || optional == Optional::ClusterServers;
    let template = cell.get_or_try_init(async || {
        let watch = match neighbour {
            None => format!("watchNamespaces={{{WATCHED}}}"),
            Some(_) => format!("watchNamespaces={{{WATCHED},{NEIGHBOUR}}}"),
        };
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
            &format!("runPods.watch={run_pods},identities.serviceAccounts={{{ACCOUNT}}}"),
            "--set",
            &format!("rbac.restarts={restarts},clusterServers.enabled={servers}"),
            "--set",
            &format!(
                "clusterServers.secrets[0].name={SERVER_KEY},clusterServers.secrets[0].namespace={}",
                platform(WATCHED)
            ),
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
        .replace(WATCHED, watched)
        .replace(NEIGHBOUR, neighbour.unwrap_or_default()))
}
