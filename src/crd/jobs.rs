//! The Jobs that get the Secret by their labels.
//!
//! Input: `spec.inject.jobs` as users write it.
//! Output: its type and schema, and the names that the admission policy of the chart uses.
//! Invariants: data only. List items have no schema defaults, so that a second apply changes nothing.
//! The names are also in `charts/doppler-prefect-operator/templates/admission.yaml`.

use std::{collections::BTreeMap, fmt::Write};

use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::mount::MountSpec;

/// Name of the `MutatingAdmissionPolicy` and of its binding.
pub const JOBS_POLICY: &str = "doppler-prefect-jobs";
/// Label of a binding with `spec.inject.jobs`. The policy evaluates only these bindings.
pub const SELECTS_JOBS_LABEL: &str = "doppler-prefect.dev/selects-jobs";
/// Annotation of a Job: for each binding whose Secret the policy added, `BINDING/SECRET=HASH`, with a
/// comma between two.
pub const INJECTED_ANNOTATION: &str = "doppler-prefect.dev/injected";

/// The characters that Prefect's worker replaces by dashes.
const REPLACED: &str = " !\"#$%&'()*+,/:;<=>?@[\\]^`{|}~";

/// Selects Jobs by their labels.
///
/// The schema has no defaults in it, as in [`WorkPoolSpec`](super::WorkPoolSpec).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(description = "Selects Jobs by their labels.")]
#[serde(rename_all = "camelCase")]
pub struct JobSelector {
    /// The labels that a Job must have, each with exactly this value, such as
    /// `prefect.io/deployment-name: nightly`. Prefect's worker writes names as slugs: the deployment
    /// `Nightly Job (prod)!` has the label `Nightly-Job-prod`.
    #[schemars(schema_with = "match_labels")]
    pub match_labels: BTreeMap<String, String>,
    /// The `optional` field of the entry. true: pods start even if the Secret is missing, and code
    /// that requires a value fails at once. false: pods stay in `CreateContainerConfigError`, which
    /// Prefect shows as Pending, until the Secret exists. If several items select a Job, the first
    /// one counts. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// Mounts files of `spec.managedSecret.files` in the Job's pods. The volume is optional as the entry
    /// is. A Job that has a volume of the same name, or something at the path, gets the entry without
    /// the mount. If several items select a Job, the first one counts. Default: no mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<MountSpec>,
}

/// The schema of labels, with rules for keys and values.
fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 8,
        "additionalProperties": {
            "type": "string",
            "maxLength": 255,
            "x-kubernetes-validations": [{
                "rule": "size(self) <= 63 && self.matches('^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$')",
                "message": "this value cannot be a label: write the slug that Prefect's worker writes, as kubectl get jobs --show-labels shows it",
                "messageExpression": slug_message(),
            }],
        },
        "x-kubernetes-validations": [{
            "rule": "self.all(k, size(k) <= 317 && k.matches('^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",
            "message": "a key cannot be a label: write one such as prefect.io/deployment-name",
        }],
    })
}

/// The message with the slug of the value, as `inject::job_labels` computes it. It consists of
/// replacements, because the API server refuses a CRD in which `join` could become expensive.
fn slug_message() -> String {
    let mut slug = "self".to_owned();
    for character in REPLACED.chars() {
        let escape = if matches!(character, '\'' | '\\') {
            "\\"
        } else {
            ""
        };
        let _ = write!(slug, ".replace('{escape}{character}', '-')");
    }
    slug.push_str(&".replace('--', '-')".repeat(4));
    slug.push_str(".find('[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?')");
    let message = "this value cannot be a label: write the slug that Prefect\\'s worker writes, ";
    format!(
        "self.matches('^[ -~]*[A-Za-z0-9][ -~]*$') ? '{message}' + {slug} : '{message}as kubectl get jobs --show-labels shows it'"
    )
}

impl JobSelector {
    /// Whether pods start without the Secret, by default true.
    #[must_use]
    pub fn optional(&self) -> bool {
        self.optional.unwrap_or(true)
    }
}
