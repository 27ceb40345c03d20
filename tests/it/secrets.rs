//! The Secret: what it holds, whose it is, and what becomes of it when others touch it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::world::{Setup, World, pairs, secret};

/// A spec with this stanza for the Secret.
fn managed(world: &World, stanza: Value) -> Value {
    let mut spec = world.spec();
    spec["managedSecret"] = stanza;
    spec
}

/// Makes a Secret that is not the operator's.
async fn foreign(world: &World, name: &str, more: Value) -> Result<()> {
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": {"owner": "me"}}});
    object["stringData"] = json!({"MINE": secret("mine")});
    for (field, value) in more.as_object().context("an object")? {
        object[field] = value.clone();
    }
    world.apply(&object.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_becomes_a_secret_and_a_change_in_doppler_arrives() -> Result<()> {
    let w = World::start("secret-story").await?;
    w.set("SECRET_API_KEY", &secret("1234567890"));
    w.set("DATABASE_PASSWORD", &secret("p4ss"));
    w.bind("story", &w.spec()).await?;
    w.until_ready("story").await?;

    let object = w.secrets().get("story").await?;
    let keys: Vec<_> = object
        .data
        .iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    ensure!(
        keys == [
            "DATABASE_PASSWORD",
            "DOPPLER_CONFIG",
            "DOPPLER_ENVIRONMENT",
            "DOPPLER_PROJECT",
            "SECRET_API_KEY"
        ],
        "{keys:?}"
    );
    ensure!(
        object.data.as_ref().unwrap()["DOPPLER_PROJECT"].0 == w.name.as_bytes(),
        "Doppler's own names are passed on"
    );
    w.until_values(
        "story",
        &pairs(&[
            ("SECRET_API_KEY", secret("1234567890")),
            ("DATABASE_PASSWORD", secret("p4ss")),
        ]),
    )
    .await?;
    ensure!(
        object.type_.as_deref() == Some("Opaque"),
        "{:?}",
        object.type_
    );
    ensure!(
        object
            .labels()
            .get("app.kubernetes.io/managed-by")
            .map(String::as_str)
            == Some("doppler-prefect-operator")
    );
    let annotations = serde_json::to_string(object.annotations())?;
    ensure!(
        annotations.contains(&format!("{:?}", w.name)) && annotations.contains("\"dev\""),
        "project and config: {annotations}"
    );
    let hash = object
        .annotations()
        .get("doppler-prefect.dev/content-hash")
        .context("no content hash")?
        .clone();

    let status = w.status("story").await?;
    ensure!(
        status["project"] == json!(w.name)
            && status["config"] == "dev"
            && status["secretName"] == "story",
        "{status}"
    );
    ensure!(
        status["keys"] == 5 && status["contentHash"] == json!(hash),
        "{status}"
    );
    w.until_event("SecretCreated").await?;

    w.set("SECRET_API_KEY", &secret("0987654321"));
    w.doppler.remove(&w.name, "dev", "DATABASE_PASSWORD");
    w.until_values("story", &pairs(&[("SECRET_API_KEY", secret("0987654321"))]))
        .await?;
    w.until_event("SecretUpdated").await?;
    let after = w.secrets().get("story").await?;
    ensure!(after.uid() == object.uid(), "it was updated, not replaced");
    ensure!(
        after.annotations()["doppler-prefect.dev/content-hash"] != hash,
        "the hash of other content"
    );
    w.until("the status of the new content", async || {
        let status = w.status("story").await?;
        ensure!(
            status["keys"] == 4 && status["contentHash"] != json!(hash),
            "{status}"
        );
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn values_arrive_byte_for_byte() -> Result<()> {
    let w = World::start("secret-bytes").await?;
    let values = pairs(&[
        (
            "NEWLINES",
            format!("-----BEGIN-----\n{}\r\n\n-----END-----\n", secret("pem")),
        ),
        ("QUOTES", secret("a \"b\" 'c' `d` \\e \\n #f ")),
        ("DOLLARS", secret("$HOME ${SECRET} $$ $(id) %s {{ jinja }}")),
        (
            "EMOJI",
            secret("\u{1f680} \u{e9} e\u{301} \u{0} \u{7f} \u{feff}\u{10ffff}"),
        ),
        (
            "JSON",
            json!({"nested": secret("json"), "list": [1, 2.50]}).to_string(),
        ),
        ("SPACES", format!("  {}\t ", secret("spaces"))),
        ("EMPTY", String::new()),
        ("BINARY", secret("\u{1}\u{2}\u{3}\u{80}\u{ff}")),
        ("lower.case-name", secret("dots")),
    ]);
    w.doppler.replace(&w.name, "dev", values.clone());
    w.bind("bytes", &w.spec()).await?;
    w.until_ready("bytes").await?;
    w.until_values("bytes", &values).await?;
    w.end().await
}

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
async fn a_foreign_secret_is_never_touched_and_its_place_is_taken_once_it_is_gone() -> Result<()> {
    let mut w = World::with("secret-foreign", Setup::without_polls()).await?;
    w.set("A", &secret("a"));
    foreign(&w, "taken", json!({})).await?;
    let before = w.secrets().get("taken").await?;
    w.bind("b", &managed(&w, json!({"name": "taken"}))).await?;
    let said = w.until_not_ready("b", "SecretForeign").await?;
    ensure!(said.message.contains("taken"), "{}", said.message);
    let synced = w.condition("b", "SecretSynced").await?;
    ensure!(
        synced.status == "False" && synced.reason == "SecretForeign",
        "{synced:?}"
    );
    w.until_event("SecretForeign").await?;

    // Nor after it was touched by its owner, nor when the binding goes through another look.
    w.edit_secret(
        "taken",
        &json!({"metadata": {"labels": {"touched": "yes"}}}),
    )
    .await?;
    w.set("A", &secret("b"));
    w.restart_operator().await?;
    w.until_not_ready("b", "SecretForeign").await?;
    let after = w.secrets().get("taken").await?;
    ensure!(
        after.data == before.data && after.annotations() == before.annotations(),
        "it was touched"
    );
    ensure!(after.owner_references().is_empty(), "it was given an owner");

    w.delete_secret("taken").await?;
    w.until_values("taken", &pairs(&[("A", secret("b"))]))
        .await?;
    w.until_ready("b").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_binding_leaves_the_foreign_secret_of_its_name() -> Result<()> {
    let w = World::with("secret-foreign-stays", Setup::without_polls()).await?;
    w.set("A", &secret("a"));
    foreign(&w, "b", json!({})).await?;
    w.bind("b", &w.spec()).await?;
    w.until_not_ready("b", "SecretForeign").await?;
    w.unbind("b").await?;
    w.until_unbound("b").await?;
    w.until_values("b", &pairs(&[("MINE", secret("mine"))]))
        .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn adopt_takes_a_secret_that_nobody_controls_and_no_other() -> Result<()> {
    let w = World::with("secret-adopt", Setup::without_polls()).await?;
    w.set("A", &secret("a"));
    foreign(&w, "free", json!({})).await?;
    w.bind(
        "adopts",
        &managed(&w, json!({"name": "free", "adopt": true})),
    )
    .await?;
    w.until_ready("adopts").await?;
    w.until_values("free", &pairs(&[("A", secret("a"))]))
        .await?;
    ensure!(
        w.secrets().get("free").await?.labels()["owner"] == "me",
        "labels of others are kept"
    );

    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "boss"}});
    w.apply(&map.to_string()).await?;
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(w.client.clone(), &w.name);
    let owner = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "boss", "uid": maps.get("boss").await?.uid(), "controller": true,
    });
    foreign(
        &w,
        "controlled",
        json!({"metadata": {"name": "controlled", "ownerReferences": [owner]}}),
    )
    .await?;
    w.bind(
        "refused",
        &managed(&w, json!({"name": "controlled", "adopt": true})),
    )
    .await?;
    w.until_not_ready("refused", "SecretForeign").await?;
    w.until_values("controlled", &pairs(&[("MINE", secret("mine"))]))
        .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_bindings_for_one_secret_the_first_keeps_it_and_the_second_takes_it_when_the_first_goes()
-> Result<()> {
    let w = World::with("secret-claimed", Setup::without_polls()).await?;
    w.set("A", &secret("a"));
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let token = format!("dp.st.prd.{}", secret(&w.name));
    w.doppler.add_service_token(&token, &w.name, "prd");
    w.put_token("prd-token", &token).await?;
    w.bind("first", &managed(&w, json!({"name": "shared"})))
        .await?;
    w.until_ready("first").await?;

    let mut spec = managed(&w, json!({"name": "shared", "adopt": true}));
    spec["doppler"]["config"] = json!("prd");
    spec["doppler"]["accessToken"] =
        json!({"valueFrom": {"secretKeyRef": {"name": "prd-token", "key": "token"}}});
    w.bind("second", &spec).await?;
    let said = w.until_not_ready("second", "SecretClaimed").await?;
    ensure!(
        said.message.contains("first"),
        "it does not say whose it is: {}",
        said.message
    );
    w.until_values("shared", &pairs(&[("A", secret("a"))]))
        .await?;
    w.until_ready("first").await?;

    w.unbind("first").await?;
    w.until_ready("second").await?;
    w.until_values("shared", &pairs(&[("A", secret("prd"))]))
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
async fn a_secret_of_another_type_is_left_alone_even_with_adopt() -> Result<()> {
    let w = World::with("secret-type", Setup::without_polls()).await?;
    w.set("A", &secret("a"));
    let basic = json!({"type": "kubernetes.io/basic-auth", "stringData": {"username": "me", "password": secret("mine")}});
    foreign(&w, "typed", basic).await?;
    let before = w.secrets().get("typed").await?;
    w.bind("b", &managed(&w, json!({"name": "typed", "adopt": true})))
        .await?;
    w.until_not_ready("b", "SecretWrongType").await?;
    let after = w.secrets().get("typed").await?;
    ensure!(
        after.resource_version() == before.resource_version(),
        "it was touched"
    );
    w.delete_secret("typed").await?;
    w.until_ready("b").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_break_the_job_pod_are_held_back_and_named_in_the_status() -> Result<()> {
    let w = World::start("secret-guard").await?;
    let held = [
        "PATH",
        "HOME",
        "LD_PRELOAD",
        "PYTHONPATH",
        "PREFECT_API_KEY",
        "KUBERNETES_SERVICE_HOST",
        "PIP_INDEX_URL",
        "HAS SPACE",
        "\u{e9}t\u{e9}",
    ];
    for name in held {
        w.set(name, &secret("held"));
    }
    w.set("path", &secret("lower"));
    w.set("GOOD", &secret("good"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_values(
        "b",
        &pairs(&[("GOOD", secret("good")), ("path", secret("lower"))]),
    )
    .await?;
    let status = w.status("b").await?;
    let listed: BTreeMap<&str, &str> = status["heldBack"]
        .as_array()
        .context("nothing held back")?
        .iter()
        .filter_map(|held| Some((held["name"].as_str()?, held["why"].as_str()?)))
        .collect();
    for name in held {
        ensure!(
            listed.get(name).is_some_and(|why| !why.is_empty()),
            "{name} is not in {listed:?}"
        );
    }
    ensure!(listed.len() == held.len(), "{listed:?}");
    ensure!(
        listed["PATH"].contains("allowReservedNames")
            && listed["HAS SPACE"].contains("Kubernetes cannot hold it"),
        "{listed:?}"
    );

    w.bind(
        "b",
        &managed(&w, json!({"allowReservedNames": ["PYTHONPATH"]})),
    )
    .await?;
    let values = [
        ("GOOD", secret("good")),
        ("path", secret("lower")),
        ("PYTHONPATH", secret("held")),
    ];
    w.until_values("b", &pairs(&values)).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn include_exclude_and_the_name_transformer_choose_what_is_passed_on() -> Result<()> {
    let w = World::start("secret-filters").await?;
    for name in ["DB_USER", "DB_PASSWORD", "DB_ADMIN_PASSWORD", "API_KEY"] {
        w.set(name, &secret(name));
    }
    let mut spec = w.spec();
    spec["doppler"]["include"] = json!(["DB_*"]);
    spec["doppler"]["exclude"] = json!(["*ADMIN*"]);
    w.bind("filtered", &spec).await?;
    spec = w.spec();
    spec["doppler"]["nameTransformer"] = json!("lower-snake");
    w.bind("snake", &spec).await?;
    w.until_ready("filtered").await?;
    w.until_values(
        "filtered",
        &pairs(&["DB_USER", "DB_PASSWORD"].map(|name| (name, secret(name)))),
    )
    .await?;
    w.until_ready("snake").await?;
    let snake = w.values("snake").await?;
    ensure!(
        snake.get("api_key") == Some(&secret("API_KEY")) && !snake.contains_key("API_KEY"),
        "{:?}",
        snake.keys()
    );
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_secret_can_hold_is_refused_and_the_last_good_values_stay() -> Result<()> {
    let w = World::start("secret-large").await?;
    w.set("A", &secret("a"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    for number in 0..22 {
        w.set(
            &format!("LARGE_{number}"),
            &format!("{}{}", secret("large"), "x".repeat(50_000)),
        );
    }
    let said = w.until_not_ready("b", "SecretTooLarge").await?;
    ensure!(
        said.message.contains("include") || said.message.contains("exclude"),
        "{}",
        said.message
    );
    w.until_values("b", &pairs(&[("A", secret("a"))])).await?;
    // Just below the limit it fits.
    for number in 20..22 {
        w.doppler.remove(&w.name, "dev", &format!("LARGE_{number}"));
    }
    w.until_ready("b").await?;
    ensure!(w.values("b").await?.len() == 21);
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_no_pool_refers_to_belongs_to_its_binding_and_goes_with_it() -> Result<()> {
    let mut w = World::start("secret-owned").await?;
    w.set("A", &secret("a"));
    w.bind("owned", &w.spec()).await?;
    w.until_ready("owned").await?;
    let binding = w.binding("owned").await?;
    let object = w.secrets().get("owned").await?;
    let owners: Vec<_> = object
        .owner_references()
        .iter()
        .map(|owner| &owner.uid)
        .collect();
    ensure!(owners == [&binding.uid().unwrap()], "{owners:?}");
    ensure!(
        binding.finalizers().is_empty(),
        "{:?}",
        binding.finalizers()
    );
    // Kubernetes itself cleans up, even without the operator.
    w.kill_operator();
    w.unbind("owned").await?;
    w.until_unbound("owned").await?;
    w.until_no_secret("owned").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_secret_stays_and_a_new_binding_needs_adopt_to_take_it() -> Result<()> {
    let w = World::start("secret-retained").await?;
    w.set("A", &secret("a"));
    w.bind("b", &managed(&w, json!({"deletionPolicy": "Retain"})))
        .await?;
    w.until_ready("b").await?;
    ensure!(
        w.secrets().get("b").await?.owner_references().is_empty(),
        "the garbage collector would take it"
    );
    w.unbind("b").await?;
    w.until_unbound("b").await?;
    w.set("A", &secret("b"));
    w.bind("b", &w.spec()).await?;
    w.until_not_ready("b", "SecretForeign").await?;
    w.until_values("b", &pairs(&[("A", secret("a"))])).await?;
    w.bind("b", &managed(&w, json!({"adopt": true}))).await?;
    w.until_ready("b").await?;
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_deletion_policy_changes_who_owns_the_secret() -> Result<()> {
    let w = World::start("secret-policy").await?;
    w.set("A", &secret("a"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    let owners = async |count: usize| {
        w.until("the owners to change", async || {
            let found = w.secrets().get("b").await?.owner_references().len();
            ensure!(found == count, "{found} owners");
            Ok(())
        })
        .await
    };
    w.bind("b", &managed(&w, json!({"deletionPolicy": "Retain"})))
        .await?;
    owners(0).await?;
    w.bind("b", &managed(&w, json!({"deletionPolicy": "Delete"})))
        .await?;
    owners(1).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_writes_the_new_secret_and_removes_the_old_one() -> Result<()> {
    let w = World::start("secret-rename").await?;
    w.set("A", &secret("a"));
    w.bind("b", &managed(&w, json!({"name": "old"}))).await?;
    w.until_ready("b").await?;
    w.bind("b", &managed(&w, json!({"name": "new"}))).await?;
    w.until_values("new", &pairs(&[("A", secret("a"))])).await?;
    w.until_no_secret("old").await?;
    w.until_ready("b").await?;
    ensure!(w.status("b").await?["secretName"] == "new");
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_binding_leaves_everything_as_it_is() -> Result<()> {
    let w = World::start("secret-suspend").await?;
    w.set("A", &secret("a"));
    w.bind("sleeper", &w.spec()).await?;
    w.bind("waker", &w.spec()).await?;
    w.until_ready("sleeper").await?;
    let mut spec = w.spec();
    spec["suspend"] = json!(true);
    w.bind("sleeper", &spec).await?;
    w.until_condition("sleeper", "Ready", "Unknown", "Suspended")
        .await?;
    w.set("A", &secret("b"));
    w.edit_secret("sleeper", &json!({"stringData": {"B": secret("edited")}}))
        .await?;
    // The other one has it, so the operator knows of it.
    w.until_values("waker", &pairs(&[("A", secret("b"))]))
        .await?;
    w.until_polls("same", 2).await?;
    w.until_values(
        "sleeper",
        &pairs(&[("A", secret("a")), ("B", secret("edited"))]),
    )
    .await?;
    w.bind("sleeper", &w.spec()).await?;
    w.until_values("sleeper", &pairs(&[("A", secret("b"))]))
        .await?;
    w.until_ready("sleeper").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_nothing_is_written_and_doppler_answers_that_nothing_changed() -> Result<()> {
    let w = World::start("secret-rest").await?;
    w.set("A", &secret("a"));
    w.bind("rest", &w.spec()).await?;
    w.until_ready("rest").await?;
    w.until_polls("same", 2).await?;
    let before = (
        w.binding("rest").await?.resource_version(),
        w.secrets().get("rest").await?.resource_version(),
        w.writes(None).await?,
    );
    w.until_polls("same", 4).await?;
    let after = (
        w.binding("rest").await?.resource_version(),
        w.secrets().get("rest").await?.resource_version(),
        w.writes(None).await?,
    );
    ensure!(before == after, "{before:?} became {after:?}");
    let polls: Vec<_> = w
        .doppler
        .downloads()
        .into_iter()
        .filter(|call| call.is_with(&w.token))
        .collect();
    let full = polls.iter().filter(|call| call.status == Some(200)).count();
    ensure!(full == 1, "{full} full downloads in {} polls", polls.len());
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

#[tokio::test(flavor = "multi_thread")]
async fn two_installations_and_two_bindings_give_the_same_content_different_hashes() -> Result<()> {
    let w = World::start("secret-hash").await?;
    w.set("A", &secret("a"));
    w.bind("one", &w.spec()).await?;
    w.bind("two", &w.spec()).await?;
    w.until_ready("one").await?;
    w.until_ready("two").await?;
    let (one, two) = (w.status("one").await?, w.status("two").await?);
    ensure!(
        one["contentHash"].is_string() && one["contentHash"] != two["contentHash"],
        "{one}\n{two}"
    );
    let home: kube::Api<k8s_openapi::api::core::v1::Secret> =
        kube::Api::namespaced(w.client.clone(), &w.grant.namespace);
    ensure!(
        home.get_opt("doppler-prefect-operator-hash-key")
            .await?
            .is_some(),
        "the key is in the operator's own namespace"
    );
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_rights_are_the_charts_and_no_more() -> Result<()> {
    let w = World::without_operator("secret-rights", Setup::default()).await?;
    let file = kube::config::Kubeconfig::read_from(&w.grant.kubeconfig)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
            .await?;
    config.proxy_url = None;
    let client = kube::Client::try_from(config)?;
    let may = async |verb: &str, resource: &str, namespace: &str| -> Result<bool> {
        let review =
            serde_json::from_value(json!({"metadata": {}, "spec": {"resourceAttributes": {
                "verb": verb, "resource": resource, "namespace": namespace,
            }}}))?;
        let reviews: kube::Api<k8s_openapi::api::authorization::v1::SelfSubjectAccessReview> =
            kube::Api::all(client.clone());
        Ok(reviews
            .create(&PostParams::default(), &review)
            .await?
            .status
            .is_some_and(|status| status.allowed))
    };
    w.until("the rights to count", async || {
        Ok(ensure!(may("get", "secrets", &w.name).await?))
    })
    .await?;
    ensure!(
        !may("get", "secrets", "default").await?,
        "it may read Secrets elsewhere"
    );
    ensure!(
        !may("list", "secrets", &w.grant.namespace).await?,
        "it may list the Secrets of its own namespace"
    );
    ensure!(
        !may("get", "pods", &w.name).await? && !may("create", "pods", &w.name).await?,
        "it may do things with pods"
    );
    w.end().await
}
