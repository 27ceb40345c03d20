//! The API server is away, slow, or refuses everything of the operator.
//!
//! Input: none. Output: what was seen.
//! Invariants: the server is well again when a case ends.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use testkit::control_plane::ControlPlane;
use testkit::kubernetes;
use tokio::task::JoinSet;

use super::{change, failed_writes, plane, recovers, setup, until_failed_write, world};
use crate::case::Seen;
use crate::stage::before;
use crate::world::{World, secret};

pub async fn restart() -> Result<Seen> {
    let (world, plane) = (world("api-restart").await?, plane().await?);
    let start = Instant::now();
    plane.stop_apiserver();
    change(&world);
    until_failed_write(&world).await?;
    let failed = failed_writes(&world).await?;
    plane.start_apiserver().await?;
    let mended = Instant::now();
    recovers(
        world,
        "the watches were opened again",
        Some(failed),
        start,
        mended,
    )
    .await
}

/// Sends a signal to a server of the control plane.
fn signal(plane: &ControlPlane, server: &str, signal: &str) -> Result<()> {
    let processes = plane.processes();
    let found = processes.iter().find(|(name, _)| name == server);
    let (_, pid) = found.with_context(|| format!("no process {server}"))?;
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status()?;
    ensure!(status.success(), "kill {signal} failed");
    Ok(())
}

pub async fn paused(name: &str, server: &str) -> Result<Seen> {
    let (world, plane) = (world(name).await?, plane().await?);
    let start = Instant::now();
    signal(plane, server, "-STOP")?;
    change(&world);
    let seen = until_failed_write(&world).await;
    let running = world.operator()?.process().ensure_running();
    signal(plane, server, "-CONT")?;
    seen?;
    running?;
    let mended = Instant::now();
    let failed = failed_writes(&world).await?;
    recovers(
        world,
        "writes failed and were tried again",
        Some(failed),
        start,
        mended,
    )
    .await
}

pub async fn compacted() -> Result<Seen> {
    let (world, plane) = (world("api-compacted").await?, plane().await?);
    let start = Instant::now();
    let operator = world.operator()?.process();
    operator.pause();
    change(&world);
    world
        .edit_secret("b", &json!({"metadata": {"annotations": {"theirs": "1"}}}))
        .await?;
    // The API server starts with an empty watch cache, and older states are gone from etcd.
    for number in 0..50 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "noise"}, "data": {"n": number.to_string()}});
        world.apply(&map.to_string()).await?;
    }
    plane.stop_apiserver();
    compact(plane).await?;
    plane.start_apiserver().await?;
    operator.resume();
    let mended = Instant::now();
    recovers(world, "the watches listed again", None, start, mended).await
}

/// Compacts etcd up to its newest revision, by its JSON gateway.
async fn compact(plane: &ControlPlane) -> Result<()> {
    let processes = plane.processes();
    let (_, pid) = processes
        .iter()
        .find(|(name, _)| name == "etcd")
        .context("no etcd")?;
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let url = command
        .split('\0')
        .find_map(|argument| argument.strip_prefix("--listen-client-urls="))
        .context("etcd has no client URL")?;
    let http = testkit::operator::local_http()?;
    let range = json!({"key": "AA=="});
    let answer: Value = http
        .post(format!("{url}/v3/kv/range"))
        .json(&range)
        .send()
        .await?
        .json()
        .await?;
    let revision = answer["header"]["revision"].clone();
    let compaction = json!({"revision": revision, "physical": true});
    let answer = http
        .post(format!("{url}/v3/kv/compaction"))
        .json(&compaction)
        .send()
        .await?;
    ensure!(answer.status().is_success(), "{}", answer.text().await?);
    Ok(())
}

pub async fn too_many_requests() -> Result<Seen> {
    let world = world("api-429").await?;
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": "api-429"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}},
    });
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "api-429"},
        "spec": {
            "priorityLevelConfiguration": {"name": "api-429"}, "matchingPrecedence": 2,
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": world.grant.user()}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            }],
        },
    });
    world.apply(&level.to_string()).await?;
    world.apply(&schema.to_string()).await?;
    let start = Instant::now();
    // The level has one seat, for which the operator now competes.
    let flood = Flood::start(&world)?;
    let failed = world
        .until("a refused write", async || {
            world.set_doppler_secret("Z", &secret(&format!("{:?}", start.elapsed())));
            let failed = failed_writes(&world).await?;
            ensure!(failed > 0, "no write has failed yet");
            Ok(failed)
        })
        .await?;
    drop(flood);
    kubernetes::delete(&world.client, &world.name, &schema.to_string()).await?;
    kubernetes::delete(&world.client, &world.name, &level.to_string()).await?;
    let mended = Instant::now();
    change(&world);
    recovers(
        world,
        "writes were refused and tried again",
        Some(failed),
        start,
        mended,
    )
    .await
}

/// Many requests with the operator's token, until it is dropped.
struct Flood(JoinSet<()>);

impl Flood {
    fn start(world: &World) -> Result<Self> {
        let text = std::fs::read_to_string(&world.grant.kubeconfig)?;
        let config: Value = serde_json::from_str(&text)?;
        let token = config["users"][0]["user"]["token"].as_str();
        let token = token.context("the kubeconfig has no token")?;
        let mut tasks = JoinSet::new();
        for _ in 0..30 {
            let client = world.plane.client_for_token(token)?;
            let secrets: Api<Secret> = Api::namespaced(client, &world.name);
            tasks.spawn(async move {
                loop {
                    // A refused request is what the flood is for.
                    drop(secrets.list(&ListParams::default()).await);
                }
            });
        }
        Ok(Self(tasks))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.abort_all();
    }
}

/// A token of the operator's account that is valid as long as this Secret exists.
async fn issue(world: &World, anchor: &str) -> Result<String> {
    let home = &world.grant.namespace;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": anchor}});
    let applied = kubernetes::apply(&world.client, home, &secret.to_string()).await?;
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(3600),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: Some(anchor.to_owned()),
                uid: applied[0].uid(),
            }),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), home);
    let account = &world.grant.service_account;
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    Ok(answer.status.context("no token")?.token)
}

pub async fn token_rotated() -> Result<Seen> {
    let mut world = World::without_operator("api-token", setup().await?).await?;
    let file = world.plane.folder().join("api-token.token");
    std::fs::write(&file, issue(&world, "first").await?)?;
    let text = std::fs::read_to_string(&world.grant.kubeconfig)?;
    let mut config: Value = serde_json::from_str(&text)?;
    config["users"][0]["user"] = json!({"tokenFile": file});
    std::fs::write(&world.grant.kubeconfig, config.to_string())?;
    world.start_operator().await?;
    world.doppler.replace(&world.name, "dev", before());
    world.apply_binding("b", &world.spec()).await?;
    world.until_ready("b").await?;
    let start = Instant::now();
    std::fs::write(&file, issue(&world, "second").await?)?;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.grant.namespace);
    secrets.delete("first", &DeleteParams::default()).await?;
    change(&world);
    let mended = Instant::now();
    recovers(world, "the new token is used", None, start, mended).await
}
