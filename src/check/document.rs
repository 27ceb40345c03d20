//! One binding as it is written in a file.
//!
//! Input: a document, and the namespace of bindings that name none.
//! Output: [`Document`]: the binding with this version's types, and what its CRD refuses; or what the
//! binding resolves to ([`resolve`]).
//! Invariants: sends no request, except to resolve a binding that is valid.

use serde_json::Value;

use super::{
    context::CheckContext,
    findings::Findings,
    input::typed,
    resolve::{self, Resolved},
    schema, servers,
    validate::validate,
};
use crate::crd::DopplerPrefectBinding;

/// One binding as it is written.
pub(super) struct Document {
    /// Kind, namespace and name.
    pub title: String,
    /// Whether it has a name.
    pub is_named: bool,
    /// What this version's CRD refuses.
    pub problems: Vec<String>,
    /// The binding, or why it is none.
    pub binding: Result<DopplerPrefectBinding, String>,
}

impl Document {
    /// Reads a document. A binding without a namespace is in `namespace`.
    pub fn read(written: &Value, namespace: &str) -> Self {
        let stored = schema::stored(written);
        let problems = schema::problems(&stored);
        let name = |field: &str| written["metadata"][field].as_str();
        let (namespace, named) = (name("namespace").unwrap_or(namespace), name("name"));
        let binding = typed(stored).map(|mut binding| {
            binding.metadata.namespace = Some(namespace.to_owned());
            binding
        });
        Self {
            title: format!(
                "DopplerPrefectBinding {namespace}/{}",
                named.unwrap_or_default()
            ),
            is_named: named.is_some(),
            problems,
            binding,
        }
    }
}

/// The Secret that the operator would write for a binding as it is written. `None` after a failure.
pub(crate) async fn resolve(
    context: &CheckContext,
    written: &Value,
    findings: &mut Findings,
) -> Option<Resolved> {
    let document = Document::read(written, &context.namespace);
    findings.title = document.title;
    for problem in &document.problems {
        findings.fail("CRD", problem);
    }
    let binding = match document.binding {
        Ok(binding) => binding,
        Err(why) => {
            findings.fail("spec", &why);
            return None;
        }
    };
    let servers = &context.cluster_servers;
    let server = servers::find(servers, Some(context), &binding, findings).await;
    let may_contact = validate(&binding, &context.hosts, server.as_ref(), findings);
    if findings.has_failures() {
        return None;
    }
    if !may_contact {
        findings.fail(
            "hosts",
            "the operator may not allow a host of this binding: repeat the command with the operator's flags",
        );
        return None;
    }
    resolve::resolve(context, &binding, server.as_ref(), findings).await
}
