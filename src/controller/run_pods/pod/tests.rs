use serde_json::{Value, json};

use super::*;
use crate::controller::run_pods::pod_state::{Cause, Trouble};

/// A pod whose first container loads the Secrets `etl` and `other`, and whose second one loads none.
fn pod(status: &Value) -> RunPod {
    let source = |name: &str| json!({"secretRef": {"name": name, "optional": false}});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "etl-x7", "namespace": "flows", "uid": "u-1",
            "creationTimestamp": "2026-01-01T00:00:05Z",
            "labels": {"prefect.io/flow-run-id": "0000", "prefect.io/flow-run-name": "quick-otter"},
        },
        "spec": {"containers": [
            {"name": "job", "env": [{"name": "A", "value": "canary"}], "args": ["canary"],
             "envFrom": [{"configMapRef": {"name": "map"}}, source("etl"), source("other")]},
            {"name": "sidecar"},
        ]},
        "status": status,
    });
    serde_json::from_value(pod).unwrap()
}

fn with_state(state: &Value) -> Value {
    json!({"phase": "Pending", "containerStatuses": [
        {"name": "sidecar", "state": {"running": {}}},
        {"name": "job", "state": state, "lastState": {}},
    ]})
}

fn waiting(reason: &str, message: &str) -> Value {
    with_state(&json!({"waiting": {"reason": reason, "message": message}}))
}

fn terminated(reason: &str, message: &str) -> Value {
    let state = json!({"terminated": {"reason": reason, "message": message, "exitCode": 128}});
    let mut status = with_state(&state);
    status["phase"] = "Failed".into();
    status
}

fn troubled(cause: Cause, reason: &'static str) -> PodState {
    PodState::Troubled(Trouble { cause, reason })
}

const TOO_LONG: &str = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec /usr/bin/prefect: argument list too long";
const NOT_FOUND: &str = "failed to create containerd task: OCI runtime create failed: exec: \"prefect\": executable file not found in $PATH: unknown";

#[test]
fn state_follows_from_the_status_of_the_container() {
    use PodState::{Pending, Started};
    let missing = troubled(Cause::SecretMissing, "CreateContainerConfigError");
    let config_error = |message: &str| waiting("CreateContainerConfigError", message);
    for (status, etl, other) in [
        (json!({"phase": "Pending"}), Pending, Pending),
        (waiting("ContainerCreating", ""), Pending, Pending),
        (config_error("secret \"etl\" not found"), missing, Pending),
        (
            config_error("secrets \"other\" not found"),
            Pending,
            missing,
        ),
        (config_error("secret \"etl-2\" not found"), Pending, Pending),
        (
            config_error("configmap \"etl\" not found"),
            Pending,
            Pending,
        ),
        (
            config_error("couldn't find key A in Secret flows/etl"),
            Pending,
            Pending,
        ),
        (
            waiting("ImagePullBackOff", "secret \"etl\" not found"),
            Pending,
            Pending,
        ),
        (
            with_state(&json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})),
            Started,
            Started,
        ),
        (terminated("Completed", ""), Started, Started),
        (terminated("Error", ""), Started, Started),
        (terminated("ContainerStatusUnknown", ""), Pending, Pending),
        (
            terminated("StartError", TOO_LONG),
            troubled(Cause::TooLarge, "StartError"),
            troubled(Cause::TooLarge, "StartError"),
        ),
        (
            waiting("RunContainerError", TOO_LONG),
            troubled(Cause::TooLarge, "RunContainerError"),
            troubled(Cause::TooLarge, "RunContainerError"),
        ),
        (
            terminated("StartError", NOT_FOUND),
            troubled(Cause::ProgramNotFound, "StartError"),
            troubled(Cause::ProgramNotFound, "StartError"),
        ),
        (
            terminated("StartError", "exec: \"./x\": permission denied"),
            Pending,
            Pending,
        ),
        // The same text from the program itself.
        (terminated("Error", TOO_LONG), Started, Started),
    ] {
        let pod = pod(&status);
        let found = ["etl", "other"].map(|name| pod.states[name]);
        assert_eq!(found, [etl, other], "{status}");
        assert_eq!(pod.states.len(), 2, "the Secrets of envFrom");
    }
}

#[test]
fn a_back_off_has_the_cause_of_the_last_attempt() {
    let mut status = waiting("CrashLoopBackOff", "back-off 10s");
    let last = json!({"terminated": {"reason": "StartError", "message": TOO_LONG}});
    status["containerStatuses"][1]["lastState"] = last;
    assert_eq!(
        pod(&status).states["etl"],
        troubled(Cause::TooLarge, "StartError")
    );
    let last = json!({"terminated": {"reason": "Error"}});
    status["containerStatuses"][1]["lastState"] = last;
    assert_eq!(pod(&status).states["etl"], PodState::Started);
}

#[test]
fn an_evicted_pod_waits_no_longer() {
    let mut status = waiting("CreateContainerConfigError", "secret \"etl\" not found");
    status["phase"] = "Failed".into();
    assert_eq!(pod(&status).states["etl"], PodState::Pending);
}

#[test]
fn keeps_no_variable_and_no_message() {
    let status = terminated("StartError", &format!("{TOO_LONG} canary"));
    let pod = pod(&status);
    let text = format!("{pod:?}");
    assert!(!text.contains("canary") && !text.contains("runc"), "{text}");
    assert_eq!(pod.run.as_deref(), Some("quick-otter"));
    assert_eq!(pod.created, 1_767_225_605);
}

#[test]
fn keeps_a_bounded_number_of_secrets() {
    let sources = (0..1000).map(|n| json!({"secretRef": {"name": format!("s-{n}")}}));
    let sources: Vec<_> = sources.collect();
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "job", "envFrom": sources}]},
    });
    let pod: RunPod = serde_json::from_value(pod).unwrap();
    assert_eq!(pod.states.len(), MAX_SECRETS);
}
