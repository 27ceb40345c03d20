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
//! | a worker takes a flow run | `prefect.flow-run.Pending`, before it creates the Job | flow run, flow, deployment, work queue and work pool, each with id and name; the type of the pool |
//! | the flow of a run begins | `prefect.flow-run.Running`, from the pod | the same |
//!
//! Blocks and pools cannot be renamed: a name in the request is a 422. So the operator finds a block
//! by its name, and a referenced block by its id. The server sends an event before it commits the
//! change, and drops events when many wait: an event says when to read, never what.

use serde::Deserialize;
use serde_json::json;

use super::flow_run::{FlowRun, RelatedResource};

/// The events that the filter selects.
const EVENT_NAMES: [&str; 8] = [
    "prefect.block-document.created",
    "prefect.block-document.updated",
    "prefect.block-document.deleted",
    "prefect.work-pool.created",
    "prefect.work-pool.updated",
    "prefect.work-pool.deleted",
    RUN_PENDING,
    RUN_RUNNING,
];
const RUN_PENDING: &str = "prefect.flow-run.Pending";
const RUN_RUNNING: &str = "prefect.flow-run.Running";
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
    RunPending(FlowRun),
    /// The flow of a run begins: its pod has the environment.
    RunStarted(FlowRun),
    /// The server answered a ping.
    Heartbeat,
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
    } else {
        let run = || FlowRun::of(&id, name, &related);
        match event_name.as_deref() {
            Some(RUN_PENDING) => run().map(ServerEvent::RunPending),
            Some(RUN_RUNNING) => run().map(ServerEvent::RunStarted),
            _ => None,
        }
    })
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
    fn events_of_a_run_carry_the_run_and_no_payload() {
        let id = "00000000-0000-4000-8000-000000000001";
        let run = |name: &str| {
            let event = json!({"type": "event", "event": {
                "event": name,
                "resource": {"prefect.resource.id": format!("prefect.flow-run.{id}"), "prefect.resource.name": "red-fox"},
                "related": [{"prefect.resource.role": "work-pool", "prefect.resource.name": "k8s"}],
                "payload": {"validated_state": {"type": "canary"}},
            }});
            let event = parse_event(event.to_string().as_bytes()).unwrap();
            assert!(!format!("{event:?}").contains("canary"));
            event
        };
        let Some(ServerEvent::RunPending(pending)) = run("prefect.flow-run.Pending") else {
            panic!("not pending");
        };
        assert_eq!(pending.run.id, id);
        let started = Some(ServerEvent::RunStarted(pending));
        assert_eq!(run("prefect.flow-run.Running"), started);
        assert_eq!(run("prefect.flow-run.Completed"), None);
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
