//! Validates a binding without a network.
//!
//! Input: a binding and the allowed hosts.
//! Output: findings about its spec.
//! Invariants: pure. [`super::schema`] has applied the CRD before.

use kube::ResourceExt;
use url::Url;

use super::{context::Hosts, findings::Findings};
use crate::{
    controller::{
        connect::{check_text_fields, doppler_host},
        prefect_server::PrefectServer,
    },
    crd::DopplerPrefectBinding,
    prefect::{
        ServerError,
        connection::{api_url_of, check_server},
    },
    secret::{DesiredInput, ForbiddenNames, HashKey, desired},
};

/// Adds what is wrong with the spec, or that it is valid. Returns whether the operator is known to
/// allow its hosts.
pub(super) fn validate(
    binding: &DopplerPrefectBinding,
    hosts: &Hosts,
    server: Option<&PrefectServer>,
    findings: &mut Findings,
) -> bool {
    let namespace = binding.namespace().unwrap_or_else(|| "default".to_owned());
    validate_rules(binding, findings);
    let is_allowed = validate_hosts(binding, server, hosts, findings);
    validate_secret(binding, &namespace, findings);
    if !findings.has_failures() {
        findings.ok("spec", "valid");
    }
    is_allowed
}

/// The text fields, which the CRD of an older version may not check.
fn validate_rules(binding: &DopplerPrefectBinding, findings: &mut Findings) {
    let spec = &binding.spec;
    if let Err(failure) = check_text_fields(spec) {
        let text = format!("{}: {}", failure.reason, failure.message);
        findings.fail("spec", &text);
    }
}

/// Whether the operator is known to allow both hosts.
fn validate_hosts(
    binding: &DopplerPrefectBinding,
    server: Option<&PrefectServer>,
    hosts: &Hosts,
    findings: &mut Findings,
) -> bool {
    let mut refused = Vec::new();
    let namespace = binding.namespace().unwrap_or_else(|| "default".to_owned());
    if let Some(server) = server {
        let namespace = server.namespace(&namespace);
        match api_url_of(&server.spec, namespace) {
            Err(error) => findings.fail("Prefect", &server.explain(error.into()).message),
            Ok(url) => {
                if let Err(error) = check_server(&server.spec, namespace, &url, &hosts.prefect) {
                    let assumed = match &error {
                        ServerError::HostNotAllowed { refused, .. } if refused.is_unlisted() => {
                            match server.spec.name {
                                Some(_) => hosts.assumed.prefect_services,
                                None => hosts.assumed.prefect_hosts,
                            }
                        }
                        _ => false,
                    };
                    let message = server.explain(error.into()).message;
                    refused.push(("Prefect", message, assumed));
                }
            }
        }
    }
    let host = binding.spec.doppler.host.as_deref();
    if let Err(failure) = doppler_host(&hosts.doppler, host) {
        let url = host.and_then(|host| Url::parse(host).ok());
        let error = url.and_then(|url| hosts.doppler.check(&url).err());
        let assumed = hosts.assumed.doppler_hosts && error.is_some_and(|error| error.is_unlisted());
        refused.push(("Doppler", failure.message, assumed));
    }
    for (topic, message, assumed) in &refused {
        if *assumed {
            let why = &hosts.assumed.why;
            findings.note(
                topic,
                &format!(
                    "{message}; the operator may have other settings, which are not known: {why}"
                ),
            );
        } else {
            findings.fail(topic, message);
        }
    }
    refused.is_empty()
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
        key: &HashKey::generate(),
    };
    if let Err(error) = desired(&input, &[]) {
        findings.fail("spec", &error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        args::OperatorSettingArgs,
        check::operator_settings::{Assumed, OperatorSettings},
    };
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
            assumed: Assumed::default(),
        };
        findings_for(text, &hosts)
    }

    fn findings_for(text: &str, hosts: &Hosts) -> Findings {
        let mut findings = Findings::default();
        let binding = parse_bindings(text).remove(0).unwrap();
        let own = binding.spec.prefect.as_ref();
        let own = own.and_then(|prefect| prefect.server.clone());
        let server = own.map(PrefectServer::own);
        validate(&binding, hosts, server.as_ref(), &mut findings);
        findings
    }

    #[test]
    fn unknown_settings_make_an_unlisted_host_a_note() {
        let unknown = || Err("no permission".to_owned());
        let settings = OperatorSettings::new(OperatorSettingArgs::default(), unknown());
        let hosts = Hosts::new(&settings).unwrap();
        let with = |host: &str| {
            let spec = format!("spec:\n  doppler: {{host: \"{host}\"}}");
            findings_for(&SMALLEST.replace("spec:", &spec), &hosts)
        };
        let findings = with("https://doppler.example.com");
        let text = findings.to_string();
        assert!(!findings.has_failures(), "{text}");
        assert!(text.contains("note  Doppler: ") && text.contains("not known: no permission"));
        for host in ["http://169.254.169.254", "https://user@doppler.example.com"] {
            assert!(with(host).has_failures(), "{host}");
        }
        let server = "spec:\n  prefect: {server: {name: a, namespace: other}}\nunused:";
        let findings = findings_for(&SMALLEST.replace("spec:", server), &hosts);
        assert!(!findings.has_failures(), "{findings}");
        assert!(
            findings.to_string().contains("note  Prefect: "),
            "{findings}"
        );
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
