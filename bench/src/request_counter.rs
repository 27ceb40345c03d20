//! The requests of a service account to the API server, as the API server counts them.
//!
//! Input: the service account. Output: `Requests`, by kind. The API server counts the requests of
//! each flow schema, so that the account gets one flow schema for each kind of request.
//! Invariants: a watch counts once, when it is opened.

use std::ops::Sub;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use testkit::control_plane::ControlPlane;
use testkit::grant::Grant;
use testkit::{kubernetes, wait};

const START_TIMEOUT: Duration = Duration::from_mins(1);
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
/// All flow schemas use the priority level that service accounts have by default.
const LEVEL: &str = "workload-low";

/// The number of requests, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Writes of Secrets in the namespace.
    pub secrets: u64,
    /// Writes of the resources' status.
    pub statuses: u64,
    /// Other writes of the resources: finalizers, annotations.
    pub resources: u64,
    /// Writes of Events.
    pub events: u64,
    /// All requests for Leases.
    pub leases: u64,
    /// All other writes.
    pub others: u64,
    /// Opened watches.
    pub watches: u64,
    /// All other requests: get, list, discovery.
    pub reads: u64,
}

impl Requests {
    /// All writes except those of Events and Leases.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.secrets + self.statuses + self.resources + self.others
    }

    /// The writes by kind, as text.
    #[must_use]
    pub fn writes_by_kind(&self) -> String {
        format!(
            "writes of Secrets {}, statuses {}, the rest of the resources {}, Events {}, other objects {}",
            self.secrets, self.statuses, self.resources, self.events, self.others
        )
    }
}

impl Sub for Requests {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            secrets: self.secrets - before.secrets,
            statuses: self.statuses - before.statuses,
            resources: self.resources - before.resources,
            events: self.events - before.events,
            leases: self.leases - before.leases,
            others: self.others - before.others,
            watches: self.watches - before.watches,
            reads: self.reads - before.reads,
        }
    }
}

/// Counts the requests of one service account.
pub struct RequestCounter {
    name: String,
}

impl RequestCounter {
    /// Starts to count the requests of `grant`, and waits until the API server counts them.
    ///
    /// # Errors
    /// When the API server rejects a flow schema or does not count.
    pub async fn start(
        plane: &ControlPlane,
        grant: &Grant,
        namespace: &str,
        kind: &ApiResource,
    ) -> Result<Self> {
        let counter = Self {
            name: namespace.to_owned(),
        };
        let client = plane.admin_client()?;
        for (at, (part, rules)) in rules(namespace, kind).into_iter().enumerate() {
            let schema = counter.schema(part, at, grant, &rules);
            kubernetes::apply(&client, namespace, &schema.to_string()).await?;
        }
        let secrets: Api<Secret> = Api::namespaced(client_of(grant).await?, namespace);
        // RBAC and flow schemas take effect with a delay. The last schema is the one of reads.
        wait::until(START_TIMEOUT, "the API server to count", async || {
            secrets
                .list_metadata(&ListParams::default().match_any().limit(1))
                .await?;
            ensure!(
                counter.read(plane).await?.reads > 0,
                "no request is counted yet"
            );
            Ok(())
        })
        .await
        .context("the API server does not count the requests of the service account")?;
        Ok(counter)
    }

    /// The requests so far.
    ///
    /// # Errors
    /// When the API server does not return its metrics.
    pub async fn read(&self, plane: &ControlPlane) -> Result<Requests> {
        let metrics = plane.apiserver_metrics().await?;
        let count = |part: &str| count(&metrics, &self.schema_name(part));
        Ok(Requests {
            secrets: count("secrets")?,
            statuses: count("statuses")?,
            resources: count("resources")?,
            events: count("events")?,
            leases: count("leases")?,
            others: count("others")?,
            watches: count("watches")?,
            reads: count("reads")?,
        })
    }

    fn schema_name(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    fn schema(&self, part: &str, at: usize, grant: &Grant, rules: &Value) -> Value {
        let account = json!({"kind": "ServiceAccount", "serviceAccount": {"name": grant.service_account, "namespace": grant.namespace}});
        let mut rule = rules.clone();
        rule["subjects"] = json!([account]);
        json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
            "metadata": {"name": self.schema_name(part)},
            "spec": {
                "priorityLevelConfiguration": {"name": LEVEL},
                "matchingPrecedence": 40 + at,
                "rules": [rule],
                // The default of service accounts.
                "distinguisherMethod": {"type": "ByUser"},
            },
        })
    }
}

/// The kinds of requests. A request counts as the first kind that matches.
fn rules(namespace: &str, kind: &ApiResource) -> [(&'static str, Value); 8] {
    let rule = |verbs: &[&str], groups: &[&str], resources: &[&str], namespace: &str| {
        json!({"resourceRules": [{
            "verbs": verbs, "apiGroups": groups, "resources": resources, "clusterScope": namespace == "*", "namespaces": [namespace],
        }]})
    };
    let (group, plural) = (kind.group.as_str(), kind.plural.as_str());
    let status = format!("{plural}/status");
    let mut rest = rule(&["*"], &["*"], &["*"], "*");
    rest["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    [
        ("secrets", rule(&WRITES, &[""], &["secrets"], namespace)),
        ("statuses", rule(&WRITES, &[group], &[&status], "*")),
        ("resources", rule(&WRITES, &[group], &[plural], "*")),
        (
            "events",
            rule(&WRITES, &["", "events.k8s.io"], &["events"], "*"),
        ),
        (
            "leases",
            rule(&["*"], &["coordination.k8s.io"], &["leases"], "*"),
        ),
        ("others", rule(&WRITES, &["*"], &["*"], "*")),
        ("watches", rule(&["watch"], &["*"], &["*"], "*")),
        ("reads", rest),
    ]
}

/// The requests that a flow schema dispatched.
fn count(metrics: &str, schema: &str) -> Result<u64> {
    let label = format!("flow_schema=\"{schema}\"");
    let lines = metrics.lines().filter(|line| {
        line.starts_with("apiserver_flowcontrol_dispatched_requests_total{")
            && line.contains(&label)
    });
    let counts = lines.filter_map(|line| line.rsplit(' ').next());
    // The API server writes a million as 1e+06.
    let counts = counts.map(|text| text.parse::<f64>().map(whole));
    Ok(counts.sum::<Result<u64, _>>()?)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Counts are integers and not negative.
fn whole(count: f64) -> u64 {
    count as u64
}

/// A client with the credentials of the service account.
///
/// # Errors
/// When its kubeconfig cannot be read.
pub async fn client_of(grant: &Grant) -> Result<Client> {
    let file = Kubeconfig::read_from(&grant.kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    config.read_timeout = Some(Duration::from_mins(1));
    Ok(Client::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_one_flow_schema_over_priority_levels() {
        let name = "apiserver_flowcontrol_dispatched_requests_total";
        let metrics = format!(
            "# HELP {name} x\n{name}{{flow_schema=\"a-reads\",priority_level=\"x\"}} 3\n\
             {name}{{flow_schema=\"a-reads\",priority_level=\"y\"}} 1e+06\n{name}{{flow_schema=\"aa-reads\",priority_level=\"x\"}} 7\n"
        );
        assert_eq!(count(&metrics, "a-reads").unwrap(), 1_000_003);
        assert_eq!(count(&metrics, "b-reads").unwrap(), 0);
    }
}
