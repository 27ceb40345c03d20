//! What the server's event socket says.
//!
//! In: the time, or the text of a message. Out: the filter that asks for the events wanted here, and of an event what it concerns. A payload is never
//! kept: that of a block holds every text of it that its class does not call secret, that of a work pool the template.
//!
//! What a server of 3.8.8 sends, seen on a real one (`tests/it/upstream/socket.rs`):
//!
//! | what is done | event | names |
//! | --- | --- | --- |
//! | a block is made | `prefect.block-document.created` | id and name; type by id and display name, not by slug |
//! | its data is replaced, also by the same | `prefect.block-document.updated` | the same |
//! | it is deleted | `prefect.block-document.deleted` | the same |
//! | it is made again under its name | `prefect.block-document.created` | a new id, the old name |
//! | a block that another refers to is changed | one `updated`, of the block referred to | that one's id and name; nothing of the parent |
//! | a work pool is made, changed, deleted | `prefect.work-pool.{created,updated,deleted}` | id, name, type |
//! | a work pool is replaced by the same | none | |
//!
//! Blocks and pools cannot be renamed: a name in the request is a 422. So a block of its own is found by its name, and one that is referred to by its
//! id. Events are sent before the change is committed, and are dropped when many wait: they say when to read, never what.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

/// The events wanted.
const EVENT_NAMES: [&str; 6] = [
    "prefect.block-document.created",
    "prefect.block-document.updated",
    "prefect.block-document.deleted",
    "prefect.work-pool.created",
    "prefect.work-pool.updated",
    "prefect.work-pool.deleted",
];
const BLOCK_PREFIX: &str = "prefect.block-document.";
const POOL_PREFIX: &str = "prefect.work-pool.";
/// Nothing is sent that happened outside a span of time which both clocks must agree on: a day back and a year ahead is far from any clock's fault.
const DAY: i64 = 24 * 60 * 60;
const YEAR: i64 = 366 * DAY;

/// What an event concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerEvent {
    /// A block document was made, changed or deleted.
    Block {
        /// Its id.
        id: String,
        /// Its name, which blocks of other types may have as well.
        name: Option<String>,
    },
    /// A work pool was made, changed or deleted.
    Pool {
        /// Its name.
        name: String,
    },
    /// Nothing happened, and the server is there: it answered a ping.
    Heartbeat,
}

/// The message is not JSON.
#[derive(Debug)]
pub(super) struct NotJson;

/// The message that asks for events. The year is the longest that one socket can be of use.
pub(super) fn subscription_filter(now: Timestamp) -> String {
    let at = |seconds: i64, otherwise| {
        let at = now.as_second().saturating_add(seconds);
        Timestamp::from_second(at).unwrap_or(otherwise)
    };
    let (since, until) = (at(-DAY, Timestamp::MIN), at(YEAR, Timestamp::MAX));
    let filter = json!({
        "type": "filter",
        // Earlier events are not needed: after a socket opens, everything is read once.
        "backfill": false,
        "filter": {"event": {"name": EVENT_NAMES}, "occurred": {"since": since, "until": until}},
    });
    filter.to_string()
}

/// Whether a message says that the credentials are accepted.
pub(super) fn is_auth_success(message: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        r#type: String,
    }
    serde_json::from_slice(message).is_ok_and(|answer: Answer| answer.r#type == "auth_success")
}

/// What a message concerns, if it is one of the events wanted.
pub(super) fn parse_event(message: &[u8]) -> Result<Option<ServerEvent>, NotJson> {
    #[derive(Deserialize)]
    struct Message {
        event: Event,
    }
    #[derive(Deserialize)]
    struct Event {
        resource: Resource,
    }
    #[derive(Deserialize)]
    struct Resource {
        #[serde(rename = "prefect.resource.id")]
        id: String,
        #[serde(rename = "prefect.resource.name")]
        name: Option<String>,
    }
    let Resource { id, name } = match serde_json::from_slice(message) {
        Ok(Message { event }) => event.resource,
        // JSON of another shape is a message that a newer server has.
        Err(error) if error.is_data() => return Ok(None),
        Err(_) => return Err(NotJson),
    };
    Ok(if let Some(id) = id.strip_prefix(BLOCK_PREFIX) {
        let id = id.to_owned();
        Some(ServerEvent::Block { id, name })
    } else if id.starts_with(POOL_PREFIX) {
        name.map(|name| ServerEvent::Pool { name })
    } else {
        None
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
    fn filter_allows_for_clock_differences() {
        let now: Timestamp = "2026-03-01T12:00:00.123456789Z".parse().unwrap();
        let filter: Value = serde_json::from_str(&subscription_filter(now)).unwrap();
        assert_eq!(
            filter["filter"]["occurred"],
            json!({"since": "2026-02-28T12:00:00Z", "until": "2027-03-02T12:00:00Z"})
        );
        assert_eq!(filter["backfill"], false);
        assert!(super::subscription_filter(Timestamp::MAX).contains("until"));
    }
}
