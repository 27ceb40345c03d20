//! Draws the panels of the dashboard as one SVG.
//!
//! Input: panels with their lines or values, and colours.
//! Output: the text of an SVG file.
//! Invariants: pure; the file needs no script and no web font.

use std::fmt::Write as _;

use super::dashboard::Panel;

const COLUMN: f64 = 50.0;
const ROW: f64 = 26.0;
const LEGEND_ROWS: usize = 6;
const TABLE_ROWS: usize = 8;

/// What a panel shows.
pub struct Drawn {
    pub panel: Panel,
    /// The name and the points of each line. A single value has one point.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// The colours of a page.
pub struct Palette {
    pub name: &'static str,
    page: &'static str,
    panel: &'static str,
    grid: &'static str,
    faint: &'static str,
    text: &'static str,
    lines: [&'static str; 8],
}

pub const PALETTES: [Palette; 2] = [
    Palette {
        name: "light",
        page: "#f6f8fa",
        panel: "#ffffff",
        grid: "#d1d9e0",
        faint: "#59636e",
        text: "#1f2328",
        lines: [
            "#0969da", "#bc4c00", "#1a7f37", "#8250df", "#cf222e", "#9a6700", "#bf3989", "#59636e",
        ],
    },
    Palette {
        name: "dark",
        page: "#010409",
        panel: "#0d1117",
        grid: "#3d444d",
        faint: "#9198a1",
        text: "#f0f6fc",
        lines: [
            "#4493f8", "#db6d28", "#3fb950", "#ab7df8", "#f85149", "#d29922", "#db61a2", "#9198a1",
        ],
    },
];

/// The SVG of all panels.
pub fn svg(drawn: &[Drawn], description: &str, palette: &Palette) -> String {
    let bottom = |of: &Drawn| of.panel.place.1 + of.panel.place.3;
    let height = drawn.iter().map(bottom).fold(0.0, f64::max) * ROW;
    let width = 24.0 * COLUMN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n  <title>{}</title>\n  <rect width=\"{width}\" height=\"{height}\" fill=\"{}\"/>\n",
        escaped(description),
        palette.page
    );
    for one in drawn {
        draw_panel(&mut svg, one, palette);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, drawn: &Drawn, palette: &Palette) {
    let (x, y, w, h) = drawn.panel.place;
    let (left, top) = (x * COLUMN + 4.0, y * ROW + 4.0);
    let (width, height) = (w * COLUMN - 8.0, h * ROW - 8.0);
    let _ = writeln!(
        svg,
        r#"  <rect x="{left}" y="{top}" width="{width}" height="{height}" rx="4" fill="{}" stroke="{}"/>"#,
        palette.panel, palette.grid
    );
    text(
        svg,
        (left + 10.0, top + 18.0),
        palette.text,
        &drawn.panel.title,
    );
    match drawn.panel.kind.as_str() {
        "stat" => {
            let value = drawn.lines.first().and_then(|(_, points)| points.last());
            let shown =
                value.map_or_else(String::new, |(_, value)| number(*value, &drawn.panel.unit));
            let _ = writeln!(
                svg,
                r#"  <text x="{}" y="{}" text-anchor="middle" font-size="32" fill="{}">{shown}</text>"#,
                left + width / 2.0,
                top + height * 0.72,
                palette.lines[2]
            );
        }
        "table" => {
            for (row, (name, points)) in drawn.lines.iter().take(TABLE_ROWS).enumerate() {
                let at = top + 42.0 + 18.0 * to_f64(row);
                text(svg, (left + 10.0, at), palette.faint, name);
                if let Some((_, value)) = points.last() {
                    let value = number(*value, &drawn.panel.unit);
                    text_end(svg, (left + width - 10.0, at), palette.text, &value);
                }
            }
        }
        _ => draw_lines(svg, drawn, (left, top, width, height), palette),
    }
}

fn draw_lines(svg: &mut String, drawn: &Drawn, place: (f64, f64, f64, f64), palette: &Palette) {
    let (left, top, width, height) = place;
    let (field_left, field_right) = (left + 64.0, left + width - 200.0);
    let (field_top, field_bottom) = (top + 34.0, top + height - 14.0);
    let points = || drawn.lines.iter().flat_map(|(_, points)| points);
    let finite = |value: &f64| value.is_finite();
    let first = points().map(|point| point.0).fold(f64::MAX, f64::min);
    let last = points().map(|point| point.0).fold(f64::MIN, f64::max);
    let highest = points()
        .map(|point| point.1)
        .filter(finite)
        .fold(0.0, f64::max);
    let highest = if highest > 0.0 { highest * 1.1 } else { 1.0 };
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let at = field_bottom - share * (field_bottom - field_top);
        let _ = writeln!(
            svg,
            r#"  <line x1="{field_left}" y1="{at:.1}" x2="{field_right}" y2="{at:.1}" stroke="{}"/>"#,
            palette.grid
        );
        let value = number(share * highest, &drawn.panel.unit);
        text_end(svg, (field_left - 6.0, at + 4.0), palette.faint, &value);
    }
    let span = (last - first).max(1.0);
    for (number, (name, points)) in drawn.lines.iter().enumerate() {
        let colour = palette.lines[number % palette.lines.len()];
        let points = points.iter().filter(|point| point.1.is_finite());
        let points = points.map(|(time, value)| {
            let x = field_left + (time - first) / span * (field_right - field_left);
            let y = field_bottom - value / highest * (field_bottom - field_top);
            format!("{x:.1},{y:.1}")
        });
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            svg,
            r#"  <polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>"#
        );
        if number < LEGEND_ROWS {
            let at = field_top + 6.0 + 20.0 * to_f64(number);
            let from = field_right + 12.0;
            let _ = writeln!(
                svg,
                r#"  <rect x="{from}" y="{}" width="12" height="4" fill="{colour}"/>"#,
                at - 6.0
            );
            let _ = writeln!(
                svg,
                r#"  <text x="{}" y="{at:.1}" font-size="11" fill="{}">{}</text>"#,
                from + 18.0,
                palette.faint,
                escaped(name)
            );
        }
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), colour: &str, content: &str) {
    let content = escaped(content);
    let _ = writeln!(
        svg,
        r#"  <text x="{x}" y="{y:.1}" fill="{colour}">{content}</text>"#
    );
}

