//! Records the metrics of replicas as they come and go, and replays them to the rules.
//!
//! Input: the replicas by the names of their pods.
//! Output: series for `promtool`, in which each scrape counts as one of a slower release.
//! Invariants: a scrape that fails, and a pod that is gone, end the pod's series, as in Prometheus.
//! Before and after what was recorded, the first and the last scrape are repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use regex::Regex;
use serde_json::{Value, json};
use testkit::folder::ScratchDir;
use testkit::operator::local_http;
use testkit::wait;
use tokio::task::JoinHandle;

use super::expression::selectors;
use super::programs::promtool;
use super::rules::rules;
use super::server::{JOB, NAMESPACE};
use crate::world::TIMEOUT;

/// Between two scrapes.
const RECORDED_INTERVAL: Duration = Duration::from_millis(500);
/// Between two scrapes of the replay, in seconds: the release takes thirty times as long.
const REPLAYED_INTERVAL: usize = 15;
/// How often the first scrape is repeated, so that alerts of what is wrong fire: 40 minutes.
const BEFORE: usize = 160;
/// How often the last scrape is repeated: 30 minutes.
const AFTER: usize = 120;

/// The samples of one moment by series.
type Scrape = BTreeMap<String, f64>;
/// The pods that are scraped, each with its address.
type Pods = Arc<Mutex<BTreeMap<String, String>>>;

