//! Typical sets of values.
//!
//! Input: none.
//! Output: arguments of `--set`, each set with its purpose.

use super::metrics::{MONITORING, PROTECTED};

/// Typical sets of values, each with its purpose.
pub(super) const VALUE_SETS: [(&str, &[&str]); 16] = [
    ("the defaults", &[]),
    (
        "listed namespaces",
        &[
            "watchNamespaces={flows,more}",
            "prefectNamespaces={prefect,flows}",
        ],
    ),
    ("a CRD that the user applies", &["crds.enabled=false"]),
    (
        "an account and permissions that the user creates",
        &[
            "serviceAccount.create=false",
            "serviceAccount.name=theirs",
            "rbac.create=false",
        ],
    ),
    (
        "a digest",
        &[
            "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "imagePullSecrets[0].name=pull",
        ],
    ),
    (
        "Prometheus and a network policy",
        &["serviceMonitor.enabled=true", "networkPolicy.enabled=true"],
    ),
    (
        "no detach Job",
        &["uninstall.detach=false", "fullnameOverride=dpo"],
    ),
    (
        "a proxy and a CA",
        &[
            "extraEnv[0].name=HTTPS_PROXY",
            "extraEnv[0].value=http://proxy:3128",
            "extraVolumes[0].name=ca",
            "extraVolumes[0].configMap.name=ca",
            "extraVolumeMounts[0].name=ca",
            "extraVolumeMounts[0].mountPath=/ca",
            "nodeSelector.disk=ssd",
            "tolerations[0].operator=Exists",
            "podLabels.team=data",
            "podAnnotations.note=x",
            "priorityClassName=high",
        ],
    ),
    (
        "several replicas that receive webhooks",
        &[
            "watchNamespaces={flows}",
            "replicaCount=3",
            "podDisruptionBudget.enabled=true",
            "networkPolicy.enabled=true",
            "webhook.enabled=true",
            "webhook.secretName=webhook",
            "webhook.ingress.enabled=true",
            "webhook.ingress.host=webhook.example.com",
            "webhook.ingress.tlsSecretName=webhook-tls",
        ],
    ),
    ("protected metrics", &PROTECTED),
    ("pods of flow runs", &["runPods.watch=true"]),
    ("restarts of workloads", &["rbac.restarts=true"]),
    (
        "servers of many namespaces",
        &[
            "watchNamespaces={flows,ml}",
            "clusterServers.enabled=true",
            "clusterServers.secrets[0].namespace=prefect",
            "clusterServers.secrets[0].name=prefect-api-key",
            "clusterServers.secrets[1].namespace=prefect",
            "clusterServers.secrets[1].name=header",
            "clusterServers.secrets[2].namespace=flows",
            "clusterServers.secrets[2].name=other",
            "clusterServers.configMaps[0].namespace=prefect",
            "clusterServers.configMaps[0].name=ca",
            "defaults.prefect.server=cloud",
        ],
    ),
    (
        "settings of the pods",
        &[
            "global.imageRegistry=mirror.example.com",
            "global.imagePullSecrets[0].name=mirror",
            "commonLabels.team=platform",
            "deploymentAnnotations.note=x",
            "revisionHistoryLimit=2",
            "runtimeClassName=gvisor",
            "dnsPolicy=None",
            "dnsConfig.nameservers={10.0.0.10}",
            "hostAliases[0].ip=10.0.0.1",
            "hostAliases[0].hostnames={prefect.example.com}",
            "extraArgs={--concurrency=8}",
            "initContainers[0].name=first",
            "initContainers[0].image=first",
            "extraContainers[0].name=beside",
            "extraContainers[0].image=beside",
            "podSecurityContext.runAsUser=null",
            "podSecurityContext.runAsGroup=null",
            "rbac.aggregateToEdit=true",
        ],
    ),
    (
        "restricted egress",
        &[
            "networkPolicy.enabled=true",
            "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
            "networkPolicy.egress.enabled=true",
            "networkPolicy.egress.apiServerTo[0].ipBlock.cidr=10.0.0.1/32",
            "networkPolicy.egress.prefectTo[0].namespaceSelector.matchLabels.name=prefect",
            "networkPolicy.egress.extra[0].ports[0].port=3128",
        ],
    ),
    ("alerts and a dashboard", &MONITORING),
];
