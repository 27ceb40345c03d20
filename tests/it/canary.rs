//! No secret value is ever shown. This test drives errors on every edge, and searches everything
//! that the operator wrote.
//!
//! Every other test searches its operator's log, metrics, Events and statuses at its end as well.
//! This one covers the edges that they do not reach.

use anyhow::{Context, Result, ensure};
use kube::config::Kubeconfig;
use serde_json::json;
use testkit::doppler::Fault;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::world::{Setup, World, canary, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn no_error_path_shows_a_secret_value() -> Result<()> {
    let mut w = World::with("canary", Setup::default().args(&["--stale-after", "2s"])).await?;
    w.set_doppler_secret("A", &secret("good"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;

    // Doppler quotes the token and values in its errors, and truncates an answer.
    let token = w.token.clone();
    let json = |body: serde_json::Value| body.to_string().into_bytes();
    let refusal = |message: &str| {
        json(
            json!({"messages": [format!("{message} {token} {}", secret("echoed"))], "success": false}),
        )
    };
    let edges = [
        (
            Fault::Answer(
                401,
                "application/json".to_owned(),
                refusal("Invalid Auth token"),
            ),
            "DopplerUnauthorized",
        ),
        (
            Fault::Answer(
                400,
                "application/json".to_owned(),
                refusal("This token does not have access to requested config"),
            ),
            "DopplerForbidden",
        ),
        (
            Fault::Answer(
                404,
                "application/json".to_owned(),
                refusal("Could not find requested project"),
            ),
            "ConfigMissing",
        ),
        (
            Fault::Answer(
                200,
                "application/json".to_owned(),
                json(json!([secret("list")])),
            ),
            "DopplerError",
        ),
        (
            Fault::Answer(
                200,
                "application/json".to_owned(),
                format!("{{\"A\": \"{}", secret("cut")).into_bytes(),
            ),
            "DopplerError",
        ),
        (
            Fault::Redirect(format!("http://127.0.0.1:9/?token={token}")),
            "DopplerError",
        ),
    ];
    for (fault, reason) in edges {
        let mine = token.clone();
        let fault = w.doppler.fault(move |call| call.uses_token(&mine), fault);
        w.until_not_ready("b", reason)
            .await
            .with_context(|| w.log_tail())?;
        w.doppler.remove_fault(fault);
        w.until_ready("b").await?;
    }

    // Prefect's 422 echoes the request. Its block is no JSON, or has the value in the wrong place.
    let prefect = MockServer::start().await;
    let bodies = [
        (422, json!({"exception_detail": [{"input": secret("echo")}], "request_body": secret("echo")}).to_string()),
        (200, format!("{{\"data\": {{\"value\": \"{}\"", secret("cut"))),
        (200, json!({"data": {"value": [secret("list"), {"access_token": secret("token"), "project": 7}]}}).to_string()),
        (200, json!({"data": {"value": {"project": secret("p"), "config": {"x": secret("c")}, "access_token": secret("t")}}}).to_string()),
    ];
    let key = json!({"value": secret("pnu")});
    for (number, (status, body)) in bodies.into_iter().enumerate() {
        prefect.reset().await;
        Mock::given(any())
            .respond_with(ResponseTemplate::new(status).set_body_string(body))
            .mount(&prefect)
            .await;
        let name = format!("edge-{number}");
        let server = json!({"remoteApiUrl": prefect.uri(), "apiKey": key, "headers": [{"name": "X-Key", "value": secret("header")}]});
        w.apply_binding(&name, &json!({"prefect": {"server": server, "block": {"name": name}}, "doppler": {"host": w.doppler.url()}})).await?;
        w.until(&format!("the error of {name}"), async || {
            let ready = w.condition(&name, "Ready").await?;
            ensure!(
                ready.status == "False" && ready.reason != "Pending",
                "{ready:?}"
            );
            Ok(())
        })
        .await?;
    }

    // An invalid certificate authority, and credentials that no header can hold.
    w.put_token("broken", &format!("{}\n\u{1}", secret("no header")))
        .await?;
    let reference = json!({"valueFrom": {"secretKeyRef": {"name": "broken", "key": "token"}}});
    for (name, field) in [("ca", "caBundle"), ("key", "apiKey")] {
        let mut spec = w.spec();
        spec["prefect"]["server"][field] = reference.clone();
        w.apply_binding(name, &spec).await?;
        w.until(&format!("the error of {name}"), async || {
            let ready = w.condition(name, "Ready").await?;
            ensure!(
                ready.status == "False" && ready.reason != "Pending",
                "{ready:?}"
            );
            Ok(())
        })
        .await?;
    }

    // The API server rejects the write, and the operator is killed and starts again.
    for number in 0..22 {
        w.set_doppler_secret(
            &format!("LARGE_{number}"),
            &format!("{}{}", secret("large"), "x".repeat(50_000)),
        );
    }
    w.until_not_ready("b", "SecretTooLarge").await?;
    w.doppler
        .replace(&w.name, "dev", pairs(&[("A", secret("after"))]));
    w.until_ready("b").await?;
    w.kill_operator();
    w.start_operator().await?;
    w.set_doppler_secret("A", &secret("at last"));
    w.until_values("b", &pairs(&[("A", secret("at last"))]))
        .await?;

    // The search can find something: the log has trace level, and it mentions these bindings.
    let log = w.log();
    ensure!(
        log.contains(r#""level":"TRACE""#) && log.contains("DopplerUnauthorized"),
        "no log at trace level to search"
    );
    let kubeconfig = Kubeconfig::read_from(&w.grant.kubeconfig)?;
    let account = serde_json::to_value(&kubeconfig)?["users"][0]["user"]["token"]
        .as_str()
        .context("no token")?
        .to_owned();
    ensure!(
        !log.contains(&account),
        "the log shows the token of the service account"
    );
    // The operator sent no value to a server that logs it.
    for name in ["kube-apiserver.log", "kube-controller-manager.log"] {
        let path = w.plane.folder().join(name);
        let text = String::from_utf8_lossy(
            &std::fs::read(&path).with_context(|| path.display().to_string())?,
        )
        .into_owned();
        canary::ensure_absent(name, &text)?;
    }
    canary::ensure_absent("the log of Prefect's server", &w.prefect.log())?;
    w.finish().await
}
