//! What a run leaves behind: its numbers as JSON, its charts, and a page that says what they mean.
//!
//! In: results and a folder. Out: `results.json`, two SVGs for each chart, `README.md`. Every number of the page is one of the results. Why a goal is
//! missed is for people to say: what they wrote into `notes.md` of the folder is put into the page.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::plot::{DARK, LIGHT, svg};
use super::result::{Chart, Findings, Results, Row};
use super::table::verdict;

const NOTES: &str = "notes.md";
const INTRODUCTION: &str = include_str!("report.md");

/// Writes all of it.
///
/// # Errors
/// When a file cannot be written.
pub fn write(results: &Results, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put(
        "results.json",
        &(serde_json::to_string_pretty(results)? + "\n"),
    )?;
    for chart in results.charts() {
        for palette in [LIGHT, DARK] {
            put(&file(chart, palette.name), &svg(chart, &palette))?;
        }
    }
    let notes = std::fs::read_to_string(folder.join(NOTES)).ok();
    put("README.md", &page(results, notes.as_deref()))
}

fn file(chart: &Chart, palette: &str) -> String {
    format!("{}-{palette}.svg", chart.file)
}

/// The page.
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
    page.push_str("\n## What belongs to the results\n\n");
    for (name, findings) in &results.figures {
        let _ = writeln!(page, "`{name}`");
        remarks(&mut page, findings);
    }
    page
}

fn remarks(page: &mut String, findings: &Findings) {
    page.push('\n');
    for row in &findings.rows {
        let Row { what, note, .. } = row;
        if !note.is_empty() {
            let _ = writeln!(page, "- {}: {}", what, note.replace('\n', " "));
        }
    }
    page.push('\n');
}

/// A bar would end the cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::result::{Goal, Line};

    #[test]
    fn leaves_numbers_charts_and_a_page_of_them() {
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
