//! Charts: lines over two axes.
//!
//! Input: measured points. Output: `Chart`, which can be stored as JSON and drawn.
//! Invariants: a line has only as many points and digits as its drawing can show.

use serde::{Deserialize, Serialize};

use crate::number::as_f64;

/// Points of a line, about.
const POINTS: usize = 200;
/// Significant digits of a coordinate: the drawing has fewer than 1,000 pixels.
const DIGITS: i32 = 5;

/// A chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chart {
    /// The name of the file, without its suffix.
    pub file: String,
    /// The title.
    pub title: String,
    /// How to read the chart, in one sentence.
    pub description: String,
    /// The label of the horizontal axis.
    pub x: String,
    /// The label of the vertical axis.
    pub y: String,
    /// The lines, five at most.
    pub lines: Vec<Line>,
    /// Goals, as marks on the horizontal axis.
    pub marks: Vec<(String, f64)>,
}

/// A line of a chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The name in the legend.
    pub name: String,
    /// The points, from left to right.
    pub points: Vec<(f64, f64)>,
}

impl Line {
    /// A cumulative line: for each of the sorted values, how many are not larger. `full` is the
    /// height of the last one.
    #[must_use]
    pub fn cumulative(name: &str, sorted: &[f64], full: f64) -> Self {
        let step = (sorted.len() / POINTS).max(1);
        let drawn = |at: &usize| at.is_multiple_of(step) || at + 1 == sorted.len();
        let height = |at: usize| full * as_f64(at + 1) / as_f64(sorted.len());
        let points = (0..sorted.len())
            .filter(drawn)
            .map(|at| (rounded(sorted[at]), rounded(height(at))));
        Self {
            name: name.to_owned(),
            points: std::iter::once((0.0, 0.0)).chain(points).collect(),
        }
    }
}

/// The value with as many significant digits as a drawing can show.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    #[allow(clippy::cast_possible_truncation)] // The logarithm of an f64 is below 310.
    let decimals = DIGITS - 1 - value.abs().log10().floor() as i32;
    if decimals < 0 {
        return value.round();
    }
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinned_line_keeps_the_last_point() {
        let line = Line::cumulative("all", &[0.5, 1.5], 2.0);
        assert_eq!(line.points, [(0.0, 0.0), (0.5, 1.0), (1.5, 2.0)]);
        let sorted: Vec<f64> = (0..1001).map(f64::from).collect();
        let line = Line::cumulative("all", &sorted, 1001.0);
        assert!(line.points.len() < 210);
        assert_eq!(line.points.last(), Some(&(1000.0, 1001.0)));
    }

    #[test]
    fn coordinates_have_five_significant_digits() {
        for (value, expected) in [
            (0.083_678_533, 0.083_679),
            (33.666_666_667, 33.667),
            (123_456.7, 123_457.0),
            (0.0, 0.0),
        ] {
            assert!((rounded(value) - expected).abs() < 1e-12, "{value}");
        }
    }
}
