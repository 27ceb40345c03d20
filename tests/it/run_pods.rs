//! Pods of flow runs that do not start because of a Secret, in the condition and as Events.
//!
//! No kubelet runs: the tests write the status of a pod as a kubelet does.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testkit::grant::grant_from_chart;
use testkit::prefect::Block;

use crate::world::chart::Optional;
use crate::world::{Setup, World, chart, secret};

const NOT_STARTED: &str = "RunPodNotStarted";
/// A part of the log line that says that pods cannot be listed.
const REFUSED: &str = "may not list and watch pods";
const RUNNING: &str = r#"{"running": {"startedAt": "2026-01-01T00:00:00Z"}}"#;

/// An operator that watches pods, and may do so.
fn watching() -> Setup {
    Setup {
        optional: Optional::RunPods,
        ..Setup::default()
    }
    .args(&["--watch-run-pods"])
}

fn waiting(secret: &str) -> Value {
    json!({"waiting": {
        "reason": "CreateContainerConfigError",
        "message": format!("secret \"{secret}\" not found"),
    }})
}

fn start_error(message: &str) -> Value {
    let epoch = "1970-01-01T00:00:00Z";
    json!({"terminated": {
        "reason": "StartError", "exitCode": 128, "startedAt": epoch, "finishedAt": epoch,
        "message": format!("failed to create containerd task: {message} {}", secret("runtime")),
    }})
}

fn running() -> Value {
    serde_json::from_str(RUNNING).unwrap()
}

/// Pods.
impl World {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates a pod of a flow run that loads these Secrets, with this state of its container.
    async fn run_pod(&self, name: &str, secrets: &[&str], state: &Value) -> Result<()> {
        let labels = json!({
            "prefect.io/flow-run-id": "0198c2a4-0000-7000-8000-000000000001",
            "prefect.io/flow-run-name": "quick-otter",
        });
        self.pod(name, labels, secrets, state).await
    }

