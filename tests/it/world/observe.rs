//! Observes the cluster and the operator, and waits for expected states.
//!
//! Input: names of objects.
//! Output: bindings, conditions, Secrets and Events from the API server, and counts from metrics.
//! Invariants: a wait that times out reports the last state, without secret values.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use axum::http::Request;
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::{Api, ResourceExt};
use serde_json::Value;
use testkit::wait;

use super::{TIMEOUT, World};

/// A condition of a binding.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub observed_generation: Option<i64>,
}

/// A map from names to values.
pub fn pairs<K: Into<String> + Clone, V: Into<String> + Clone>(
    pairs: &[(K, V)],
) -> BTreeMap<String, String> {
    pairs
        .iter()
        .cloned()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// Bindings.
impl World {
    /// The bindings of the namespace.
    pub fn bindings(&self) -> Api<DynamicObject> {
        let kind =
            GroupVersionKind::gvk("doppler-prefect.dev", "v1alpha1", "DopplerPrefectBinding");
        let resource = ApiResource::from_gvk_with_plural(&kind, "dopplerprefectbindings");
        Api::namespaced_with(self.client.clone(), &self.name, &resource)
    }

    /// The row that `kubectl get -o wide` prints for a binding: columns and cells from the API
    /// server.
    pub async fn printed_row(&self, name: &str) -> Result<BTreeMap<String, Value>> {
        let path = format!(
            "/apis/doppler-prefect.dev/v1alpha1/namespaces/{}/dopplerprefectbindings/{name}",
            self.name
        );
        let request = Request::get(path)
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())?;
        let table: Value = self.client.request(request).await?;
        let columns = table["columnDefinitions"]
            .as_array()
            .context("no columns")?;
        let cells = table["rows"][0]["cells"].as_array().context("no row")?;
        let names = columns.iter().filter_map(|column| column["name"].as_str());
        Ok(names
            .map(ToOwned::to_owned)
            .zip(cells.iter().cloned())
            .collect())
    }

    /// A binding from the API server.
    pub async fn binding(&self, name: &str) -> Result<DynamicObject> {
        self.bindings()
            .get(name)
            .await
            .with_context(|| format!("binding {name}"))
    }

    /// The status of a binding.
    pub async fn status(&self, name: &str) -> Result<Value> {
        Ok(self.binding(name).await?.data["status"].clone())
    }

    /// One condition of a binding. Fails if it is missing or belongs to an older generation.
    pub async fn condition(&self, name: &str, kind: &str) -> Result<Condition> {
        let binding = self.binding(name).await?;
        let conditions = binding.data["status"]["conditions"].clone();
        let conditions: Vec<Condition> =
            serde_json::from_value(conditions).context("no conditions yet")?;
        let found = conditions
            .into_iter()
            .find(|condition| condition.kind == kind);
        let found = found.with_context(|| format!("no condition {kind}"))?;
        ensure!(
            found.observed_generation == binding.metadata.generation,
            "{kind} belongs to an older generation"
        );
        Ok(found)
    }

    /// Waits until a condition has this status and reason.
    pub async fn until_condition(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> Result<Condition> {
        let what = format!("{kind}={status} ({reason}) of binding {name}");
        self.until(&what, async || {
            let found = self.condition(name, kind).await?;
            if found.status == status && found.reason == reason {
                return Ok(found);
            }
            Err(anyhow!(
                "{}={} ({}): {}",
                found.kind,
                found.status,
                found.reason,
                found.message
            ))
        })
        .await
    }

    /// Waits until the binding is Ready for its current spec.
    pub async fn until_ready(&self, name: &str) -> Result<Condition> {
        self.until_condition(name, "Ready", "True", "Ready").await
    }

    /// Waits until the binding reports that it is not Ready, with this reason.
    pub async fn until_not_ready(&self, name: &str, reason: &str) -> Result<Condition> {
        self.until_condition(name, "Ready", "False", reason).await
    }

    /// Requests the deletion of a binding (in the background, as kubectl does).
    pub async fn delete_binding(&self, name: &str) -> Result<()> {
        self.bindings()
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Waits until the binding no longer exists.
    pub async fn until_binding_deleted(&self, name: &str) -> Result<()> {
        self.until(
            &format!("the deletion of binding {name}"),
            async || match self.bindings().get_opt(name).await? {
                None => Ok(()),
                Some(binding) => Err(anyhow!(
                    "it exists, with finalizers {:?}",
                    binding.finalizers()
                )),
            },
        )
        .await
    }
}

/// Secrets.
impl World {
    /// The Secrets of the namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// The values of a Secret without the names that Doppler adds. Fails if there is no Secret.
    pub async fn values(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let secret = self.secrets().get_opt(name).await?;
        let data = secret
            .with_context(|| format!("there is no Secret {name}"))?
            .data
            .unwrap_or_default();
        let own = data.into_iter().filter(|(key, _)| {
            !["DOPPLER_PROJECT", "DOPPLER_CONFIG", "DOPPLER_ENVIRONMENT"].contains(&key.as_str())
        });
        own.map(|(key, value)| Ok((key, String::from_utf8(value.0)?)))
            .collect()
    }

    /// Waits until a Secret contains exactly these values, without the names that Doppler adds.
    pub async fn until_values(
        &self,
        name: &str,
        expected: &BTreeMap<String, String>,
    ) -> Result<()> {
        self.until(&format!("the values of Secret {name}"), async || {
            let found = self.values(name).await?;
            if found == *expected {
                return Ok(());
            }
            let differ = expected
                .iter()
                .filter(|(key, value)| found.get(*key).is_some_and(|other| other != *value));
            let differ: Vec<_> = differ.map(|(key, _)| key).collect();
            Err(anyhow!(
                "keys {:?}, of which {differ:?} have other values",
                found.keys().collect::<Vec<_>>()
            ))
        })
        .await
    }

    /// Waits until the Secret does not exist.
    pub async fn until_no_secret(&self, name: &str) -> Result<()> {
        self.until(&format!("the deletion of Secret {name}"), async || {
            self.secrets()
                .get_opt(name)
                .await?
                .map_or(Ok(()), |_| Err(anyhow!("it exists")))
        })
        .await
    }

    /// Edits a Secret as another client, by a merge patch.
    pub async fn edit_secret(&self, name: &str, patch: &Value) -> Result<Secret> {
        let params = PatchParams {
            field_manager: Some("another-client".to_owned()),
            ..PatchParams::default()
        };
        Ok(self
            .secrets()
            .patch(name, &params, &Patch::Merge(patch))
            .await?)
    }

    /// Deletes a Secret as another client.
    pub async fn delete_secret(&self, name: &str) -> Result<()> {
        self.secrets()
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }
}

/// Events and other public texts.
impl World {
    /// The Events of this reason in the namespace.
    pub async fn events(&self, reason: &str) -> Result<Vec<String>> {
        Ok(self
            .all_events()
            .await?
            .into_iter()
            .filter(|(found, _)| found == reason)
            .map(|(_, note)| note)
            .collect())
    }

    /// Waits for an Event of this reason, and returns its note.
    pub async fn until_event(&self, reason: &str) -> Result<String> {
        self.until(&format!("an Event {reason}"), async || {
            let all = self.all_events().await?;
            let found = all
                .iter()
                .find(|(found, _)| found == reason)
                .map(|(_, note)| note.clone());
            found.with_context(|| {
                format!(
                    "{:?}",
                    all.iter().map(|(reason, _)| reason).collect::<Vec<_>>()
                )
            })
        })
        .await
    }

    async fn all_events(&self) -> Result<Vec<(String, String)>> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.name);
        let events = events.list(&ListParams::default()).await?.items;
        Ok(events
            .into_iter()
            .map(|e| (e.reason.unwrap_or_default(), e.message.unwrap_or_default()))
            .collect())
    }

    /// All texts of the namespace that users can read: metadata and status of bindings, metadata of
    /// Secrets, Events.
    pub async fn public_texts(&self) -> Result<Vec<(String, String)>> {
        let mut texts = Vec::new();
        for binding in self.bindings().list(&ListParams::default()).await?.items {
            texts.push((
                format!("the status of binding {}", binding.name_any()),
                binding.data["status"].to_string(),
            ));
            let annotations = serde_json::to_string(binding.annotations())?;
            texts.push((
                format!("the annotations of binding {}", binding.name_any()),
                annotations,
            ));
        }
        for secret in self.secrets().list(&ListParams::default()).await?.items {
            let metadata = serde_json::to_string(&secret.metadata)?;
            texts.push((
                format!("the metadata of Secret {}", secret.name_any()),
                metadata,
            ));
        }
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.name);
        for event in events.list(&ListParams::default()).await?.items {
            texts.push((
                format!("Event {}", event.name_any()),
                serde_json::to_string(&event)?,
            ));
        }
        Ok(texts)
    }

    /// Waits until `observe` succeeds. After [`TIMEOUT`] it fails with the last error of `observe`.
    pub async fn until<T>(&self, what: &str, observe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        self.until_within(TIMEOUT, what, observe).await
    }

    /// Like [`World::until`], with another time limit.
    pub async fn until_within<T>(
        &self,
        limit: Duration,
        what: &str,
        observe: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        wait::until(limit, what, observe).await
    }

    /// Reads of an upstream with this outcome (`changed`, `unchanged`, or a reason), from the
    /// operator's metrics.
    pub async fn reads(&self, upstream: &str, outcome: &str) -> Result<u64> {
        let label = format!(
            "doppler_prefect_upstream_reads_total{{upstream=\"{upstream}\",outcome=\"{outcome}\"}} "
        );
        let metrics = self.operator()?.metrics().await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(&label));
        Ok(line.map_or(Ok(0), str::parse)?)
    }

    /// Waits for this many more polls of Doppler with this outcome. Then the operator has handled
    /// the first of them.
    pub async fn until_polls(&self, outcome: &str, more: u64) -> Result<()> {
        let before = self.reads("doppler", outcome).await?;
        self.until(
            &format!("{more} polls of Doppler that end with {outcome}"),
            async || {
                let now = self.reads("doppler", outcome).await?;
                if now >= before + more {
                    Ok(())
                } else {
                    Err(anyhow!("{} so far", now - before))
                }
            },
        )
        .await
    }
}

