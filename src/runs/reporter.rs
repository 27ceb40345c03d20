//! Reports for each flow run that starts which values it got.
//!
//! Input: runs that started, and the bindings that serve them.
//! Output: a count by content hash and, unless it is switched off, an event for the Prefect server.
//! Invariants: it sends nothing without runs, and at most a few requests a second for each connection,
//! of the lowest priority, however many runs start. What waits is bounded. A server that does not take
//! the requests gets none for a minute; what it would have got is dropped.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    choices::{Questions, got_secret},
    injected_event::values_injected,
    registry::Serving,
    run_counter::RunCounter,
};
use crate::{
    metrics::{Metrics, RunEventLabels},
    prefect::{Chooser, Connection, ConnectionInterner, FlowRun, PrefectError, RunEvent},
};

/// Runs that wait until they are received. Further ones are dropped.
const MAX_QUEUED: usize = 4096;
/// Runs of one batch: Prefect lists at most 200 objects at once.
const MAX_BATCH: usize = 100;
/// Events of one request. A run has one for each binding that serves it.
const MAX_EVENTS: usize = 200;
/// How long runs are collected before they are reported.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a server that did not take the requests gets none.
const QUIET: Duration = Duration::from_mins(1);

/// A run that started, as one connection reported it.
struct Started {
    connection: Arc<Connection>,
    run: FlowRun,
    serving: Vec<Serving>,
    at: Timestamp,
}

/// Takes the runs that started.
#[derive(Clone)]
pub struct StartedRuns {
    queue: mpsc::Sender<Started>,
    metrics: Arc<Metrics>,
}

/// Reports the runs that started.
pub struct RunReporter {
    queue: mpsc::Receiver<Started>,
    connections: Arc<ConnectionInterner>,
    metrics: Arc<Metrics>,
    sends_events: bool,
}

/// Takes runs that started, and reports them. Without `sends_events` it only counts them.
#[must_use]
pub fn started_runs(
    connections: Arc<ConnectionInterner>,
    metrics: Arc<Metrics>,
    sends_events: bool,
) -> (StartedRuns, RunReporter) {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED);
    let started = StartedRuns {
        queue: sender,
        metrics: Arc::clone(&metrics),
    };
    let reporter = RunReporter {
        queue: receiver,
        connections,
        metrics,
        sends_events,
    };
    (started, reporter)
}

impl StartedRuns {
    /// Adds a run that these bindings serve, unless very many wait.
    pub fn add(&self, connection: &Arc<Connection>, run: FlowRun, serving: Vec<Serving>) {
        if serving.is_empty() {
            return;
        }
        let started = Started {
            connection: Arc::clone(connection),
            run,
            serving,
            at: Timestamp::now(),
        };
        if let Err(mpsc::error::TrySendError::Full(started)) = self.queue.try_send(started) {
            count_events(&self.metrics, "dropped", started.serving.len());
        }
    }
}

impl RunReporter {
    /// Reports until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut counter = RunCounter::new(Arc::clone(&self.metrics));
        let mut waiting: HashMap<Arc<Connection>, Waiting> = HashMap::new();
        let mut reports = FuturesUnordered::new();
        loop {
            let next = waiting.values().filter_map(Waiting::next).min();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                started = self.queue.recv() => {
                    let Some(started) = started else { return };
                    let connection = Arc::clone(&started.connection);
                    let waiting = waiting.entry(connection).or_default();
                    self.add(waiting, &mut counter, started);
                }
                Some((connection, report)) = reports.next() => {
                    if let Some(waiting) = waiting.get_mut(&connection) {
                        waiting.finish(&report, Instant::now());
                    }
                    self.count(&mut counter, report);
                }
            }
            let now = Instant::now();
            for (connection, waiting) in &mut waiting {
                if waiting.due().is_some_and(|at| at <= now) {
                    reports.push(self.report(connection, waiting.start()));
                }
            }
            waiting.retain(|_, waiting| !waiting.is_idle(now));
        }
    }

    /// Counts what needs no answer of the server, and adds the run to the next batch.
    fn add(&self, waiting: &mut Waiting, counter: &mut RunCounter, started: Started) {
        if waiting.ids.contains(&started.run.run.id) {
            return;
        }
        for serving in started.serving.iter().filter(|of| of.variables.is_empty()) {
            counter.count(&serving.content.hash);
        }
        let has_choice = started.serving.iter().any(|of| !of.variables.is_empty());
        if self.sends_events || has_choice {
            let dropped = waiting.add(started, Instant::now());
            count_events(&self.metrics, "dropped", dropped);
        }
    }

    /// Reports a batch of one connection.
    fn report(
        &self,
        connection: &Arc<Connection>,
        batch: Vec<Started>,
    ) -> BoxFuture<'static, (Arc<Connection>, Report)> {
        let (connections, connection) = (Arc::clone(&self.connections), Arc::clone(connection));
        let sends_events = self.sends_events;
        Box::pin(async move {
            let mut report = Report::default();
            let reported =
                report_batch(&connections, &connection, &batch, sends_events, &mut report).await;
            if let Err(error) = reported {
                report.is_refused = true;
                let host = connection.host();
                debug!(host, %error, "the Prefect server did not take the report of flow runs");
            }
            (connection, report)
        })
    }

    fn count(&self, counter: &mut RunCounter, report: Report) {
        for hash in report.chosen {
            counter.count(&hash);
        }
        count_events(&self.metrics, "sent", report.sent);
        count_events(&self.metrics, "failed", report.failed);
    }
}

