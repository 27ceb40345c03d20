//! Compares what the operator reads in a template with the job that the real worker makes of it.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::*;
use crate::inject::job_environment::{
    JobEnvironment, JobNamespace, has_cluster_config, job_namespace,
};

/// Prefect's default template of a pool of type kubernetes.
const TEMPLATE: &str = include_str!("../../../testkit/fixtures/prefect-base-job-template.json");
const CASES: usize = 1000;
/// The worker's environment, which the operator does not know.
const RUN: &str = "only-a-run";

/// Texts with and without placeholders.
fn text() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        "flows",
        "team-secret",
        "",
        "{{ a }}",
        "{{a}}",
        "{{ b }}",
        "{{ c.k }}",
        "{{ c.list[0] }}",
        "{{ c.list[-1].k }}",
        "{{ namespace }}",
        "{{ undeclared }}",
        " {{ a }}",
        "x-{{ a }}",
        "{{ a }}{{ b }}",
        "{{ a }}-{{ undeclared }}",
        "{{ {{ a }} }}",
        "{{{ b }}}",
        "{{ a[0] }}",
        "{{ $RUN }}",
        "{{ prefect.variables.x }}",
        "{ a }",
    ])
    .prop_map(Value::from)
}

/// Values of variables.
fn value() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!("flows"),
        json!("other"),
        json!("team-secret"),
        json!(""),
        json!("{{ b }}"),
        json!("{{ prefect.variables.x }}"),
        json!("{{ $RUN }}"),
        json!(null),
        json!(7),
        json!(-0.5),
        json!(1e-7),
        json!(2.0),
        json!(true),
        json!([]),
        json!(["x", {"k": "v"}]),
        json!({"k": "v", "list": ["x", {"k": "y"}]}),
        json!({"k": null}),
        json!({"$ref": {"block_document_id": "x"}}),
    ])
}

fn source() -> impl Strategy<Value = Value> {
    let prefix = prop::option::of(text());
    prop_oneof![
        4 => (text(), prefix).prop_map(|(name, prefix)| {
            let mut source = json!({"secretRef": {"name": name, "optional": true}});
            if let Some(prefix) = prefix {
                source["prefix"] = prefix;
            }
            source
        }),
        1 => text().prop_map(|name| json!({"configMapRef": {"name": name}})),
        1 => Just(json!("{{ source }}")),
    ]
}

fn sources() -> impl Strategy<Value = Value> {
    prop::collection::vec(source(), 0..4).prop_map(Value::Array)
}

fn env() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["A", "B", "C"]);
    let map = prop::collection::vec((name, prop_oneof![text(), value()]), 0..4).prop_map(|list| {
        list.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Map<_, _>>()
            .into()
    });
    let entry =
        (text(), prop::option::of(text()), any::<bool>()).prop_map(|(name, value, from)| {
            let mut entry = json!({"name": name});
            if let Some(value) = value {
                entry["value"] = value;
            } else if from {
                entry["valueFrom"] = json!({"secretKeyRef": {"name": "n", "key": "k"}});
            }
            entry
        });
    prop_oneof![
        4 => map,
        2 => prop::collection::vec(entry, 0..3).prop_map(Value::Array),
        3 => Just(json!("{{ env }}")),
        1 => text(),
    ]
}

/// Sets the member if there is a value, and removes it otherwise.
fn put(object: &mut Value, key: &str, value: Option<Value>) {
    let object = object.as_object_mut().unwrap();
    match value {
        Some(value) => object.insert(key.to_owned(), value),
        None => object.remove(key),
    };
}

fn template() -> impl Strategy<Value = Value> {
    let cluster = prop_oneof![
        6 => Just(json!("{{ cluster_config }}")),
        1 => Just(json!(null)),
        1 => Just(json!("{{ c }}")),
        1 => Just(json!({"context_name": "far", "config": {}})),
    ];
    let list =
        prop_oneof![3 => sources(), 2 => Just(json!("{{ env_from }}")), 1 => Just(json!(null))];
    let containers = prop::sample::select(vec![
        "literal",
        "{{ containers }}",
        "{{ first }}",
        "{{ undeclared }}",
    ]);
    let configuration = (
        prop::option::of(prop_oneof![4 => text(), 1 => value()]),
        prop::option::of(cluster),
        prop::option::of(env()),
        prop::option::of(env()),
        prop::option::of(list),
        containers,
    );
    let variables = (
        prop::option::of(value()),
        prop::option::of(value()),
        prop::option::of(value()),
        prop::option::of(env()),
        prop::option::of(sources()),
        prop::option::of(source()),
    );
    (configuration, variables).prop_map(|(configuration, variables)| {
        let (namespace, cluster, job_env, container_env, list, containers) = configuration;
        let mut template: Value = serde_json::from_str(TEMPLATE).unwrap();
        let job = &mut template["job_configuration"];
        put(job, "namespace", namespace);
        put(job, "cluster_config", cluster);
        put(job, "env", job_env);
        let pod = &mut job["job_manifest"]["spec"]["template"]["spec"];
        let mut container = pod["containers"][0].take();
        put(&mut container, "env", container_env);
        put(&mut container, "envFrom", list);
        let mut rendered = container.clone();
        put(&mut rendered, "args", None);
        pod["containers"] = match containers {
            "literal" => json!([container]),
            "{{ containers }}" => json!(containers),
            other => json!([other, container]),
        };
        let properties = &mut template["variables"]["properties"];
        let (a, b, c, env, env_from, source) = variables;
        let values = [
            ("a", a),
            ("b", b),
            ("c", c),
            ("env", env),
            ("env_from", env_from),
            ("source", source),
            ("containers", Some(json!([rendered.clone()]))),
            ("first", (containers == "{{ first }}").then_some(rendered)),
        ];
        for (name, default) in values {
            let property = default.map_or(json!({}), |default| json!({"default": default}));
            put(properties, name, Some(property));
        }
        template
    })
}