/// Counts of requests and writes.
impl World {
    /// All reads of `prefect` or `doppler`, from the operator's metrics.
    pub async fn all_reads(&self, upstream: &str) -> Result<u64> {
        let label = format!("doppler_prefect_upstream_reads_total{{upstream=\"{upstream}\",");
        self.sum_of_samples(&label).await
    }

    /// Writes of the operator to the API server, from its metrics: of `secret`, `status`, `binding`
    /// or `event`, or of all.
    pub async fn writes(&self, object: Option<&str>) -> Result<u64> {
        let label = object.map_or(String::new(), |object| format!("object=\"{object}\","));
        self.sum_of_samples(&format!("doppler_prefect_kubernetes_writes_total{{{label}"))
            .await
    }

    async fn sum_of_samples(&self, label: &str) -> Result<u64> {
        let metrics = self.operator()?.metrics().await?;
        let lines = metrics.lines().filter(|line| line.starts_with(label));
        let counts = lines
            .filter_map(|line| line.rsplit(' ').next())
            .map(str::parse::<u64>);
        Ok(counts.sum::<Result<u64, _>>()?)
    }

    /// Downloads from Doppler with the world's token.
    pub fn downloads(&self) -> usize {
        self.doppler
            .downloads()
            .iter()
            .filter(|call| call.uses_token(&self.token))
            .count()
    }
}
