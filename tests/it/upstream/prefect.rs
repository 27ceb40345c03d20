//! Prefect servers: unexpected responses, rotated credentials, CSRF protection, and an outage.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::network::Network;
use testkit::prefect::{Block, PrefectOptions, PrefectServer};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::good;
use crate::work_pools::template;
use crate::world::{Setup, World, secret};

/// A Prefect server with responses that a real one does not send on request, selected by the name
/// of the block.
async fn unusual_prefect(doppler_token: &str) -> MockServer {
    let server = MockServer::start().await;
    let block = |name: &str| {
        path(format!(
            "/api/block_types/slug/secret/block_documents/name/{name}"
        ))
    };
    let data = |token: &str| json!({"id": "0", "name": "x", "data": {"value": {"project": "p", "config": "c", "access_token": token}}});
    let answers = [
        (
            "masked",
            ResponseTemplate::new(200).set_body_json(data("********")),
        ),
        (
            "masked-whole",
            ResponseTemplate::new(200).set_body_json(json!({"data": {"value": "********"}})),
        ),
        (
            "unauthorized",
            ResponseTemplate::new(401)
                .set_body_json(json!({"exception_message": secret("Unauthorized")})),
        ),
        (
            "forbidden",
            ResponseTemplate::new(403).set_body_json(json!({"detail": secret("Forbidden")})),
        ),
        (
            "limited",
            ResponseTemplate::new(429).insert_header("retry-after", "120"),
        ),
        (
            "fault",
            ResponseTemplate::new(500).set_body_string(secret("Traceback")),
        ),
        (
            "redirect",
            ResponseTemplate::new(307)
                .insert_header("location", format!("{}/elsewhere", server.uri())),
        ),
        (
            "page",
            ResponseTemplate::new(200).set_body_string(secret("<html>Sign in</html>")),
        ),
        (
            "echo",
            ResponseTemplate::new(422)
                .set_body_json(json!({"detail": "bad", "request_body": secret("echo")})),
        ),
        (
            "not-found",
            ResponseTemplate::new(404).set_body_json(json!({"detail": "Not Found"})),
        ),
        (
            "huge",
            ResponseTemplate::new(200).set_body_string("x".repeat(20 << 20)),
        ),
    ];
    for (name, answer) in answers {
        Mock::given(block(name))
            .respond_with(answer)
            .mount(&server)
            .await;
    }
    let guarded = ResponseTemplate::new(200).set_body_json(data(doppler_token));
    let key = format!("Bearer {}", secret("pnu"));
    let guarded = Mock::given(block("guarded"))
        .and(header("authorization", &*key))
        .and(header("x-tenant", "t"))
        .respond_with(guarded);
    guarded.mount(&server).await;
    Mock::given(block("guarded"))
        .respond_with(ResponseTemplate::new(401))
        .with_priority(9)
        .mount(&server)
        .await;
    Mock::given(path("/elsewhere"))
        .respond_with(ResponseTemplate::new(200).set_body_json(data("stolen")))
        .named("the redirect")
        .expect(0)
        .mount(&server)
        .await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn every_unexpected_prefect_response_has_its_reason() -> Result<()> {
    let w = World::start("up-unusual").await?;
    let server = unusual_prefect(&w.token).await;
    // The operator pauses all requests to a server after a 429, so this case has its own server.
    let limiting = unusual_prefect(&w.token).await;
    let cases = [
        ("masked", "BlockMasked"),
        ("masked-whole", "BlockMasked"),
        ("unauthorized", "PrefectUnauthorized"),
        ("forbidden", "PrefectForbidden"),
        ("limited", "PrefectRateLimited"),
        ("fault", "PrefectUnreachable"),
        ("redirect", "PrefectWrongUrl"),
        ("page", "PrefectWrongUrl"),
        ("echo", "PrefectError"),
        ("not-found", "PrefectWrongUrl"),
        ("huge", "AnswerTooLarge"),
    ];
    for (name, _) in cases {
        let key = json!({"value": secret("pnu")});
        let uri = match name {
            "limited" => limiting.uri(),
            _ => server.uri(),
        };
        let prefect =
            json!({"server": {"remoteApiUrl": uri, "apiKey": key}, "block": {"name": name}});
        w.apply_binding(
            name,
            &json!({"prefect": prefect, "doppler": {"host": w.doppler.url()}}),
        )
        .await?;
    }
    let mut faults = Vec::new();
    for (name, reason) in cases {
        match w
            .until_within(Duration::from_secs(20), name, async || {
                let ready = w.condition(name, "Ready").await?;
                ensure!(
                    ready.status == "False" && ready.reason == reason,
                    "{}={} ({}): {}",
                    ready.kind,
                    ready.status,
                    ready.reason,
                    ready.message
                );
                ensure!(ready.message.len() > 20, "{}", ready.message);
                Ok(())
            })
            .await
        {
            Ok(()) => {}
            Err(error) => faults.push(format!("not {reason}: {error:#}")),
        }
        ensure!(
            w.secrets().get_opt(name).await?.is_none(),
            "{name} has a Secret"
        );
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    ensure!(w.downloads() == 0, "a token was used");
    // The redirect was not followed.
    server.verify().await;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_credentials_are_used_without_touching_the_binding() -> Result<()> {
    let w = World::with("up-rotated", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("good"));
    w.doppler.add_account_token(&w.token);
    w.doppler.set("p", "c", "A", &secret("good"));
    let server = unusual_prefect(&w.token).await;
    let key = json!({"valueFrom": {"secretKeyRef": {"name": "api-key", "key": "token"}}});
    let tenant = json!({"name": "X-Tenant", "value": "t"});
    let prefect = json!({"server": {"remoteApiUrl": server.uri(), "apiKey": key, "headers": [tenant]}, "block": {"name": "guarded"}});
    w.apply_binding(
        "by-key",
        &json!({"prefect": prefect, "doppler": {"host": w.doppler.url()}}),
    )
    .await?;
    let ready = w.until_not_ready("by-key", "ReferenceMissing").await?;
    ensure!(ready.message.contains("api-key"), "{}", ready.message);
    w.put_token("api-key", &secret("old")).await?;
    w.until_not_ready("by-key", "PrefectUnauthorized").await?;
    w.put_token("api-key", &format!("{}\n", secret("pnu")))
        .await?;
    w.until_ready("by-key").await?;
    w.until_values("by-key", &good()).await?;

    let spec = w.direct_spec().await?;
    w.put_token("token", &format!("dp.st.dev.{}", secret("revoked")))
        .await?;
    w.apply_binding("by-token", &spec).await?;
    w.until_not_ready("by-token", "DopplerUnauthorized").await?;
    let generation = w.binding("by-token").await?.metadata.generation;
    w.put_token("token", &w.token).await?;
    w.until_ready("by-token").await?;
    ensure!(w.binding("by-token").await?.metadata.generation == generation);
    w.until_values("by-token", &good()).await?;

    // A key from a ConfigMap is watched as well.
    let map = |value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "keys"}, "data": {"key": value}}).to_string()
    };
    w.apply(&map("old")).await?;
    let key = json!({"valueFrom": {"configMapKeyRef": {"name": "keys", "key": "key"}}});
    let prefect = json!({"server": {"remoteApiUrl": server.uri(), "apiKey": key, "headers": [tenant]}, "block": {"name": "guarded"}});
    w.apply_binding(
        "by-map",
        &json!({"prefect": prefect, "doppler": {"host": w.doppler.url()}}),
    )
    .await?;
    w.until_not_ready("by-map", "PrefectUnauthorized").await?;
    w.apply(&map(&secret("pnu"))).await?;
    w.until_ready("by-map").await?;

    // Deleting a referenced Secret keeps the last good values.
    w.delete_secret("token").await?;
    w.until_not_ready("by-token", "ReferenceMissing").await?;
    w.until_values("by-token", &good()).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_patches_server_with_basic_auth_and_csrf() -> Result<()> {
    let auth = format!("admin:{}", secret("pass"));
    let options = PrefectOptions {
        auth: Some(auth.clone()),
        csrf: true,
        // Tokens expire long before the operator renews them by itself.
        env: vec![(
            "PREFECT_SERVER_CSRF_TOKEN_EXPIRATION".to_owned(),
            "PT2S".to_owned(),
        )],
        ..PrefectOptions::default()
    };
    let (w, server) = tokio::join!(World::start("up-csrf"), PrefectServer::start(options));
    let (w, server) = (w?, server?);
    w.set_doppler_secret("A", &secret("good"));
    let api = server.api()?;
    api.put_block("guarded", &Block::object(&w.name, "dev", &w.token))
        .await?;
    let mut template = testkit::prefect::kubernetes_template()?;
    template["variables"]["properties"]["namespace"]["default"] = json!(w.name);
    api.create_pool("guarded", "kubernetes", Some(template))
        .await?;
    let basic = json!({"valueFrom": {"secretKeyRef": {"name": "prefect-auth", "key": "token"}}});
    let spec = json!({
        "prefect": {"server": {"remoteApiUrl": server.api_url(), "basicAuth": basic}, "block": {"name": "guarded"}},
        "doppler": {"host": w.doppler.url()},
        "inject": {"workPools": [{"name": "guarded"}]},
    });
    w.put_token("prefect-auth", "admin:wrong").await?;
    w.apply_binding("b", &spec).await?;
    w.until_not_ready("b", "PrefectUnauthorized").await?;
    w.put_token("prefect-auth", &auth).await?;
    w.until_ready("b").await?;
    w.until_values("b", &good()).await?;
    let mut template = api.template("guarded").await?;
    let entries = testkit::prefect::env_from(&mut template)?.clone();
    ensure!(
        entries == [json!({"secretRef": {"name": "b", "optional": true}})],
        "{entries:?}"
    );
    // Each fifth read of a pool lists its deployments by POST. By then the token has expired and
    // must be renewed.
    let listed = w.reads("prefect", "deployments-read").await?;
    w.until("deployments to be listed with a new token", async || {
        let now = w.reads("prefect", "deployments-read").await?;
        ensure!(now >= listed + 2, "{} so far", now - listed);
        Ok(())
    })
    .await?;
    ensure!(
        w.reads("prefect", "PrefectError").await? == 0,
        "the operator failed after an expired token"
    );
    w.delete_binding("b").await?;
    w.until_binding_deleted("b").await?;
    w.finish().await
}

