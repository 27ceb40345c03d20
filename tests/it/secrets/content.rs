//! The content of the Secret: values byte for byte, excluded keys, and when the operator writes
//! nothing.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use serde_json::json;

use super::spec_with_secret;
use crate::world::{Setup, World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn creates_secret_from_block_and_updates_on_doppler_change() -> Result<()> {
    let w = World::start("secret-story").await?;
    w.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    w.set_doppler_secret("DATABASE_PASSWORD", &secret("p4ss"));
    w.apply_binding("story", &w.spec()).await?;
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
        status["keyCount"] == 5 && status["contentHash"] == json!(hash),
        "{status}"
    );
    w.until_event("SecretCreated").await?;

    w.set_doppler_secret("SECRET_API_KEY", &secret("0987654321"));
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
            status["keyCount"] == 4 && status["contentHash"] != json!(hash),
            "{status}"
        );
        Ok(())
    })
    .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_values_byte_for_byte() -> Result<()> {
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
            secret("\u{1f680} \u{e9} e\u{301} \u{7f} \u{feff}\u{10ffff}"),
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
    w.apply_binding("bytes", &w.spec()).await?;
    w.until_ready("bytes").await?;
    w.until_values("bytes", &values).await?;

    // No container starts with a NUL byte in its environment. The operator excludes only that key.
    w.set_doppler_secret("NUL", &secret("a\u{0}b"));
    w.until("the key with a NUL byte to be excluded", async || {
        let excluded = w.status("bytes").await?["excludedKeys"].clone();
        ensure!(excluded[0]["name"] == "NUL", "{excluded}");
        Ok(())
    })
    .await?;
    w.until_values("bytes", &values).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn excludes_reserved_names_and_lists_them_in_status() -> Result<()> {
    let w = World::start("secret-guard").await?;
    let excluded = [
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
    for name in excluded {
        w.set_doppler_secret(name, &secret("excluded"));
    }
    w.set_doppler_secret("path", &secret("lower"));
    w.set_doppler_secret("GOOD", &secret("good"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_values(
        "b",
        &pairs(&[("GOOD", secret("good")), ("path", secret("lower"))]),
    )
    .await?;
    let status = w.status("b").await?;
    let listed: BTreeMap<&str, &str> = status["excludedKeys"]
        .as_array()
        .context("no excludedKeys")?
        .iter()
        .filter_map(|excluded| Some((excluded["name"].as_str()?, excluded["reason"].as_str()?)))
        .collect();
    for name in excluded {
        ensure!(
            listed.get(name).is_some_and(|why| !why.is_empty()),
            "{name} is missing in {listed:?}"
        );
    }
    ensure!(listed.len() == excluded.len(), "{listed:?}");
    ensure!(
        listed["PATH"].contains("allowReservedNames")
            && listed["HAS SPACE"].contains("Kubernetes does not accept it"),
        "{listed:?}"
    );

    w.apply_binding(
        "b",
        &spec_with_secret(&w, json!({"allowReservedNames": ["PYTHONPATH"]})),
    )
    .await?;
    let values = [
        ("GOOD", secret("good")),
        ("path", secret("lower")),
        ("PYTHONPATH", secret("excluded")),
    ];
    w.until_values("b", &pairs(&values)).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_include_exclude_and_name_transformer() -> Result<()> {
    let w = World::start("secret-filters").await?;
    for name in ["DB_USER", "DB_PASSWORD", "DB_ADMIN_PASSWORD", "API_KEY"] {
        w.set_doppler_secret(name, &secret(name));
    }
    let mut spec = w.spec();
    spec["doppler"]["include"] = json!(["DB_*"]);
    spec["doppler"]["exclude"] = json!(["*ADMIN*"]);
    w.apply_binding("filtered", &spec).await?;
    spec = w.spec();
    spec["doppler"]["nameTransformer"] = json!("lower-snake");
    w.apply_binding("snake", &spec).await?;
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
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_last_good_values_when_the_config_is_too_large() -> Result<()> {
    let w = World::start("secret-large").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    // Replaced at once, because each change in between would also cause a notification and would
    // fit for a while.
    let large = |numbers: std::ops::Range<usize>| {
        let value = format!("{}{}", secret("large"), "x".repeat(50_000));
        let large = numbers.map(|number| (format!("LARGE_{number}"), value.clone()));
        let values: Vec<_> = large.chain([("A".to_owned(), secret("a"))]).collect();
        w.doppler.replace(&w.name, "dev", values);
    };
    large(0..22);
    let condition = w.until_not_ready("b", "SecretTooLarge").await?;
    ensure!(
        condition.message.contains("split the config"),
        "{}",
        condition.message
    );
    w.until_values("b", &pairs(&[("A", secret("a"))])).await?;
    // Content just below the limit fits.
    large(0..20);
    w.until_ready("b").await?;
    ensure!(w.values("b").await?.len() == 21);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_nothing_while_doppler_answers_not_modified() -> Result<()> {
    let w = World::start("secret-rest").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("rest", &w.spec()).await?;
    w.until_ready("rest").await?;
    w.until_polls("unchanged", 2).await?;
    let before = (
        w.binding("rest").await?.resource_version(),
        w.secrets().get("rest").await?.resource_version(),
        w.writes(None).await?,
    );
    w.until_polls("unchanged", 4).await?;
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
        .filter(|call| call.uses_token(&w.token))
        .collect();
    let full = polls.iter().filter(|call| call.status == Some(200)).count();
    ensure!(full == 1, "{full} full downloads in {} polls", polls.len());
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn content_hash_differs_between_bindings_of_equal_content() -> Result<()> {
    let w = World::start("secret-hash").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("one", &w.spec()).await?;
    w.apply_binding("two", &w.spec()).await?;
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
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_interval_of_the_binding_overrides_the_flag() -> Result<()> {
    let w = World::with("secret-interval", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    let mut spec = w.spec();
    spec["refreshInterval"] = json!("10s");
    w.apply_binding("often", &spec).await?;
    w.until_ready("often").await?;
    let downloads = w.downloads();
    w.set_doppler_secret("A", &secret("b"));
    w.until_values("often", &pairs(&[("A", secret("b"))]))
        .await?;
    ensure!(
        w.downloads() == downloads + 1,
        "{} downloads for one change",
        w.downloads() - downloads
    );
    let metrics = w.operator()?.metrics().await?;
    ensure!(
        metrics.contains("doppler_prefect_bindings{reason=\"Ready\"} 1"),
        "{metrics}"
    );
    w.finish().await
}
