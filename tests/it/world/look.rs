//! Looking at what is there, and waiting until it is what it should be.
//!
//! In: names. Out: bindings, conditions, Secrets and Events as the API server has them. A wait that was in vain says what was there instead, with
//! values left out.

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

/// Names and values.
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

    /// What `kubectl get -o wide` prints of a binding: columns and their cells, made by the API server.
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

    /// A binding as it is.
    pub async fn binding(&self, name: &str) -> Result<DynamicObject> {
        self.bindings()
            .get(name)
            .await
            .with_context(|| format!("binding {name}"))
    }

    /// Its status.
    pub async fn status(&self, name: &str) -> Result<Value> {
        Ok(self.binding(name).await?.data["status"].clone())
    }

    /// One of its conditions, if it has that and it speaks of the spec as it is.
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
            "{kind} is of an older generation"
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

    /// Waits until the binding is Ready for the spec as it is.
    pub async fn until_ready(&self, name: &str) -> Result<Condition> {
        self.until_condition(name, "Ready", "True", "Ready").await
    }

    /// Waits until the binding says that it is not Ready, and why.
    pub async fn until_not_ready(&self, name: &str, reason: &str) -> Result<Condition> {
        self.until_condition(name, "Ready", "False", reason).await
    }

    /// Asks for a binding's deletion (in the background, as kubectl does).
    pub async fn delete_binding(&self, name: &str) -> Result<()> {
        self.bindings()
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Waits until the binding is gone.
    pub async fn until_binding_deleted(&self, name: &str) -> Result<()> {
        self.until(&format!("binding {name} to go"), async || {
            match self.bindings().get_opt(name).await? {
                None => Ok(()),
                Some(binding) => Err(anyhow!(
                    "it is there, with finalizers {:?}",
                    binding.finalizers()
                )),
            }
        })
        .await
    }
}

/// Secrets.
impl World {
    /// The Secrets of the namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// What a Secret holds, but for the names that Doppler adds itself; an error if it is not there.
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

    /// Waits until a Secret holds exactly this, but for the names that Doppler adds itself.
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

    /// Waits until there is no Secret of that name.
    pub async fn until_no_secret(&self, name: &str) -> Result<()> {
        self.until(&format!("Secret {name} to go"), async || {
            self.secrets()
                .get_opt(name)
                .await?
                .map_or(Ok(()), |_| Err(anyhow!("it is there")))
        })
        .await
    }

    /// Changes a Secret as somebody else would, by a merge patch.
    pub async fn edit_secret(&self, name: &str, patch: &Value) -> Result<Secret> {
        let params = PatchParams {
            field_manager: Some("somebody-else".to_owned()),
            ..PatchParams::default()
        };
        Ok(self
            .secrets()
            .patch(name, &params, &Patch::Merge(patch))
            .await?)
    }

    /// Deletes a Secret as somebody else would.
    pub async fn delete_secret(&self, name: &str) -> Result<()> {
        self.secrets()
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }
}

/// Events, and all that people can read.
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

    /// Waits for an Event of this reason: its note.
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

    /// Every text of the namespace that is not meant to hold a secret: metadata and status of bindings, metadata of Secrets, Events.
    pub(super) async fn public_texts(&self) -> Result<Vec<(String, String)>> {
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

    /// Waits for whatever should come soon; in vain, it says what was there, and what the operator said last.
    pub async fn until<T>(&self, what: &str, look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        self.until_within(TIMEOUT, what, look).await
    }

    /// As [`World::until`], with a limit of its own.
    pub async fn until_within<T>(
        &self,
        limit: Duration,
        what: &str,
        look: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        wait::until(limit, what, look).await
    }

    /// Reads of the upstreams that ended as `outcome` (`changed`, `unchanged`, or a reason), by the operator's own count.
    pub async fn reads(&self, upstream: &str, outcome: &str) -> Result<u64> {
        let label = format!(
            "doppler_prefect_upstream_reads_total{{upstream=\"{upstream}\",outcome=\"{outcome}\"}} "
        );
        let metrics = self.operator()?.metrics().await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(&label));
        Ok(line.map_or(Ok(0), str::parse)?)
    }

    /// Waits for this many more polls of Doppler that ended as `outcome`: by then the operator has done what it does after the first of them.
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

/// What the upstreams were asked.
impl World {
    /// Reads of `prefect` or `doppler` so far, however they ended, by the operator's own count.
    pub async fn all_reads(&self, upstream: &str) -> Result<u64> {
        let label = format!("doppler_prefect_upstream_reads_total{{upstream=\"{upstream}\",");
        self.sum(&label).await
    }

    /// Writes of the operator to the API server so far, by its own count: of `secret`, `status`, `binding` or `event`, or of all.
    pub async fn writes(&self, object: Option<&str>) -> Result<u64> {
        let label = object.map_or(String::new(), |object| format!("object=\"{object}\","));
        self.sum(&format!("doppler_prefect_kubernetes_writes_total{{{label}"))
            .await
    }

    async fn sum(&self, label: &str) -> Result<u64> {
        let metrics = self.operator()?.metrics().await?;
        let lines = metrics.lines().filter(|line| line.starts_with(label));
        let counts = lines
            .filter_map(|line| line.rsplit(' ').next())
            .map(str::parse::<u64>);
        Ok(counts.sum::<Result<u64, _>>()?)
    }

    /// Downloads that Doppler was asked for with the world's token.
    pub fn downloads(&self) -> usize {
        self.doppler
            .downloads()
            .iter()
            .filter(|call| call.uses_token(&self.token))
            .count()
    }
}
