//! How the view of `top` is drawn: the daemons, the commits of the last minutes, jobs and problems.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};

use super::figures::{DaemonFigures, DaemonRates, DaemonState, as_float};
use super::state::TopState;
use crate::render::wrap;

/// From this width on, there is room for more columns.
const WIDE: u16 = 120;
/// The lines of the curve.
const CURVE: u16 = 4;
/// The most lines of jobs and problems.
const LISTED: usize = 20;

/// A column: its title, its width, and what it shows of a daemon.
struct ViewColumn {
    title: &'static str,
    width: u16,
    is_wide: bool,
    text: fn(&DaemonFigures, DaemonRates) -> String,
}

const COLUMNS: [ViewColumn; 12] = [
    ViewColumn { title: "seq", width: 12, is_wide: true, text: |of, _| of.seq.to_string() },
    ViewColumn { title: "commit/s", width: 8, is_wide: false, text: |_, rates| rate(rates.commits) },
    ViewColumn { title: "event/s", width: 7, is_wide: false, text: |_, rates| rate(rates.events) },
    ViewColumn { title: "call/s", width: 6, is_wide: false, text: |_, rates| rate(rates.calls) },
    ViewColumn { title: "lag", width: 8, is_wide: false, text: |of, _| lag(of) },
    ViewColumn { title: "commits behind", width: 14, is_wide: true, text: |of, _| optional(of.lag_commits) },
    ViewColumn { title: "watch", width: 5, is_wide: false, text: |of, _| optional(of.watchers) },
    ViewColumn { title: "queries", width: 7, is_wide: true, text: |of, _| optional(of.queries) },
    ViewColumn { title: "conn", width: 4, is_wide: false, text: |of, _| compact(as_float(of.connections)) },
    ViewColumn { title: "memory", width: 8, is_wide: false, text: |of, _| bytes(of.resident_bytes) },
    ViewColumn { title: "up", width: 8, is_wide: true, text: |of, _| duration(of.uptime) },
    ViewColumn { title: "version", width: 8, is_wide: true, text: |of, _| of.version.clone() },
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &TopState, interval: Duration, is_coloured: bool) {
    let area = frame.area();
    let lists = wrapped(&lists(state), area.width);
    let rows = u16::try_from(state.daemons.len() + 1).unwrap_or(u16::MAX);
    let listed = u16::try_from(lists.len()).unwrap_or(u16::MAX);
    let [head, _, table, _, title, curve, _, list, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(rows),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(CURVE),
        Constraint::Length(1),
        Constraint::Length(listed),
        Constraint::Fill(1),
    ])
    .areas(area);
    let paint = |color: Color| if is_coloured { Style::new().fg(color) } else { Style::new() };
    frame.render_widget(Paragraph::new(head_line(state, interval)), head);
    draw_daemons(frame, table, state, &paint);
    draw_curve(frame, (title, curve), state, &paint);
    let lines: Vec<Line<'_>> = lists.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines), list);
    // What is above has the room; the last line is left for this if there is any.
    if foot.height > 0 {
        let last = Rect { y: foot.bottom() - 1, height: 1, ..foot };
        frame.render_widget(Paragraph::new("q or Ctrl-C leaves"), last);
    }
}

fn head_line(state: &TopState, interval: Duration) -> Line<'static> {
    let writer = state.daemons.iter().find(|(of, _)| of.state == DaemonState::Active);
    let at = match (writer, state.daemons.iter().map(|(of, _)| of.seq).max()) {
        (Some((of, _)), _) => format!("seq {} of {}", of.seq, of.time),
        (None, Some(seq)) if seq > 0 => format!("seq {seq}, no active writer"),
        _ => "no active writer".to_owned(),
    };
    Line::from(vec![
        Span::styled("driftctl top", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!("  every {}  {at}", duration(interval))),
    ])
}

fn draw_daemons(frame: &mut Frame<'_>, area: Rect, state: &TopState, paint: &impl Fn(Color) -> Style) {
    let is_wide = area.width >= WIDE;
    let columns: Vec<&ViewColumn> = COLUMNS.iter().filter(|column| is_wide || !column.is_wide).collect();
    let right = |text: String| Cell::from(Line::from(text).right_aligned());
    let titles = columns.iter().map(|column| right(column.title.to_owned()));
    let header = Row::new([Cell::from("daemon")].into_iter().chain(titles));
    let rows = state.daemons.iter().map(|(of, rates)| {
        let name = Cell::from(format!("{} {}", of.role, short(&of.url)));
        let style = match of.state {
            DaemonState::Down => paint(Color::Red),
            DaemonState::Standby => paint(Color::Yellow),
            DaemonState::Active | DaemonState::Up => Style::new(),
        };
        let cells = columns.iter().enumerate().map(|(at, column)| match (of.state, at) {
            (DaemonState::Down, 0) => right("down".to_owned()),
            (DaemonState::Standby, 0) => right("standby".to_owned()),
            (DaemonState::Down | DaemonState::Standby, _) => right(String::new()),
            _ => right((column.text)(of, *rates)),
        });
        Row::new([name].into_iter().chain(cells)).style(style)
    });
    let widths = columns.iter().map(|column| Constraint::Length(column.width));
    let widths = [Constraint::Fill(1)].into_iter().chain(widths);
    let header = header.style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(Table::new(rows, widths).header(header).column_spacing(1), area);
}

