//! What becomes of the Secret when somebody edits, deletes or seals it, and when the operator was away.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use serde_json::json;

use super::managed;
use crate::world::{Setup, World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_edited_or_deleted_secret_is_put_back_at_once_without_an_upstream_call() -> Result<()>
{
    let w = World::with("secret-repair", Setup::without_polls()).await?;
    let values = pairs(&[("A", secret("a")), ("B", secret("b"))]);
    w.doppler.replace(&w.name, "dev", values.clone());
    w.bind("repair", &w.spec()).await?;
    w.until_ready("repair").await?;
    let (downloads, blocks) = (w.downloads(), w.all_reads("prefect").await?);

    // A value changed, a key removed, a key added; a label and an annotation of somebody else's.
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
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn our_label_and_annotations_are_put_back_when_somebody_takes_them_away() -> Result<()> {
    let w = World::with("secret-marks", Setup::without_polls()).await?;
    w.set("A", &secret("a"));
    w.bind(
        "marks",
        &managed(
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
    w.until("the marks to be put back", async || {
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
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_the_binding_no_longer_asks_for_go_and_those_of_others_stay() -> Result<()> {
    let w = World::start("secret-labels").await?;
    w.set("A", &secret("a"));
    w.bind(
        "labels",
        &managed(&w, json!({"labels": {"one": "1", "two": "2"}})),
    )
    .await?;
    w.until_ready("labels").await?;
    w.edit_secret("labels", &json!({"metadata": {"labels": {"team": "data"}}}))
        .await?;
    w.bind(
        "labels",
        &managed(
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
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_secret_says_so_and_is_written_anew_once_it_is_deleted() -> Result<()> {
    let w = World::start("secret-immutable").await?;
    w.set("A", &secret("a"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.edit_secret("b", &json!({"immutable": true})).await?;
    w.set("A", &secret("b"));
    let said = w.until_not_ready("b", "SecretImmutable").await?;
    ensure!(
        said.message.contains("delete"),
        "it does not say what to do: {}",
        said.message
    );
    w.until_values("b", &pairs(&[("A", secret("a"))])).await?;
    w.delete_secret("b").await?;
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    w.until_ready("b").await?;
    ensure!(w.secrets().get("b").await?.immutable != Some(true));
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_operator_sees_without_writing_that_a_secret_is_up_to_date() -> Result<()> {
    let mut w = World::start("secret-restart").await?;
    w.set("A", &secret("a"));
    w.bind("same", &w.spec()).await?;
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    w.doppler.add_account_token(&w.token);
    let mut prd = w.spec();
    prd["doppler"]["config"] = json!("prd");
    w.bind("changed", &prd).await?;
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
    w.until_polls("same", 3).await?;
    let after = (
        w.binding("same").await?.resource_version(),
        w.secrets().get("same").await?.resource_version(),
    );
    ensure!(before == after, "{before:?} became {after:?}");
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_somebody_keeps_changing_is_reported_as_contested() -> Result<()> {
    let w = World::with("secret-contested", Setup::without_polls()).await?;
    w.set("A", &secret("a"));
    w.bind("b", &w.spec()).await?;
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
    // Once they stop, it holds again what Doppler gave, and says so.
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
    w.end().await
}
