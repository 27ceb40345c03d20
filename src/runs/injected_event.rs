//! The event that tells which values a flow run got. Pure.
//!
//! Input: a run, a binding whose Secret it got, and the time.
//! Output: a [`RunEvent`].
//! Invariants: it holds names and a content hash, and never a value. The same run, binding and hash
//! give the same id, so that a server stores it once.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::registry::Serving;
use crate::{
    crd::Uid,
    prefect::{FlowRun, RunEvent},
};

/// Name of the event.
pub const VALUES_INJECTED: &str = "doppler-prefect.values-injected";
/// Prefix of a binding's id as a resource of Prefect.
const BINDING_PREFIX: &str = "doppler-prefect.binding";

/// The event for a run that got the Secret of a binding.
pub(super) fn values_injected(run: &FlowRun, serving: &Serving, at: Timestamp) -> RunEvent {
    let (namespace, name) = (serving.binding.namespace(), serving.binding.name());
    let content = &serving.content;
    let id = event_id([&run.run.id, namespace, name, &content.hash]);
    let resource = format!("{BINDING_PREFIX}.{namespace}.{name}");
    let event = RunEvent::new(
        VALUES_INJECTED,
        id,
        resource,
        format!("{namespace}/{name}"),
        at,
    )
    .related_to(run)
    .with("namespace", namespace.to_owned())
    .with("binding", name.to_owned())
    .with("secret", content.secret.clone())
    .with("contentHash", content.hash.clone());
    match content.since {
        Some(since) => event.with("contentSince", since.to_string()),
        None => event,
    }
}

/// A UUID of version 8 that depends on these texts.
fn event_id(parts: [&str; 4]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uid::from(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use serde_json::json;

    use super::*;
    use crate::{crd::BindingRef, runs::registry::Content, runs::tests::run};

    fn serving(hash: &str, since: Option<Timestamp>) -> Serving {
        Serving {
            binding: BindingRef::new("flows", "etl-prd"),
            content: Arc::new(Content {
                secret: "etl".to_owned(),
                hash: hash.to_owned(),
                since,
            }),
            variables: BTreeSet::new(),
        }
    }

    #[test]
    fn event_names_run_deployment_binding_and_hash() {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let since = "2026-01-01T00:00:00Z".parse().unwrap();
        let event = values_injected(&run("k8s"), &serving("sha", Some(since)), at);
        let mut event = serde_json::to_value(event).unwrap();
        let id = event.as_object_mut().unwrap().remove("id").unwrap();
        assert_eq!(id.as_str().unwrap().len(), 36);
        assert_eq!(
            event,
            json!({
                "occurred": "2026-01-02T03:04:05Z",
                "event": "doppler-prefect.values-injected",
                "resource": {
                    "prefect.resource.id": "doppler-prefect.binding.flows.etl-prd",
                    "prefect.resource.name": "flows/etl-prd",
                },
                "related": [
                    {
                        "prefect.resource.id": "prefect.flow-run.00000000-0000-4000-8000-00000000000a",
                        "prefect.resource.role": "flow-run",
                        "prefect.resource.name": "red-fox",
                    },
                    {
                        "prefect.resource.id": "prefect.deployment.00000000-0000-4000-8000-00000000000d",
                        "prefect.resource.role": "deployment",
                        "prefect.resource.name": "nightly",
                    },
                ],
                "payload": {
                    "namespace": "flows",
                    "binding": "etl-prd",
                    "secret": "etl",
                    "contentHash": "sha",
                    "contentSince": "2026-01-01T00:00:00Z",
                },
            })
        );
    }

    #[test]
    fn an_id_is_a_uuid_that_only_the_same_report_has() {
        let id = event_id(["run", "flows", "b", "h"]);
        assert_eq!(id, event_id(["run", "flows", "b", "h"]));
        assert_ne!(id, event_id(["run", "flows", "b", "other"]));
        assert_ne!(id, event_id(["run", "flow", "sb", "h"]));
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "8");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
    }
}
