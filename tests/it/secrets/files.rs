//! Files of a binding: their Secret, their content, and the type.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

use super::{create_foreign_secret, spec_with_secret};
use crate::{
    check::run_check_of,
    world::{World, pairs, secret},
};

/// The content of a Secret in bytes.
async fn content(w: &World, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let found = w.secrets().get_opt(name).await?;
    let data = found.with_context(|| format!("no Secret {name}"))?.data;
    let data = data.unwrap_or_default().into_iter();
    Ok(data.map(|(name, value)| (name, value.0)).collect())
}

/// Waits until a file has this content.
async fn until_file(w: &World, secret: &str, file: &str, expected: &str) -> Result<()> {
    w.until(&format!("file {file} of Secret {secret}"), async || {
        let found = content(w, secret).await?;
        ensure!(
            found.get(file).map(Vec::as_slice) == Some(expected.as_bytes()),
            "files {:?}",
            found.keys()
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_files_to_a_second_secret_and_removes_it() -> Result<()> {
    let w = World::start("secret-files").await?;
    w.set_doppler_secret("DB_HOST", &secret("db"));
    w.set_doppler_secret("BINARY", "/wD+");
    let files = json!({
        "profiles.yml": {"template": "host: {{ DB_HOST }}\n"},
        "key.bin": {"from": "BINARY", "encoding": "Base64"},
        "bad.bin": {"from": "DB_HOST", "encoding": "Base64"},
        "all.json": {"format": "Json"},
    });
    let spec = spec_with_secret(&w, json!({"files": files}));
    let (all_ok, checked) = run_check_of(&w, "b", &spec, &[]).await?;
    for part in [
        "files: 3 files: all.json, key.bin, profiles.yml",
        "excluded: bad.bin: the value of DB_HOST is not base64",
        "b would be created with 5 keys",
        "b-files would be created with 3 keys",
    ] {
        ensure!(all_ok && checked.contains(part), "{part}: {checked}");
    }
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    let values = pairs(&[("DB_HOST", secret("db")), ("BINARY", "/wD+".to_owned())]);
    w.until_values("b", &values).await?;
    until_file(
        &w,
        "b-files",
        "profiles.yml",
        &format!("host: {}\n", secret("db")),
    )
    .await?;
    let found = content(&w, "b-files").await?;
    ensure!(found["key.bin"] == [255, 0, 254], "{:?}", found["key.bin"]);
    let all: BTreeMap<String, String> = serde_json::from_slice(&found["all.json"])?;
    ensure!(
        all["DB_HOST"] == secret("db") && all.len() == 5,
        "{:?}",
        all.keys()
    );
    ensure!(!found.contains_key("bad.bin"));
    let status = w.status("b").await?;
    ensure!(
        status["files"]["secretName"] == "b-files" && status["files"]["fileCount"] == 3,
        "{status}"
    );
    ensure!(status["excludedKeys"][0]["name"] == "bad.bin", "{status}");

    // A change in Doppler, and one by another client.
    w.set_doppler_secret("DB_HOST", &secret("db2"));
    let expected = format!("host: {}\n", secret("db2"));
    until_file(&w, "b-files", "profiles.yml", &expected).await?;
    w.edit_secret("b-files", &json!({"data": {"profiles.yml": "eA=="}}))
        .await?;
    until_file(&w, "b-files", "profiles.yml", &expected).await?;

    // At rest nothing is written.
    w.until_ready("b").await?;
    w.until_polls("unchanged", 2).await?;
    let before = w.writes(None).await?;
    w.until_polls("unchanged", 3).await?;
    ensure!(w.writes(None).await? == before, "it writes at rest");

    // Another name, and no files any more.
    w.apply_binding(
        "b",
        &spec_with_secret(&w, json!({"name": "c", "files": files})),
    )
    .await?;
    until_file(&w, "c-files", "profiles.yml", &expected).await?;
    w.until_no_secret("b-files").await?;
    w.apply_binding("b", &spec_with_secret(&w, json!({"name": "c"})))
        .await?;
    w.until_no_secret("c-files").await?;
    w.until("a status without files", async || {
        let status = w.status("b").await?;
        ensure!(status["files"].is_null(), "{status}");
        Ok(())
    })
    .await?;
    w.until_ready("b").await?;

    // Both go with the binding.
    w.apply_binding("b", &spec).await?;
    until_file(&w, "b-files", "profiles.yml", &expected).await?;
    w.bindings().delete("b", &DeleteParams::default()).await?;
    w.until_no_secret("b").await?;
    w.until_no_secret("b-files").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_template_keeps_the_last_good_files() -> Result<()> {
    let w = World::start("secret-template").await?;
    w.set_doppler_secret("DB_HOST", &secret("db"));
    let with =
        |template: &str| spec_with_secret(&w, json!({"files": {"a.yml": {"template": template}}}));
    w.apply_binding("b", &with("host: {{ DB_HOST }}")).await?;
    w.until_ready("b").await?;
    let good = format!("host: {}", secret("db"));
    until_file(&w, "b-files", "a.yml", &good).await?;
    for (template, part) in [
        ("a\nhost: {{ TYPO }}", "a.yml, line 2: TYPO is no name"),
        (
            "host: {{ DB_HOST",
            "a.yml, line 1: the template has a syntax error",
        ),
        (
            "{{ DB_HOST * 100000000 }}",
            "a.yml, line 1: the template contains `*`",
        ),
    ] {
        w.apply_binding("b", &with(template)).await?;
        w.until(&format!("TemplateInvalid with {part:?}"), async || {
            let condition = w.condition("b", "SecretSynced").await?;
            ensure!(
                condition.reason == "TemplateInvalid" && condition.message.contains(part),
                "{}: {}",
                condition.reason,
                condition.message
            );
            Ok(())
        })
        .await?;
        let (all_ok, checked) = run_check_of(&w, "b", &with(template), &[]).await?;
        ensure!(!all_ok && checked.contains(part), "{checked}");
        until_file(&w, "b-files", "a.yml", &good).await?;
    }
    // A name that goes away in Doppler keeps both Secrets, too.
    w.apply_binding("b", &with("host: {{ DB_HOST }}")).await?;
    w.until_ready("b").await?;
    w.doppler.remove(&w.name, "dev", "DB_HOST");
    w.until_not_ready("b", "TemplateInvalid").await?;
    until_file(&w, "b-files", "a.yml", &good).await?;
    w.until_values("b", &pairs(&[("DB_HOST", secret("db"))]))
        .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_needs_its_keys_and_is_never_changed() -> Result<()> {
    let w = World::start("secret-file-type").await?;
    w.set_doppler_secret("CRT", &secret("crt"));
    w.set_doppler_secret("KEY", "!");
    let files = |encoding: &str| json!({"tls.crt": {"from": "CRT"}, "tls.key": {"from": "KEY", "encoding": encoding}});
    let spec = |type_: &str, encoding: &str| {
        spec_with_secret(&w, json!({"type": type_, "files": files(encoding)}))
    };
    let tls = "kubernetes.io/tls";
    w.apply_binding("b", &spec(tls, "Base64")).await?;
    let condition = w.until_not_ready("b", "SecretTypeIncomplete").await?;
    ensure!(
        condition.message.contains("the Secret has no tls.key"),
        "{}",
        condition.message
    );
    w.apply_binding("b", &spec(tls, "Plain")).await?;
    w.until_ready("b").await?;
    let type_of = async |name: &str| Ok::<_, kube::Error>(w.secrets().get(name).await?.type_);
    ensure!(type_of("b-files").await?.as_deref() == Some(tls));
    ensure!(type_of("b").await?.as_deref() == Some("Opaque"));

    // Kubernetes refuses another type; the message says what to do, and that helps.
    let uid = w.secrets().get("b-files").await?.uid();
    w.apply_binding("b", &spec("Opaque", "Plain")).await?;
    let condition = w.until_not_ready("b", "SecretWrongType").await?;
    ensure!(
        condition.message.contains("Secret b-files")
            && condition.message.contains("delete the Secret"),
        "{}",
        condition.message
    );
    ensure!(w.secrets().get("b-files").await?.uid() == uid);
    w.secrets()
        .delete("b-files", &DeleteParams::default())
        .await?;
    w.until_ready("b").await?;
    ensure!(type_of("b-files").await?.as_deref() == Some("Opaque"));
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn never_overwrites_a_foreign_secret_with_files() -> Result<()> {
    let w = World::start("secret-files-foreign").await?;
    w.set_doppler_secret("A", &secret("a"));
    create_foreign_secret(&w, "b-files", json!({})).await?;
    let files: Value = json!({"a.txt": {"from": "A"}});
    w.apply_binding("b", &spec_with_secret(&w, json!({"files": files})))
        .await?;
    let condition = w.until_not_ready("b", "SecretForeign").await?;
    ensure!(
        condition.message.contains("Secret b-files exists"),
        "{}",
        condition.message
    );
    ensure!(content(&w, "b-files").await?.contains_key("MINE"));
    w.until_values("b", &pairs(&[("A", secret("a"))])).await?;
    w.secrets()
        .delete("b-files", &DeleteParams::default())
        .await?;
    w.until_ready("b").await?;
    until_file(&w, "b-files", "a.txt", &secret("a")).await?;
    w.finish().await
}
