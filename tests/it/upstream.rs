//! Prefect and Doppler when they are not as they should be: what is said, what stays in force, and that it heals by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::doppler::{Call, Doppler, Fault, RateLimit};
use testkit::kubernetes;
use testkit::network::Network;
use testkit::prefect::{Block, PrefectOptions, PrefectServer};
use wiremock::matchers::{any, header, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::world::{Setup, World, pairs, secret};

/// The value that every world of this chapter starts with.
fn good() -> BTreeMap<String, String> {
    pairs(&[("A", secret("good"))])
}

/// Requests with this token.
fn with(token: &str) -> impl Fn(&Call) -> bool + Send + Sync + 'static {
    let token = token.to_owned();
    move |call| call.is_with(&token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_read_in_every_shape_that_people_have() -> Result<()> {
    let w = World::start("up-shapes").await?;
    w.set("A", &secret("good"));
    let (name, token) = (w.name.as_str(), w.token.as_str());
    let slug = |what: &str| format!("{name}-{what}");
    w.api
        .put_block(&slug("object"), &Block::object(name, "dev", token))
        .await?;
    w.api
        .put_block(&slug("string"), &Block::json_string(name, "dev", token))
        .await?;
    w.api
        .put_block(&slug("ui"), &Block::ui_wrapper(name, "dev", token))
        .await?;
    w.api
        .put_block(
            &slug("class"),
            &Block::class(&slug("class"), name, "dev", token),
        )
        .await?;
    w.api
        .put_block(
            &slug("parent"),
            &Block::parent(&slug("parent"), &slug("object")),
        )
        .await?;
    let deep = json!({"other": {"project": "x", "config": "y", "access_token": "z"},
        "mine": {"project": name, "config": "dev", "access_token": token}});
    w.api.put_block(&slug("deep"), &Block::Secret(deep)).await?;
    let blocks = [
        ("object", json!({"name": slug("object")})),
        ("string", json!({"name": slug("string")})),
        ("ui", json!({"name": slug("ui")})),
        (
            "class",
            json!({"name": slug("class"), "typeSlug": slug("class")}),
        ),
        (
            "parent",
            json!({"name": slug("parent"), "typeSlug": slug("parent")}),
        ),
        (
            "deep",
            json!({"name": slug("deep"), "pointer": "/value/mine"}),
        ),
    ];
    for (binding, block) in &blocks {
        let mut spec = w.spec();
        spec["prefect"]["block"] = block.clone();
        w.bind(binding, &spec).await?;
    }
    for (binding, _) in &blocks {
        w.until_ready(binding).await?;
        w.until_values(binding, &good()).await?;
    }
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_cannot_work_says_so_and_is_noticed_once_it_does() -> Result<()> {
    let w = World::start("up-block").await?;
    w.set("A", &secret("good"));
    w.api.delete_block("secret", &w.name).await?;
    w.bind("b", &w.spec()).await?;
    let said = w.until_not_ready("b", "BlockMissing").await?;
    ensure!(
        said.message.contains(&w.name) && said.message.contains("create it"),
        "{}",
        said.message
    );
    let resolved = w.condition("b", "BlockResolved").await?;
    ensure!(
        resolved.status == "False" && resolved.reason == "BlockMissing",
        "{resolved:?}"
    );
    ensure!(w.secrets().get_opt("b").await?.is_none());

    w.api
        .put_block(&w.name, &Block::Secret(json!(secret("just a string"))))
        .await?;
    w.until_not_ready("b", "BlockInvalid").await?;
    w.api
        .put_block(&w.name, &Block::object(&w.name, "dev", ""))
        .await?;
    let said = w.until_not_ready("b", "BlockIncomplete").await?;
    ensure!(said.message.contains("access_token"), "{}", said.message);
    w.api
        .put_block(&w.name, &Block::object(&w.name, "dev", &w.token))
        .await?;
    w.until_ready("b").await?;

    // Once there are good values, a block that breaks takes nothing away.
    w.api
        .put_block(&w.name, &Block::Secret(json!({"project": w.name})))
        .await?;
    w.until_condition("b", "BlockResolved", "False", "BlockIncomplete")
        .await?;
    w.until_values("b", &good()).await?;
    w.api.delete_block("secret", &w.name).await?;
    w.until_not_ready("b", "BlockMissing").await?;
    w.until_values("b", &good()).await?;
    w.api
        .put_block(&w.name, &Block::json_string(&w.name, "dev", &w.token))
        .await?;
    w.until_ready("b").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_block_is_noticed_and_told() -> Result<()> {
    let w = World::start("up-source").await?;
    w.set("A", &secret("good"));
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let token = format!("dp.st.prd.{}", secret(&w.name));
    w.doppler.add_service_token(&token, &w.name, "prd");
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.api
        .put_block(&w.name, &Block::object(&w.name, "prd", &token))
        .await?;
    w.until_values("b", &pairs(&[("A", secret("prd"))])).await?;
    let told = w.until_event("SourceChanged").await?;
    ensure!(told.contains("dev") && told.contains("prd"), "{told}");
    w.until("the status to name the new config", async || {
        let status = w.status("b").await?;
        ensure!(status["config"] == "prd", "{status}");
        Ok(())
    })
    .await?;
    w.until_ready("b").await?;
    ensure!(w.events("SourceChanged").await?.len() == 1);
    w.end().await
}

/// A Prefect server that answers what a real one cannot be made to answer, by the name of the block.
async fn odd_prefect(doppler_token: &str) -> MockServer {
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
async fn every_odd_answer_of_a_prefect_server_has_its_reason_and_none_is_shown() -> Result<()> {
    let w = World::start("up-odd").await?;
    let server = odd_prefect(&w.token).await;
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
        let prefect = json!({"server": {"remoteApiUrl": server.uri(), "apiKey": key}, "block": {"name": name}});
        w.bind(
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
            "a Secret from {name}"
        );
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    ensure!(w.downloads() == 0, "a token was used");
    // Nobody followed the redirect.
    server.verify().await;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_api_key_and_a_rotated_token_are_noticed_without_touching_the_binding()
-> Result<()> {
    let w = World::with("up-rotated", Setup::without_polls()).await?;
    w.set("A", &secret("good"));
    w.doppler.add_account_token(&w.token);
    w.doppler.set("p", "c", "A", &secret("good"));
    let server = odd_prefect(&w.token).await;
    let key = json!({"valueFrom": {"secretKeyRef": {"name": "api-key", "key": "token"}}});
    let tenant = json!({"name": "X-Tenant", "value": "t"});
    let prefect = json!({"server": {"remoteApiUrl": server.uri(), "apiKey": key, "headers": [tenant]}, "block": {"name": "guarded"}});
    w.bind(
        "by-key",
        &json!({"prefect": prefect, "doppler": {"host": w.doppler.url()}}),
    )
    .await?;
    let said = w.until_not_ready("by-key", "ReferenceMissing").await?;
    ensure!(said.message.contains("api-key"), "{}", said.message);
    w.put_token("api-key", &secret("old")).await?;
    w.until_not_ready("by-key", "PrefectUnauthorized").await?;
    w.put_token("api-key", &format!("{}\n", secret("pnu")))
        .await?;
    w.until_ready("by-key").await?;
    w.until_values("by-key", &good()).await?;

    let spec = w.direct_spec().await?;
    w.put_token("token", &format!("dp.st.dev.{}", secret("revoked")))
        .await?;
    w.bind("by-token", &spec).await?;
    w.until_not_ready("by-token", "DopplerUnauthorized").await?;
    let generation = w.binding("by-token").await?.metadata.generation;
    w.put_token("token", &w.token).await?;
    w.until_ready("by-token").await?;
    ensure!(w.binding("by-token").await?.metadata.generation == generation);
    w.until_values("by-token", &good()).await?;

    // A Secret that goes takes nothing away; a key in a ConfigMap is as good.
    w.delete_secret("token").await?;
    w.until_not_ready("by-token", "ReferenceMissing").await?;
    w.until_values("by-token", &good()).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_basic_auth_and_csrf_protection_is_read_and_its_pool_patched() -> Result<()> {
    let auth = format!("admin:{}", secret("pass"));
    let options = PrefectOptions {
        auth: Some(auth.clone()),
        csrf: true,
        ..PrefectOptions::default()
    };
    let (w, server) = tokio::join!(World::start("up-csrf"), PrefectServer::start(options));
    let (w, server) = (w?, server?);
    w.set("A", &secret("good"));
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
    w.bind("b", &spec).await?;
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
    w.unbind("b").await?;
    w.until_unbound("b").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_base_url_is_told_from_a_missing_block() -> Result<()> {
    let w = World::start("up-url").await?;
    let mut spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("{}/nowhere", w.prefect.api_url()));
    w.bind("wrong", &spec).await?;
    let said = w.until_not_ready("wrong", "PrefectWrongUrl").await?;
    ensure!(said.message.contains("/api"), "{}", said.message);
    let [port] = testkit::ports::free()?;
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("http://127.0.0.1:{port}/api"));
    w.bind("nobody", &spec).await?;
    w.until_not_ready("nobody", "PrefectUnreachable").await?;
    // What the manual says of `/api`: it is appended if it is missing.
    w.set("A", &secret("good"));
    spec["prefect"]["server"]["remoteApiUrl"] = json!(w.prefect.api_url().trim_end_matches("/api"));
    w.bind("short", &spec).await?;
    w.until_ready("short").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_allowed_is_sent_nothing() -> Result<()> {
    let w = World::start("up-hosts").await?;
    let thief = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200))
        .mount(&thief)
        .await;
    // The same server under a name that the flags do not list, and forms that are always refused.
    let named = format!("http://localhost:{}", thief.address().port());
    let doppler_hosts = [
        named.clone(),
        format!("https://localhost:{}", thief.address().port()),
        format!(
            "http://user:{}@127.0.0.1:{}",
            secret("pw"),
            thief.address().port()
        ),
        "http://169.254.169.254".to_owned(),
    ];
    let mut spec = w.spec();
    for (number, host) in doppler_hosts.iter().enumerate() {
        spec["doppler"]["host"] = json!(host);
        w.bind(&format!("doppler-{number}"), &spec).await?;
    }
    spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("{named}/api"));
    spec["prefect"]["server"]["apiKey"] = json!({"value": secret("pnu")});
    w.bind("prefect", &spec).await?;
    for number in 0..doppler_hosts.len() {
        w.until_not_ready(&format!("doppler-{number}"), "HostNotAllowed")
            .await?;
    }
    let said = w.until_not_ready("doppler-0", "HostNotAllowed").await?;
    ensure!(
        said.message.contains("--allowed-doppler-host"),
        "{}",
        said.message
    );
    let said = w.until_not_ready("prefect", "HostNotAllowed").await?;
    ensure!(
        said.message.contains("--allowed-prefect-host"),
        "{}",
        said.message
    );
    let received = thief.received_requests().await.context("no record")?;
    ensure!(
        received.is_empty(),
        "{} requests were sent there",
        received.len()
    );
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_told_at_once_and_the_last_good_values_stay() -> Result<()> {
    let w = World::start("up-refused").await?;
    w.set("A", &secret("good"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    // `--stale-after` is five minutes here: this does not wait for it.
    w.doppler.revoke(&w.token);
    let said = w.until_not_ready("b", "DopplerUnauthorized").await?;
    ensure!(
        said.message.contains("last good values"),
        "{}",
        said.message
    );
    let synced = w.condition("b", "SecretSynced").await?;
    ensure!(
        synced.status == "False" && synced.reason == "DopplerUnauthorized",
        "{synced:?}"
    );
    let resolved = w.condition("b", "BlockResolved").await?;
    ensure!(resolved.status == "True", "{resolved:?}");
    w.until_event("DopplerUnauthorized").await?;
    w.until_values("b", &good()).await?;
    // The Secret is still looked after.
    w.delete_secret("b").await?;
    w.until_values("b", &good()).await?;

    let token = format!("dp.st.dev.{}", secret("renewed"));
    w.doppler.add_service_token(&token, &w.name, "dev");
    w.set("A", &secret("renewed"));
    w.api
        .put_block(&w.name, &Block::object(&w.name, "dev", &token))
        .await?;
    w.until_values("b", &pairs(&[("A", secret("renewed"))]))
        .await?;
    w.until_ready("b").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_config_and_a_token_for_another_one_delete_nothing() -> Result<()> {
    let w = World::start("up-missing").await?;
    w.set("A", &secret("good"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.doppler.remove_config(&w.name, "dev");
    let said = w.until_not_ready("b", "ConfigMissing").await?;
    ensure!(
        said.message.contains(&w.name) && said.message.contains("dev"),
        "{}",
        said.message
    );
    w.until_values("b", &good()).await?;
    w.set("A", &secret("good"));
    w.until_ready("b").await?;

    // The block's token is one for `dev`.
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let mut spec = w.spec();
    spec["doppler"]["config"] = json!("prd");
    w.bind("b", &spec).await?;
    w.until_not_ready("b", "DopplerForbidden").await?;
    w.until_values("b", &good()).await?;
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_values_is_refused_until_the_next_poll_says_the_same() -> Result<()> {
    let w = World::start("up-empty").await?;
    w.set("A", &secret("good"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    // Once: a slip of the other side.
    w.doppler
        .fault_times(1, with(&w.token), Fault::empty_object());
    w.until_event("EmptyAnswer").await?;
    w.until_polls("same", 1).await?;
    w.until_values("b", &good()).await?;
    w.until_ready("b").await?;
    // Twice in a row: it is meant.
    let fault = w.doppler.fault(with(&w.token), Fault::empty_object());
    w.until("an empty Secret", async || {
        let data = w.secrets().get("b").await?.data.unwrap_or_default();
        ensure!(data.is_empty(), "{} keys", data.len());
        Ok(())
    })
    .await?;
    let calls = w.doppler.downloads().into_iter().filter(with(&w.token));
    let refused = calls
        .rev()
        .take_while(|call| call.status == Some(200))
        .count();
    ensure!(refused >= 2, "it was believed after {refused} answer");
    w.until_ready("b").await?;
    w.doppler.end_fault(fault);
    w.until_values("b", &good()).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_failure_changes_nothing_and_heals() -> Result<()> {
    let w = World::start("up-passing").await?;
    w.set("A", &secret("good"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_polls("same", 1).await?;
    let before = w.binding("b").await?.metadata.resource_version;
    let writes = w.writes(None).await?;
    let fault = w.doppler.fault(
        with(&w.token),
        Fault::Error(503, secret("Service Unavailable")),
    );
    w.until_polls("DopplerUnreachable", 3).await?;
    ensure!(
        w.binding("b").await?.metadata.resource_version == before,
        "the status was written: {:?}",
        w.condition("b", "Ready").await
    );
    ensure!(w.writes(None).await? == writes);
    w.until_values("b", &good()).await?;
    w.doppler.end_fault(fault);
    w.set("A", &secret("after"));
    w.until_values("b", &pairs(&[("A", secret("after"))]))
        .await?;
    w.until_ready("b").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lasting_failure_of_doppler_is_told_and_keeps_the_last_good_values() -> Result<()> {
    let w = World::with(
        "up-lasting",
        Setup::default().args(&["--stale-after", "3s", "--doppler-timeout", "1s"]),
    )
    .await?;
    let page = Fault::not_json();
    let leak = Fault::Answer(
        500,
        "application/json".to_owned(),
        json!({"messages": [secret("leak")], "success": false})
            .to_string()
            .into_bytes(),
    );
    let mixed = Fault::Answer(
        200,
        "application/json".to_owned(),
        json!({"A": {"nested": secret("n")}, "B": secret("b")})
            .to_string()
            .into_bytes(),
    );
    let cases = [
        ("fault", leak, "DopplerUnreachable"),
        ("hang", Fault::Hang, "DopplerUnreachable"),
        ("close", Fault::Close, "DopplerUnreachable"),
        ("cut", Fault::Truncate(9), "DopplerUnreachable"),
        (
            "slow",
            Fault::Delay(Duration::from_secs(5)),
            "DopplerUnreachable",
        ),
        ("page", page, "DopplerError"),
        ("mixed", mixed, "DopplerError"),
        (
            "redirect",
            Fault::Redirect("http://127.0.0.1:1/".to_owned()),
            "DopplerError",
        ),
        ("huge", Fault::Huge(20 << 20), "AnswerTooLarge"),
    ];
    let token = |case: &str| format!("dp.st.{case}.{}", secret(&w.name));
    for (case, ..) in &cases {
        w.doppler.set(&w.name, case, "A", &secret("good"));
        w.doppler.add_service_token(&token(case), &w.name, case);
        w.put_token(&format!("{case}-token"), &token(case)).await?;
        let mut spec = w.direct_spec().await?;
        spec["doppler"]["config"] = json!(case);
        spec["doppler"]["accessToken"]["valueFrom"]["secretKeyRef"]["name"] =
            json!(format!("{case}-token"));
        w.bind(case, &spec).await?;
    }
    for (case, ..) in &cases {
        w.until_ready(case).await?;
        w.until_values(case, &good()).await?;
    }
    let mut planned = Vec::new();
    for (case, fault, _) in &cases {
        // A value that the answer would bring if the fault did not take it: without, 304 has no body to be cut.
        w.doppler.set(&w.name, case, "A", &secret("after"));
        planned.push(w.doppler.fault(with(&token(case)), fault.clone()));
    }
    let mut faults = Vec::new();
    for (case, _, reason) in &cases {
        if let Err(error) = w.until_not_ready(case, reason).await {
            faults.push(format!("{case}: {error:#}"));
        }
        let kept = w.values(case).await?;
        // The fault came after the change, so one poll may have been between them.
        ensure!(
            kept == good() || kept == pairs(&[("A", secret("after"))]),
            "{case} has lost its values"
        );
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    for fault in planned {
        w.doppler.end_fault(fault);
    }
    for (case, ..) in &cases {
        w.until_within(
            Duration::from_secs(90),
            &format!("{case} to heal"),
            async || {
                let ready = w.condition(case, "Ready").await?;
                ensure!(ready.status == "True", "{ready:?}");
                Ok(())
            },
        )
        .await?;
        w.until_values(case, &pairs(&[("A", secret("after"))]))
            .await?;
    }
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefect_server_that_dies_takes_nothing_away() -> Result<()> {
    let network = Network::start()?;
    let setup = Setup {
        env: network.env(),
        ..Setup::default()
    }
    .args(&["--stale-after", "3s", "--prefect-timeout", "1s"]);
    let w = World::with("up-dies", setup).await?;
    // In the cluster, by name, as in the smallest binding; its traffic goes through the network's proxy.
    let host = format!("prefect-server.{}.svc:4200", w.name);
    network.route(&host, ([127, 0, 0, 1], w.prefect.port()).into());
    w.set("A", &secret("good"));
    let mut spec = w.spec();
    spec["prefect"]["server"] = json!({"name": "prefect-server"});
    w.bind("b", &spec).await?;
    w.until_ready("b").await?;
    network.cut(&host);
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
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_respected_before_it_is_hit() -> Result<()> {
    let w = World::start("up-limit").await?;
    // A Doppler of its own, since a limit is for all who use it.
    let doppler = Doppler::start()?;
    let window = Duration::from_secs(5);
    doppler.limit(RateLimit {
        secret_reads: 2,
        reads: 10,
        window,
    });
    doppler.add_service_token(&w.token, &w.name, "dev");
    doppler.set(&w.name, "dev", "A", &secret("good"));
    let mut spec = w.spec();
    spec["doppler"]["host"] = json!(doppler.url());
    w.bind("b", &spec).await?;
    w.until_ready("b").await?;
    w.until("six downloads", async || {
        let count = doppler.downloads().len();
        ensure!(count >= 6, "{count} so far");
        Ok(())
    })
    .await?;
    ensure!(
        doppler.counts().status(429) == 0,
        "it ran into the limit: {:?}",
        doppler.counts()
    );
    let calls = doppler.downloads();
    ensure!(
        calls[5].at - calls[0].at >= window,
        "six downloads within {:?}",
        calls[5].at - calls[0].at
    );
    ensure!(
        w.condition("b", "Ready").await?.status == "True",
        "a limit is no failure of the binding"
    );

    // A refusal that comes without warning is respected as well.
    doppler.limit(RateLimit {
        secret_reads: 1000,
        reads: 1000,
        window,
    });
    let more = doppler.downloads().len();
    doppler.fault_times(
        1,
        Call::is_download,
        Fault::Error(429, "Exceeded rate limit".to_owned()),
    );
    doppler.set(&w.name, "dev", "A", &secret("after"));
    w.until_values("b", &pairs(&[("A", secret("after"))]))
        .await?;
    ensure!(
        doppler.counts().status(429) == 1,
        "{:?} in {} more",
        doppler.counts(),
        doppler.downloads().len() - more
    );
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_already_there_outlive_a_restart_without_upstreams() -> Result<()> {
    let mut w = World::with(
        "up-restart",
        Setup::default().args(&["--stale-after", "2s"]),
    )
    .await?;
    w.set("A", &secret("good"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.stop_operator().await?;
    let fault = w.doppler.fault(with(&w.token), Fault::Close);
    w.start_operator().await?;
    w.until_not_ready("b", "DopplerUnreachable").await?;
    w.until_values("b", &good()).await?;
    w.doppler.end_fault(fault);
    w.until_within(Duration::from_secs(90), "recovery", async || {
        ensure!(w.condition("b", "Ready").await?.status == "True");
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_slipped_past_the_rules_is_its_own_error_and_nobody_elses() -> Result<()> {
    let w = World::start("up-invalid").await?;
    w.set("A", &secret("good"));
    let mut spec = w.spec();
    spec["doppler"]["include"] = json!(["[A-"]);
    w.bind("bad-glob", &spec).await?;
    w.bind("good", &w.spec()).await?;
    w.until_ready("good").await?;
    let said = w.until_not_ready("bad-glob", "InvalidSpec").await?;
    ensure!(said.message.contains("[A-"), "{}", said.message);
    kubernetes::delete(&w.client, &w.name, &json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": {"name": "bad-glob"},
    }).to_string()).await?;
    w.until_unbound("bad-glob").await?;
    w.end().await
}
