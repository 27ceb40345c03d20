//! The messages of a Prefect server's event socket.
//!
//! Input: the bytes of a message.
//! Output: the filter that selects the events, and the object that an event is about.
//! Invariants: pure. The payload of an event is never kept: that of a block contains every text that
//! its class does not declare secret, that of a work pool contains the template.
//!
//! What a server of version 3.8.8 sends, observed on a real one (`tests/it/upstream/socket.rs`):
//!
//! | change | event | names in it |
//! | --- | --- | --- |
//! | a block is created | `prefect.block-document.created` | id and name; the type by id and display name, not by slug |
//! | its data is replaced, even by equal data | `prefect.block-document.updated` | the same |
//! | it is deleted | `prefect.block-document.deleted` | the same |
//! | it is created again under its name | `prefect.block-document.created` | a new id, the old name |
//! | a block that another one references is changed | one `updated` for the referenced block | its id and name; nothing of the parent |
//! | a work pool is created, changed, deleted | `prefect.work-pool.{created,updated,deleted}` | id, name, type |
//! | a work pool is replaced by an equal one | none | |
//! | a worker takes a flow run | `prefect.flow-run.Pending`, before it creates the Job | flow run, flow, deployment, work queue and work pool, each with its name; the type of the pool |
//!
//! Blocks and pools cannot be renamed: a name in the request is a 422. So the operator finds a block
//! by its name, and a referenced block by its id. The server sends an event before it commits the
//! change, and drops events when many wait: an event says when to read, never what.

use serde::Deserialize;
use serde_json::json;

/// The events that the filter selects.
const EVENT_NAMES: [&str; 7] = [
    "prefect.block-document.created",
    "prefect.block-document.updated",
    "prefect.block-document.deleted",
    "prefect.work-pool.created",
    "prefect.work-pool.updated",
    "prefect.work-pool.deleted",
    RUN_PENDING,
];
const RUN_PENDING: &str = "prefect.flow-run.Pending";
const BLOCK_PREFIX: &str = "prefect.block-document.";
const POOL_PREFIX: &str = "prefect.work-pool.";
/// The server only sends events within the filter's span. No server's clock is outside of this one,
/// and a wrong clock of the operator hides no event. How far back it looks, the server bounds itself.
const SINCE: &str = "2000-01-01T00:00:00Z";
const UNTIL: &str = "2200-01-01T00:00:00Z";

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerEvent {
    /// A block document was created, changed or deleted.
    Block {
        /// Its id.
        id: String,
        /// Its name. Blocks of other types may have the same name.
        name: Option<String>,
    },
    /// A work pool was created, changed or deleted.
    Pool {
        /// Its name.
        name: String,
    },
    /// A worker took a flow run, and is about to create its Job.
    RunPending(PendingRun),
    /// The server answered a ping.
    Heartbeat,
}

/// A flow run whose Job a worker is about to create.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PendingRun {
    /// Name of its work pool.
    pub work_pool: String,
}

/// The message is not JSON.
#[derive(Debug)]
pub(super) struct NotJson;

/// The message with the event filter.
pub(super) fn subscription_filter() -> String {
    let filter = json!({
        "type": "filter",
        // Earlier events are not needed: everything is read once after a socket opens.
        "backfill": false,
        "filter": {"event": {"name": EVENT_NAMES}, "occurred": {"since": SINCE, "until": UNTIL}},
    });
    filter.to_string()
}

/// Whether a message confirms the credentials.
pub(super) fn is_auth_success(message: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        r#type: String,
    }
    serde_json::from_slice(message).is_ok_and(|answer: Answer| answer.r#type == "auth_success")
}

#[derive(Deserialize)]
struct Message {
    event: Event,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "event")]
    name: Option<String>,
    resource: Resource,
    #[serde(default)]
    related: Vec<RelatedResource>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "prefect.resource.id")]
    id: String,
    #[serde(rename = "prefect.resource.name")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct RelatedResource {
    #[serde(rename = "prefect.resource.role")]
    role: Option<String>,
    #[serde(rename = "prefect.resource.name")]
    name: Option<String>,
    #[serde(rename = "prefect.work-pool.type")]
    pool_type: Option<String>,
}

/// The object that a message is about, if it is an event of the filter.
pub(super) fn parse_event(message: &[u8]) -> Result<Option<ServerEvent>, NotJson> {
    let Event {
        name: event_name,
        resource: Resource { id, name },
        related,
    } = match serde_json::from_slice(message) {
        Ok(Message { event }) => event,
        // A newer server may send messages of other shapes.
        Err(error) if error.is_data() => return Ok(None),
        Err(_) => return Err(NotJson),
    };
    Ok(if let Some(id) = id.strip_prefix(BLOCK_PREFIX) {
        let id = id.to_owned();
        Some(ServerEvent::Block { id, name })
    } else if id.starts_with(POOL_PREFIX) {
        name.map(|name| ServerEvent::Pool { name })
    } else if event_name.as_deref() == Some(RUN_PENDING) {
        pending_run(related).map(ServerEvent::RunPending)
    } else {
        None
    })
}

