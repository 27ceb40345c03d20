//! The lists of a server: two teams, and what each of them may name.

use anyhow::{Result, ensure};
use serde_json::json;

use super::fixture::Fixture;
use crate::work_pools::template;
use crate::world::{Setup, World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn teams_use_only_what_the_server_lists() -> Result<()> {
    let ml = World::without_operator("servers-ml", Setup::default()).await?;
    let setup = Setup {
        neighbour: Some(ml.name.clone()),
        ..Fixture::setup()
    };
    let f = Fixture::start("servers-flows", setup).await?;
    let flows = &f.w;
    let values = pairs(&[("A", secret("lists"))]);
    flows.set_doppler_secret("A", &secret("lists"));
    for team in [flows, &ml] {
        f.put_block(&format!("team-{}-doppler", team.name)).await?;
        let pool = format!("k8s-{}", team.name);
        flows.create_pool(&pool, &template(&team.name)).await?;
    }
    f.put_block("private").await?;
    flows
        .create_pool("gpu-servers", &template(&flows.name))
        .await?;
    let both = json!({
        "namespaces": {"names": [flows.name, ml.name]},
        "blocks": ["team-{namespace}-doppler"],
        "workPools": ["k8s-*"],
    });
    f.put_server(&both).await?;
    let message = f.until_server("Resolved", 0, 0).await?;
    ensure!(message.contains(f.front.url()), "{message}");

    // Each team with its own block and pool.
    let of = |team: &World| {
        let (block, pool) = (
            format!("team-{}-doppler", team.name),
            format!("k8s-{}", team.name),
        );
        f.spec(&block, &[&pool])
    };
    for team in [flows, &ml] {
        team.apply_binding("b", &of(team)).await?;
    }
    for team in [flows, &ml] {
        team.until_ready("b").await?;
        team.until_values("b", &values).await?;
    }
    f.until_server("Resolved", 2, 0).await?;

    // A block and a pool that are not listed: no request names them.
    flows
        .apply_binding("block", &f.spec("private", &[]))
        .await?;
    let text = f.refused(flows, "block", "ServerNotAllowed").await?;
    ensure!(
        text.contains("spec.blocks does not list block private")
            && text.contains("team-servers-flows-doppler"),
        "{text}"
    );
    let own = "team-servers-flows-doppler";
    let pools = ["k8s-servers-flows", "gpu-servers"];
    flows.apply_binding("pool", &f.spec(own, &pools)).await?;
    let text = f.refused(flows, "pool", "ServerNotAllowed").await?;
    ensure!(
        text.contains("spec.workPools does not list work pool gpu-servers"),
        "{text}"
    );
    // The block of another team.
    let theirs = "team-servers-flows-doppler";
    ml.apply_binding("theirs", &f.spec(theirs, &[])).await?;
    let text = f.refused(&ml, "theirs", "ServerNotAllowed").await?;
    ensure!(text.contains("it lists team-servers-ml-doppler"), "{text}");
    f.ensure_silent("private")?;
    f.ensure_silent("gpu-servers")?;
    for (team, name) in [(flows, "block"), (flows, "pool"), (&ml, "theirs")] {
        ensure!(team.values(name).await.is_err(), "{name} has values");
    }
    f.until_server("Resolved", 2, 3).await?;

    // The namespace is not listed any more: nothing is sent for it, and everything stays.
    ml.delete_binding("theirs").await?;
    let mut without = both.clone();
    without["namespaces"] = json!({"names": [flows.name]});
    f.put_server(&without).await?;
    let text = f.refused(&ml, "b", "ServerNotAllowed").await?;
    ensure!(
        text.contains("does not list namespace servers-ml"),
        "{text}"
    );
    f.front.clear();
    flows
        .until("the operator to poll for the other team", async || {
            let reads = f.front.requests("team-servers-flows").len();
            ensure!(reads >= 3, "{reads} polls");
            Ok(())
        })
        .await?;
    f.ensure_silent("servers-ml")?;
    ensure!(ml.values("b").await? == values, "the last values are gone");
    ensure!(flows.sources("k8s-servers-ml").await? == ["b"]);

    // Listed again.
    f.put_server(&both).await?;
    ml.until_ready("b").await?;
    ml.finish().await?;
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_binding_can_be_deleted_and_sends_nothing() -> Result<()> {
    let setup = Fixture::setup().args(&["--release-timeout", "2s"]);
    let f = Fixture::start("servers-refused", setup).await?;
    let w = &f.w;
    w.set_doppler_secret("A", &secret("refused"));
    f.put_block("servers-refused").await?;
    w.create_pool("servers-refused", &template(&w.name)).await?;
    let mut lists = json!({
        "namespaces": {"names": [w.name]}, "blocks": ["*"], "workPools": ["servers-*"],
    });
    f.put_server(&lists).await?;
    w.apply_binding("b", &f.spec("servers-refused", &["servers-refused"]))
        .await?;
    w.until_ready("b").await?;
    ensure!(w.sources("servers-refused").await? == ["b"]);
    // The pool is taken from the list: the record of the entry does not replace the list.
    lists["workPools"] = json!(["other"]);
    f.put_server(&lists).await?;
    f.refused(w, "b", "ServerNotAllowed").await?;
    f.front.clear();
    w.delete_binding("b").await?;
    w.until_binding_deleted("b").await?;
    f.ensure_silent("work_pools")?;
    ensure!(w.sources("servers-refused").await? == ["b"]);
    let event = w.until_event("CleanupAbandoned").await?;
    ensure!(event.contains("spec.workPools does not list"), "{event}");
    // The Secret stays with its entry, and the operator cleans up once the pool is listed again.
    ensure!(!w.values("b").await?.is_empty());
    lists["workPools"] = json!(["servers-refused"]);
    f.put_server(&lists).await?;
    w.until_no_secret("b").await?;
    ensure!(w.sources("servers-refused").await?.is_empty());
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_select_namespaces() -> Result<()> {
    let f = Fixture::start("servers-labels", Fixture::setup()).await?;
    let w = &f.w;
    w.set_doppler_secret("A", &secret("labels"));
    f.put_block("servers-labels").await?;
    f.put_server(&json!({
        "namespaces": {"selector": {"matchLabels": {"prefect-team": "yes"}}},
        "blocks": ["servers-labels"],
    }))
    .await?;
    w.apply_binding("b", &f.spec("servers-labels", &[])).await?;
    f.refused(w, "b", "ServerNotAllowed").await?;
    f.ensure_silent("blocks")?;
    let label = |value: &str| {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": w.name, "labels": {"prefect-team": value}},
        })
        .to_string()
    };
    w.apply(&label("yes")).await?;
    w.until_ready("b").await?;
    f.until_server("Resolved", 1, 0).await?;
    w.apply(&label("no")).await?;
    f.refused(w, "b", "ServerNotAllowed").await?;
    ensure!(!w.values("b").await?.is_empty(), "the last values are gone");
    f.until_server("Resolved", 0, 1).await?;
    f.finish().await
}
