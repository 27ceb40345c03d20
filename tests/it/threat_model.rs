//! The threat model in docs/security.md, compared with the sources.
//!
//! Input: the tables of the page, and the files that they link.
//! Output: a failure that names each row whose tests do not exist.
//! Invariants: each row names a test or a case of `cargo faults`, or says that it has none.

use std::path::Path;

const PAGE: &str = include_str!("../../docs/security.md");

/// The cell of a row without a test.
const NO_TEST: &str = "no test";

/// The section below a heading, up to the next heading of the same or a higher level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, below) = page
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("the page has no section {heading}"));
    let level = heading.split(' ').next().unwrap_or_default().len();
    let next = |level| below.find(&format!("\n{} ", "#".repeat(level)));
    let end = (2..=level).filter_map(next).min();
    &below[..end.unwrap_or(below.len())]
}

/// The rows of the tables whose heads begin with `column`.
fn rows<'a>(section: &'a str, column: &str) -> Vec<Vec<&'a str>> {
    let mut rows = Vec::new();
    let mut in_table = false;
    let mut before = "";
    for line in section.lines() {
        let cells = line
            .strip_prefix('|')
            .and_then(|line| line.strip_suffix('|'));
        if let Some(cells) = cells {
            let cells: Vec<_> = cells.split('|').map(str::trim).collect();
            let is_head = !before.starts_with('|');
            if is_head {
                in_table = cells[0] == column;
            } else if in_table && cells[0] != "---" {
                rows.push(cells);
            }
        }
        before = line;
    }
    rows
}

/// The text and the target of each link.
fn links(cell: &str) -> impl Iterator<Item = (&str, &str)> {
    cell.split('[').skip(1).filter_map(|link| {
        let (text, rest) = link.split_once("](")?;
        Some((text, rest.split_once(')')?.0))
    })
}

/// Whether `source` has a test function of this name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let declaration = format!("fn {name}(");
    let is_declared = |line: &str| line.trim_start_matches("async ").starts_with(&declaration);
    let is_attribute = |line: &&&str| line.starts_with("#[") || line.starts_with("//");
    let is_test = |line: &&str| *line == "#[test]" || line.starts_with("#[tokio::test");
    (0..lines.len()).any(|at| {
        let mut above = lines[..at].iter().rev().take_while(is_attribute);
        is_declared(lines[at]) && above.any(is_test)
    })
}

/// Whether the source has what a link names: a test in backticks, or the name of a case of
/// `cargo faults`.
fn has(source: &str, path: &str, text: &str) -> bool {
    match text
        .strip_prefix('`')
        .and_then(|text| text.strip_suffix('`'))
    {
        Some(name) => has_test(source, name),
        None => path.contains("tests/faults/") && source.contains(&format!("\"{text}\"")),
    }
}

/// What the last cell of a row names that does not exist.
fn problems(cell: &str) -> Vec<String> {
    let links: Vec<_> = links(cell).collect();
    let parsed: Vec<_> = links
        .iter()
        .map(|(text, target)| format!("[{text}]({target})"))
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut problems = Vec::new();
    if cell != NO_TEST && (links.is_empty() || parsed.join(", ") != cell) {
        problems.push(format!("`{cell}` is no list of links to tests"));
    }
    for (text, target) in links {
        let path = root.join("docs").join(target);
        let source = std::fs::read_to_string(&path).unwrap_or_default();
        if !has(&source, target, text) {
            problems.push(format!("{target} has no test {text}"));
        }
    }
    problems
}

#[test]
fn every_row_of_the_threat_model_names_tests_that_exist() {
    let model = rows(section(PAGE, "## Threat model"), "harm");
    let settings = rows(
        section(PAGE, "### What an author gains, by setting"),
        "setting",
    );
    assert!(model.len() > 50, "{} rows", model.len());
    assert!(settings.len() > 5, "{} rows", settings.len());
    let mut failures = Vec::new();
    for (rows, width) in [(&model, 4), (&settings, 3)] {
        for row in rows {
            if row.len() != width || row.iter().any(|cell| cell.is_empty()) {
                failures.push(format!("{row:?} has not {width} cells"));
            }
            failures.extend(problems(row[row.len() - 1]));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn names_what_a_row_of_the_threat_model_lacks() {
    let link = |name: &str| format!("[`{name}`](../tests/it/threat_model.rs)");
    let this = link("names_what_a_row_of_the_threat_model_lacks");
    assert_eq!(problems(&this), Vec::<String>::new());
    assert_eq!(problems(NO_TEST), Vec::<String>::new());
    for cell in [
        String::new(),
        "`names_what_a_row_of_the_threat_model_lacks`".to_owned(),
        link("no_such_test"),
        link("has_test"),
        this.replace("threat_model.rs", "missing.rs"),
        format!("{this} and more"),
        "[a case](../tests/it/threat_model.rs)".to_owned(),
        "[no such case](../tests/faults/process.rs)".to_owned(),
    ] {
        assert!(!problems(&cell).is_empty(), "{cell}");
    }
    let page = "\n## A\n\n| harm | x |\n| --- | --- |\n| a | b |\n\n| who |\n| --- |\n| c |\n\n## B\n\n| harm |\n| --- |\n| d |\n";
    assert_eq!(rows(section(page, "## A"), "harm"), [["a", "b"]]);
}
