//! The environment of one run: a namespace, a service account with the chart's rights, a counter of
//! its requests, and upstreams.
//!
//! Input: a control plane and a workload. Output: `Testbed`.
//! Invariants: the servers stop with the value. The namespace stays, because the deletion of ten
//! thousand objects would slow the next run down.

use anyhow::{Context, Result};
use kube::Client;
use kube::core::ApiResource;
use testkit::binary::workspace;
use testkit::control_plane::ControlPlane;
use testkit::doppler::Doppler;
use testkit::grant::{Grant, ensure_namespace, grant_from_chart};
use testkit::helm::helm_async;

use crate::request_counter::RequestCounter;
use crate::upstreams::{Prefect, start_doppler, start_prefect};
use crate::workload::Workload;

/// The environment of one run.
pub struct Testbed<'a> {
    /// The control plane.
    pub plane: &'a ControlPlane,
    /// The namespace.
    pub namespace: String,
    /// The administrator's client.
    pub client: Client,
    /// The service account of the subject.
    pub grant: Grant,
    /// The requests of that service account to the API server.
    pub requests: RequestCounter,
    /// The Doppler stand-in.
    pub doppler: Doppler,
    /// Prefect.
    pub prefect: Prefect,
    /// The workload.
    pub workload: Workload,
    /// The UIDs of the resources, in their order; empty until they are created.
    pub uids: Vec<String>,
}

impl<'a> Testbed<'a> {
    /// Sets up everything except the resources. `kind` is the kind of the resources.
    ///
    /// # Errors
    /// When a server does not start or rejects an object.
    pub async fn set_up(
        plane: &'a ControlPlane,
        name: &str,
        workload: Workload,
        kind: &ApiResource,
    ) -> Result<Self> {
        let client = plane.admin_client()?;
        ensure_namespace(&client, name).await?;
        let home = format!("{name}-operator");
        let grant = grant_from_chart(plane, &chart_manifests(&home, name).await?, &home).await?;
        let requests = RequestCounter::start(plane, &grant, name, kind).await?;
        let doppler = start_doppler(&workload)?;
        let prefect = start_prefect(&workload, &doppler, name).await?;
        Ok(Self {
            plane,
            namespace: name.to_owned(),
            client,
            grant,
            requests,
            doppler,
            prefect,
            workload,
            uids: Vec::new(),
        })
    }

    /// Sets the request counts of the upstreams to zero.
    pub fn reset_upstream_counts(&self) {
        self.doppler.reset_requests();
        if let Prefect::StandIn(stand_in) = &self.prefect {
            stand_in.reset_counts();
        }
    }

    /// The number of requests for blocks; none with the real Prefect server.
    #[must_use]
    pub fn block_reads(&self) -> Option<u64> {
        let stand_in = self.prefect.stand_in().ok()?;
        Some(stand_in.counts().blocks)
    }
}

/// The manifests of the chart for an operator in `home` that watches one namespace.
async fn chart_manifests(home: &str, watched: &str) -> Result<String> {
    let chart = workspace().join("charts/doppler-prefect-operator");
    let chart = chart.to_str().context("the chart's path is not UTF-8")?;
    let watch = format!("watchNamespaces={{{watched}}}");
    let arguments = [
        "template",
        "bench",
        chart,
        "--namespace",
        home,
        "--set",
        &watch,
        "--set",
        "crds.enabled=false,image.repository=doppler-prefect-operator",
    ];
    helm_async(&arguments, None).await?.success()
}
