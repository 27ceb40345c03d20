//! The chart's admission policy, which adds Secrets to Jobs.
//!
//! Input: a running control plane.
//! Output: the policy and its binding, as the chart renders them for the version of the API server.
//! Invariants: nothing else of the chart is applied.

use anyhow::{Context, Result};

use crate::binary;
use crate::control_plane::{ControlPlane, Version};
use crate::helm::helm_async;
use crate::kubernetes;

/// The policy and its binding as YAML.
///
/// # Errors
/// If Helm is not available, or the chart does not render them.
pub async fn render(version: Version) -> Result<String> {
    let chart = binary::workspace().join("charts/doppler-prefect-operator");
    let args = [
        "template",
        "doppler-prefect-operator",
        &chart.display().to_string(),
        "--namespace",
        "doppler-prefect-operator",
        "--show-only",
        "templates/admission.yaml",
        "--kube-version",
        &version.to_string(),
        "--set",
        "admission.enabled=true,allNamespaces=true,image.repository=REGISTRY/doppler-prefect-operator",
    ];
    let rendered = helm_async(&args, None).await?;
    rendered.success().context("helm template of the policy")
}

/// Installs the policy. The API server begins to use it within seconds.
///
/// # Errors
/// Those of [`render`], and if the API server rejects the policy.
pub async fn install(plane: &ControlPlane) -> Result<()> {
    let rendered = render(plane.version()).await?;
    let client = plane.admin_client()?;
    kubernetes::apply(&client, "default", &rendered).await?;
    Ok(())
}