    async fn pod(&self, name: &str, labels: Value, secrets: &[&str], state: &Value) -> Result<()> {
        let sources = secrets.iter();
        let sources = sources.map(|name| json!({"secretRef": {"name": name, "optional": false}}));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": false,
                "containers": [{
                    "name": "prefect-job", "image": "none",
                    "env": [{"name": "PREFECT_API_KEY", "value": secret("api-key")}],
                    "envFrom": sources.collect::<Vec<_>>(),
                }],
            },
        }))?;
        // The service account of a new namespace takes a moment.
        self.until(&format!("pod {name}"), async || {
            let pods = self.pods();
            match pods.create(&PostParams::default(), &pod).await {
                Err(kube::Error::Api(answer)) if answer.is_already_exists() => Ok(()),
                created => created.map(drop).context("not created"),
            }
        })
        .await?;
        self.set_state(name, state).await
    }

    /// Writes the state of a pod's container.
    async fn set_state(&self, name: &str, state: &Value) -> Result<()> {
        let phase = match state {
            _ if state.get("running").is_some() => "Running",
            _ if state.get("terminated").is_some() => "Failed",
            _ => "Pending",
        };
        let status = json!({"status": {"phase": phase, "containerStatuses": [{
            "name": "prefect-job", "image": "none", "imageID": "", "ready": false,
            "restartCount": 0, "state": state,
        }]}});
        let (pods, params) = (self.pods(), PatchParams::default());
        let patched = pods
            .patch_status(name, &params, &Patch::Merge(&status))
            .await;
        patched.map(drop).context("the status of a pod")
    }

    async fn delete_pod(&self, name: &str) -> Result<()> {
        let now = DeleteParams::default().grace_period(0);
        self.pods().delete(name, &now).await?;
        Ok(())
    }

    /// The notes of Events about pods that did not start. Each must have been emitted once.
    async fn pod_events(&self) -> Result<Vec<String>> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.name);
        let events = events.list(&ListParams::default()).await?.into_iter();
        let about = events.filter(|event| event.reason.as_deref() == Some(NOT_STARTED));
        about
            .map(|event| {
                ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
                ensure!(event.series.is_none(), "more than once: {event:?}");
                event.message.context("an Event without a note")
            })
            .collect()
    }

    /// Waits until the condition `Injected` names this pod.
    async fn until_reported(&self, binding: &str, pod: &str) -> Result<String> {
        self.until(&format!("pod {pod} in the condition"), async || {
            let injected = self.condition(binding, "Injected").await?;
            let names_pod = injected.message.contains(&format!("pod {pod} "));
            let is_reported = injected.status == "False" && injected.reason == NOT_STARTED;
            ensure!(is_reported && names_pod, "{injected:?}");
            Ok(injected.message)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_waits_for_the_secret_is_reported_until_it_starts() -> Result<()> {
    let w = World::with("run-pods-waiting", watching()).await?;
    w.set_doppler_secret("A", &secret("a"));
    let late = "run-pods-waiting-late";
    let mut spec = w.spec();
    spec["prefect"]["block"]["name"] = json!(late);
    w.apply_binding("etl", &spec).await?;
    w.until_not_ready("etl", "BlockMissing").await?;
    w.run_pod("etl-1", &["other", "etl"], &waiting("etl"))
        .await?;
    let message = w.until_reported("etl", "etl-1").await?;
    for part in [
        "of flow run quick-otter",
        "CreateContainerConfigError",
        "Secret etl does not exist",
    ] {
        ensure!(message.contains(part), "{message}");
    }
    w.until_not_ready("etl", "BlockMissing").await?;

    // The Secret comes, and the kubelet has not tried again yet.
    let block = Block::object(&w.name, "dev", &w.token);
    w.api.put_block(late, &block).await?;
    w.until_not_ready("etl", NOT_STARTED).await?;
    let message = w.until_reported("etl", "etl-1").await?;
    ensure!(message.contains("at its next attempt"), "{message}");
    w.set_state("etl-1", &running()).await?;
    w.until_ready("etl").await?;
    ensure!(w.condition("etl", "Injected").await.is_err());

    // Events are posted in their order.
    w.until_event("Ready").await?;
    let events = w.pod_events().await?;
    ensure!(events.len() == 1, "{events:?}");
    ensure!(events[0].contains("pod etl-1 of flow run"), "{events:?}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fails_because_of_values_is_reported_until_a_newer_one_starts() -> Result<()> {
    let mut w = World::with("run-pods-failed", watching()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.set_doppler_secret("PATH", &secret("path"));
    let mut spec = w.spec();
    spec["managedSecret"] = json!({"allowReservedNames": ["PATH"]});
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    let too_long = start_error("exec /usr/bin/prefect: argument list too long");
    w.run_pod("etl-1", &["etl"], &too_long).await?;
    let message = w.until_not_ready("etl", NOT_STARTED).await?.message;
    for part in ["pod etl-1 ", "(StartError)", "larger than the system"] {
        ensure!(message.contains(part), "{message}");
    }
    w.until_event(NOT_STARTED).await?;
    // After a restart, the condition shows that the pod was reported.
    w.restart_operator().await?;
    w.until_polls("unchanged", 2).await?;
    w.until_reported("etl", "etl-1").await?;
    w.delete_pod("etl-1").await?;
    w.until_ready("etl").await?;

    let no_program = start_error("exec: \"prefect\": executable file not found in $PATH");
    w.run_pod("etl-2", &["etl"], &no_program).await?;
    let message = w.until_reported("etl", "etl-2").await?;
    ensure!(message.contains("the PATH of Secret etl"), "{message}");
    w.run_pod(
        "etl-3",
        &["etl"],
        &json!({"waiting": {"reason": "ContainerCreating"}}),
    )
    .await?;
    w.until_polls("unchanged", 2).await?;
    w.until_reported("etl", "etl-2").await?;
    w.set_state("etl-3", &running()).await?;
    w.until_ready("etl").await?;
    let mut events = w.pod_events().await?;
    events.sort_unstable();
    ensure!(events.len() == 2, "{events:?}");
    ensure!(events[0].contains("etl-1") && events[1].contains("etl-2"));
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_start_for_another_cause_is_not_reported() -> Result<()> {
    let neighbour = "run-pods-neighbour";
    let other = World::without_operator(neighbour, Setup::default()).await?;
    let setup = Setup {
        neighbour: Some(neighbour.to_owned()),
        ..watching()
    };
    let w = World::with("run-pods-others", setup).await?;
    w.set_doppler_secret("A", &secret("a"));
    for binding in ["etl", "last"] {
        w.apply_binding(binding, &w.spec()).await?;
        w.until_ready(binding).await?;
    }
    other
        .run_pod("elsewhere", &["etl"], &waiting("etl"))
        .await?;
    w.run_pod("other-secret", &["etl", "theirs"], &waiting("theirs"))
        .await?;
    w.pod("no-run", json!({"app": "web"}), &["etl"], &waiting("etl"))
        .await?;
    let denied = start_error("exec: \"./run\": permission denied");
    w.run_pod("other-cause", &["etl"], &denied).await?;
    // No value of the binding is called PATH.
    let no_program = start_error("exec: \"prefekt\": executable file not found in $PATH");
    w.run_pod("image", &["etl"], &no_program).await?;
    // The watch delivers the pods in the order of their changes.
    w.run_pod("ours", &["last"], &waiting("last")).await?;
    w.until_reported("last", "ours").await?;
    w.until_polls("unchanged", 2).await?;
    w.until_ready("etl").await?;
    ensure!(w.condition("etl", "Injected").await.is_err());
    let events = w.pod_events().await?;
    ensure!(
        events.len() == 1 && events[0].contains("pod ours "),
        "{events:?}"
    );
    other.finish().await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_is_read_unless_the_flag_is_set() -> Result<()> {
    let w = World::start("run-pods-off").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("etl", &w.spec()).await?;
    w.until_ready("etl").await?;
    w.run_pod("etl-1", &["etl"], &waiting("etl")).await?;
    w.until_polls("unchanged", 2).await?;
    w.until_ready("etl").await?;
    ensure!(w.condition("etl", "Injected").await.is_err());
    // Without the permission, a list would be refused and logged.
    ensure!(!w.log().contains(REFUSED));
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_logged_once_and_stops_nothing_else() -> Result<()> {
    let w = World::with(
        "run-pods-refused",
        Setup::default().args(&["--watch-run-pods"]),
    )
    .await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("etl", &w.spec()).await?;
    w.until_ready("etl").await?;
    w.run_pod("etl-1", &["etl"], &waiting("etl")).await?;
    w.until("another refusal", async || {
        let log = w.log();
        ensure!(log.contains("the watch of pods was interrupted"));
        Ok(())
    })
    .await?;
    ensure!(w.log().matches(REFUSED).count() == 1);
    w.until_ready("etl").await?;

    let home = format!("{}-operator", w.name);
    let rendered = chart::render(&home, &w.name, None, false, Optional::RunPods).await?;
    grant_from_chart(w.plane, &rendered, &home).await?;
    w.until_reported("etl", "etl-1").await?;
    ensure!(w.log().matches(REFUSED).count() == 1);
    w.finish().await
}