/// The Doppler stand-in answers here, with its certificate. A client that trusts it finds that the
/// server is not Prefect.
#[tokio::test(flavor = "multi_thread")]
async fn ca_bundle_is_trusted_and_reloaded() -> Result<()> {
    let network = Network::start()?;
    let setup = Setup {
        env: network.env(),
        ..Setup::without_polls()
    };
    let w = World::with(
        "up-ca",
        setup.args(&["--allowed-prefect-host", "api.doppler.com"]),
    )
    .await?;
    network.route("api.doppler.com:443", w.doppler.tls_addr());
    let map = |pem: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trust"}, "data": {"ca.crt": pem}});
    let reference = json!({"valueFrom": {"configMapKeyRef": {"name": "trust", "key": "ca.crt"}}});
    let prefect = json!({"server": {"remoteApiUrl": "https://api.doppler.com", "caBundle": reference}, "block": {"name": "b"}});
    w.apply(&map("no certificate").to_string()).await?;
    w.apply_binding("b", &json!({"prefect": prefect})).await?;
    w.until_not_ready("b", "ReferenceInvalid").await?;
    w.apply(&map(w.plane.ca_pem()).to_string()).await?;
    let ready = w.until_not_ready("b", "PrefectUnreachable").await?;
    ensure!(ready.message.contains("certificate"), "{}", ready.message);
    w.apply(&map(w.doppler.ca_pem()).to_string()).await?;
    w.until_not_ready("b", "PrefectWrongUrl").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_403_has_its_reason_and_the_secret_is_still_synced() -> Result<()> {
    let w = World::start("up-403").await?;
    w.set_doppler_secret("A", &secret("good"));
    let server = MockServer::start().await;
    let block = |name: &str| {
        path(format!(
            "/api/block_types/slug/secret/block_documents/name/{name}"
        ))
    };
    let refused = || ResponseTemplate::new(403).set_body_json(json!({"detail": "Forbidden"}));
    let data =
        json!({"data": {"value": {"project": w.name, "config": "dev", "access_token": w.token}}});
    let pool = json!({"name": "k8s", "type": "kubernetes", "base_job_template": serde_json::from_str::<Value>(&template(&w.name))?});
    let answers = [
        Mock::given(block("readable")).respond_with(ResponseTemplate::new(200).set_body_json(data)),
        Mock::given(block("hidden")).respond_with(refused()),
        Mock::given(path("/api/csrf-token")).respond_with(ResponseTemplate::new(422)),
        Mock::given(path("/api/deployments/filter")).respond_with(refused()),
        Mock::given(path("/api/work_pools/k8s"))
            .and(method("GET"))
            .respond_with(ResponseTemplate::new(200).set_body_json(pool)),
        Mock::given(path("/api/work_pools/k8s"))
            .and(method("PATCH"))
            .respond_with(refused()),
    ];
    for answer in answers {
        answer.mount(&server).await;
    }
    let spec = |block: &str, optional: bool| {
        json!({
            "prefect": {"server": {"remoteApiUrl": server.uri()}, "block": {"name": block}},
            "doppler": {"host": w.doppler.url()},
            "inject": {"workPools": [{"name": "k8s", "optional": optional}]},
        })
    };
    w.apply_binding("hidden", &spec("hidden", true)).await?;
    w.apply_binding("uneditable", &spec("readable", true))
        .await?;
    w.apply_binding("unlisted", &spec("readable", false))
        .await?;
    let ready = w.until_not_ready("hidden", "PrefectForbidden").await?;
    ensure!(
        ready.message.contains("View secret block data"),
        "{}",
        ready.message
    );
    for (binding, permission) in [
        ("uneditable", "Edit work pools"),
        ("unlisted", "View deployments"),
    ] {
        let ready = w.until_not_ready(binding, "PoolForbidden").await?;
        ensure!(ready.message.contains(permission), "{}", ready.message);
        w.until_condition(binding, "SecretSynced", "True", "Synced")
            .await?;
        w.until_values(binding, &good()).await?;
        w.until_pool(binding, "k8s", "Forbidden").await?;
        // The pool has no entry of the binding, so no cleanup is pending.
        w.delete_binding(binding).await?;
        w.until_binding_deleted(binding).await?;
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_values_when_the_prefect_server_is_down() -> Result<()> {
    let network = Network::start()?;
    let setup = Setup {
        env: network.env(),
        ..Setup::default()
    }
    .args(&["--stale-after", "3s", "--prefect-timeout", "1s"]);
    let w = World::with("up-outage", setup).await?;
    // A server in the cluster, by name, as in the smallest example. The network's proxy routes its
    // traffic.
    let host = format!("prefect-server.{}.svc:4200", w.name);
    network.route(&host, ([127, 0, 0, 1], w.prefect.port()).into());
    w.set_doppler_secret("A", &secret("good"));
    let mut spec = w.spec();
    w.create_service("prefect-server").await?;
    spec["prefect"]["server"] = json!({"name": "prefect-server"});
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    network.disconnect(&host);
    w.until_condition("b", "BlockResolved", "False", "PrefectUnreachable")
        .await?;
    w.until_not_ready("b", "PrefectUnreachable").await?;
    w.until_values("b", &good()).await?;
    network.hang(&host);
    w.delete_secret("b").await?;
    w.until_values("b", &good()).await?;
    network.route(&host, ([127, 0, 0, 1], w.prefect.port()).into());
    w.until_within(Duration::from_secs(90), "recovery", async || {
        let ready = w.condition("b", "Ready").await?;
        ensure!(ready.status == "True", "{ready:?}");
        Ok(())
    })
    .await?;
    w.finish().await
}
