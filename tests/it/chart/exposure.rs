//! What reaches the operator's pods, and what they reach.
//!
//! Input: sets of values.
//! Output: Services and their monitor, routes of the webhook, and the network policy.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::{Value, json};
use testkit::kubernetes;

use super::{objects, one};

const WEBHOOK: [&str; 2] = ["webhook.enabled=true", "webhook.secretName=a"];

/// The webhook's Service has no metrics: scraping it would fail for ever.
#[test]
fn monitor_selects_the_service_of_the_metrics_only() {
    let objects = objects(&[&WEBHOOK[..], &["serviceMonitor.enabled=true"]].concat());
    let monitor = one(&objects, "ServiceMonitor");
    let selector: BTreeMap<String, String> =
        serde_json::from_value(monitor.data["spec"]["selector"]["matchLabels"].clone()).unwrap();
    let services = objects
        .iter()
        .filter(|object| kubernetes::kind(object) == "Service");
    let selected = services.filter(|service| {
        let labels = service.labels();
        selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    });
    let selected: Vec<_> = selected.map(ResourceExt::name_any).collect();
    assert_eq!(selected, ["op-doppler-prefect-operator-metrics"]);
}

#[test]
fn monitor_has_the_timeout_and_relabelings_of_the_values() {
    let endpoint = |sets: &[&str]| {
        let objects = objects(&[&["serviceMonitor.enabled=true"], sets].concat());
        one(&objects, "ServiceMonitor").data["spec"]["endpoints"][0].clone()
    };
    assert_eq!(
        endpoint(&[]),
        json!({"port": "metrics", "path": "/metrics", "interval": "30s"})
    );
    let changed = endpoint(&[
        "serviceMonitor.scrapeTimeout=5s",
        "serviceMonitor.relabelings[0].targetLabel=cluster",
        "serviceMonitor.metricRelabelings[0].action=drop",
    ]);
    assert_eq!(changed["scrapeTimeout"], "5s");
    assert_eq!(changed["relabelings"], json!([{"targetLabel": "cluster"}]));
    assert_eq!(changed["metricRelabelings"], json!([{"action": "drop"}]));
}

#[test]
fn webhook_has_a_route_of_the_gateway_api_on_request() {
    let objects = objects(
        &[
            &WEBHOOK[..],
            &[
                "webhook.service.port=8443",
                "webhook.httpRoute.enabled=true",
                "webhook.httpRoute.parentRefs[0].name=public",
                "webhook.httpRoute.hostnames={webhook.example.com}",
                "webhook.httpRoute.annotations.note=x",
            ],
        ]
        .concat(),
    );
    let route = one(&objects, "HTTPRoute");
    assert_eq!(route.annotations()["note"], "x");
    let paths = json!([
        {"path": {"type": "Exact", "value": "/webhooks/doppler"}},
        {"path": {"type": "PathPrefix", "value": "/webhooks/refresh"}},
    ]);
    let backend = json!([{"name": "op-doppler-prefect-operator-webhook", "port": 8443}]);
    assert_eq!(
        route.data["spec"],
        json!({
            "parentRefs": [{"name": "public"}],
            "hostnames": ["webhook.example.com"],
            "rules": [{"matches": paths, "backendRefs": backend}],
        })
    );
}

fn network_policy(sets: &[&str]) -> Value {
    let objects = objects(&[&["networkPolicy.enabled=true"], sets].concat());
    one(&objects, "NetworkPolicy").data["spec"].clone()
}

#[test]
fn network_policy_limits_ingress_to_the_peers_of_the_values() {
    let open = network_policy(&[]);
    assert_eq!(open["policyTypes"], json!(["Ingress"]));
    let port = |name: &str| json!({"ports": [{"port": name, "protocol": "TCP"}]});
    assert_eq!(open["ingress"], json!([port("metrics"), port("health")]));

    let peers = [
        "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
        "networkPolicy.webhookFrom[0].podSelector.matchLabels.app=ingress",
    ];
    let closed = network_policy(&[&WEBHOOK[..], &peers].concat());
    let from = |name: &str, app: &str| {
        let mut rule = port(name);
        rule["from"] = json!([{"podSelector": {"matchLabels": {"app": app}}}]);
        rule
    };
    // `helm test` reads the metrics, and a standby replica forwards webhooks to the leader.
    let mut test = replicas();
    test["podSelector"]["matchLabels"]["app.kubernetes.io/component"] = json!("test");
    let mut metrics = from("metrics", "prometheus");
    metrics["from"].as_array_mut().unwrap().push(test);
    let mut webhook = from("webhook", "ingress");
    webhook["from"].as_array_mut().unwrap().push(replicas());
    assert_eq!(
        closed["ingress"],
        json!([
            metrics,
            // The kubelet has no peer that a policy could name.
            port("health"),
            webhook,
        ])
    );
}

/// The peer that is the operator itself.
fn replicas() -> Value {
    json!({"podSelector": {"matchLabels": {
        "app.kubernetes.io/name": "doppler-prefect-operator",
        "app.kubernetes.io/instance": "op",
    }}})
}

#[test]
fn network_policy_limits_egress_on_request() {
    let policy = network_policy(&[
        "networkPolicy.egress.enabled=true",
        "networkPolicy.egress.apiServerTo[0].ipBlock.cidr=10.0.0.1/32",
        "networkPolicy.egress.prefectTo[0].podSelector.matchLabels.app=prefect",
        "networkPolicy.egress.extra[0].ports[0].port=3128",
    ]);
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    let tcp = |port: u16| json!({"port": port, "protocol": "TCP"});
    let expected = json!([
        {"ports": [{"port": 53, "protocol": "UDP"}, tcp(53)]},
        {"ports": [tcp(443), tcp(6443)], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]},
        {"ports": [tcp(443)]},
        {"ports": [tcp(4200)], "to": [{"podSelector": {"matchLabels": {"app": "prefect"}}}]},
        {"ports": [{"port": "metrics", "protocol": "TCP"}], "to": [replicas()]},
        {"ports": [{"port": 3128}]},
    ]);
    assert_eq!(policy["egress"], expected);
    let replicated = ["replicaCount=2", "networkPolicy.egress.enabled=true"];
    let policy = network_policy(&[&WEBHOOK[..], &replicated].concat());
    let rules = policy["egress"].as_array().unwrap();
    let forwarded = json!({"ports": [{"port": "webhook", "protocol": "TCP"}], "to": [replicas()]});
    assert_eq!(rules.last(), Some(&forwarded));
}

/// A replica that never becomes ready must not block the drain of its node.
#[test]
fn disruption_budget_does_not_protect_unready_replicas() {
    let sets = ["replicaCount=2", "podDisruptionBudget.enabled=true"];
    let objects = objects(&sets);
    let budget = &one(&objects, "PodDisruptionBudget").data["spec"];
    assert_eq!(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow");
}
