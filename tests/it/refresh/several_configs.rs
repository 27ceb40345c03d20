//! A binding with several configs: each of them is read on request, by a webhook, and when a run starts.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::doppler_webhook::{SecretDir, post_signed, post_webhook, update_body};
use crate::work_pools::template;
use crate::world::{World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn requests_webhooks_and_runs_read_every_config() -> Result<()> {
    let name = "refresh-several";
    let second = "refresh-several-second";
    let secrets = SecretDir::new(name)?;
    let of_second = secret("the-secret-of-the-second");
    secrets.write(second, &of_second)?;
    let w = World::with(name, secrets.setup()).await?;
    let token = format!("dp.st.prd.{}", secret(second));
    w.doppler.add_service_token(&token, second, "prd");
    w.put_token("second", &token).await?;
    let set = |number: u32| {
        w.set_doppler_secret("A", &secret(&format!("a{number}")));
        w.doppler
            .set(second, "prd", "B", &secret(&format!("b{number}")));
    };
    let values = |a: u32, b: u32| {
        pairs(&[
            ("A", secret(&format!("a{a}"))),
            ("B", secret(&format!("b{b}"))),
        ])
    };
    set(1);
    w.create_pool(name, &template(name)).await?;
    let mut spec = w.pool_spec(&json!([{"name": name}]));
    spec["doppler"]["configs"] = json!([
        {"project": name, "config": "dev"},
        {
            "project": second, "config": "prd",
            "accessToken": {"valueFrom": {"secretKeyRef": {"name": "second", "key": "token"}}},
        },
    ]);
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    w.until_values("b", &values(1, 1)).await?;
    w.until_events_of_blocks().await?;
    w.until_reads_end().await?;

    // The annotation: both, and the answer comes after both.
    set(2);
    w.request_refresh("one").await?;
    w.until_refreshed("one").await?;
    ensure!(w.values("b").await? == values(2, 2), "both are read");

    // The start of a run: both.
    let deployment = w.deploy(name).await?;
    set(3);
    w.start_run(&deployment).await?;
    w.until_values("b", &values(3, 3)).await?;
    w.until_reads_end().await?;

    // A webhook, and a request with the secret of the second project: the second only.
    set(4);
    let body = update_body(second, "prd");
    let address = w.operator()?.webhook_address().to_owned();
    ensure!(post_webhook(&address, &of_second, &body).await? == 202);
    w.until_values("b", &values(3, 4)).await?;
    w.until_reads_end().await?;
    set(5);
    let url = format!("http://{address}/webhooks/refresh/{name}/b");
    ensure!(post_signed(&url, &of_second, "refresh-several/b").await? == 202);
    w.until_values("b", &values(3, 5)).await?;
    w.until_reads_end().await?;
    ensure!(w.values("b").await? == values(3, 5));
    w.finish().await
}