fn job_variables() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["a", "b", "c", "c.k", "c.list", "a.b.c", "namespace"]);
    let values = prop::collection::btree_map(name, value(), 0..3);
    let env = prop::option::weighted(0.3, env());
    let env_from = prop::option::weighted(0.3, sources());
    (values, env, env_from).prop_map(|(values, env, env_from)| {
        let mut variables = json!(values);
        if let Some(env) = env.filter(|env| !env.is_string()) {
            variables["env"] = env;
        }
        if let Some(env_from) = env_from {
            variables["env_from"] = env_from;
        }
        variables
    })
}

/// What the worker makes of each case.
fn worker_jobs(cases: &[(Value, Value)]) -> Vec<Value> {
    let python = testkit::venv::venv("prefect").unwrap().join("bin/python");
    let home = testkit::folder::ScratchDir::new("rendering").unwrap();
    let mut worker = Command::new(python)
        .args(["-c", include_str!("tests/worker.py")])
        .env("RUN", RUN)
        .env("PREFECT_HOME", home.path())
        .env("PREFECT_LOGGING_TO_API_ENABLED", "false")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = worker.stdin.take().unwrap();
    let lines: Vec<_> = cases
        .iter()
        .map(|(template, job_variables)| {
            json!({"template": template, "job_variables": job_variables}).to_string()
        })
        .collect();
    let writer = std::thread::spawn(move || {
        for line in lines {
            writeln!(input, "{line}").unwrap();
        }
    });
    let output = worker.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Whether the operator cannot know a text of the worker: it has a part of the worker's environment,
/// or it is the text of an object with several keys, the order of which is lost, or a character of
/// another text.
fn is_unknown(text: &str) -> bool {
    let is_character = text.len() == 1 && !matches!(text, "A" | "B" | "C");
    text.contains(RUN) || text.contains("', '") || is_character
}

fn known(names: &Value) -> Vec<&str> {
    let names = names.as_array().unwrap().iter();
    let names = names.map(|name| name.as_str().unwrap());
    names.filter(|name| !is_unknown(name)).collect()
}

/// Whether the real worker's job is the one that the operator expects.
fn compare(case: &(Value, Value), worker: &Value) -> Result<(), String> {
    let (template, job_variables) = case;
    let raw = RawValue::from_string(template.to_string()).unwrap();
    let template = JobTemplate::parse(&raw);
    let Some(variables) = template.overridden(job_variables.as_object().unwrap()) else {
        return Err("the operator expects no job".to_owned());
    };
    let job = template.job(&variables);
    match job_namespace(job) {
        JobNamespace::Fixed(namespace) if worker["namespace"] == *namespace => {}
        JobNamespace::Unknown(_) if worker["namespace"].as_str().is_some_and(is_unknown) => {}
        // The worker replaces them in no certain order.
        JobNamespace::Unknown(text) if text == "{{ a }}{{ b }}" => {}
        JobNamespace::Invalid(text) if text.is_empty() && worker["namespace"] == "" => {}
        other => return Err(format!("namespace {other:?}")),
    }
    if worker["has_cluster_config"] != has_cluster_config(job) {
        return Err("cluster_config".to_owned());
    }
    let environment = JobEnvironment::of(job);
    let names: Vec<_> = environment
        .names()
        .filter(|name| !is_unknown(name))
        .collect();
    if known(&worker["env"]) != names {
        return Err(format!("env {names:?}"));
    }
    let secrets: Vec<_> = environment
        .secrets()
        .filter(|name| !is_unknown(name))
        .collect();
    if known(&worker["secrets"]) != secrets {
        return Err(format!("secrets {secrets:?}"));
    }
    Ok(())
}

#[test]
fn reads_templates_as_the_real_worker_renders_them() {
    let mut runner = TestRunner::deterministic();
    let strategy = (template(), job_variables());
    let cases: Vec<_> = (0..CASES)
        .map(|_| strategy.new_tree(&mut runner).unwrap().current())
        .collect();
    let jobs = worker_jobs(&cases);
    assert_eq!(jobs.len(), cases.len());
    let mut rendered = 0;
    let mut wrong = Vec::new();
    for (case, worker) in cases.iter().zip(&jobs) {
        if worker.get("error").is_some() {
            continue;
        }
        rendered += 1;
        if let Err(why) = compare(case, worker) {
            let (template, job_variables) = case;
            wrong.push(format!(
                "{why}\nworker: {worker}\njob variables: {job_variables}\njob: {}\nvariables: {}",
                template["job_configuration"], template["variables"]["properties"]
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {rendered} jobs differ; some of them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n\n")
    );
    assert!(rendered > CASES / 4, "the worker renders only {rendered}");
}

#[test]
fn knows_what_python_takes_for_true() {
    for value in [
        json!(true),
        json!(7),
        json!(0.5),
        json!(" "),
        json!([null]),
        json!({"": null}),
    ] {
        assert!(is_true(&value), "{value}");
    }
    for value in [
        json!(null),
        json!(false),
        json!(0),
        json!(0.0),
        json!(""),
        json!([]),
        json!({}),
    ] {
        assert!(!is_true(&value), "{value}");
    }
}
