//! Faults of Prefect, of the network to it, and of a proxy between.
//!
//! Input: none. Output: the cases of group Prefect.
//! Invariants: cases share one real server, each behind its own relay. A case that changes a server
//! has a server of its own.

mod servers;
mod tls;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::prefect::{Block, PrefectServer};

use crate::case::{Case, Group, Seen};
use crate::relay::{Mode, Relay};
use crate::stage::{Stage, after, before, ensure_kept, entries, recovered, reported, template};
use crate::world::{World, secret};

static STAGE: Stage = Stage::new();

const KEEPS: &str = "The Secret keeps its last good values, the condition names the reason, requests stay few, and a changed block is followed after the end.";
/// More connections than this in a second would be a storm.
const MAX_PER_SECOND: u64 = 8;

/// The stage of the group.
pub fn stage() -> &'static Stage {
    &STAGE
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let html =
        |status: &str| Mode::response(status, "content-type: text/html\r\n", "<html></html>");
    let ok = |body: &str| Mode::json("200 OK", body);
    let table: Vec<(&str, Mode, &'static [&'static str])> = vec![
        ("400", Mode::json("400 Bad Request", "{}"), &["PrefectError"]),
        ("401", Mode::json("401 Unauthorized", "{}"), &["PrefectUnauthorized"]),
        ("403", Mode::json("403 Forbidden", "{}"), &["PrefectForbidden"]),
        ("404 of the block", Mode::json("404 Not Found", r#"{"detail":"Block document not found"}"#), &["BlockMissing"]),
        ("404 of another server", html("404 Not Found"), &["PrefectWrongUrl", "BlockMissing"]),
        ("429 with Retry-After: 2", Mode::response("429 Too Many Requests", "retry-after: 2\r\n", ""), &["PrefectRateLimited"]),
        ("500", Mode::json("500 Internal Server Error", "{}"), &["PrefectUnreachable", "PrefectError"]),
        ("502 with a page of HTML", html("502 Bad Gateway"), &["PrefectUnreachable"]),
        ("503", Mode::json("503 Service Unavailable", "{}"), &["PrefectUnreachable"]),
        ("a page of HTML with status 200", html("200 OK"), &["PrefectWrongUrl", "PrefectError"]),
        ("a JSON list in place of the block", ok("[]"), &["PrefectError", "PrefectWrongUrl"]),
        ("a block without data", ok("{}"), &["PrefectError", "BlockInvalid", "PrefectWrongUrl"]),
        ("half a JSON object", ok("{\"data\": {"), &["PrefectError", "PrefectWrongUrl"]),
        ("a masked block", ok(r#"{"data": {"value": "********"}}"#), &["BlockMasked"]),
        ("a block without token", ok(r#"{"data": {"value": {"project": "p", "config": "dev"}}}"#), &["BlockIncomplete"]),
        ("a redirect", Mode::response("302 Found", "location: http://127.0.0.1:1/\r\n", ""), &["PrefectWrongUrl", "PrefectError"]),
        ("connection refused", Mode::Refuse, &["PrefectUnreachable"]),
        ("connection reset", Mode::Reset, &["PrefectUnreachable"]),
        ("connection accepted and silent", Mode::Silent, &["PrefectUnreachable"]),
        ("garbage in place of HTTP", Mode::Answer(b"\x16\x03\x01\x00\x02hello\r\n\r\n".to_vec()), &["PrefectUnreachable", "PrefectError"]),
        ("a body that stalls", Mode::Stall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"data\"".to_vec()), &["PrefectUnreachable"]),
    ];
    let short = ["401", "503", "connection refused"];
    let mut cases: Vec<Case> = table
        .into_iter()
        .enumerate()
        .map(|(number, (name, mode, reasons))| {
            let binding = format!("p{number}");
            let case = Case::new(Group::Prefect, name, KEEPS, move || {
                keeps_last_good(binding, mode, reasons)
            });
            if short.contains(&name) {
                case.in_short_form()
            } else {
                case
            }
        })
        .collect();
    cases.extend([
        Case::new(Group::Prefect, "the block is deleted and created again", KEEPS, block_deleted),
        Case::new(
            Group::Prefect,
            "the pool is deleted and created again",
            "The condition says PoolMissing; the new pool gets the entry.",
            pool_deleted,
        )
        .in_short_form(),
        Case::new(
            Group::Prefect,
            "another client edits the template all the time",
            "No edit is lost, and the entry comes back.",
            template_edited,
        ),
        Case::new(
            Group::Prefect,
            "another client removes the entry each time",
            "The operator does not fight: repairs become rare, and the condition says PoolContested.",
            entry_removed,
        ),
        Case::new(
            Group::Prefect,
            "the entry is removed once",
            "The operator restores it, and changes nothing else of the template.",
            entry_removed_once,
        ),
    ]);
    cases.extend(servers::cases());
    cases.extend(tls::cases());
    cases
}

/// A binding whose server is behind its own relay.
struct Place {
    world: &'static World,
    binding: String,
    relay: Relay,
}

impl Place {
    async fn start(binding: String, server: SocketAddr) -> Result<Self> {
        let world = STAGE.world("faults-prefect").await?;
        let relay = Relay::start(server).await?;
        put_config(world, &binding);
        Ok(Self {
            world,
            binding,
            relay,
        })
    }

    /// Applies the binding with this block, and waits until it is Ready.
    async fn bind(&self, pools: &Value) -> Result<()> {
        let spec = self.spec(pools);
        self.world.apply_binding(&self.binding, &spec).await?;
        self.world.until_ready(&self.binding).await?;
        self.world.until_values(&self.binding, &before()).await
    }

    /// The spec with these pools.
    fn spec(&self, pools: &Value) -> Value {
        json!({
            "prefect": {
                "server": {"remoteApiUrl": format!("{}/api", self.relay.url())},
                "block": {"name": self.binding},
            },
            "doppler": {"host": self.world.doppler.url()},
            "inject": {"workPools": pools},
        })
    }

    /// The block that names a config of the binding's own project.
    fn block(&self, config: &str) -> Block {
        Block::object(&self.binding, config, &token(&self.binding))
    }
}

fn token(binding: &str) -> String {
    format!("dp.sa.{}", secret(binding))
}

/// Sets the configs `dev` and `stg` of the binding's project.
fn put_config(world: &World, binding: &str) {
    world.doppler.replace(binding, "dev", before());
    world.doppler.replace(binding, "stg", after());
    world.doppler.add_account_token(&token(binding));
}

/// The address of the shared server.
async fn shared() -> Result<SocketAddr> {
    let server = PrefectServer::shared().await?;
    Ok(SocketAddr::from(([127, 0, 0, 1], server.port())))
}

async fn keeps_last_good(binding: String, mode: Mode, reasons: &[&str]) -> Result<Seen> {
    let place = Place::start(binding, shared().await?).await?;
    let world = place.world;
    world
        .api
        .put_block(&place.binding, &place.block("dev"))
        .await?;
    place.bind(&json!([])).await?;
    let (start, connections) = (Instant::now(), place.relay.connections());
    place.relay.set(mode);
    world
        .api
        .put_block(&place.binding, &place.block("stg"))
        .await?;
    let reason = reported(world, &place.binding, reasons).await?;
    ensure_kept(world, &place.binding).await?;
    let lasted = start.elapsed();
    let requests = place.relay.connections() - connections;
    let most = MAX_PER_SECOND * (lasted.as_secs() + 2);
    ensure!(requests <= most, "{requests} connections in {lasted:?}");
    let mended = Instant::now();
    place.relay.set(Mode::Forward);
    let recovery = recovered(world, &place.binding, &after(), mended).await?;
    Ok(Seen {
        what: reason,
        requests: Some(requests),
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

async fn block_deleted() -> Result<Seen> {
    let place = Place::start("block-deleted".to_owned(), shared().await?).await?;
    let world = place.world;
    world
        .api
        .put_block(&place.binding, &place.block("dev"))
        .await?;
    place.bind(&json!([])).await?;
    let (start, connections) = (Instant::now(), place.relay.connections());
    world.api.delete_block("secret", &place.binding).await?;
    let reason = reported(world, &place.binding, &["BlockMissing"]).await?;
    ensure_kept(world, &place.binding).await?;
    let (lasted, mended) = (start.elapsed(), Instant::now());
    world
        .api
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

/// A binding with a pool of the shared server, both of this name.
async fn with_pool(name: &str) -> Result<Place> {
    let place = Place::start(name.to_owned(), shared().await?).await?;
    let world = place.world;
    world.api.put_block(name, &place.block("dev")).await?;
    world
        .api
        .create_pool(name, "kubernetes", Some(template(world)?))
        .await?;
    place.bind(&json!([{"name": name}])).await?;
    ensure!(
        entries(world, name).await? == [name],
        "the pool has no entry"
    );
    Ok(place)
}

async fn until_entries(world: &World, pool: &str, expected: &[&str]) -> Result<()> {
    world
        .until(
            &format!("the entries {expected:?} of pool {pool}"),
            async || {
                let found = entries(world, pool).await?;
                ensure!(found == expected, "{found:?}");
                Ok(())
            },
        )
        .await
}

async fn pool_deleted() -> Result<Seen> {
    let place = with_pool("pool-deleted").await?;
    let (world, name) = (place.world, "pool-deleted");
    let (start, connections) = (Instant::now(), place.relay.connections());
    world.api.delete_pool(name).await?;
    let reason = reported(world, name, &["PoolMissing"]).await?;
    ensure_kept(world, name).await?;
    let (lasted, mended) = (start.elapsed(), Instant::now());
    world
        .api
        .create_pool(name, "kubernetes", Some(template(world)?))
        .await?;
    until_entries(world, name, &[name]).await?;
    world.until_ready(name).await?;
    Ok(Seen {
        what: reason,
        requests: Some(place.relay.connections() - connections),
        lasted: Some(lasted),
        recovery: Some(mended.elapsed()),
    })
}

async fn template_edited() -> Result<Seen> {
    const EDITS: i64 = 20;
    let place = with_pool("edited").await?;
    let (world, name) = (place.world, "edited");
    let start = Instant::now();
    for edit in 1..=EDITS {
        // Another client writes a template that it read some time ago, without the entry.
        let mut template = template(world)?;
        template["variables"]["properties"]["finished_job_ttl"]["default"] = json!(edit);
        world.api.set_template(name, &template).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mended = Instant::now();
    until_entries(world, name, &[name]).await?;
    world.until_ready(name).await?;
    let template = world.api.template(name).await?;
    let last = &template["variables"]["properties"]["finished_job_ttl"]["default"];
    ensure!(*last == json!(EDITS), "the last edit is lost: {last}");
    Ok(Seen {
        what: format!("{EDITS} edits, the last one stays"),
        requests: None,
        lasted: Some(mended - start),
        recovery: Some(mended.elapsed()),
    })
}

async fn entry_removed() -> Result<Seen> {
    let place = with_pool("contested").await?;
    let (world, name) = (place.world, "contested");
    let (start, mut removed) = (Instant::now(), 0_u32);
    let contested = async {
        loop {
            if entries(world, name).await? == [name] {
                world.api.set_template(name, &template(world)?).await?;
                removed += 1;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let state = world.condition(name, "Injected").await?;
            if state.reason == "PoolContested" {
                return anyhow::Ok(());
            }
        }
    };
    let limit = Duration::from_secs(90);
    tokio::time::timeout(limit, contested)
        .await
        .context("never PoolContested")??;
    let (lasted, mended) = (start.elapsed(), Instant::now());
    let repairs = u64::from(removed);
    ensure!(
        repairs <= lasted.as_secs() + 5,
        "{repairs} repairs in {lasted:?}"
    );
    world
        .until_within(Duration::from_mins(3), "the entry", async || {
            let found = entries(world, name).await?;
            ensure!(found == [name], "{found:?}");
            Ok(())
        })
        .await?;
    Ok(Seen {
        what: format!("PoolContested after {removed} repairs"),
        requests: None,
        lasted: Some(lasted),
        recovery: Some(mended.elapsed()),
    })
}

async fn entry_removed_once() -> Result<Seen> {
    let place = with_pool("removed-once").await?;
    let (world, name) = (place.world, "removed-once");
    let with_entry = world.api.template_text(name).await?;
    world.api.set_template(name, &template(world)?).await?;
    let mended = Instant::now();
    until_entries(world, name, &[name]).await?;
    world.until_ready(name).await?;
    ensure!(
        world.api.template_text(name).await? == with_entry,
        "the template differs from the one before"
    );
    Ok(Seen {
        what: "the entry is back".to_owned(),
        requests: None,
        lasted: None,
        recovery: Some(mended.elapsed()),
    })
}
