//! Events about flow runs that the operator sends, and the choices that it reads for them.
//!
//! Input: events; ids of flow runs or deployments, and names of variables.
//! Output: the events are stored by the server; the short texts to which job variables are set.
//! Invariants: one request for many runs. An event holds names and hashes, and never a value.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    client::{Client, DEPLOYMENTS_LIMIT},
    error::{PrefectError, Subject},
    flow_run::FlowRun,
    http_client::Endpoint,
    page::{PAGE_SIZE, Page},
    work_pool::selected_texts,
};
use crate::upstream::limiter::Priority;

/// The bound on the answer to events, in bytes. It is empty.
const ANSWER_LIMIT: usize = 1 << 10;

/// An event about a flow run, as Prefect's API takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunEvent {
    id: String,
    occurred: Timestamp,
    event: &'static str,
    resource: Resource,
    related: Vec<Resource>,
    payload: BTreeMap<&'static str, String>,
}

type Resource = BTreeMap<&'static str, String>;

impl RunEvent {
    /// An event of this name about the object with this id and name. `id` is a UUID.
    #[must_use]
    pub fn new(
        event: &'static str,
        id: String,
        resource: String,
        name: String,
        occurred: Timestamp,
    ) -> Self {
        Self {
            id,
            occurred,
            event,
            resource: BTreeMap::from([
                ("prefect.resource.id", resource),
                ("prefect.resource.name", name),
            ]),
            related: Vec::new(),
            payload: BTreeMap::new(),
        }
    }

    /// Relates the event to a flow run and its deployment, so that their event feeds show it.
    #[must_use]
    pub fn related_to(mut self, run: &FlowRun) -> Self {
        self.related
            .extend(run.resources().map(|(role, id, named)| {
                BTreeMap::from([
                    ("prefect.resource.id", id),
                    ("prefect.resource.role", role.to_owned()),
                    ("prefect.resource.name", named.name.clone()),
                ])
            }));
        self
    }

    /// Adds a text to the payload.
    #[must_use]
    pub fn with(mut self, key: &'static str, text: String) -> Self {
        self.payload.insert(key, text);
        self
    }
}

/// Who sets job variables. What a run sets wins over its deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chooser {
    /// A flow run.
    Run,
    /// A deployment.
    Deployment,
}

impl Client {
    /// Sends events, at most [`PAGE_SIZE`].
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn send_events(&self, events: &[RunEvent]) -> Result<(), PrefectError> {
        let endpoint = Endpoint {
            subject: Subject::Events,
            url: self.http.url(&["events"])?,
            content: "nothing",
            max_bytes: ANSWER_LIMIT,
            max_values: None,
        };
        let response = self
            .http
            .send_json(Method::POST, &endpoint, &events, Priority::Background)
            .await?;
        self.http.check(endpoint.subject, &response)
    }

    /// The short texts to which these runs or deployments, at most [`PAGE_SIZE`], set these
    /// variables, by id. Without ids it sends no request.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn chosen_texts(
        &self,
        chooser: Chooser,
        ids: &BTreeSet<String>,
        variables: &BTreeSet<String>,
    ) -> Result<HashMap<String, BTreeMap<String, String>>, PrefectError> {
        #[derive(Deserialize)]
        struct Item<'a> {
            id: String,
            #[serde(borrow, default)]
            job_variables: Option<&'a RawValue>,
            /// Their name in deployments of servers before 3.0.
            #[serde(borrow, default)]
            infra_overrides: Option<&'a RawValue>,
        }
        if ids.is_empty() || variables.is_empty() {
            return Ok(HashMap::new());
        }
        let of = match chooser {
            Chooser::Run => "flow_runs",
            Chooser::Deployment => "deployments",
        };
        let endpoint = Endpoint {
            subject: Subject::Runs,
            url: self.http.url(&[of, "filter"])?,
            content: "a list of job variables",
            max_bytes: DEPLOYMENTS_LIMIT,
            max_values: None,
        };
        let filter = json!({of: {"id": {"any_": ids}}, "limit": PAGE_SIZE});
        let response = self
            .http
            .send_json(Method::POST, &endpoint, &filter, Priority::Background)
            .await?;
        let Page(items): Page<Item<'_>> = self.http.parse(&endpoint, &response)?;
        let chosen = items.into_iter().filter_map(|item| {
            let job_variables = item.job_variables.or(item.infra_overrides)?;
            let texts = selected_texts(job_variables, variables)?;
            Some((item.id, texts))
        });
        Ok(chosen.collect())
    }
}
