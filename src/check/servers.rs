//! The Prefect server of a binding: its own, or that of a `ClusterPrefectServer`, which is read from the
//! files and then from the cluster.
//!
//! Input: documents, a binding, and the cluster unless `check` is offline.
//! Output: the server, and findings if the binding cannot use it.
//! Invariants: decides with the operator's own function. A document comes before the object of the
//! cluster, because it is about to replace it.

use kube::ResourceExt;

use super::{
    context::{CheckContext, TIMEOUT},
    findings::Findings,
    input::{first_line, parse_servers},
    schema,
};
use crate::{
    controller::{
        cluster_servers::{ClusterServers, Unusable, read::read_one},
        prefect_server::{PrefectServer, of_binding},
    },
    crd::{BindingRef, ClusterPrefectServer, DopplerPrefectBinding, ServerChoice},
    server_access::selects_by_label,
};

/// The topic of the findings.
const TOPIC: &str = "Prefect";

/// Adds the `ClusterPrefectServer`s of a text. Returns the findings about each of them.
pub(crate) fn add_documents(servers: &ClusterServers, text: &str) -> Vec<Findings> {
    let documents = parse_servers(text).into_iter();
    let found = documents.map(|document| {
        let mut findings = Findings::default();
        "ClusterPrefectServer".clone_into(&mut findings.title);
        let written = match document {
            Ok(written) => written,
            Err(why) => {
                findings.fail("spec", &why);
                return findings;
            }
        };
        let name = written["metadata"]["name"].as_str().unwrap_or_default();
        findings.title = format!("ClusterPrefectServer {name}");
        let stored = schema::stored_server(&written);
        for problem in schema::server_problems(&stored) {
            findings.fail("CRD", &problem);
        }
        match serde_json::from_value::<ClusterPrefectServer>(stored) {
            Ok(server) if !findings.has_failures() => {
                servers.on_apply(server);
                findings.ok("spec", "valid");
            }
            Err(error) if !findings.has_failures() => {
                findings.fail("spec", &first_line(&error.to_string()));
            }
            Ok(_) | Err(_) => {}
        }
        findings
    });
    found.collect()
}

/// The server of a binding. `None` if it has none, or cannot use it; then the findings say why. Without
/// a cluster, it is also `None` if no document has the `ClusterPrefectServer`.
pub(super) async fn find(
    servers: &ClusterServers,
    context: Option<&CheckContext>,
    binding: &DopplerPrefectBinding,
    findings: &mut Findings,
) -> Option<PrefectServer> {
    let prefect = binding.spec.prefect.as_ref()?;
    let key = BindingRef::of(binding);
    if let Ok(ServerChoice::Shared(name)) = servers.choice(prefect) {
        if let Some(context) = context {
            if context.reads_cluster_servers == Some(false) {
                findings.fail(TOPIC, "ServerNotFound: the operator does not read ClusterPrefectServers: set the chart value clusterServers.enabled");
                return None;
            }
            let wanted = (name.as_str(), key.namespace());
            if let Err(why) = read_one(&context.client, servers, wanted, TIMEOUT).await {
                findings.fail(TOPIC, &why);
                return None;
            }
        } else if let Some(why) = unknown_offline(servers, &name) {
            findings.note(TOPIC, &why);
            return None;
        }
    }
    match of_binding(servers, &key, &binding.spec) {
        Ok(server) => server,
        Err(Unusable::Failed(failure)) => {
            let text = format!("{}: {}", failure.reason, failure.message);
            findings.fail(TOPIC, &text);
            None
        }
        Err(Unusable::Pending) => {
            let text = "not checked here: the labels of the namespace are not known";
            findings.note(TOPIC, text);
            None
        }
    }
}

/// Why nothing is known of a server without a cluster.
fn unknown_offline(servers: &ClusterServers, name: &str) -> Option<String> {
    match servers.get(name) {
        None => Some(format!(
            "not checked here: ClusterPrefectServer {name} is in no file"
        )),
        Some(server)
            if selects_by_label(&server.spec) && server.spec.namespaces.names.is_empty() =>
        {
            Some(format!(
                "not checked here: ClusterPrefectServer {} selects namespaces by their labels",
                server.name_any()
            ))
        }
        Some(_) => None,
    }
}
