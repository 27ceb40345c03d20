#![allow(clippy::needless_pass_by_value)] // json!(…) is passed by value

use serde_json::json;

use super::*;

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

fn template(job_configuration: Value, properties: Value) -> Box<RawValue> {
    raw(
        &serde_json::json!({"job_configuration": job_configuration, "variables": {"properties": properties}}),
    )
}

#[test]
fn reads_the_namespace_of_the_job_configuration() {
    let fixed = |name: &str| JobNamespace::Fixed(name.to_owned());
    let cases = [
        (
            json!({"namespace": "{{ namespace }}"}),
            json!({"namespace": {"default": "flows"}}),
            fixed("flows"),
        ),
        (
            json!({"namespace": "{{ namespace }}"}),
            json!({}),
            fixed("default"),
        ),
        (
            json!({"namespace": "{{ ns }}"}),
            json!({"ns": {"default": "x"}}),
            fixed("x"),
        ),
        (
            json!({"namespace": "team"}),
            json!({"namespace": {"default": "flows"}}),
            fixed("team"),
        ),
        (
            json!({}),
            json!({"namespace": {"default": "flows"}}),
            fixed("default"),
        ),
        (
            json!({"namespace": "team", "job_manifest": {"metadata": {"namespace": "other"}}}),
            json!({}),
            fixed("team"),
        ),
        (
            json!({"namespace": "{{ prefect.variables.ns }}"}),
            json!({}),
            JobNamespace::Unknown("{{ prefect.variables.ns }}".to_owned()),
        ),
    ];
    for (job, properties, expected) in cases {
        assert_eq!(
            job_namespace(&template(job.clone(), properties)),
            expected,
            "{job}"
        );
    }
}

#[test]
fn a_set_cluster_config_means_another_cluster() {
    let placeholder = json!({"cluster_config": "{{ cluster_config }}"});
    assert!(!targets_other_cluster(&template(json!({}), json!({}))));
    assert!(!targets_other_cluster(&template(
        placeholder.clone(),
        json!({"cluster_config": {"default": null}})
    )));
    assert!(targets_other_cluster(&template(
        placeholder,
        json!({"cluster_config": {"default": {"$ref": {"block_document_id": "x"}}}})
    )));
    assert!(targets_other_cluster(&template(
        json!({"cluster_config": {"config": {}}}),
        json!({})
    )));
    assert!(targets_other_cluster(&template(
        json!({"cluster_config": "{{ prefect.blocks.kubernetes-cluster-config.x }}"}),
        json!({})
    )));
}

#[test]
fn reports_shadowed_keys_and_later_sources() {
    let keys: BTreeSet<String> = ["A", "B", "C", "D"].map(str::to_owned).into();
    let job = json!({
        "env": "{{ env }}",
        "job_manifest": {"spec": {"template": {"spec": {"containers": [{
            "env": [{"name": "B", "value": "1"}, {"name": "Z"}],
            "envFrom": [{"secretRef": {"name": "s", "optional": true}}, {"configMapRef": {"name": "c"}}, {"secretRef": {"name": "t"}}],
        }]}}}}
    });
    let shadows = find_shadows(
        &template(job, json!({"env": {"default": {"A": "x", "Y": "y"}}})),
        &keys,
        "s",
    );
    assert_eq!(shadows.keys, ["A", "B"]);
    assert_eq!(shadows.later_sources, ["ConfigMap c", "Secret t"]);
}

#[test]
fn a_source_with_a_prefix_shadows_only_names_with_it() {
    let shadows_of = |keys: &[&str]| {
        let keys: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let job = json!({
            "job_manifest": {"spec": {"template": {"spec": {"containers": [{"envFrom": [
                {"secretRef": {"name": "s", "optional": true}},
                {"prefix": "DB_", "secretRef": {"name": "t"}},
                {"prefix": "", "configMapRef": {"name": "c"}},
            ]}]}}}}
        });
        find_shadows(&template(job, json!({})), &keys, "s").later_sources
    };
    assert_eq!(shadows_of(&["A"]), ["ConfigMap c"]);
    assert_eq!(
        shadows_of(&["A", "DB_URL"]),
        ["Secret t (prefix DB_)", "ConfigMap c"]
    );
}

#[test]
fn a_null_in_env_shadows_nothing() {
    let job = json!({"env": "{{ env }}"});
    let keys: BTreeSet<String> = ["A", "B"].map(str::to_owned).into();
    let made = template(job, json!({"env": {"default": {"A": null, "B": "x"}}}));
    assert_eq!(find_shadows(&made, &keys, "s").keys, ["B"]);
}

#[test]
fn reads_prefects_default_template() {
    let job = json!({
        "env": "{{ env }}", "namespace": "{{ namespace }}", "cluster_config": "{{ cluster_config }}",
        "job_manifest": {"spec": {"template": {"spec": {"containers": [{"env": "{{ env }}"}]}}}}
    });
    let made = template(
        job,
        json!({"env": {"type": "object"}, "namespace": {"default": "default"}, "cluster_config": {"default": null}}),
    );
    assert_eq!(
        job_namespace(&made),
        JobNamespace::Fixed("default".to_owned())
    );
    assert!(!targets_other_cluster(&made));
    assert_eq!(
        find_shadows(&made, &["A".to_owned()].into(), "s"),
        Shadows::default()
    );
}
