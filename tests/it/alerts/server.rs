//! A Prometheus that scrapes operators once a second, with the rules of the chart.
//!
//! Input: the addresses of the metrics of one release.
//! Output: answers of its API.
//! Invariants: it has the labels that a `ServiceMonitor` gives: `job`, `namespace` and `instance`. It ends
//! with its value.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::folder::ScratchDir;
use testkit::guard::{GuardedChild, GuardedCommand};
use testkit::operator::local_http;
use testkit::{ports, wait};

use super::RULES;
use super::programs::ensure_program;

/// The name of the job, as of the `ServiceMonitor`.
pub const JOB: &str = "doppler-prefect-operator-metrics";
/// The namespace of the release.
pub const NAMESPACE: &str = "operators";
/// Between two scrapes, and between two evaluations of a rule.
const INTERVAL: &str = "1s";
const START: Duration = Duration::from_secs(30);

/// A running Prometheus.
pub struct Prometheus {
    url: String,
    http: reqwest::Client,
    child: GuardedChild,
    _folder: ScratchDir,
}

/// A sample of an instant vector.
pub type Labels = std::collections::BTreeMap<String, String>;

impl Prometheus {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// If the program is missing, or does not start.
    pub async fn start(targets: &[&str]) -> Result<Self> {
        ensure_program("prometheus")?;
        let folder = ScratchDir::new("prometheus")?;
        let rules = folder.path().join("rules.yaml");
        std::fs::write(&rules, RULES)?;
        let config = json!({
            "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": JOB,
                "static_configs": [{"targets": targets, "labels": {"namespace": NAMESPACE}}],
            }],
        });
        // JSON is YAML.
        let file = folder.path().join("prometheus.yaml");
        std::fs::write(&file, config.to_string())?;
        let [port] = ports::free()?;
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path());
        let log = folder.path().join("prometheus.log");
        let child = GuardedCommand::new("Prometheus", command, log).start()?;
        let server = Self {
            url: format!("http://{address}"),
            http: local_http()?,
            child,
            _folder: folder,
        };
        wait::until(START, "Prometheus to be ready", async || {
            server.child.ensure_running()?;
            server.get("/-/ready", &[]).await.map(drop)
        })
        .await?;
        Ok(server)
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<String> {
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.url))?;
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.http.get(url).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path} {query:?}: {status}: {text}");
        Ok(text)
    }

    async fn api(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let text = self.get(&format!("/api/v1/{path}"), query).await?;
        let answer: Value = serde_json::from_str(&text)?;
        ensure!(answer["status"] == "success", "{text}");
        ensure!(answer.get("warnings").is_none(), "{query:?}: {text}");
        Ok(answer["data"].clone())
    }

    /// The samples of an expression now.
    ///
    /// # Errors
    /// If Prometheus rejects it.
    pub async fn query(&self, expression: &str) -> Result<Vec<(Labels, f64)>> {
        let data = self.api("query", &[("query", expression)]).await?;
        let samples = data["result"].as_array().context("no result")?;
        let samples = samples.iter().map(|sample| {
            let labels = serde_json::from_value(sample["metric"].clone())?;
            let value = sample["value"][1].as_str().context("no value")?;
            Ok((labels, value.parse()?))
        });
        samples.collect()
    }

    /// The lines of an expression between two times in seconds, each with its points.
    ///
    /// # Errors
    /// If Prometheus rejects it.
    pub async fn range(
        &self,
        expression: &str,
        (start, end): (f64, f64),
    ) -> Result<Vec<(Labels, Vec<(f64, f64)>)>> {
        let (start, end) = (start.to_string(), end.to_string());
        let query = [
            ("query", expression),
            ("start", &start),
            ("end", &end),
            ("step", "1"),
        ];
        let data = self.api("query_range", &query).await?;
        let lines = data["result"].as_array().context("no result")?;
        let lines = lines.iter().map(|line| {
            let labels = serde_json::from_value(line["metric"].clone())?;
            let points = line["values"].as_array().context("no values")?.iter();
            let points = points.map(|point| {
                let value = point[1].as_str().context("no value")?;
                Ok((point[0].as_f64().context("no time")?, value.parse()?))
            });
            Ok((labels, points.collect::<Result<Vec<_>>>()?))
        });
        lines.collect()
    }

    /// The rules as Prometheus has them: name, state of an alert (or empty), and the last error.
    ///
    /// # Errors
    /// If one was not evaluated yet.
    pub async fn rules(&self) -> Result<Vec<(String, String, String)>> {
        let data = self.api("rules", &[]).await?;
        let groups = data["groups"].as_array().context("no groups")?;
        let mut found = Vec::new();
        for rule in groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten()
        {
            let text = |field: &str| rule[field].as_str().unwrap_or_default().to_owned();
            if text("health") == "unknown" {
                bail!("{} was not evaluated yet", text("name"));
            }
            found.push((text("name"), text("state"), text("lastError")));
        }
        Ok(found)
    }
}
