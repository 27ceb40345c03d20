//! The admission policy for Jobs: when the chart installs it, and the manifest for users without Helm.
//!
//! Input: versions of Kubernetes, and values.
//! Output: the policy and its binding.

use kube::ResourceExt;
use testkit::control_plane::Version;
use testkit::helm::Helm;
use testkit::{admission, kubernetes};

use super::{CHART, with_sets};

const POLICY: &str = include_str!("../../../deploy/admission.yaml");

#[tokio::test]
async fn plain_policy_equals_the_rendered_chart() {
    let (major, minor, patch) = (1, 37, 2);
    let version = Version {
        major,
        minor,
        patch,
    };
    let rendered = admission::render(version).await.unwrap();
    assert_eq!(
        rendered, POLICY,
        "deploy/admission.yaml is not current: render it again with testkit::admission::render"
    );
}

#[test]
fn policy_is_installed_by_the_version_of_the_api_server() {
    let versions = |kubernetes: &str, sets: &[&str]| {
        let command = ["template", "op", CHART, "--kube-version", kubernetes];
        let output = Helm::V3.run(&with_sets(&command, sets), None).unwrap();
        let objects = kubernetes::documents(&output.success().unwrap()).unwrap();
        let kinds = ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"];
        let policies = objects.into_iter().filter(|object| {
            kinds.contains(&kubernetes::kind(object)) && object.name_any() == "doppler-prefect-jobs"
        });
        let versions = policies.map(|object| object.types.unwrap().api_version);
        versions.collect::<Vec<_>>()
    };
    let group = "admissionregistration.k8s.io";
    let (v1, beta) = (format!("{group}/v1"), format!("{group}/v1beta1"));
    let none: Vec<String> = Vec::new();
    assert_eq!(versions("1.37.2", &[]), [v1.clone(), v1.clone()]);
    assert_eq!(
        versions("1.36.0", &["admission.enabled=true"]),
        [v1.clone(), v1]
    );
    assert_eq!(versions("1.35.4", &[]), none);
    assert_eq!(
        versions("1.34.1", &["admission.enabled=true"]),
        [beta.clone(), beta]
    );
    assert_eq!(versions("1.37.2", &["admission.enabled=false"]), none);
}
