//! What came of a measurement.
//!
//! In: numbers. Out: rows that know whether their goal was reached, and charts. All of it can be written as JSON and read again, so that the pages
//! are made of what was measured and of nothing else.

use serde::{Deserialize, Serialize};

/// What a number has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// This or less.
    AtMost(f64),
    /// Less than this.
    Below(f64),
    /// Exactly this.
    Exactly(f64),
}

impl Goal {
    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::AtMost(goal) => measured <= goal,
            Self::Below(goal) => measured < goal,
            // Counts are whole, so what differs, differs by one.
            Self::Exactly(goal) => (measured - goal).abs() < 0.5,
        }
    }
}

/// One figure's row in the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The result, or none if it could not be had.
    pub measured: Option<f64>,
    /// Its unit, such as `ms`; nothing for a plain number.
    pub unit: String,
    /// What it has to be; none for a figure that could not be measured, whose rows are not known.
    pub goal: Option<Goal>,
    /// Whether it is a count of requests or writes, which is the same on any machine.
    pub is_count: bool,
    /// What belongs to it.
    pub note: String,
}

impl Row {
    /// A time, or what is made of one.
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

    /// What could not be measured, and why.
    #[must_use]
    pub fn failed(what: impl Into<String>, is_count: bool, why: &str) -> Self {
        Self {
            what: what.into(),
            measured: None,
            unit: String::new(),
            goal: None,
            is_count,
            note: why.to_owned(),
        }
    }

    /// With a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether its goal was reached.
    #[must_use]
    pub fn is_met(&self) -> bool {
        let both = self.goal.zip(self.measured);
        both.is_some_and(|(goal, measured)| goal.is_met(measured))
    }

    /// The result with its unit.
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

fn with_unit(value: f64, unit: &str) -> String {
    let text = number(value);
    if unit.is_empty() {
        text
    } else {
        format!("{text} {unit}")
    }
}

/// A number as people read it: three digits that count, thousands apart.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    let text = if size >= 100.0 || (value - value.round()).abs() < 1e-9 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let (whole, rest) = text
        .find('.')
        .map_or((text.as_str(), ""), |dot| text.split_at(dot));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0
            && (whole.len() - at).is_multiple_of(3)
            && digit.is_ascii_digit()
            && !grouped.ends_with('-')
        {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// One line of a chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// What it shows.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chart {
    /// The name of its file, without an ending.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// How it is to be read, in a sentence.
    pub description: String,
    /// What goes from left to right.
    pub x: String,
    /// What goes upwards.
    pub y: String,
    /// Its lines, five at most.
    pub lines: Vec<Line>,
    /// Goals, as marks on the horizontal axis.
    pub marks: Vec<(String, f64)>,
}

/// What a figure found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Rows of the table.
    pub rows: Vec<Row>,
    /// Charts.
    pub charts: Vec<Chart>,
}

/// All that a run found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// The subject.
    pub subject: String,
    /// Where and how it was measured: name and value.
    pub machine: Vec<(String, String)>,
    /// The figures, by name.
    pub figures: Vec<(String, Findings)>,
}

impl Results {
    /// Every row.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.figures.iter().flat_map(|(_, findings)| &findings.rows)
    }

    /// Every chart.
    pub fn charts(&self) -> impl Iterator<Item = &Chart> {
        self.figures
            .iter()
            .flat_map(|(_, findings)| &findings.charts)
    }

    /// Counts that are not what they have to be.
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
    fn numbers_have_three_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (2.0, "2"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (999.6, "1,000"),
            (12_345.6, "12,346"),
            (-1_000_000.0, "-1,000,000"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_row_knows_its_goal() {
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
