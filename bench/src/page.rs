//! The published files: the results as JSON, the charts, and a page.
//!
//! Input: results, and a folder. Output: `results.json`, two SVG files for each chart, and
//! `README.md`.
//! Invariants: page and charts contain only numbers of `results.json`, so that they can be written
//! again from it. `notes.md`, which people write, explains missed goals and becomes a section of
//! the page.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::chart::Chart;
use crate::json;
use crate::result::{Findings, Results, Row};
use crate::svg::{DARK, LIGHT, svg};
use crate::table::verdict;

const RESULTS: &str = "results.json";
const PAGE: &str = "README.md";
const NOTES: &str = "notes.md";
const INTRODUCTION: &str = include_str!("page.md");

/// Writes all files.
///
/// # Errors
/// When a file cannot be written.
pub fn write(results: &Results, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    write_file(folder, RESULTS, &json::to_text(results)?)?;
    draw(results, folder)
}

/// Writes page and charts again from `results.json` in the folder.
///
/// # Errors
/// When `results.json` cannot be read, or a file cannot be written.
pub fn redraw(folder: &Path) -> Result<()> {
    draw(&read(folder)?, folder)
}

fn read(folder: &Path) -> Result<Results> {
    let path = folder.join(RESULTS);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} does not contain results", path.display()))
}

fn draw(results: &Results, folder: &Path) -> Result<()> {
    for chart in results.charts() {
        for palette in [LIGHT, DARK] {
            write_file(folder, &file(chart, palette.name), &svg(chart, &palette))?;
        }
    }
    let notes = std::fs::read_to_string(folder.join(NOTES)).ok();
    write_file(folder, PAGE, &page(results, notes.as_deref()))
}

fn write_file(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn file(chart: &Chart, palette: &str) -> String {
    format!("{}-{palette}.svg", chart.file)
}

/// The text of the page.
fn page(results: &Results, notes: Option<&str>) -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## The machine\n\n| | |\n| --- | --- |\n");
    for (name, value) in &results.machine {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    page.push_str("\n## Results\n\n| figure | measured | goal | |\n| --- | --- | --- | --- |\n");
    for row in results.rows() {
        let cells = [
            row.what.as_str(),
            &row.measured_text(),
            &row.goal_text(),
            verdict(row),
        ];
        let _ = writeln!(page, "| {} |", cells.map(escaped).join(" | "));
    }
    if let Some(notes) = notes {
        let _ = write!(page, "\n## Why goals are missed\n\n{}\n", notes.trim());
    }
    page.push_str("\n## Charts\n");
    for chart in results.charts() {
        let _ = write!(
            page,
            "\n{}.\n\n<picture>\n  <source media=\"(prefers-color-scheme: dark)\" srcset=\"{}\">\n  <img src=\"{}\" alt=\"{}\" width=\"900\">\n</picture>\n",
            chart.description,
            file(chart, DARK.name),
            file(chart, LIGHT.name),
            chart.title
        );
    }
    page.push_str("\n## Notes\n\n");
    let notes = results.figures.iter().filter_map(figure_notes);
    page + &notes.collect::<Vec<_>>().join("\n")
}

/// The notes of a figure, if it has any.
fn figure_notes((name, findings): &(String, Findings)) -> Option<String> {
    let noted = findings.rows.iter().filter(|row| !row.note.is_empty());
    let lines: Vec<_> = noted
        .map(|Row { what, note, .. }| format!("- {what}: {}", note.replace('\n', " ")))
        .collect();
    (!lines.is_empty()).then(|| format!("`{name}`\n\n{}\n", lines.join("\n")))
}

/// A bar would end the cell of the table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::chart::Line;
    use crate::result::Goal;

    /// Every published file equals what `results.json` and `notes.md` give.
    #[test]
    fn published_files_equal_the_results() {
        let published = testkit::binary::workspace().join("docs/benchmarks");
        let folder = tempfile::tempdir().unwrap();
        for name in [RESULTS, NOTES] {
            std::fs::copy(published.join(name), folder.path().join(name)).unwrap();
        }
        redraw(folder.path()).unwrap();
        let files = |folder: &Path| -> BTreeMap<_, _> {
            let entries = std::fs::read_dir(folder).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            paths
                .map(|path| {
                    let text = std::fs::read_to_string(&path).unwrap();
                    (path.file_name().unwrap().to_owned(), text)
                })
                .collect()
        };
        let (published, drawn) = (files(&published), files(folder.path()));
        assert!(published.keys().eq(drawn.keys()), "{:?}", drawn.keys());
        for (name, text) in &published {
            assert!(
                drawn[name] == *text,
                "{name:?} is not current; run: cargo bench-operator --redraw"
            );
        }
    }

    #[test]
    fn figure_without_notes_has_no_heading() {
        let rows = vec![Row::new("fast", 1.0, "s", Goal::AtMost(1.0))];
        let quiet = ("quiet".to_owned(), Findings::rows(rows));
        assert_eq!(figure_notes(&quiet), None);
    }

    #[test]
    fn writes_results_charts_and_page() {
        let folder = tempfile::tempdir().unwrap();
        let chart = Chart {
            file: "cold".to_owned(),
            title: "Cold".to_owned(),
            description: "How it went".to_owned(),
            x: "seconds".to_owned(),
            y: "bindings".to_owned(),
            lines: vec![Line {
                name: "floor".to_owned(),
                points: vec![(0.0, 0.0), (1.0, 1.0)],
            }],
            marks: Vec::new(),
        };
        let findings = Findings {
            rows: vec![Row::new("cold | sync", 1.25, "s", Goal::AtMost(1.0)).note("busy")],
            charts: vec![chart],
        };
        let results = Results {
            subject: "operator".to_owned(),
            machine: vec![("cores".to_owned(), "2".to_owned())],
            figures: vec![("cold".to_owned(), findings)],
        };
        std::fs::write(folder.path().join(NOTES), "It waits for Doppler.\n").unwrap();
        write(&results, folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let page = read("README.md");
        for part in [
            "| cores | 2 |",
            "| cold \\| sync | 1.25 s | ≤ 1 s | MISSED |",
            "It waits for Doppler.",
            "cold-dark.svg",
            "- cold | sync: busy",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(read("cold-light.svg").starts_with("<svg"));
        let again: Results = serde_json::from_str(&read("results.json")).unwrap();
        assert_eq!(again.rows().count(), 1);
    }
}
