//! Names that forge lines of a log or take over a pod.
//!
//! Input: none. Output: what was seen.
//! Invariants: each case has its own operator.

use std::time::Instant;

use anyhow::{Result, ensure};
use kube::api::PostParams;
use serde_json::json;

use super::{unharmed, world, world_with};
use crate::case::Seen;
use crate::stage::token_ref;
use crate::world::{Setup, secret};

pub async fn control_characters() -> Result<Seen> {
    let world = world("tenants-names").await?;
    let start = Instant::now();
    let names = [
        "a\nINFO forged",
        "a\tb",
        "a\rb",
        "a\u{0}b",
        "a\u{1b}[31m",
        "a\u{85}b",
    ];
    for name in names {
        let mut block = world.spec();
        block["prefect"]["block"]["name"] = json!(name);
        let mut pool = world.spec();
        pool["inject"] = json!({"workPools": [{"name": name}]});
        let mut project = world.spec();
        project["doppler"]["project"] = json!(name);
        for spec in [block, pool, project] {
            // As JSON: YAML takes some of these characters for line breaks.
            let binding = serde_json::from_value(json!({
                "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
                "metadata": {"name": "attacker"}, "spec": spec,
            }))?;
            let created = world
                .bindings()
                .create(&PostParams::default(), &binding)
                .await;
            let refused = matches!(created, Err(kube::Error::Api(status)) if status.code == 422);
            ensure!(refused, "{name:?} was accepted");
        }
    }
    unharmed(
        world,
        format!("{} names in three fields are refused", names.len()),
        start,
    )
    .await
}

pub async fn reserved_names() -> Result<Seen> {
    let setup = Setup::default().args(&["--forbidden-name", "GIT_*"]);
    let world = world_with("tenants-reserved", setup).await?;
    let start = Instant::now();
    let names = [
        "PATH",
        "LD_PRELOAD",
        "PYTHONPATH",
        "OPENSSL_CONF",
        "GIT_SSH_COMMAND",
        "GCONV_PATH",
        "ENV",
        "SHELLOPTS",
        "PERL5OPT",
        "JAVA_TOOL_OPTIONS",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "KUBECONFIG",
        "PREFECT_API_URL",
    ];
    world.doppler.replace(
        &world.name,
        "taken",
        names.map(|name| (name, secret("taken"))),
    );
    world
        .doppler
        .set(&world.name, "taken", "FINE", &secret("fine"));
    let token = format!("dp.st.taken.{}", secret("reserved"));
    world
        .doppler
        .add_service_token(&token, &world.name, "taken");
    world.put_token("taken", &token).await?;
    let spec = json!({
        "doppler": {"host": world.doppler.url(), "project": world.name, "config": "taken", "accessToken": token_ref("taken")},
        // The operator's flag forbids what the binding allows.
        "managedSecret": {"allowReservedNames": ["GIT_SSH_COMMAND"]},
    });
    world.apply_binding("attacker", &spec).await?;
    world.until_ready("attacker").await?;
    let values = world.values("attacker").await?;
    ensure!(
        values == [("FINE".to_owned(), secret("fine"))].into(),
        "{:?}",
        values.keys()
    );
    let status = world.status("attacker").await?;
    let listed = status["excludedKeys"].as_array().map_or(0, Vec::len);
    ensure!(listed == names.len(), "{listed} names are listed");
    unharmed(world, format!("{listed} names are excluded"), start).await
}
