//! Flow runs on a real control plane, Prefect's real server and worker, and the process node.

// Clippy's settings for tests cover test functions, but not their helpers.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment as Deployed;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use testkit::control_plane::ControlPlane;
use testkit::node::{Image, NodeOptions, ProcessNode};
use testkit::prefect::{
    Deployment, PrefectServer, PrefectWorker, WorkerOptions, env_from, flows, kubernetes_template,
};
use testkit::{kubernetes, progress, wait};

const TIMEOUT: Duration = Duration::from_mins(2);

async fn namespace(client: &Client, name: &str) {
    let yaml = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}");
    kubernetes::apply(client, "default", &yaml).await.unwrap();
    // Pods need the service account that the controller manager creates.
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), name);
    wait::until(TIMEOUT, "the default service account", async || {
        accounts.get_opt("default").await.ok().flatten()
    })
    .await
    .unwrap();
}

async fn secret(client: &Client, namespace: &str, name: &str, data: Value) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    let secret: Secret = serde_json::from_value(secret).unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
}

async fn job(client: &Client, namespace: &str, name: &str, container: Value) {
    let mut container = container;
    container["name"] = json!("main");
    container["image"] = json!("anything");
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {
        "backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}});
    kubernetes::apply(client, namespace, &job.to_string())
        .await
        .unwrap();
}

/// Waits until `wanted` accepts the pod of `job`.
async fn pod(client: &Client, namespace: &str, job: &str, wanted: impl Fn(&Value) -> bool) -> Pod {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&format!("job-name={job}"));
    wait::until(TIMEOUT, "the pod's status", async || {
        let found = pods
            .list(&params)
            .await
            .map_err(|e| e.to_string())?
            .items
            .pop()
            .ok_or("no pod")?;
        let status = serde_json::to_value(&found.status).unwrap();
        if wanted(&status) {
            Ok(found)
        } else {
            Err(status.to_string())
        }
    })
    .await
    .unwrap()
}

async fn node(plane: &ControlPlane, namespace: &str) -> ProcessNode {
    let mut options = NodeOptions::new(&format!("node-{namespace}"), plane.admin_kubeconfig_path());
    options.namespace = Some(namespace.to_owned());
    ProcessNode::start(options).await.unwrap()
}

fn has_phase(phase: &'static str) -> impl Fn(&Value) -> bool {
    move |status| status["phase"] == phase
}

#[tokio::test]
async fn a_missing_secret_blocks_the_container_unless_optional() {
    let plane = ControlPlane::shared().unwrap();
    let client = plane.admin_client().unwrap();
    namespace(&client, "missing").await;
    let node = node(plane, "missing").await;
    let with = |optional: bool| {
        json!({"command": ["sh", "-c", "echo value=$VALUE"],
            "envFrom": [{"secretRef": {"name": "late", "optional": optional}}]})
    };

    job(&client, "missing", "optional", with(true)).await;
    let found = pod(&client, "missing", "optional", has_phase("Succeeded")).await;
    assert_eq!(node.log(&found.name_any()), "value=\n");

    job(&client, "missing", "required", with(false)).await;
    let waiting = |status: &Value| {
        status["containerStatuses"][0]["state"]["waiting"]
            == json!({"reason": "CreateContainerConfigError", "message": "secret \"late\" not found"})
    };
    let found = pod(&client, "missing", "required", waiting).await;
    assert_eq!(found.status.unwrap().phase.as_deref(), Some("Pending"));

    secret(&client, "missing", "late", json!({"VALUE": "at last"})).await;
    let found = pod(&client, "missing", "required", has_phase("Succeeded")).await;
    assert_eq!(node.log(&found.name_any()), "value=at last\n");
    let record = node.pods().pop().unwrap();
    assert_eq!(record.env_names(), ["VALUE"]);
    assert_eq!(record.env_value("VALUE").as_deref(), Some("at last"));
}

