//! The flow run that an event is about.
//!
//! Input: the resources of an event.
//! Output: a [`FlowRun`], if a Job of a kubernetes pool runs it.
//! Invariants: pure. Ids are UUIDs and names are short, so that what waits to be reported is small.

use serde::Deserialize;

const RUN_PREFIX: &str = "prefect.flow-run.";
const DEPLOYMENT_PREFIX: &str = "prefect.deployment.";
const FLOW_PREFIX: &str = "prefect.flow.";
const POOL_PREFIX: &str = "prefect.work-pool.";
/// The longest name that is kept, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// A flow run in a work pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowRun {
    /// The run. Its name is that of the run, such as `red-fox`.
    pub run: Named,
    /// Its work pool.
    pub work_pool: Named,
    /// Its deployment.
    pub deployment: Option<Named>,
    /// Its flow.
    pub flow: Option<Named>,
}

/// An object of a Prefect server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// Its id, without the kind in front. Empty if the server did not state one.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A resource that an event names besides the one that it is about.
#[derive(Debug, Deserialize)]
pub(super) struct RelatedResource {
    #[serde(rename = "prefect.resource.id")]
    id: Option<String>,
    #[serde(rename = "prefect.resource.role")]
    role: Option<String>,
    #[serde(rename = "prefect.resource.name")]
    name: Option<String>,
    #[serde(rename = "prefect.work-pool.type")]
    pool_type: Option<String>,
}

impl FlowRun {
    /// The run of an event, if its work pool is of type kubernetes. A run without a work pool has no
    /// Job. A server that does not state the type may mean such a pool.
    pub(super) fn of(id: &str, name: Option<String>, related: &[RelatedResource]) -> Option<Self> {
        let id = id.strip_prefix(RUN_PREFIX)?;
        let name = name.unwrap_or_default();
        let find = |role: &str| {
            let mut related = related.iter();
            related.find(|resource| resource.role.as_deref() == Some(role))
        };
        let pool = find("work-pool")?;
        if pool.pool_type.as_ref().is_some_and(|of| of != "kubernetes") {
            return None;
        }
        let named = |role, prefix| find(role).and_then(|resource| resource.named(prefix));
        Some(Self {
            run: Named::bounded(id, &name)?,
            work_pool: pool.named(POOL_PREFIX)?,
            deployment: named("deployment", DEPLOYMENT_PREFIX),
            flow: named("flow", FLOW_PREFIX),
        })
    }

    /// The resources that relate an event to the run and its deployment.
    pub(super) fn resources(&self) -> impl Iterator<Item = (&'static str, String, &Named)> {
        let run = (
            "flow-run",
            format!("{RUN_PREFIX}{}", self.run.id),
            &self.run,
        );
        let deployment = self.deployment.as_ref();
        let deployment = deployment.filter(|deployment| !deployment.id.is_empty());
        let deployment = deployment.map(|deployment| {
            let id = format!("{DEPLOYMENT_PREFIX}{}", deployment.id);
            ("deployment", id, deployment)
        });
        std::iter::once(run).chain(deployment)
    }
}

impl Named {
    fn bounded(id: &str, name: &str) -> Option<Self> {
        let is_kept = (id.is_empty() || is_uuid(id)) && name.len() <= MAX_NAME_BYTES;
        is_kept.then(|| Self {
            id: id.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl RelatedResource {
    fn named(&self, prefix: &str) -> Option<Named> {
        let id = self.id.as_deref().unwrap_or_default();
        let id = id.strip_prefix(prefix).unwrap_or_default();
        Named::bounded(id, self.name.as_deref()?)
    }
}

fn is_uuid(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    text.len() == 36 && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ID: &str = "00000000-0000-4000-8000-00000000000a";

    fn run(id: &str, related: Value) -> Option<FlowRun> {
        let related: Vec<RelatedResource> = serde_json::from_value(related).unwrap();
        FlowRun::of(id, Some("red-fox".to_owned()), &related)
    }

    fn resource(role: &str, name: &Value) -> Value {
        json!({
            "prefect.resource.id": format!("prefect.{role}.{ID}"),
            "prefect.resource.role": role,
            "prefect.resource.name": name,
        })
    }

    fn named(name: &str) -> Named {
        Named {
            id: ID.to_owned(),
            name: name.to_owned(),
        }
    }

    fn run_id() -> String {
        format!("prefect.flow-run.{ID}")
    }

    #[test]
    fn a_run_has_pool_deployment_and_flow() {
        let related = json!([
            resource("flow", &json!("etl")),
            resource("deployment", &json!("nightly")),
            resource("work-queue", &json!("default")),
            resource("work-pool", &json!("k8s")),
        ]);
        let run = run(&run_id(), related).unwrap();
        assert_eq!(run.run, named("red-fox"));
        assert_eq!(run.work_pool, named("k8s"));
        assert_eq!(run.deployment, Some(named("nightly")));
        assert_eq!(run.flow, Some(named("etl")));
        let resources: Vec<_> = run.resources().map(|(role, id, _)| (role, id)).collect();
        let deployment = ("deployment", format!("prefect.deployment.{ID}"));
        assert_eq!(resources, [("flow-run", run_id()), deployment]);
    }

    #[test]
    fn only_runs_of_kubernetes_pools_count() {
        let pool = |more: Value| {
            let mut pool = resource("work-pool", &json!("k8s"));
            if let (Value::Object(pool), Value::Object(more)) = (&mut pool, more) {
                pool.extend(more);
            }
            json!([resource("flow", &json!("etl")), pool])
        };
        let of_type = |of: &str| pool(json!({"prefect.work-pool.type": of}));
        assert!(run(&run_id(), of_type("kubernetes")).is_some());
        assert!(run(&run_id(), pool(json!({}))).is_some(), "unknown type");
        let without_id = pool(json!({"prefect.resource.id": null}));
        assert_eq!(run(&run_id(), without_id).unwrap().work_pool.id, "");
        for related in [
            of_type("process"),
            pool(json!({"prefect.resource.name": null})),
            pool(json!({"prefect.resource.name": "a".repeat(MAX_NAME_BYTES + 1)})),
            json!([resource("flow", &json!("k8s"))]),
            json!([]),
        ] {
            assert_eq!(run(&run_id(), related.clone()), None, "{related}");
        }
    }

    #[test]
    fn an_id_is_a_uuid_and_what_is_not_is_dropped() {
        for id in ["prefect.flow-run.1", "prefect.flow.1", "", ID] {
            let related = json!([resource("work-pool", &json!("k8s"))]);
            assert_eq!(run(id, related), None, "{id}");
        }
        let long = json!("a".repeat(MAX_NAME_BYTES + 1));
        let related = json!([
            resource("work-pool", &json!("k8s")),
            resource("deployment", &long),
        ]);
        let run = run(&run_id(), related).unwrap();
        assert_eq!(run.deployment, None);
        assert_eq!(run.resources().count(), 1);
    }
}