fn draw_curve(
    frame: &mut Frame<'_>,
    (title, area): (Rect, Rect),
    state: &TopState,
    paint: &impl Fn(Color) -> Style,
) {
    let highest = state.commits.iter().copied().fold(0.0, f64::max);
    let text = format!("commits per second, the newest at the right; the highest is {}", compact(highest));
    frame.render_widget(Paragraph::new(text), title);
    let width = usize::from(area.width);
    let skipped = state.commits.len().saturating_sub(width);
    let shown = state.commits.iter().skip(skipped);
    let empty = width.saturating_sub(state.commits.len());
    // The curve has no fractions: a tenth of a commit is one unit of its height.
    let data: Vec<u64> =
        std::iter::repeat_n(0, empty).chain(shown.map(|rate| rounded(rate * 10.0))).collect();
    frame.render_widget(Sparkline::default().data(&data).style(paint(Color::Cyan)), area);
}

/// The jobs, and what the daemons fail to do.
fn lists(state: &TopState) -> Vec<String> {
    let mut lines = Vec::new();
    let jobs: Vec<&String> = state.daemons.iter().flat_map(|(of, _)| &of.jobs).collect();
    lines.push(match jobs.len() {
        0 => "no jobs".to_owned(),
        count => format!("jobs: {count}"),
    });
    lines.extend(jobs.iter().take(LISTED).map(|job| format!("  {job}")));
    let errors = state.daemons.iter().filter(|(of, _)| !of.error.is_empty());
    let errors = errors.map(|(of, _)| of.error.clone());
    let problems = state.daemons.iter().flat_map(|(of, _)| {
        of.problems.iter().map(|problem| format!("{} {}: {problem}", of.role, short(&of.url)))
    });
    let problems: Vec<String> = errors.chain(problems).collect();
    if !problems.is_empty() {
        lines.push(format!("problems: {}", problems.len()));
        lines.extend(problems.into_iter().take(LISTED).map(|problem| format!("  {problem}")));
    }
    // What daemons say must not control the terminal.
    let visible = |line: String| line.replace(char::is_control, " ");
    lines.into_iter().map(visible).collect()
}

/// Lines of at most `width` columns. What is at the end of a problem is often what to do.
fn wrapped(lines: &[String], width: u16) -> Vec<String> {
    let (width, indent) = (usize::from(width), "    ");
    let mut found = Vec::new();
    for line in lines {
        let text = line.trim_start();
        let own = line.strip_suffix(text).unwrap_or_default();
        let room = width.saturating_sub(indent.len()).max(1);
        for (at, part) in wrap(text, room).into_iter().enumerate() {
            found.push(format!("{}{part}", if at == 0 { own } else { indent }));
        }
    }
    found
}

/// An address without its scheme.
fn short(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest)
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), compact)
}

fn optional(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| compact(as_float(count)))
}

fn lag(of: &DaemonFigures) -> String {
    of.lag.map_or_else(|| "-".to_owned(), duration)
}

/// A number in at most five characters: `0`, `3.2`, `950`, `12.3k`, `4.5M`.
fn compact(number: f64) -> String {
    for (factor, unit) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        let scaled = number / factor;
        // What would be shown as 1000.0k is 1.0M.
        if scaled >= 0.99995 {
            return if scaled >= 99.95 { format!("{scaled:.0}{unit}") } else { format!("{scaled:.1}{unit}") };
        }
    }
    let is_whole = number.fract() == 0.0 || number >= 99.95;
    if is_whole { format!("{number:.0}") } else { format!("{number:.1}") }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        bytes if bytes < 10 << 30 => format!("{} MiB", bytes >> 20),
        bytes => format!("{} GiB", bytes >> 30),
    }
}

/// A time in at most eight characters: `0 ms`, `250 ms`, `1.5 s`, `12 min`, `3 h`, `4 d`.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..60 if time.subsec_millis() == 0 => format!("{} s", time.as_secs()),
        1..60 => format!("{seconds:.1} s"),
        whole @ 60..3600 => format!("{} min", whole / 60),
        whole @ 3600..86_400 => format!("{} h", whole / 3600),
        whole => format!("{} d", whole / 86_400),
    }
}

/// A number of the curve.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are not negative, and far below the largest number"
)]
fn rounded(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests;
