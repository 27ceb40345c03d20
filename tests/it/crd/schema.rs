//! Printer columns, names, descriptions and list types of the definition.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::kubernetes;

use super::client;
use crate::world::CRD;

/// Collects the lists below `path` whose items have a default.
fn collect_item_defaults(path: &str, schema: &Value, found: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["items"].to_string().contains("\"default\":") {
            found.push(path.clone());
        }
        collect_item_defaults(&path, field, found);
    }
}

#[test]
fn list_items_have_no_schema_defaults() -> Result<()> {
    let crd: Value = serde_json::to_value(&kubernetes::documents(CRD)?[0])?;
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = Vec::new();
    collect_item_defaults("", schema, &mut found);
    ensure!(
        found.is_empty(),
        "kubectl apply would report `configured` each time because of defaults in: {found:?}"
    );
    Ok(())
}

/// Collects the fields below `path` that have no description for `kubectl explain`.
fn collect_undocumented(path: &str, schema: &Value, found: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["description"]
            .as_str()
            .is_none_or(|text| text.len() < 10)
        {
            found.push(path.clone());
        }
        collect_undocumented(&path, field, found);
        collect_undocumented(&path, &field["items"], found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_printer_columns_short_name_and_field_docs() -> Result<()> {
    let crd: Value = serde_json::to_value(&kubernetes::documents(CRD)?[0])?;
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .context("no columns")?;
    let named = |wide: bool| -> Vec<&str> {
        let of = columns
            .iter()
            .filter(|column| column["priority"].as_i64().unwrap_or(0) == i64::from(wide));
        of.filter_map(|column| column["name"].as_str()).collect()
    };
    ensure!(
        named(false)
            == [
                "Ready", "Reason", "Project", "Config", "Keys", "Changed", "Age"
            ],
        "{columns:?}"
    );
    ensure!(named(true) == ["Secret", "Pools", "Message"], "{columns:?}");
    ensure!(
        crd["spec"]["names"]["shortNames"] == json!(["dpb"])
            && crd["spec"]["names"]["categories"] == json!(["doppler"])
    );
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = Vec::new();
    collect_undocumented("spec", &schema["properties"]["spec"], &mut found);
    collect_undocumented("status", &schema["properties"]["status"], &mut found);
    found.retain(|path| !path.starts_with("status.conditions."));
    ensure!(
        found.is_empty(),
        "fields without a description for `kubectl explain`: {found:?}"
    );
    // The API server has stored the definition as it is here.
    let client = client().await?;
    let definition = kubernetes::api(&client, "", &kubernetes::documents(CRD)?[0])
        .await?
        .get("dopplerprefectbindings.doppler-prefect.dev")
        .await?;
    ensure!(
        definition.data["spec"]["versions"][0]["subresources"]["status"].is_object(),
        "no status subresource"
    );
    let status = &definition.data["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        ["status"]["properties"];
    for (list, key) in [
        ("conditions", "type"),
        ("excludedKeys", "name"),
        ("workPools", "name"),
    ] {
        ensure!(
            status[list]["x-kubernetes-list-type"] == "map"
                && status[list]["x-kubernetes-list-map-keys"] == json!([key]),
            "{list} is not a list-map with the key {key}"
        );
    }
    Ok(())
}
