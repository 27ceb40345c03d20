//! The variable of a template by which runs choose a Secret.
//!
//! Input: the template as raw JSON, and the name of the variable.
//! Output: what the template declares under this name, and the declaration that the operator adds.
//! Invariants: edits nothing.

use std::collections::BTreeSet;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::container::{NotEditable, TOP, parse_member};
use crate::crd::NO_CONFIG;
use crate::inject::json_text::{JsonKind, Members, parse_kind};

/// The description that the operator writes. A declaration with it was written by the operator, or
/// copied from what it printed.
const DESCRIPTION: &str = "The Doppler config whose values the run gets, by the name of its Kubernetes Secret. doppler-prefect-operator keeps the list of names.";

/// The members of `variables.properties`, and the text that they are in.
pub(super) struct Properties<'a> {
    pub(super) object: &'a RawValue,
    pub(super) members: Members<'a>,
}

impl<'a> Properties<'a> {
    /// # Errors
    /// If the template has no such object.
    pub(super) fn of(template: &'a RawValue) -> Result<Self, NotEditable> {
        let variables = parse_member(template, TOP, "variables")?;
        let object = parse_member(variables, "variables", "properties")?;
        match parse_kind(object) {
            JsonKind::Object(members) => Ok(Self { object, members }),
            _ => Err(NotEditable::WrongType(
                "variables.properties".to_owned(),
                "an object",
            )),
        }
    }

    /// What is declared under this name.
    pub(super) fn declaration(&self, variable: &str) -> Option<Declaration<'a>> {
        self.members.get(variable).map(Declaration::of)
    }
}

/// What a template declares under the name of a variable.
pub(super) struct Declaration<'a> {
    pub(super) whole: &'a RawValue,
    /// None if it is no object.
    pub(super) members: Option<Members<'a>>,
    /// The list `enum`, and its elements. None if there is no such list.
    pub(super) names: Option<(&'a RawValue, Vec<&'a RawValue>)>,
}

impl<'a> Declaration<'a> {
    fn of(whole: &'a RawValue) -> Self {
        let members = match parse_kind(whole) {
            JsonKind::Object(members) => Some(members),
            _ => None,
        };
        let list = members.as_ref().and_then(|members| members.get("enum"));
        let names = list.and_then(|list| match parse_kind(list) {
            JsonKind::List(elements) => Some((list, elements)),
            _ => None,
        });
        Self {
            whole,
            members,
            names,
        }
    }

    /// The texts in the list, each in its place. None for an element that is no text.
    pub(super) fn texts(&self) -> Vec<Option<String>> {
        let elements = self.names.as_ref().map(|(_, elements)| &**elements);
        let elements = elements.unwrap_or_default().iter();
        elements.map(|element| text_of(element)).collect()
    }

    /// The text of a member.
    pub(super) fn text(&self, member: &str) -> Option<String> {
        text_of(self.members.as_ref()?.get(member)?)
    }
}

fn text_of(value: &RawValue) -> Option<String> {
    match parse_kind(value) {
        JsonKind::Text(text) => Some(text),
        _ => None,
    }
}

/// A variable as the template declares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredVariable {
    /// The names that it offers. None if it has no list, so that a run may choose anything.
    pub names: Option<BTreeSet<String>>,
    /// The text that a run without a choice has.
    pub default: Option<String>,
    /// Whether it has the description that the operator writes.
    pub has_our_description: bool,
}

impl DeclaredVariable {
    /// Whether it still looks like one that the operator wrote, whatever a user changed in it.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        self.has_our_description || self.offers(NO_CONFIG)
    }

    /// Whether its list has the name.
    #[must_use]
    pub fn offers(&self, name: &str) -> bool {
        self.names
            .as_ref()
            .is_some_and(|names| names.contains(name))
    }
}

/// The variable of this name. None if the template does not declare it.
#[must_use]
pub fn declared_variable(template: &RawValue, variable: &str) -> Option<DeclaredVariable> {
    let declaration = Properties::of(template).ok()?.declaration(variable)?;
    let has_list = declaration.names.is_some();
    Some(DeclaredVariable {
        names: has_list.then(|| declaration.texts().into_iter().flatten().collect()),
        default: declaration.text("default"),
        has_our_description: declaration.text("description").as_deref() == Some(DESCRIPTION),
    })
}

/// Whether job variables that the template does not declare are refused.
#[must_use]
pub fn refuses_undeclared(template: &RawValue) -> bool {
    let variables = parse_member(template, TOP, "variables");
    let member = variables.and_then(|of| parse_member(of, "variables", "additionalProperties"));
    member.is_ok_and(|member| member.get() == "false")
}

/// The declaration that offers these names.
#[must_use]
pub fn declaration_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    let names: Vec<&str> = [NO_CONFIG].into_iter().chain(names).collect();
    json!({
        "type": "string",
        "title": "Doppler config",
        "description": DESCRIPTION,
        "enum": names,
        "default": NO_CONFIG,
    })
}
