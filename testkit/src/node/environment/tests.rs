use super::*;
use serde_json::{Value, json};

fn resolved(container: Value, sources: &Sources) -> Result<BTreeMap<String, String>, String> {
    let mut container = container;
    container["name"] = json!("c");
    let container: Container = serde_json::from_value(container).unwrap();
    let pod: Pod = serde_json::from_value(json!({"metadata": {
            "name": "p", "namespace": "flows", "labels": {"team": "blue"}}}))
    .unwrap();
    resolve(&container, &pod, sources).map(|env| env.0)
}

fn sources() -> Sources {
    let secret = |entries: &[(&str, &str)]| {
        let pairs = entries.iter();
        Some(
            pairs
                .map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec()))
                .collect(),
        )
    };
    Sources {
        secrets: [
            (
                "first".to_owned(),
                secret(&[("A", "first"), ("B", "first")]),
            ),
            (
                "second".to_owned(),
                secret(&[("B", "second"), ("dotted.name", "$(A)")]),
            ),
            ("gone".to_owned(), None),
        ]
        .into(),
        config_maps: [(
            "settings".to_owned(),
            Some([("C".to_owned(), "map".to_owned())].into()),
        )]
        .into(),
    }
}

fn pairs(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let entries = entries.iter();
    entries
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[test]
fn later_env_from_wins_and_is_not_expanded() {
    let env = resolved(
        json!({"envFrom": [{"secretRef": {"name": "first"}}, {"secretRef": {"name": "second"}}]}),
        &sources(),
    );
    assert_eq!(
        env,
        Ok(pairs(&[
            ("A", "first"),
            ("B", "second"),
            ("dotted.name", "$(A)")
        ]))
    );
}

#[test]
fn env_overrides_env_from_and_expands_earlier_names() {
    let env = resolved(
        json!({
            "envFrom": [{"secretRef": {"name": "first"}}, {"configMapRef": {"name": "settings"}, "prefix": "P_"}],
            "env": [{"name": "A", "value": "own"}, {"name": "D", "value": "$(A)-$(B)-$(P_C)-$(E)"}, {"name": "E", "value": ""}],
        }),
        &sources(),
    );
    assert_eq!(
        env,
        Ok(pairs(&[
            ("A", "own"),
            ("B", "first"),
            ("D", "own-first-map-$(E)"),
            ("E", ""),
            ("P_C", "map")
        ]))
    );
}

#[test]
fn a_missing_secret_blocks_the_container_unless_optional() {
    let with =
        |optional| json!({"envFrom": [{"secretRef": {"name": "gone", "optional": optional}}]});
    assert_eq!(
        resolved(with(false), &sources()),
        Err("secret \"gone\" not found".to_owned())
    );
    assert_eq!(resolved(with(true), &sources()), Ok(BTreeMap::new()));
}

#[test]
fn a_missing_key_blocks_the_container_unless_optional() {
    let with = |optional| json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "first", "key": "Z", "optional": optional}}}]});
    assert_eq!(
        resolved(with(false), &sources()),
        Err("couldn't find key Z in Secret flows/first".to_owned())
    );
    assert_eq!(resolved(with(true), &sources()), Ok(BTreeMap::new()));
}

#[test]
fn pod_fields_are_resolved() {
    let var = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let env = resolved(
        json!({"env": [var("NS", "metadata.namespace"), var("TEAM", "metadata.labels['team']")]}),
        &sources(),
    );
    assert_eq!(env, Ok(pairs(&[("NS", "flows"), ("TEAM", "blue")])));
}

#[test]
fn command_line_is_command_then_args_expanded() {
    let container: Container = serde_json::from_value(
        json!({"name": "c", "command": ["sh", "-c"], "args": ["echo $(A) $(B)"]}),
    )
    .unwrap();
    let env = Environment(pairs(&[("A", "1")]));
    assert_eq!(command_line(&container, &env), ["sh", "-c", "echo 1 $(B)"]);
}

#[test]
fn collects_every_referenced_object() {
    let container: Container = serde_json::from_value(json!({
        "name": "c",
        "envFrom": [{"secretRef": {"name": "a"}}, {"configMapRef": {"name": "b"}}],
        "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}},
                {"name": "Y", "valueFrom": {"configMapKeyRef": {"name": "d", "key": "k"}}}],
    }))
    .unwrap();
    let needed = References::of(&container);
    assert_eq!(needed.secrets, ["a".to_owned(), "c".to_owned()].into());
    assert_eq!(needed.config_maps, ["b".to_owned(), "d".to_owned()].into());
}
