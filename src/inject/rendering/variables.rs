//! The values of a pool's variables: their defaults, and what a deployment overrides.
//!
//! Input: `variables.properties` of a template, and the job variables of a deployment.
//! Output: the value of a name such as `namespace` or `volumes[0].name`.
//! Invariants: pure. The rules are those of the worker: a default of null is no value, and a job
//! variable with a dot in its name sets a part of a variable.

use serde_json::{Map, Value};

/// The values of variables.
#[derive(Clone, Debug)]
pub(in crate::inject) struct Variables<'a> {
    defaults: &'a Map<String, Value>,
    overrides: Map<String, Value>,
}

/// The value of a name.
pub(super) enum Lookup<'a> {
    Found(&'a Value),
    Missing,
    /// A character of a text, such as `{{ name[0] }}`.
    Character,
}

impl<'a> Variables<'a> {
    /// The defaults alone.
    pub(super) fn new(defaults: &'a Map<String, Value>) -> Self {
        let overrides = Map::new();
        Self {
            defaults,
            overrides,
        }
    }

    /// The defaults, overridden by job variables. None if the worker cannot use these.
    pub(super) fn overridden(
        defaults: &'a Map<String, Value>,
        job_variables: &Map<String, Value>,
    ) -> Option<Self> {
        let mut overrides = Map::new();
        let dotted = |key: &str| key.contains('.');
        for (key, value) in job_variables.iter().filter(|(key, _)| dotted(key)) {
            set(&mut overrides, &steps(key), value)?;
        }
        for (key, value) in job_variables.iter().filter(|(key, _)| !dotted(key)) {
            match (overrides.get_mut(key), value) {
                (Some(Value::Object(into)), Value::Object(from)) => merge(into, from),
                _ => {
                    overrides.insert(key.clone(), value.clone());
                }
            }
        }
        Some(Self {
            defaults,
            overrides,
        })
    }

    /// The variable itself.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.overrides.get(name).or_else(|| self.defaults.get(name))
    }

    /// The default of a variable.
    pub(super) fn default_of(&self, name: &str) -> Option<&'a Value> {
        self.defaults.get(name)
    }

    /// The value at a path such as `volumes[0].name`.
    pub(super) fn lookup(&self, path: &str) -> Lookup<'_> {
        let steps = steps(path);
        let first = steps.first().filter(|first| index(first).is_none());
        let Some(mut value) = first.and_then(|first| self.get(first)) else {
            return Lookup::Missing;
        };
        for (nth, step) in steps.iter().enumerate().skip(1) {
            let next = match (value, index(step)) {
                (Value::String(text), Some(at)) => return character(text, at, &steps[nth + 1..]),
                (Value::Array(items), Some(at)) => element(items, at),
                (Value::Object(members), None) => members.get(step),
                _ => None,
            };
            match next {
                Some(next) => value = next,
                None => return Lookup::Missing,
            }
        }
        Lookup::Found(value)
    }
}

/// The steps of a path: `a[0].b` has `a`, `0` and `b`.
fn steps(path: &str) -> Vec<String> {
    let path = path.replace(']', "");
    path.split(['.', '[']).map(str::to_owned).collect()
}

/// The variable that a path begins with.
pub(super) fn root(path: &str) -> String {
    steps(path).swap_remove(0)
}

/// A step that Python reads as a number, which is never a key of an object.
fn index(step: &str) -> Option<i64> {
    let digits = step.strip_prefix('-').unwrap_or(step);
    let plain = digits
        .split('_')
        .all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    plain.then(|| step.replace('_', "").parse().unwrap_or(i64::MAX))
}

/// Python counts a negative index from the end.
fn position(length: usize, at: i64) -> Option<usize> {
    let position = match usize::try_from(at) {
        Ok(at) => at,
        Err(_) => length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?)?,
    };
    (position < length).then_some(position)
}

fn element(items: &[Value], at: i64) -> Option<&Value> {
    items.get(position(items.len(), at)?)
}

/// A character of a text, of which the first and last character is itself.
fn character<'a>(text: &str, at: i64, rest: &[String]) -> Lookup<'a> {
    let exists = position(text.chars().count(), at).is_some();
    if exists && rest.iter().all(|step| matches!(index(step), Some(0 | -1))) {
        Lookup::Character
    } else {
        Lookup::Missing
    }
}

/// Sets a value inside nested objects. None if the path crosses another value.
fn set(into: &mut Map<String, Value>, keys: &[String], value: &Value) -> Option<()> {
    let (last, path) = keys.split_last()?;
    let mut object = into;
    for key in path {
        let inner = object
            .entry(key.clone())
            .or_insert_with(|| Value::Object(Map::new()));
        object = inner.as_object_mut()?;
    }
    object.insert(last.clone(), value.clone());
    Some(())
}

/// Merges objects at every depth; other values replace each other.
fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => merge(into, from),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn found(variables: &Variables<'_>, path: &str) -> Option<Value> {
        match variables.lookup(path) {
            Lookup::Found(value) => Some(value.clone()),
            Lookup::Missing | Lookup::Character => None,
        }
    }

    #[test]
    fn follows_keys_and_indices() {
        let defaults = map(&json!({"a": {"b": [1, {"c": "x"}], "0": 2}, "0": 3, "t": "text"}));
        let variables = Variables::new(&defaults);
        for (path, expected) in [
            ("a.b[1].c", Some(json!("x"))),
            ("a.b.1.c", Some(json!("x"))),
            ("a.b[-2]", Some(json!(1))),
            ("a.b[-3]", None),
            ("a.b[2]", None),
            ("a.b.c", None),
            ("a.0", None),
            ("0", None),
            ("t", Some(json!("text"))),
            ("t.x", None),
            ("missing", None),
        ] {
            assert_eq!(found(&variables, path), expected, "{path}");
        }
        for (path, exists) in [
            ("t[0]", true),
            ("t[1]", true),
            ("t[-1][0]", true),
            ("t[4]", false),
            ("t[0].x", false),
        ] {
            let is_character = matches!(variables.lookup(path), Lookup::Character);
            assert_eq!(is_character, exists, "{path}");
        }
    }

    #[test]
    fn job_variables_override_defaults_in_whole_or_in_part() {
        let defaults = map(&json!({"a": {"x": 1, "y": 2}, "n": "default"}));
        let overridden = |job_variables: Value| {
            let variables = Variables::overridden(&defaults, &map(&job_variables))?;
            Some((found(&variables, "a"), found(&variables, "n")))
        };
        assert_eq!(
            overridden(json!({"n": null})),
            Some((Some(json!({"x": 1, "y": 2})), Some(Value::Null)))
        );
        // A part replaces the default as a whole, as in the worker.
        assert_eq!(
            overridden(json!({"a.x": 7})).unwrap().0,
            Some(json!({"x": 7}))
        );
        assert_eq!(
            overridden(json!({"a.x.y": 7, "a": {"x": {"z": 8}}}))
                .unwrap()
                .0,
            Some(json!({"x": {"y": 7, "z": 8}}))
        );
        assert_eq!(overridden(json!({"a.x": 7, "a.x.y": 8})), None);
        assert_eq!(
            (root("a[0].b"), root("n")),
            ("a".to_owned(), "n".to_owned())
        );
    }
}