#[tokio::test]
async fn exit_codes_and_start_errors_match_a_kubelet() {
    let plane = ControlPlane::shared().unwrap();
    let client = plane.admin_client().unwrap();
    namespace(&client, "exits").await;
    let node = node(plane, "exits").await;

    job(
        &client,
        "exits",
        "fails",
        json!({"command": ["sh", "-c", "exit 7"]}),
    )
    .await;
    let found = pod(&client, "exits", "fails", has_phase("Failed")).await;
    let status = serde_json::to_value(found.status).unwrap();
    let terminated = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["exitCode"], 7);
    assert!(terminated["startedAt"].is_string());

    secret(
        &client,
        "exits",
        "odd",
        json!({"PATH": "from-a-secret", "a.b": "dotted"}),
    )
    .await;
    let env_from = json!([{"secretRef": {"name": "odd"}}]);
    job(
        &client,
        "exits",
        "no-path",
        json!({"args": ["env"], "envFrom": env_from}),
    )
    .await;
    let found = pod(&client, "exits", "no-path", has_phase("Failed")).await;
    let status = serde_json::to_value(found.status).unwrap();
    let terminated = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["reason"], "StartError");
    assert_eq!(
        terminated["message"],
        "exec: \"env\": executable file not found in $PATH"
    );

    job(
        &client,
        "exits",
        "odd-name",
        json!({"command": ["/usr/bin/env"], "envFrom": env_from}),
    )
    .await;
    let found = pod(&client, "exits", "odd-name", has_phase("Succeeded")).await;
    assert!(node.log(&found.name_any()).contains("a.b=dotted\n"));
}

#[tokio::test]
async fn deleting_a_pod_ends_its_process() {
    let plane = ControlPlane::shared().unwrap();
    let client = plane.admin_client().unwrap();
    namespace(&client, "deleted").await;
    let node = node(plane, "deleted").await;
    // Four dollars, because the expansion of variables turns two into one.
    job(
        &client,
        "deleted",
        "long",
        json!({"command": ["sh", "-c", "echo $$$$; exec sleep 600"]}),
    )
    .await;
    let found = pod(&client, "deleted", "long", has_phase("Running")).await;
    let name = found.name_any();
    let pid = wait::until(TIMEOUT, "the pid", async || {
        node.log(&name).trim().parse::<u32>().ok()
    })
    .await
    .unwrap();
    assert!(std::fs::exists(format!("/proc/{pid}")).unwrap());

    let jobs: Api<k8s_openapi::api::batch::v1::Job> = Api::namespaced(client.clone(), "deleted");
    jobs.delete("long", &DeleteParams::background())
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "deleted");
    wait::until(TIMEOUT, "the pod's end", async || {
        pods.get_opt(&name)
            .await
            .is_ok_and(|p| p.is_none())
            .then_some(())
    })
    .await
    .unwrap();
    assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap());
}

