#![allow(clippy::needless_pass_by_value)] // json!(…) is passed by value

use serde_json::json;
use serde_json::value::RawValue;

use super::*;
use crate::inject::rendering::JobTemplate;

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

fn template(job_configuration: Value, properties: Value) -> Box<RawValue> {
    raw(
        &serde_json::json!({"job_configuration": job_configuration, "variables": {"properties": properties}}),
    )
}

/// The job of a template without overrides.
fn with_job<T>(template: &RawValue, read: impl FnOnce(Job<'_>) -> T) -> T {
    let template = JobTemplate::parse(template);
    read(template.job(&template.defaults()))
}

fn namespace_of(template: &RawValue) -> JobNamespace {
    with_job(template, job_namespace)
}

fn targets_other_cluster(template: &RawValue) -> bool {
    with_job(template, has_cluster_config)
}

fn find_shadows(template: &RawValue, keys: &BTreeSet<String>, secret: &str) -> Shadows {
    with_job(template, |job| {
        JobEnvironment::of(job).shadows(keys, secret)
    })
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
        (
            json!({"namespace": "{{ ns }}"}),
            json!({"ns": {"default": "{{ prefect.variables.ns }}"}}),
            JobNamespace::Unknown("{{ prefect.variables.ns }}".to_owned()),
        ),
        (
            json!({"namespace": "{{ $NS }}"}),
            json!({}),
            JobNamespace::Unknown("{{ $NS }}".to_owned()),
        ),
        (
            json!({"namespace": "team-{{ stage }}-{{ n }}{{ unset }}"}),
            json!({"stage": {"default": "dev"}, "n": {"default": 7}}),
            fixed("team-dev-7"),
        ),
        (
            json!({"namespace": "{{ place.ns[0] }}"}),
            json!({"place": {"default": {"ns": ["x"]}}}),
            fixed("x"),
        ),
        (
            json!({"namespace": "{{ a }}"}),
            json!({"a": {"default": "{{ b }}"}, "b": {"default": "x"}}),
            fixed("{{ b }}"),
        ),
        (
            json!({"namespace": null}),
            json!({}),
            JobNamespace::Invalid("null".to_owned()),
        ),
        (
            json!({"namespace": "{{ n }}"}),
            json!({"n": {"default": 7}}),
            JobNamespace::Invalid("7".to_owned()),
        ),
        (
            json!({"namespace": ""}),
            json!({}),
            JobNamespace::Invalid(String::new()),
        ),
    ];
    for (job, properties, expected) in cases {
        assert_eq!(
            namespace_of(&template(job.clone(), properties)),
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
fn sources_are_read_as_the_worker_renders_them() {
    let job = json!({"job_manifest": {"spec": {"template": {"spec": {"containers": [{"envFrom": [
        {"secretRef": {"name": "{{ team }}-secret"}},
        "{{ more }}",
        "{{ unset }}",
        {"prefix": "{{ unset }}", "secretRef": {"name": "plain"}},
        {"prefix": "{{ team }}_", "configMapRef": {"name": "c"}},
        {"secretRef": {"name": "{{ $NAME }}"}},
        "{{ prefect.blocks.json.x }}",
        7,
    ]}]}}}}});
    let made = template(
        job,
        json!({"team": {"default": "a"}, "more": {"default": {"configMapRef": {"name": "m"}}}}),
    );
    let (labels, secrets) = with_job(&made, |job| {
        let labels: Vec<_> = env_from_sources(job).map(|source| source.label).collect();
        let secrets: Vec<_> = env_from_sources(job).filter_map(|s| s.secret).collect();
        (labels, secrets)
    });
    assert_eq!(
        labels,
        [
            "Secret a-secret",
            "ConfigMap m",
            "Secret plain",
            "ConfigMap c (prefix a_)",
            "Secret {{ $NAME }}",
            "{{ prefect.blocks.json.x }}",
        ]
    );
    assert_eq!(secrets, ["a-secret", "plain"]);
}

#[test]
fn a_placeholder_for_the_list_or_above_it_is_followed() {
    let list = json!([{"secretRef": {"name": "s", "optional": true}}]);
    let of = |container: Value, name: &str, default: Value| {
        let job =
            json!({"job_manifest": {"spec": {"template": {"spec": {"containers": container}}}}});
        let made = template(job, json!({name: {"default": default}}));
        with_job(&made, |job| {
            env_from_sources(job)
                .filter_map(|s| s.secret)
                .collect::<Vec<_>>()
        })
    };
    let container = json!({"envFrom": list});
    assert_eq!(
        of(json!([{"envFrom": "{{ x }}"}]), "x", list.clone()),
        ["s"]
    );
    assert_eq!(of(json!("{{ x }}"), "x", json!([container])), ["s"]);
    assert_eq!(of(json!(["{{ x }}"]), "x", container.clone()), ["s"]);
    assert_eq!(of(json!(["{{ gone }}", container]), "x", json!(1)), ["s"]);
}

#[test]
fn a_template_whose_rendering_would_be_huge_costs_its_text() {
    let long = "x".repeat(1 << 20);
    let placeholders = vec!["{{ x }}"; 10_000];
    let job = json!({
        "namespace": placeholders.concat(),
        "job_manifest": {"spec": {"template": {"spec": {"containers": [{
            "envFrom": [{"secretRef": {"name": "{{ x }}{{ x }}"}}, {"secretRef": {"name": "{{ x }}"}}],
            "env": placeholders,
        }]}}}}
    });
    let made = template(job, json!({"x": {"default": long}}));
    assert!(matches!(namespace_of(&made), JobNamespace::Unknown(_)));
    let shadows = find_shadows(&made, &["A".to_owned()].into(), "s");
    assert!(shadows.keys.is_empty());
}

#[test]
fn env_is_merged_as_the_worker_merges_it() {
    let names = |job: Value, properties: Value| {
        with_job(&template(job, properties), |job| {
            JobEnvironment::of(job)
                .names
                .into_iter()
                .collect::<Vec<_>>()
        })
    };
    let manifest =
        |env: Value| json!({"spec": {"template": {"spec": {"containers": [{"env": env}]}}}});
    // The default of the variable `env` counts even if the template does not name it.
    assert_eq!(
        names(
            json!({"env": {"A": "1"}}),
            json!({"env": {"default": {"B": "2"}}})
        ),
        ["A", "B"]
    );
    assert_eq!(
        names(
            json!({"env": "{{ other }}"}),
            json!({"env": {"default": {"B": "2"}}})
        ),
        ["B"]
    );
    // A later value without a value drops the name.
    assert_eq!(
        names(
            json!({"env": {"A": "1"}}),
            json!({"env": {"default": {"A": "{{ unset }}"}}})
        ),
        Vec::<String>::new()
    );
    // Of a list, the worker drops entries without a value; of a container, it keeps them.
    let list = json!([{"name": "A"}, {"name": "B", "value": null}, {"name": "C", "valueFrom": {}}, {"name": "{{ d }}", "value": "x"}]);
    let properties = json!({"d": {"default": "D"}});
    assert_eq!(names(json!({"env": list}), properties.clone()), ["C", "D"]);
    assert_eq!(
        names(json!({"job_manifest": manifest(list)}), properties),
        ["A", "B", "C", "D"]
    );
    // The worker replaces a map in the container.
    assert_eq!(
        names(
            json!({"job_manifest": manifest(json!({"A": "1"}))}),
            json!({})
        ),
        Vec::<String>::new()
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
        namespace_of(&made),
        JobNamespace::Fixed("default".to_owned())
    );
    assert!(!targets_other_cluster(&made));
    assert_eq!(
        find_shadows(&made, &["A".to_owned()].into(), "s"),
        Shadows::default()
    );
}
