//! The time that the admission policy adds to the creation of a Job.
//!
//! Input: namespaces with bindings that select Jobs, and the chart's policy. Output: for each number
//! of bindings, the time of a creation, less that in a namespace without bindings.
//! Invariants: no operator runs, and the creations are dry runs, so that nothing but the API server is
//! measured. The namespaces take turns, so that other load meets all of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use testkit::grant::ensure_namespace;
use testkit::{admission, wait};

use super::context::FigureContext;
use super::statistics::{median, milliseconds};
use crate::number::{as_f64, number};
use crate::result::{Findings, Goal, Row};

/// The namespaces with bindings.
const CASES: [Case; 3] = [
    Case {
        bindings: 100,
        with_jobs: 100,
        goal: 10.0,
    },
    Case {
        bindings: 1_000,
        with_jobs: 100,
        goal: 50.0,
    },
    Case {
        bindings: 1_000,
        with_jobs: 1_000,
        goal: 50.0,
    },
];
/// Creations of each kind in each namespace.
const CREATIONS: usize = 60;
/// Requests at the same time while the bindings are created.
const CONCURRENCY: usize = 16;
/// Time until the API server uses the policy and all bindings.
const LIMIT: Duration = Duration::from_mins(2);

/// A namespace with bindings.
#[derive(Clone, Copy, Default)]
struct Case {
    bindings: usize,
    /// How many of them have `inject.jobs`.
    with_jobs: usize,
    /// The time that they may add, in milliseconds.
    goal: f64,
}

/// Whether a binding selects the Job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Selected {
    Yes,
    No,
}

/// A namespace, and the times of its creations.
struct Place {
    case: Case,
    jobs: Api<Job>,
    selected: Vec<Duration>,
    unselected: Vec<Duration>,
}

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let client = context.plane.admin_client()?;
    admission::install(context.plane).await?;
    let mut places = Vec::new();
    for case in [Case::default()].into_iter().chain(CASES) {
        places.push(Place::set_up(&client, case).await?);
    }
    for _ in 0..CREATIONS {
        for place in &mut places {
            let time = place.create(Selected::Yes).await?;
            place.selected.push(time);
            let time = place.create(Selected::No).await?;
            place.unselected.push(time);
        }
    }
    Ok(Findings::rows(rows(&places)))
}

impl Place {
    /// Creates the namespace and its bindings, and waits until the API server has them all.
    async fn set_up(client: &Client, case: Case) -> Result<Self> {
        let name = format!("jobs-{}-of-{}", case.with_jobs, case.bindings);
        ensure_namespace(client, &name).await?;
        let api = bindings_of(client, &name);
        let mut created = stream::iter(0..case.bindings)
            .map(|number| create_binding(&api, number, number < case.with_jobs))
            .buffer_unordered(CONCURRENCY);
        while let Some(created) = created.next().await {
            created?;
        }
        drop(created);
        let place = Self {
            case,
            jobs: Api::namespaced(client.clone(), &name),
            selected: Vec::new(),
            unselected: Vec::new(),
        };
        if let Some(last) = case.with_jobs.checked_sub(1) {
            wait::until(LIMIT, "the policy to use all bindings", async || {
                let job = place.dry_run(&deployment(last)).await?;
                let job = serde_json::to_value(job)?;
                let sources = &job["spec"]["template"]["spec"]["containers"][0]["envFrom"];
                ensure!(sources.is_array(), "the Job has no entry");
                Ok(())
            })
            .await?;
        }
        Ok(place)
    }

    async fn create(&self, selected: Selected) -> Result<Duration> {
        let deployment = match selected {
            Selected::Yes => deployment(self.case.with_jobs / 2),
            Selected::No => "unknown".to_owned(),
        };
        let started_at = Instant::now();
        self.dry_run(&deployment).await?;
        Ok(started_at.elapsed())
    }

    async fn dry_run(&self, deployment: &str) -> Result<Job> {
        let params = PostParams {
            dry_run: true,
            field_manager: None,
        };
        let job = self.jobs.create(&params, &job(deployment)?).await;
        job.context("the API server refuses the Job")
    }
}