/// Scrapes pods until it is dropped.
pub struct Recorder {
    pods: Pods,
    scrapes: Arc<Mutex<Vec<Scrape>>>,
    task: JoinHandle<()>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recorder {
    /// Starts without pods.
    pub fn start() -> Result<Self> {
        let (pods, scrapes) = (Pods::default(), Arc::new(Mutex::new(Vec::new())));
        let http = local_http()?;
        let task = tokio::spawn({
            let (pods, scrapes) = (Arc::clone(&pods), Arc::clone(&scrapes));
            async move {
                let mut ticks = tokio::time::interval(RECORDED_INTERVAL);
                loop {
                    ticks.tick().await;
                    let now: Vec<_> = pods.lock().clone().into_iter().collect();
                    if now.is_empty() && scrapes.lock().is_empty() {
                        continue; // The recording begins with the first pod.
                    }
                    let mut scrape = Scrape::new();
                    for (pod, address) in now {
                        let url = format!("http://{address}/metrics");
                        let Ok(answer) = http.get(url).send().await else {
                            continue;
                        };
                        let page = answer.text().await.unwrap_or_default();
                        scrape.extend(series(&page, &pod));
                    }
                    scrapes.lock().push(scrape);
                }
            }
        });
        Ok(Self {
            pods,
            scrapes,
            task,
        })
    }

    /// Scrapes a pod from now on.
    pub fn add(&self, pod: &str, address: &str) {
        self.pods.lock().insert(pod.to_owned(), address.to_owned());
    }

    /// The pod is gone.
    pub fn remove(&self, pod: &str) {
        self.pods.lock().remove(pod);
    }

    /// Waits for further scrapes.
    pub async fn scrapes(&self, more: usize) -> Result<()> {
        let enough = self.scrapes.lock().len() + more;
        wait::until(TIMEOUT, "further scrapes", async || {
            (self.scrapes.lock().len() >= enough).then_some(())
        })
        .await
    }

    /// What was recorded.
    pub fn finish(self) -> Recording {
        Recording {
            scrapes: std::mem::take(&mut self.scrapes.lock()),
        }
    }
}

/// The samples of a page that the rules use, with the labels that a `ServiceMonitor` adds.
fn series(page: &str, pod: &str) -> Scrape {
    let used: BTreeSet<String> = rules()
        .iter()
        .flat_map(|rule| selectors(rule["expr"].as_str().unwrap_or_default()))
        .map(|selector| selector.metric)
        .collect();
    let sample = Regex::new(r"(?m)^([a-z_]+)(?:\{([^}]*)\})? ([^ \n]+)").unwrap();
    let samples = sample
        .captures_iter(page)
        .filter(|sample| used.contains(&sample[1]));
    let added = format!(r#"job="{JOB}",namespace="{NAMESPACE}",instance="{pod}""#);
    let samples = samples.filter_map(|sample| {
        let own = sample.get(2).map_or("", |own| own.as_str());
        let labels = if own.is_empty() {
            added.clone()
        } else {
            format!("{added},{own}")
        };
        Some((
            format!("{}{{{labels}}}", &sample[1]),
            sample[3].parse().ok()?,
        ))
    });
    samples.collect()
}

/// The scrapes of a release.
pub struct Recording {
    scrapes: Vec<Scrape>,
}

impl Recording {
    /// In how many scrapes no replica led.
    pub fn scrapes_without_leader(&self) -> usize {
        let leads = |scrape: &&Scrape| {
            let mut leaders = scrape
                .iter()
                .filter(|(name, _)| name.starts_with("doppler_prefect_leader{"));
            !leaders.any(|(_, value)| *value > 0.0)
        };
        self.scrapes.iter().filter(leads).count()
    }

    /// The pods that led, in their order.
    pub fn leaders(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for scrape in &self.scrapes {
            for (name, value) in scrape {
                if name.starts_with("doppler_prefect_leader{")
                    && *value > 0.0
                    && found.last() != Some(name)
                {
                    found.push(name.clone());
                }
            }
        }
        found
    }

    /// The values of a series in `promtool`'s notation.
    fn values(&self, name: &str) -> String {
        let mut values: Vec<String> = Vec::new();
        let mut was_there = false;
        let last = self.scrapes.len() - 1;
        for (number, scrape) in self.scrapes.iter().enumerate() {
            let value = scrape.get(name);
            let text = match value {
                Some(value) => value.to_string(),
                None if was_there => "stale".to_owned(),
                None => "_".to_owned(),
            };
            let repeated = match number {
                0 => BEFORE,
                _ if number == last => AFTER,
                _ => 0,
            };
            values.push(match value {
                Some(_) if repeated > 0 => format!("{text}+0x{repeated}"),
                None if repeated > 0 && number == 0 => format!("_x{}", repeated + 1),
                _ => text,
            });
            was_there = value.is_some();
        }
        values.join(" ")
    }

    /// Replays the recording to rules. Exactly the alerts in `expected` fire, each without a gap from
    /// the end of the first scrape's repetition to the end of the last one's.
    ///
    /// # Errors
    /// If another alert fires, or one has a gap.
    pub fn replay(&self, rules: &str, expected: &[Value]) -> Result<()> {
        ensure!(self.scrapes.len() > 4, "{} scrapes", self.scrapes.len());
        let names: BTreeSet<_> = self.scrapes.iter().flat_map(BTreeMap::keys).collect();
        let series: Vec<_> = names
            .into_iter()
            .map(|name| json!({"series": name, "values": self.values(name)}))
            .collect();
        let steps = self.scrapes.len() + AFTER;
        let end = (BEFORE + steps - 1) * REPLAYED_INTERVAL;
        // The samples of both ends count.
        let window = (steps - 1) * REPLAYED_INTERVAL;
        let samples: Vec<_> = expected
            .iter()
            .map(|labels| json!({"labels": matchers(labels), "value": steps}))
            .collect();
        let at_any_time: Vec<_> = expected
            .iter()
            .map(|labels| json!({"labels": matchers(labels), "value": 1}))
            .collect();
        let firing = r#"ALERTS{alertstate="firing"}"#;
        let test = json!({
            "rule_files": ["rules.yaml"],
            "evaluation_interval": format!("{REPLAYED_INTERVAL}s"),
            "tests": [{
                "interval": format!("{REPLAYED_INTERVAL}s"),
                "input_series": series,
                "promql_expr_test": [
                    {"expr": format!("count_over_time({firing}[{window}s])"), "eval_time": format!("{end}s"), "exp_samples": samples},
                    {"expr": format!("max_over_time({firing}[{end}s])"), "eval_time": format!("{end}s"), "exp_samples": at_any_time},
                ],
            }],
        });
        let folder = ScratchDir::new("recording")?;
        std::fs::write(folder.path().join("rules.yaml"), rules)?;
        let file = folder.path().join("test.yaml");
        std::fs::write(&file, test.to_string())?;
        let file = file.to_str().context("the path is no text")?;
        promtool(&["test", "rules", file]).map(drop)
    }
}

/// Labels of a firing alert in `promtool`'s notation.
fn matchers(labels: &Value) -> String {
    let own = labels.as_object().into_iter().flatten();
    let own = own.map(|(name, value)| format!("{name}={value}"));
    let added = [
        r#"alertstate="firing""#.to_owned(),
        format!("job=\"{JOB}\""),
        format!("namespace=\"{NAMESPACE}\""),
    ];
    let all: Vec<_> = own.chain(added).collect();
    format!("{{{}}}", all.join(","))
}