/// The run of these related resources, if its work pool is of type kubernetes. A run without a work
/// pool has no Job. A server that does not state the type may mean such a pool.
fn pending_run(related: Vec<RelatedResource>) -> Option<PendingRun> {
    let is_pool = |resource: &RelatedResource| resource.role.as_deref() == Some("work-pool");
    let pool = related.into_iter().find(is_pool)?;
    let is_kubernetes = pool.pool_type.is_none_or(|of| of == "kubernetes");
    let work_pool = pool.name.filter(|_| is_kubernetes)?;
    Some(PendingRun { work_pool })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn event_carries_its_resource_and_no_payload() {
        let block = br#"{"type": "event", "event": {"event": "prefect.block-document.updated", "occurred": "2026-01-01T00:00:00Z",
            "resource": {"prefect.resource.id": "prefect.block-document.8e6f", "prefect.resource.name": "doppler-config"},
            "related": [{"prefect.resource.id": "prefect.block-type.1", "prefect.resource.role": "block-type"}],
            "payload": {"name": "doppler-config", "data": {"access_token": "canary"}}}}"#;
        let block = parse_event(block).unwrap().unwrap();
        let expected = ServerEvent::Block {
            id: "8e6f".to_owned(),
            name: Some("doppler-config".to_owned()),
        };
        assert_eq!(block, expected);
        assert!(!format!("{block:?}").contains("canary"));

        let pool = br#"{"event": {"resource": {"prefect.resource.id": "prefect.work-pool.1", "prefect.resource.name": "k8s"}}}"#;
        let name = "k8s".to_owned();
        assert_eq!(parse_event(pool).unwrap(), Some(ServerEvent::Pool { name }));
    }

    #[test]
    fn pending_run_carries_its_kubernetes_pool() {
        let run = |related: Value| {
            let event = json!({"type": "event", "event": {
                "event": "prefect.flow-run.Pending",
                "resource": {"prefect.resource.id": "prefect.flow-run.1", "prefect.resource.name": "red-fox"},
                "related": related,
                "payload": {"validated_state": {"type": "PENDING"}},
            }});
            parse_event(event.to_string().as_bytes()).unwrap()
        };
        let pool = |more: Value| {
            let mut pool =
                json!({"prefect.resource.role": "work-pool", "prefect.resource.name": "k8s"});
            if let Value::Object(more) = more {
                pool.as_object_mut().unwrap().extend(more);
            }
            json!([{"prefect.resource.role": "flow", "prefect.resource.name": "etl"}, pool])
        };
        let pending = Some(ServerEvent::RunPending(PendingRun {
            work_pool: "k8s".to_owned(),
        }));
        assert_eq!(
            run(pool(json!({"prefect.work-pool.type": "kubernetes"}))),
            pending
        );
        assert_eq!(run(pool(json!({}))), pending, "the type is unknown");
        for related in [
            pool(json!({"prefect.work-pool.type": "process"})),
            pool(json!({"prefect.resource.name": null})),
            json!([{"prefect.resource.role": "flow", "prefect.resource.name": "k8s"}]),
            json!([]),
        ] {
            assert_eq!(run(related.clone()), None, "{related}");
        }
    }

    #[test]
    fn ignores_other_messages_and_rejects_invalid_json() {
        for text in [
            "{}",
            "[]",
            "null",
            r#"{"type": "hello"}"#,
            r#"{"type": "event", "event": {"resource": {}}}"#,
            r#"{"event": {"resource": {"prefect.resource.id": "prefect.flow-run.1"}}}"#,
            r#"{"event": {"resource": {"prefect.resource.id": "prefect.work-pool.1"}}}"#,
        ] {
            assert_eq!(parse_event(text.as_bytes()).unwrap(), None, "{text}");
        }
        for text in ["", "canary", "{", "\u{0}", r#"{"event": "#] {
            assert!(parse_event(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn only_auth_success_accepts_the_credentials() {
        assert!(is_auth_success(br#"{"type": "auth_success", "more": 1}"#));
        for text in ["", "auth_success", "{}", r#"{"type": "auth_failure"}"#] {
            assert!(!is_auth_success(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn filter_spans_more_than_any_clock_and_wants_no_earlier_events() {
        let filter: Value = serde_json::from_str(&subscription_filter()).unwrap();
        assert_eq!(
            filter["filter"]["occurred"],
            json!({"since": "2000-01-01T00:00:00Z", "until": "2200-01-01T00:00:00Z"})
        );
        assert_eq!(filter["backfill"], false);
    }
}
