use serde_json::json;

use super::*;
use crate::{
    controller::run_pods::{RunPods, pod::RunPod},
    crd::BindingRef,
};

/// A pod that does not start, from its status.
fn troubled(reason: &str, message: &str) -> TroubledPod {
    let details = json!({"reason": reason, "message": message});
    let state = if reason == "StartError" {
        json!({"terminated": details})
    } else {
        json!({"waiting": details})
    };
    let pod = json!({
        "metadata": {
            "name": "etl-x7", "namespace": "flows", "uid": "u-1",
            "labels": {"prefect.io/flow-run-id": "0000", "prefect.io/flow-run-name": "quick-otter"},
        },
        "spec": {"containers": [{"name": "job", "envFrom": [{"secretRef": {"name": "etl"}}]}]},
        "status": {"containerStatuses": [{"name": "job", "state": state}]},
    });
    let pod: RunPod = serde_json::from_value(pod).unwrap();
    let pods = RunPods::new(std::sync::Arc::new(|_| {}));
    let binding = BindingRef::new("flows", "etl");
    pods.track(&binding, "etl");
    pods.on_apply(&pod, 1);
    pods.troubled(&binding).remove(0)
}

fn waits() -> TroubledPod {
    troubled("CreateContainerConfigError", "secret \"etl\" not found")
}

const SECRET: SecretState<'static> = SecretState {
    name: "etl",
    exists: true,
    sets_path: false,
};

#[test]
fn message_names_pod_reason_and_correction() {
    let too_large = troubled("StartError", "canary: argument list too long");
    let not_found = troubled("StartError", "canary: executable file not found in $PATH");
    let absent = SecretState {
        exists: false,
        ..SECRET
    };
    let with_path = SecretState {
        sets_path: true,
        ..SECRET
    };
    for (pod, secret, expected) in [
        (
            waits(),
            absent,
            Some(
                "pod etl-x7 of flow run quick-otter waits (CreateContainerConfigError): Secret etl does not exist; the pod starts once the operator has written the Secret (see SecretSynced)",
            ),
        ),
        (
            waits(),
            SECRET,
            Some(
                "pod etl-x7 of flow run quick-otter waits (CreateContainerConfigError): Secret etl did not exist and does so now; the kubelet starts the pod at its next attempt",
            ),
        ),
        (
            too_large.clone(),
            SECRET,
            Some(
                "pod etl-x7 of flow run quick-otter did not start (StartError): the variables of Secret etl and of the pod are together larger than the system allows; select fewer names with spec.doppler.include or exclude, and start the run again",
            ),
        ),
        // A Secret that is not the binding's own.
        (too_large, absent, None),
        (not_found.clone(), SECRET, None),
        (
            not_found,
            with_path,
            Some(
                "pod etl-x7 of flow run quick-otter did not start (StartError): the PATH of Secret etl does not lead to the program of the container; correct PATH in Doppler, or remove it from managedSecret.allowReservedNames, and start the run again",
            ),
        ),
    ] {
        assert_eq!(message(&pod, secret).as_deref(), expected);
    }
}

#[test]
fn pods_make_the_condition_false_and_hide_no_other_failure() {
    let pods = |number: usize| vec![(waits(), "pod a waits".to_owned()); number];
    let injected = ConditionUpdate::True(Reason::Injected, "in place".to_owned());
    let because = |message: &str| {
        Some(ConditionUpdate::False(
            Reason::RunPodNotStarted,
            message.to_owned(),
        ))
    };
    let refused = |message: &str| {
        Some(ConditionUpdate::False(
            Reason::PoolMissing,
            message.to_owned(),
        ))
    };
    for (before, number, after) in [
        (None, 0, None),
        (Some(injected.clone()), 0, Some(injected.clone())),
        (None, 1, because("pod a waits")),
        (Some(ConditionUpdate::Unchanged), 1, because("pod a waits")),
        (
            Some(injected.clone()),
            2,
            because("pod a waits (and 1 older pod)"),
        ),
        (
            Some(injected),
            MAX_PODS,
            because("pod a waits (and at least 7 older pods)"),
        ),
        (refused("no pool"), 0, refused("no pool")),
        (refused("no pool"), 1, refused("no pool; pod a waits")),
    ] {
        assert_eq!(join(before, &pods(number)), after);
    }
}

#[test]
fn a_pod_is_remembered_among_a_bounded_number() {
    let mut reported = Vec::new();
    let uid = |number: usize| Uid::from(&*number.to_string());
    assert!(remember(&mut reported, &uid(0)));
    assert!(!remember(&mut reported, &uid(0)));
    for number in 1..1000 {
        assert!(remember(&mut reported, &uid(number)));
    }
    assert_eq!(reported.len(), MAX_REPORTED);
    assert!(!remember(&mut reported, &uid(999)));
}
