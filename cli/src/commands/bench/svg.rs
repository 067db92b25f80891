//! Curves as a plain SVG: one line for each figure, relative to its value at the smallest size, over a logarithmic axis.

use std::fmt::Write as _;
use std::path::Path;

use driftdb_common::error::{Error, Result};
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};

/// The width and height of the picture.
const SIZE: (f64, f64) = (860.0, 480.0);
/// The margins: left, right, top, bottom.
const MARGINS: (f64, f64, f64, f64) = (60.0, 290.0, 50.0, 60.0);
const COLOURS: [&str; 8] =
    ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f"];

/// Curves with a title.
#[derive(Debug, Default)]
pub(crate) struct Chart {
    /// What is measured.
    pub(crate) title: String,
    /// What grows, for the axis.
    pub(crate) size: String,
    /// The curves.
    pub(crate) curves: Vec<Curve>,
}

/// One figure at several sizes.
#[derive(Debug)]
pub(crate) struct Curve {
    /// The figure and its unit.
    pub(crate) name: String,
    /// The sizes and values, by size.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Chart {
    /// Adds a point to a curve.
    pub(crate) fn add(&mut self, name: &str, size: f64, value: f64) {
        match self.curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push((size, value)),
            None => self.curves.push(Curve { name: name.to_owned(), points: vec![(size, value)] }),
        }
    }
}

/// Writes a chart to a file.
pub(crate) fn write(path: &Path, chart: &Chart) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(format_args!("cannot write {}", path.display()), &e);
    let file = OsFileSystem.create(path).map_err(failed)?;
    file.write_at(draw(chart).as_bytes(), 0).map_err(failed)
}

/// Sizes may be 0, for which a logarithmic axis has no place: it stands half a step before 1.
fn place(size: f64) -> f64 {
    if size < 1.0 { -0.5 } else { size.log2() }
}

/// A curve relative to its first value.
fn relative(curve: &Curve) -> Vec<(f64, f64)> {
    let first = curve.points.first().map(|(_, value)| *value).filter(|value| *value > 0.0);
    let Some(first) = first else { return Vec::new() };
    curve.points.iter().map(|(size, value)| (place(*size), value / first)).collect()
}

/// Where sizes and values are in the picture.
struct Scale {
    first: f64,
    last: f64,
    highest: f64,
}

impl Scale {
    fn of(curves: &[Vec<(f64, f64)>]) -> Scale {
        let mut scale = Scale { first: f64::MAX, last: f64::MIN, highest: 1.2 };
        for (size, value) in curves.iter().flatten() {
            (scale.first, scale.last) = (scale.first.min(*size), scale.last.max(*size));
            scale.highest = scale.highest.max(value * 1.1);
        }
        scale
    }

    fn x(&self, size: f64) -> f64 {
        let part = (size - self.first) / (self.last - self.first).max(1e-9);
        MARGINS.0 + part * (SIZE.0 - MARGINS.0 - MARGINS.1)
    }

    fn y(&self, value: f64) -> f64 {
        SIZE.1 - MARGINS.3 - value / self.highest * (SIZE.1 - MARGINS.2 - MARGINS.3)
    }
}

/// The chart as a text.
pub(crate) fn draw(chart: &Chart) -> String {
    let (width, height) = SIZE;
    let curves: Vec<_> = chart.curves.iter().map(relative).collect();
    let scale = Scale::of(&curves);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"26\" font-size=\"16\">{}</text>\n",
        MARGINS.0,
        escaped(&chart.title)
    );
    draw_values(&mut svg, &scale);
    draw_sizes(&mut svg, &scale, chart);
    for ((number, curve), points) in (0..).zip(&chart.curves).zip(&curves) {
        draw_curve(&mut svg, &scale, (number, curve), points);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The axis of values, and its lines.
fn draw_values(svg: &mut String, scale: &Scale) {
    let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
    let step = steps.into_iter().find(|step| scale.highest / step <= 8.0).unwrap_or(scale.highest / 4.0);
    let mut value = 0.0;
    while value <= scale.highest {
        let at = scale.y(value);
        // Writing to a String never fails, here and below.
        let _ = write!(
            svg,
            "<line x1=\"{}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}×</text>\n",
            MARGINS.0,
            SIZE.0 - MARGINS.1,
            MARGINS.0 - 6.0,
            at + 4.0,
        );
        value += step;
    }
    let middle = f64::midpoint(MARGINS.2, SIZE.1 - MARGINS.3);
    let _ = writeln!(
        svg,
        "<text x=\"16\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {middle:.1})\">\
         relative to the first size</text>",
    );
}

/// The axis of sizes.
fn draw_sizes(svg: &mut String, scale: &Scale, chart: &Chart) {
    let mut sizes: Vec<f64> =
        chart.curves.iter().flat_map(|curve| &curve.points).map(|(size, _)| *size).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let bottom = SIZE.1 - MARGINS.3;
    for size in sizes {
        let at = scale.x(place(size));
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#888\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            bottom,
            bottom + 5.0,
            bottom + 20.0,
            label(size),
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} (logarithmic)</text>",
        f64::midpoint(MARGINS.0, SIZE.0 - MARGINS.1),
        SIZE.1 - 16.0,
        escaped(&chart.size),
    );
}

/// A curve, and its line of the legend.
fn draw_curve(svg: &mut String, scale: &Scale, (number, curve): (usize, &Curve), points: &[(f64, f64)]) {
    let colour = COLOURS.iter().cycle().nth(number).unwrap_or(&"black");
    let path: Vec<String> =
        points.iter().map(|(size, value)| format!("{:.1},{:.1}", scale.x(*size), scale.y(*value))).collect();
    let first = curve.points.first().map_or(0.0, |(_, value)| *value);
    let row = MARGINS.2 + 18.0 * number as f64;
    let _ = write!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
         <rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\n\
         <text x=\"{:.1}\" y=\"{row:.1}\">{}: 1× = {first:.0}</text>\n",
        path.join(" "),
        SIZE.0 - MARGINS.1 + 14.0,
        row - 9.0,
        SIZE.0 - MARGINS.1 + 30.0,
        escaped(&curve.name),
    );
}

/// A size in few characters.
fn label(size: f64) -> String {
    match size {
        1e6.. => format!("{} M", size / 1e6),
        1e4.. => format!("{} k", (size / 100.0).round() / 10.0),
        _ => format!("{size}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_axes_and_a_line_for_each_curve() {
        let mut chart = Chart { title: "a < b".into(), size: "events".into(), ..Chart::default() };
        for (size, value) in [(1e6, 200.0), (2e6, 210.0), (1e7, 300.0)] {
            chart.add("R1 p50, µs", size, value);
            chart.add("W2, ops/s", size, 1e7 / value);
        }
        let svg = draw(&chart);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<polyline ").count(), 2);
        for text in ["a &lt; b", ">1 M<", ">10 M<", "events (logarithmic)", "R1 p50, µs: 1× = 200", ">1.0×<"]
        {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn nothing_measured_and_size_zero_are_drawn() {
        assert!(draw(&Chart::default()).ends_with("</svg>\n"));
        let mut chart = Chart::default();
        for size in [0.0, 1.0, 8.0] {
            chart.add("W2", size, 5.0);
        }
        let svg = draw(&chart);
        assert!(svg.contains(">0<") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