fn text_end(svg: &mut String, (x, y): (f64, f64), colour: &str, content: &str) {
    let content = escaped(content);
    let _ = writeln!(
        svg,
        r#"  <text x="{x}" y="{y:.1}" text-anchor="end" fill="{colour}">{content}</text>"#
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn to_f64(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// A value in its unit, with few digits.
fn number(value: f64, unit: &str) -> String {
    let digits = |value: f64| {
        if value.fract() == 0.0 || value.abs() >= 100.0 {
            format!("{value:.0}")
        } else if value.abs() >= 1.0 {
            format!("{value:.1}")
        } else {
            format!("{value:.3}")
        }
    };
    match unit {
        "percentunit" => format!("{} %", digits(value * 100.0)),
        "bytes" if value >= 1_073_741_824.0 => format!("{} GiB", digits(value / 1_073_741_824.0)),
        "bytes" => format!("{} MiB", digits(value / 1_048_576.0)),
        "s" if value < 1.0 && value > 0.0 => format!("{} ms", digits(value * 1000.0)),
        "s" => format!("{} s", digits(value)),
        "reqps" | "wps" | "cps" => format!("{}/s", digits(value)),
        _ => digits(value),
    }
}

#[test]
fn numbers_have_their_units() {
    assert_eq!(number(0.995, "percentunit"), "99.5 %");
    assert_eq!(number(134_217_728.0, "bytes"), "128 MiB");
    assert_eq!(number(0.0123, "s"), "12.3 ms");
    assert_eq!(number(34_359_738_368.0, "bytes"), "32 GiB");
    assert_eq!(number(90.0, "s"), "90 s");
    assert_eq!(number(2.5, "reqps"), "2.5/s");
    assert_eq!(number(0.0, "short"), "0");
}
