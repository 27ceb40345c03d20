//! Authors of bindings who try to harm others.
//!
//! Input: none. Output: the cases of group Tenants.
//! Invariants: an author changes bindings, and Doppler configs and blocks of their own, and nothing
//! else. Each case has its own operator.

mod load;
mod names;
mod namespaces;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::net::TcpListener;

use crate::case::{Case, Group, Playing, Seen};
use crate::stage::{after, before, entries, recovered, template, token_ref, until_false};
use crate::world::{Setup, World, secret};

const UNHARMED: &str =
    "The other binding keeps its Secret and its entry, is Ready, and gets its newest values.";

/// The cases.
pub fn cases() -> Vec<Case> {
    let new = |fault: &str, must_hold, play: fn() -> Playing| {
        Case::new(Group::Tenants, fault, must_hold, play)
    };
    let mut cases = vec![
        new(
            "a forged record on a binding",
            "No request to the forged server; the entry of the other binding stays.",
            || Box::pin(forged_record()),
        )
        .in_short_form(),
        new(
            "four API keys for one pool",
            "The pool has the entry of every binding.",
            || Box::pin(load::four_keys()),
        ),
        new(
            "a block that changes every 50 ms",
            "Writes stay few, and the last value arrives.",
            || Box::pin(load::flipping_block()),
        ),
        new("twenty bindings with revoked tokens", UNHARMED, || {
            Box::pin(load::neighbours("tenants-tokens", |_, name, spec| {
                spec["doppler"] = json!({"host": spec["doppler"]["host"], "project": name, "config": "dev", "accessToken": token_ref("revoked")});
            }))
        }),
        new(
            "twenty bindings whose blocks do not exist",
            UNHARMED,
            || {
                Box::pin(load::neighbours("tenants-blocks", |index, _, spec| {
                    spec["prefect"]["block"]["name"] = json!(format!("none-{index}"));
                }))
            },
        ),
        new("twenty bindings whose pools do not exist", UNHARMED, || {
            Box::pin(load::neighbours("tenants-pools", |index, _, spec| {
                spec["inject"] = json!({"workPools": [{"name": format!("none-{index}")}]});
            }))
        }),
        new(
            "twenty bindings with servers that do not exist",
            UNHARMED,
            || {
                Box::pin(load::neighbours("tenants-servers", |index, _, spec| {
                    let url = format!("http://127.0.0.1:{}/api", index + 1);
                    spec["prefect"]["server"] = json!({"remoteApiUrl": url});
                }))
            },
        ),
        new(
            "adoption without consent",
            "The Secret keeps its values, and the condition shows the command that consents.",
            || Box::pin(adoption()),
        )
        .in_short_form(),
        new(
            "a Service of another namespace",
            "No request is sent, and the condition says HostNotAllowed.",
            || Box::pin(foreign_service()),
        ),
        new(
            "another binding's Secret by name",
            "The first binding keeps its Secret.",
            || Box::pin(claimed_secret()),
        ),
        new(
            "line breaks and NUL in names",
            "The API server refuses the binding.",
            || Box::pin(names::control_characters()),
        ),
        new(
            "names that take over a pod",
            "The Secret does not have them, and the status lists them.",
            || Box::pin(names::reserved_names()),
        ),
        new(
            "300 connections with a header without end",
            "The probe answers, and the memory stays.",
            || Box::pin(load::endless_headers()),
        ),
    ];
    cases.extend(namespaces::cases());
    cases
}

/// A world with a Ready binding `victim` that is injected into a pool of the world's name.
async fn world(name: &str) -> Result<World> {
    world_with(name, Setup::default()).await
}

async fn world_with(name: &str, setup: Setup) -> Result<World> {
    let setup = setup.args(&["--stale-after", "2s"]);
    let world = World::with(name, setup).await?;
    world.doppler.replace(name, "dev", before());
    world
        .api
        .create_pool(name, "kubernetes", Some(template(&world)?))
        .await?;
    let mut spec = world.spec();
    spec["inject"] = json!({"workPools": [{"name": name}]});
    world.apply_binding("victim", &spec).await?;
    world.until_ready("victim").await?;
    Ok(world)
}

