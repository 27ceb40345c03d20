//! The status of a pod as a kubelet writes it.
//!
//! Input: the state of the container.
//! Output: phase, conditions and container status.
//! Invariants: pure.

use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};

/// The state of a container.
pub(super) enum State<'a> {
    /// It cannot be created at the moment.
    Waiting { reason: &'a str, message: &'a str },
    /// Its process is running.
    Running { started: &'a str },
    /// Its process has exited, or never started.
    Terminated {
        reason: &'a str,
        message: &'a str,
        exit_code: i32,
        started: &'a str,
        finished: &'a str,
    },
}

/// The status of a pod whose first container is in `state`.
pub(super) fn status(container: &Container, state: &State<'_>, since: &str) -> Value {
    let (phase, ready, state) = match state {
        State::Waiting { reason, message } => (
            "Pending",
            false,
            json!({"waiting": {"reason": reason, "message": message}}),
        ),
        State::Running { started } => ("Running", true, json!({"running": {"startedAt": started}})),
        State::Terminated {
            reason,
            message,
            exit_code,
            started,
            finished,
        } => (
            if *exit_code == 0 {
                "Succeeded"
            } else {
                "Failed"
            },
            false,
            json!({"terminated": {
                "reason": reason, "message": message, "exitCode": exit_code,
                "startedAt": started, "finishedAt": finished,
            }}),
        ),
    };
    let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": since});
    json!({"status": {
        "phase": phase,
        "hostIP": "127.0.0.1",
        "podIP": "127.0.0.1",
        "startTime": since,
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": [{
            "name": container.name,
            "image": container.image.as_deref().unwrap_or_default(),
            "imageID": "",
            "ready": ready,
            "started": ready,
            "restartCount": 0,
            "state": state,
        }],
    }})
}
