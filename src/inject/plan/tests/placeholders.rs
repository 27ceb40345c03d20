//! Templates with placeholders, and deployments that override variables.

use super::*;

/// The default template of the tests with one part replaced, and further variables.
fn changed(from: &str, to: &str, properties: serde_json::Value) -> Box<RawValue> {
    let text = template(json!(null)).get().to_owned();
    assert!(text.contains(from), "{from}");
    let mut changed: serde_json::Value = serde_json::from_str(&text.replace(from, to)).unwrap();
    for (name, property) in properties.as_object().unwrap() {
        changed["variables"]["properties"][name] = property.clone();
    }
    RawValue::from_string(changed.to_string()).unwrap()
}

#[test]
fn an_entry_in_the_default_of_a_placeholder_counts() {
    let placeholder = |default: serde_json::Value| {
        changed(
            "\"name\":\"prefect-job\"",
            "\"name\":\"prefect-job\",\"envFrom\":\"{{ env_from }}\"",
            json!({"env_from": {"type": "array", "default": default}}),
        )
    };
    for mode in [InjectMode::Patch, InjectMode::Observe] {
        let claim = Claim {
            mode,
            keys: Arc::new(["KEY".to_owned()].into()),
            ..claim("s", Want::Present)
        };
        let empty = placeholder(json!([]));
        let (edited, observation) = plan_one(&view(&empty), &claim);
        assert_eq!(
            (edited, observation.state),
            (false, Some(State::NotEditable))
        );
        let advice = format!(
            "put {} into the list `variables.properties.env_from.default`",
            entry("s")
        );
        assert!(
            observation.message.contains(&advice),
            "{}",
            observation.message
        );
        // The user does what the message says.
        let followed = placeholder(json!([entry("s"), {"configMapRef": {"name": "c"}}]));
        let (edited, observation) = plan_one(&view(&followed), &claim);
        assert_eq!(
            (edited, observation.phase, observation.state),
            (false, Phase::Injected, Some(State::AlreadyPresent))
        );
        assert_eq!(observation.later_sources, ["ConfigMap c"]);
        // Nothing is taken away from the user.
        let leave = Claim {
            want: Want::Absent,
            ..claim
        };
        let (edited, observation) = plan_one(&view(&followed), &leave);
        assert_eq!((edited, observation.phase), (false, Phase::Removed));
    }
}

#[test]
fn an_entry_whose_name_is_a_placeholder_counts() {
    let with = template(json!([{"secretRef": {"name": "{{ namespace }}-s", "optional": true}}]));
    let (edited, observation) = plan_one(&view(&with), &claim("flows-s", Want::Present));
    assert_eq!(
        (edited, observation.state),
        (false, Some(State::AlreadyPresent))
    );
    // A deployment with another value does without the Secret.
    let others = deployments(&[("nightly", json!({"namespace": "flows"}))]);
    let listed = PoolView {
        deployments: Some(&others),
        ..view(&with)
    };
    let (_, observation) = plan_one(&listed, &claim("flows-s", Want::Present));
    assert_eq!(observation.unchecked_deployments, None);
    let with = changed(
        "\"name\":\"prefect-job\"",
        "\"name\":\"prefect-job\",\"envFrom\":[{\"secretRef\":{\"name\":\"{{ which }}\"}}]",
        json!({"which": {"default": "s"}}),
    );
    let others = deployments(&[("nightly", json!({"which": "t"}))]);
    let listed = PoolView {
        deployments: Some(&others),
        ..view(&with)
    };
    let (_, observation) = plan_one(&listed, &claim("s", Want::Present));
    assert_eq!(observation.state, Some(State::AlreadyPresent));
    let clause = observation.unchecked_deployments.unwrap();
    assert!(
        clause.contains("deployments nightly") && clause.contains("do not get the Secret"),
        "{clause}"
    );
}

#[test]
fn job_variables_count_for_the_variables_that_the_template_uses() {
    let strict = Claim {
        optional: false,
        ..claim("s", Want::Present)
    };
    let state_of = |template: &RawValue, of: &[(&str, serde_json::Value)]| {
        let used = destination_variables(template);
        let all = deployments(of);
        // The client keeps the variables that are used.
        let groups = all.groups.into_iter().filter(|group| {
            let variables = group.parsed().unwrap_or_default();
            variables.is_empty() || variables.keys().any(|name| used.contains(name))
        });
        let deployments = DeploymentOverrides {
            groups: groups.collect(),
            ..DeploymentOverrides::default()
        };
        let view = PoolView {
            deployments: Some(&deployments),
            ..view(template)
        };
        let (edited, observation) = plan_one(&view, &strict);
        (edited, observation.state, observation.unserved_namespaces)
    };
    let elsewhere = |namespace: &str| {
        (
            false,
            Some(State::OtherNamespace),
            vec![namespace.to_owned()],
        )
    };
    let served = || (true, None, Vec::<String>::new());
    // A literal namespace, which the worker does not take from the job variables.
    let literal = changed("{{ namespace }}", NAMESPACE, json!({}));
    let other = json!({"namespace": "other"});
    assert_eq!(state_of(&literal, &[("d", other.clone())]), served());
    // Another variable.
    let renamed = changed(
        "{{ namespace }}",
        "{{ k8s_namespace }}",
        json!({"k8s_namespace": {"default": NAMESPACE}}),
    );
    assert_eq!(state_of(&renamed, &[("d", other)]), served());
    let other = json!({"k8s_namespace": "other"});
    assert_eq!(state_of(&renamed, &[("d", other)]), elsewhere("other"));
    // In the middle of a text.
    let middle = changed(
        "{{ namespace }}",
        "{{ team }}ws",
        json!({"team": {"default": "flo"}}),
    );
    let team = json!({"team": "ne"});
    assert_eq!(state_of(&middle, &[("d", team)]), elsewhere("news"));
    assert_eq!(
        state_of(&middle, &[("d", json!({"team": "flo"}))]),
        served()
    );
    // A value for which the worker starts no job concerns no job.
    let plain = template(json!(null));
    assert_eq!(
        state_of(&plain, &[("d", json!({"namespace": 7}))]),
        served()
    );
    assert_eq!(
        state_of(&plain, &[("d", json!({"namespace": null}))]),
        served()
    );
    // Another cluster, a place that only a run knows, and values that are too large to keep.
    for variables in [
        json!({"cluster_config": {"context_name": "far", "config": {}}}),
        json!({"namespace": "{{ prefect.variables.ns }}"}),
        json!(null),
    ] {
        let (edited, state, namespaces) = state_of(&plain, &[("d", variables.clone())]);
        assert_eq!(
            (edited, state, namespaces.len()),
            (false, Some(State::OtherNamespace), 0),
            "{variables}"
        );
    }
}