/// Checks that the victim has its entry and gets its newest values, and ends the world.
async fn unharmed(world: World, what: String, start: Instant) -> Result<Seen> {
    let found = entries(&world, &world.name).await?;
    ensure!(
        found.contains(&"victim".to_owned()),
        "the entries are {found:?}"
    );
    let changed = Instant::now();
    world.doppler.replace(&world.name, "dev", after());
    let recovery = recovered(&world, "victim", &after(), changed).await?;
    world.finish().await?;
    Ok(Seen {
        what,
        requests: None,
        lasted: Some(changed - start),
        recovery: Some(recovery),
    })
}

/// A server that only counts connections.
async fn counting_server() -> Result<(String, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    Ok((address, count))
}

async fn forged_record() -> Result<Seen> {
    let world = world("tenants-forged").await?;
    let (address, connections) = counting_server().await?;
    let start = Instant::now();
    let record = json!([
        {"server": format!("http://{address}/api"), "pool": world.name, "secret": "victim"},
        {"server": world.prefect.api_url(), "pool": world.name, "secret": "victim"},
    ]);
    let binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {
            "name": "attacker", "finalizers": ["doppler-prefect.dev/injected"],
            "annotations": {
                "doppler-prefect.dev/injected": record.to_string(),
                "doppler-prefect.dev/work-pool-entries": record.to_string(),
            },
        },
        "spec": world.spec(),
    });
    world.apply(&binding.to_string()).await?;
    world.until_ready("attacker").await?;
    world.delete_binding("attacker").await?;
    world.until_binding_deleted("attacker").await?;
    let requests = connections.load(Ordering::SeqCst);
    ensure!(requests == 0, "{requests} connections to the forged server");
    unharmed(world, "0 requests to the forged server".to_owned(), start).await
}

async fn adoption() -> Result<Seen> {
    let world = world("tenants-adopt").await?;
    let start = Instant::now();
    world.put_token("theirs", &secret("theirs")).await?;
    let mut spec = world.spec();
    spec["managedSecret"] = json!({"name": "theirs", "adopt": true});
    world.apply_binding("attacker", &spec).await?;
    let condition = world.until_not_ready("attacker", "SecretForeign").await?;
    ensure!(
        condition.message.contains("kubectl"),
        "{}",
        condition.message
    );
    world.delete_binding("attacker").await?;
    world.until_binding_deleted("attacker").await?;
    let kept = world.values("theirs").await?;
    ensure!(
        kept == [("token".to_owned(), secret("theirs"))].into(),
        "the Secret changed"
    );
    unharmed(world, condition.reason, start).await
}

async fn foreign_service() -> Result<Seen> {
    let world = world("tenants-service").await?;
    let start = Instant::now();
    world.put_token("key", &secret("key")).await?;
    let mut spec = world.spec();
    spec["prefect"]["server"] =
        json!({"name": "database", "namespace": "kube-system", "apiKey": token_ref("key")});
    world.apply_binding("attacker", &spec).await?;
    let condition = world.until_not_ready("attacker", "HostNotAllowed").await?;
    unharmed(world, condition.reason, start).await
}

async fn claimed_secret() -> Result<Seen> {
    let world = world("tenants-claim").await?;
    let start = Instant::now();
    world
        .doppler
        .replace(&world.name, "other", [("A", secret("other"))]);
    let token = format!("dp.st.other.{}", secret("claim"));
    world
        .doppler
        .add_service_token(&token, &world.name, "other");
    world.put_token("other", &token).await?;
    let spec = json!({
        "doppler": {"host": world.doppler.url(), "project": world.name, "config": "other", "accessToken": token_ref("other")},
        "managedSecret": {"name": "victim", "adopt": true},
    });
    world.apply_binding("attacker", &spec).await?;
    let condition = until_false(&world, "attacker", "Ready").await?;
    world.delete_binding("attacker").await?;
    world.until_binding_deleted("attacker").await?;
    ensure!(
        world.values("victim").await? == before(),
        "the Secret changed"
    );
    unharmed(world, condition.reason, start).await
}
