//! A work pool, and where its deployments send their jobs.
//!
//! Input: the answers of a Prefect server.
//! Output: the template as the server wrote it, and the namespaces of deployments that override the
//! namespace of the pool.
//! Invariants: a template may contain secrets, so [`WorkPool`] has no `Debug`. The number of
//! namespaces and names is bounded.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Deployments per page: Prefect's maximum.
pub(super) const PAGE_SIZE: usize = 200;
/// The longest name or namespace that is kept. A Kubernetes namespace has at most 63.
const MAX_TEXT_CHARS: usize = 253;
/// Namespaces that are listed: more than the status shows.
const MAX_NAMESPACES: usize = 64;
/// Deployments that are named for each namespace.
pub(super) const MAX_NAMES: usize = 20;

/// A work pool.
#[derive(Clone, Deserialize)]
pub struct WorkPool {
    /// Its type, such as `kubernetes`.
    #[serde(rename = "type")]
    pub pool_type: String,
    /// Its template, as the server wrote it.
    pub base_job_template: Box<RawValue>,
}

/// The namespaces of deployments that override the namespace of their work pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentNamespaces {
    /// Each such namespace, with the names of some of these deployments.
    pub namespaces: BTreeMap<String, Vec<String>>,
    /// The pool has more deployments than this number, and only the first by name were read.
    pub truncated_at: Option<usize>,
}

/// A page of deployments. One with more deployments than were requested does not parse.
pub(super) struct DeploymentPage(pub(super) Vec<Deployment>);

/// The parts of a deployment that are used.
#[derive(Deserialize)]
pub(super) struct Deployment {
    #[serde(default)]
    name: ShortText,
    #[serde(default)]
    job_variables: Option<JobVariables>,
}

#[derive(Deserialize)]
struct JobVariables {
    #[serde(default)]
    namespace: ShortText,
}

/// A text of at most [`MAX_TEXT_CHARS`], cut at that length. Any other value is no text.
#[derive(Default)]
struct ShortText(Option<String>);

impl DeploymentNamespaces {
    /// Adds the namespace of a deployment, if it overrides that of the pool.
    pub(super) fn add(&mut self, deployment: Deployment) {
        let variables = deployment.job_variables;
        let Some(namespace) = variables.and_then(|variables| variables.namespace.0) else {
            return;
        };
        let is_full = self.namespaces.len() >= MAX_NAMESPACES;
        if namespace.is_empty() || (is_full && !self.namespaces.contains_key(&namespace)) {
            return;
        }
        let names = self.namespaces.entry(namespace).or_default();
        if names.len() < MAX_NAMES {
            names.push(deployment.name.0.unwrap_or_default());
        }
    }
}

impl<'de> Deserialize<'de> for DeploymentPage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Page;
        impl<'de> Visitor<'de> for Page {
            type Value = DeploymentPage;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of deployments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut deployments = Vec::new();
                while let Some(deployment) = list.next_element()? {
                    if deployments.len() == PAGE_SIZE {
                        return Err(A::Error::custom("more deployments than requested"));
                    }
                    deployments.push(deployment);
                }
                Ok(DeploymentPage(deployments))
            }
        }
        deserializer.deserialize_seq(Page)
    }
}

impl<'de> Deserialize<'de> for ShortText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = ShortText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, text: &str) -> Result<ShortText, E> {
                Ok(ShortText(Some(text.chars().take(MAX_TEXT_CHARS).collect())))
            }

            fn visit_bool<E>(self, _: bool) -> Result<ShortText, E> {
                Ok(ShortText(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<ShortText, E> {
                Ok(ShortText(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<ShortText, E> {
                Ok(ShortText(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<ShortText, E> {
                Ok(ShortText(None))
            }

            fn visit_unit<E>(self) -> Result<ShortText, E> {
                Ok(ShortText(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ShortText, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(ShortText(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ShortText, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(ShortText(None))
            }
        }
        deserializer.deserialize_any(Text)
    }
}
