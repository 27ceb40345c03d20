//! The results of a run: rows of the table, and charts.
//!
//! Input: measured values and goals. Output: `Row`, `Findings`, `Results`.
//! Invariants: pure; results can be stored as JSON and read again without loss.

use serde::{Deserialize, Serialize};

use crate::chart::Chart;
use crate::number::with_unit;

/// The goal of a value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// This value or less.
    AtMost(f64),
    /// Less than this value.
    Below(f64),
    /// Exactly this value.
    Exactly(f64),
}

impl Goal {
    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::AtMost(goal) => measured <= goal,
            Self::Below(goal) => measured < goal,
            // Counts are integers, so that two different counts differ by at least one.
            Self::Exactly(goal) => (measured - goal).abs() < 0.5,
        }
    }
}

/// A row of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What is measured.
    pub what: String,
    /// The measured value; none if the measurement failed.
    pub measured: Option<f64>,
    /// The unit, such as `ms`; empty for a plain number.
    pub unit: String,
    /// The goal; none if the measurement failed.
    pub goal: Option<Goal>,
    /// True for a count of requests or writes, which does not depend on the machine.
    pub is_count: bool,
    /// Details of the measurement.
    pub note: String,
}

impl Row {
    /// A value that depends on the machine, such as a time.
    #[must_use]
    pub fn new(what: impl Into<String>, measured: f64, unit: &str, goal: Goal) -> Self {
        Self {
            what: what.into(),
            measured: Some(measured),
            unit: unit.to_owned(),
            goal: Some(goal),
            is_count: false,
            note: String::new(),
        }
    }

    /// A count of requests or writes.
    #[must_use]
    pub fn count(what: impl Into<String>, measured: f64, goal: Goal) -> Self {
        Self {
            is_count: true,
            ..Self::new(what, measured, "", goal)
        }
    }

    /// A failed measurement, with the reason.
    #[must_use]
    pub fn failed(what: impl Into<String>, is_count: bool, reason: &str) -> Self {
        Self {
            what: what.into(),
            measured: None,
            unit: String::new(),
            goal: None,
            is_count,
            note: reason.to_owned(),
        }
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether the value meets its goal.
    #[must_use]
    pub fn is_met(&self) -> bool {
        let both = self.goal.zip(self.measured);
        both.is_some_and(|(goal, measured)| goal.is_met(measured))
    }

    /// The value with its unit.
    #[must_use]
    pub fn measured_text(&self) -> String {
        self.measured.map_or_else(
            || "not measured".to_owned(),
            |measured| with_unit(measured, &self.unit),
        )
    }

    /// The goal with its unit.
    #[must_use]
    pub fn goal_text(&self) -> String {
        let (sign, goal) = match self.goal {
            Some(Goal::AtMost(goal)) => ("≤ ", goal),
            Some(Goal::Below(goal)) => ("< ", goal),
            Some(Goal::Exactly(goal)) => ("", goal),
            None => return String::new(),
        };
        format!("{sign}{}", with_unit(goal, &self.unit))
    }
}

/// The results of one figure.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Rows of the table.
    pub rows: Vec<Row>,
    /// Charts.
    pub charts: Vec<Chart>,
}

impl Findings {
    /// Rows without a chart.
    #[must_use]
    pub fn rows(rows: Vec<Row>) -> Self {
        let charts = Vec::new();
        Self { rows, charts }
    }
}

/// The results of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// The name of the subject.
    pub subject: String,
    /// The machine and the configuration of the run: names and values.
    pub machine: Vec<(String, String)>,
    /// The figures, by name.
    pub figures: Vec<(String, Findings)>,
}

impl Results {
    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.figures.iter().flat_map(|(_, findings)| &findings.rows)
    }

    /// All charts.
    pub fn charts(&self) -> impl Iterator<Item = &Chart> {
        self.figures
            .iter()
            .flat_map(|(_, findings)| &findings.charts)
    }

    /// The counts that miss their goal.
    #[must_use]
    pub fn wrong_counts(&self) -> Vec<&Row> {
        self.rows()
            .filter(|row| row.is_count && !row.is_met())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_compares_value_and_goal() {
        let row = Row::new("x", 50.0, "ms", Goal::Below(50.0));
        assert!(!row.is_met());
        assert_eq!(
            (row.measured_text(), row.goal_text()),
            ("50 ms".to_owned(), "< 50 ms".to_owned())
        );
        assert!(Row::count("x", 2.0, Goal::AtMost(2.0)).is_met());
        assert!(!Row::count("x", 3.0, Goal::Exactly(2.0)).is_met());
        assert!(!Row::failed("x", true, "no answer").is_met());
    }
}