fn rows(places: &[Place]) -> Vec<Row> {
    let base = |times: fn(&Place) -> &Vec<Duration>| {
        let without = places.iter().find(|place| place.case.bindings == 0);
        without.map_or(Duration::ZERO, |place| median(times(place)))
    };
    let mut rows = Vec::new();
    for place in places.iter().filter(|place| place.case.bindings > 0) {
        let Case {
            bindings,
            with_jobs,
            goal,
        } = place.case;
        let (all, some) = (number(as_f64(bindings)), number(as_f64(with_jobs)));
        for (what, times) in [
            (
                "one selects it",
                (|place| &place.selected) as fn(&Place) -> &Vec<Duration>,
            ),
            ("none selects it", |place| &place.unselected),
        ] {
            let (with, without) = (median(times(place)), base(times));
            let note = format!(
                "median of {CREATIONS}: {:.1} ms with and {:.1} ms without bindings in the namespace",
                milliseconds(with),
                milliseconds(without)
            );
            let about = format!(
                "time that {all} bindings of its namespace, {some} of them with inject.jobs, add to the creation of a Job, {what}"
            );
            let added = milliseconds(with.saturating_sub(without));
            rows.push(Row::new(about, added, "ms", Goal::AtMost(goal)).note(note));
        }
    }
    rows
}

/// A binding with a status as the operator writes it. With jobs, it has the label, too, and selects the
/// Jobs of its own deployment.
async fn create_binding(api: &Api<DynamicObject>, number: usize, with_jobs: bool) -> Result<()> {
    let name = format!("binding-{number}");
    let key = json!({"secretKeyRef": {"name": "doppler", "key": "token"}});
    let mut binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1",
        "kind": "DopplerPrefectBinding",
        "metadata": {"name": name},
        "spec": {
            "doppler": {"project": "project", "config": "config", "accessToken": {"valueFrom": key}},
        },
    });
    if with_jobs {
        binding["metadata"]["labels"] = json!({"doppler-prefect.dev/selects-jobs": "true"});
        let jobs = json!([{"matchLabels": labels(&deployment(number))}]);
        binding["spec"]["inject"] = json!({"jobs": jobs});
    }
    let binding: DynamicObject = serde_json::from_value(binding)?;
    api.create(&PostParams::default(), &binding).await?;
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": kind, "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "message": format!("{kind}: Secret {name} is in place and the policy adds it to Jobs"),
        })
    };
    let conditions = ["BlockResolved", "SecretSynced", "Injected", "Ready"].map(condition);
    let status = json!({"status": {
        "observedGeneration": 1, "conditions": conditions, "project": "project", "config": "config",
        "secretName": name, "jobSecretName": with_jobs.then_some(&name), "keyCount": 20,
        "contentHash": "0".repeat(64), "lastChangeTime": "2026-01-01T00:00:00Z",
    }});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}

fn bindings_of(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("doppler-prefect.dev", "v1alpha1", "DopplerPrefectBinding");
    let resource = ApiResource::from_gvk_with_plural(&kind, "dopplerprefectbindings");
    Api::namespaced_with(client.clone(), namespace, &resource)
}

fn deployment(number: usize) -> String {
    format!("deployment-{number}")
}

fn labels(deployment: &str) -> Value {
    json!({"prefect.io/work-pool-name": "k8s", "prefect.io/deployment-name": deployment})
}

/// A Job with the labels of Prefect's worker.
fn job(deployment: &str) -> Result<Job> {
    let mut labels = labels(deployment);
    for (key, value) in [
        (
            "prefect.io/flow-run-id",
            "6f3a8f3e-7f0f-4f7e-9b52-0b6f2a3d8c11",
        ),
        ("prefect.io/flow-run-name", "quick-otter"),
        ("prefect.io/flow-name", "main"),
        ("prefect.io/worker-name", "worker"),
        ("app.kubernetes.io/managed-by", "prefect"),
    ] {
        labels[key] = value.into();
    }
    Ok(serde_json::from_value(json!({
        "metadata": {"generateName": "quick-otter-", "labels": labels},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": labels}, "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "prefect-job",
                "image": "prefecthq/prefect:3-latest",
                "args": ["prefect", "flow-run", "execute"],
                "env": [
                    {"name": "PREFECT_API_URL", "value": "http://prefect-server.prefect.svc:4200/api"},
                    {"name": "PREFECT__FLOW_RUN_ID", "value": "6f3a8f3e-7f0f-4f7e-9b52-0b6f2a3d8c11"},
                ],
            }],
        }}},
    }))?)
}
