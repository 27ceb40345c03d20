//! A work pool, and the job variables of its deployments.
//!
//! Input: the answers of a Prefect server, and the names of variables.
//! Output: the template as the server wrote it, and the deployments that set one of these
//! variables, in groups of equal values.
//! Invariants: a template may contain secrets, so [`WorkPool`] has no `Debug`. The number of groups
//! and names and the size of values are bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Instant,
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

/// The longest name of a deployment that is kept, in characters.
const MAX_NAME_CHARS: usize = 253;
/// The longest values of one deployment that are kept, in bytes.
const MAX_VARIABLES_BYTES: usize = 4096;
/// Groups that are kept: more than the status shows.
const MAX_GROUPS: usize = 64;
/// Text values that are kept, of all variables.
const MAX_TEXTS: usize = 256;
/// The longest text value that is kept, in bytes: the longest name of a Secret.
const MAX_TEXT_BYTES: usize = 253;
/// Deployments that are named for each group, and for each text value.
pub(super) const MAX_NAMES: usize = 20;

/// A work pool.
#[derive(Clone, Deserialize)]
pub struct WorkPool {
    /// Its type, such as `kubernetes`.
    #[serde(rename = "type")]
    pub pool_type: String,
    /// Its template, as the server wrote it.
    pub base_job_template: Box<RawValue>,
    /// When the request for it was sent.
    #[serde(skip, default = "Instant::now")]
    pub read_at: Instant,
}

/// The deployments of a work pool that set one of the variables that were asked for.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DeploymentOverrides {
    /// Deployments with equal values.
    pub groups: Vec<DeploymentGroup>,
    /// Whether there are more groups, which were dropped.
    pub more_groups: bool,
    /// By variable and by text value, the names of some deployments that set it.
    pub by_text: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Whether there are more values, which were dropped.
    pub more_values: bool,
    /// The pool has more deployments than this number, and only the first by name were read.
    pub truncated_at: Option<usize>,
}

/// Deployments that set the same variables to the same values. The values may be secrets, so there
/// is no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct DeploymentGroup {
    /// The variables as the text of a JSON object. None: too large to keep.
    pub variables: Option<Box<str>>,
    /// The names of some of them.
    pub names: Vec<String>,
}

/// The parts of a deployment that are used.
#[derive(Deserialize)]
pub(super) struct Deployment<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    job_variables: Option<&'a RawValue>,
    /// Their name in the answers of servers before 3.0.
    #[serde(borrow, default)]
    infra_overrides: Option<&'a RawValue>,
}

impl DeploymentOverrides {
    /// Adds a deployment, if it sets one of the variables.
    pub(super) fn add(&mut self, deployment: &Deployment<'_>, variables: &BTreeSet<String>) {
        let variables_set = deployment.job_variables.or(deployment.infra_overrides);
        let Some(job_variables) = variables_set else {
            return;
        };
        let mut decoder = serde_json::Deserializer::from_str(job_variables.get());
        let Ok(selected) = Selected(variables).deserialize(&mut decoder) else {
            return;
        };
        if selected.members == 0 {
            return;
        }
        for (variable, value) in selected.texts {
            self.add_text(variable, value, deployment);
        }
        let group = match self
            .groups
            .iter_mut()
            .position(|group| group.variables == selected.text)
        {
            Some(at) => &mut self.groups[at],
            None if self.groups.len() == MAX_GROUPS => {
                self.more_groups = true;
                return;
            }
            None => {
                self.groups.push(DeploymentGroup {
                    variables: selected.text,
                    names: Vec::new(),
                });
                let last = self.groups.len() - 1;
                &mut self.groups[last]
            }
        };
        if group.names.len() < MAX_NAMES {
            group.names.push(deployment.name());
        }
    }

    fn add_text(&mut self, variable: String, value: String, deployment: &Deployment<'_>) {
        let values = self.by_text.values();
        let count: usize = values.map(BTreeMap::len).sum();
        let of_variable = self.by_text.get(&variable);
        let is_known = of_variable.is_some_and(|values| values.contains_key(&value));
        if !is_known && count >= MAX_TEXTS {
            self.more_values = true;
            return;
        }
        let values = self.by_text.entry(variable).or_default();
        let names = values.entry(value).or_default();
        if names.len() < MAX_NAMES {
            names.push(deployment.name());
        }
    }
}

impl DeploymentGroup {
    /// The variables. None if they are too large to keep.
    #[must_use]
    pub fn parsed(&self) -> Option<Map<String, Value>> {
        serde_json::from_str(self.variables.as_deref()?).ok()
    }
}

impl Deployment<'_> {
    fn name(&self) -> String {
        let name = self.name.map(|name| serde_json::from_str(name.get()));
        let name: String = name.and_then(Result::ok).unwrap_or_default();
        name.chars().take(MAX_NAME_CHARS).collect()
    }
}

/// The short texts to which job variables set these variables. None if they are no object.
pub(super) fn selected_texts(
    job_variables: &RawValue,
    variables: &BTreeSet<String>,
) -> Option<BTreeMap<String, String>> {
    let mut decoder = serde_json::Deserializer::from_str(job_variables.get());
    let selected = Selected(variables).deserialize(&mut decoder).ok()?;
    Some(selected.texts)
}

/// Selects the members of an object that set one of the variables. A key with a dot sets a part of
/// the variable that it begins with.
struct Selected<'a>(&'a BTreeSet<String>);

/// The selected members as the text of an object.
struct SelectedMembers {
    members: usize,
    text: Option<Box<str>>,
    /// The members that are short texts.
    texts: BTreeMap<String, String>,
}

impl<'de> DeserializeSeed<'de> for Selected<'_> {
    type Value = SelectedMembers;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Selected<'_> {
    type Value = SelectedMembers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = 0;
        let mut text = String::from("{");
        let mut fits = true;
        let mut texts = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let root = key.split(['.', '[', ']']).next().unwrap_or_default();
            if !self.0.contains(root) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&RawValue>()?;
            // An escape has at most six bytes for each of the value.
            if self.0.contains(&key)
                && value.get().len() <= 6 * MAX_TEXT_BYTES
                && let Ok(short) = serde_json::from_str::<String>(value.get())
                && short.len() <= MAX_TEXT_BYTES
                && texts.len() < MAX_TEXTS
            {
                texts.insert(key.clone(), short);
            }
            fits &= text.len() + key.len() + value.get().len() <= MAX_VARIABLES_BYTES;
            if fits {
                let separator = if members > 0 { "," } else { "" };
                text.push_str(separator);
                text.push_str(&Value::String(key).to_string());
                text.push(':');
                text.push_str(value.get());
            }
            members += 1;
        }
        text.push('}');
        Ok(SelectedMembers {
            members,
            text: fits.then(|| text.into_boxed_str()),
            texts,
        })
    }
}
