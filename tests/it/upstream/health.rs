//! A server that fails for some bindings and not for others.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use wiremock::matchers::{path, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::good;
use crate::world::{Setup, World, secret};

const FAILING: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_answer_500_do_not_delay_another_binding() -> Result<()> {
    stays_served("up-health-500", ResponseTemplate::new(500)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_answer_502_do_not_delay_another_binding() -> Result<()> {
    stays_served("up-health-502", ResponseTemplate::new(502)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_stall_do_not_delay_another_binding() -> Result<()> {
    let stalls = ResponseTemplate::new(200).set_delay(Duration::from_mins(5));
    stays_served("up-health-stall", stalls).await
}

/// Eight bindings whose blocks get `answer`, and one of the same server that goes on at its interval
/// of one second.
async fn stays_served(name: &str, answer: ResponseTemplate) -> Result<()> {
    let setup = Setup::default().args(&["--stale-after", "3s", "--prefect-timeout", "4s"]);
    let w = World::with(name, setup).await?;
    w.set_doppler_secret("A", &secret("good"));
    let server = MockServer::start().await;
    let data = json!({"project": w.name, "config": "dev", "access_token": w.token});
    let well = "/api/block_types/slug/secret/block_documents/name/well";
    Mock::given(path(well))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"data": {"value": data}})))
        .with_priority(1)
        .mount(&server)
        .await;
    Mock::given(path_regex("/name/failing-.*"))
        .respond_with(answer)
        .mount(&server)
        .await;
    let spec = |block: &str| {
        json!({
            "prefect": {"server": {"remoteApiUrl": server.uri()}, "block": {"name": block}},
            "doppler": {"host": w.doppler.url()},
        })
    };
    for index in 0..FAILING {
        let block = format!("failing-{index}");
        w.apply_binding(&block, &spec(&block)).await?;
    }
    w.apply_binding("well", &spec("well")).await?;
    for index in 0..FAILING {
        w.until_not_ready(&format!("failing-{index}"), "PrefectUnreachable")
            .await?;
    }
    w.until_ready("well").await?;
    w.until_values("well", &good()).await?;
    let reads = async || -> Result<usize> {
        let requests = server.received_requests().await.unwrap_or_default();
        let of_well = requests.iter().filter(|it| it.url.path() == well);
        Ok(of_well.count())
    };
    let before = reads().await?;
    w.until_within(Duration::from_secs(20), "ten more reads", async || {
        let now = reads().await?;
        ensure!(now >= before + 10, "{} more", now - before);
        Ok(())
    })
    .await?;
    ensure!(w.condition("well", "Ready").await?.status == "True");
    w.finish().await
}
