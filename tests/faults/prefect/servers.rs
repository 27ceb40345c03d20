//! A Prefect server that stops, changes its options, or is replaced by another one.
//!
//! Input: none. Output: the cases.
//! Invariants: each case has servers of its own.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::prefect::{Block, PrefectOptions, PrefectServer, PrefectVersion};

use super::{KEEPS, Place, put_config, shared, token};
use crate::case::{Case, Group, Seen};
use crate::relay::Mode;
use crate::stage::{
    after, before, ensure_kept, entries_of, recovered, reported, template, token_ref,
};
use crate::world::{Setup, World, secret};

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            Group::Prefect,
            "the server stops and starts",
            KEEPS,
            server_restarts,
        ),
        Case::new(
            Group::Prefect,
            "another database without the block",
            KEEPS,
            other_database,
        ),
        Case::new(
            Group::Prefect,
            "the server asks for a password",
            "The condition says PrefectUnauthorized; the password in a Secret that the binding names ends it.",
            password_set,
        ),
        Case::new(
            Group::Prefect,
            "CSRF protection is switched on",
            "The operator fetches a CSRF token and writes the entry.",
            csrf_on,
        ),
        Case::new(
            Group::Prefect,
            "an old server: Prefect 3.7.3, which reports no changes of blocks",
            "Blocks are polled at the interval although the socket is open, the status names the version, the pool gets its entry, and an outage ends as with a new server.",
            old_version,
        ),
    ]
}

fn address(server: &PrefectServer) -> SocketAddr {
    ([127, 0, 0, 1], server.port()).into()
}

