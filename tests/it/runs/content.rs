//! A run that a real worker starts reads a renamed value and a merged one, and no file.

use anyhow::Result;
use serde_json::json;
use testkit::prefect::{Deployment, flows};

use super::{ensure_printed, node};
use crate::work_pools::template;
use crate::worker::start_worker;
use crate::world::{World, secret};

#[tokio::test(flavor = "multi_thread")]
async fn runs_read_renamed_and_merged_values_and_no_file() -> Result<()> {
    let pool = "runs-content";
    let world = World::start(pool).await?;
    let (url, host) = (secret("postgres://db"), secret("db.example"));
    let etl = "runs-content-etl";
    let token = format!("dp.st.prd.{}", secret(etl));
    world.doppler.add_service_token(&token, etl, "prd");
    world.put_token("etl", &token).await?;
    world.set_doppler_secret("DATABASE_URL", &url);
    world.set_doppler_secret("ETL_DB_HOST", &secret("overridden"));
    world.doppler.set(etl, "prd", "DB_HOST", &host);
    world.doppler.set(etl, "prd", "OTHER", &secret("other"));
    world.create_pool(pool, &template(pool)).await?;
    let mut spec = world.pool_spec(&json!([{"name": pool}]));
    spec["doppler"]["configs"] = json!([
        {"project": world.name, "config": "dev"},
        {
            "project": etl, "config": "prd", "include": ["DB_*"], "prefix": "ETL_",
            "accessToken": {"valueFrom": {"secretKeyRef": {"name": "etl", "key": "token"}}},
        },
    ]);
    spec["doppler"]["rename"] = json!({"DATABASE_URL": "SQLALCHEMY_URL"});
    spec["managedSecret"] =
        json!({"files": {"profiles.yml": {"template": "host: {{ ETL_DB_HOST }}"}}});
    world.apply_binding("story", &spec).await?;
    world.until_ready("story").await?;

    let _worker = start_worker(&world).await?;
    let here = node(&world, "node-of-content", pool).await?;
    let deployment = Deployment {
        name: "runs-content-deployment",
        pool,
        path: &flows(),
        entrypoint: "content.py:main",
        job_variables: json!({}),
    };
    let id = world.api.create_deployment(&deployment).await?;
    let run = world.api.create_flow_run(&id).await?;
    for expected in [
        format!("sqlalchemy_url = {url}"),
        format!("etl_db_host = {host}"),
        "files in the environment: []".to_owned(),
    ] {
        ensure_printed(&world, &here, &run, &expected).await?;
    }
    world.finish().await
}