#[tokio::test]
async fn pods_of_known_deployments_run_and_restart() {
    let plane = ControlPlane::shared().unwrap();
    let client = plane.admin_client().unwrap();
    namespace(&client, "deployed").await;
    let mut options = NodeOptions::new("node-deployed", plane.admin_kubeconfig_path());
    options.namespace = Some("deployed".to_owned());
    options.retry = Duration::from_millis(100);
    options.images = vec![Image {
        repository: "known".to_owned(),
        entrypoint: ["sh", "-c", "echo start; sleep $0"]
            .map(str::to_owned)
            .into(),
        env: Vec::new(),
    }];
    let node = ProcessNode::start(options).await.unwrap();
    for (name, image) in [
        ("unknown", "other:1"),
        ("ends", "known:1"),
        ("stays", "known@sha256:0"),
    ] {
        let seconds = if name == "stays" { "600" } else { "0.1" };
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [
                {"name": "main", "image": image, "args": [seconds]}]}}}});
        kubernetes::apply(&client, "deployed", &deployment.to_string())
            .await
            .unwrap();
    }
    let logs = |name: &str| -> Vec<String> {
        let prefix = format!("{name}-");
        let pods = node.pods().into_iter();
        pods.filter(|pod| pod.name.starts_with(&prefix))
            .map(|pod| pod.log())
            .collect()
    };
    wait::until(TIMEOUT, "three starts of one pod", async || {
        let logs = logs("ends");
        let started = logs.iter().any(|log| log.matches("start").count() >= 3);
        if started {
            Ok(())
        } else {
            Err(format!("{logs:?}"))
        }
    })
    .await
    .unwrap();
    assert_eq!(logs("ends").len(), 1, "the pod was replaced");

    let deployments: Api<Deployed> = Api::namespaced(client.clone(), "deployed");
    wait::until(TIMEOUT, "the deployment to be available", async || {
        let status = deployments.get("stays").await.ok()?.status?;
        (status.available_replicas == Some(1)).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(logs("stays"), ["start\n"]);
    assert_eq!(logs("unknown"), [""; 0]);
}

#[tokio::test]
async fn a_flow_run_prints_a_secret_of_its_pool() {
    let plane = ControlPlane::shared().unwrap();
    let client = plane.admin_client().unwrap();
    namespace(&client, "flows").await;
    secret(
        &client,
        "flows",
        "by-hand",
        json!({"SECRET_API_KEY": "1234567890"}),
    )
    .await;

    let server = PrefectServer::shared().await.unwrap();
    let api = server.api().unwrap();
    let mut template = kubernetes_template().unwrap();
    env_from(&mut template)
        .unwrap()
        .push(json!({"secretRef": {"name": "by-hand"}}));
    api.create_pool("k8s", "kubernetes", Some(template))
        .await
        .unwrap();
    let started = Instant::now();
    let options = WorkerOptions {
        pool: "k8s".to_owned(),
        name: "w1".to_owned(),
        kubeconfig: plane.admin_kubeconfig_path(),
        env: Vec::new(),
    };
    let worker = PrefectWorker::start(server, &options).await.unwrap();
    progress::line(&format!(
        "the worker was online after {:?}",
        started.elapsed()
    ));
    let node = node(plane, "flows").await;

    let deployment = Deployment {
        name: "article",
        pool: "k8s",
        path: &flows(),
        entrypoint: "flow.py:main",
        job_variables: json!({"namespace": "flows"}),
    };
    let deployment = api.create_deployment(&deployment).await.unwrap();
    let started = Instant::now();
    let run = api.create_flow_run(&deployment).await.unwrap();
    let state = api
        .wait_for_run(&run, Duration::from_mins(3))
        .await
        .unwrap();
    progress::line(&format!("a flow run took {:?}", started.elapsed()));
    assert_eq!(
        state.kind,
        "COMPLETED",
        "{}\n{}\n{}",
        state.message,
        node.logs_of_run(&run),
        worker.log()
    );
    assert!(
        node.logs_of_run(&run)
            .contains("secret_api_key = 1234567890")
    );
    // The flow run sends its last log lines while it ends.
    wait::until(TIMEOUT, "the run's log at Prefect", async || {
        let logs = api.run_logs(&run).await.ok()?;
        logs.contains("secret_api_key = 1234567890").then_some(())
    })
    .await
    .unwrap();
}

/// Creates a Job whose container mounts a volume.
async fn job_with_volume(client: &Client, name: &str, source: Value, path: &str, script: &str) {
    let mounts = json!([{"name": "files", "mountPath": path, "readOnly": true}]);
    let container = json!({
        "name": "main", "image": "anything", "volumeMounts": mounts,
        "command": ["sh", "-c", script],
    });
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {
        "backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "volumes": [{"name": "files", "secret": source}],
            "containers": [container]}}}});
    kubernetes::apply(client, "volumes", &job.to_string())
        .await
        .unwrap();
}

#[tokio::test]
async fn secret_volumes_match_a_kubelet() {
    let plane = ControlPlane::shared().unwrap();
    let client = plane.admin_client().unwrap();
    namespace(&client, "volumes").await;
    let node = node(plane, "volumes").await;
    let path = "/srv/doppler-testkit/volumes";

    // A process that keeps running sees a Secret that comes later, and its change.
    let follow = format!(
        "ls {path}; until grep -qs second {path}/a; do sleep 0.1; done; cat {path}/a; ls {path}; echo x >{path}/a || echo refused"
    );
    let optional = json!({"secretName": "late", "optional": true});
    job_with_volume(&client, "optional", optional, path, &follow).await;
    let running = |status: &Value| !status["containerStatuses"][0]["state"]["running"].is_null();
    pod(&client, "volumes", "optional", running).await;

    // Without `optional`, and with a key that does not exist, the container waits.
    let read = format!("cat {path}/only; ls {path}");
    let items = json!([{"key": "b", "path": "only"}]);
    let required = json!({"secretName": "late", "items": items});
    job_with_volume(&client, "required", required, path, &read).await;
    let waiting = |status: &Value| {
        status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    };
    pod(&client, "volumes", "required", waiting).await;
    secret(&client, "volumes", "late", json!({"a": "first"})).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "volumes");
    let change = json!({"stringData": {"a": "second\n", "b": "other\n"}});
    secrets
        .patch("late", &PatchParams::default(), &Patch::Merge(&change))
        .await
        .unwrap();
    let found = pod(&client, "volumes", "required", has_phase("Succeeded")).await;
    assert_eq!(node.log(&found.name_any()), "other\nonly\n");
    let found = pod(&client, "volumes", "optional", has_phase("Succeeded")).await;
    let log = node.log(&found.name_any());
    assert!(log.starts_with("second\na\nb\n"), "{log}");
    assert!(
        log.contains("Read-only file system") && log.ends_with("refused\n"),
        "{log}"
    );
    // Nothing is left on the machine.
    assert!(!std::path::Path::new("/srv/doppler-testkit").exists());
}
