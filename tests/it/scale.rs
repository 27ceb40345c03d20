//! Many bindings on one block and one config: requests at start and at rest, as the API server
//! counts them.

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, ListParams, PostParams};
use serde_json::json;
use testkit::network::Network;

use crate::world::{Setup, World, pairs, secret};

const BINDINGS: usize = 200;

/// Gives the operator's account a flow schema of its own, because the API server counts requests
/// for each flow schema.
async fn count_requests_of_the_operator(w: &World) -> Result<()> {
    let account = json!({"kind": "ServiceAccount", "serviceAccount": {"name": w.grant.service_account, "namespace": w.grant.namespace}});
    let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
    let rest = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": w.name},
        "spec": {
            "priorityLevelConfiguration": {"name": "workload-high"}, "matchingPrecedence": 50,
            "rules": [{"subjects": [account], "resourceRules": all, "nonResourceRules": rest}],
        },
    });
    w.apply(&schema.to_string()).await
}

/// Requests of the operator to the API server so far. A watch counts once, when it starts.
async fn requests_of_the_operator(w: &World) -> Result<u64> {
    let metrics = w.plane.apiserver_metrics().await?;
    let label = format!("flow_schema=\"{}\"", w.name);
    let lines = metrics.lines().filter(|line| {
        line.starts_with("apiserver_flowcontrol_dispatched_requests_total{")
            && line.contains(&label)
    });
    let counts = lines
        .filter_map(|line| line.rsplit(' ').next())
        .map(str::parse::<u64>);
    Ok(counts.sum::<Result<u64, _>>()?)
}

/// Waits for `polls` more polls of Doppler.
async fn until_downloads(w: &World, polls: usize) -> Result<()> {
    let before = w.downloads();
    w.until(&format!("{polls} more polls"), async || {
        let now = w.downloads();
        ensure!(now >= before + polls, "{} so far", now - before);
        Ok(())
    })
    .await
}

