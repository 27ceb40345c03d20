//! What an author gains by the name of a Service and by the overrides of a block, in each setting of
//! the operator.
//!
//! Input: bindings of one namespace, and the operator's flags.
//! Output: which of them the operator serves, and that nothing reaches the other servers.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::grant::ensure_namespace;
use testkit::kubernetes;
use testkit::network::Network;

use crate::world::{Setup, World, pairs, secret};

/// Creates a Service.
async fn create_service(w: &World, namespace: &str, name: &str, spec: &Value) -> Result<()> {
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    kubernetes::apply(&w.client, namespace, &service.to_string()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn author_reaches_only_allowed_services() -> Result<()> {
    let network = Network::start()?;
    let (name, other) = ("up-services", "up-services-other");
    let services = format!("./*,{other}/unreadable");
    let hosts = format!("http://127.0.0.1:*,http://*.{name}.svc:4200");
    let setup = Setup {
        env: network.env(),
        ..Setup::default()
    }
    .args(&[
        "--allowed-prefect-service",
        &services,
        "--allowed-prefect-host",
        &hosts,
    ]);
    let w = World::without_operator(name, setup).await?;
    let mut w = w;
    w.set_doppler_secret("A", &secret("good"));
    ensure_namespace(&w.client, other).await?;
    let inside = json!({"ports": [{"port": 4200}]});
    let outside = json!({"type": "ExternalName", "externalName": "outside.example.com"});
    create_service(&w, name, "inside", &inside).await?;
    create_service(&w, name, "outside", &outside).await?;
    for service in ["database", "unreadable"] {
        create_service(&w, other, service, &inside).await?;
    }
    let hosts =
        ["inside", "outside", "missing"].map(|service| format!("{service}.{name}.svc:4200"));
    let others = ["database", "unreadable"].map(|service| format!("{service}.{other}.svc:4200"));
    for host in hosts.iter().chain(&others) {
        network.route(host, ([127, 0, 0, 1], w.prefect.port()).into());
    }
    w.put_token("key", &secret("pnu")).await?;
    w.start_operator().await?;

    let key = json!({"valueFrom": {"secretKeyRef": {"name": "key", "key": "token"}}});
    let cases = [
        (
            "missing",
            json!({"name": "missing"}),
            "ReferenceMissing",
            "does not exist",
        ),
        (
            "external",
            json!({"name": "outside"}),
            "HostNotAllowed",
            "ExternalName",
        ),
        (
            "external-url",
            json!({"remoteApiUrl": format!("http://{}/api", hosts[1])}),
            "HostNotAllowed",
            "ExternalName",
        ),
        (
            "not-listed",
            json!({"name": "database", "namespace": other}),
            "HostNotAllowed",
            "--allowed-prefect-service",
        ),
        (
            "unreadable",
            json!({"name": "unreadable", "namespace": other}),
            "ServiceForbidden",
            "grant it `get` on Services",
        ),
    ];
    for (binding, server, ..) in &cases {
        let mut spec = w.spec();
        spec["prefect"]["server"] = server.clone();
        spec["prefect"]["server"]["apiKey"] = key.clone();
        w.apply_binding(binding, &spec).await?;
    }
    // An allowed Service gets the Secret's value as a bearer token.
    let mut spec = w.spec();
    spec["prefect"]["server"] = json!({"name": "inside", "apiKey": key});
    w.apply_binding("inside", &spec).await?;
    w.until_ready("inside").await?;
    for (binding, _, reason, says) in &cases {
        let ready = w.until_not_ready(binding, reason).await?;
        ensure!(ready.message.contains(says), "{binding}: {}", ready.message);
    }
    ensure!(
        network.requests(&hosts[0]) > 0,
        "nothing was sent to inside"
    );
    for host in hosts[1..].iter().chain(&others) {
        let requests = network.requests(host);
        ensure!(requests == 0, "{requests} requests to {host}");
    }
    // A Service that is put right is used.
    create_service(&w, name, "missing", &inside).await?;
    w.until_ready("missing").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn block_overrides_deny_keeps_a_token_to_its_config() -> Result<()> {
    let setup = Setup::default();
    let mut w = World::without_operator("up-overrides", setup).await?;
    // The block's token can read every config.
    let token = format!("dp.pt.{}", secret("account"));
    w.doppler.add_account_token(&token);
    let name = w.name.clone();
    let block = testkit::prefect::Block::object(&name, "dev", &token);
    w.api.put_block(&name, &block).await?;
    w.set_doppler_secret("A", &secret("dev"));
    w.doppler.set(&name, "prd", "A", &secret("prd"));
    w.doppler
        .set("up-overrides-other", "dev", "A", &secret("other"));
    w.put_token("own", &token).await?;
    let spec = |doppler: &Value| {
        let mut spec = w.spec();
        for (key, value) in doppler.as_object().unwrap() {
            spec["doppler"][key] = value.clone();
        }
        spec
    };
    let own = json!({"valueFrom": {"secretKeyRef": {"name": "own", "key": "token"}}});
    let bindings = [
        ("config", spec(&json!({"config": "prd"})), "prd"),
        (
            "project",
            spec(&json!({"project": "up-overrides-other"})),
            "other",
        ),
        (
            "equal",
            spec(&json!({"config": "dev", "project": name})),
            "dev",
        ),
        (
            "own-token",
            spec(&json!({"config": "prd", "accessToken": own})),
            "prd",
        ),
    ];
    w.start_operator().await?;
    // By default, a block's token may be used for whatever it can read.
    for (binding, spec, value) in &bindings {
        w.apply_binding(binding, spec).await?;
        w.until_values(binding, &pairs(&[("A", secret(value))]))
            .await?;
    }
    w.stop_operator().await?;
    w.add_operator_env([("BLOCK_OVERRIDES".to_owned(), "deny".to_owned())]);
    w.start_operator().await?;
    for (binding, field) in [("config", "config"), ("project", "project")] {
        let ready = w.until_not_ready(binding, "OverrideNotAllowed").await?;
        let path = format!("spec.doppler.{field}");
        ensure!(ready.message.starts_with(&path), "{}", ready.message);
    }
    for binding in ["equal", "own-token"] {
        w.until_ready(binding).await?;
    }
    // What is forbidden is not read.
    w.doppler
        .set("up-overrides-other", "dev", "A", &secret("later"));
    w.doppler.set(&name, "dev", "A", &secret("later"));
    w.until_values("equal", &pairs(&[("A", secret("later"))]))
        .await?;
    w.until_values("project", &pairs(&[("A", secret("other"))]))
        .await?;
    w.finish().await
}
