//! `check --offline` and the API server agree about what the CRD refuses.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::kubernetes;

use super::{client, namespace};
use crate::check::run_with_input;

const EXAMPLES: [&str; 5] = [
    include_str!("../../../examples/files.yaml"),
    include_str!("../../../examples/configs.yaml"),
    include_str!("../../../examples/smallest.yaml"),
    include_str!("../../../examples/everything.yaml"),
    include_str!("../../../examples/self-hosted.yaml"),
];

/// Each place in a spec, as JSON Pointer.
fn places(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(field, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                places(item, &format!("{path}/{at}"), found);
            }
        }
        _ => {}
    }
}

/// The spec with one change at this place, for each kind of change.
fn changes(spec: &Value, place: &str) -> Vec<Value> {
    let with = |value: Value| {
        let mut changed = spec.clone();
        *changed.pointer_mut(place).unwrap() = value;
        changed
    };
    let old = spec.pointer(place).unwrap();
    let mut changed: Vec<Value> = [
        json!(null),
        json!(7),
        json!(1.5),
        json!(true),
        json!(""),
        json!("Upper case\n"),
        json!("http://a.example"),
        json!("1h30m"),
        json!("a".repeat(5000)),
        json!({}),
        json!([]),
    ]
    .into_iter()
    .map(with)
    .collect();
    if let Value::Object(fields) = old {
        let mut unknown = old.clone();
        unknown["unknownField"] = json!("x");
        changed.push(with(unknown));
        for name in fields.keys() {
            let mut fewer = fields.clone();
            fewer.remove(name);
            changed.push(with(Value::Object(fewer)));
        }
        // Fields that exclude or need each other.
        for (name, value) in [
            ("name", json!("a")),
            ("namespace", json!("a")),
            ("remoteApiUrl", json!("https://a.example")),
            ("accountId", json!("1")),
            ("workspaceId", json!("1")),
            ("value", json!("a")),
            ("apiKey", json!({"value": "a"})),
        ] {
            let mut more = old.clone();
            more[name] = value;
            changed.push(with(more));
        }
    }
    if let Value::Array(items) = old {
        let twice = [items.as_slice(), items.as_slice()].concat();
        changed.push(with(json!(twice)));
        changed.push(with(json!(vec![items.clone(); 70].concat())));
    }
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_check_agrees_with_the_api_server() -> Result<()> {
    let client = client().await?;
    namespace(&client, "crd-offline").await?;
    // As kubectl sends it.
    let url = "/apis/doppler-prefect.dev/v1alpha1/namespaces/crd-offline/dopplerprefectbindings?dryRun=All&fieldValidation=Strict";
    let mut bindings: Vec<Value> = Vec::new();
    for example in EXAMPLES {
        let mut binding = serde_json::to_value(&kubernetes::documents(example)?[0])?;
        let spec = binding["spec"].take();
        let mut found = Vec::new();
        places(&spec, "", &mut found);
        for spec in found.iter().flat_map(|place| changes(&spec, place)) {
            binding["metadata"] = json!({"name": format!("case-{}", bindings.len())});
            binding["spec"] = spec;
            bindings.push(binding.clone());
        }
    }
    ensure!(bindings.len() > 500, "only {} cases", bindings.len());
    let mut refused = Vec::new();
    for binding in &bindings {
        let request = http::Request::post(url)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(binding)?)?;
        let answer = client.request::<Value>(request).await;
        refused.push(answer.err().map(|error| error.to_string()));
    }
    let hosts = [
        "--offline",
        "--allowed-prefect-host",
        "*",
        "--allowed-doppler-host",
        "*",
    ];
    let mut blocks: Vec<String> = Vec::new();
    // The parser has a bound on the nodes of one input.
    for some in bindings.chunks(200) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": some});
        let nowhere = Path::new("/nonexistent");
        let (_, output) = run_with_input(nowhere, &list.to_string(), &hosts).await?;
        let found = output.split("DopplerPrefectBinding default/case-").skip(1);
        blocks.extend(found.map(ToOwned::to_owned));
    }
    ensure!(
        blocks.len() == bindings.len(),
        "{} of {}",
        blocks.len(),
        bindings.len()
    );
    let mut different = Vec::new();
    for (at, (refused, block)) in refused.iter().zip(&blocks).enumerate() {
        let fails = block.contains("FAIL  CRD: ") || block.contains("FAIL  binding: ");
        if refused.is_some() != fails {
            different.push(format!("{refused:?}\n{block}\n{}", bindings[at]["spec"]));
        }
    }
    ensure!(
        different.is_empty(),
        "{} of {}: {}",
        different.len(),
        bindings.len(),
        different[..different.len().min(12)].join("\n\n")
    );
    Ok(())
}
