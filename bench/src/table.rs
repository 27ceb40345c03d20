//! The table for a terminal.
//!
//! Input: results. Output: lines of text, with the note of a row below it.
//! Invariants: pure; the columns of all rows are aligned.

use crate::result::{Findings, Results, Row};

/// The lines of the table.
#[must_use]
pub fn lines(results: &Results) -> Vec<String> {
    let rows: Vec<_> = results.rows().collect();
    let figures = results.figures.iter();
    figures
        .flat_map(|(figure, findings)| aligned(figure, findings, &rows))
        .collect()
}

/// The lines of one figure.
#[must_use]
pub fn part(figure: &str, findings: &Findings) -> Vec<String> {
    let rows: Vec<_> = findings.rows.iter().collect();
    aligned(figure, findings, &rows)
}

/// The lines of one figure, in columns that are wide enough for all of `rows`.
fn aligned(figure: &str, findings: &Findings, rows: &[&Row]) -> Vec<String> {
    let width = |cell: fn(&Row) -> String| {
        let widths = rows.iter().map(|row| cell(row).chars().count());
        widths.max().unwrap_or_default()
    };
    let (what, measured) = (width(|row| row.what.clone()), width(Row::measured_text));
    let goal = width(Row::goal_text);
    let mut lines = vec![figure.to_owned()];
    for row in &findings.rows {
        lines.push(format!(
            "  {:<what$}  {:>measured$}  {:<goal$}  {}",
            row.what,
            row.measured_text(),
            row.goal_text(),
            verdict(row)
        ));
        if !row.note.is_empty() {
            lines.push(format!("      {}", row.note));
        }
    }
    lines
}

/// Whether the goal was reached, as one word.
#[must_use]
pub fn verdict(row: &Row) -> &'static str {
    if row.is_met() { "reached" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Goal;

    #[test]
    fn columns_are_aligned_and_notes_below() {
        let rows = vec![
            Row::count("short", 1.0, Goal::Exactly(1.0)).note("a note"),
            Row::new("longer", 12.5, "ms", Goal::Below(5.0)),
        ];
        let results = Results {
            subject: "s".to_owned(),
            machine: Vec::new(),
            figures: vec![("figure".to_owned(), Findings::rows(rows))],
        };
        assert_eq!(
            lines(&results),
            [
                "figure",
                "  short         1  1       reached",
                "      a note",
                "  longer  12.5 ms  < 5 ms  MISSED",
            ]
        );
    }
}
