//! The table that `kubectl get` prints, from the API server's own columns.
//!
//! Input: a Table object of the API server. Output: aligned lines.
//! Invariants: only the columns of priority 0, as without `-o wide`.

use serde_json::Value;

/// The lines of the table.
pub(super) fn lines_of(table: &Value) -> Vec<String> {
    let columns = table["columnDefinitions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let visible = |cells: &mut dyn Iterator<Item = String>| -> Vec<String> {
        let cells = cells.zip(columns);
        cells
            .filter(|(_, column)| column["priority"] == 0)
            .map(|(cell, _)| cell)
            .collect()
    };
    let mut head = columns
        .iter()
        .map(|column| column["name"].as_str().unwrap_or_default().to_uppercase());
    let mut rows = vec![visible(&mut head)];
    for row in table["rows"].as_array().into_iter().flatten() {
        let cells = row["cells"].as_array().into_iter().flatten();
        rows.push(visible(&mut cells.map(|cell| {
            cell.as_str()
                .map_or_else(|| cell.to_string(), ToOwned::to_owned)
        })));
    }
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
    };
    let lines = rows.iter().map(|row| {
        let cells = row.iter().enumerate();
        let cells = cells.map(|(at, cell)| format!("{cell:0$}", width(at).unwrap_or_default()));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn table_has_the_columns_of_kubectl_get() {
        let table = json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0},
                {"name": "Keys", "priority": 0},
                {"name": "Message", "priority": 1},
            ],
            "rows": [{"cells": ["my-project-dev", 1, "not shown"]}],
        });
        assert_eq!(
            lines_of(&table),
            ["NAME             KEYS", "my-project-dev   1"]
        );
    }
}