#[test]
fn a_cluster_config_may_name_this_cluster() {
    let config = json!({"context_name": "in", "config": {}});
    let with_sources = |sources: serde_json::Value| {
        let text = template(sources)
            .get()
            .replace("\"{{ cluster_config }}\"", &config.to_string());
        RawValue::from_string(text).unwrap()
    };
    let (without, with) = (with_sources(json!(null)), with_sources(json!([entry("s")])));
    let patch = |same_cluster| Claim {
        same_cluster,
        ..claim("s", Want::Present)
    };
    let (edited, observation) = plan_one(&view(&without), &patch(false));
    assert_eq!(
        (edited, observation.state),
        (false, Some(State::OtherCluster))
    );
    assert!(
        observation.message.contains("sameCluster: true"),
        "{}",
        observation.message
    );
    let (edited, observation) = plan_one(&view(&without), &patch(true));
    assert!(edited);
    assert_eq!(observation.unchecked_deployments, None);
    // Observe counts the entry all the same, and says where the jobs run.
    let observe = Claim {
        mode: InjectMode::Observe,
        ..patch(false)
    };
    let (_, observation) = plan_one(&view(&with), &observe);
    assert_eq!(
        (observation.phase, observation.state),
        (Phase::Injected, Some(State::AlreadyPresent))
    );
    let clause = observation.unchecked_deployments.unwrap();
    assert!(
        clause.contains("the cluster of its cluster_config"),
        "{clause}"
    );
    let (_, observation) = plan_one(&view(&without), &observe);
    assert_eq!(observation.state, Some(State::Absent));
}

#[test]
fn same_cluster_speaks_for_the_pool_and_not_for_overrides() {
    let here = json!({"context_name": "in", "config": {}});
    let text = template(json!(null)).get().replace(
        "\"cluster_config\":{\"default\":null}",
        &format!("\"cluster_config\":{{\"default\":{here}}}"),
    );
    let template = RawValue::from_string(text).unwrap();
    let strict = Claim {
        optional: false,
        same_cluster: true,
        ..claim("s", Want::Present)
    };
    let there = json!({"context_name": "far", "config": {}});
    for (variables, edits) in [
        (json!({"namespace": NAMESPACE}), true),
        (json!({"cluster_config": here}), true),
        (json!({"cluster_config": null}), true),
        (json!({"cluster_config": there}), false),
        (
            json!({"cluster_config": {"$ref": {"block_document_id": "x"}}}),
            false,
        ),
    ] {
        let others = deployments(&[("d", variables.clone())]);
        let listed = PoolView {
            deployments: Some(&others),
            ..view(&template)
        };
        let (edited, observation) = plan_one(&listed, &strict);
        assert_eq!(edited, edits, "{variables} {observation:?}");
    }
}

#[test]
fn deployments_in_unknown_places_are_named() {
    let plain = template(json!(null));
    let many: Vec<_> = (0..7)
        .map(|n| (format!("d{n}"), json!({"cluster_config": {"config": n}})))
        .collect();
    let many: Vec<_> = many.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    let others = deployments(&[&many[..], &[("e", json!(null))]].concat());
    let listed = PoolView {
        deployments: Some(&others),
        ..view(&plain)
    };
    let (edited, observation) = plan_one(&listed, &claim("s", Want::Present));
    assert!(edited);
    let clauses = observation.unchecked_deployments.unwrap();
    assert!(
        clauses.contains("deployments d0, d1, d2, d3, d4 and 2 more of work pool k8s send jobs to another cluster")
            && clauses.contains("deployments e of work pool k8s set variables that only a run resolves"),
        "{clauses}"
    );
}

#[test]
fn a_source_that_a_block_replaces_names_no_secret() {
    let with = template(json!([{
        "secretRef": {"name": "s", "optional": true},
        "$ref": {"block_document_id": "x"},
    }]));
    let (edited, observation) = plan_one(&view(&with), &claim("s", Want::Present));
    assert_eq!((edited, observation.phase), (true, Phase::InProgress));
}
