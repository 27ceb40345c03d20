//! What a run leaves behind: its numbers as JSON, its charts, and a page that says what they mean.
//!
//! In: results and a folder. Out: `results.json`, two SVGs for each chart, `README.md`. Every number of the page is one of the results, so that it can
//! be made anew from them. Why a goal is missed is for people to say: what they wrote into `notes.md` of the folder is put into the page.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::plot::{DARK, LIGHT, svg};
use super::result::{Chart, Findings, Results, Row};
use super::table::verdict;

const RESULTS: &str = "results.json";
const PAGE: &str = "README.md";
const NOTES: &str = "notes.md";
const INTRODUCTION: &str = include_str!("report.md");

/// Writes all of it.
///
/// # Errors
/// When a file cannot be written.
pub fn write(results: &Results, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    put(
        folder,
        RESULTS,
        &(serde_json::to_string_pretty(results)? + "\n"),
    )?;
    draw(results, folder)
}

/// Makes page and charts anew from the results that are in the folder.
///
/// # Errors
/// When there are none, or a file cannot be written.
pub fn redraw(folder: &Path) -> Result<()> {
    draw(&read(folder)?, folder)
}

fn read(folder: &Path) -> Result<Results> {
    let path = folder.join(RESULTS);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("no results are in {}", path.display()))
}

fn draw(results: &Results, folder: &Path) -> Result<()> {
    for chart in results.charts() {
        for palette in [LIGHT, DARK] {
            put(folder, &file(chart, palette.name), &svg(chart, &palette))?;
        }
    }
    let notes = std::fs::read_to_string(folder.join(NOTES)).ok();
    put(folder, PAGE, &page(results, notes.as_deref()))
}

fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
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
    let remarks = results.figures.iter().filter_map(remarks);
    page + &remarks.collect::<Vec<_>>().join("\n")
}

/// What there is to remark about a figure, if anything.
fn remarks((name, findings): &(String, Findings)) -> Option<String> {
    let noted = findings.rows.iter().filter(|row| !row.note.is_empty());
    let lines: Vec<_> = noted
        .map(|Row { what, note, .. }| format!("- {what}: {}", note.replace('\n', " ")))
        .collect();
    (!lines.is_empty()).then(|| format!("`{name}`\n\n{}\n", lines.join("\n")))
}

/// A bar would end the cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::result::{Goal, Line};

    /// Every file of the folder is what its results, and what people wrote into its notes, say.
    #[test]
    fn what_is_published_is_what_was_measured() {
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
            assert!(drawn[name] == *text, "{name:?}: --redraw writes it anew");
        }
    }

    #[test]
    fn a_figure_without_remarks_has_no_heading() {
        let rows = vec![Row::new("fast", 1.0, "s", Goal::AtMost(1.0))];
        let charts = Vec::new();
        let quiet = ("quiet".to_owned(), Findings { rows, charts });
        assert_eq!(remarks(&quiet), None);
    }

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
