//! Charts as SVG, for light and for dark pages.
//!
//! Input: a chart and a palette. Output: the text of an SVG file.
//! Invariants: pure; the file needs no script and no web font.

use std::fmt::Write as _;

use crate::chart::Chart;
use crate::number::{as_f64, number};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 390.0;
/// The area of the lines: left, top, right, bottom.
const FIELD: (f64, f64, f64, f64) = (84.0, 56.0, 740.0, 330.0);
/// The number of ticks on an axis, about.
const TICKS: f64 = 6.0;

/// The colours of a page.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    /// The suffix of the file name.
    pub name: &'static str,
    background: &'static str,
    grid: &'static str,
    faint: &'static str,
    text: &'static str,
    lines: [&'static str; 5],
}

/// For light pages.
pub const LIGHT: Palette = Palette {
    name: "light",
    background: "#ffffff",
    grid: "#d1d9e0",
    faint: "#59636e",
    text: "#1f2328",
    lines: ["#59636e", "#0969da", "#bc4c00", "#1a7f37", "#8250df"],
};

/// For dark pages.
pub const DARK: Palette = Palette {
    name: "dark",
    background: "#0d1117",
    grid: "#3d444d",
    faint: "#9198a1",
    text: "#f0f6fc",
    lines: ["#9198a1", "#4493f8", "#db6d28", "#3fb950", "#ab7df8"],
};

/// The SVG text of a chart.
#[must_use]
pub fn svg(chart: &Chart, palette: &Palette) -> String {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let marks = chart.marks.iter().map(|mark| mark.1);
    let widest = points()
        .map(|point| point.0)
        .chain(marks)
        .fold(0.0, f64::max);
    let highest = points().map(|point| point.1).fold(0.0, f64::max);
    let scale = Scale {
        x: Axis::to(widest),
        y: Axis::to(highest),
    };
    let mut svg = head(chart, palette);
    draw_axes(&mut svg, chart, &scale, palette);
    draw_marks(&mut svg, chart, &scale, palette);
    draw_lines(&mut svg, chart, &scale, palette);
    svg.push_str("</svg>\n");
    svg
}

/// The grid, the ticks and the labels of both axes.
fn draw_axes(svg: &mut String, chart: &Chart, scale: &Scale, palette: &Palette) {
    let (left, top, right, bottom) = FIELD;
    let faint = palette.faint;
    for value in scale.y.ticks() {
        let at = scale.at_y(value);
        line(svg, (left, at), (right, at), &stroke(palette.grid));
        text(svg, (left - 8.0, at + 4.0), "end", faint, &number(value));
    }
    for value in scale.x.ticks() {
        let at = scale.at_x(value);
        line(svg, (at, bottom), (at, bottom + 5.0), &stroke(faint));
        text(svg, (at, bottom + 21.0), "middle", faint, &number(value));
    }
    text(svg, (left, top - 12.0), "start", faint, &chart.y);
    text(svg, (right, bottom + 42.0), "end", faint, &chart.x);
}

/// The dashed vertical lines of the goals.
fn draw_marks(svg: &mut String, chart: &Chart, scale: &Scale, palette: &Palette) {
    let (_, top, _, bottom) = FIELD;
    for (name, value) in &chart.marks {
        let at = scale.at_x(*value);
        let dashed = format!(r#"{} stroke-dasharray="5 4""#, stroke(palette.faint));
        line(svg, (at, top), (at, bottom), &dashed);
        text(svg, (at, top - 12.0), "middle", palette.faint, name);
    }
}

/// The lines of the chart and their legend.
fn draw_lines(svg: &mut String, chart: &Chart, scale: &Scale, palette: &Palette) {
    let (_, top, right, _) = FIELD;
    for ((at, drawn), colour) in chart.lines.iter().enumerate().zip(palette.lines) {
        let points = drawn
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", scale.at_x(point.0), scale.at_y(point.1)));
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            svg,
            r#"  <polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>"#
        );
        let row = top + 10.0 + 22.0 * as_f64(at);
        let _ = writeln!(
            svg,
            r#"  <rect x="{:.0}" y="{:.0}" width="14" height="4" rx="2" fill="{colour}"/>"#,
            right + 20.0,
            row - 6.0
        );
        let anchor = (right + 42.0, row);
        text(svg, anchor, "start", palette.text, &drawn.name);
    }
}

fn head(chart: &Chart, palette: &Palette) -> String {
    let (title, description) = (escaped(&chart.title), escaped(&chart.description));
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title desc" font-family="-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif">
  <title id="title">{title}</title>
  <desc id="desc">{description}</desc>
  <rect width="{WIDTH}" height="{HEIGHT}" fill="{}"/>
  <text x="{:.0}" y="24" font-size="14" font-weight="600" fill="{}">{title}</text>
"#,
        palette.background, FIELD.0, palette.text
    )
}

fn stroke(colour: &str) -> String {
    format!(r#"stroke="{colour}""#)
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), attributes: &str) {
    let _ = writeln!(
        svg,
        r#"  <line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" {attributes}/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, colour: &str, words: &str) {
    let _ = writeln!(
        svg,
        r#"  <text x="{:.1}" y="{:.1}" font-size="12" text-anchor="{anchor}" fill="{colour}">{}</text>"#,
        at.0,
        at.1,
        escaped(words)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The positions of values in the area of the lines.
struct Scale {
    x: Axis,
    y: Axis,
}

impl Scale {
    fn at_x(&self, value: f64) -> f64 {
        let (left, _, right, _) = FIELD;
        left + (right - left) * value / self.x.end
    }

    fn at_y(&self, value: f64) -> f64 {
        let (_, top, _, bottom) = FIELD;
        bottom - (bottom - top) * value / self.y.end
    }
}

/// An axis from zero to a round number.
struct Axis {
    end: f64,
    step: f64,
}

impl Axis {
    fn to(most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / TICKS;
        let size = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * size);
        let step = steps
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        Self {
            end: (most / step).ceil() * step,
            step,
        }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (end, step) = (self.end, self.step);
        (0..=20_u32)
            .map(move |at| f64::from(at) * step)
            .take_while(move |at| *at <= end * 1.001)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::Line;

    #[test]
    fn axis_ends_at_a_round_number_after_the_last_point() {
        let axis = Axis::to(47.0);
        assert_eq!((axis.end, axis.step), (50.0, 10.0));
        assert_eq!(axis.ticks().count(), 6);
        assert!(Axis::to(0.0).end > 0.5);
    }

    #[test]
    fn chart_is_well_formed_and_names_its_lines() {
        let chart = Chart {
            file: "c".to_owned(),
            title: "a < b & c".to_owned(),
            description: "d".to_owned(),
            x: "seconds".to_owned(),
            y: "bindings".to_owned(),
            lines: vec![Line {
                name: "floor".to_owned(),
                points: vec![(0.0, 0.0), (1.0, 100.0)],
            }],
            marks: vec![("goal".to_owned(), 1.5)],
        };
        let svg = svg(&chart, &DARK);
        assert!(
            svg.contains("a &lt; b &amp; c") && svg.contains(">floor</text>"),
            "{svg}"
        );
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.ends_with("</svg>\n"));
    }
}