/// Number of Ready bindings.
async fn ready(w: &World) -> Result<usize> {
    // From the API server's cache: a consistent list would cost more than the operator itself.
    let any = ListParams::default().match_any();
    let bindings = w.bindings().list(&any).await?.items;
    let is_ready = |binding: &&DynamicObject| {
        let conditions = binding.data["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    Ok(bindings.iter().filter(is_ready).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_share_reads_and_cost_nothing_at_rest() -> Result<()> {
    let network = Network::start()?;
    let mut w = World::without_operator(
        "scale",
        Setup {
            env: network.env(),
            ..Setup::without_polls()
        },
    )
    .await?;
    count_requests_of_the_operator(&w).await?;
    w.doppler.replace(
        &w.name,
        "dev",
        (0..20).map(|number| (format!("KEY_{number}"), secret(&format!("{number}")))),
    );
    let host = format!("prefect-server.{}.svc:4200", w.name);
    network.route(&host, ([127, 0, 0, 1], w.prefect.port()).into());
    let mut spec = w.spec();
    w.create_service("prefect-server").await?;
    spec["prefect"]["server"] = json!({"name": "prefect-server"});

    w.start_operator().await?;
    w.until(
        "the API server to count the operator's requests",
        async || {
            // The schema applies after a moment, and counts every request from then on.
            ensure!(requests_of_the_operator(&w).await? > 0, "none yet");
            Ok(())
        },
    )
    .await
    .context("the flow schema does not match the operator")?;
    for number in 0..BINDINGS {
        let binding = serde_json::from_value(json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
            "metadata": {"name": format!("b{number}")}, "spec": spec,
        }))?;
        w.bindings()
            .create(&PostParams::default(), &binding)
            .await?;
    }
    w.until(&format!("{BINDINGS} Ready bindings"), async || {
        let ready = ready(&w).await?;
        ensure!(ready == BINDINGS, "{ready} so far");
        Ok(())
    })
    .await?;
    // One request for the block, one for the socket, and one for the server's version.
    ensure!(
        network.requests(&host) == 3,
        "{} requests to Prefect",
        network.requests(&host)
    );
    let metrics = w.operator()?.metrics().await?;
    let reads: u64 = metrics
        .lines()
        .filter(|line| {
            line.starts_with("doppler_prefect_upstream_reads_total{upstream=\"prefect\"")
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    ensure!(reads == 1, "{reads} block reads");
    ensure!(w.downloads() == 1, "{} downloads", w.downloads());
    let expected = pairs(
        &(0..20)
            .map(|n| (format!("KEY_{n}"), secret(&format!("{n}"))))
            .collect::<Vec<_>>(),
    );
    for number in [0, 99, BINDINGS - 1] {
        w.until_values(&format!("b{number}"), &expected).await?;
    }
    let secrets = w
        .secrets()
        .list(&ListParams::default().match_any())
        .await?
        .items;
    ensure!(secrets.len() == BINDINGS, "{} Secrets", secrets.len());
    ensure!(
        w.writes(Some("secret")).await? == BINDINGS as u64,
        "the number of Secret writes differs from the number of bindings"
    );
    let statuses = w.writes(Some("status")).await?;
    ensure!(statuses <= 2 * BINDINGS as u64, "{statuses} status writes");

    // A restarted operator that polls each second finds nothing to write.
    w.stop_operator().await?;
    w.set_refresh_interval("1s");
    w.start_operator().await?;
    let restarted = w.downloads();
    until_downloads(&w, 2).await?;
    ensure!(
        w.writes(None).await? == 0,
        "a restart wrote {} times",
        w.writes(None).await?
    );
    let mut before = requests_of_the_operator(&w).await?;
    w.until("the start to end", async || {
        until_downloads(&w, 1).await?;
        let now = requests_of_the_operator(&w).await?;
        let still = now == before;
        before = now;
        ensure!(still, "{now} requests");
        Ok(())
    })
    .await?;
    let block_reads = network.requests(&host);
    until_downloads(&w, 5).await?;
    let after = requests_of_the_operator(&w).await?;
    ensure!(
        after == before,
        "five idle polls cost {} requests to the API server",
        after - before
    );
    ensure!(w.writes(None).await? == 0);
    ensure!(
        network.requests(&host) > block_reads,
        "the block was not polled"
    );
    let full = w
        .doppler
        .downloads()
        .iter()
        .filter(|call| call.uses_token(&w.token) && call.status == Some(200))
        .count();
    ensure!(
        full == 2,
        "{full} full downloads, {} polls since the restart",
        w.downloads() - restarted
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_updates_only_bindings_of_that_config() -> Result<()> {
    let w = World::start("scale-change").await?;
    w.doppler.add_account_token(&w.token);
    w.set_doppler_secret("A", &secret("dev"));
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let mut prd = w.spec();
    prd["doppler"]["config"] = json!("prd");
    for number in 0..3 {
        w.apply_binding(&format!("dev-{number}"), &w.spec()).await?;
        w.apply_binding(&format!("prd-{number}"), &prd).await?;
    }
    for number in 0..3 {
        w.until_ready(&format!("dev-{number}")).await?;
        w.until_ready(&format!("prd-{number}")).await?;
    }
    w.until_polls("unchanged", 4).await?;
    let writes = w.writes(Some("secret")).await?;
    let untouched = w.secrets().get("prd-0").await?.metadata.resource_version;
    w.set_doppler_secret("A", &secret("new"));
    for number in 0..3 {
        w.until_values(&format!("dev-{number}"), &pairs(&[("A", secret("new"))]))
            .await?;
    }
    w.until_polls("unchanged", 4).await?;
    ensure!(
        w.writes(Some("secret")).await? == writes + 3,
        "{} writes",
        w.writes(Some("secret")).await? - writes
    );
    ensure!(w.secrets().get("prd-0").await?.metadata.resource_version == untouched);
    // The operator stops reading a config once no binding refers to it.
    for number in 0..3 {
        w.delete_binding(&format!("prd-{number}")).await?;
        w.until_binding_deleted(&format!("prd-{number}")).await?;
    }
    let reads_of_prd = || {
        w.doppler
            .downloads()
            .iter()
            .filter(|call| call.is_for(&w.name, "prd"))
            .count()
    };
    w.until("the config without bindings to be dropped", async || {
        let metrics = w.operator()?.metrics().await?;
        let configs = metrics
            .lines()
            .find_map(|line| line.strip_prefix("doppler_prefect_sources{kind=\"config\"} "));
        ensure!(configs == Some("1"), "{configs:?} configs");
        Ok(())
    })
    .await?;
    let before = reads_of_prd();
    w.until_polls("unchanged", 3).await?;
    ensure!(
        reads_of_prd() == before,
        "a config without bindings is still read"
    );
    w.finish().await
}
