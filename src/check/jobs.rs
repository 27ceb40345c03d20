//! What the admission policy does to a Job that the binding selects.
//!
//! Input: the binding, and a Job with the labels of each item of `spec.inject.jobs`.
//! Output: findings: what the API server would add to the Job, by a dry run.
//! Invariants: stores nothing. The policy reads the binding that the cluster has, not the file.

use k8s_openapi::api::batch::v1::Job;
use kube::{Api, ResourceExt, api::PostParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    context::{CheckContext, TIMEOUT},
    findings::Findings,
    input::first_line,
};
use crate::{
    controller::admission_policy::{AdmissionPolicy, Availability},
    crd::{DopplerPrefectBinding, INJECTED_ANNOTATION, JobSelector},
    inject::{job_labels::shown_labels, template::volume_name},
};

/// Adds what the policy does to a Job of each item.
pub(super) async fn check_jobs(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    findings: &mut Findings,
) {
    if binding.spec.inject.jobs.is_empty() {
        return;
    }
    let policy = AdmissionPolicy::new(context.client.clone(), TIMEOUT);
    let (availability, _) = policy.availability().await;
    match availability {
        Availability::NotServed | Availability::NotInstalled => {
            let correction = availability.correction().unwrap_or_default();
            return findings.fail("Jobs", correction);
        }
        Availability::Forbidden => findings.note(
            "Jobs",
            "you have no permission to get the MutatingAdmissionPolicy doppler-prefect-jobs; the dry runs show its effect",
        ),
        Availability::Installed | Availability::Unknown => {}
    }
    if binding.metadata.uid.is_none() {
        return findings.note(
            "Jobs",
            "the policy reads the bindings of the cluster, and this one is not applied yet: repeat the check after kubectl apply",
        );
    }
    for selector in &binding.spec.inject.jobs {
        check_selector(context, binding, selector, findings).await;
    }
}

/// Creates a Job with the labels of the selector as a dry run.
async fn check_selector(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    selector: &JobSelector,
    findings: &mut Findings,
) {
    let topic = format!("Jobs with {}", shown_labels(&selector.match_labels));
    let Ok(job) = serde_json::from_value::<Job>(job(selector)) else {
        return findings.fail(&topic, "no Job can have these labels");
    };
    let namespace = binding.namespace().unwrap_or_default();
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let params = PostParams {
        dry_run: true,
        field_manager: None,
    };
    match timeout(TIMEOUT, jobs.create(&params, &job)).await {
        Ok(Ok(created)) => report(binding, selector, &created, &topic, findings),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => findings.note(
            &topic,
            &format!(
                "not checked, because the API server refused a dry run: {}",
                first_line(&status.message)
            ),
        ),
        Ok(Err(kube::Error::Api(status))) => findings.fail(&topic, &first_line(&status.message)),
        Ok(Err(_)) | Err(_) => findings.fail(&topic, "the API server could not be reached"),
    }
}

/// The smallest Job with the labels of the selector.
fn job(selector: &JobSelector) -> Value {
    json!({
        "metadata": {"generateName": "doppler-prefect-check-", "labels": selector.match_labels},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "check", "image": "check"}],
        }}},
    })
}

/// Adds what the policy added to the Job.
fn report(
    binding: &DopplerPrefectBinding,
    selector: &JobSelector,
    job: &Job,
    topic: &str,
    findings: &mut Findings,
) {
    let added = describe(job);
    let status = binding.status.as_ref();
    let secret = status.and_then(|status| status.job_secret_name.as_deref());
    let secret = secret.unwrap_or_else(|| binding.secret_name());
    let wants_mount = selector.mount.is_some() && !mounts_files(job, secret);
    if names(job, secret) && !wants_mount {
        let what = if selector.mount.is_some() {
            "the policy adds to the pod and its first container:"
        } else {
            "the policy adds to the first container:"
        };
        findings.ok_with_details(topic, what, &added);
    } else if names(job, secret) {
        findings.fail(
            topic,
            "the policy adds the Secret and does not mount its files: its status names no Secret with files yet (status.jobFiles), or the policy is one of an older version (upgrade the chart, or apply deploy/admission.yaml)",
        );
    } else {
        findings.fail(
            topic,
            &format!(
                "the policy does not add Secret {secret}: the binding is suspended or being deleted, its stored spec does not select these labels, or its status names no Secret yet (status.jobSecretName)"
            ),
        );
    }
}

