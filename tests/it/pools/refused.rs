//! A template that the Prefect server refuses at every update.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::prefect::{PrefectOptions, PrefectServer};

use crate::work_pools::{replaced, template};
use crate::world::{World, secret};

/// Writes a template past the server's validation, as an older server accepted it.
const WRITE_TEMPLATE: &str = "
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=60) as database:
    changed = database.execute('UPDATE work_pool SET base_job_template = ? WHERE name = ?', sys.argv[2:])
    assert changed.rowcount == 1
";

#[tokio::test(flavor = "multi_thread")]
async fn quotes_the_server_that_refuses_a_template() -> Result<()> {
    let mut world = World::without_operator("pool-refused", crate::world::Setup::default()).await?;
    // A server of its own: the test writes into its database.
    let server = Box::leak(Box::new(
        PrefectServer::start(PrefectOptions::default()).await?,
    ));
    world.prefect = server;
    world.api = server.api()?;
    let block = testkit::prefect::Block::object(&world.name, "dev", &world.token);
    world.api.put_block(&world.name, &block).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    let good = template(&world.name);
    world.create_pool("pool-refused", &good).await?;
    let undeclared = replaced(
        &good,
        "\"stream_output\": \"{{ stream_output }}\"",
        "\"stream_output\": \"{{ from_an_older_server }}\"",
    );
    let folder = server.log_path();
    let database = folder.parent().context("no folder")?.join("prefect.db");
    let python = testkit::venv::venv("prefect")?.join("bin/python");
    let written = Command::new(python)
        .args(["-c", WRITE_TEMPLATE])
        .arg(database)
        .args([&undeclared, "pool-refused"])
        .output()?;
    ensure!(written.status.success(), "{written:?}");

    world.start_operator().await?;
    world.bind_to("refused", "pool-refused").await?;
    world
        .until_pool("refused", "pool-refused", "NotEditable")
        .await?;
    let condition = world
        .until_condition("refused", "Injected", "False", "PoolNotEditable")
        .await?;
    ensure!(
        condition
            .message
            .contains("refuses every update of the template of work pool pool-refused (422)")
            && condition
                .message
                .contains("undeclared variable(s): from_an_older_server"),
        "{}",
        condition.message
    );
    // One PATCH, however often the pool is read.
    let reads = world.reads("prefect", "pool-read").await?;
    world
        .until("five more reads of the pool", async || {
            let now = world.reads("prefect", "pool-read").await?;
            ensure!(now >= reads + 5, "{} so far", now - reads);
            Ok(())
        })
        .await?;
    let refused = world.reads("prefect", "PoolNotEditable").await?;
    ensure!(refused == 1, "{refused} refused requests");
    world.write_template("pool-refused", &good).await?;
    world
        .until_pool("refused", "pool-refused", "Patched")
        .await?;
    world.until_ready("refused").await?;
    world.finish().await
}
