//! The table, as lines of a terminal and as docs/reliability.md.
//!
//! Input: outcomes. Output: text.
//! Invariants: pure except for the one write. No cell contains a secret value: a case quotes reasons
//! and messages of conditions, which have none.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::case::{Group, Outcome, Verdict};

const INTRODUCTION: &str = include_str!("page.md");

/// One outcome, as a line of a terminal.
pub fn line(outcome: &Outcome) -> String {
    let Outcome { group, fault, .. } = outcome;
    match outcome.verdict() {
        Verdict::Held(seen) => format!(
            "held    {}: {fault}: {} (requests {}, recovery {})",
            group.title(),
            seen.what,
            number(seen.requests),
            seconds(seen.recovery)
        ),
        Verdict::Skipped(reason) => format!("skipped {}: {fault}: {reason}", group.title()),
        Verdict::Failed(error) => format!("FAILED  {}: {fault}: {error:#}", group.title()),
    }
}

/// Writes docs/reliability.md.
pub fn write(outcomes: &[Outcome]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    std::fs::write(&path, page(outcomes))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn page(outcomes: &[Outcome]) -> String {
    let mut page = INTRODUCTION.to_owned();
    for group in Group::ALL {
        let rows: Vec<_> = outcomes.iter().filter(|one| one.group == group).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = write!(
            page,
            "\n## {}\n\n| fault | what must hold | seen | lasted | requests meanwhile | recovery |\n| --- | --- | --- | --- | --- | --- |\n",
            group.title()
        );
        for row in rows {
            page.push_str(&table_row(row));
        }
    }
    page
}

fn table_row(outcome: &Outcome) -> String {
    let without_numbers = |text| (text, String::new(), String::new(), String::new());
    let (seen, lasted, requests, recovery) = match outcome.verdict() {
        Verdict::Held(seen) => (
            format!("held: {}", seen.what),
            seconds(seen.lasted),
            number(seen.requests),
            seconds(seen.recovery),
        ),
        Verdict::Skipped(reason) => without_numbers(format!("**skipped**: {reason}")),
        Verdict::Failed(error) => without_numbers(format!("**did not hold**: {error:#}")),
    };
    let cells = [
        outcome.fault.as_str(),
        outcome.must_hold,
        &seen,
        &lasted,
        &requests,
        &recovery,
    ];
    format!("| {} |\n", cells.map(escaped).join(" | "))
}

/// A bar or a line break would end the cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn number(count: Option<u64>) -> String {
    count.map_or_else(|| "–".to_owned(), |count| count.to_string())
}

fn seconds(span: Option<Duration>) -> String {
    span.map_or_else(
        || "–".to_owned(),
        |span| format!("{:.1} s", span.as_secs_f64()),
    )
}