fn env_from(job: &Job) -> Value {
    let job = serde_json::to_value(job).unwrap_or_default();
    let list = job.pointer("/spec/template/spec/containers/0/envFrom");
    list.cloned().unwrap_or_default()
}

fn names(job: &Job, secret: &str) -> bool {
    let sources = env_from(job);
    let mut sources = sources.as_array().into_iter().flatten();
    sources.any(|source| source["secretRef"]["name"] == secret)
}

/// Whether the Job has the volume with the files beside the Secret.
fn mounts_files(job: &Job, secret: &str) -> bool {
    let pod = job
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let volumes = pod.and_then(|pod| pod.volumes.as_ref());
    let mut volumes = volumes.into_iter().flatten();
    volumes.any(|volume| volume.name == volume_name(secret))
}

/// The entries of the Job, its volumes and mounts, and its annotation.
fn describe(job: &Job) -> String {
    let record = job.annotations().get(INJECTED_ANNOTATION);
    let record = record.map_or_else(String::new, |record| {
        format!("\n{INJECTED_ANNOTATION}: {record}")
    });
    let value = serde_json::to_value(job).unwrap_or_default();
    let lists = [
        ("volumes", "/spec/template/spec/volumes"),
        (
            "volumeMounts",
            "/spec/template/spec/containers/0/volumeMounts",
        ),
    ];
    let lists = lists.into_iter().filter_map(|(name, pointer)| {
        let list = value.pointer(pointer)?;
        Some(format!("\n{name}: {list:#}"))
    });
    let lists: String = lists.collect();
    format!("envFrom: {:#}{lists}{record}", env_from(job))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn selector() -> JobSelector {
        JobSelector {
            match_labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            optional: None,
            mount: None,
        }
    }

    /// The findings about a Job with these entries.
    fn findings(env_from: &Value) -> Findings {
        let mut made = job(&selector());
        made["metadata"]["annotations"] = json!({INJECTED_ANNOTATION: "etl/etl=h"});
        made["spec"]["template"]["spec"]["containers"][0]["envFrom"] = env_from.clone();
        let made: Job = serde_json::from_value(made).unwrap();
        let binding =
            DopplerPrefectBinding::new("etl", crate::crd::DopplerPrefectBindingSpec::default());
        let mut findings = Findings::default();
        report(&binding, &selector(), &made, "Jobs with a=b", &mut findings);
        findings
    }

    #[test]
    fn a_job_with_the_secret_shows_entry_and_annotation() {
        let found = findings(&json!([{"secretRef": {"name": "etl", "optional": true}}]));
        let text = found.to_string();
        assert!(!found.has_failures(), "{text}");
        assert!(
            text.contains("\"name\": \"etl\"") && text.contains("injected: etl/etl=h"),
            "{text}"
        );
    }

    #[test]
    fn a_job_without_the_files_is_a_failure_if_the_item_has_a_mount() {
        let mount = crate::crd::MountSpec {
            path: "/srv/x".to_owned(),
            files: Vec::new(),
        };
        let selector = JobSelector {
            mount: Some(mount),
            ..selector()
        };
        let binding =
            DopplerPrefectBinding::new("etl", crate::crd::DopplerPrefectBindingSpec::default());
        let volume = json!({"name": "doppler-etl-files", "secret": {"secretName": "etl-files"}});
        for (volumes, fails) in [(json!([]), true), (json!([volume]), false)] {
            let mut made = job(&selector);
            let pod = &mut made["spec"]["template"]["spec"];
            pod["volumes"] = volumes;
            pod["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "etl"}}]);
            let made: Job = serde_json::from_value(made).unwrap();
            let mut findings = Findings::default();
            report(&binding, &selector, &made, "Jobs with a=b", &mut findings);
            assert_eq!(findings.has_failures(), fails, "{findings}");
        }
    }

    #[test]
    fn a_job_without_the_secret_is_a_failure() {
        for sources in [json!(null), json!([{"secretRef": {"name": "other"}}])] {
            let found = findings(&sources);
            assert!(found.has_failures());
            assert!(found.to_string().contains("does not add Secret etl"));
        }
    }
}