async fn server_restarts() -> Result<Seen> {
    let server = PrefectServer::start(PrefectOptions::default()).await?;
    let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let place = Place::start("server-stops".to_owned(), address).await?;
    let (world, api) = (place.world, server.api()?);
    api.put_block(&place.binding, &place.block("dev")).await?;
    api.create_pool("stops", "kubernetes", Some(template(world)?))
        .await?;
    place.bind(&json!([{"name": "stops"}])).await?;
    let (start, connections) = (Instant::now(), place.relay.connections());
    server.stop().await;
    let reason = reported(world, &place.binding, &["PrefectUnreachable"]).await?;
    ensure_kept(world, &place.binding).await?;
    let lasted = start.elapsed();
    let requests = place.relay.connections() - connections;
    server.restart().await?;
    let mended = Instant::now();
    api.put_block(&place.binding, &place.block("stg")).await?;
    let recovery = recovered(world, &place.binding, &after(), mended).await?;
    Ok(Seen {
        what: reason,
        requests: Some(requests),
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

/// A binding on the shared server, without pools.
async fn on_shared_server(binding: &str) -> Result<Place> {
    let place = Place::start(binding.to_owned(), shared().await?).await?;
    place
        .world
        .api
        .put_block(binding, &place.block("dev"))
        .await?;
    place.bind(&json!([])).await?;
    Ok(place)
}

async fn other_database() -> Result<Seen> {
    let place = on_shared_server("other-database").await?;
    let world = place.world;
    let other = PrefectServer::start(PrefectOptions::default()).await?;
    let (start, connections) = (Instant::now(), place.relay.connections());
    place.relay.set(Mode::ForwardTo(address(&other)));
    let reason = reported(world, &place.binding, &["BlockMissing"]).await?;
    ensure_kept(world, &place.binding).await?;
    let (lasted, mended) = (start.elapsed(), Instant::now());
    other
        .api()?
        .put_block(&place.binding, &place.block("stg"))
        .await?;
    let recovery = recovered(world, &place.binding, &after(), mended).await?;
    Ok(Seen {
        what: reason,
        requests: Some(place.relay.connections() - connections),
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

async fn password_set() -> Result<Seen> {
    let place = on_shared_server("password").await?;
    let world = place.world;
    let password = format!("admin:{}", secret("password"));
    let options = PrefectOptions {
        auth: Some(password.clone()),
        ..PrefectOptions::default()
    };
    let other = PrefectServer::start(options).await?;
    other
        .api()?
        .put_block(&place.binding, &place.block("stg"))
        .await?;
    let (start, connections) = (Instant::now(), place.relay.connections());
    place.relay.set(Mode::ForwardTo(address(&other)));
    let reason = reported(world, &place.binding, &["PrefectUnauthorized"]).await?;
    ensure_kept(world, &place.binding).await?;
    let lasted = start.elapsed();
    let requests = place.relay.connections() - connections;
    world.put_token("server-password", &password).await?;
    let mended = Instant::now();
    let mut spec = place.spec(&json!([]));
    spec["prefect"]["server"]["basicAuth"] = token_ref("server-password");
    world.apply_binding(&place.binding, &spec).await?;
    let recovery = recovered(world, &place.binding, &after(), mended).await?;
    Ok(Seen {
        what: reason,
        requests: Some(requests),
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

async fn csrf_on() -> Result<Seen> {
    let place = on_shared_server("csrf").await?;
    let world = place.world;
    let options = PrefectOptions {
        csrf: true,
        ..PrefectOptions::default()
    };
    let other = PrefectServer::start(options).await?;
    let api = other.api()?;
    api.put_block(&place.binding, &place.block("stg")).await?;
    api.create_pool("csrf", "kubernetes", Some(template(world)?))
        .await?;
    let start = Instant::now();
    place.relay.set(Mode::ForwardTo(address(&other)));
    world
        .apply_binding(&place.binding, &place.spec(&json!([{"name": "csrf"}])))
        .await?;
    let recovery = recovered(world, &place.binding, &after(), start).await?;
    let mut template = api.template("csrf").await?;
    let entries = testkit::prefect::env_from(&mut template)?.clone();
    ensure!(entries.len() == 1, "{entries:?}");
    Ok(Seen {
        what: "the pool has the entry".to_owned(),
        requests: None,
        lasted: None,
        recovery: Some(recovery),
    })
}

async fn old_version() -> Result<Seen> {
    // Subscribed sources are not polled during the case.
    let setup = Setup::default().args(&["--stale-after", "2s", "--pushed-refresh-interval", "1h"]);
    let world = World::with("faults-prefect-old", setup).await?;
    let options = PrefectOptions {
        version: PrefectVersion::WithoutBlockEvents,
        ..PrefectOptions::default()
    };
    let server = PrefectServer::start(options).await?;
    let (api, name) = (server.api()?, world.name.clone());
    put_config(&world, &name);
    let block = |config: &str| Block::object(&name, config, &token(&name));
    api.put_block(&name, &block("dev")).await?;
    api.create_pool(&name, "kubernetes", Some(template(&world)?))
        .await?;
    let mut spec = world.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(server.api_url());
    spec["inject"] = json!({"workPools": [{"name": name}]});
    world.apply_binding("b", &spec).await?;
    world.until_ready("b").await?;
    let found = entries_of(&api, &name).await?;
    ensure!(found == ["b"], "the pool has the entries {found:?}");
    let version = world.status("b").await?["prefectVersion"].clone();
    ensure!(version == "3.7.3", "the status names {version}");
    let message = world.condition("b", "BlockResolved").await?.message;
    ensure!(message.contains("so the operator polls them"), "{message}");

    api.put_block(&name, &block("stg")).await?;
    recovered(&world, "b", &after(), Instant::now()).await?;
    api.put_block(&name, &block("dev")).await?;
    recovered(&world, "b", &before(), Instant::now()).await?;
    let start = Instant::now();
    server.stop().await;
    let reason = reported(&world, "b", &["PrefectUnreachable"]).await?;
    ensure_kept(&world, "b").await?;
    let lasted = start.elapsed();
    server.restart().await?;
    let mended = Instant::now();
    api.put_block(&name, &block("stg")).await?;
    let recovery = recovered(&world, "b", &after(), mended).await?;
    server.stop().await;
    world.finish().await?;
    Ok(Seen {
        what: format!("two changes of the block arrived by polls; {reason} during an outage"),
        requests: None,
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}
