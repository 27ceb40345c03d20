//! Validates a binding without a network.
//!
//! Input: a binding and the allowed hosts.
//! Output: findings about its spec.
//! Invariants: pure. [`super::schema`] has applied the CRD before.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::{context::Hosts, findings::Findings};
use crate::{
    controller::connect::{check_text_fields, doppler_host},
    crd::DopplerPrefectBinding,
    prefect::connection::{api_url_of, check_server},
    secret::{DesiredInput, ForbiddenNames, HashKey, desired},
};

/// Adds what is wrong with the spec, or that it is valid.
pub(super) fn validate(binding: &DopplerPrefectBinding, hosts: &Hosts, findings: &mut Findings) {
    let namespace = binding.namespace().unwrap_or_else(|| "default".to_owned());
    validate_rules(binding, findings);
    validate_hosts(binding, &namespace, hosts, findings);
    validate_secret(binding, &namespace, findings);
    if !findings.has_failures() {
        findings.ok("spec", "valid");
    }
}

/// The text fields, which the CRD of an older version may not check.
fn validate_rules(binding: &DopplerPrefectBinding, findings: &mut Findings) {
    let spec = &binding.spec;
    if let Err(failure) = check_text_fields(spec) {
        let text = format!("{}: {}", failure.reason, failure.message);
        findings.fail("spec", &text);
    }
}

fn validate_hosts(
    binding: &DopplerPrefectBinding,
    namespace: &str,
    hosts: &Hosts,
    findings: &mut Findings,
) {
    if let Some(prefect) = &binding.spec.prefect {
        match api_url_of(&prefect.server, namespace) {
            Err(error) => findings.fail("Prefect", &error.to_string()),
            Ok(url) => {
                if let Err(error) = check_server(&prefect.server, namespace, &url, &hosts.prefect) {
                    findings.fail("Prefect", &error.to_string());
                }
            }
        }
    }
    if let Err(failure) = doppler_host(&hosts.doppler, binding.spec.doppler.host.as_deref()) {
        findings.fail("Doppler", &failure.message);
    }
}

/// Globs, labels and annotations, by building a Secret without values.
fn validate_secret(binding: &DopplerPrefectBinding, namespace: &str, findings: &mut Findings) {
    let input = DesiredInput {
        binding: &binding.name_any(),
        binding_uid: "",
        namespace,
        doppler: &binding.spec.doppler,
        managed: &binding.spec.managed_secret,
        // Without values, no name is forbidden.
        forbidden: &ForbiddenNames::default(),
        project: "",
        config: "",
        key: &HashKey::generate(),
    };
    if let Err(error) = desired(&input, &BTreeMap::new()) {
        findings.fail("spec", &error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::input::parse_bindings,
        outbound::{AllowedHosts, AllowedServers},
    };

    const SMALLEST: &str = include_str!("../../examples/smallest.yaml");

    fn validate_offline(text: &str) -> Findings {
        let list = |entry: &str| [entry.to_owned()];
        let (host, service) = (list("api.prefect.cloud"), list("prefect/prefect-server"));
        let hosts = Hosts {
            prefect: AllowedServers::parse(&host, &service).unwrap(),
            doppler: AllowedHosts::parse("--allowed-doppler-host", &list("api.doppler.com"))
                .unwrap(),
        };
        let mut findings = Findings::default();
        let binding = parse_bindings(text).remove(0).unwrap();
        validate(&binding, &hosts, &mut findings);
        findings
    }

    #[test]
    fn smallest_example_is_valid() {
        let findings = validate_offline(SMALLEST);
        assert!(!findings.has_failures(), "{findings}");
    }

    #[test]
    fn reports_a_control_character_with_its_field() {
        let findings = validate_offline(
            &SMALLEST.replace("spec:", "spec:\n  doppler: {project: \"my\\tproject\"}"),
        );
        let expected = "FAIL  spec: InvalidSpec: spec.doppler.project: remove control characters";
        assert!(findings.to_string().contains(expected), "{findings}");
    }

    #[test]
    fn reports_a_disallowed_service_with_its_flag() {
        let text = SMALLEST.replace("name: prefect-server", "name: database");
        let findings = validate_offline(&text).to_string();
        let expected = "spec.prefect.server.name: Service prefect/database is not an allowed";
        assert!(
            findings.contains(expected) && findings.contains("--allowed-prefect-service"),
            "{findings}"
        );
    }

    #[test]
    fn reports_a_disallowed_host_with_its_flag() {
        let findings = validate_offline(&SMALLEST.replace(
            "spec:",
            "spec:\n  doppler: {host: \"https://evil.example.com\"}",
        ));
        assert!(
            findings.has_failures() && findings.to_string().contains("--allowed-doppler-host"),
            "{findings}"
        );
    }
}
