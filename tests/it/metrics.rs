//! `/metrics` with TLS and authorization, as the real API server decides.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use testkit::folder::ScratchDir;
use testkit::grant::grant_from_chart;
use testkit::helm::helm_async;
use testkit::operator::{Operator, OperatorOptions};
use testkit::{kubernetes, wait};

use crate::world::{TIMEOUT, chart, plane};

const HOME: &str = "protected-metrics";
/// The roles of the chart begin with it.
const ROLES: &str = "protected-doppler-prefect-operator.protected-metrics";

/// A certificate for the loopback address, in PEM.
struct Certificate {
    pem: String,
    key: String,
}

impl Certificate {
    fn new() -> Result<Self> {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        Ok(Self {
            pem: own.cert.pem(),
            key: own.signing_key.serialize_pem(),
        })
    }

    fn write(&self, directory: &Path) -> Result<()> {
        std::fs::write(directory.join("tls.crt"), &self.pem)?;
        std::fs::write(directory.join("tls.key"), &self.key)?;
        Ok(())
    }

    /// A client that trusts this certificate and no other.
    fn client(&self) -> Result<reqwest::Client> {
        let trusted = reqwest::Certificate::from_pem(self.pem.as_bytes())?;
        let builder = reqwest::Client::builder().no_proxy().timeout(TIMEOUT);
        Ok(builder.tls_certs_only([trusted]).build()?)
    }
}

/// The status and the text of `/metrics`.
async fn scrape(
    client: &reqwest::Client,
    operator: &Operator,
    token: Option<&str>,
) -> Result<(u16, String)> {
    let url = format!("https://{}/metrics", operator.metrics_address());
    let request = client.get(url);
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// A token of a new or existing service account. Without an audience it is for the API server.
async fn token(admin: &Client, account: &str, audience: Option<&str>) -> Result<String> {
    let object =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
    kubernetes::apply(admin, HOME, &object.to_string()).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), HOME);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audience.map(ToOwned::to_owned).into_iter().collect(),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    Ok(answer.status.context("no token was issued")?.token)
}

async fn bind_reader(admin: &Client, account: &str) -> Result<()> {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "protected-metrics-prometheus"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("{ROLES}.metrics-reader")},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": HOME}],
    });
    kubernetes::apply(admin, HOME, &binding.to_string()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_authorized_clients_read_metrics_over_tls() -> Result<()> {
    let plane = tokio::task::spawn_blocking(plane).await??;
    let admin = plane.admin_client()?;
    let values = format!(
        "watchNamespaces={{{HOME}}},metrics.tls.enabled=true,metrics.tls.secretName=a,\
         metrics.authorization=true,crds.enabled=false,image.repository=dpo"
    );
    let chart = chart::path();
    let template = [
        "template",
        "protected",
        &chart,
        "--namespace",
        HOME,
        "--set",
        &values,
    ];
    let rendered = helm_async(&template, None).await?.success()?;
    let grant = grant_from_chart(plane, &rendered, HOME).await?;

    let directory = ScratchDir::new("metrics-tls")?;
    let first = Certificate::new()?;
    first.write(directory.path())?;
    let tls = directory.path().display().to_string();
    let args = [
        "--watch-namespace",
        HOME,
        "--operator-namespace",
        HOME,
        "--metrics-tls",
        &tls,
        "--metrics-authorization",
    ];
    let operator = Operator::start(OperatorOptions {
        binary: env!("CARGO_BIN_EXE_doppler-prefect-operator").into(),
        kubeconfig: grant.kubeconfig.clone(),
        args: args.map(ToOwned::to_owned).into(),
        ..OperatorOptions::default()
    })
    .await?;
    let client = first.client()?;

    // Without a token, and with ones that the API server does not accept.
    let foreign = token(&admin, "prometheus", Some("https://vault.example.com")).await?;
    for refused in [None, Some("canary-invalid"), Some(foreign.as_str())] {
        let (status, text) = scrape(&client, &operator, refused).await?;
        ensure!(status == 401, "{refused:?}: {status} {text}");
    }
    // With a token of a user who may not, and of one who may.
    let stranger = token(&admin, "stranger", None).await?;
    let (status, text) = scrape(&client, &operator, Some(&stranger)).await?;
    ensure!(status == 403, "{status} {text}");
    bind_reader(&admin, "prometheus").await?;
    let prometheus = token(&admin, "prometheus", None).await?;
    wait::until(TIMEOUT, "the permission to have its effect", async || {
        let (status, text) = scrape(&client, &operator, Some(&prometheus)).await?;
        ensure!(
            status == 200 && text.ends_with("# EOF\n"),
            "{status} {text}"
        );
        Ok(())
    })
    .await?;
    let (status, _) = scrape(&client, &operator, Some(&stranger)).await?;
    ensure!(status == 403, "{status}");
    // Plain HTTP is not answered.
    ensure!(operator.metrics().await.is_err());

    // A new certificate, without a restart.
    let second = Certificate::new()?;
    second.write(directory.path())?;
    let renewed = second.client()?;
    wait::until(TIMEOUT, "the new certificate to be served", async || {
        let (status, text) = scrape(&renewed, &operator, Some(&prometheus)).await?;
        ensure!(status == 200, "{status} {text}");
        Ok(())
    })
    .await?;
    ensure!(scrape(&client, &operator, Some(&prometheus)).await.is_err());

    // An operator that may not create reviews lets no new client in, and logs why.
    let bindings: Api<ClusterRoleBinding> = Api::all(admin.clone());
    let name = format!("{ROLES}.metrics-authorization");
    bindings.delete(&name, &DeleteParams::default()).await?;
    wait::until(TIMEOUT, "the permission to be gone", async || {
        let new = token(&admin, "prometheus", None).await?;
        let (status, text) = scrape(&renewed, &operator, Some(&new)).await?;
        ensure!(status == 503, "{status} {text}");
        Ok(())
    })
    .await?;
    let log = operator.log()?;
    ensure!(log.contains("may not create TokenReviews"), "{log}");
    for token in ["canary-invalid", &foreign, &stranger, &prometheus] {
        ensure!(!log.contains(token), "the log has a token");
    }
    let code = operator.terminate(Duration::from_secs(25)).await?;
    ensure!(code == 0, "exit code {code}");
    Ok(())
}
