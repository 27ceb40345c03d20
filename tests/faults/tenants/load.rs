//! Bindings and clients that cause much work, or work that never succeeds.
//!
//! Input: none. Output: what was seen.
//! Invariants: each case has its own operator.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::prefect::Block;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{unharmed, world};
use crate::case::Seen;
use crate::stage::{after, entries, token_ref, until_false};
use crate::world::secret;

pub async fn four_keys() -> Result<Seen> {
    const BINDINGS: usize = 32;
    let world = world("tenants-keys").await?;
    let start = Instant::now();
    for key in 0..4 {
        // A server without authentication accepts every key.
        world
            .put_token(&format!("key-{key}"), &secret(&format!("{key}")))
            .await?;
    }
    for index in 0..BINDINGS {
        let mut spec = world.spec();
        spec["inject"] = json!({"workPools": [{"name": world.name}]});
        spec["prefect"]["server"]["apiKey"] = token_ref(&format!("key-{}", index % 4));
        world.apply_binding(&format!("b{index}"), &spec).await?;
    }
    for index in 0..BINDINGS {
        world.until_ready(&format!("b{index}")).await?;
    }
    let found = entries(&world, &world.name).await?;
    ensure!(
        found.len() == BINDINGS + 1,
        "{} entries: {found:?}",
        found.len()
    );
    unharmed(world, format!("{} entries", BINDINGS + 1), start).await
}

pub async fn flipping_block() -> Result<Seen> {
    const CHANGES: usize = 200;
    let world = world("tenants-flips").await?;
    world.doppler.replace(&world.name, "stg", after());
    let token = format!("dp.sa.{}", secret("flips"));
    world.doppler.add_account_token(&token);
    let mut spec = world.spec();
    spec["prefect"]["block"]["name"] = json!("flips");
    world
        .api
        .put_block("flips", &Block::object(&world.name, "dev", &token))
        .await?;
    world.apply_binding("attacker", &spec).await?;
    world.until_ready("attacker").await?;
    let (start, writes) = (Instant::now(), world.writes(None).await?);
    for change in 0..CHANGES {
        let config = if change % 2 == 0 { "stg" } else { "dev" };
        world
            .api
            .put_block("flips", &Block::object(&world.name, config, &token))
            .await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world
        .api
        .put_block("flips", &Block::object(&world.name, "stg", &token))
        .await?;
    world.until_values("attacker", &after()).await?;
    let written = world.writes(None).await? - writes;
    // A burst of 30 writes of each kind, and then one every two seconds.
    let most = 130 + 2 * start.elapsed().as_secs();
    ensure!(written <= most, "{written} writes in {:?}", start.elapsed());
    unharmed(
        world,
        format!("{written} writes after {CHANGES} changes"),
        start,
    )
    .await
}

/// Twenty broken bindings beside a good one.
pub async fn neighbours(name: &str, breaks: fn(usize, &str, &mut Value)) -> Result<Seen> {
    let world = world(name).await?;
    let start = Instant::now();
    world
        .put_token("revoked", &format!("dp.st.dev.{}", secret("revoked")))
        .await?;
    for index in 0..20 {
        let mut spec = world.spec();
        breaks(index, name, &mut spec);
        world
            .apply_binding(&format!("broken-{index}"), &spec)
            .await?;
    }
    let mut reason = String::new();
    for index in 0..20 {
        let binding = format!("broken-{index}");
        reason = until_false(&world, &binding, "Ready").await?.reason;
    }
    unharmed(world, format!("the others are {reason}"), start).await
}

pub async fn endless_headers() -> Result<Seen> {
    let world = world("tenants-headers").await?;
    let (start, memory) = (Instant::now(), world.operator()?.rss_kib()?);
    let mut open = Vec::new();
    for address in [
        world.operator()?.metrics_address(),
        world.operator()?.health_address(),
    ] {
        for _ in 0..150 {
            let mut stream = TcpStream::connect(address).await?;
            let header = format!("GET /metrics HTTP/1.1\r\nx: {}", "a".repeat(8 << 10));
            // The operator may have closed the connection for a newer one.
            drop(stream.write_all(header.as_bytes()).await);
            open.push(stream);
        }
    }
    world
        .until("the probe to answer", async || {
            world.operator()?.is_ready().await
        })
        .await?;
    let grown = world.operator()?.rss_kib()?.saturating_sub(memory) >> 10;
    ensure!(grown < 24, "{grown} MiB more");
    drop(open);
    unharmed(world, format!("the probe answers, {grown} MiB more"), start).await
}
