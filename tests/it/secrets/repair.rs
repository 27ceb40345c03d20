//! The repair of a Secret that another client edits, deletes or makes immutable, also while the
//! operator is stopped.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use serde_json::json;

use super::spec_with_secret;
use crate::world::{Setup, World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn repairs_edited_or_deleted_secret_without_upstream_request() -> Result<()> {
    let w = World::with("secret-repair", Setup::without_polls()).await?;
    let values = pairs(&[("A", secret("a")), ("B", secret("b"))]);
    w.doppler.replace(&w.name, "dev", values.clone());
    w.apply_binding("repair", &w.spec()).await?;
    w.until_ready("repair").await?;
    let (downloads, blocks) = (w.downloads(), w.all_reads("prefect").await?);

    // A changed value, a removed key and an added key; a label and an annotation of another client.
    w.edit_secret(
        "repair",
        &json!({
            "metadata": {"labels": {"team": "data"}, "annotations": {"example.com/note": "mine"}},
            "stringData": {"A": secret("edited"), "C": secret("added")}, "data": {"B": null},
        }),
    )
    .await?;
    w.until_values("repair", &values).await?;
    w.until_event("SecretRepaired").await?;
    let object = w.secrets().get("repair").await?;
    ensure!(
        object.labels()["team"] == "data" && object.annotations()["example.com/note"] == "mine",
        "what others put there is kept"
    );

    w.delete_secret("repair").await?;
    w.until_values("repair", &values).await?;

    ensure!(
        w.downloads() == downloads,
        "Doppler was asked {} times more",
        w.downloads() - downloads
    );
    ensure!(
        w.all_reads("prefect").await? == blocks,
        "the block was read again"
    );
    w.until_ready("repair").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn repairs_removed_labels_and_annotations() -> Result<()> {
    let w = World::with("secret-marks", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding(
        "marks",
        &spec_with_secret(
            &w,
            json!({"labels": {"tier": "gold"}, "annotations": {"example.com/by": "us"}}),
        ),
    )
    .await?;
    w.until_ready("marks").await?;
    let hash = "doppler-prefect.dev/content-hash";
    let before = w.secrets().get("marks").await?;
    ensure!(before.labels()["tier"] == "gold" && before.annotations()["example.com/by"] == "us");
    w.edit_secret("marks", &json!({"metadata": {"labels": {"tier": "lead"}, "annotations": {hash: null, "example.com/by": null}}})).await?;
    w.until("the labels and annotations to be restored", async || {
        let now = w.secrets().get("marks").await?;
        ensure!(now.labels()["tier"] == "gold", "{:?}", now.labels());
        ensure!(
            now.annotations() == before.annotations(),
            "{:?}",
            now.annotations()
        );
        Ok(())
    })
    .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn removes_obsolete_labels_and_keeps_those_of_others() -> Result<()> {
    let w = World::start("secret-labels").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding(
        "labels",
        &spec_with_secret(&w, json!({"labels": {"one": "1", "two": "2"}})),
    )
    .await?;
    w.until_ready("labels").await?;
    w.edit_secret("labels", &json!({"metadata": {"labels": {"team": "data"}}}))
        .await?;
    w.apply_binding(
        "labels",
        &spec_with_secret(
            &w,
            json!({"labels": {"two": "zwei"}, "annotations": {"example.com/three": "3"}}),
        ),
    )
    .await?;
    w.until("the labels of the new spec", async || {
        let object = w.secrets().get("labels").await?;
        let labels = object.labels();
        ensure!(
            labels.get("two").map(String::as_str) == Some("zwei") && !labels.contains_key("one"),
            "{labels:?}"
        );
        ensure!(
            labels.get("team").map(String::as_str) == Some("data"),
            "{labels:?}"
        );
        ensure!(
            object
                .annotations()
                .get("example.com/three")
                .map(String::as_str)
                == Some("3"),
            "{:?}",
            object.annotations()
        );
        Ok(())
    })
    .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_immutable_secret_and_recreates_it_once_deleted() -> Result<()> {
    let w = World::start("secret-immutable").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.edit_secret("b", &json!({"immutable": true})).await?;
    w.set_doppler_secret("A", &secret("b"));
    let condition = w.until_not_ready("b", "SecretImmutable").await?;
    ensure!(
        condition.message.contains("delete"),
        "it does not say what to do: {}",
        condition.message
    );
    w.until_values("b", &pairs(&[("A", secret("a"))])).await?;
    w.delete_secret("b").await?;
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    w.until_ready("b").await?;
    ensure!(w.secrets().get("b").await?.immutable != Some(true));
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_rewrites_nothing_that_is_up_to_date() -> Result<()> {
    let mut w = World::start("secret-restart").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("same", &w.spec()).await?;
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    w.doppler.add_account_token(&w.token);
    let mut prd = w.spec();
    prd["doppler"]["config"] = json!("prd");
    w.apply_binding("changed", &prd).await?;
    w.until_ready("same").await?;
    w.until_ready("changed").await?;
    let before = (
        w.binding("same").await?.resource_version(),
        w.secrets().get("same").await?.resource_version(),
    );
    w.stop_operator().await?;
    w.doppler.set(&w.name, "prd", "A", &secret("new"));
    w.edit_secret(
        "changed",
        &json!({"stringData": {"B": secret("edited while away")}}),
    )
    .await?;
    w.start_operator().await?;
    w.until_values("changed", &pairs(&[("A", secret("new"))]))
        .await?;
    w.until_polls("unchanged", 3).await?;
    let after = (
        w.binding("same").await?.resource_version(),
        w.secrets().get("same").await?.resource_version(),
    );
    ensure!(before == after, "{before:?} became {after:?}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_contested_secret() -> Result<()> {
    let w = World::with("secret-contested", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    let mut edits = 0;
    w.until("SecretContested", async || {
        edits += 1;
        w.edit_secret(
            "b",
            &json!({"stringData": {"A": secret(&format!("edit {edits}"))}}),
        )
        .await?;
        let ready = w.condition("b", "Ready").await?;
        ensure!(ready.reason == "SecretContested", "{ready:?}");
        Ok(())
    })
    .await?;
    // Once the edits stop, the operator restores the values from Doppler.
    w.until_within(
        std::time::Duration::from_secs(90),
        "the last repair",
        async || {
            let values = w.values("b").await?;
            ensure!(values == pairs(&[("A", secret("a"))]), "not yet");
            Ok(())
        },
    )
    .await?;
    w.finish().await
}
