//! What an account asks of the API server, by the API server's own count.
//!
//! In: the account. Out: how many requests of each kind it made so far. The API server counts the requests of each flow schema, so the account
//! gets one schema for each kind of request. A watch counts when it begins.

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

const COUNTS_LIMIT: Duration = Duration::from_mins(1);
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
/// The counts of one priority level are of no use; the schemas share the one that service accounts have anyway.
const LEVEL: &str = "workload-low";

/// Requests, by kind.
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
    /// Anything about Leases.
    pub leases: u64,
    /// All other writes.
    pub others: u64,
    /// Watches begun.
    pub watches: u64,
    /// Everything else: get, list, discovery.
    pub reads: u64,
}

impl Requests {
    /// Writes, Events and Leases apart.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.secrets + self.statuses + self.resources + self.others
    }

    /// The writes, by kind.
    #[must_use]
    pub fn in_words(&self) -> String {
        format!(
            "writes of Secrets {}, of statuses {}, of the resources otherwise {}, of Events {}, of anything else {}",
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

/// The count of one account.
pub struct Ledger {
    name: String,
}

impl Ledger {
    /// Begins to count what `grant` asks. Returns once the API server counts.
    ///
    /// # Errors
    /// When the API server takes no flow schema, or does not count.
    pub async fn open(
        plane: &ControlPlane,
        grant: &Grant,
        namespace: &str,
        kind: &ApiResource,
    ) -> Result<Self> {
        let ledger = Self {
            name: namespace.to_owned(),
        };
        let client = plane.admin_client()?;
        for (at, (part, rules)) in rules(namespace, kind).into_iter().enumerate() {
            let schema = ledger.schema(part, at, grant, &rules);
            kubernetes::apply(&client, namespace, &schema.to_string()).await?;
        }
        let secrets: Api<Secret> = Api::namespaced(client_of(grant).await?, namespace);
        // The rights take a moment as well. What comes after the last schema counts comes after all of them do.
        wait::until(COUNTS_LIMIT, "the API server to count", async || {
            secrets
                .list_metadata(&ListParams::default().match_any().limit(1))
                .await?;
            ensure!(ledger.read(plane).await?.reads > 0, "none yet");
            Ok(())
        })
        .await
        .context("the flow schemas do not match the account")?;
        Ok(ledger)
    }

    /// What was asked so far.
    ///
    /// # Errors
    /// When the API server does not tell.
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
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": self.schema_name(part)},
            "spec": {
                "priorityLevelConfiguration": {"name": LEVEL}, "matchingPrecedence": 40 + at, "rules": [rule],
                // What the account would have without us.
                "distinguisherMethod": {"type": "ByUser"},
            },
        })
    }
}

/// The kinds of requests; of several that match, the first counts.
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

/// The requests that a schema let through.
fn count(metrics: &str, schema: &str) -> Result<u64> {
    let label = format!("flow_schema=\"{schema}\"");
    let lines = metrics.lines().filter(|line| {
        line.starts_with("apiserver_flowcontrol_dispatched_requests_total{")
            && line.contains(&label)
    });
    let counts = lines.filter_map(|line| line.rsplit(' ').next());
    // A count of a million is written as 1e+06.
    let counts = counts.map(|text| text.parse::<f64>().map(whole));
    Ok(counts.sum::<Result<u64, _>>()?)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Counts are whole and not negative.
fn whole(count: f64) -> u64 {
    count as u64
}

/// A client that acts as the account.
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
    fn counts_one_schema_over_all_levels_and_no_other() {
        let name = "apiserver_flowcontrol_dispatched_requests_total";
        let metrics = format!(
            "# HELP {name} x\n{name}{{flow_schema=\"a-reads\",priority_level=\"x\"}} 3\n\
             {name}{{flow_schema=\"a-reads\",priority_level=\"y\"}} 1e+06\n{name}{{flow_schema=\"aa-reads\",priority_level=\"x\"}} 7\n"
        );
        assert_eq!(count(&metrics, "a-reads").unwrap(), 1_000_003);
        assert_eq!(count(&metrics, "b-reads").unwrap(), 0);
    }
}
