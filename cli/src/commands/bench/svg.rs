//! Curves as a plain SVG: one line for each figure, relative to its value at the smallest size, over a logarithmic axis.

use std::fmt::Write as _;
use std::path::Path;

use driftdb_common::error::{Error, Result};
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};

/// The size of the picture, and of the margins: left, right, top, bottom.
const SIZE: (f64, f64) = (860.0, 480.0);
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

/// The chart as a text.
pub(crate) fn draw(chart: &Chart) -> String {
    let ((width, height), (left, right, top, bottom)) = (SIZE, MARGINS);
    let curves: Vec<_> = chart.curves.iter().map(relative).collect();
    let points = || curves.iter().flatten();
    let (first, last) = points()
        .fold((f64::MAX, f64::MIN), |(first, last), (size, _)| (first.min(*size), last.max(*size)));
    let highest = points().fold(1.2f64, |highest, (_, value)| highest.max(value * 1.1));
    let x = |size: f64| left + (size - first) / (last - first).max(1e-9) * (width - left - right);
    let y = |value: f64| height - bottom - value / highest * (height - top - bottom);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"26\" font-size=\"16\">{}</text>\n",
        escaped(&chart.title)
    );
    let step = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0].into_iter().find(|step| highest / step <= 8.0);
    let step = step.unwrap_or(highest / 4.0);
    let mut value = 0.0;
    while value <= highest {
        let at = y(value);
        let _ = write!(
            svg,
            "<line x1=\"{left}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}×</text>\n",
            width - right,
            left - 6.0,
            at + 4.0,
        );
        value += step;
    }
    let mut sizes: Vec<f64> = chart.curves.iter().flat_map(|curve| &curve.points).map(|(size, _)| *size).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    for size in sizes {
        let at = x(place(size));
        let label = label(size);
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#888\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>\n",
            height - bottom,
            height - bottom + 5.0,
            height - bottom + 20.0,
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} (logarithmic)</text>\n\
         <text x=\"16\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {:.1})\">relative to the first size</text>\n",
        f64::midpoint(left, width - right),
        height - 16.0,
        escaped(&chart.size),
        f64::midpoint(top, height - bottom),
        f64::midpoint(top, height - bottom),
    );
    for ((number, curve), points) in (0..).zip(&chart.curves).zip(&curves) {
        let colour = COLOURS.iter().cycle().nth(number).unwrap_or(&"black");
        let path: Vec<String> =
            points.iter().map(|(size, value)| format!("{:.1},{:.1}", x(*size), y(*value))).collect();
        let first = curve.points.first().map_or(0.0, |(_, value)| *value);
        let row = top + 18.0 * number as f64;
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}: 1× = {first:.0}</text>\n",
            path.join(" "),
            width - right + 14.0,
            row - 9.0,
            width - right + 30.0,
            row,
            escaped(&curve.name),
        );
    }
    svg.push_str("</svg>\n");
    svg
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
        for text in ["a &lt; b", ">1 M<", ">10 M<", "events (logarithmic)", "R1 p50, µs: 1× = 200", ">1.0×<"] {
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
