//! The names of keys: what `metadata` drops, and what `rename` gives.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    check::run_check_of,
    world::{World, pairs, secret},
};

/// The reason for which the status lists `name` as excluded.
fn exclusion(status: &Value, name: &str) -> Option<String> {
    let listed = status["excludedKeys"].as_array()?;
    let found = listed.iter().find(|excluded| excluded["name"] == name)?;
    found["reason"].as_str().map(ToOwned::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_metadata_and_renames_keys() -> Result<()> {
    let w = World::start("secret-names").await?;
    for name in ["DATABASE_URL", "SQLALCHEMY_URL", "A", "B", "API_KEY"] {
        w.set_doppler_secret(name, &secret(name));
    }
    let mut spec = w.spec();
    spec["doppler"]["metadata"] = json!("Drop");
    spec["doppler"]["rename"] = json!({
        "DATABASE_URL": "SQLALCHEMY_URL", "A": "B", "B": "A", "API_KEY": "PYTHONPATH", "TYPO": "X",
    });
    let (all_ok, checked) = run_check_of(&w, "b", &spec, &[]).await?;
    ensure!(
        all_ok && checked.contains("gives 3 keys: A, B, SQLALCHEMY_URL"),
        "{checked}"
    );
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    let values = pairs(&[
        ("SQLALCHEMY_URL", secret("DATABASE_URL")),
        ("A", secret("B")),
        ("B", secret("A")),
    ]);
    w.until_values("b", &values).await?;
    let object = w.secrets().get("b").await?;
    ensure!(object.data.is_some_and(|data| data.len() == 3), "metadata");

    let status = w.status("b").await?;
    ensure!(status["keyCount"] == 3, "{status}");
    for (name, part) in [
        ("DOPPLER_PROJECT", "spec.doppler.metadata"),
        ("DOPPLER_CONFIG", "spec.doppler.metadata"),
        ("DOPPLER_ENVIRONMENT", "spec.doppler.metadata"),
        ("SQLALCHEMY_URL", "spec.doppler.rename"),
        ("PYTHONPATH", "allowReservedNames"),
    ] {
        let reason = exclusion(&status, name).unwrap_or_default();
        ensure!(reason.contains(part), "{name}: {status}");
        ensure!(
            checked.contains(&format!("excluded: {name}: ")),
            "{checked}"
        );
    }
    let note = "spec.doppler.rename has no effect on TYPO";
    let synced = w.condition("b", "SecretSynced").await?;
    ensure!(synced.message.contains(note), "{}", synced.message);
    ensure!(checked.contains(note), "{checked}");

    // Without them, the values have their own names again.
    w.apply_binding("b", &w.spec()).await?;
    let names = ["DATABASE_URL", "SQLALCHEMY_URL", "A", "B", "API_KEY"];
    let own = names.map(|name| (name, secret(name)));
    w.until_values("b", &pairs(&own)).await?;
    w.finish().await
}