/// What came of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    /// The content hashes of Secrets that runs chose, once for each run.
    chosen: Vec<String>,
    /// Events that the server took.
    sent: usize,
    /// Events that it did not take.
    failed: usize,
    /// Whether the server did not take a request.
    is_refused: bool,
}

/// Reads what the runs chose, and sends the events.
async fn report_batch(
    connections: &ConnectionInterner,
    connection: &Arc<Connection>,
    batch: &[Started],
    sends_events: bool,
    report: &mut Report,
) -> Result<(), PrefectError> {
    let client = connections.client(connection)?;
    let mut questions = Questions::default();
    for started in batch {
        questions.add(&started.run, &started.serving);
    }
    let Questions {
        runs,
        deployments,
        variables,
    } = &questions;
    let by_run = client.chosen_texts(Chooser::Run, runs, variables);
    let by_deployment = client.chosen_texts(Chooser::Deployment, deployments, variables);
    let (by_run, by_deployment) = futures::try_join!(by_run, by_deployment)?;
    let mut events: Vec<RunEvent> = Vec::new();
    for started in batch {
        let run = &started.run;
        let got = started.serving.iter();
        for serving in got.filter(|serving| got_secret(run, serving, &by_run, &by_deployment)) {
            if !serving.variables.is_empty() {
                report.chosen.push(serving.content.hash.clone());
            }
            events.push(values_injected(run, serving, started.at));
        }
    }
    if sends_events {
        report.failed = events.len();
        for events in events.chunks(MAX_EVENTS) {
            client.send_events(events).await?;
            report.sent += events.len();
            report.failed -= events.len();
        }
    }
    Ok(())
}

/// What waits to be reported to one server.
#[derive(Default)]
struct Waiting {
    runs: Vec<Started>,
    /// The runs of the batch, so that a run that two events report is reported once.
    ids: HashSet<String>,
    is_reporting: bool,
    /// When the next batch is reported. None: nothing waits.
    batch_at: Option<Instant>,
    /// Until then, the server gets no request.
    quiet_until: Option<Instant>,
}

impl Waiting {
    /// Adds a run. Returns how many events were dropped instead.
    fn add(&mut self, started: Started, now: Instant) -> usize {
        if self.is_quiet(now) || self.runs.len() >= MAX_BATCH {
            return started.serving.len();
        }
        self.ids.insert(started.run.run.id.clone());
        self.runs.push(started);
        self.batch_at.get_or_insert(now + INTERVAL);
        0
    }

    /// When a batch is to be reported.
    fn due(&self) -> Option<Instant> {
        self.batch_at.filter(|_| !self.is_reporting)
    }

    /// When something is to be done.
    fn next(&self) -> Option<Instant> {
        self.due().or(self.quiet_until)
    }

    fn start(&mut self) -> Vec<Started> {
        self.is_reporting = true;
        self.batch_at = None;
        self.ids.clear();
        std::mem::take(&mut self.runs)
    }

    fn finish(&mut self, report: &Report, now: Instant) {
        self.is_reporting = false;
        self.quiet_until = report.is_refused.then(|| now + QUIET);
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.runs.is_empty() && !self.is_reporting && !self.is_quiet(now)
    }
}

fn count_events(metrics: &Metrics, outcome: &'static str, number: usize) {
    if number > 0 {
        let counter = metrics
            .run_events
            .get_or_create(&RunEventLabels { outcome });
        counter.inc_by(u64::try_from(number).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests;
